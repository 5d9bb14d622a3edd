"""The inside of the mouth: cavity, tongue and rows of teeth (modelled ones: `teeth.py`).

Built from the body model's proportions and shaded by the person's light; where the photo shows teeth, those pixels are kept and stay
with the skull.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from visavis.engine.body.fit import FLIP, Fit, Float64
from visavis.engine.body.meet import FittedHead
from visavis.engine.body.model import load_body, rotation_matrix
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
from visavis.engine.video.teeth import (
    OWN_LIGHTER,
    dental_arch,
    enamel_of,
    is_tooth,
    lips_colour,
    teeth_colour,
    teeth_texture,
)
from visavis.engine.video.tooth_rows import Field, ToothRows, part_rows

_Opening = tuple[Bytes, Field, Float64, int, int]

TONGUE = np.array([0.92, 0.62, 0.59])
"""Colour of the tongue's brightest spot in white light as bright as the cheeks'; most of it lies in shade."""
CAVITY_TO_SKIN = np.array([0.50, 0.31, 0.30])
"""Colour of what lies behind teeth and tongue, at the top. Films show less black between the teeth than one would draw: twelve speakers' pixels where
tongue and cavity had been modelled in the dark (0.26, 0.10, 0.08 in the median) were 0.51, 0.33, 0.22, most of them tongue."""
CAVITY_BELOW = 0.004
"""Metres that the cavity goes on below the lower lip of a jaw as far open as can be."""
TONGUE_JAW = 0.33
"""How far the tongue's top goes with the jaw. In speech it stays up near the teeth while the jaw falls."""
TONGUE_FLOOR, TONGUE_FLOOR_BELOW = 0.7, (0.006, 0.014)
"""How far what lies so far below its top goes, the floor of the mouth: else the tongue would hang free over the lower teeth of a wide open jaw."""
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
UPPER_BELOW, LOWER_BELOW = 0.0008, 0.0017
"""Metres from the line of the lips down to the biting edges of modelled teeth. In films of ten speakers these take 2 % off the warp's error about the lips
against edges 1 mm lower and 2 mm higher (12 % where teeth, tongue or cavity are drawn); and one sees as much of them as people show in speech."""
UPPER_BEHIND, LOWER_BEHIND = 0.004, 0.006
"""Metres from the line of the lips to the front of the photo's upper and lower teeth."""
LOWER_DARKEST = 0.85
"""Of the upper row's colour, modelled lower teeth where the photo shows the lip's shade on its own."""
SINKING = 4.0
"""How much faster than the jaw the dark between a photo's rows of teeth goes down."""


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
class _Mouth:
    """A mouth on a photo's surface: its seam, the photo's fit, the head's axes in the world `turn` (3, 3), where its lips are, and the light (3,) on the
    cheeks (`skin_light`) and within."""

    surface: Surface
    seam: Seam
    fit: Fit
    turn: Float64
    lips: _Lips
    light: Float64

    @property
    def inner_light(self) -> Float64:
        """White within the mouth, (3,): a little of the light's colour."""
        tint = self.light / self.light.max()
        bright = float(np.clip(self.light.max() * 1.08, 0.25, 1.0))
        return np.asarray(bright * (0.6 + 0.4 * tint / tint.mean()))


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
    def by(cls, photo: Bytes, rim: Field, mouth: _Mouth) -> _Shown:
        """`rim` (H, W): the photo's `dark_rim`."""
        lips, turn = mouth.lips, mouth.turn
        if lips.parted <= SHUT:
            return cls()
        opening = _opening(photo, rim, mouth)
        teeth = teeth_colour(*opening[:2])
        if teeth is None or not is_tooth(teeth, mouth.light, lips_colour(*opening[:2])):
            return cls(opening, empty=_ramp(lips.parted, PARTED, WELL_PARTED))
        rows = part_rows(*opening[:2])
        edge = None
        if rows.lower_edge is not None:
            at = np.array([opening[2][:, 0].mean(), opening[4] + rows.lower_edge])
            edge = float((on_plane(at[None], mouth.fit, lips.front - LOWER_BEHIND, turn) @ turn)[0, 1])
        return cls(opening, teeth, rows, edge)


