"""The dark line of lips: between teeth and lower lip where the photo's are parted, where they touch if they are shut.

It is shade of the mouth, not skin. Carried along on the lips it would edge them in black as soon as they part.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from visavis.engine.body.fit import Fit, Float64
from visavis.engine.body.model import rotation_matrix
from visavis.engine.body.surface import Seam, Surface
from visavis.engine.body.triangulate import grid_triangles
from visavis.engine.video.interior import Bytes, Layer, fill_polygon, runs
from visavis.engine.video.sheets import lips_at, sheet

PARTED_PX = 2.5
"""Pixels between the lips from which on the line below the teeth is looked for."""
RIM_REACH = 0.07
"""How far below the opening, of its width, a dark line may go."""
RIM_DARKER = 0.72
"""What counts as dark there, over the lip below it."""

CONTACT_DARKER = 0.8
"""What counts as dark where lips touch, over the darker of the two."""
CONTACT_REACH = 0.035
"""How far from where they touch, of the mouth's width, their line is looked for, and how far from it the lips."""
CONTACT_SHARE = 0.35
"""Share of the way from the line's darkest to the lip beside it at which it ends."""
CONTACT_FALL = 2.0
"""How much faster than the lips part their line sinks behind the lower one."""
APRON_ABOVE, APRON_BELOW = 0.0032, 0.006
"""Metres for which the dark goes on above the line, so that lips part by a millimetre before teeth are seen, and below it: pressed together they lift it."""
BEHIND_LIPS = 0.0012
"""Metres from the lips' margin to the line behind it."""


