"""Triangle meshes over a photo: pieces, rims, triangulation around a face, smoothing over a mesh."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt
from visavis.engine.body.fit import Float64
from visavis.engine.body.model import IntArray
from visavis.engine.body.seams import boundary_loops


def largest_piece(triangles: IntArray) -> IntArray:
    label = np.arange(int(triangles.max()) + 1)
    while True:
        low = label[triangles].min(1)
        before = label.copy()
        for k in range(3):
            np.minimum.at(label, triangles[:, k], low)
        label = label[label]
        if (before == label).all():
            break
    names, count = np.unique(label[triangles[:, 0]], return_counts=True)
    return triangles[label[triangles[:, 0]] == names[count.argmax()]]


def delaunay(points: npt.NDArray[np.float32]) -> IntArray:
    """Delaunay triangles (n, 3) of distinct 2-D points (P, 2)."""
    low, high = points.min(0) - 10, points.max(0) + 10
    subdivision = cv2.Subdiv2D(
        (int(low[0]), int(low[1]), int(high[0] - low[0]) + 1, int(high[1] - low[1]) + 1)
    )
    known: dict[tuple[float, float], int] = {}
    for k, (x, y) in enumerate(points):
        subdivision.insert((float(x), float(y)))
        known[(float(x), float(y))] = k
    found = []
    for x0, y0, x1, y1, x2, y2 in subdivision.getTriangleList():
        corners = [known.get((float(x), float(y))) for x, y in ((x0, y0), (x1, y1), (x2, y2))]
        if None not in corners:
            found.append(corners)
    return np.array(found, np.int32)


def relax(
    values: Float64,
    triangles: IntArray,
    fixed: npt.NDArray[np.bool_],
    target: Float64 | None,
    pull: Float64 | float,
    rounds: int,
) -> Float64:
    """Screened Laplace smoothing over a mesh by damped Jacobi steps; `fixed` vertices keep their value."""
    edges = np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]])
    edges = np.unique(np.sort(edges, 1), axis=0)
    n = len(values)
    degree = np.bincount(edges.ravel(), minlength=n).astype(np.float64)
    out = values.copy()
    goal = out if target is None else target
    for _ in range(rounds):
        total = np.bincount(edges[:, 0], out[edges[:, 1]], n) + np.bincount(edges[:, 1], out[edges[:, 0]], n)
        new = (total + pull * goal) / np.maximum(degree + pull, 1e-9)
        out = np.where(fixed, out, new)
    return out


def grid_triangles(rows: int, columns: int) -> IntArray:
    """Two triangles a cell of a (rows, columns) vertex grid whose rows run downwards, counter-clockwise with y up."""
    k = np.arange(rows * columns).reshape(rows, columns)
    a, b, c, d = k[:-1, :-1].ravel(), k[:-1, 1:].ravel(), k[1:, 1:].ravel(), k[1:, :-1].ravel()
    return np.concatenate([np.stack([a, d, c], 1), np.stack([a, c, b], 1)]).astype(np.int32)


def fan(loop: list[int]) -> list[list[int]]:
    """Triangles that close a loop of vertices, facing as the mesh around it."""
    return [[loop[0], loop[k + 1], loop[k]] for k in range(1, len(loop) - 1)]


def along_margin(loop: set[int], margins: list[set[int]], length: int) -> bool:
    """Whether most of a loop of `length` vertices, of which these are the body's, lies on one of the openings' margins."""
    return any(len(loop & margin) > 0.6 * length for margin in margins)


def patches(
    triangles: IntArray, px: Float64, size: float, margin_sets: list[set[int]], face_ids: IntArray
) -> IntArray:
    """Fans (n, 3) over holes that two triangulations left between them, small (`size`) or narrow; openings of the face stay open."""
    fans = []
    for loop in boundary_loops(triangles)[1:]:
        own = {int(face_ids[v]) for v in loop if v < len(face_ids)}
        small = np.ptp(px[loop], axis=0).max() <= size or (
            bool(own) and cv2.contourArea(px[loop].astype(np.float32)) <= size**2
        )
        if small and not along_margin(own, margin_sets, len(loop)):
            fans += fan(loop)
    return np.array(fans, np.int32).reshape(-1, 3)


def grid_around(polygon: npt.NDArray[np.float32], step: float, reach: float) -> Float64:
    """Points (n, 2) on two rings outside a closed polygon, `step` and `reach` pixels away."""
    from itertools import pairwise

    rings = []
    loop = np.concatenate([polygon, polygon[:1]]).astype(np.float64)
    length = np.concatenate([[0], np.cumsum([float(np.linalg.norm(q - p)) for p, q in pairwise(loop)])])
    centre = polygon.mean(0)
    for away in (step, reach):
        at = np.arange(0, length[-1], away * 1.1)
        x, y = (np.interp(at, length, loop[:, k]) for k in range(2))
        outward = np.stack([x, y], 1) - centre
        outward /= np.linalg.norm(outward, axis=1, keepdims=True)
        rings.append(np.stack([x, y], 1) + outward * away)
    return np.round(np.concatenate(rings) * 16) / 16


def grid_over(width: int, height: int, spacing: float, pad: float) -> Float64:
    """Points (n, 2) about `spacing` apart over a frame, rows staggered for near-equilateral triangles, with some in every row on the frame's left and right
    border and rows on the other two; and those nearer than `pad` to a border once more, mirrored in it, so that no triangle lies across one."""
    columns, rows = (max(2, round(side / spacing) + 1) for side in (width, height))
    xs = np.linspace(0, width, columns)
    between = np.concatenate([[0], (xs[:-1] + xs[1:]) / 2, [width]])
    points = np.concatenate([
        np.stack([row := between if k % 2 else xs, np.full(len(row), y)], 1)
        for k, y in enumerate(np.linspace(0, height, rows))
    ])  # fmt: skip
    for axis, side in enumerate((width, height)):
        for border in (0, side):
            away = np.abs(points[:, axis] - border)
            mirrored = points[(away > 0) & (away < pad)]
            mirrored[:, axis] = 2 * border - mirrored[:, axis]
            points = np.concatenate([points, mirrored])
    return points


def folded_in(px: Float64, width: int, height: int) -> Float64:
    """Points (n, 2) about a frame, those outside mirrored in the border that they lie beyond."""
    return 2 * np.clip(px, 0, [width, height]) - px


def smoothstep(low: float, high: float, x: Float64) -> Float64:
    t = np.clip((x - low) / (high - low), 0, 1)
    return t * t * (3 - 2 * t)


def peel_spikes(triangles: IntArray, margins: IntArray) -> IntArray:
    """Drop triangles that hang on the rim by one vertex or stick out with two free edges, so that the rim is one simple loop.

    Edges along the openings (`margins`) are not the rim's.
    """
    for _ in range(20):
        edges = np.sort(np.concatenate([triangles[:, [0, 1]], triangles[:, [1, 2]], triangles[:, [2, 0]]]), 1)
        _, inverse, count = np.unique(edges, axis=0, return_inverse=True, return_counts=True)
        on_rim = (count[inverse.ravel()] == 1) & ~np.isin(edges, margins).all(1)
        free = on_rim.reshape(3, -1).sum(0)
        # a vertex where more than two free edges meet joins two loops: remove its free triangles
        single = edges[on_rim]
        meets = np.bincount(single.ravel(), minlength=int(triangles.max()) + 1)
        drop = (free >= 2) | ((meets[triangles] > 2).any(1) & (free >= 1))
        if not drop.any():
            break
        triangles = largest_piece(triangles[~drop])
    return triangles
