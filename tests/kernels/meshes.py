"""Small meshes for the tests."""

from __future__ import annotations

from collections import Counter

import numpy as np
from numpy.typing import NDArray
from raster_reference import Scene
from visavis.kernels import Mesh, Target


def grid(rows: int, columns: int, width: float, height: float) -> tuple[NDArray, NDArray]:
    """Vertices (V, 2) on a lattice over width x height and triangles (T, 3) with alternating diagonals."""
    y, x = np.mgrid[0:rows, 0:columns]
    points = np.stack([x * width / (columns - 1), y * height / (rows - 1)], -1).reshape(-1, 2)
    triangles = []
    for r in range(rows - 1):
        for c in range(columns - 1):
            a, b, d, e = (i * columns + j for i in (r, r + 1) for j in (c, c + 1))
            triangles += [(a, b, d), (b, e, d)] if (r + c) % 2 else [(a, b, e), (a, e, d)]
    return points.astype(np.float32), np.array(triangles, np.int32)


def boundary_flags(triangles: NDArray) -> NDArray[np.uint8]:
    """Flags of the edges that belong to one triangle only."""
    edges = [[tuple(sorted((int(t[k]), int(t[(k + 1) % 3])))) for k in range(3)] for t in triangles]
    count = Counter(e for es in edges for e in es)
    return np.array([sum((count[e] == 1) << k for k, e in enumerate(es)) for es in edges], np.uint8)


def noise(rng: np.random.Generator, height: int, width: int, alpha: bool = False) -> NDArray[np.uint8]:
    texture = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    if not alpha:
        texture[..., 3] = 255
    return texture


def smooth(rng: np.random.Generator, height: int, width: int, alpha: bool = False) -> NDArray[np.uint8]:
    """Noise of a few texels' wavelength: small differences in texture position make small differences in colour."""
    import cv2

    coarse = noise(rng, height // 8 + 2, width // 8 + 2, alpha)
    texture = np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR))
    if alpha:  # wide opaque and wide invisible parts, soft between
        texture[..., 3] = np.clip((texture[..., 3].astype(float) - 128) * 6 + 128, 0, 255)
    return texture.astype(np.uint8)


def soup(
    rng: np.random.Generator, count: int, size: int, *, alpha: bool, lattice: int = 8, height: float = 1.0
) -> Scene:
    """Triangles in random places, each in a depth range of its own, none thinner than `height` pixels."""
    corners, uv = [], []
    while len(corners) < count:
        p = rng.integers(-size * lattice // 2, size * lattice * 3 // 2, (3, 2)) / lattice
        longest = max(np.linalg.norm(p[k] - p[(k + 1) % 3]) for k in range(3))
        area = abs(np.linalg.det(np.stack([p[1] - p[0], p[2] - p[0]])))
        if longest and area / longest >= height:
            corners.append(p)
            uv.append(p + rng.uniform(-4, 4, (3, 2)))
    depth = 1 + 0.5 * rng.permutation(count)[:, None] + rng.uniform(0, 0.3, (count, 3))
    vertices = np.concatenate([np.array(corners), depth[..., None]], -1).reshape(-1, 3)
    order = np.arange(3 * count).reshape(-1, 3)
    return Scene(
        triangles=order.astype(np.int32),
        uv=np.array(uv, np.float32).reshape(-1, 2),
        part=rng.integers(1, 256, count).astype(np.uint8),
        attr=rng.uniform(-1, 1, (3 * count, 3)).astype(np.float32),
        texture=smooth(rng, 2 * size, 2 * size, alpha),
        edge_flags=rng.integers(0, 8, count).astype(np.uint8),
        vertices=vertices.astype(np.float32),
    )


def sheet(rng: np.random.Generator, rows: int, columns: int, size: int, *, alpha: bool, hole: bool) -> Scene:
    """A bent, jittered grid with its boundary (and that of a hole) flagged."""
    uv, triangles = grid(rows, columns, size, size)
    if hole:
        keep = np.ones(len(triangles), bool)
        middle = (rows // 2 - 1) * (columns - 1) + (columns - 1) // 2
        keep[2 * middle : 2 * middle + 2] = False
        triangles = triangles[keep]
    cell = size / (max(rows, columns) - 1)
    xy = uv * rng.uniform(0.6, 1.0) + rng.uniform(0, 3, 2) + rng.uniform(-0.15, 0.15, uv.shape) * cell
    depth = 1 + 1e-6 * xy.sum(1)
    return Scene(
        triangles=triangles,
        uv=uv,
        part=rng.integers(1, 256, len(triangles)).astype(np.uint8),
        attr=np.concatenate([uv, xy[:, :1]], 1).astype(np.float32),
        texture=smooth(rng, size, size, alpha),
        edge_flags=boundary_flags(triangles),
        vertices=np.concatenate([xy, depth[:, None]], 1).astype(np.float32),
    )


def mesh_of(s: Scene) -> Mesh:
    return Mesh(s.triangles, s.uv, s.part, s.attr, s.texture, s.edge_flags, rest_depth=s.rest_depth)


def draw(target: Target, s: Scene, mesh: Mesh | None = None, threads: int = 1) -> None:
    target.draw(
        mesh or mesh_of(s),
        s.vertices,
        perspective=s.perspective,
        filter=s.filter,  # type: ignore[arg-type]
        cull=s.cull,
        brightness=s.brightness,
        threads=threads,
    )
