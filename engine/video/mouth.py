"""The inside of the mouth: cavity, tongue, teeth.

Built from the body model's proportions and shaded by the person's light; where the photo shows teeth, those pixels are kept and stay
with the skull.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from visavis.engine.body.fit import FLIP, Fit, Float64
from visavis.engine.body.meet import FittedHead
from visavis.engine.body.model import IntArray, load_body, rotation_matrix
from visavis.engine.body.surface import Seam, Surface
from visavis.engine.body.triangulate import grid_triangles
from visavis.engine.motion.channels import ARKIT
from visavis.engine.video.interior import (
    JAW_UNITS,
    Bytes,
    Layer,
    fill_polygon,
    opening_polygon,
)
from visavis.engine.video.sheets import on_plane, sheet
from visavis.engine.video.tooth_rows import Field, ToothRows, part_rows

_Opening = tuple[Bytes, Field, Float64, int, int]

TOOTH_TO_SKIN = np.array([1.0, 1.19, 1.26])
"""Colour of front teeth over that of the cheeks. In smiling portraits it is 1.01, 1.27, 1.34 (46 of them). In films of twelve speakers a row modelled by 0.98, 1.22, 1.32
was brighter and whiter than what is seen there, by 0.9, 0.7, 0.7 in the median, part of it lip and tongue in its place; but by 0.92, 1.07, 1.13, which is nearer to films
(mean error about the lips of the warp alone 0.0339 against 0.0345; with the video network it is the same), sharp portraits have grey teeth."""
OWN_LIGHTER = 1.06
"""Modelled teeth of a person's own colour over what the photo shows of it: the texture's gaps and curves take some of the light."""
TONGUE = np.array([0.92, 0.62, 0.59])
"""Colour of the tongue's brightest spot in white light as bright as the cheeks'; most of it lies in shade."""
CAVITY_TO_SKIN = np.array([0.50, 0.31, 0.30])
"""Colour of what lies behind teeth and tongue, at the top. Films show less black between the teeth than one would draw: twelve speakers' pixels where
tongue and cavity had been modelled in the dark (0.26, 0.10, 0.08 in the median) were 0.51, 0.33, 0.22, most of them tongue."""
TONGUE_JAW = 0.33
"""How far the tongue's back goes with the jaw. In speech it stays up near the teeth while the jaw falls."""
TONGUE_WIDTH = 1.15
"""Over the body model's, whose tongue lies at rest."""
TONGUE_SIDES = 0.45
"""Share of its half width over which it fades into the dark at its sides."""
TONGUE_FRONT_SHADE, TONGUE_GROOVE = 0.3, 0.12
"""Share of its light that the tongue's front lacks a centimetre below its highest point, and the groove along its middle."""
TONGUE_BELOW, TONGUE_BEHIND = 0.0018, 0.0135
"""Metres from the line of the lips to the tongue's highest and its foremost point."""

SHUT = 0.0008
"""Metres between lips up to which a photo shows nothing between them."""
PARTED, WELL_PARTED = 0.0010, 0.0025
"""Metres between lips from which on a photo that shows no teeth between them begins to tell, and tells, that none reach there: modelled upper ones stay above
the upper lip's margin, lower ones below the other's. In films of twelve speakers a dark gap that stays where it is, without a row of teeth in it, takes 6 and
10 % off the error about the lips."""
UPPER_BEHIND, LOWER_BEHIND = 0.004, 0.006
"""Metres from the line of the lips to the front of the photo's upper and lower teeth."""
LOWER_DARKEST = 0.85
"""Of the upper row's colour, modelled lower teeth where the photo shows the lip's shade on its own."""
SINKING = 4.0
"""How much faster than the jaw the dark between a photo's rows of teeth goes down."""


