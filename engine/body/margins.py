"""Lip margins as smooth curves.

The body model has a vertex every 7 mm along the lips. Parted, the straight lines between them make a corner of the lower lip's middle; so
vertices are inserted by the four-point scheme (Dyn, Levin, Gregory 1987), which goes through those that are there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.engine.body.fit import FLIP, Camera, Float64
from visavis.engine.body.model import FloatArray, IntArray
from visavis.engine.body.surface import Seam, Surface

ROUNDS = 2
"""How often the distance between the margins' vertices is halved."""


def smooth_margins(surface: Surface, camera: Camera, *, name: str = "mouth", rounds: int = ROUNDS) -> Surface:
    """The surface with more vertices on the margins of one opening; itself where it has no such opening.

    What was there stays: new vertices follow the old ones, and triangles at a margin are split. Positions and displacements follow the curve through the
    margin's own vertices, skinning weights and canonical coordinates the straight line. At rest each new vertex projects to its own pixel, as all do.
    """
    for _ in range(rounds):
        seam = surface.seam(name)
        if seam is None:
            return surface
        surface = _halved(surface, seam, camera)
    return surface


def midpoints(values: npt.NDArray[np.floating]) -> Float64:
    """Values (..., n - 1, k) half way between neighbours of (..., n, k), on the curve through them."""
    v = np.asarray(values, np.float64)
    before = np.concatenate([2 * v[..., :1, :] - v[..., 1:2, :], v], -2)
    after = np.concatenate([v, 2 * v[..., -1:, :] - v[..., -2:-1, :]], -2)
    return (9 * (v[..., :-1, :] + v[..., 1:, :]) - before[..., : v.shape[-2] - 1, :] - after[..., 2:, :]) / 16


def _halved(surface: Surface, seam: Seam, camera: Camera) -> Surface:
    count = len(surface.vertices)
    chains = (seam.upper, seam.lower)
    added = [np.arange(len(chain) - 1, dtype=np.int32) for chain in chains]
    added[0] += count
    added[1] += count + len(added[0])

    def on_curve(values: FloatArray) -> FloatArray:
        new = np.concatenate([midpoints(values[..., chain, :]) for chain in chains], -2)
        return np.concatenate([values, new.astype(np.float32)], -2)

    def on_line(values: FloatArray) -> FloatArray:
        new = np.concatenate([(values[chain[:-1]] + values[chain[1:]]) / 2 for chain in chains])
        return np.concatenate([values, new.astype(np.float32)])

    vertices = on_curve(surface.vertices)
    own = camera.project(vertices[count:].astype(np.float64) @ FLIP.T)
    triangles, part, flags = surface.triangles, surface.part, surface.edge_flags
    for chain, new in zip(chains, added, strict=True):
        for a, b, middle in zip(chain[:-1], chain[1:], new, strict=True):
            triangles, part, flags = _split(triangles, part, flags, int(a), int(b), int(middle))
    longer = _longer(seam, added[0], added[1])
    return replace(
        surface,
        vertices=vertices,
        uv=np.concatenate([surface.uv, own.astype(np.float32)]),
        triangles=triangles,
        part=part,
        edge_flags=flags,
        units=on_curve(surface.units),
        weights=on_line(surface.weights),
        rest=on_line(surface.rest),
        seams=tuple(longer if s is seam else s for s in surface.seams),
    )


def _split(
    triangles: IntArray,
    part: npt.NDArray[np.uint8],
    flags: npt.NDArray[np.uint8],
    a: int,
    b: int,
    middle: int,
) -> tuple[IntArray, npt.NDArray[np.uint8], npt.NDArray[np.uint8]]:
    """Each triangle with the edge a, b in two, by `middle`; edge flags go with the edges, and the new inner edge has none."""
    for t in np.nonzero(((triangles == a) | (triangles == b)).sum(1) == 2)[0]:
        k = next(k for k in range(3) if {int(triangles[t, k]), int(triangles[t, (k + 1) % 3])} == {a, b})
        first, second, apex = (int(triangles[t, (k + j) % 3]) for j in range(3))
        on_margin, ahead, back = ((int(flags[t]) >> ((k + j) % 3)) & 1 for j in range(3))
        triangles = np.concatenate([triangles, np.array([[middle, second, apex]], np.int32)])
        triangles[t] = first, middle, apex
        part = np.append(part, part[t])
        flags = np.append(flags, np.uint8(on_margin | ahead << 1))
        flags[t] = on_margin | back << 2
    return triangles, part, flags


def _longer(seam: Seam, upper: IntArray, lower: IntArray) -> Seam:
    """The seam with a new vertex between any two: it takes its own correction, and nothing else does."""
    spread_upper, spread_lower = (
        _spread(spread, new, first, len(upper) + len(lower))
        for spread, new, first in (
            (seam.spread_upper, upper, 0),
            (seam.spread_lower, lower, len(upper)),
        )
    )
    return replace(
        seam,
        upper=_woven(seam.upper, upper),
        lower=_woven(seam.lower, lower),
        parameter_upper=_woven(seam.parameter_upper, midpoints(seam.parameter_upper[:, None])[:, 0]),
        parameter_lower=_woven(seam.parameter_lower, midpoints(seam.parameter_lower[:, None])[:, 0]),
        near=np.concatenate([seam.near, upper, lower]),
        spread_upper=spread_upper,
        spread_lower=spread_lower,
    )


def _woven(old: npt.NDArray[Any], new: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Old values (n,) with new ones (n - 1,) between them."""
    out = np.empty(len(old) + len(new), old.dtype)
    out[::2], out[1::2] = old, new
    return out


def _spread(spread: FloatArray, new: IntArray, first: int, added: int) -> FloatArray:
    """Shares (k, n) as (k + added, 2 n - 1): column 2 j + 1 is of the new vertex `first` + j behind the old rows."""
    rows, columns = spread.shape
    out = np.zeros((rows + added, 2 * columns - 1), np.float32)
    out[:rows, ::2] = spread
    own = np.arange(len(new))
    out[rows + first + own, 2 * own + 1] = 1
    return out
