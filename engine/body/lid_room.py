"""Is there room for a lid in a photo of open eyes, between lashes and brows?

Where brows lie low, in deep shade or behind the rim of glasses there is no skin that could go down with a lid: what is there would smear over the shut eye.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
from visavis.engine.body.fit import LIDS, Float64
from visavis.engine.body.lids import BROW_EDGE
from visavis.engine.body.model import FloatArray
from visavis.engine.body.sampling import sampled

Bytes = npt.NDArray[np.uint8]
MIDDLE = (0.2, 0.8)
"""Of an eye's width, where its height is measured."""
BELOW = (0.12, 0.34)
"""Where the skin below an eye is looked at, from the lower margin down, in widths of the eye."""
STRIP, STRIPS = 0.08, (0.06, 0.17)
"""Of an eye's width: so high above the margin a lid without skin of its own takes lashes and their line along; where bright skin begins within STRIPS, up to
there."""
RIM_TO_SKIN, RIM_ABOVE, RIM_BELOW, BESIDE = 0.8, 0.10, 0.75, (0.06, 0.08)
"""How dark a line above an eye must be in four fifths of its width to be taken for a rim; where it may lie, from so many widths of the eye above the margin to
that share of the way to the brow; and how far below and above that skin is looked at, in widths of the eye."""
PAINT = 0.12
"""Of an eye's width: so high above the margin lashes, and what is painted there, may be dark."""
LOW_BROWS, HAIR_TO_SKIN, HAIRY = 2.3, 0.75, 0.45
"""Height of the brows' lower edges over the upper margins, in heights of the open eyes, below which there is little skin to unfold; none if what lies there
is darker than HAIR_TO_SKIN of the skin below the eye in a share of HAIRY."""


def folded_away(photo: Bytes, landmarks: FloatArray) -> float | None:
    """Does a photo (H, W, 3) show too little skin above the eyes for lids to unfold: brows lie low on them or in their shade, or the rim of glasses before
    it? Then how high above the margin lashes reach, in widths of the eye; else None. landmarks (478, 2 or 3) in pixels."""
    luma = cv2.GaussianBlur(photo, (0, 0), 0.7).astype(np.float32).mean(-1)
    eyes = [_Eye.of(luma, landmarks[:, :2].astype(np.float64), side) for side in LIDS]
    low = sum(eye.way for eye in eyes) < LOW_BROWS * sum(eye.height for eye in eyes)
    hairy = low and float(np.mean([eye.dark() for eye in eyes])) > HAIRY
    if not hairy and min(eye.rim() for eye in eyes) >= RIM_TO_SKIN:
        return None
    return float(np.mean([eye.lashes() for eye in eyes]))


@dataclass(frozen=True, eq=False)
class _Eye:
    """One eye of a photo's brightness `luma` (H, W): the direction along it and up (2,), where it begins along, its width in pixels, outlines (n, 2) of
    brow and margins, and how bright the skin below it is."""

    luma: npt.NDArray[np.float32]
    along: Float64
    up: Float64
    start: float
    width: float
    lines: tuple[Float64, Float64, Float64]
    skin: float = 1.0

    @classmethod
    def of(cls, luma: npt.NDArray[np.float32], marks: Float64, side: str) -> _Eye:
        upper, lower, brow = (
            marks[list(LIDS[side][0])],
            marks[list(LIDS[side][1])],
            marks[list(BROW_EDGE[side])],
        )
        width = max(float(np.linalg.norm(upper[-1] - upper[0])), 1e-3)  # an eye may be turned away
        along = (upper[-1] - upper[0]) / width
        up = np.array([along[1], -along[0]])
        up *= np.sign((upper.mean(0) - lower.mean(0)) @ up)
        eye = cls(luma, along, up, float(upper[0] @ along), width, (brow, upper, lower))
        at, (_, _, bottom) = eye.places(MIDDLE)
        return replace(
            eye, skin=float(np.median(eye.seen(at, bottom[:, None] - np.linspace(*BELOW, 9) * width)))
        )

    def places(self, reach: tuple[float, float], count: int = 9) -> tuple[Float64, list[Float64]]:
        """Places along the eye (n,), and there the heights (n,) of brow, upper and lower margin."""
        at = self.start + np.linspace(*reach, count) * self.width
        return at, [_height(line, at, self.along, self.up) for line in self.lines]

    def seen(self, at: Float64, heights: Float64) -> Float64:
        """Brightness (n, m) at heights (n, m) over places (n,)."""
        return sampled(self.luma, at[:, None, None] * self.along + heights[..., None] * self.up)

    @property
    def height(self) -> float:
        """Between the margins."""
        _, (_, top, bottom) = self.places(MIDDLE)
        return float(np.median(top - bottom))

    @property
    def way(self) -> float:
        """From the margin to the brow."""
        _, (brow, top, _) = self.places(MIDDLE)
        return float(np.median(brow - top))

    def dark(self) -> float:
        """The share of what lies between lashes and brow that is as dark as hair."""
        at, (brow, top, _) = self.places(MIDDLE)
        first = top + PAINT * self.width
        zone = self.seen(at, first[:, None] + np.linspace(0, 1, 9) * np.maximum(brow - first, 0)[:, None])
        return float((zone < HAIR_TO_SKIN * self.skin).mean())

    def lashes(self) -> float:
        """How high they reach, in widths of the eye."""
        at, (_, top, _) = self.places(MIDDLE)
        steps = np.linspace(*STRIPS, 9)
        clear = (
            np.median(self.seen(at, top[:, None] + steps * self.width), axis=0) >= HAIR_TO_SKIN * self.skin
        )
        return float(steps[clear.argmax()]) if clear.any() else STRIP

    def rim(self) -> float:
        """How bright the darkest line is that runs above the eye from beyond one corner to beyond the other, over the darker of what lies on either side."""
        at, (brow, top, _) = self.places((-0.15, 1.15), 21)
        lid = float(np.median(top[5:-5]))
        low = lid + RIM_ABOVE * self.width
        high = max(lid + RIM_BELOW * float(np.median((brow - top)[5:-5])), low + BESIDE[1] * self.width)
        heights = np.linspace(low - BESIDE[0] * self.width, high + BESIDE[1] * self.width, 33)
        zone = self.seen(at, np.tile(heights, (len(at), 1)))
        beside = np.minimum(np.maximum.accumulate(zone, 1), np.maximum.accumulate(zone[:, ::-1], 1)[:, ::-1])
        return float(np.quantile((zone / np.maximum(beside, 1)).min(1), 0.8))


def _height(line: Float64, at: Float64, along: Float64, up: Float64) -> Float64:
    """How high a line of points (n, 2) lies at places (m,) along a direction."""
    order = np.argsort(line @ along)
    return np.asarray(np.interp(at, (line @ along)[order], (line @ up)[order]))
