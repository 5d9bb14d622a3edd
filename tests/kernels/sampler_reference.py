"""The sampler step again in numpy, and its noise in float32 operations of the same order: the same bits."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

F = np.float32
START, EULER, PREDICTOR, CORRECTOR = range(4)


def philox(counter: NDArray[np.uint32], seed: int) -> NDArray[np.uint32]:
    """Philox4x32-10: counter (..., 4) and a 64-bit key -> (..., 4)."""
    c = [counter[..., k].astype(np.uint64) for k in range(4)]
    k0, k1 = seed & 0xFFFFFFFF, seed >> 32
    low = np.uint64(0xFFFFFFFF)
    for _ in range(10):
        p0, p1 = np.uint64(0xD2511F53) * c[0], np.uint64(0xCD9E8D57) * c[2]
        high0, high1 = p0 >> np.uint64(32), p1 >> np.uint64(32)
        c = [high1 ^ c[1] ^ np.uint64(k0), p1 & low, high0 ^ c[3] ^ np.uint64(k1), p0 & low]
        k0, k1 = (k0 + 0x9E3779B9) & 0xFFFFFFFF, (k1 + 0xBB67AE85) & 0xFFFFFFFF
    return np.stack(c, -1).astype(np.uint32)


def radius(word: NDArray[np.uint32]) -> NDArray[np.float32]:
    mantissa, exponent = np.frexp(((word >> 8) + 1).astype(F))  # mantissa in [0.5, 1)
    m, e = (mantissa * F(2)).astype(F), exponent - 1 - 24
    large = m >= F(1.5)
    m, e = np.where(large, m * F(0.5), m), np.where(large, e + 1, e)
    s = (m - F(1)) / (m + F(1))
    z = s * s
    one = F(1)
    series = ((((z * (one / F(11)) + one / F(9)) * z + one / F(7)) * z + F(0.2)) * z + one / F(3)) * z + one
    log = e.astype(F) * F(0.693147180559945) + F(2) * s * series
    return np.sqrt(F(-2) * log + F(0))


def direction(word: NDArray[np.uint32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    quarter = (word + np.uint32(0x20000000)) >> np.uint32(30)
    rest = (word - (quarter << np.uint32(30))).view(np.int32) >> 8
    t = rest.astype(F) * (F(6.283185307179586) / F(16777216))
    t2, one = t * t, F(1)
    sine = ((((t2 * (one / F(362880)) - one / F(5040)) * t2 + one / F(120)) * t2 - one / F(6)) * t2 + one) * t
    cosine = (((t2 * (one / F(40320)) - one / F(720)) * t2 + one / F(24)) * t2 - F(0.5)) * t2 + one
    odd = quarter & 1 == 1
    c, s = np.where(odd, sine, cosine), np.where(odd, cosine, sine)
    return np.where((quarter == 1) | (quarter == 2), -c, c), np.where(quarter >= 2, -s, s)


def noise(n: int, seed: int, frame: int, step: int, purpose: int = 0) -> NDArray[np.float32]:
    """(n,) standard normal numbers."""
    groups = (n + 3) // 4
    counter = np.empty((groups, 4), np.uint32)
    counter[:, 0] = np.arange(groups)
    counter[:, 1:] = step, frame, purpose
    w = philox(counter, seed)
    out = np.empty((groups, 4), F)
    for k in (0, 2):
        r, (c, s) = radius(w[:, k].copy()), direction(w[:, k + 1].copy())
        out[:, k], out[:, k + 1] = r * c, r * s
    return out.ravel()[:n]


def step(
    kind: int,
    x: NDArray[np.float32],
    kept: NDArray[np.float32],
    v: NDArray[np.float32],
    free: NDArray[np.float32] | None,
    guidance: float,
    dt: float,
    noise: NDArray[np.float32] | None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """x and kept afterwards; noise already times sigma."""
    if free is not None:
        v = free + F(guidance) * (v - free)
    half = F(0.5) * F(dt)
    if kind == PREDICTOR:
        return x + F(dt) * v, x + half * v
    if kind == START:
        x = np.zeros_like(x)
    else:
        x = x + F(dt) * v if kind == EULER else kept + half * v
    return (x if noise is None else x + noise), kept
