"""A call through the real web page in headless Chromium, with everything that arrives written down.

The page itself is used as a person would; a script beside it records, in the browser's own clock: each received frame (crop of the
face, display time, RTP stamp), the loudness of the microphone and of the received voice every 10 ms, and `getStats()`.
"""

from __future__ import annotations

import asyncio
import base64
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.benchmarks.browser import Page
from visavis.benchmarks.browser_relay import relay_next_call
from visavis.benchmarks.relay import LossyRelay

FloatArray = npt.NDArray[np.float64]
BLOCK_S = 0.010
CROP = 224
"""Side in pixels of the square crop that is kept of each frame."""
MAX_FRAMES = 4000

_RECORDER = """
(async ({crop, maxFrames, box}) => {
  const video = visavis.video, call = visavis.call;
  const canvas = new OffscreenCanvas(crop, crop);
  const context = canvas.getContext("2d", {willReadFrequently: true});
  const rec = window.recording = {frames: [], pixels: [], levels: {in: [], out: []}, stats: [], running: true, epoch: performance.timeOrigin};
  const onFrame = (now, meta) => {
    if (!rec.running || rec.frames.length >= maxFrames) return;
    const [x, y, side] = box.map((share) => share * Math.min(video.videoWidth, video.videoHeight));
    context.drawImage(video, x, y, side, side, 0, 0, crop, crop);
    const rgba = context.getImageData(0, 0, crop, crop).data;
    const gray = new Uint8Array(crop * crop);
    for (let k = 0; k < gray.length; k++) gray[k] = (77 * rgba[4 * k] + 150 * rgba[4 * k + 1] + 29 * rgba[4 * k + 2]) >> 8;
    rec.pixels.push(gray);
    rec.frames.push([meta.expectedDisplayTime, meta.rtpTimestamp ?? 0, meta.receiveTime ?? 0, meta.captureTime ?? 0, meta.presentedFrames]);
    video.requestVideoFrameCallback(onFrame);
  };
  video.requestVideoFrameCallback(onFrame);
  const audio = new AudioContext({latencyHint: "interactive"});
  const source = `registerProcessor("level", class extends AudioWorkletProcessor {
    constructor() { super(); this.n = 0; this.sum = 0; }
    process([[samples]]) {
      if (samples) for (const x of samples) {
        this.sum += x * x;
        if (++this.n === Math.round(sampleRate * 0.01)) { this.port.postMessage([currentTime, Math.sqrt(this.sum / this.n)]); this.n = this.sum = 0; }
      }
      return true;
    }
  })`;
  await audio.audioWorklet.addModule(URL.createObjectURL(new Blob([source], {type: "text/javascript"})));
  const listen = (stream, into) => {
    const node = new AudioWorkletNode(audio, "level", {numberOfOutputs: 0});
    node.port.onmessage = ({data}) => { if (rec.running) into.push([data[0], data[1], performance.now()]); };
    audio.createMediaStreamSource(stream).connect(node);
  };
  // The microphone as the browser's sender gets it: through an AudioContext it would come 13 to 17 ms late, and flatter the delay.
  const hear = async (track) => {
    const reader = new MediaStreamTrackProcessor({track}).readable.getReader();
    while (rec.running) {
      const {value: data, done} = await reader.read();
      if (done) break;
      const at = performance.now(), samples = new Float32Array(data.numberOfFrames);
      data.copyTo(samples, {planeIndex: 0, format: "f32-planar"});
      let sum = 0;
      for (const x of samples) sum += x * x;
      rec.levels.in.push([(data.timestamp + data.duration) / 1e6, Math.sqrt(sum / samples.length), at]);
      data.close();
    }
    track.stop();
  };
  if (call.microphone) hear(call.microphone.getAudioTracks()[0].clone());
  listen(call.stream, rec.levels.out);
  rec.timer = setInterval(async () => {
    const row = {at: performance.now()};
    (await call.peer.getStats()).forEach((item) => {
      if (item.type === "inbound-rtp") row[item.kind] = {
        playout: item.estimatedPlayoutTimestamp, lost: item.packetsLost, decoded: item.framesDecoded, dropped: item.framesDropped,
        freezes: item.freezeCount, frozen: item.totalFreezesDuration, concealed: item.concealedSamples, bytes: item.bytesReceived,
        jitter: item.jitterBufferDelay, emitted: item.jitterBufferEmittedCount, processing: item.totalProcessingDelay, received: item.framesReceived,
      };
      if (item.type === "candidate-pair" && item.nominated) row.rtt = item.currentRoundTripTime;
    });
    rec.stats.push(row);
  }, 500);
})(%s)
"""
_STOP = """
(() => {
  const rec = window.recording;
  rec.running = false;
  clearInterval(rec.timer);
  return JSON.stringify({frames: rec.frames, levels: rec.levels, stats: rec.stats});
})()
"""
_PIXELS = """
(async (from, to) => {
  const part = new Blob(window.recording.pixels.slice(from, to));
  return new Promise((done) => { const reader = new FileReader(); reader.onload = () => done(reader.result.split(",")[1]); reader.readAsDataURL(part); });
})(%d, %d)
"""


