"""Streaming resampling by a windowed-sinc polyphase filter.

Output sample n stands for the instant n / rate_out of the input's clock: there is no shift in time, only a
wait for the filter's right half (16 periods of the lower rate: 1 ms at 16 kHz, 2 ms at 8 kHz). General
libraries wait tens of milliseconds for their block transforms, which a live call would pay as latency.

Method: J. O. Smith, "Digital Audio Resampling", https://ccrma.stanford.edu/~jos/resample/, with the table
of phases exact for the rational ratio, so the result does not depend on how the input was cut into blocks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache
from math import gcd

import numpy as np
import numpy.typing as npt
from visavis.engine.audio.pcm import FloatArray, check_rate

ZERO_CROSSINGS = 16
"""Half-width of the filter in periods of the lower rate."""
_ROLL_OFF = 0.93  # cut-off as a share of the lower Nyquist frequency: leaves room for the transition band
_KAISER_BETA = 8.0  # about 80 dB of stop-band attenuation


@lru_cache(maxsize=32)
def _phases(up: int, down: int) -> FloatArray:
    """Filter taps (up, 2 * half) for output phases k / up between two input samples."""
    scale = min(1.0, up / down)
    half = _half_width(up, down)
    offsets = (
        np.arange(1 - half, half + 1)[None] - (np.arange(up) / up)[:, None]
    )  # input samples, (up, 2 half)
    position = offsets * scale
    window = np.i0(_KAISER_BETA * np.sqrt(np.clip(1 - (position / ZERO_CROSSINGS) ** 2, 0, None)))
    taps = np.sinc(position * _ROLL_OFF) * np.where(np.abs(position) < ZERO_CROSSINGS, window, 0)
    return (taps / taps.sum(axis=1, keepdims=True)).astype(np.float32)


def _half_width(up: int, down: int) -> int:
    return -(-ZERO_CROSSINGS * max(up, down) // up)


@dataclass
class ResamplerState:
    """What a resampler remembers: the input that later outputs still need, and where both clocks stand."""

    tail: FloatArray
    first: int = 0
    """Index of `tail[0]` in the whole input; negative for the zeros before the start."""
    produced: int = 0


@dataclass
class Resampler:
    """Mono float32 from `rate_in` to `rate_out` Hz, fed in blocks of any length."""

    rate_in: int
    rate_out: int
    state: ResamplerState = field(init=False)

    def __post_init__(self) -> None:
        self.rate_in, self.rate_out = check_rate(self.rate_in), check_rate(self.rate_out)
        divisor = gcd(self.rate_in, self.rate_out)
        self._up, self._down = self.rate_out // divisor, self.rate_in // divisor
        self.reset()

    def reset(self) -> None:
        """Forget all input."""
        half = _half_width(self._up, self._down)
        self.state = ResamplerState(np.zeros(half - 1, np.float32), first=1 - half)

    def push(self, samples: FloatArray) -> FloatArray:
        """Take samples (n,), return those outputs (m,) that are complete."""
        if self._up == self._down:
            return samples.astype(np.float32, copy=True)
        state, half = self.state, _half_width(self._up, self._down)
        state.tail = np.concatenate([state.tail, samples.astype(np.float32, copy=False)])
        received = state.first + len(state.tail)
        # Output n sits at input position n * down / up and needs inputs up to floor(position) + half.
        ready = (
            max(state.produced, -(-(received - half) * self._up // self._down))
            if received > half
            else state.produced
        )
        return self._produce(ready)

    def flush(self) -> FloatArray:
        """The outputs that were waiting for more input, as if silence followed; then start anew."""
        if self._up == self._down:
            return np.zeros(0, np.float32)
        state, half = self.state, _half_width(self._up, self._down)
        received = state.first + len(state.tail)
        total = -(-max(received, 0) * self._up // self._down)  # instants before the input's end
        state.tail = np.concatenate([state.tail, np.zeros(half, np.float32)])
        rest = self._produce(max(total, state.produced))
        self.reset()
        return rest

    def _produce(self, until: int) -> FloatArray:
        state, half = self.state, _half_width(self._up, self._down)
        numbers = np.arange(state.produced, until, dtype=np.int64)
        whole, phase = np.divmod(numbers * self._down, self._up)
        taps = _phases(self._up, self._down)
        windows: npt.NDArray[np.float32] = np.zeros((0, 2 * half), np.float32)
        if len(numbers):
            view = np.lib.stride_tricks.sliding_window_view(state.tail, 2 * half)
            windows = view[whole - (half - 1) - state.first]
        out = np.einsum("nk,nk->n", windows, taps[phase])
        state.produced = until
        keep_from = until * self._down // self._up - (half - 1)
        drop = max(0, min(keep_from - state.first, len(state.tail)))
        state.tail, state.first = state.tail[drop:].copy(), state.first + drop
        return out.astype(np.float32, copy=False)
