// "Record yourself": a short film by the camera, with sound where there is a microphone, of somebody who reads a few lines aloud.

const $ = (id) => document.getElementById(id);
const LEAST_S = 8, MOST_S = 15, COUNT = 3;
const BITS_PER_S = 8_000_000;
const INVITATION = `Read the lines below aloud: ${LEAST_S} to ${MOST_S} seconds.`;
// What is cheapest to encode comes first: on a slow machine costly codecs lose frames. Safari knows MP4 only.
const KINDS = ["video/webm;codecs=vp8,opus", "video/webm", "video/mp4"];

const CAMERA_ERRORS = {
  NotAllowedError: "The camera is blocked for this page. Allow it in the browser's address bar, then try again.",
  NotFoundError: "No camera was found. Plug one in, or add a photo or a film.",
  NotReadableError: "The camera is in use by another program, or the system refuses it.",
  OverconstrainedError: "The camera does not offer what is needed.",
  AbortError: "The camera stopped before it began. Try again.",
  SecurityError: "This page may not use the camera: the browser's settings forbid it.",
};

const WANTED = { width: { ideal: 1280 }, height: { ideal: 720 }, frameRate: { ideal: 25 }, facingMode: "user" };

/** Camera and microphone, or the camera alone where there is no microphone to be had. */
async function listenAndLook() {
  try {
    return await navigator.mediaDevices.getUserMedia({ video: WANTED, audio: true });
  } catch {
    return navigator.mediaDevices.getUserMedia({ video: WANTED, audio: false });
  }
}

/** Why nothing can be recorded in this browser at all, or null. */
export function cameraObstacle() {
  if (!window.isSecureContext) return "Needs https or localhost";
  if (!navigator.mediaDevices?.getUserMedia || !("MediaRecorder" in window)) return "This browser cannot record films";
  return null;
}

/**
 * The dialog #recorder. States: waiting (for the camera), ready, counting, recording, taken, failed.
 * Event "film" {file}: what was recorded and is to be used.
 */
export class FilmRecorder extends EventTarget {
  #dialog = $("recorder");
  #state = "waiting";
  #stream = null;
  #recorder = null;
  #chunks = [];
  #file = null;
  #timer = null;
  #opening = 0;

  constructor() {
    super();
    $("recorder-main").onclick = () => this.#next();
    $("recorder-again").onclick = () => this.#again();
    $("recorder-cancel").onclick = () => this.#dialog.close();
    this.#dialog.onclose = () => this.#release();
    $("recorder-progress").max = MOST_S;
  }

  /** Ask for the camera and show what it sees. */
  async open() {
    this.#dialog.showModal();
    await this.#start();
  }

  async #start() {
    this.#become("waiting", "Waiting for the camera. The browser may ask you to allow it.");
    const opening = ++this.#opening;
    let stream;
    try {
      stream = await listenAndLook();
    } catch (error) {
      if (opening === this.#opening) this.#become("failed", CAMERA_ERRORS[error.name] ?? "The camera cannot be used.");
      return;
    }
    if (opening !== this.#opening || !this.#dialog.open) { // closed while the browser asked
      for (const track of stream.getTracks()) track.stop();
      return;
    }
    this.#stream = stream;
    stream.getVideoTracks()[0].onended = () => this.#lose();
    $("viewfinder-live").srcObject = stream;
    this.#invite();
  }

