// The page: choose a person, start a call, let it speak.

import { Adding, isFilm, isPicture } from "/add.js";
import { Call, Problem, access, api, callObstacle, decodeSpeech, microphoneObstacle, SPEECH_RATE } from "/call.js";
import { Manner } from "/manner.js";
import { Meter } from "/meter.js";

const $ = (id) => document.getElementById(id);
const frame = $("frame"), video = $("video"), voice = $("voice"), still = $("still"), callButton = $("call");
const people = new Map(); // id -> {person, label, input, face, note, picture}
const meter = new Meter();
const manner = new Manner($("manner"));
const adding = new Adding();
const WATCH_MS = 300, WATCH_LEARNING_MS = 2000;

let chosen = null, call = null, figuresTimer = null, speech = null;

// Words to the person in front

function say(message) {
  $("alert-text").textContent = message;
  $("alert").hidden = !message;
}
$("alert-close").onclick = () => say("");
const announce = (text) => { $("announce").textContent = text; };

function show(state, text = "", progress = null) {
  frame.dataset.state = state;
  $("veil-text").textContent = text;
  $("veil-progress").hidden = progress === null;
  if (progress !== null) $("veil-progress").value = progress;
}

async function guarded(action) {
  try {
    return await action();
  } catch (error) {
    if (!(error instanceof Problem)) console.error(error);
    say(error instanceof Problem ? error.message : "Something unexpected went wrong on this page. Reload it and try again.");
    return undefined;
  }
}

// People

function addPerson(person) {
  const label = document.createElement("label");
  label.className = "person";
  const input = document.createElement("input");
  input.type = "radio";
  input.name = "person";
  input.value = person.id;
  input.onchange = () => choose(person.id);
  const face = document.createElement("span");
  face.className = "face";
  const name = document.createElement("span");
  name.textContent = person.name;
  const note = document.createElement("small");
  label.append(input, face, name, note);
  $("people").append(label);
  people.set(person.id, { person, label, input, face, note });
  drawPerson(person);
  if (!["ready", "failed"].includes(person.state)) watch(person.id);
  else if (isLearning(person)) watchLearning(person.id);
}

const isLearning = (person) => ["waiting", "running"].includes(person.learning?.state);

function learningNote({ state, learning }) {
  if (state !== "ready" || !learning) return "";
  if (learning.state === "running") return `learning ${Math.round(learning.progress * 100)} %`;
  return { waiting: "learns soon", done: "has learned", nothing_gained: "as enrolled", failed: "did not learn" }[learning.state];
}

function drawPerson(person) {
  const entry = people.get(person.id);
  entry.person = person;
  entry.label.classList.toggle("failed", person.state === "failed");
  entry.note.textContent = learningNote(person);
  if (person.state === "ready" && !entry.face.querySelector("img")) {
    const image = new Image();
    image.alt = "";
    entry.face.replaceChildren(image);
    pictureOf(person.id).then((url) => {
      entry.picture = image.src = url;
      if (chosen === person.id) refresh();
    });
  } else if (person.state === "failed") {
    entry.face.textContent = "!";
  } else if (person.state !== "ready") {
    const share = document.createElement("span");
    share.className = "share";
    share.textContent = `${Math.round(person.progress * 100)} %`;
    entry.face.replaceChildren(share);
  }
  if (chosen === person.id) refresh();
}

/** The address of a person's picture in this tab (an <img> can bring no token). */
async function pictureOf(id) {
  const response = await fetch(`/v1/avatars/${id}/picture`, { headers: access() });
  return response.ok ? URL.createObjectURL(await response.blob()) : "";
}

/** Ask after a person until `settled` says that it needs no more asking; null where it is gone, which is said. */
async function follow(id, everyMs, settled) {
  for (;;) {
    await new Promise((done) => setTimeout(done, everyMs));
    let person;
    try {
      person = await api(`/v1/avatars/${id}`);
    } catch (error) {
      if (error.status === 404) forget(id);
      say(error.message);
      return null;
    }
    drawPerson(person);
    if (settled(person)) return person;
  }
}

