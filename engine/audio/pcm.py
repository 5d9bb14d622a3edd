"""What a caller may push as sound, checked and brought to mono float32."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from visavis.engine.errors import AudioError

FloatArray = npt.NDArray[np.float32]

MIN_RATE = 8_000
MAX_RATE = 48_000


def check_rate(rate: int) -> int:
    """`rate` as an int in Hz; AudioError unless it is a whole number from 8000 to 48000."""
    if isinstance(rate, bool) or not isinstance(rate, int | np.integer):
        raise AudioError(f"sample rate is {rate!r}: give a whole number of Hz from {MIN_RATE} to {MAX_RATE}")
    if not MIN_RATE <= rate <= MAX_RATE:
        raise AudioError(f"sample rate is {rate} Hz: give one from {MIN_RATE} to {MAX_RATE} Hz")
    return int(rate)


def to_mono(pcm: npt.NDArray[np.int16] | npt.NDArray[np.float32]) -> FloatArray:
    """Sound as mono float32 in -1..1, shape (n,).

    `pcm` is int16 or float32 (-1..1), shape (n,) for mono or (n, channels) with one or two channels.
    Floats beyond -1..1 are clipped. Raises AudioError for another type or shape and for values that are not
    finite.
    """
    if not isinstance(pcm, np.ndarray):
        raise AudioError(f"audio is a {type(pcm).__name__}: give a numpy array of int16 or float32")
    if pcm.dtype != np.int16 and pcm.dtype != np.float32:
        raise AudioError(f"audio has type {pcm.dtype}: give int16 or float32 in -1..1")
    if pcm.ndim not in (1, 2) or (pcm.ndim == 2 and pcm.shape[1] not in (1, 2)):
        raise AudioError(f"audio has shape {pcm.shape}: give (samples,) or (samples, 1 or 2 channels)")
    if pcm.dtype == np.int16:
        mono = pcm.astype(np.float32) / np.float32(32768)
    else:
        if not np.isfinite(pcm).all():
            raise AudioError("audio holds values that are not finite")
        mono = np.clip(pcm, -1, 1)
    return mono.mean(axis=1, dtype=np.float32) if mono.ndim == 2 else mono


def to_int16(samples: FloatArray) -> npt.NDArray[np.int16]:
    """Float sound in -1..1 as int16, rounded; the inverse of `to_mono` on int16 sound."""
    return np.clip(np.rint(samples * 32768), -32768, 32767).astype(np.int16)
