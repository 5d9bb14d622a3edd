"""How the skin between brow and lashes follows a lid that shuts.

The body model unfolds it out of a narrow strip at the crease, as real lids do; but a photo of open eyes shows nothing of what is folded away, and a strip
of few pixels stretched to four times its height becomes vertical streaks. So all the skin up to the brow shares the way; where brows lie too low on the
eyes for that, all but the lashes stays, and a lid of its own comes out from under it (`engine/video/lid_skin.py`).
"""

from __future__ import annotations

import numpy as np
from visavis.engine.body.fit import Float64
from visavis.engine.body.model import FloatArray, IntArray

BROW_EDGE = {"Left": (276, 283, 282, 295, 285), "Right": (46, 53, 52, 65, 55)}
"""Landmarks along the brows' lower edges, from the temple inwards."""
LASHES = 0.36
"""Share of the way to the brow that goes with the margin as a whole: lashes, their line and what is painted on it."""
STILL = 0.95
"""Share of the way from which on nothing moves."""
SPREAD = 0.5
"""How much wider what goes with a piece of the margin becomes with its height above it. The margin falls steeply beside the corners, which stay: skin that went
straight down with it would break there, and the crease of the lid with it."""
BEYOND = 0.25
"""Of the eye's width, how far beyond the corners skin goes with the lid."""

_OFFSETS = np.linspace(-2, 2, 9)
_WEIGHTS = np.exp(-(_OFFSETS**2) / 2) / np.exp(-(_OFFSETS**2) / 2).sum()


def share_the_way(
    side: str,
    unit: Float64,
    uv: Float64,
    upper: IntArray,
    landmarks: FloatArray,
    *,
    strip: float | None = None,
) -> Float64:
    """The displacements `unit` (V, 3) of a blink with the skin above the margin `upper` (n,) following it by its height, or a `strip` of it alone, as high as
    that in widths of the eye.

    uv (V, 2): vertices' pixels; landmarks (478, 2 or 3) in the same picture. Gives new displacements; elsewhere they stay.
    """
    margin = uv[upper]
    along = margin[-1] - margin[0]
    along = along / np.linalg.norm(along)
    brow = landmarks[list(BROW_EDGE[side]), :2].astype(np.float64)
    up = np.array([along[1], -along[0]])
    if (brow.mean(0) - margin.mean(0)) @ up < 0:
        up = -up

    def place(points: Float64) -> tuple[Float64, Float64]:
        away = points - margin[0]
        return away @ along, away @ up

    def ordered(points: Float64) -> tuple[Float64, Float64]:
        at, height = place(points)
        order = np.argsort(at)
        return at[order], height[order]

    at, height = place(uv)
    lowest = np.interp(at, *ordered(margin))
    way = np.interp(at, *ordered(brow)) - lowest
    start, end = sorted((0.0, float((margin[-1] - margin[0]) @ along)))
    share = (height - lowest) / np.maximum(way, 1e-6)
    beyond = np.maximum(0, np.maximum(start - at, at - end)) / (BEYOND * (end - start))
    inside = (beyond < 1) & (way > 1.0) & (share > 1e-3) & (share < 1)
    follow = np.clip((STILL - share) / (STILL - LASHES), 0, 1)
    if strip is not None:
        # a strip as wide across where the margin is steep
        places, heights = ordered(margin)
        steep = np.gradient(heights, places + 1e-6 * np.arange(len(places)))
        reach = strip * (end - start) * np.sqrt(1 + np.interp(at, places, steep) ** 2)
        follow = (height - lowest < reach).astype(np.float64)
    order = np.argsort(place(margin)[0])
    places = place(margin)[0][order]
    wide = SPREAD * (height - lowest)
    moved = np.zeros((len(at), 3))
    for offset, weight in zip(_OFFSETS, _WEIGHTS, strict=True):
        x = at + offset * wide
        moved += weight * np.stack([np.interp(x, places, unit[upper][order, k]) for k in range(3)], 1)
    own = beyond[:, None]
    out = unit.copy()
    out[inside] = ((1 - own) * follow[:, None] * moved + own * unit)[inside]
    return out