def mouth_layers(photo: Bytes, surface: Surface, head: FittedHead, fit: Fit, rim: Field) -> list[Layer]:
    """Cavity, tongue, lower teeth, upper teeth and the photo's own teeth, back to front; empty when the mouth is not on the surface. `rim` (H, W): the
    photo's `dark_rim`."""
    seam = surface.seam("mouth")
    if seam is None:
        return []
    turn = rotation_matrix(fit.rotation)
    mouth = _Mouth(surface, seam, fit, turn, _Lips.of(surface, seam, turn), skin_light(photo, fit, head))
    jaw = np.stack([head.units[ARKIT.index(name)] for name in JAW_UNITS])
    lower_ids = load_body().part_vertices("lowerTeeth")
    jaw_front = _front(head.vertices[lower_ids] @ turn, jaw[:, lower_ids])

    shown = _Shown.by(photo, rim, mouth)
    layers = [_cavity(mouth), _tongue(head, mouth, jaw), _teeth(False, mouth, shown, jaw_front)]
    if shown.teeth is None:  # otherwise the photo's own
        layers.append(_teeth(True, mouth, shown, np.zeros((4, 3))))
    if shown.opening is not None:
        sinking = SINKING * jaw[:, lower_ids].mean(1)
        layers += _photo_teeth(shown.opening, shown.rows, mouth, jaw_front, sinking)
    return layers


def _cavity(mouth: _Mouth) -> Layer:
    """A sheet behind everything, nearly black with warm edges: down to where the lower lip goes at most, not beyond the chin, below which a matte with holes
    (a neck as white as the wall) would show it."""
    lips, surface = mouth.lips, mouth.surface
    half = 0.8 * max(lips.width, lips.wide)
    open_lip = (surface.vertices + surface.units[ARKIT.index("jawOpen")])[mouth.seam.lower] @ mouth.turn
    depth = lips.rest_y - float(open_lip[:, 1].min()) + CAVITY_BELOW
    gx, gy = np.meshgrid(np.linspace(-half, half, 5), np.linspace(0.012, -depth, 7))
    # wide where the corners of the mouth go, narrow below, where it would look out beside chin and neck
    gx *= np.interp(-gy, [0.012, 0.030], [1.0, 0.6])
    points = np.stack(
        [lips.middle + gx.ravel(), lips.rest_y + gy.ravel(), np.full(gx.size, lips.front - 0.030)], 1
    )
    shade = np.linspace(0.9, 0.5, 32)[:, None, None] * CAVITY_TO_SKIN * 255 * mouth.light
    texture = np.dstack([np.broadcast_to(shade, (32, 32, 3)), np.full((32, 32), 255)]).astype(np.uint8)
    u, v = np.meshgrid(np.linspace(1, 31, 5), np.linspace(1, 31, 7))
    uv = np.stack([u.ravel(), v.ravel()], 1)
    return sheet(mouth.turn, "cavity", points, uv, grid_triangles(7, 5), texture, np.zeros((4, 3)), "tongue")


def _teeth(upper: bool, mouth: _Mouth, shown: _Shown, jaw: Float64) -> Layer:
    """A modelled row, in the colour of the photo's teeth where it shows any."""
    lips = mouth.lips
    if shown.teeth is not None:
        # lighter than seen: the texture shades them once more
        enamel = np.clip(shown.teeth * OWN_LIGHTER, 0, 0.97)
    else:
        enamel = enamel_of(mouth.light)
    # biting edges: both a little below the lips' line at rest; a smile that shows the upper row pulls the lower lip down without the jaw, and
    # the lower row stays behind it
    if upper:
        edge = lips.rest_y - UPPER_BELOW
        edge += shown.empty * max(0.0, lips.upper_y - edge)
    elif shown.lower_edge is not None:
        edge = shown.lower_edge - 0.0003
    elif shown.teeth is not None:
        edge = min(lips.rest_y - 0.0045, lips.lower_y - 0.0015)
    else:
        edge = min(lips.rest_y - LOWER_BELOW, lips.lower_y + 0.0025 - LOWER_BELOW)
        edge -= shown.empty * max(0.0, edge - lips.lower_y)
    lit = 1.0 if shown.rows is None else float(np.clip(shown.rows.lower_light, LOWER_DARKEST, 1))
    points, uv, triangles = dental_arch(edge, upper)
    points = points + [lips.middle, 0, lips.front - (0.0055 if upper else 0.0085)]
    texture = teeth_texture(upper, lit * enamel, mouth.inner_light, smiling=shown.teeth is not None)
    part = "upperTeeth" if upper else "lowerTeeth"
    return sheet(mouth.turn, part, points, uv, triangles, texture, jaw, part)


