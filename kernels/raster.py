"""The CPU rasteriser: textured triangle meshes drawn over a background plate.

Each `Target.draw` is a group: depth-buffered inside itself, then composited over what earlier draws left. See
kernels/src/raster.cpp for the method.
"""

from __future__ import annotations

import weakref
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .library import check, lib

MAX_TEXTURE = 8192
"""Largest side of a texture in pixels: texture positions keep 1/256 texel in float32 up to here."""
MAX_SIDE = 8192
"""Largest side of a target in pixels."""


class Mesh:
    """Static data of one drawable, copied once.

    triangles: int32 (T, 3) vertex indices.
    uv: float32 (V, 2) texture position in texels; the centre of texel (row i, column j) is (j + 0.5, i +
        0.5).
    part: uint8 (T,) part label, 1..255.
    attr: float32 (V, 3) what `Target.position` is to show, usually rest positions.
    texture: uint8 (Ht, Wt, 4) straight RGBA.
    edge_flags: uint8 (T,) bit k marks the edge from corner k to corner k+1 (mod 3) as a boundary: its
        outside is antialiased over one pixel.
    rest_depth: float32 (V,) depth of each vertex from the camera that took the texture (> 0). With it,
        perspective texture positions are projective (exact for a texture that is a photo of the mesh);
        without, they are affine on each triangle, as is usual.
    shade: float32 (V,) colour multiplier, static; multiplies `brightness` of draw.
    uv_margin: texels that a texture position extrapolated outside a boundary edge may leave its triangle's
        own range.

    ValueError on wrong types, shapes, indices or values.
    """

    def __init__(
        self,
        triangles: NDArray[np.int32],
        uv: NDArray[np.float32],
        part: NDArray[np.uint8],
        attr: NDArray[np.float32],
        texture: NDArray[np.uint8],
        edge_flags: NDArray[np.uint8] | None = None,
        shade: NDArray[np.float32] | None = None,
        *,
        rest_depth: NDArray[np.float32] | None = None,
        uv_margin: float = 2.0,
    ) -> None:
        uv = check("uv", uv, np.float32, (None, 2))
        n = len(uv)
        triangles = check("triangles", triangles, np.int32, (None, 3))
        t = len(triangles)
        if t and (triangles.min() < 0 or triangles.max() >= n):
            raise ValueError(
                f"triangles: indices must lie in 0..{n - 1}, got {triangles.min()}..{triangles.max()}"
            )
        part = check("part", part, np.uint8, (t,))
        attr = check("attr", attr, np.float32, (n, 3))
        texture = check("texture", texture, np.uint8, (None, None, 4))
        height, width = texture.shape[:2]
        if not (1 <= width <= MAX_TEXTURE and 1 <= height <= MAX_TEXTURE):
            raise ValueError(f"texture: sides must be 1..{MAX_TEXTURE} pixels, got {width}x{height}")
        if edge_flags is None:
            edge_flags = np.zeros(t, np.uint8)
        edge_flags = check("edge_flags", edge_flags, np.uint8, (t,))
        if t and edge_flags.max() > 7:
            raise ValueError(f"edge_flags: only bits 0..2 mean something, got {edge_flags.max()}")
        if shade is not None:
            shade = check("shade", shade, np.float32, (n,))
        if rest_depth is not None:
            rest_depth = check("rest_depth", rest_depth, np.float32, (n,))
            if not (np.isfinite(rest_depth).all() and (rest_depth > 0).all()):
                raise ValueError("rest_depth: must be finite and > 0")
        if not (np.isfinite(uv).all() and np.isfinite(attr).all()):
            raise ValueError("uv, attr: must be finite")
        if not 0 <= uv_margin <= MAX_TEXTURE:
            raise ValueError(f"uv_margin: 0..{MAX_TEXTURE} texels, got {uv_margin}")
        self.n_vertices = n
        self.n_triangles = t
        self.handle = lib.vv_mesh_create(
            t,
            n,
            triangles.ctypes.data,
            uv.ctypes.data,
            part.ctypes.data,
            attr.ctypes.data,
            edge_flags.ctypes.data,
            None if rest_depth is None else rest_depth.ctypes.data,
            None if shade is None else shade.ctypes.data,
            texture.ctypes.data,
            width,
            height,
            float(uv_margin),
        )
        if not self.handle:
            raise MemoryError(f"no memory for a mesh with a {width}x{height} texture")
        weakref.finalize(self, lib.vv_mesh_destroy, self.handle)


