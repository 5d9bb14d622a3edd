"""Posing: blend shapes, linear blend skinning and perspective projection in one pass."""

from __future__ import annotations

import weakref
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from .library import check, check_writable, lib


class PoseRig:
    """A mesh that can be posed, copied once into the kernel's layout.

    rest: float32 (V, 3), metres. basis: float32 or float16 (K, V, 3), or a sequence of K pairs (indices int
    (n,), deltas float (n, 3)): what one unit of each shape adds to rest. Where a shape moves nothing,
    nothing is stored or read; a float16 basis is kept as such. skin_weights: float32 (V, J), rows summing to
    1.

    ValueError on wrong types, shapes or indices.
    """

    def __init__(
        self,
        rest: NDArray[np.float32],
        basis: NDArray[np.float32] | NDArray[np.float16] | Sequence[tuple[NDArray, NDArray]],
        skin_weights: NDArray[np.float32],
    ) -> None:
        rest = check("rest", rest, np.float32, (None, 3))
        n = len(rest)
        skin_weights = check("skin_weights", skin_weights, np.float32, (n, None))
        half = False
        if isinstance(basis, np.ndarray):
            half = basis.dtype == np.float16
            dense = check("basis", basis, np.float16 if half else np.float32, (None, n, 3)).astype(np.float32)
        else:
            dense = np.zeros((len(basis), n, 3), np.float32)
            half = bool(basis) and all(np.asarray(d).dtype == np.float16 for _, d in basis)
            for k, (indices, deltas) in enumerate(basis):
                indices = np.asarray(indices)
                if indices.size and (indices.min() < 0 or indices.max() >= n):
                    raise ValueError(
                        f"basis[{k}]: indices must lie in 0..{n - 1}, got {indices.min()}..{indices.max()}"
                    )
                if np.shape(deltas) != (len(indices), 3):
                    raise ValueError(
                        f"basis[{k}]: expected deltas of shape ({len(indices)}, 3), got {np.shape(deltas)}"
                    )
                dense[k, indices] = deltas
        if not np.isfinite(dense).all():
            raise ValueError("basis: must be finite")
        self.n_vertices = n
        self.n_shapes = len(dense)
        self.n_joints = skin_weights.shape[1]
        if self.n_joints < 1:
            raise ValueError("skin_weights: at least one joint is needed")
        self._handle = lib.vv_pose_create(
            n,
            self.n_shapes,
            self.n_joints,
            rest.ctypes.data,
            skin_weights.ctypes.data,
            dense.ctypes.data,
            int(half),
        )
        if not self._handle:
            raise MemoryError(f"no memory for a rig of {n} vertices and {self.n_shapes} shapes")
        weakref.finalize(self, lib.vv_pose_destroy, self._handle)

    @property
    def bytes_read(self) -> int:
        """Bytes that one pose reads when no coefficient is zero."""
        return int(lib.vv_pose_bytes(self._handle))

    def pose(
        self,
        coefficients: NDArray[np.float32],
        joints: NDArray[np.float32],
        camera: tuple[float, float, float, float],
        out: NDArray[np.float32] | None = None,
        camera_space: NDArray[np.float32] | None = None,
    ) -> NDArray[np.float32]:
        """Screen positions (V, 3): x and y in pixels, depth in metres.

        coefficients: float32 (K,). joints: float32 (J, 3, 4) rest space -> camera space (x right, y down, z
            forward).
        camera: fx, fy, cx, cy in pixels. out and camera_space: float32 (V, 3), written if given;
        camera_space gets the positions before projection.
        """
        coefficients = check("coefficients", coefficients, np.float32, (self.n_shapes,))
        joints = check("joints", joints, np.float32, (self.n_joints, 3, 4))
        lens = np.array(camera, np.float32)
        if lens.shape != (4,):
            raise ValueError(f"camera: fx, fy, cx, cy, got {camera!r}")
        if out is None:
            out = np.empty((self.n_vertices, 3), np.float32)
        for name, array in (("out", out), ("camera_space", camera_space)):
            if array is not None:
                check(name, array, np.float32, (self.n_vertices, 3))
                check_writable(name, array)
        lib.vv_pose(
            self._handle,
            coefficients.ctypes.data,
            joints.ctypes.data,
            lens.ctypes.data,
            out.ctypes.data,
            None if camera_space is None else camera_space.ctypes.data,
        )
        return out
