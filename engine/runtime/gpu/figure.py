"""A person on a device: meshes, rigs and the tables of kernels/cuda/figure.cu, of one slot."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.engine.runtime.gpu import structures as st
from visavis.engine.runtime.gpu.device import Device, put, put_structures
from visavis.engine.video.crop import FaceCrop
from visavis.engine.video.figure import HEAD, Bone, Figure, Part

PAD = 2
"""Replicated texels around a texture."""
UV_MARGIN = 2.0
"""As `kernels.Mesh` has it by default."""
FloatArray = npt.NDArray[np.float32]
Bytes = npt.NDArray[np.uint8]


def padded_texture(texture: Bytes) -> Bytes:
    """Straight RGBA (H, W, 4) -> premultiplied, with PAD replicated texels around it."""
    t = texture.astype(np.int32)
    t[..., :3] = (t[..., :3] * t[..., 3:] * 2 + 255) // 510
    return np.pad(t.astype(np.uint8), ((PAD, PAD), (PAD, PAD), (0, 0)), mode="edge")


def triangle_kinds(
    triangles: npt.NDArray[np.int32], uv: FloatArray, alpha: Bytes, margin: float
) -> npt.NDArray[np.uint8]:
    """(T,) 1 where a triangle can fetch opaque texels only, 2 invisible ones only, else 0: as kernels/src/api.cpp has it."""
    height, width = alpha.shape

    def sums(wanted: npt.NDArray[np.bool_]) -> npt.NDArray[np.int64]:
        return np.pad(wanted.cumsum(0, dtype=np.int64).cumsum(1), ((1, 0), (1, 0)))

    corners = uv[triangles].astype(np.float64)  # (T, 3, 2)
    size = np.array([width, height])
    first = np.clip(np.floor(corners.min(1) - margin - 0.51).astype(np.int64) - 1, 0, size - 1)
    end = np.clip(np.floor(corners.max(1) + margin - 0.49).astype(np.int64) + 3, 1, size)
    (x0, y0), (x1, y1) = first.T, end.T

    def none(total: npt.NDArray[np.int64]) -> npt.NDArray[np.bool_]:
        return np.asarray(total[y1, x1] - total[y0, x1] - total[y1, x0] + total[y0, x0] == 0)

    # Texels of alpha 1 sum to less than 1.5 under any weights: what is fetched from them is discarded.
    return np.where(none(sums(alpha != 255)), 1, np.where(none(sums(alpha > 1)), 2, 0)).astype(np.uint8)


class DevicePart:
    """One part's mesh on the device, and its rig on the host until the batch's sizes are known."""

    def __init__(self, device: Device, part: Part) -> None:
        self.n_triangles, self.n_vertices = len(part.triangles), len(part.vertices)
        self.n_shapes, self.n_joints = len(part.shapes), part.weights.shape[1]
        self.tex_height, self.tex_width = part.texture.shape[:2]
        self._part = part
        edges = np.zeros(self.n_triangles, np.uint8) if part.edge_flags is None else part.edge_flags
        host: dict[str, npt.NDArray[Any]] = {
            "triangles": np.asarray(part.triangles, np.int32), "uv": np.asarray(part.uv, np.float32),
            "attr": np.asarray(part.attr, np.float32), "part": np.asarray(part.labels, np.uint8),
            "edges": np.asarray(edges, np.uint8),
            "kind": triangle_kinds(part.triangles, part.uv, part.texture[..., 3], UV_MARGIN),
            "texture": padded_texture(part.texture),
        }  # fmt: skip
        if part.rest_depth is not None:
            host["rest_depth"] = np.asarray(part.rest_depth, np.float32)
        self.arrays = {name: put(device, array) for name, array in host.items()}
        self.units, self.bones = (put(device, a.astype(np.int32)) for a in (part.units, part.bones))

    def rig(
        self, vertices: int, shapes: int, joints: int
    ) -> tuple[FloatArray, npt.NDArray[np.float16], FloatArray]:
        """rest (3, vertices), basis (shapes, 3, vertices), weights (joints, vertices), filled up with zeros."""
        part = self._part
        rest = np.zeros((3, vertices), np.float32)
        basis = np.zeros((shapes, 3, vertices), np.float16)
        weights = np.zeros((joints, vertices), np.float32)
        rest[:, : self.n_vertices] = part.vertices.T
        for shape, (indices, deltas) in zip(basis, part.shapes, strict=False):
            shape[:, indices] = deltas.T
        weights[: self.n_joints, : self.n_vertices] = part.weights.T
        return rest, basis, weights


@dataclass(eq=False)
class DeviceFigure:
    """What one slot draws."""

    figure: Figure
    parts: list[DevicePart]
    plate: Any
    face: FaceCrop | None
    """Where the square of the video network lies, if there is one."""

    @classmethod
    def of(cls, device: Device, figure: Figure, plate: Bytes, face: FaceCrop | None = None) -> DeviceFigure:
        """Uploads it."""
        return cls(figure, [DevicePart(device, part) for part in figure.parts], put(device, plate), face)

    def entry(self, device: Device, targets: Sequence[tuple[Any, Any]], keep: list[Any]) -> st.FigureSlot:
        """The slot's entry for figure.cu; `targets`: coefficients and joints on the device of each part. Arrays go to `keep`."""
        figure, pointer = self.figure, device.pointer
        parts = (st.FigurePart * len(self.parts))()
        for k, (part, (coefficients, joints)) in enumerate(zip(self.parts, targets, strict=True)):
            parts[k] = st.FigurePart(
                pointer(coefficients), pointer(joints), pointer(part.units), pointer(part.bones), part.n_shapes, part.n_joints
            )  # fmt: skip
        arrays = [
            put_structures(device, (st.Bone * len(figure.bones))(*map(_bone, figure.bones))), put_structures(device, parts),
            *(put(device, a.astype(np.float32)) for a in (figure.lowest, figure.highest, figure.gap, figure.gap_units)),
        ]  # fmt: skip
        keep.append(arrays)
        fx, _, cx, cy = figure.camera
        point, scale = ((0.0, 0.0, 0.0), 1.0) if self.face is None else (self.face.point, self.face.scale)
        return st.FigureSlot(
            *map(pointer, arrays), len(figure.bones), len(self.parts), len(figure.gap), HEAD, tuple(map(float, point)),
            fx, cx, cy, scale, round(1 / scale) if scale < 0.67 else 1,
        )  # fmt: skip


def _bone(bone: Bone) -> st.Bone:
    return st.Bone(
        bone.parent, bone.channel, int(bone.eye), bone.limit, bone.shift, tuple(map(float, bone.pivot)),
        tuple(map(float, bone.axes.ravel())),
    )  # fmt: skip