async function watch(id) {
  const person = await follow(id, WATCH_MS, ({ state }) => ["ready", "failed"].includes(state));
  if (person?.state === "ready") {
    announce(`${person.name} is ready.`);
    if (isLearning(person)) watchLearning(id);
  } else if (person?.state === "failed") {
    if (!person.shared) failed(person);
    else say(person.error.message);
  }
}

async function watchLearning(id) {
  const person = await follow(id, WATCH_LEARNING_MS, (shown) => !isLearning(shown));
  if (!person) return;
  const { state, message } = person.learning;
  if (state === "done") announce(`${person.name} has learned its mouth: the next call shows it.`);
  else if (state === "failed") say(`${person.name} did not learn: ${message}`);
  else announce(`The film taught nothing more about the mouth of ${person.name}.`);
}

function choose(id) {
  if (call) return;
  chosen = id;
  people.get(id).input.checked = true;
  refresh();
}

function refresh() {
  const entry = people.get(chosen);
  if (!entry || call) return;
  const { person } = entry;
  const ready = person.state === "ready" && !callObstacle();
  callButton.disabled = !ready;
  $("sample").disabled = !ready;
  $("mic").disabled = !ready || Boolean(microphoneObstacle());
  $("speech").disabled = !ready;
  $("file-choice").classList.toggle("off", !ready);
  if (microphoneObstacle()) $("mic-note").textContent = window.isSecureContext ? "This browser offers no microphone" : "Needs https or localhost";
  if (person.state === "ready") {
    if (entry.picture && still.src !== entry.picture) still.src = entry.picture;
    still.alt = person.name;
    still.hidden = !entry.picture;
    show("idle");
  } else if (person.state === "failed") {
    still.hidden = true;
    show("problem", person.error.message);
  } else {
    still.hidden = true;
    show("loading", `Preparing ${person.name}: ${person.stage || "waiting"}`, person.progress);
  }
}

async function loadPeople() {
  adding.limits = await api("/v1/config");
  const { avatars } = await api("/v1/avatars");
  avatars.forEach(addPerson);
  if (avatars.length) choose(avatars[0].id);
  else show("problem", "Add a photo or a film to begin.");
}

// People of one's own

adding.addEventListener("problem", ({ detail }) => {
  say(detail.message);
  refresh(); // where it was being sent
});
adding.addEventListener("sending", ({ detail }) => {
  if (call) return;
  still.hidden = true;
  show("loading", `Sending the ${detail.kind}`, detail.share);
});
adding.addEventListener("person", ({ detail }) => {
  addPerson(detail.person);
  choose(detail.person.id);
  announce("This person is being prepared.");
});

function forget(id) {
  people.get(id)?.label.remove();
  people.delete(id);
  if (chosen === id && people.size) choose(people.keys().next().value);
}

function failed(person) {
  forget(person.id);
  say(person.error.message.replace(/--face N/g, "its number"));
  if (person.error.code === "several_faces") adding.offerFaces();
}

// The call

/** The call that runs, or a new one; null where that was hung up before it began. */
async function startCall() {
  if (call) return call;
  const obstacle = callObstacle();
  if (obstacle) throw new Problem(obstacle);
  say("");
  const mine = (call = new Call());
  callButton.dataset.live = "true";
  callButton.disabled = false;
  $("call-text").textContent = "End the call";
  for (const { input } of people.values()) input.disabled = true;
  show("connecting", "Connecting");
  mine.addEventListener("track", ({ detail }) => {
    const element = detail.kind === "video" ? video : voice;
    element.srcObject = detail.stream;
    element.play().catch((error) => { if (error.name === "NotAllowedError") say("The browser holds the call back: click on the picture to start it."); });
  });
  mine.addEventListener("state", ({ detail }) => onState(mine, detail.state));
  mine.addEventListener("problem", ({ detail }) => say(detail.message));
  mine.addEventListener("playback", ({ detail }) => onPlayback(detail));
  mine.addEventListener("microphone", ({ detail }) => onMicrophone(detail.on));
  try {
    await mine.start(chosen, manner.controls);
  } catch (error) {
    endCall();
    throw error;
  }
  return mine.state === "ended" ? null : mine;
}