class Target:
    """Reusable buffers of one output size. Not to be drawn into from two threads at once.

    rgb: uint8 (H, W, 3). coverage: uint8 (H, W), alpha of everything drawn since `begin`. part: uint8 (H,
    W), label of the front-most fragment with alpha >= 0.5 (0 = background). position: float32 (H, W, 3), its
    `attr`, told of the pixels `begin` was asked to tell it of; what it holds elsewhere means nothing. The arrays
    stay the same objects for the life of the target; copy what must outlive the next `begin`.
    """

    def __init__(self, width: int, height: int) -> None:
        if not (1 <= width <= MAX_SIDE and 1 <= height <= MAX_SIDE):
            raise ValueError(f"target: sides must be 1..{MAX_SIDE} pixels, got {width}x{height}")
        self.width = width
        self.height = height
        self.rgb: NDArray[np.uint8] = np.zeros((height, width, 3), np.uint8)
        self.coverage: NDArray[np.uint8] = np.zeros((height, width), np.uint8)
        self.part: NDArray[np.uint8] = np.zeros((height, width), np.uint8)
        self.position: NDArray[np.float32] = np.zeros((height, width, 3), np.float32)
        self._wanted = np.array([0, 0, width, height], np.int32)
        self._outputs = tuple(a.ctypes.data for a in (self.rgb, self.coverage, self.part, self.position))
        self._handle = lib.vv_target_create(width, height)
        if not self._handle:
            raise MemoryError(f"no memory for a {width}x{height} target")
        weakref.finalize(self, lib.vv_target_destroy, self._handle)

    def begin(self, plate: NDArray[np.uint8], positions: tuple[int, int, int, int] | None = None) -> None:
        """Start a frame: `plate` (uint8 (H, W, 3)) becomes the picture; coverage, part and position become
        0.

        positions: the pixels x0 <= x < x1, y0 <= y < y1 whose `position` is wanted, (x0, y0, x1, y1); None: of all.
            They are half of the memory that drawing goes through.
        """
        whole = (0, 0, self.width, self.height)
        x0, y0, x1, y1 = whole if positions is None else positions
        self._wanted[:] = max(x0, 0), max(y0, 0), min(x1, self.width), min(y1, self.height)
        x0, y0, x1, y1 = self._wanted.tolist()
        self.rgb[...] = check("plate", plate, np.uint8, (self.height, self.width, 3))
        self.coverage.fill(0)
        self.part.fill(0)
        if x0 < x1 and y0 < y1:
            self.position[y0:y1, x0:x1] = 0

    def draw(
        self,
        mesh: Mesh,
        vertices: NDArray[np.float32],
        *,
        perspective: bool = True,
        filter: Literal["bicubic", "bilinear"] = "bicubic",
        cull: bool = False,
        brightness: NDArray[np.float32] | None = None,
        threads: int = 1,
    ) -> None:
        """Draw `mesh` as one group over what is there.

        vertices: float32 (V, 3): x and y in pixels (the centre of pixel (row i, column j) is (j + 0.5, i +
            0.5)), and depth (> 0, larger = farther). Triangles with a vertex that is NaN, has depth <= 0 or
            lies over 16384 pixels away are left out.
        cull: leave out triangles whose corners run clockwise as seen on the screen.
        brightness: float32 (V,) colour multiplier, 0..16.
        threads: the result does not depend on it.

        ValueError on wrong types, shapes or names.
        """
        vertices = check("vertices", vertices, np.float32, (mesh.n_vertices, 3))
        if brightness is not None:
            brightness = check("brightness", brightness, np.float32, (mesh.n_vertices,))
        if filter not in ("bicubic", "bilinear"):
            raise ValueError(f"filter: 'bicubic' or 'bilinear', got {filter!r}")
        if not 1 <= threads <= 64:
            raise ValueError(f"threads: 1..64, got {threads}")
        flags = int(perspective) | int(filter == "bicubic") << 1 | int(cull) << 2
        light: Any = None if brightness is None else brightness.ctypes.data
        if lib.vv_draw(
            self._handle,
            mesh.handle,
            vertices.ctypes.data,
            light,
            flags,
            threads,
            *self._outputs,
            self._wanted.ctypes.data,
        ):
            raise MemoryError("no memory or no threads for drawing")