def _ramp(value: float, start: float, end: float) -> float:
    return float(np.clip((value - start) / (end - start), 0, 1))


def _front(points: Float64, deltas: Float64) -> Float64:
    """Displacements (4, 3) of the front of a dental arch, points (V, 3) with displacements (4, V, 3): the jaw turns about the ears, its front
    teeth go further than the molars."""
    near = points[:, 2] >= np.quantile(points[:, 2], 0.85)
    return np.asarray(deltas[:, near].mean(1))


def _tongue(head: FittedHead, mouth: _Mouth, jaw: Float64) -> Layer:
    """The body model's tongue as a shaded blob: colour baked a vertex into a strip texture."""
    body, lips, turn = load_body(), mouth.lips, mouth.turn
    ids = body.part_vertices("tongue")
    local = {int(v): k for k, v in enumerate(ids)}
    triangles = np.array(
        [[local[int(v)] for v in t] for t in body.triangles[body.part == body.part_id("tongue")]], np.int32
    )
    points = head.vertices[ids] @ turn
    points[:, 0] = lips.middle + TONGUE_WIDTH * (points[:, 0] - points[:, 0].mean())
    points[:, 1] += (lips.rest_y - TONGUE_BELOW) - points[:, 1].max()
    points[:, 2] += (lips.front - TONGUE_BEHIND) - points[:, 2].max()
    below = points[:, 1].max() - points[:, 1]
    share = np.interp(below, TONGUE_FLOOR_BELOW, (TONGUE_JAW, TONGUE_FLOOR))
    # in a photo from below it would hide behind the lower teeth, and one even dark would show above them: it rises towards its root by as much
    points[:, 1] += max(0.0, -lips.rest_y / lips.front) * (lips.front - points[:, 2])
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
    shade *= 1 - TONGUE_FRONT_SHADE * np.clip(below / 0.010, 0, 1)
    shade *= 1 - TONGUE_GROOVE * np.exp(-(((points[:, 0] - lips.middle) / 0.003) ** 2))
    # where it turns away from the mouth's opening, or in the photo from the viewer, it fades into the dark behind it
    facing = np.clip(np.minimum(normal[:, 2], normal @ turn[2]) / 0.3, 0, 1)
    # and towards its sides, where the teeth's shade lies on it
    beside = np.abs(points[:, 0] - lips.middle) / np.abs(points[:, 0] - lips.middle).max()
    facing = facing * np.clip((1 - beside) / TONGUE_SIDES, 0, 1)
    strip = np.minimum(np.linspace(0, 1, 64)[:, None, None] * TONGUE * mouth.inner_light * 255, 255)
    alpha = np.linspace(0, 255, 64)[None].repeat(64, 0)
    texture = np.dstack([np.broadcast_to(strip, (64, 64, 3)), alpha]).astype(np.uint8)
    uv = np.stack([np.clip(facing * 64, 0.5, 63.5), np.clip(shade * 64, 0.5, 63.5)], 1)
    return sheet(turn, "tongue", points, uv, triangles, texture, share[:, None] * jaw[:, ids], "tongue")


def _opening(photo: Bytes, rim: Field, mouth: _Mouth) -> _Opening:
    """The piece of the photo about the parted lips (h, w, 3), coverage of the opening and its dark rim (h, w), its outline (n, 2) in the photo, and the
    piece's corner x0, y0."""
    polygon = opening_polygon(mouth.seam, mouth.surface.uv.astype(np.float64))
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
    opening: _Opening, rows: ToothRows | None, mouth: _Mouth, jaw: Float64, sinking: Float64
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
    yy, upper = np.arange(size[0])[:, None] + y0, len(mouth.seam.upper)
    middle = np.interp(np.arange(size[1]) + x0, polygon[:upper, 0], polygon[:upper, 1])[None]
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
        points = on_plane(at, mouth.fit, mouth.lips.front - depth, mouth.turn) @ mouth.turn
        return sheet(mouth.turn, name, points, at - [x0, y0], grid_triangles(ny, nx), texture, moves, part)

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
