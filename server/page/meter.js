// The loudness of a media stream, for a level meter.

const FLOOR_DB = -60;

/** Level 0..1 on a decibel scale from a block of samples in -1..1. */
export function level(samples) {
  let sum = 0;
  for (const x of samples) sum += x * x;
  const db = 10 * Math.log10(sum / samples.length + 1e-12);
  return Math.max(0, Math.min(1, (db - FLOOR_DB) / -FLOOR_DB));
}

export class Meter {
  #context = null;
  #source = null;
  #analyser = null;
  #block = null;

  /** Follow the audio of a stream; call after a click, browsers start no sound before one. */
  follow(stream) {
    this.stop();
    if (!stream || !stream.getAudioTracks().length) return;
    this.#context ??= new AudioContext();
    this.#context.resume().catch(() => {});
    this.#source = this.#context.createMediaStreamSource(stream);
    this.#analyser = this.#context.createAnalyser();
    this.#analyser.fftSize = 1024;
    this.#block = new Float32Array(this.#analyser.fftSize);
    this.#source.connect(this.#analyser);
  }

  /** The level now, 0..1. */
  read() {
    if (!this.#analyser) return 0;
    this.#analyser.getFloatTimeDomainData(this.#block);
    return level(this.#block);
  }

  stop() {
    this.#source?.disconnect();
    this.#source = this.#analyser = null;
  }
}
