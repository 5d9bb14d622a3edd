"""Log-mel features, block by block.

16 kHz, window 25 ms (Hann), hop 10 ms, 80 bands from 0 to 8 kHz on the HTK mel scale. Window m ends with
sample 160 (m + 1), so the features of a video frame (four of them) are complete as soon as its sound is:
the stream has no delay of its own.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.timing import SAMPLE_RATE, SAMPLES_PER_FRAME
from visavis.kernels import MelTables, log_mel
from visavis.kernels.features import MEL_BANDS, MEL_FFT, MEL_HOP, MEL_WINDOW

HOP, WINDOW, N_FFT, N_MELS = MEL_HOP, MEL_WINDOW, MEL_FFT, MEL_BANDS
MELS_PER_FRAME = SAMPLES_PER_FRAME // HOP
FLOOR = 1e-6
"""Added to the power of each band before the logarithm: about the noise of a quiet 16-bit recording."""


def _mel(hertz: FloatArray) -> FloatArray:
    return 2595 * np.log10(1 + hertz / 700)


def mel_filters() -> FloatArray:
    """Triangular filters (N_FFT // 2 + 1, N_MELS) of unit peak, evenly spaced in mel."""
    frequencies = np.linspace(0, SAMPLE_RATE / 2, N_FFT // 2 + 1)
    edges_mel = np.linspace(0, _mel(np.array(SAMPLE_RATE / 2)), N_MELS + 2)
    edges = 700 * (10 ** (edges_mel / 2595) - 1)
    low, centre, high = edges[:-2], edges[1:-1], edges[2:]
    rising = (frequencies[:, None] - low) / (centre - low)
    falling = (high - frequencies[:, None]) / (high - centre)
    filters = np.clip(np.minimum(rising, falling), 0, None)
    # The lowest bands are narrower than a bin: give each at least the bin that is nearest to its centre.
    nearest = np.rint(centre / (SAMPLE_RATE / N_FFT)).astype(int)
    empty = filters.sum(axis=0) < 0.5
    filters[nearest[empty], np.flatnonzero(empty)] = 0.5
    return filters.astype(np.float32)


def filter_ranges() -> tuple[npt.NDArray[np.int32], npt.NDArray[np.int32], FloatArray]:
    """The filters as runs of bins: where each band's weights begin (N_MELS + 1,), its first bin (N_MELS,), all weights."""
    first, bins, weights = [0], [], []
    for band in mel_filters().T:
        on = np.flatnonzero(band)
        bins.append(int(on[0]))
        weights += band[on[0] : on[-1] + 1].tolist()
        first.append(len(weights))
    return np.array(first, np.int32), np.array(bins, np.int32), np.array(weights, np.float32)


def _tables() -> MelTables:
    """What the kernels take. A full-scale sine has power 1 at its bin; the floor is 0 and loud speech near 10."""
    hann = (0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(WINDOW) + 0.5) / WINDOW)).astype(np.float32)
    return MelTables(hann, *filter_ranges(), float(4 / hann.sum() ** 2), FLOOR)


TABLES = _tables()


def silence(n: int) -> FloatArray:
    """What n features of digital silence look like: (n, N_MELS)."""
    return np.zeros((n, N_MELS), np.float32)


@dataclass
class MelState:
    """The samples that the next window still needs; `tail` grows to at most WINDOW - 1."""

    tail: FloatArray = field(default_factory=lambda: np.zeros(WINDOW - HOP, np.float32))


@dataclass
class LogMel:
    """Stream of log-mel features of mono float32 sound at 16 kHz."""

    state: MelState = field(default_factory=MelState)

    def reset(self) -> None:
        """Forget all input: as if silence had come before."""
        self.state = MelState()

    def push(self, samples: FloatArray) -> FloatArray:
        """Take samples (n,), return the features that they complete: (m, N_MELS) float32."""
        sound = np.concatenate([self.state.tail, samples.astype(np.float32, copy=False)])
        features = log_mel(TABLES, sound)
        self.state.tail = sound[len(features) * HOP :].copy()
        return features
