"""What a frame of motion costs: one session, and sixteen in one batch, on one thread. Part of `visavis bench quality --stage motion`."""

from __future__ import annotations

import time

import numpy as np
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.timing import SAMPLES_PER_FRAME

BATCH = 16


def cost(sound: FloatArray, lookahead: int, frames: int = 150, warm_up: int = 20) -> dict[str, float]:
    """Median milliseconds a frame and a session of `sound` (16 kHz, repeated as needed), all networks and what surrounds them."""
    from visavis.engine.motion.diffusion import MotionModel

    blocks = np.resize(sound, (frames + warm_up) * SAMPLES_PER_FRAME).reshape(-1, 1, SAMPLES_PER_FRAME)
    out = {}
    for sessions in (1, BATCH):
        model = MotionModel(range(sessions), lookahead)
        times = []
        for block in blocks:
            before = time.perf_counter()
            model.step([block] * sessions)
            times.append(time.perf_counter() - before)
        out[f"ms_batch_{sessions}"] = round(float(np.median(times[warm_up:])) * 1000 / sessions, 3)
    return out
