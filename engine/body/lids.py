"""How the skin between brow and lashes follows a lid that shuts.

The body model unfolds it out of a narrow strip at the crease, as real lids do; but a photo of open eyes shows nothing of what is folded away, and a strip
of few pixels stretched to four times its height becomes vertical streaks. So all the skin up to the brow shares the way; where brows lie too low on the
eyes for that, all but the lashes stays, and a lid of its own comes out from under it (`engine/video/lid_skin.py`).
"""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from visavis.engine.body.fit import LIDS, Float64
from visavis.engine.body.model import FloatArray, IntArray

Bytes = npt.NDArray[np.uint8]
BROW_EDGE = {"Left": (276, 283, 282, 295, 285), "Right": (46, 53, 52, 65, 55)}
"""Landmarks along the brows' lower edges, from the temple inwards."""
LASHES = 0.36
"""Share of the way to the brow that goes with the margin as a whole: lashes, their line and what is painted on it."""
STILL = 0.95
"""Share of the way from which on nothing moves."""
MIDDLE = (0.2, 0.8)
"""Of an eye's width, where its height is measured."""
STRIP, STRIPS = 0.08, (0.06, 0.17)
"""Of an eye's width: so high above the margin a lid without skin of its own takes lashes and their line along; where bright skin begins within STRIPS, up to
there."""
PAINT = 0.12
"""Of an eye's width: so high above the margin lashes, and what is painted there, may be dark."""
LOW_BROWS, HAIR_TO_SKIN, HAIRY = 1.4, 0.75, 0.45
"""Height of the brows' lower edges over the upper margins, in heights of the open eyes, below which there is little skin to unfold; none if what lies there
is darker than HAIR_TO_SKIN of the skin below the eye in a share of HAIRY."""


def folded_away(photo: Bytes, landmarks: FloatArray) -> float | None:
    """Does a photo (H, W, 3) show too little skin above the eyes for lids to unfold, since brows lie low on them or in their shade? Then how high above the
    margin lashes reach, in widths of the eye; else None. landmarks (478, 2 or 3) in pixels."""
    heights, ways, dark, lashes = 0.0, 0.0, [], []
    luma = cv2.GaussianBlur(photo, (0, 0), 0.7).astype(np.float32).mean(-1)
    marks = landmarks[:, :2].astype(np.float64)
    for side, lids in LIDS.items():
        upper, lower, brow = marks[list(lids[0])], marks[list(lids[1])], marks[list(BROW_EDGE[side])]
        along = upper[-1] - upper[0]
        width = float(np.linalg.norm(along))
        along = along / width
        up = np.array([along[1], -along[0]])
        up *= np.sign((upper.mean(0) - lower.mean(0)) @ up)
        at = (upper[0] @ along) + np.linspace(*MIDDLE, 9) * width
        edge, top, bottom = (_height(line, at, along, up) for line in (brow, upper, lower))
        heights += float(np.median(top - bottom))
        ways += float(np.median(edge - top))

        def seen(heights: Float64, at: Float64 = at, along: Float64 = along, up: Float64 = up) -> Float64:
            px = at[:, None, None] * along + heights[..., None] * up
            x, y = (px[..., k].astype(np.float32) - np.float32(0.5) for k in (0, 1))
            return np.asarray(cv2.remap(luma, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE))

        skin = np.median(seen(bottom[:, None] - np.linspace(0.12, 0.34, 9) * width))
        start = top + PAINT * width
        zone = start[:, None] + np.linspace(0, 1, 9) * np.maximum(edge - start, 0)[:, None]
        dark.append(float((seen(zone) < HAIR_TO_SKIN * skin).mean()))
        steps = np.linspace(*STRIPS, 9)
        clear = np.median(seen(top[:, None] + steps * width), axis=0) >= HAIR_TO_SKIN * skin
        lashes.append(float(steps[clear.argmax()]) if clear.any() else STRIP)
    if ways < LOW_BROWS * heights and float(np.mean(dark)) > HAIRY:
        return float(np.mean(lashes))
    return None


def _height(line: Float64, at: Float64, along: Float64, up: Float64) -> Float64:
    """How high a line of points (n, 2) lies at places (m,) along a direction."""
    order = np.argsort(line @ along)
    return np.interp(at, (line @ along)[order], (line @ up)[order])


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
    inside = (at > start) & (at < end) & (way > 1.0) & (share > 1e-3) & (share < 1)
    follow = np.clip((STILL - share) / (STILL - LASHES), 0, 1)
    if strip is not None:
        # a strip as wide across where the margin is steep
        places, heights = ordered(margin)
        steep = np.gradient(heights, places)
        reach = strip * (end - start) * np.sqrt(1 + np.interp(at, places, steep) ** 2)
        follow = (height - lowest < reach).astype(np.float64)
    order = np.argsort(place(margin)[0])
    places = place(margin)[0][order]
    moved = np.stack([np.interp(at, places, unit[upper][order, k]) for k in range(3)], 1)
    out = unit.copy()
    out[inside] = (follow[:, None] * moved)[inside]
    return out
