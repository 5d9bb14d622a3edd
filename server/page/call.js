// One call: a session on the server, a peer connection for the avatar, a WebSocket for recordings and events.
//
// Events: "state" {state}: connecting, live, interrupted, ended; "track" {kind, stream}; "playback" {type, ...};
// "problem" {message}. Errors thrown by methods carry a message that can be shown as it is.

export const SPEECH_RATE = 24000;
const CONNECT_MS = 15000;
const GATHER_MS = 1500;
const BLOCK_S = 0.5;
const AHEAD_S = 12;
const RETRIES = 5;
const STEER_MS = 50;

export class Problem extends Error {}

// The server's start prints an address with #token=...: kept for this tab, and taken out of the address line.
const fragment = new URLSearchParams(location.hash.slice(1));
if (fragment.has("token")) {
  sessionStorage.setItem("token", fragment.get("token"));
  history.replaceState(null, "", location.pathname);
}

/** Headers that open the server's people and sessions, where it asks for a token. */
export function access() {
  const token = sessionStorage.getItem("token");
  return token ? { Authorization: `Bearer ${token}` } : {};
}

const SILENT = "The server does not answer. Is it still running?";

/** What a refusal says, in the server's own words where it has any. `body`: its answer, as text. */
function refusal(status, body) {
  let error = { code: "http", message: `The server answered ${status}.` };
  try {
    error = JSON.parse(body).error ?? error;
  } catch { /* not ours: a proxy's page */ }
  return Object.assign(new Problem(error.message), { code: error.code, status });
}

/** fetch, with the server's own words where it refuses. */
export async function ask(path, options = {}) {
  let response;
  try {
    response = await fetch(path, { ...options, headers: { ...access(), ...options.headers } });
  } catch {
    throw new Problem(SILENT);
  }
  if (!response.ok) throw refusal(response.status, await response.text().catch(() => ""));
  return response;
}

/** What the server answers, as JSON; null where that is nothing. */
export async function api(path, options = {}) {
  const response = await ask(path, options);
  return response.status === 204 ? null : response.json();
}

/** POST a form as `api` does; `progress` is told the share (0 to 1) that has gone out, which fetch cannot tell. */
export async function sendForm(path, form, progress) {
  const request = new XMLHttpRequest();
  request.open("POST", path);
  for (const [name, value] of Object.entries(access())) request.setRequestHeader(name, value);
  request.upload.onprogress = ({ loaded, total }) => progress(total ? loaded / total : 0);
  await new Promise((resolve, reject) => {
    request.onload = resolve;
    request.onerror = () => reject(new Problem(SILENT));
    request.send(form);
  });
  if (request.status < 200 || request.status > 299) throw refusal(request.status, request.responseText);
  return JSON.parse(request.responseText); // thrown here, what is no JSON ends the sending too
}

/** What stands in the way of a call in this browser, or null. */
export function callObstacle() {
  if (!("RTCPeerConnection" in window)) return "This browser has no WebRTC, or an extension turned it off. A current Chromium, Firefox or Safari works.";
  if (!("WebSocket" in window)) return "This browser has no WebSocket.";
  return null;
}

/** Why the microphone cannot be used at all, or null. */
export function microphoneObstacle() {
  if (!window.isSecureContext) return "Browsers give the microphone only to pages on https or on localhost. Open this page there, or play the sample or a recording instead.";
  if (!navigator.mediaDevices?.getUserMedia) return "This browser offers no microphone to web pages.";
  return null;
}

const MICROPHONE_ERRORS = {
  NotAllowedError: "The microphone is blocked for this page. Allow it in the browser's address bar, then try again.",
  NotFoundError: "No microphone was found. Plug one in, or play the sample or a recording.",
  NotReadableError: "The microphone is in use by another program, or the system refuses it.",
  OverconstrainedError: "The microphone does not offer what is needed.",
  AbortError: "The microphone stopped before it began. Try again.",
  SecurityError: "This page may not use the microphone: the browser's settings forbid it.",
};

export class Call extends EventTarget {
  state = "new";
  #session = null;
  #pc = null;
  #socket = null;
  #microphone = null;
  #audioSender = null;
  #stream = new MediaStream();
  #timer = null;
  #last = null;
  #speaking = null;
  #tries = 0;
  #changes = {};
  #steering = false;

