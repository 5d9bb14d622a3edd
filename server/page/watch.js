// One session's picture and sound and nothing else, by WHEP: for whoever was given its address, /watch#session=ID&key=TOKEN.

import { api, ask, callObstacle, gathered, hasten } from "/call.js";

const RETRY_MS = 1000;
const RETRIES = 30;
const LOOK_MS = 2000;
const GONE = new Set([401, 403, 404, 410]);

const address = new URLSearchParams(location.hash.slice(1));
const session = `/v1/sessions/${encodeURIComponent(address.get("session") ?? "")}`;
const headers = { Authorization: `Bearer ${address.get("key") ?? ""}` };
const [video, voice, note, sound] = ["video", "voice", "note", "sound"].map((id) => document.getElementById(id));
let peer = null;
let place = null;
let tries = 0;
let shown = 0;

function say(state, words) {
  document.body.dataset.state = state;
  note.textContent = words;
}

async function connect() {
  const { ice_servers: iceServers } = await api(session, { headers });
  const pc = (peer = new RTCPeerConnection({ iceServers, bundlePolicy: "max-bundle" }));
  for (const kind of ["audio", "video"]) pc.addTransceiver(kind, { direction: "recvonly" });
  pc.ontrack = ({ track, receiver }) => {
    hasten(receiver);
    show(track);
  };
  pc.onconnectionstatechange = () => {
    if (pc !== peer) return;
    if (pc.connectionState === "connected") { tries = 0; say("live", ""); }
    else if (pc.connectionState === "disconnected") say("interrupted", "Connecting again");
    else if (pc.connectionState === "failed" || pc.connectionState === "closed") again();
  };
  await pc.setLocalDescription(await pc.createOffer());
  await gathered(pc);
  const answer = await ask(`${session}/whep`, { method: "POST", headers: { ...headers, "Content-Type": "application/sdp" }, body: pc.localDescription.sdp });
  place = answer.headers.get("Location");
  await pc.setRemoteDescription({ type: "answer", sdp: await answer.text() });
}

/** One element each: sound that waits in one element for the first picture would come late for seconds. */
function show(track) {
  const element = track.kind === "video" ? video : voice;
  element.srcObject = new MediaStream([track]);
  if (element === voice) hear();
}

/** Sound waits for a touch where the browser has not seen one yet. */
function hear() {
  voice.play().then(() => { sound.hidden = true; }, (error) => { sound.hidden = error.name !== "NotAllowedError"; });
}

sound.onclick = hear;

function again() {
  leave();
  say("interrupted", "Connecting again");
  setTimeout(start, RETRY_MS);
}

function leave() {
  const old = peer;
  peer = null;
  old?.close();
  if (place) fetch(place, { method: "DELETE", headers, keepalive: true }).catch(() => {});
  place = null;
}

async function start() {
  try {
    await connect();
  } catch (error) {
    if (GONE.has(error.status) || ++tries > RETRIES) end(error);
    else again();
  }
}

/** A picture that stands still: is the session over? It takes browsers many seconds to give a connection up. */
async function look() {
  const now = video.getVideoPlaybackQuality().totalVideoFrames;
  if (peer && document.body.dataset.state === "live" && now === shown) {
    try {
      await api(session, { headers });
    } catch (error) {
      if (GONE.has(error.status)) end(error);
    }
  }
  shown = now;
}

function end(error) {
  leave();
  sound.hidden = true;
  say("ended", error.status === 401 ? "This address does not open a session (any more)." : error.message);
}

addEventListener("hashchange", () => location.reload());
addEventListener("pagehide", leave);
addEventListener("pageshow", (event) => { if (event.persisted) start(); });

const obstacle = callObstacle();
if (obstacle) say("ended", obstacle);
else if (!address.get("session") || !address.get("key")) say("ended", "This address is not whole: it needs #session=…&key=….");
else {
  start();
  setInterval(look, LOOK_MS);
}
