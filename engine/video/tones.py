"""Photos without colours of their own: black and white, sepia.

What is modelled in them (teeth, tongue, the mouth's dark) must not be coloured either: it takes the tone that the photo gives to its brightness.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import cv2
import numpy as np
import numpy.typing as npt
from visavis.engine.body.surface import Surface
from visavis.engine.video.interior import Layer

if TYPE_CHECKING:
    from visavis.engine.avatar import Avatar

Bytes = npt.NDArray[np.uint8]
BINS = 32
SIDE = 28
"""Pixels across a face at which it is asked whether it has colours: compression blurs and quantises those of its details."""
LEAST = 6
"""Pixels in a bin of brightness from which its colour counts."""
COLOURED = 1.3
"""Mean difference of a channel, in levels, from what its brightness tells, from which on a face has colours. In 357 portraits it is 1.5 in the palest and 2.3 in the
next, 0 in black and white, and 0.4 to 1.2 in one toned in two ways and saved as JPEG at qualities of 97 to 75."""


@dataclass(frozen=True, eq=False)
class Tones:
    """A photo's colour (256, 3) in levels by the brightness of a pixel, the mean of its channels."""

    curve: Bytes

    @classmethod
    def of(cls, face: Bytes) -> Tones | None:
        """Of a picture (h, w, 3) of a face; None where it has colours."""
        by = max(1, round(min(face.shape[:2]) / SIDE))
        height, width = face.shape[0] // by, face.shape[1] // by
        if not height or not width:
            return None
        small = cv2.resize(face[: height * by, : width * by], (width, height), interpolation=cv2.INTER_AREA)
        pixels = small.reshape(-1, 3).astype(np.float64)
        luma = pixels.mean(-1)
        bins = np.minimum(luma * BINS / 256, BINS - 1).astype(int)
        levels, shifts, off, count = [], [], 0.0, 0
        for k in range(BINS):
            own = bins == k
            if own.sum() < LEAST:
                continue
            chroma, level = pixels[own] - luma[own, None], float(luma[own].mean())
            line = np.stack([np.ones(len(chroma)), luma[own] - level], 1)
            usual = np.linalg.lstsq(line, chroma, rcond=None)[0]
            levels.append(level)
            shifts.append(usual[0])
            off += float(np.abs(chroma - line @ usual).mean()) * len(chroma)
            count += len(chroma)
        if not levels or off / count > COLOURED:
            return None
        at = np.arange(256.0)
        shift = np.stack([np.interp(at, levels, np.array(shifts)[:, c]) for c in range(3)], 1)
        return cls(np.clip(np.round(at[:, None] + shift), 0, 255).astype(np.uint8))

    @classmethod
    def of_avatar(cls, avatar: Avatar) -> Tones | None:
        """Of an avatar's photo."""
        return cls.of(face_of(avatar.texture[..., :3], avatar.surface))

    def toned(self, picture: Bytes) -> Bytes:
        """A picture (..., 3) in the photo's tones."""
        return np.asarray(self.curve[np.round(picture.mean(-1)).astype(np.uint8)], np.uint8)

    def layer(self, layer: Layer) -> Layer:
        """A layer in them."""
        return replace(layer, texture=np.dstack([self.toned(layer.texture[..., :3]), layer.texture[..., 3]]))


def face_of(picture: Bytes, surface: Surface) -> Bytes:
    """The piece of a picture (H, W, 3), of the photo's own size, that the surface's face lies in."""
    px = surface.uv[: len(surface.face_of)]
    (x0, y0), (x1, y1) = np.maximum(px.min(0), 0).astype(int), np.ceil(px.max(0)).astype(int)
    return picture[y0:y1, x0:x1]
