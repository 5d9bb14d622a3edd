"""Which of what a photo shows between parted lips is the upper row of teeth, which the lower, and which is the dark between and below.

The upper row stays with the skull, the lower one goes with the jaw: on one sheet they would hang from the upper lip together when the mouth opens. Between
them lies a dark line, from one corner of the mouth to the other; it is found as seams are in seam carving, by dynamic programming.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from visavis.engine.body.fit import Float64
from visavis.engine.video.interior import Bytes, runs

Field = npt.NDArray[np.float32]

ACROSS = 480
"""Pixels to which a mouth's width is drawn finer: a gap between rows is a pixel or two of a photo."""
NO_GAP = 0.68
"""What a biting edge at the lower lip costs, over the teeth's brightness: only a line darker than this is a gap."""
TOOTH_ABOVE = 0.8
"""How bright over its row's level a tooth must have been above a biting edge."""
SLOPE = 0.05
"""What a step of a pixel aside costs the seam."""
STEPS = 3
"""Pixels by which the seam may go up or down in a column."""
DEEPER = 0.06
"""What a pixel of the photo further down in a dark gap costs the seam."""
LOWER_BRIGHT, LOWER_RISE, LOWER_REDDER = 0.5, 0.12, 0.14
"""What counts as a lower tooth: brightness over the upper row's, by how much it exceeds the gap above, and how much redder it may be: a
tongue or a strip of lip is redder."""
LOWER_SHARE = 0.12
"""Of the opening's width in which lower teeth must be seen to be taken for a row."""
NEAR_LOWER, NO_GAP_NEAR = 0.12, 1.05
"""How near to lower teeth, of the width, the edge is thought to go on between the rows, and what it costs there at the lower lip."""
TALLER = 1.35
"""How much taller than the upper row where a lower one is seen below it an opening must be elsewhere to be thought to show both there too."""
AT_LIP, BESIDE, DROP, AS_BRIGHT, LINE = 0.02, 0.06, 0.03, 0.6, 0.06
"""Rows touch where the edge goes down to the lip (AT_LIP of the width from it), by more than DROP on either side, and for BESIDE of it there are gaps with
teeth above that are AS_BRIGHT over those between; by LINE, over the teeth's brightness, what is below rises from the dark where they do."""
NOTCH = 0.25
"""Of the upper row's height to which notches between teeth go up from the biting edge."""
TOOTH_FROM, TOOTH_TO = 0.15, 0.4
"""Brightness over the row's level between which what is near a biting edge turns from gap to tooth."""


@dataclass(frozen=True, eq=False)
class ToothRows:
    """Coverages (h, w) in 0..1 of the upper row with all above it, and of the lower row, in a piece of a photo; `lower_edge`: the lower row's biting edge
    in pixels down the piece, None where none is seen; `lower_light`: its brightness over the upper row's."""

    upper: Field
    lower: Field
    lower_edge: float | None = None
    lower_light: float = 1.0


