// The loudness of a microphone or of a received voice, for a level meter.

const FLOOR_DB = -60;

/** Level 0..1 on a decibel scale from a mean square of samples in -1..1. */
export function level(power) {
  const db = 10 * Math.log10(power + 1e-12);
  return Math.max(0, Math.min(1, (db - FLOOR_DB) / -FLOOR_DB));
}

export class Meter {
  #context = null;
  #source = null;
  #analyser = null;
  #block = null;
  #receiver = null;

  /** Follow a received voice: the connection itself tells its level. */
  followReceiver(receiver) {
    this.stop();
    this.#receiver = receiver;
  }

  /** Follow the audio of a microphone; call after a click, browsers start no sound before one. */
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
    if (this.#receiver) {
      const loudest = Math.max(0, ...this.#receiver.getSynchronizationSources().map((source) => source.audioLevel ?? 0));
      return level(loudest * loudest);
    }
    if (!this.#analyser) return 0;
    this.#analyser.getFloatTimeDomainData(this.#block);
    let sum = 0;
    for (const x of this.#block) sum += x * x;
    return level(sum / this.#block.length);
  }

  stop() {
    this.#source?.disconnect();
    this.#source = this.#analyser = this.#receiver = null;
  }
}