def dark_rim(photo: Bytes, surface: Surface) -> npt.NDArray[np.float32]:
    """Coverage (H, W) of the dark line that a photo with parted lips has between teeth and lower lip, below the opening of the surface.

    It is shade of the mouth, not skin: carried along on the lip it would edge it in black when the mouth opens.
    """
    cover = np.zeros(photo.shape[:2], np.float32)
    seam = surface.seam("mouth")
    if seam is None:
        return cover
    columns, top, bottom = _margins(surface, seam)
    parted = bottom - top
    if len(columns) < 12 or parted.max() < PARTED_PX:
        return cover
    reach = max(2, round(RIM_REACH * len(columns)))
    depth = np.arange(0.0, 2 * reach + 1)
    rows = np.clip(np.round(bottom[:, None] + depth).astype(int), 0, photo.shape[0] - 1)
    luma = photo[rows, np.clip(columns.astype(int), 0, photo.shape[1] - 1)[:, None]].mean(-1)
    lip = np.median(luma[:, reach:], axis=1)
    dark = luma[:, : reach + 1] < RIM_DARKER * lip[:, None]
    # how far down the dark goes without a break, from the margin or a pixel below it
    below = np.where(dark, depth[: reach + 1] + 1, 0).max(1) * (dark[:, 0] | dark[:, 1])
    below = below * np.clip(parted / PARTED_PX, 0, 1)
    # a line goes on: single dark columns are the notches between teeth
    window = 2 * max(2, len(columns) // 10) + 1
    below = np.minimum(below, np.quantile(runs(below, window), 0.3, axis=1))
    below = cv2.GaussianBlur(below[:, None], (0, 0), 1.0)[:, 0]
    rim = np.concatenate(
        [
            np.stack([columns, bottom - 1.5], 1),
            np.stack([columns, bottom + np.where(below > 0.5, below, -1.5)], 1)[::-1],
        ]
    )
    return fill_polygon(rim, (photo.shape[0], photo.shape[1]))


def _margins(surface: Surface, seam: Seam) -> tuple[Float64, Float64, Float64]:
    """The photo's columns (n,) between the corners of the mouth, and the rows (n,) of the upper and of the lower lip's margin there."""
    px = surface.uv.astype(np.float64)
    upper, lower = (px[margin][np.argsort(px[margin][:, 0])] for margin in (seam.upper, seam.lower))
    columns = np.arange(np.ceil(lower[0, 0]), int(lower[-1, 0]))
    return columns, np.interp(columns, *upper.T), np.interp(columns, *lower.T)


@dataclass(frozen=True, eq=False)
class Contact:
    """The dark line where the lips of a photo touch: its coverage (H, W), and for columns (n,) of the photo its darkest row, the row where it begins and the
    one where it ends (n,)."""

    cover: npt.NDArray[np.float32]
    columns: Float64
    darkest: Float64
    top: Float64
    bottom: Float64


def contact_line(photo: Bytes, surface: Surface) -> Contact | None:
    """Find it; None where the lips are parted, or where there is no line (in soft light there may be none)."""
    seam = surface.seam("mouth")
    if seam is None:
        return None
    # within the corners themselves there is no lip beside the line
    columns, above, below = (values[1:-1] for values in _margins(surface, seam))
    if len(columns) < 24 or (below - above).max() >= PARTED_PX:
        return None
    reach = max(2, round(CONTACT_REACH * len(columns)))
    depth = np.arange(-2 * reach, 2 * reach + 1)
    rows = np.round((above + below)[:, None] / 2 + depth).astype(int)
    inside = (
        np.clip(rows, 0, photo.shape[0] - 1),
        np.clip(columns.astype(int), 0, photo.shape[1] - 1)[:, None],
    )
    luma = cv2.blur(photo[inside].astype(np.float32).mean(-1), (1, 3))
    near = np.abs(depth) <= reach
    at = np.where(near, luma, np.inf).argmin(1)
    beside = np.abs(depth - depth[at][:, None]) <= reach
    darkest = luma[np.arange(len(columns)), at]
    lips = np.minimum(
        np.where(beside & (depth < depth[at][:, None]), luma, 0).max(1),
        np.where(beside & (depth > depth[at][:, None]), luma, 0).max(1),
    )
    dark = luma < (darkest + CONTACT_SHARE * (lips - darkest))[:, None]
    own = np.arange(len(columns))
    seen = darkest < CONTACT_DARKER * lips
    first, last = at.copy(), at.copy()
    for _ in range(reach):
        first = np.where((first > 0) & dark[own, np.maximum(first - 1, 0)], first - 1, first)
        last = np.where(
            (last < len(depth) - 1) & dark[own, np.minimum(last + 1, len(depth) - 1)], last + 1, last
        )
    if seen.mean() < 0.3:
        return None
    return _smooth_line(photo.shape[:2], columns, (above + below) / 2, depth, first, at, last, seen)


def _smooth_line(
    shape: tuple[int, int],
    columns: Float64,
    seam_row: Float64,
    depth: npt.NDArray[np.intp],
    first: npt.NDArray[np.intp],
    at: npt.NDArray[np.intp],
    last: npt.NDArray[np.intp],
    seen: npt.NDArray[np.bool_],
) -> Contact:
    window = 2 * max(2, len(columns) // 12) + 1

    def smooth(values: Float64) -> Float64:
        middle = np.median(runs(values, window), axis=1)
        return np.asarray(cv2.GaussianBlur(middle[:, None], (0, 0), len(columns) / 40)[:, 0])

    # from the seam, so that both margins lie in it
    darkest = smooth(seam_row + np.where(seen, depth[at], 0))
    top = smooth(np.minimum(seam_row + depth[first], seam_row))
    bottom = smooth(np.maximum(seam_row + depth[last], seam_row) + 1)
    ends = np.minimum(np.arange(len(columns)), np.arange(len(columns))[::-1]) / (0.08 * len(columns))
    share = smooth(seen.astype(np.float64)) * np.clip(ends, 0, 1)
    top, bottom = seam_row + (top - seam_row) * share, seam_row + (bottom - seam_row) * share
    outline = np.concatenate([np.stack([columns, top], 1), np.stack([columns, bottom], 1)[::-1]])
    cover = cv2.GaussianBlur(fill_polygon(outline, shape), (0, 0), 0.6)
    return Contact(np.asarray(cover, np.float32), columns, darkest, top, bottom)


def contact_layer(photo: Bytes, surface: Surface, fit: Fit, contact: Contact) -> Layer:
    """The line as a sheet just behind the lips. It goes with the upper one while they touch, and sinks behind the lower one as they part."""
    seam = surface.seam("mouth")
    assert seam is not None  # where there are no lips no line was found between them
    turn = rotation_matrix(fit.rotation)
    columns = contact.columns
    x0, x1 = int(columns[0]) - 3, int(columns[-1]) + 4
    margin = surface.vertices[np.concatenate([seam.upper, seam.lower])].astype(np.float64)
    scale = fit.camera.focal / float(-np.median(margin[:, 2]))
    above, below = APRON_ABOVE * scale, APRON_BELOW * scale
    y0, y1 = int(contact.top.min() - above) - 2, int(np.ceil(contact.bottom.max() + below)) + 2
    across, down = np.arange(x0, x1), np.arange(y0, y1)
    piece = photo[
        np.ix_(np.clip(down, 0, photo.shape[0] - 1), np.clip(across, 0, photo.shape[1] - 1))
    ].astype(np.float64)
    row = np.clip(np.round(np.interp(across, columns, contact.darkest) - y0).astype(int), 0, len(down) - 1)
    dark = cv2.GaussianBlur(piece[row, np.arange(len(across))][None], (0, 0), 0.02 * len(across) + 1)[0]
    top, bottom = (np.interp(across, columns, v) - y0 for v in (contact.top, contact.bottom))
    y = np.arange(len(down))[:, None]
    own = np.clip(np.minimum(y - top + 2.5, bottom + 2.5 - y), 0, 1)[..., None]
    colour = piece * own + dark * (1 - own)
    ends = np.clip(np.minimum(across - x0, x1 - 1 - across) / 2, 0, 1)
    fades = np.minimum((y - top + above) / (0.3 * above), (bottom + below - y) / (0.3 * below))
    alpha = np.clip(fades, 0, 1) * ends
    texture = np.dstack([np.clip(colour, 0, 255), alpha * 255]).astype(np.uint8)
    nx, ny = 17, 7
    gx, gy = np.meshgrid(np.linspace(x0, x1, nx), np.linspace(y0, y1, ny))
    px = surface.uv[np.concatenate([seam.upper, seam.lower])].astype(np.float64)
    order = np.argsort(px[:, 0])
    z = np.interp(gx.ravel(), px[order, 0], margin[order, 2]) - BEHIND_LIPS
    camera = fit.camera
    points = np.stack(
        [(gx.ravel() - camera.cx) / camera.focal * -z, -(gy.ravel() - camera.cy) / camera.focal * -z, z], 1
    )
    upper, lower = lips_at(surface, seam, gx.ravel())
    up = turn[:, 1]
    moves = upper - CONTACT_FALL * ((upper - lower) @ up)[..., None] * up
    uv = np.stack([gx.ravel() - x0, gy.ravel() - y0], 1)
    return sheet(
        turn, "lipLine", points @ turn, uv, grid_triangles(ny, nx), texture, np.zeros((4, 3)), "lips", moves
    )