def part_rows(piece: Bytes, inside: Field) -> ToothRows:
    """Rows of teeth in a piece of a photo (h, w, 3) whose opening covers `inside` (h, w).

    An opening of which nothing is known (a few pixels) is upper row throughout.
    """
    height, width = inside.shape
    fine = max(1, round(ACROSS / width))
    size = (width * fine, height * fine)
    rgb = cv2.resize(piece, size, interpolation=cv2.INTER_CUBIC).astype(np.float32) / 255
    cover = cv2.resize(inside, size, interpolation=cv2.INTER_LINEAR) > 0.5
    columns = np.flatnonzero(cover.sum(0) >= 3 * fine)
    if len(columns) < 0.3 * size[0]:
        return ToothRows(np.ones_like(inside), np.zeros_like(inside))
    across = slice(int(columns[0]), int(columns[-1]) + 1)
    rgb, cover = rgb[:, across], cover[:, across]
    top = cover.argmax(0)
    luma = rgb.mean(-1)
    bright = luma / _level(luma, cover)
    edge, gap = _biting_edge(bright, cover, np.zeros(cover.shape[1], bool), fine)
    lower = _lower_row(rgb, bright, cover, edge, gap, fine)
    if not lower.any():
        edge, gap, lower = _touching(luma, bright, cover, edge, gap, fine)
    if lower.any():
        bottom = len(cover) - cover[::-1].argmax(0)
        one_row = TALLER * float(np.median((edge - top)[lower]))
        near = _widened(lower, NEAR_LOWER) | (bottom - top > one_row)
        edge, gap = _biting_edge(bright, cover, near, fine)
        lower = _lower_row(rgb, bright, cover, edge, gap, fine)

    tall = max(float(np.median((edge - top)[gap])) if gap.any() else 0.0, 1.0)
    rows = np.arange(size[1])[:, None]
    above = np.clip((edge - rows) / fine + 0.5, 0, 1)
    tooth = np.clip((bright - TOOTH_FROM) / (TOOTH_TO - TOOTH_FROM), 0, 1)
    # notches between teeth are the gap's, but the dark under the upper lip is not: near the edge only
    near = np.clip(1.5 - (edge - rows) / (NOTCH * tall), 0, 1) * gap
    upper = np.ones((size[1], size[0]), np.float32)
    upper[:, across] = above * (1 - near * (1 - tooth))
    under = np.zeros_like(upper)
    lower_edge, lower_light = None, 1.0
    if lower.any():
        soft = cv2.GaussianBlur(
            _widened(lower, NEAR_LOWER).astype(np.float32)[None], (0, 0), len(lower) / 40
        )[0]
        under[:, across] = (1 - above) * tooth * soft
        lower_edge = float(np.median(edge[lower])) / fine
        seen = cover & lower & (rows > edge + fine // 2)
        lower_light = float(np.quantile(bright[seen], 0.7) / np.quantile(bright[cover & (rows < edge)], 0.7))
    return ToothRows(
        np.asarray(cv2.resize(upper, (width, height), interpolation=cv2.INTER_AREA), np.float32),
        np.asarray(cv2.resize(under, (width, height), interpolation=cv2.INTER_AREA), np.float32),
        lower_edge,
        lower_light,
    )


def _level(luma: Field, cover: npt.NDArray[np.bool_]) -> Float64:
    """Brightness (w,) of the teeth along an opening: they lie in the cheeks' shade towards its corners."""
    columns = np.array(
        [np.quantile(luma[seen, x], 0.85) if seen.any() else np.nan for x, seen in enumerate(cover.T)]
    )
    columns = np.where(np.isnan(columns), np.nanmedian(columns), columns)
    window = max(3, len(columns) // 8) | 1
    usual = np.quantile(runs(columns, window), 0.7, axis=1)
    level = cv2.GaussianBlur(usual[:, None], (0, 0), window / 3)[:, 0]
    return np.maximum(level, 1e-3)


def _widened(columns: npt.NDArray[np.bool_], share: float) -> npt.NDArray[np.bool_]:
    """Columns (w,) and those within a share of the width beside them."""
    reach = np.ones((1, 2 * int(share * len(columns)) + 1), np.uint8)
    return np.asarray(cv2.dilate(columns.astype(np.uint8)[None], reach)[0] > 0)


def _biting_edge(
    bright: Float64, cover: npt.NDArray[np.bool_], near_lower: npt.NDArray[np.bool_], fine: int
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_]]:
    """Row (w,) of the upper teeth's lower edge in each column, and whether a gap is seen below it (otherwise the lower lip follows).

    near_lower (w,): where a lower row is known. Teeth may touch: there the edge goes on without a gap, rather than down to the lip.
    """
    height, width = cover.shape
    rows = np.arange(height)[:, None]
    top, bottom = cover.argmax(0), height - cover[::-1].argmax(0)
    seen = np.maximum.accumulate(np.where(cover, bright, 0), 0)
    above = np.vstack([np.zeros((fine, width)), seen[:-fine]])
    dark = cv2.GaussianBlur(bright, (0, 0), 0.35 * fine)
    never = 9.0
    cost = np.clip(dark, 0.2, 1.3) + 2 * np.clip(TOOTH_ABOVE - above, 0, 1)
    # in a wide gap the edge is where it begins
    cost += DEEPER / fine * np.cumsum((above >= TOOTH_ABOVE) & (bright < TOOTH_TO) & cover, 0)
    cost[~cover] = never
    lip = bottom - np.where(near_lower, 2 * fine, fine // 2)
    cost = np.where(rows >= lip, np.where(near_lower, NO_GAP_NEAR, NO_GAP), cost)
    cost[(rows < top + fine) | (rows > bottom + fine)] = never
    total, came = cost[:, 0], np.zeros((height, width), np.intp)
    steps = np.arange(-STEPS, STEPS + 1)
    for x in range(1, width):
        padded = np.pad(total, STEPS, constant_values=np.inf)
        ways = np.lib.stride_tricks.sliding_window_view(padded, 2 * STEPS + 1) + SLOPE * np.abs(steps)
        came[:, x] = steps[ways.argmin(1)]
        total = ways.min(1) + cost[:, x]
    edge = np.zeros(width, np.intp)
    edge[-1] = total.argmin()
    for x in range(width - 1, 0, -1):
        edge[x - 1] = edge[x] + came[edge[x], x]
    gap = edge < lip
    return np.where(gap, edge, bottom - fine // 2), gap


def _touching(
    luma: Field,
    bright: Float64,
    cover: npt.NDArray[np.bool_],
    edge: npt.NDArray[np.intp],
    gap: npt.NDArray[np.bool_],
    fine: int,
) -> tuple[npt.NDArray[np.intp], npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """The edge, where gaps are seen and the columns of lower teeth (w,), where a lower row may touch the upper one, so that the edge found is the lip's:
    it is further down than beside them, on both sides, teeth are as bright there, and a line is seen when it is looked for. Else all as it was."""
    width, none = len(edge), np.zeros(len(edge), bool)
    beside = max(2, round(BESIDE * width))
    near = none.copy()
    rows = np.arange(len(cover))[:, None]
    teeth = np.array(
        [np.quantile(luma[seen, x], 0.7) if seen.any() else 0.0 for x, seen in enumerate((cover & (rows < edge)).T)]
    )  # fmt: skip
    bottom = len(cover) - cover[::-1].argmax(0)
    at_lip = bottom - edge < AT_LIP * width
    ends = np.flatnonzero(np.diff(np.concatenate([[0], at_lip.astype(np.int8), [0]])))
    for first, last in ends.reshape(-1, 2):
        if first < beside or last > width - beside:
            continue
        sides = slice(first - beside, first), slice(last, last + beside)
        inner = slice(first, min(first + beside, last)), slice(max(last - beside, first), last)
        drops = [
            float(np.median(edge[k]) - np.median(edge[side])) for side, k in zip(sides, inner, strict=True)
        ]
        least = AS_BRIGHT * float(np.median(teeth[first:last]))
        near[first:last] = min(drops) > DROP * width and all(
            at_lip[side].mean() <= 0.25 and np.median(teeth[side]) > least for side in sides
        )
    if not near.any():
        return edge, gap, none
    found, seen_gap = _biting_edge(bright, cover, near, fine)
    lower = near & seen_gap
    line = cv2.GaussianBlur(bright, (0, 0), 0.35 * fine)
    rises = [line[found[x] : max(found[x] + 1, min(bottom[x], found[x] + 3 * fine)), x].max() - line[found[x], x]
             for x in np.flatnonzero(lower)]  # fmt: skip
    if not rises or np.quantile(rises, 0.25) < LINE:
        return edge, gap, none
    return found, seen_gap, lower


def _lower_row(
    rgb: npt.NDArray[np.floating[Any]],
    bright: Float64,
    cover: npt.NDArray[np.bool_],
    edge: npt.NDArray[np.intp],
    gap: npt.NDArray[np.bool_],
    fine: int,
) -> npt.NDArray[np.bool_]:
    """In which columns (w,) teeth are seen below the upper row; none where they are too few."""
    rows = np.arange(len(cover))[:, None]
    redness = (rgb[..., 0] - 0.5 * (rgb[..., 1] + rgb[..., 2])) / (rgb.mean(-1) + 0.02)
    uppers = cover & (rows < edge - fine) & (bright > 0.85)
    lower = np.zeros(len(gap), bool)
    if not uppers.any():
        return lower
    own_red = float(np.median(redness[uppers]))
    for x in np.flatnonzero(gap):
        below = cover[:, x] & (rows[:, 0] > edge[x] + fine // 2)
        if below.sum() < fine:
            continue
        level = float(np.quantile(bright[below, x], 0.8))
        red = float(np.median(redness[below & (bright[:, x] >= level - 0.02), x]))
        rise = level - float(bright[edge[x], x])
        lower[x] = level >= LOWER_BRIGHT and rise >= LOWER_RISE and red - own_red < LOWER_REDDER
    return lower if lower.mean() >= LOWER_SHARE else np.zeros_like(lower)