  get stream() { return this.#stream; }
  get microphone() { return this.#microphone; }
  get voiceReceiver() { return this.#pc?.getReceivers().find((receiver) => receiver.track.kind === "audio") ?? null; }
  get peer() { return this.#pc; }

  #emit(type, detail = {}) { this.dispatchEvent(new CustomEvent(type, { detail })); }
  #become(state) {
    if (this.state === state || this.state === "ended") return;
    this.state = state;
    this.#emit("state", { state });
  }
  #fail(message) {
    this.#emit("problem", { message });
    this.hangUp();
  }
  #headers(extra = {}) { return { Authorization: `Bearer ${this.#session.token}`, ...extra }; }

  /** Make a session of an avatar, of this manner from its first frame on, and connect to it. */
  async start(avatar, controls = {}, iceServers = []) {
    this.#become("connecting");
    try {
      this.#session = await api("/v1/sessions", { method: "POST", body: JSON.stringify({ avatar, controls }), headers: { "Content-Type": "application/json" } });
      if (this.state === "ended") return this.#forget(); // hung up meanwhile
      this.#openSocket();
      await Promise.all([this.#connect(iceServers), this.steer({})]);
    } catch (error) {
      if (this.state === "ended") return; // what was begun fails because it was hung up
      this.hangUp();
      throw error;
    }
  }

  async #connect(iceServers) {
    iceServers = this.#session.ice_servers ?? iceServers;
    const pc = (this.#pc = new RTCPeerConnection({ iceServers, bundlePolicy: "max-bundle" }));
    // Sound goes both ways from the start, so that the microphone can come and go without a new negotiation.
    this.#audioSender = pc.addTransceiver("audio", { direction: "sendrecv" }).sender;
    pc.addTransceiver("video", { direction: "recvonly" });
    pc.ontrack = ({ track, receiver }) => {
      hasten(receiver);
      this.#stream.addTrack(track);
      // One element each: sound that waits in one element for the first picture would come late for seconds.
      this.#emit("track", { kind: track.kind, stream: new MediaStream([track]) });
    };
    pc.onconnectionstatechange = () => this.#onConnection(pc, iceServers);
    await pc.setLocalDescription(await pc.createOffer());
    await gathered(pc);
    const answer = await api(this.#session.offer, {
      method: "POST",
      headers: this.#headers({ "Content-Type": "application/json" }),
      body: JSON.stringify({ type: "offer", sdp: pc.localDescription.sdp }),
    });
    if (this.#pc !== pc || this.state === "ended") return;
    await pc.setRemoteDescription({ type: "answer", sdp: answer.sdp });
    if (this.#microphone) await this.#audioSender.replaceTrack(this.#microphone.getAudioTracks()[0]);
    this.#timer = setTimeout(() => {
      if (pc.connectionState !== "connected") this.#fail("No media comes through. A firewall or VPN between here and the server may block UDP; from another network the server needs a TURN relay.");
    }, CONNECT_MS);
  }

  #onConnection(pc, iceServers) {
    if (pc !== this.#pc) return;
    if (pc.connectionState === "connected") {
      clearTimeout(this.#timer);
      this.#tries = 0;
      if (this.#socket?.readyState === WebSocket.CLOSED) this.#openSocket();
      this.#become("live");
    } else if (pc.connectionState === "disconnected") {
      this.#become("interrupted");
    } else if (pc.connectionState === "failed") {
      if (this.#tries >= RETRIES) return this.#fail("The connection was lost. Check the network and start the call again.");
      // the session outlives its connection for a while: meet it again
      this.#become("interrupted");
      pc.close();
      clearTimeout(this.#timer);
      for (const track of this.#stream.getTracks()) this.#stream.removeTrack(track);
      const again = () => {
        if (this.state === "ended") return;
        this.#tries++;
        this.#connect(iceServers).catch((error) => {
          if (error.status === 404 || error.status === 410 || this.#tries >= RETRIES) this.#fail("The connection was lost and could not be made again.");
          else setTimeout(again, 1000 * this.#tries);
        });
      };
      again();
    }
  }

  #openSocket() {
    const url = new URL(this.#session.audio, location.href);
    url.protocol = url.protocol === "https:" ? "wss:" : "ws:";
    const socket = (this.#socket = new WebSocket(url, ["visavis", `bearer.${this.#session.token}`]));
    socket.binaryType = "arraybuffer";
    socket.onopen = () => socket.send(JSON.stringify({ type: "session.update", session: { rate: SPEECH_RATE } }));
    socket.onmessage = ({ data }) => {
      const event = JSON.parse(data);
      if (event.type.startsWith("playback.")) this.#emit("playback", event);
      else if (event.type === "error") this.#emit("problem", { message: event.error.message });
      else if (event.type === "session.draining") this.#emit("problem", { message: `The server is about to go away: this call ends within ${Math.round(event.seconds)} seconds.` });
      else if (event.type === "session.closed") this.#fail("The server ended the session.");
    };
    socket.onclose = () => {
      // with the network gone both ways end: the peer connection is made again first
      if (this.state !== "live" || socket !== this.#socket) return;
      setTimeout(() => {
        if (this.state !== "live" || socket !== this.#socket) return;
        api(`/v1/sessions/${this.#session.id}`, { headers: this.#headers() }).then(() => this.#openSocket(), () => this.#fail("The server ended the session."));
      }, 500);
    };
  }

  /** Turn the microphone on or off. Throws Problem with plain words where that is not possible. */
  async setMicrophone(on) {
    if (on && !this.#microphone) {
      const obstacle = microphoneObstacle();
      if (obstacle) throw new Problem(obstacle);
      let stream;
      try {
        stream = await navigator.mediaDevices.getUserMedia({
          audio: { echoCancellation: true, noiseSuppression: true, autoGainControl: true, channelCount: 1 },
        });
      } catch (error) {
        throw new Problem(MICROPHONE_ERRORS[error.name] ?? `The microphone could not be opened (${error.name}).`);
      }
      if (this.state === "ended") return stream.getTracks().forEach((track) => track.stop());
      this.#microphone = stream;
      stream.getAudioTracks()[0].onended = () => {
        this.setMicrophone(false);
        this.#emit("problem", { message: "The microphone was unplugged or taken away." });
      };
    } else if (!on && this.#microphone) {
      this.#microphone.getTracks().forEach((track) => { track.onended = null; track.stop(); });
      this.#microphone = null;
    }
    await this.#audioSender?.replaceTrack(this.#microphone?.getAudioTracks()[0] ?? null);
    this.#emit("microphone", { on: Boolean(this.#microphone) });
  }

  /** Speak a recording: Float32Array mono at SPEECH_RATE. Resolves when it is sent; it plays at its own pace. */
  async speak(samples, progress = () => {}) {
    await this.stopSpeaking();
    await this.#socketOpen();
    const job = (this.#speaking = { stopped: false });
    const block = Math.round(BLOCK_S * SPEECH_RATE);
    const began = performance.now();
    for (let at = 0; at < samples.length && !job.stopped; at += block) {
      // a long recording is sent a little ahead of its playing, not all at once
      while (!job.stopped && at / SPEECH_RATE - (performance.now() - began) / 1000 > AHEAD_S) await new Promise((done) => setTimeout(done, 200));
      if (job.stopped || this.#socket.readyState !== WebSocket.OPEN) return;
      const part = samples.subarray(at, at + block);
      const pcm = new DataView(new ArrayBuffer(part.length * 2));
      part.forEach((x, k) => pcm.setInt16(2 * k, Math.max(-1, Math.min(1, x)) * 32767, true));
      this.#socket.send(pcm.buffer);
      progress(Math.min(1, (at + block) / samples.length));
    }
    if (!job.stopped) this.#socket.send(JSON.stringify({ type: "input_audio_buffer.commit" }));
  }

  /** Change some of the person's controls. A slider that is drawn says more than needs to be sent: what comes while a change is on its way
   * goes out after it, together. */
  async steer(changes) {
    Object.assign(this.#changes, changes);
    if (this.#steering || !this.#session) return;
    this.#steering = true;
    try {
      while (Object.keys(this.#changes).length && this.state !== "ended") {
        const body = JSON.stringify(this.#changes);
        this.#changes = {};
        await api(`/v1/sessions/${this.#session.id}`, { method: "PATCH", body, headers: this.#headers({ "Content-Type": "application/json" }) });
        await new Promise((done) => setTimeout(done, STEER_MS));
      }
    } finally {
      this.#steering = false;
    }
  }

  /** Barge-in: the mouth stops at once. */
  async stopSpeaking() {
    if (this.#speaking) {
      this.#speaking.stopped = true;
      this.#speaking = null;
      if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify({ type: "input_audio_buffer.clear" }));
    }
  }

  async #socketOpen() {
    for (let k = 0; k < 100 && this.#socket?.readyState === WebSocket.CONNECTING; k++) await new Promise((done) => setTimeout(done, 50));
    if (this.#socket?.readyState !== WebSocket.OPEN) throw new Problem("The way for recordings to the server is closed; start the call again.");
  }

  /** Figures since the last call of this function; null where the browser does not tell. */
  async figures() {
    if (!this.#pc) return null;
    const now = { at: performance.now(), frames: 0, bytes: 0, packets: 0, lost: 0, processing: 0, decoded: 0 };
    let rtt = null, skew = null, audioPlayout = null, videoPlayout = null, width = 0;
    (await this.#pc.getStats()).forEach((item) => {
      if (item.type === "candidate-pair" && item.nominated && item.currentRoundTripTime !== undefined) rtt = item.currentRoundTripTime * 1000;
      if (item.type !== "inbound-rtp") return;
      now.bytes += item.bytesReceived ?? 0;
      now.packets += item.packetsReceived ?? 0;
      now.lost += Math.max(0, item.packetsLost ?? 0);
      if (item.kind === "video") {
        now.frames = item.framesDecoded ?? 0;
        now.decoded = item.framesDecoded ?? 0;
        now.processing = item.totalProcessingDelay ?? item.jitterBufferDelay ?? NaN;
        videoPlayout = item.estimatedPlayoutTimestamp ?? null;
        width = item.frameWidth ?? 0;
      } else {
        audioPlayout = item.estimatedPlayoutTimestamp ?? null;
      }
    });
    if (audioPlayout !== null && videoPlayout !== null) skew = audioPlayout - videoPlayout;
    const last = this.#last;
    this.#last = now;
    if (!last) return null;
    const seconds = (now.at - last.at) / 1000;
    const decoded = now.decoded - last.decoded;
    const packets = now.packets - last.packets + (now.lost - last.lost);
    const buffering = decoded > 0 ? ((now.processing - last.processing) / decoded) * 1000 : NaN;
    return this.lastFigures = {
      fps: decoded / seconds,
      delay: Number.isFinite(buffering) ? buffering + (rtt ?? 0) / 2 : null,
      rtt,
      skew,
      kbps: ((now.bytes - last.bytes) * 8) / seconds / 1000,
      lost: packets > 0 ? (100 * (now.lost - last.lost)) / packets : 0,
      width,
    };
  }

  /** Parts of the way from the caller's voice to the lips, [name, milliseconds] each, as the server and this browser measure them; null
   * before there are any. Capture and screen are not seen from here. */
  async breakdown() {
    const figures = this.lastFigures;
    if (!this.#session || !figures) return null;
    const { timings_ms: server, lookahead } = await api(`/v1/sessions/${this.#session.id}`, { headers: this.#headers() });
    if (!("engine" in server)) return null;
    const way = (figures.rtt ?? 0) / 2;
    return [
      ["network in", way],
      ["gathering a frame", 20],
      ["look-ahead", 40 * lookahead],
      ["kept in hand", this.#microphone ? server.standing : 0],
      ["waiting", Math.max(0, server.wait)],
      ["motion", server.motion ?? 0],
      ["raster", server.raster ?? 0],
      ["video", server.video ?? 0],
      ["engine, other", Math.max(0, server.engine) + server.convert],
      ["to the wire", Math.max(0, server.link)],
      ["encode", server.encode],
      ["network out", way],
      ["browser", Math.max(0, (figures.delay ?? 0) - way)],
    ];
  }

  /** End the call and the server's session. */
  hangUp() {
    if (this.state === "ended") return;
    clearTimeout(this.#timer);
    this.#become("ended");
    if (this.#speaking) this.#speaking.stopped = true;
    this.#microphone?.getTracks().forEach((track) => { track.onended = null; track.stop(); });
    this.#microphone = null;
    this.#socket?.close();
    this.#pc?.close();
    this.#forget();
  }

  /** The server need not keep the session for a return. */
  #forget() {
    if (this.#session) fetch(`/v1/sessions/${this.#session.id}`, { method: "DELETE", headers: this.#headers(), keepalive: true }).catch(() => {});
  }
}

/** Let what a receiver gets wait as little as can be; the picture waits from the start as long as the sound needs anyway, so that both begin in step. */
export function hasten(receiver) {
  try { receiver.jitterBufferTarget = 0; } catch { /* older browsers choose themselves */ }
}

/** Once a connection's own addresses are known, or enough of them. */
export function gathered(pc) {
  return new Promise((done) => {
    if (pc.iceGatheringState === "complete") return done();
    const timer = setTimeout(done, GATHER_MS);
    pc.addEventListener("icegatheringstatechange", () => {
      if (pc.iceGatheringState === "complete") { clearTimeout(timer); done(); }
    });
  });
}

/** Decode a recording to mono samples at SPEECH_RATE. */
export async function decodeSpeech(data) {
  const context = new OfflineAudioContext(1, 1, SPEECH_RATE);
  let buffer;
  try {
    buffer = await context.decodeAudioData(data);
  } catch {
    throw new Problem("This file is no recording that the browser can read. WAV, MP3, FLAC and Ogg work.");
  }
  const mono = new Float32Array(buffer.length);
  for (let channel = 0; channel < buffer.numberOfChannels; channel++) {
    const samples = buffer.getChannelData(channel);
    for (let k = 0; k < mono.length; k++) mono[k] += samples[k] / buffer.numberOfChannels;
  }
  return mono;
}
