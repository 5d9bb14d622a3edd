"""The skin of a lid that a photo of open eyes does not show: where brows lie low on the eyes there is none to unfold.

Drawn down with the lid, what a photo has there, brows and the rims of glasses, would smear over the shut eye. So it stays but for the lashes
(`engine/body/lids.py`), and between them and what stays a lid comes out: a sheet before the face, of no height while the eye is open.
"""

from __future__ import annotations

import cv2
import numpy as np
from visavis.engine.body.fit import Fit, Float64
from visavis.engine.body.lid_room import BELOW
from visavis.engine.body.model import FloatArray, load_body, rotation_matrix
from visavis.engine.body.sampling import sampled
from visavis.engine.body.surface import Surface
from visavis.engine.body.triangulate import grid_triangles
from visavis.engine.motion.channels import ARKIT
from visavis.engine.video.interior import Bytes, Layer

WIDE, TALL = 96, 48
"""Pixels of the texture."""
ROWS = 5
ABOVE = (-0.02, 0.05)
"""Where what the lid comes out from is looked at, from the lashes up, in widths of the eye."""
LID_TO_SKIN = 0.92
"""Brightness of a lid over that of the skin below the eye."""
OWN = ((0.0, 0.3, 0.7, 1.0), (0.0, 0.55, 0.7, 0.35))
"""Down the lid: how much it is of the colour of skin, and not of what is above it and above the lashes."""
ROUND = 0.10
"""How much darker it is at its corners and at its edges than in its middle, where it lies over the ball."""
GRAIN, COARSEST = 14.0, 0.05
"""Its grain is that of the skin below the eye, finer than a share COARSEST of the eye's width and no stronger than GRAIN (of 255): pores, not lashes."""
BULGE = 0.0012
"""Metres by which the ball under it rounds it."""


def lid_layer(side: str, photo: Bytes, surface: Surface, fit: Fit, strip: float) -> Layer | None:
    """The lid of one side as a sheet before the face, that a blink unfolds above the `strip` of lashes (its height in widths of the eye); None where the
    eye is not on the surface."""
    seam = surface.seam(f"eye{side}")
    if seam is None:
        return None
    down = np.linspace(0, 1, ROWS)
    count = len(seam.upper)
    margin = surface.vertices[seam.upper].astype(np.float64)
    # across the margin, in the plane of the face
    along = np.gradient(margin, axis=0)
    out = np.cross(along, rotation_matrix(fit.rotation)[:, 2])
    out *= np.sign(out[:, 1].sum()) / np.linalg.norm(out, axis=1, keepdims=True)
    edge = margin + strip * float(np.linalg.norm(margin[-1] - margin[0])) * out
    vertices = np.tile(edge, (ROWS, 1)).astype(np.float32)
    units = np.tile(surface.units[:, seam.upper], (1, ROWS, 1)).astype(np.float32)
    blink = ARKIT.index(f"eyeBlink{side}")
    units[blink] *= np.repeat(down, count)[:, None]
    units[blink, :, 2] += np.float32(BULGE) * np.repeat(np.sin(np.pi * down), count)
    u = np.tile(seam.parameter_upper, ROWS) * (WIDE - 1) + 0.5
    v = np.repeat(down, count) * (TALL - 1) + 0.5
    return Layer(
        f"lid{side}", "", load_body().part_id("skin"), vertices, np.stack([u, v], 1).astype(np.float32), grid_triangles(ROWS, count),
        _texture(photo, surface.uv[seam.upper], seam.parameter_upper, surface.uv[seam.lower], seam.parameter_lower, strip),
        np.zeros((4, len(vertices), 3), np.float32), np.zeros(len(vertices), np.float32), np.zeros(3, np.float32), units, front=True,
    )  # fmt: skip


def _texture(
    photo: Bytes,
    upper: FloatArray,
    along_upper: FloatArray,
    lower: FloatArray,
    along_lower: FloatArray,
    strip: float,
) -> Bytes:
    """RGBA (TALL, WIDE), from the fold down to the lashes; margins (n, 2) in the photo and where on them a share of the way lies (n,)."""
    across = np.linspace(0, 1, WIDE)
    top, bottom = (
        np.stack([np.interp(across, along, margin[:, k].astype(np.float64)) for k in (0, 1)], 1)
        for along, margin in ((along_upper, upper), (along_lower, lower))
    )
    width = float(np.linalg.norm(top[-1] - top[0]))
    falls = (bottom - top).mean(0)
    falls = falls / max(float(np.linalg.norm(falls)), 1e-6)

    def seen(edge: Float64, reach: tuple[float, float], steps: int = 9) -> Float64:
        return sampled(photo, edge[:, None] + np.linspace(*reach, steps)[None, :, None] * width * falls)

    def smooth(colour: Float64, share: float) -> Float64:
        return np.asarray(
            cv2.GaussianBlur(colour[None], (0, 0), share * WIDE, borderType=cv2.BORDER_REPLICATE)[0]
        )

    below = seen(bottom, BELOW, TALL)  # (WIDE, TALL, 3)
    grain = below - cv2.GaussianBlur(below, (0, 0), COARSEST * WIDE)
    skin = LID_TO_SKIN * smooth(np.median(below, axis=1), 0.12)
    above = smooth(np.median(seen(top, (-strip - ABOVE[0], -strip - ABOVE[1])), axis=1), 0.06)
    v = (np.arange(TALL) + 0.5)[:, None] / TALL
    own = np.interp(v, *OWN)[..., None]
    shade = 1 - ROUND * own * np.maximum((2 * v[..., None] - 1) ** 2, (2 * across[:, None] - 1) ** 2)
    colour = (above + own * (skin - above)) * shade + own * np.clip(grain, -GRAIN, GRAIN).transpose(1, 0, 2)
    ends = np.clip(np.minimum(across, 1 - across) / 0.03, 0, 1)
    alpha = np.clip(v / 0.25, 0, 1) * np.clip((1 - v) / 0.08, 0, 1) * ends
    return np.dstack([np.clip(colour, 0, 255), 255 * alpha]).astype(np.uint8)