@dataclass(frozen=True)
class Recording:
    """What the browser saw and heard. Times are seconds of the browser's clock (`performance.now()`)."""

    shown: FloatArray
    """(T,) when each frame was shown."""
    rtp: FloatArray
    """(T,) its RTP stamp in seconds since the first frame's."""
    received: FloatArray
    """(T,) when its last packet came; 0 where the browser does not tell."""
    due: FloatArray
    """(T,) the tick that it was made for, by the sender's reports; 0 where the browser does not tell."""
    crops: npt.NDArray[np.uint8]
    """(T, CROP, CROP) grey crops."""
    microphone: FloatArray
    """(N, 2) time and loudness (root mean square) of 10 ms blocks that went in."""
    voice: FloatArray
    """(M, 2) the same of what came back."""
    stats: list[dict[str, Any]]

    @property
    def seconds(self) -> float:
        """Length of the recording."""
        return float(self.shown[-1] - self.shown[0]) if len(self.shown) > 1 else 0.0

    def skew_ms(self) -> FloatArray:
        """How much later than its picture the sound of a moment is played, in ms, twice a second (from the sender's reports, as the
        browser's playout clocks see it)."""
        rows = [
            r for r in self.stats if r.get("audio", {}).get("playout") and r.get("video", {}).get("playout")
        ]
        return np.array([r["video"]["playout"] - r["audio"]["playout"] for r in rows], np.float64)

    def way_ms(self) -> dict[str, float]:
        """Medians of the frames' way: from the tick to the last packet, from there to the screen; and how long sound lies in the
        browser's buffer. NaN where the browser does not tell."""
        known = (self.received > 0) & (self.due > 0)
        known &= np.arange(len(known)) >= len(known) // 4  # the first reports are still to come
        sounds = [r["audio"] for r in self.stats if r.get("audio", {}).get("emitted")]
        held = emitted = float("nan")
        if len(sounds) > 1:
            held = sounds[-1]["jitter"] - sounds[0]["jitter"]
            emitted = sounds[-1]["emitted"] - sounds[0]["emitted"]
        if not known.any():
            return dict.fromkeys(("tick to packet", "packet to screen", "sound held"), float("nan"))
        return {
            "tick to packet": float(np.median((self.received - self.due)[known])) * 1000,
            "packet to screen": float(np.median((self.shown - self.received)[known])) * 1000,
            "sound held": 1000 * held / emitted if emitted else float("nan"),
        }

    def frozen_share(self) -> float:
        """Share of the time for which the browser counts the picture as frozen."""
        rows = [
            (r["at"], r["video"]["frozen"])
            for r in self.stats
            if r.get("video", {}).get("frozen") is not None
        ]
        if len(rows) < 2:
            return float("nan")
        return float(1000 * (rows[-1][1] - rows[0][1]) / (rows[-1][0] - rows[0][0]))

    def on_time_share(self, fps: float = 25.0) -> float:
        """Share of all frames of the time covered that were shown within one frame time of their place on the beat; frames that never
        came count as late."""
        delay = self.shown - self.rtp
        expected = round(float(self.rtp[-1] - self.rtp[0]) * fps) + 1
        good = int(np.sum(delay - np.median(delay) <= 1 / fps))
        return good / max(expected, len(delay))


async def start_call(page: Page, url: str, source: str, relay: LossyRelay | None = None) -> float:
    """Open the page and start a call by clicking the button `source` ("mic", "sample" or "call"), over `relay` where there is one; returns
    the seconds from the click to the first picture."""
    await page.send("Page.setBypassCSP", enabled=True)  # the recorder brings a worklet of its own
    await page.size(1280, 900)
    await page.go(url)
    await page.wait_for("!document.getElementById('call').disabled", 180)
    leading = await relay_next_call(page, relay) if relay is not None else None
    took = await page.evaluate(
        "new Promise((done) => { const began = performance.now();"
        "visavis.video.requestVideoFrameCallback((now) => done(now - began));"
        f"document.getElementById('{source}').click(); setTimeout(() => done(-1), 20000); }})"
    )
    if leading is not None:
        await leading
    if took < 0:
        problem = await page.evaluate("document.getElementById('alert-text').textContent")
        raise RuntimeError(f"no picture within 20 s: {problem or page.console[-3:]}")
    return float(took) / 1000