function onState(which, state) {
  if (which !== call) return;
  if (state === "live") {
    $("badge").hidden = $("mute").hidden = false;
    $("badge-text").textContent = "Live";
    $("badge").classList.remove("poor");
    figuresTimer ??= setInterval(() => drawFigures(which), 1000);
    followVoice();
    if (!video.hidden) show("live");
  } else if (state === "interrupted") {
    $("badge").classList.add("poor");
    $("badge-text").textContent = "Reconnecting";
  } else if (state === "ended") {
    endCall();
  }
}
video.onplaying = video.onloadeddata = () => {
  if (!call) return;
  video.hidden = false;
  show("live");
  announce("The call is live.");
};
frame.onclick = () => { if (!call) return; if (video.paused) video.play(); if (voice.paused) voice.play(); };

function endCall() {
  const which = call;
  call = null;
  which?.hangUp();
  clearInterval(figuresTimer);
  figuresTimer = null;
  meter.stop();
  video.srcObject = voice.srcObject = null;
  video.hidden = true;
  $("badge").hidden = $("mute").hidden = $("breakdown").hidden = true;
  callButton.dataset.live = "false";
  $("call-text").textContent = "Start the call";
  for (const { input } of people.values()) input.disabled = false;
  onMicrophone(false);
  endSpeech();
  for (const key of ["fps", "delay", "rtt", "skew", "rate", "lost"]) $(`f-${key}`).textContent = "–";
  refresh();
}
callButton.onclick = () => (call ? endCall() : guarded(startCall));
window.addEventListener("pagehide", () => call?.hangUp());

async function drawFigures(which) {
  const figures = await which.figures().catch(() => null);
  if (!figures || which !== call) return;
  const put = (key, value, digits = 0) => { $(`f-${key}`).textContent = value === null || !Number.isFinite(value) ? "–" : value.toFixed(digits); };
  put("fps", figures.fps, 1);
  put("delay", figures.delay);
  put("rtt", figures.rtt, figures.rtt !== null && figures.rtt < 10 ? 1 : 0);
  put("skew", figures.skew);
  put("rate", figures.kbps);
  put("lost", figures.lost, 1);
  if (Math.round(performance.now() / 1000) % 2) drawBreakdown(which);
  $("badge").classList.toggle("poor", figures.fps < 20 || figures.lost > 5);
}

async function drawBreakdown(which) {
  const parts = await which.breakdown().catch(() => null);
  if (!parts || which !== call) return;
  const total = parts.reduce((sum, [, ms]) => sum + ms, 0);
  $("breakdown").hidden = false;
  $("b-total").textContent = total.toFixed(0);
  const colour = (k) => `hsl(${(k * 360) / parts.length + 200} 55% 55%)`;
  $("b-bar").replaceChildren(...parts.map(([, ms], k) => {
    const piece = document.createElement("span");
    piece.style.background = colour(k);
    piece.style.width = `${(100 * ms) / total}%`;
    return piece;
  }));
  $("b-list").replaceChildren(...parts.map(([name, ms], k) => {
    const item = document.createElement("li");
    const key = document.createElement("i");
    key.style.background = colour(k);
    item.append(key, `${name} ${ms.toFixed(ms < 10 ? 1 : 0)}`);
    return item;
  }));
}

manner.addEventListener("change", ({ detail }) => { if (call) guarded(() => call.steer(detail.controls)); });

// Speaking

function followVoice() {
  if (!call) meter.stop();
  else if (call.microphone) meter.follow(call.microphone);
  else if (call.voiceReceiver) meter.followReceiver(call.voiceReceiver);
}

function onMicrophone(on) {
  $("mic").setAttribute("aria-pressed", String(on));
  $("mic-title").textContent = on ? "Microphone is on" : "Speak yourself";
  $("hear-row").hidden = !on;
  $("meter-label").textContent = on ? "You" : "Voice";
  followVoice();
  updateMute();
}

let mutedByHand = false;
function updateMute() {
  // The avatar repeats the caller's own voice: heard over a loudspeaker that is an echo, so it is silent unless asked for.
  const muted = mutedByHand || (Boolean(call?.microphone) && !$("hear").checked);
  voice.muted = muted;
  $("mute").setAttribute("aria-pressed", String(muted));
  $("mute-text").textContent = muted ? "Unmute the avatar" : "Mute the avatar";
}
$("hear").onchange = () => { mutedByHand = false; updateMute(); };
$("mute").onclick = () => {
  if (voice.muted) {
    mutedByHand = false;
    if (call?.microphone) $("hear").checked = true;
  } else {
    mutedByHand = true;
  }
  updateMute();
};