def _is_tooth(colour: Float64, skin: Float64, lips: Float64) -> bool:
    """Is the colour of what parted lips show that of teeth: bright, and less red than the skin or at least than the lips?

    In 276 of 310 portraits with parted lips it is less red than the cheeks. Coloured light and rouge hide that in another 17, whose teeth differ from their
    lips as those of the others do: at most 0.91 as red; what is taken for an opening where lips are shut, 0.93 and above.
    """
    red, red_skin, red_lips = (float(c[0] / max(c[1], 0.01)) for c in (colour, skin, lips))
    beside_skin = red < 0.92 * red_skin and colour.mean() > 0.75 * skin.mean()
    beside_lips = red < 0.92 * red_lips and colour.mean() > 0.93 * lips.mean()
    return bool(beside_skin or beside_lips)


def _lips_colour(picture: Bytes, inside: Field) -> Float64:
    """Median colour (3,) in 0..1 of the lips about the opening `inside` (h, w) of a picture (h, w, 3)."""
    opening = (inside > 0.5).astype(np.uint8)
    reach = max(2, round(0.06 * picture.shape[1]))
    near = cv2.dilate(opening, np.ones((3, 2 * (2 * reach // 3) + 1)))
    lips = (cv2.dilate(opening, np.ones((2 * reach + 1, 2 * reach + 1))) > 0) & (near == 0)
    return np.asarray(np.median(picture[lips].astype(np.float64), 0) / 255)


def skin_light(photo: Bytes, fit: Fit, head: FittedHead) -> Float64:
    """Median colour of the cheeks (3,) in 0..1: how bright and how warm the person's light is."""
    body = load_body()
    marks = body.at_landmarks(head.vertices.astype(np.float32)).astype(np.float64)[
        [50, 101, 118, 280, 330, 347, 205, 425]
    ]
    px = np.clip(fit.camera.project(marks @ FLIP.T), 0, [photo.shape[1] - 1, photo.shape[0] - 1]).astype(int)
    return np.median(photo[px[:, 1], px[:, 0]].astype(np.float64), 0) / 255


@dataclass(frozen=True)
class _Lips:
    """Where lips are, in the head's own axes (metres): the line on which they meet at rest, its foremost point, middle and width, and how high
    each margin is in the photo, which may show them parted; `wide`: the photo's mouth."""

    front: float
    middle: float
    width: float
    rest_y: float
    upper_y: float
    lower_y: float
    wide: float

    @classmethod
    def of(cls, surface: Surface, seam: Seam, turn: Float64) -> _Lips:
        """`turn` (3, 3): the head's axes in the world."""
        motion = np.tensordot(surface.rest_motion.astype(np.float64), surface.units, 1)
        rest = (surface.vertices.astype(np.float64) + motion) @ turn
        now = surface.vertices @ turn
        line = np.concatenate([rest[seam.upper], rest[seam.lower]])
        both = np.concatenate([now[seam.upper], now[seam.lower]])

        def height(margin: Float64) -> float:
            return float(np.median(margin[len(margin) // 4 : -len(margin) // 4, 1]))

        return cls(
            float(line[:, 2].max()), float(line[:, 0].mean()), float(np.ptp(line[:, 0])), height(rest[seam.upper]),
            height(now[seam.upper]), height(now[seam.lower]), float(np.ptp(both[:, 0])),
        )  # fmt: skip

    @property
    def parted(self) -> float:
        """How far the photo's lips are apart."""
        return self.upper_y - self.lower_y


@dataclass(frozen=True, eq=False)
class _Shown:
    """What a photo shows between parted lips: the piece of it, the colour of its teeth (3,), their rows and the biting edge of its lower ones in the
    head's own axes; None for what it does not show. `empty`: how surely it shows that no upper teeth reach between the lips, 0..1."""

    opening: _Opening | None = None
    teeth: Float64 | None = None
    rows: ToothRows | None = None
    lower_edge: float | None = None
    empty: float = 0.0

    @classmethod
    def by(
        cls,
        photo: Bytes,
        surface: Surface,
        seam: Seam,
        rim: Field,
        lips: _Lips,
        fit: Fit,
        turn: Float64,
        light: Float64,
    ) -> _Shown:
        """`light` (3,): `skin_light`."""
        if lips.parted <= SHUT:
            return cls()
        opening = _opening(photo, surface, seam, rim)
        teeth = teeth_colour(*opening[:2])
        if teeth is None or not _is_tooth(teeth, light, _lips_colour(*opening[:2])):
            return cls(opening, empty=_ramp(lips.parted, PARTED, WELL_PARTED))
        rows = part_rows(*opening[:2])
        edge = None
        if rows.lower_edge is not None:
            at = np.array([opening[2][:, 0].mean(), opening[4] + rows.lower_edge])
            edge = float((on_plane(at[None], fit, lips.front - LOWER_BEHIND, turn) @ turn)[0, 1])
        return cls(opening, teeth, rows, edge)


def mouth_layers(photo: Bytes, surface: Surface, head: FittedHead, fit: Fit, rim: Field) -> list[Layer]:
    """Cavity, tongue, lower teeth, upper teeth and the photo's own teeth, back to front; empty when the mouth is not on the surface. `rim` (H, W): the
    photo's `dark_rim`."""
    seam = surface.seam("mouth")
    if seam is None:
        return []
    turn = rotation_matrix(fit.rotation)
    light = skin_light(photo, fit, head)
    tint = light / light.max()
    inner_light = float(np.clip(light.max() * 1.08, 0.25, 1.0)) * (0.6 + 0.4 * tint / tint.mean())
    jaw = np.stack([head.units[ARKIT.index(name)] for name in JAW_UNITS])
    lower_ids = load_body().part_vertices("lowerTeeth")
    jaw_front = _front(head.vertices[lower_ids] @ turn, jaw[:, lower_ids])

    lips = _Lips.of(surface, seam, turn)
    shown = _Shown.by(photo, surface, seam, rim, lips, fit, turn, light)
    layers = [_cavity(lips, light, turn), _tongue(head, turn, lips, inner_light, jaw)]
    layers.append(_teeth(False, lips, shown, light, inner_light, jaw_front, turn))
    if shown.teeth is None:  # otherwise the photo's own
        layers.append(_teeth(True, lips, shown, light, inner_light, np.zeros((4, 3)), turn))
    if shown.opening is not None:
        sinking = SINKING * jaw[:, lower_ids].mean(1)
        layers += _photo_teeth(shown.opening, shown.rows, seam, fit, lips.front, turn, jaw_front, sinking)
    return layers


def _cavity(lips: _Lips, light: Float64, turn: Float64) -> Layer:
    """A sheet behind everything, nearly black with warm edges."""
    half = 0.8 * max(lips.width, lips.wide)
    gx, gy = np.meshgrid(np.linspace(-half, half, 5), np.linspace(0.012, -0.055, 7))
    # wide where the corners of the mouth go, narrow below, where it would look out beside chin and neck
    gx *= np.interp(-gy, [0.012, 0.030], [1.0, 0.6])
    points = np.stack(
        [lips.middle + gx.ravel(), lips.rest_y + gy.ravel(), np.full(gx.size, lips.front - 0.030)], 1
    )
    shade = np.linspace(0.9, 0.5, 32)[:, None, None] * CAVITY_TO_SKIN * 255 * light
    texture = np.dstack([np.broadcast_to(shade, (32, 32, 3)), np.full((32, 32), 255)]).astype(np.uint8)
    u, v = np.meshgrid(np.linspace(1, 31, 5), np.linspace(1, 31, 7))
    uv = np.stack([u.ravel(), v.ravel()], 1)
    return sheet(turn, "cavity", points, uv, grid_triangles(7, 5), texture, np.zeros((4, 3)), "tongue")


def _teeth(
    upper: bool, lips: _Lips, shown: _Shown, light: Float64, inner_light: Float64, jaw: Float64, turn: Float64
) -> Layer:
    """A modelled row, in the colour of the photo's teeth where it shows any."""
    if shown.teeth is not None:
        # lighter than seen: the texture shades them once more
        enamel = np.clip(shown.teeth * OWN_LIGHTER, 0, 0.97)
    else:
        enamel = np.clip(light * TOOTH_TO_SKIN, 0.3, 0.92)
        enamel = np.minimum(enamel, enamel[0] * np.array([1.0, 0.96, 0.88]))  # never bluish
    # biting edges: the upper a little below the lips' line at rest, the lower close behind it; a smile that shows the upper row
    # pulls the lower lip down without the jaw, and the lower row stays behind it
    if upper:
        edge = lips.rest_y - 0.0008
        edge += shown.empty * max(0.0, lips.upper_y - edge)
    elif shown.lower_edge is not None:
        edge = shown.lower_edge - 0.0003
    elif shown.teeth is not None:
        edge = min(lips.rest_y - 0.0045, lips.lower_y - 0.0015)
    else:
        edge = min(lips.rest_y - 0.0017, lips.lower_y + 0.0008)
        edge -= shown.empty * max(0.0, edge - lips.lower_y)
    lit = 1.0 if shown.rows is None else float(np.clip(shown.rows.lower_light, LOWER_DARKEST, 1))
    points, uv, triangles = _dental_arch(edge, upper, 0.96 if upper else 0.86)
    points = points + [lips.middle, 0, lips.front - (0.0055 if upper else 0.0085)]
    texture = _teeth_texture(upper, lit * enamel, inner_light, smiling=shown.teeth is not None)
    part = "upperTeeth" if upper else "lowerTeeth"
    return sheet(turn, part, points, uv, triangles, texture, jaw, part)


def _ramp(value: float, start: float, end: float) -> float:
    return float(np.clip((value - start) / (end - start), 0, 1))


def _front(points: Float64, deltas: Float64) -> Float64:
    """Displacements (4, 3) of the front of a dental arch, points (V, 3) with displacements (4, V, 3): the jaw turns about the ears, its front
    teeth go further than the molars."""
    near = points[:, 2] >= np.quantile(points[:, 2], 0.85)
    return np.asarray(deltas[:, near].mean(1))


def _dental_arch(edge: float, upper: bool, size: float) -> tuple[Float64, Float64, IntArray]:
    """A curved sheet in head axes, x about 0, front at z = 0: the visible face of one dental arch, 512 x 64 texture."""
    angle = np.linspace(-1.25, 1.25, 21)
    a, b = 0.027 * size, 0.034 * size
    x, z = a * np.sin(angle), -b * (1 - np.cos(angle))
    height = 0.0125 * size
    ys = np.linspace(edge + height, edge, 4) if upper else np.linspace(edge, edge - height, 4)
    points = np.stack([np.tile(x, 4), np.repeat(ys, 21), np.tile(z, 4)], 1)
    arc = np.concatenate([[0], np.cumsum(np.hypot(np.diff(x), np.diff(z)))])
    u = arc / arc[-1] * 510 + 1
    uv = np.stack([np.tile(u, 4), np.repeat(np.linspace(1, 63, 4), 21)], 1)
    return points, uv, grid_triangles(4, 21)


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


def _teeth_texture(upper: bool, enamel: Float64, light: Float64, *, smiling: bool) -> Bytes:
    """RGBA (64, 512): a row of teeth of colour `enamel` (3,) with rounded edges on gums; alpha cuts their silhouette.

    smiling: `enamel` is what a mouth that shows its teeth has, and they are lit as there: in 45 smiling portraits half way to the corner of the mouth
    teeth are still 0.87 as bright as in the middle, at seven tenths 0.6.
    """
    widths = np.array([8.6, 6.8, 7.6, 7.0, 6.8, 9.5]) if upper else np.array([5.4, 6.0, 6.9, 7.1, 7.2, 9.5])
    # distance along the arch from the middle, in millimetres: half an ellipse of the sheet above
    theta = np.linspace(0, 1.25, 400)
    size = 0.96 if upper else 0.86
    arc = np.concatenate(
        [[0], np.cumsum(np.hypot(np.diff(27 * size * np.sin(theta)), np.diff(34 * size * np.cos(theta))))]
    )
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


def _tongue(head: FittedHead, turn: Float64, lips: _Lips, light: Float64, jaw_deltas: Float64) -> Layer:
    """The body model's tongue as a shaded blob: colour baked a vertex into a strip texture."""
    body = load_body()
    ids = body.part_vertices("tongue")
    local = {int(v): k for k, v in enumerate(ids)}
    triangles = np.array(
        [[local[int(v)] for v in t] for t in body.triangles[body.part == body.part_id("tongue")]], np.int32
    )
    points = head.vertices[ids] @ turn
    points[:, 0] = lips.middle + TONGUE_WIDTH * (points[:, 0] - points[:, 0].mean())
    points[:, 1] += (lips.rest_y - TONGUE_BELOW) - points[:, 1].max()
    points[:, 2] += (lips.front - TONGUE_BEHIND) - points[:, 2].max()
    normal = np.zeros_like(points)
    n = np.cross(
        points[triangles[:, 1]] - points[triangles[:, 0]], points[triangles[:, 2]] - points[triangles[:, 0]]
    )
    for k in range(3):
        np.add.at(normal, triangles[:, k], n)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12
    inward = np.clip((points[:, 2] - points[:, 2].min()) / np.ptp(points[:, 2]), 0, 1) ** 1.5
    shade = (0.35 + 0.65 * np.clip(normal @ np.array([0.1, 0.75, 0.65]), 0, 1)) * (0.25 + 0.75 * inward)
    # its front stands in the lower teeth's shade, and a groove runs along its middle
    shade *= 1 - TONGUE_FRONT_SHADE * np.clip((points[:, 1].max() - points[:, 1]) / 0.010, 0, 1)
    shade *= 1 - TONGUE_GROOVE * np.exp(-(((points[:, 0] - lips.middle) / 0.003) ** 2))
    # where it turns away from the mouth's opening, or in the photo from the viewer, it fades into the dark behind it
    facing = np.clip(np.minimum(normal[:, 2], normal @ turn[2]) / 0.3, 0, 1)
    # and towards its sides, where the teeth's shade lies on it
    beside = np.abs(points[:, 0] - lips.middle) / np.abs(points[:, 0] - lips.middle).max()
    facing = facing * np.clip((1 - beside) / TONGUE_SIDES, 0, 1)
    strip = np.minimum(np.linspace(0, 1, 64)[:, None, None] * TONGUE * light * 255, 255)
    alpha = np.linspace(0, 255, 64)[None].repeat(64, 0)
    texture = np.dstack([np.broadcast_to(strip, (64, 64, 3)), alpha]).astype(np.uint8)
    uv = np.stack([np.clip(facing * 64, 0.5, 63.5), np.clip(shade * 64, 0.5, 63.5)], 1)
    return sheet(turn, "tongue", points, uv, triangles, texture, TONGUE_JAW * jaw_deltas[:, ids], "tongue")


def _opening(photo: Bytes, surface: Surface, seam: Seam, rim: Field) -> _Opening:
    """The piece of the photo about the parted lips (h, w, 3), coverage of the opening and its dark rim (h, w), its outline (n, 2) in the photo, and the
    piece's corner x0, y0."""
    polygon = opening_polygon(seam, surface.uv.astype(np.float64))
    low, high = polygon.min(0), polygon.max(0)
    margin = 0.12 * float(high[0] - low[0])
    x0, y0 = (int(v) for v in np.floor(low - margin))
    x1, y1 = (int(v) for v in np.ceil(high + margin))
    rows = np.clip(np.arange(y0, y1), 0, photo.shape[0] - 1)
    columns = np.clip(np.arange(x0, x1), 0, photo.shape[1] - 1)
    piece = photo[np.ix_(rows, columns)].copy()
    inside = np.maximum(fill_polygon(polygon - [x0, y0], (y1 - y0, x1 - x0)), rim[np.ix_(rows, columns)])
    return piece, inside, polygon, x0, y0


def _photo_teeth(
    opening: _Opening,
    rows: ToothRows | None,
    seam: Seam,
    fit: Fit,
    front: float,
    turn: Float64,
    jaw: Float64,
    sinking: Float64,
) -> list[Layer]:
    """What the photo shows between parted lips, as sheets, back to front: the dark between rows of teeth, whose place modelled things take as soon as the jaw
    moves (by `sinking` (4, 3)), the lower row on the jaw, by `jaw` (4, 3), and the upper one on the skull, as all of it where no `rows` are told."""
    crop, inside, polygon, x0, y0 = opening
    low, high = polygon.min(0), polygon.max(0)
    size = inside.shape
    y1, x1 = y0 + size[0], x0 + size[1]
    safe = cv2.erode(inside, np.ones((3, 3))) > 0.95
    if safe.sum() < 8:
        safe = inside > 0.5
    filled = cv2.inpaint(crop, (~safe).astype(np.uint8), 3, cv2.INPAINT_TELEA)
    keep = cv2.dilate(inside, np.ones((3, 3)))[..., None]
    if rows is None:
        # what is left of the lower lip at its edge is not carried into the dark
        keep = np.minimum(keep, cv2.erode(inside, np.ones((2, 1)), anchor=(0, 0))[..., None])
    colour = np.clip(crop * keep + filled * (1 - keep), 0, 255)
    # towards the upper lip the sheet goes on under it; at the sides and below it fades into the cavity
    reach = max(1.5, 0.05 * float(high[1] - low[1]))
    soft = cv2.GaussianBlur(cv2.dilate(inside, np.ones((3, 3))), (0, 0), reach * 0.5)
    up = cv2.dilate(inside, np.ones((2 * int(2 * reach) + 1, 1), np.uint8))
    yy = np.arange(size[0])[:, None] + y0
    middle = np.interp(np.arange(size[1]) + x0, polygon[: len(seam.upper), 0], polygon[: len(seam.upper), 1])[
        None
    ]
    alpha = np.clip(
        np.maximum(cv2.dilate(inside, np.ones((3, 3))), np.where(yy < middle + 2, up, soft)), 0, 1
    )
    nx, ny = 9, 5
    gx, gy = np.meshgrid(np.linspace(x0, x1, nx), np.linspace(y0, y1, ny))
    at = np.stack([gx.ravel(), gy.ravel()], 1)

    still = np.zeros((4, 3))

    def piece(
        name: str, share: Float64, moves: Float64, part: str, depth: float, colour: Float64 = colour
    ) -> Layer:
        texture = np.dstack([colour, share * 255]).astype(np.uint8)
        points = on_plane(at, fit, front - depth, turn) @ turn
        return sheet(turn, name, points, at - [x0, y0], grid_triangles(ny, nx), texture, moves, part)

    if rows is None:
        return [piece("photoTeeth", alpha, still, "upperTeeth", UPPER_BEHIND)]
    # what the photo really shows is labelled as skin is: the video network paints over modelled mouths, not over a person's own teeth
    sheets = [piece("photoTeeth", alpha * rows.upper, still, "skin", UPPER_BEHIND)]
    if rows.lower_edge is not None:
        sheets.insert(0, piece("photoLowerTeeth", alpha * rows.lower, jaw, "skin", LOWER_BEHIND))
    # it goes on under the teeth, as dark as beside them, and fades there: nothing shines through where the sheets meet, nor does it show their outline
    # as it sinks
    teeth = np.maximum(rows.upper, rows.lower)
    under = max(1, round(0.12 * float(np.ptp(polygon[:, 1]))))
    covered = cv2.GaussianBlur(cv2.erode(teeth, np.ones((4 * under + 1, 2 * under + 1))), (0, 0), under)
    rest = np.asarray(alpha * (1 - covered), np.float64)
    dark = (teeth < 0.3) & (alpha > 0.5)
    if dark.any():
        filled = cv2.inpaint(colour.astype(np.uint8), (~dark).astype(np.uint8), 2, cv2.INPAINT_TELEA)
        without = np.asarray(filled, np.float64)
        sheets.insert(0, piece("photoGap", rest, sinking, "upperTeeth", LOWER_BEHIND, without))
    return sheets
