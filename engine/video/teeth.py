"""Teeth: told from lips in a photo, and modelled where it shows none.

The model is one curved sheet a row, painted with teeth of mean widths, their gaps, and the shade in which they stand.
"""

from __future__ import annotations

import cv2
import numpy as np
from visavis.engine.body.fit import Float64
from visavis.engine.body.model import IntArray
from visavis.engine.body.triangulate import grid_triangles
from visavis.engine.video.interior import Bytes
from visavis.engine.video.tooth_rows import Field

TOOTH_TO_SKIN = np.array([1.0, 1.19, 1.26])
"""Colour of front teeth over that of the cheeks. In smiling portraits it is 1.01, 1.27, 1.34 (46 of them). In films of twelve speakers a row modelled by 0.98, 1.22, 1.32
was brighter and whiter than what is seen there, by 0.9, 0.7, 0.7 in the median, part of it lip and tongue in its place; but by 0.92, 1.07, 1.13, which is nearer to films
(mean error about the lips of the warp alone 0.0339 against 0.0345; with the video network it is the same), sharp portraits have grey teeth."""
UPPER_SIZE, LOWER_SIZE = 0.96, 0.86
"""Of the two rows, over the ellipse below."""
ARCH, ARCH_REACH = (0.027, 0.034), 1.25
"""Half axes, across and deep, in metres of the ellipse on which teeth stand, and how far round it they go to either side, in radians."""
OWN_LIGHTER = 1.06
"""Modelled teeth of a person's own colour over what the photo shows of it: the texture's gaps and curves take some of the light."""


def is_tooth(colour: Float64, skin: Float64, lips: Float64) -> bool:
    """Is the colour of what parted lips show that of teeth: bright, and less red than the skin or at least than the lips?

    In 276 of 310 portraits with parted lips it is less red than the cheeks. Coloured light and rouge hide that in another 17, whose teeth differ from their
    lips as those of the others do: at most 0.91 as red; what is taken for an opening where lips are shut, 0.93 and above.
    """
    red, red_skin, red_lips = (float(c[0] / max(c[1], 0.01)) for c in (colour, skin, lips))
    beside_skin = red < 0.92 * red_skin and colour.mean() > 0.75 * skin.mean()
    beside_lips = red < 0.92 * red_lips and colour.mean() > 0.93 * lips.mean()
    return bool(beside_skin or beside_lips)