  #invite() {
    const heard = this.#stream.getAudioTracks().length > 0;
    this.#become("ready", heard ? INVITATION : `${INVITATION} There is no microphone: only the picture is recorded.`);
  }

  #lose() {
    if (this.#state === "taken") return; // no longer needed
    this.#release();
    this.#become("failed", "The camera was switched off. Try again.");
  }

  /** Show a state: what the buttons are called, and which there are. */
  #become(state, line) {
    this.#state = state;
    const taken = state === "taken", main = $("recorder-main");
    $("viewfinder").dataset.state = state;
    $("viewfinder-live").hidden = taken;
    $("viewfinder-taken").hidden = !taken;
    $("countdown").hidden = state !== "counting";
    $("recorder-again").hidden = !taken;
    $("recorder-progress").hidden = !["ready", "counting", "recording"].includes(state);
    $("recorder-progress").value = 0;
    $("script").hidden = $("recorder-advice").hidden = taken || state === "failed";
    main.textContent = { recording: "Stop", taken: "Use this", failed: "Try again" }[state] ?? "Record";
    main.disabled = ["waiting", "counting", "recording"].includes(state);
    if (!main.disabled) main.focus();
    this.#say(line, state === "failed");
  }

  #say(line, trouble = false) {
    $("recorder-line").textContent = line;
    $("recorder-line").classList.toggle("trouble", trouble);
  }

  #next() {
    if (this.#state === "ready") this.#count(COUNT);
    else if (this.#state === "recording") this.#recorder.stop();
    else if (this.#state === "failed") this.#start();
    else if (this.#state === "taken") {
      const file = this.#file;
      this.#dialog.close();
      this.dispatchEvent(new CustomEvent("film", { detail: { file } }));
    }
  }

  #count(left) {
    if (left === 0) return this.#record();
    if (left === COUNT) {
      this.#become("counting", "Get ready");
      $("script").focus(); // read by screen readers, and the button that had the focus is off now
    }
    $("countdown").textContent = left;
    this.#timer = setTimeout(() => this.#count(left - 1), 1000);
  }

  #record() {
    const mimeType = KINDS.find((kind) => MediaRecorder.isTypeSupported(kind));
    const recorder = (this.#recorder = new MediaRecorder(this.#stream, { mimeType, videoBitsPerSecond: BITS_PER_S }));
    const began = performance.now();
    this.#chunks = [];
    recorder.ondataavailable = ({ data }) => { if (data.size) this.#chunks.push(data); };
    recorder.onstop = () => { if (recorder === this.#recorder) this.#take(recorder.mimeType); };
    recorder.onerror = () => { this.#release(); this.#become("failed", "The recording stopped. Try again."); };
    recorder.start(1000);
    this.#become("recording", "Recording: read aloud, at your own pace.");
    const tick = () => {
      const seconds = (performance.now() - began) / 1000;
      $("recorder-progress").value = Math.min(MOST_S, seconds);
      if (seconds >= LEAST_S && $("recorder-main").disabled) {
        $("recorder-main").disabled = false;
        $("recorder-main").focus();
        this.#say("That is enough: stop when you are done.");
      }
      if (seconds >= MOST_S) recorder.stop();
      else this.#timer = setTimeout(tick, 100);
    };
    tick();
  }

  #take(type) {
    clearTimeout(this.#timer);
    const kind = type.split(";")[0];
    this.#file = new File(this.#chunks, kind === "video/mp4" ? "film.mp4" : "film.webm", { type: kind });
    this.#chunks = [];
    const shown = $("viewfinder-taken");
    URL.revokeObjectURL(shown.src);
    shown.src = URL.createObjectURL(this.#file);
    shown.play().catch(() => {}); // it has controls
    this.#become("taken", "Use this film, or record it again?");
  }

  #again() {
    $("viewfinder-taken").pause();
    this.#file = null;
    if (this.#stream?.active) this.#invite();
    else this.#start();
  }

  /** Give the camera and what was recorded back. */
  #release() {
    this.#opening++;
    clearTimeout(this.#timer);
    const recorder = this.#recorder;
    this.#recorder = null;
    if (recorder && recorder.state !== "inactive") recorder.stop();
    for (const track of this.#stream?.getTracks() ?? []) {
      track.onended = null;
      track.stop();
    }
    this.#stream = $("viewfinder-live").srcObject = null;
    const shown = $("viewfinder-taken");
    URL.revokeObjectURL(shown.src);
    shown.removeAttribute("src");
    this.#file = null;
    this.#chunks = [];
  }
}