$("mic").onclick = () => guarded(async () => {
  say("");
  if (call?.microphone) return call.setMicrophone(false);
  const current = await startCall();
  if (!current) return;
  endSpeech();
  await current.stopSpeaking();
  await current.setMicrophone(true);
});

async function speakSamples(samples, name) {
  if (!samples.length) throw new Problem("This recording is empty.");
  const current = await startCall();
  if (!current) return;
  if (current.microphone) await current.setMicrophone(false);
  speech = { seconds: samples.length / SPEECH_RATE, name, from: null };
  $("now").hidden = false;
  drawSpeech();
  await current.speak(samples);
}
$("sample").onclick = () => guarded(async () => {
  say("");
  const response = await fetch("/sample.wav");
  if (!response.ok) throw new Problem("The sample is not on this server.");
  await speakSamples(await decodeSpeech(await response.arrayBuffer()), "Sample");
});
async function speakFile(file) {
  say("");
  if (file.size > 200 << 20) throw new Problem("This recording is larger than 200 MB; cut it first.");
  await speakSamples(await decodeSpeech(await file.arrayBuffer()), file.name);
}
$("speech").onchange = ({ target }) => { const file = target.files[0]; target.value = ""; if (file) guarded(() => speakFile(file)); };
$("stop").onclick = () => { call?.stopSpeaking(); endSpeech(); };

function onPlayback(event) {
  $("speaking").textContent = event.type === "playback.started" ? "speaking" : "";
  if (event.type === "playback.started" && speech && speech.from === null) speech.from = performance.now();
  if (event.type === "playback.finished" && speech && event.position_ms / 1000 > speech.seconds - 0.5) endSpeech();
}
function endSpeech() {
  speech = null;
  $("now").hidden = true;
  $("speaking").textContent = "";
}
const clock = (seconds) => `${Math.floor(seconds / 60)}:${String(Math.floor(seconds % 60)).padStart(2, "0")}`;
function drawSpeech() {
  if (!speech) return;
  const at = speech.from === null ? 0 : Math.min(speech.seconds, (performance.now() - speech.from) / 1000);
  $("now-progress").value = at / speech.seconds;
  $("now-text").textContent = `${clock(at)} / ${clock(speech.seconds)}`;
}

let lastLevel = 0;
function draw() {
  const now = call ? meter.read() : 0;
  lastLevel = Math.max(now, lastLevel * 0.9);
  $("meter-fill").style.transform = `scaleX(${lastLevel.toFixed(3)})`;
  drawSpeech();
  requestAnimationFrame(draw);
}
requestAnimationFrame(draw);
setInterval(() => $("meter").setAttribute("aria-valuenow", String(Math.round(lastLevel * 100))), 500);

// Dropping files anywhere

let depth = 0;
const holdsFiles = (event) => [...(event.dataTransfer?.types ?? [])].includes("Files");
addEventListener("dragenter", (event) => { if (holdsFiles(event)) { depth++; $("dropveil").hidden = false; } });
addEventListener("dragleave", (event) => { if (holdsFiles(event) && --depth <= 0) { depth = 0; $("dropveil").hidden = true; } });
addEventListener("dragover", (event) => { if (holdsFiles(event)) event.preventDefault(); });
addEventListener("drop", (event) => {
  if (!holdsFiles(event)) return;
  event.preventDefault();
  depth = 0;
  $("dropveil").hidden = true;
  const file = event.dataTransfer.files[0];
  if (!file) return;
  if (isPicture(file) || isFilm(file)) call ? say("End the call before you add somebody.") : adding.offer(file);
  else if (file.type.startsWith("audio/") || /\.(wav|flac|ogg|opus|mp3|m4a)$/i.test(file.name)) guarded(() => speakFile(file));
  else say("Drop a photo, a film or a recording.");
});

const obstacle = callObstacle();
if (obstacle) say(obstacle);
guarded(loadPeople).then(() => { if (!people.size && $("alert").hidden === false) show("problem", ""); });

// For measurements in a browser: the live call and its picture.
window.visavis = { get call() { return call; }, video };