async def record(
    page: Page, seconds: float, box: tuple[float, float, float] = (0.0, 0.0, 1.0), during: str | None = None
) -> Recording:
    """Record a live call; `box` is the crop's left, top and side as shares of the shorter side of the video. `during` is a script that is
    waited for within the recording, before the `seconds`."""
    settings = json.dumps({"crop": CROP, "maxFrames": MAX_FRAMES, "box": box})
    await page.evaluate(_RECORDER % settings)
    if during:
        await page.evaluate(during)
    await asyncio.sleep(seconds)
    data = json.loads(await page.evaluate(_STOP))
    frames = np.array(data["frames"], np.float64).reshape(-1, 5)
    parts = []
    for start in range(0, len(frames), 200):
        parts.append(base64.b64decode(await page.evaluate(_PIXELS % (start, start + 200))))
    crops = np.frombuffer(b"".join(parts), np.uint8).reshape(-1, CROP, CROP)
    stamps = frames[:, 1] - frames[0, 1] if len(frames) else frames[:, 1]
    stamps = np.where(stamps < 0, stamps + 2**32, stamps)
    return Recording(
        shown=frames[:, 0] / 1000,
        rtp=stamps / 90_000,
        received=frames[:, 2] / 1000,
        due=frames[:, 3] / 1000,
        crops=crops,
        microphone=_levels(data["levels"]["in"]),
        voice=_levels(data["levels"]["out"]),
        stats=data["stats"],
    )


def _levels(rows: list[list[float]]) -> FloatArray:
    """Blocks on the page's clock: the audio clock is laid on it by the messages that came through fastest."""
    data = np.array(rows, np.float64).reshape(-1, 3)
    if not len(data):
        return np.zeros((0, 2))
    offset = np.percentile(data[:, 2] / 1000 - data[:, 0], 5)
    return np.stack([data[:, 0] + offset, data[:, 1]], axis=1)


def onsets(times: FloatArray, values: FloatArray, low: float, high: float, quiet_s: float) -> FloatArray:
    """Times at which `values` rise over `high` after at least `quiet_s` under it; the crossing of `low` before is interpolated."""
    found = []
    quiet_since = times[0] if len(times) else 0.0
    for k in range(1, len(times)):
        if values[k] > high:
            if times[k - 1] - quiet_since >= quiet_s:
                at = k
                while at > 0 and values[at - 1] > low:
                    at -= 1
                if at > 0:
                    rise = values[at] - values[at - 1]
                    share = (low - values[at - 1]) / rise if rise > 0 else 1.0
                    found.append(times[at - 1] + np.clip(share, 0, 1) * (times[at] - times[at - 1]))
            quiet_since = times[k]
    return np.array(found)


def speech_to_lips_ms(
    sound_onsets: FloatArray, lip_onsets: FloatArray, earliest: float = 0.0, latest: float = 0.8
) -> FloatArray:
    """For each burst of sound, how many ms later the lips part (bursts without an answer are left out)."""
    delays = []
    for onset in sound_onsets:
        after = lip_onsets[(lip_onsets > onset + earliest) & (lip_onsets < onset + latest)]
        if len(after):
            delays.append((after[0] - onset) * 1000)
    return np.array(delays)


def lag_ms(
    times_a: FloatArray,
    a: FloatArray,
    times_b: FloatArray,
    b: FloatArray,
    reach_s: float = 0.5,
    earliest_s: float | None = None,
) -> tuple[float, float]:
    """(lag, correlation): how many ms curve b runs behind curve a where they agree best, from `earliest_s` (default: minus
    `reach_s`) to `reach_s`."""
    step = 0.005
    grid = np.arange(max(times_a[0], times_b[0]) + reach_s, min(times_a[-1], times_b[-1]) - reach_s, step)
    base = np.interp(grid, times_a, a)
    lags = np.arange(-reach_s if earliest_s is None else earliest_s, reach_s + step / 2, step)
    scores = [np.corrcoef(base, np.interp(grid + lag, times_b, b))[0, 1] for lag in lags]
    best = int(np.argmax(scores))
    return float(lags[best] * 1000), float(scores[best])


def save_strip(recording: Recording, path: Path, count: int = 16) -> None:
    """A row of received crops as PNG, to look at."""
    import cv2

    chosen = recording.crops[np.linspace(0, len(recording.crops) - 1, count).astype(int)]
    cv2.imwrite(
        str(path), np.concatenate([np.concatenate(chosen[k : k + 8], axis=1) for k in range(0, count, 8)])
    )
