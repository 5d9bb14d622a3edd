"""Barge-in, measured in the browser: a held vowel is stopped somewhere in its middle, and the frames that came after are looked at."""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from visavis.benchmarks.browser import Page
from visavis.benchmarks.browser_call import FloatArray, Recording, record
from visavis.engine.audio.pcm import FloatArray as Sound

VOWEL_S, VOWEL_RATE = 2.5, 24_000
BEFORE, AFTER = 6, range(8, 20)
"""Frames before and after a stop that show the mouth open and shut."""

_STOP_IN_THE_MIDDLE = """
(async (moments, data) => {
  const rec = window.recording, wait = (ms) => new Promise((done) => setTimeout(done, ms));
  const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
  const vowel = new Float32Array(bytes.buffer);
  rec.cleared = [];
  for (const moment of moments) {
    const began = new Promise((done) => visavis.call.addEventListener("playback", ({detail}) => {
      if (detail.type === "playback.started") done();
    }, {once: true}));
    visavis.call.speak(vowel);
    await began;
    await wait(moment);
    rec.cleared.push(performance.now());
    await visavis.call.stopSpeaking();
    await wait(900);
  }
})(%s, "%s")
"""


def held_vowel() -> Sound:
    """(n,) float32 at VOWEL_RATE: the pitch periods of the shipped sample's most open vowel, over and over, so that the mouth stands
    open all the time; the one of which the engine's own network, run offline, keeps it open best."""
    import importlib.resources

    from visavis.clients.media import read_speech
    from visavis.engine.audio.resample import Resampler
    from visavis.engine.timing import SAMPLES_PER_FRAME

    pcm, rate = read_speech(Path(str(importlib.resources.files("visavis.engine"))) / "assets" / "speech.wav")
    speech = Resampler(rate, 16_000).push((pcm / 32768).astype(np.float32))
    best: tuple[float, Any] = (-1.0, None)
    for frame in np.argsort(-_jaw(speech))[:40:5]:
        at = int(frame) * SAMPLES_PER_FRAME
        vowel = _repeat(speech[max(0, at - 1600) : at + 2400])
        steady = float(np.percentile(_jaw(np.concatenate([np.zeros(6400, np.float32), vowel]))[15:], 5))
        best = max(best, (steady, vowel), key=lambda found: found[0])
    return Resampler(16_000, VOWEL_RATE).push(best[1])


def _repeat(piece: Sound) -> Sound:
    """The middle of a piece of 16 kHz sound as a seamless loop of whole pitch periods, with a slow tremolo: VOWEL_S long."""
    lags = np.arange(40, 200)  # 80 to 400 Hz
    period = int(lags[np.argmax([np.corrcoef(piece[:-lag], piece[lag:])[0, 1] for lag in lags])])
    n = 1280 // period * period
    ramp = np.linspace(0, 1, n)
    start = max(0, len(piece) // 2 - n)
    loop = piece[start : start + n] * ramp + piece[start + n : start + 2 * n] * (1 - ramp)
    vowel = np.resize(loop, int(VOWEL_S * 16_000))
    vowel *= (1 + 0.15 * np.sin(2 * np.pi * 4 * np.arange(len(vowel)) / 16_000)) * 0.35 / np.abs(loop).max()
    return np.asarray(vowel, np.float32)


def _jaw(sound: Sound) -> FloatArray:
    """(T,) how far the jaw is open in each frame of a recording at 16 kHz."""
    from visavis.engine.motion.channels import INDEX
    from visavis.engine.session import render_offline

    frames = render_offline(None, sound.astype(np.float32), 16_000, renderer=_NoPicture())
    return np.array([frame.motion[INDEX["jawOpen"]] for frame in frames])


class _NoPicture:
    def render(self, motion: Any) -> Any:
        return np.zeros((1, 1, 3), np.uint8)


async def barge_ins(page: Page, times: int, box: tuple[float, float, float]) -> tuple[Recording, list[float]]:
    """Let the person say a long vowel and stop it, several times: (what was received, when it was stopped)."""
    await page.evaluate("visavis.call.setMicrophone(false)")
    # no multiples of a frame, so that stops meet the clock at every phase
    moments = [900 + 53 * k % 400 for k in range(times)]
    data = base64.b64encode(held_vowel().astype("<f4").tobytes()).decode()
    script = _STOP_IN_THE_MIDDLE % (moments, data)
    recording = await record(page, 0.5, box, during=script)
    return recording, [at / 1000 for at in await page.evaluate("window.recording.cleared")]


def barge_in_figures(
    recording: Recording, cleared: Sequence[float], lip_aperture: Callable[[Recording], FloatArray]
) -> dict[str, Any]:
    """How long the mouth stayed open after it was stopped, in those cases where it was open: until three tenths of the way from open (the frames
    before) to shut (those a third of a second after) are left, in two frames in a row."""
    aperture = lip_aperture(recording)
    low, high = np.percentile(aperture, (10, 97))
    delays = []
    for at in cleared:
        first = int(np.searchsorted(recording.shown, at))
        if first < BEFORE or first + AFTER.stop > len(aperture):
            continue
        wide = float(np.median(aperture[first - BEFORE : first]))
        rest = float(np.median(aperture[first + AFTER.start : first + AFTER.stop]))
        shut = aperture[first:] < rest + 0.3 * (wide - rest)
        if wide < rest + 0.3 * (high - low) or shut[0]:
            continue  # the mouth was not open
        closed = next(k for k in range(len(shut) - 1) if shut[k] and shut[k + 1])
        delays.append((recording.shown[first + closed] - at) * 1000)
    return {
        "barge_ins": len(delays),
        "barge_in_to_closed_ms": round(float(np.median(delays)), 1) if delays else None,
        "barge_in_to_closed_max_ms": round(float(np.max(delays)), 1) if delays else None,
    }