def lips_colour(picture: Bytes, inside: Field) -> Float64:
    """Median colour (3,) in 0..1 of the lips about the opening `inside` (h, w) of a picture (h, w, 3)."""
    opening = (inside > 0.5).astype(np.uint8)
    reach = max(2, round(0.06 * picture.shape[1]))
    near = cv2.dilate(opening, np.ones((3, 2 * (2 * reach // 3) + 1)))
    lips = (cv2.dilate(opening, np.ones((2 * reach + 1, 2 * reach + 1))) > 0) & (near == 0)
    return np.asarray(np.median(picture[lips].astype(np.float64), 0) / 255)


def teeth_colour(picture: Bytes, inside: Field) -> Float64 | None:
    """Colour (3,) in 0..1 of the teeth in a picture (h, w, 3) whose opening covers `inside` (h, w); None where it shows too few.

    Teeth are the brighter half of what lies well inside, and of that the least red.
    """
    core = cv2.erode(inside, np.ones((3, 3))) > 0.95
    if core.sum() < 24:
        return None
    rgb = picture[core].astype(np.float64) / 255
    luma = rgb.mean(-1)
    redness = (rgb[:, 0] - 0.5 * (rgb[:, 1] + rgb[:, 2])) / (luma + 0.02)
    bright = luma >= np.quantile(luma, 0.5)
    teeth = bright & (redness <= float(np.quantile(redness[bright], 0.35)) + 0.06)
    # narrow openings show teeth half in the lips' shade and mixed with them
    return None if teeth.sum() < 12 else np.quantile(rgb[teeth], 0.7, axis=0)


def enamel_of(light: Float64) -> Float64:
    """Colour (3,) in 0..1 of teeth that nobody has seen, in the light (3,) in which the cheeks are."""
    enamel = np.clip(light * TOOTH_TO_SKIN, 0.3, 0.92)
    return np.minimum(enamel, enamel[0] * np.array([1.0, 0.96, 0.88]))  # never bluish


def dental_arch(edge: float, upper: bool) -> tuple[Float64, Float64, IntArray]:
    """A curved sheet in head axes, x about 0, front at z = 0: the visible face of one dental arch, 512 x 64 texture."""
    size = UPPER_SIZE if upper else LOWER_SIZE
    angle = np.linspace(-ARCH_REACH, ARCH_REACH, 21)
    a, b = (axis * size for axis in ARCH)
    x, z = a * np.sin(angle), -b * (1 - np.cos(angle))
    height = 0.0125 * size
    ys = np.linspace(edge + height, edge, 4) if upper else np.linspace(edge, edge - height, 4)
    points = np.stack([np.tile(x, 4), np.repeat(ys, 21), np.tile(z, 4)], 1)
    arc = np.concatenate([[0], np.cumsum(np.hypot(np.diff(x), np.diff(z)))])
    u = arc / arc[-1] * 510 + 1
    uv = np.stack([np.tile(u, 4), np.repeat(np.linspace(1, 63, 4), 21)], 1)
    return points, uv, grid_triangles(4, 21)


def teeth_texture(upper: bool, enamel: Float64, light: Float64, *, smiling: bool) -> Bytes:
    """RGBA (64, 512): a row of teeth of colour `enamel` (3,) with rounded edges on gums; alpha cuts their silhouette.

    smiling: `enamel` is what a mouth that shows its teeth has, and they are lit as there: in 45 smiling portraits half way to the corner of the mouth
    teeth are still 0.87 as bright as in the middle, at seven tenths 0.6.
    """
    widths = np.array([8.6, 6.8, 7.6, 7.0, 6.8, 9.5]) if upper else np.array([5.4, 6.0, 6.9, 7.1, 7.2, 9.5])
    # distance along the arch from the middle, in millimetres: half an ellipse of the sheet above
    theta = np.linspace(0, ARCH_REACH, 400)
    a, b = (1000 * axis * (UPPER_SIZE if upper else LOWER_SIZE) for axis in ARCH)
    arc = np.concatenate([[0], np.cumsum(np.hypot(np.diff(a * np.sin(theta)), np.diff(b * np.cos(theta))))])
    total = float(arc[-1])
    s = np.abs(np.linspace(-total, total, 512))
    ends = np.cumsum(widths)
    tooth = np.clip(np.searchsorted(ends, s), 0, len(widths) - 1)
    start = np.concatenate([[0], ends])[tooth]
    within = np.clip((s - start) / widths[tooth], 0, 1) * 2 - 1  # -1..1 across a tooth
    v = (np.arange(64) + 0.5) / 64  # 0 at the top of the sheet
    along = v if upper else 1 - v  # 0 at the gum, 1 at the biting edge
    length = (
        np.array([0.97, 0.93, 0.97, 0.91, 0.88, 0.84])[tooth]
        if upper
        else np.array([0.93, 0.94, 0.97, 0.93, 0.89, 0.86])[tooth]
    )
    # incisors' edges are nearly straight, the notches between them half a millimetre deep
    tip = length - 0.045 * np.abs(within) ** 6 - 0.01 * within**2
    alpha = np.clip((tip[None] - along[:, None]) * 40 + 0.5, 0, 1)
    gum_line = 0.30 + 0.10 * np.abs(within) ** 3
    gum = np.clip((gum_line[None] - along[:, None]) * 25 + 0.5, 0, 1)
    notch = 0.22 if upper else 0.09
    gap = 1 - notch * np.exp(-(((1 - np.abs(within)) * widths[tooth] / 0.5) ** 2))
    curve = 1 - (0.10 if smiling else 0.16) * within**2
    # the back lies in the cheeks' shade
    fall = (s / total) ** 2.3 if smiling else (s / total) ** 1.1 * 0.95 - 0.02
    depth = np.clip(1 - fall, 0.08, 1)
    # the lower row stands in the lower lip's shade
    vertical = (0.62 if upper else 0.72) + (0.33 if upper else 0.24) * np.clip((along - 0.25) / 0.6, 0, 1)
    flesh = np.array([0.55, 0.27, 0.26]) * light
    white = enamel * (gap * curve * depth)[None, :, None] * vertical[:, None, None]
    pink = flesh * depth[None, :, None] * np.ones((64, 1, 1))
    colour = white * (1 - gum[..., None]) + pink * gum[..., None]
    return np.dstack([np.clip(colour, 0, 1) * 255, alpha * 255]).astype(np.uint8)
