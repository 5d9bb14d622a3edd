"""Does an hour change anything? One session speaks, pauses and listens minute after minute; each minute has the same sound, so that whatever
differs between the first minutes and the last is drift. Part of `visavis bench quality --stage motion --minutes 60`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.benchmarks import quality_motion_figures as figures
from visavis.benchmarks.quality_motion_sources import Mouth
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.motion.channels import GAZE_SLICE, HEAD_SLICE, INDEX, NECK_SLICE
from visavis.engine.motion.director import MotionSource
from visavis.engine.timing import SAMPLES_PER_FRAME

MINUTE = 1500
SPEAKING = 1050
"""Frames of each minute that are speech and its pauses; in the rest nobody speaks."""
FIGURES = ("aperture", "aperture_jitter", "head_deg", "head_off_deg", "head_jitter_deg", "gaze_deg", "blinks", "breath_deg", "open_in_silence")  # fmt: skip
AT_EACH_END = 5
"""Minutes that are compared with each other: the first and the last so many."""


def minute_of(sounds: list[FloatArray]) -> npt.NDArray[np.float32]:
    """A minute of frames (1500, 640): sentences with a pause of 0.6 s between them, then 18 s of silence."""
    pause = np.zeros(15 * SAMPLES_PER_FRAME, np.float32)
    parts = [np.concatenate([sound, pause]) for sound in sounds]
    speech = np.concatenate(parts * (1 + MINUTE * SAMPLES_PER_FRAME // max(1, sum(map(len, parts)))))
    out = np.zeros((MINUTE, SAMPLES_PER_FRAME), np.float32)
    out[:SPEAKING] = speech[: SPEAKING * SAMPLES_PER_FRAME].reshape(SPEAKING, SAMPLES_PER_FRAME)
    return out


def minute_figures(motion: FloatArray, mouth: Mouth) -> dict[str, float]:
    """Of one minute (1500, N_CHANNELS); degrees but for the aperture."""
    degrees = np.float32(180 / np.pi)
    head = (motion[:, HEAD_SLICE] + motion[:, NECK_SLICE]) * degrees
    aperture = mouth.read(motion)[:, 0]
    return {
        "aperture": float(aperture[:SPEAKING].std()),
        "aperture_jitter": figures.jitter(aperture[:SPEAKING]),
        "head_deg": float(head.std(0).mean()),
        "head_off_deg": float(np.linalg.norm(head.mean(0))),
        "head_jitter_deg": figures.jitter(head),
        "gaze_deg": float(motion[:, GAZE_SLICE].std(0).mean() * degrees),
        "blinks": float(figures.blinks(motion[:, INDEX["eyeBlinkLeft"]])),
        "breath_deg": float(motion[:, INDEX["clavicleLeft.z"]].std() * degrees),
        "open_in_silence": float(aperture[SPEAKING + 10 :].max()),
    }


def live(
    source: MotionSource, minute: FloatArray, minutes: int, mouth: Mouth, say: Callable[[int], None]
) -> list[dict[str, float]]:
    """Figures of each of so many minutes of one session."""
    rows = []
    for k in range(minutes):
        say(k)
        motion = np.stack([source.step(frame[None]) for frame in minute])
        rows.append(minute_figures(motion, mouth))
    return rows


def drift(rows: list[dict[str, float]]) -> dict[str, Any]:
    """First and last minutes of each figure, and how far they are apart in standard errors of their difference."""
    most = min(AT_EACH_END, len(rows) // 2)
    out: dict[str, Any] = {}
    for name in FIGURES:
        values = np.array([row[name] for row in rows])
        early, late = values[:most], values[-most:]
        error = float(np.sqrt(2 / most) * values.std() + 1e-9)
        out[name] = {
            "first": round(float(early.mean()), 4),
            "last": round(float(late.mean()), 4),
            "apart": round(float((late.mean() - early.mean()) / error), 2),
        }
    return out
