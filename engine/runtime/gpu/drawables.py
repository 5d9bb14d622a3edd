"""Meshes, rigs and targets of one slot on a device: what a renderer builds and draws with instead of the CPU's own.

A slot's kit hands these out (`visavis.kernels.building_for`). Posing and drawing only note what is to be done;
the frame is drawn, together with those of other slots, when the renderer asks for the finished picture.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.engine.runtime.gpu.device import Device, DeviceError, put
from visavis.engine.runtime.gpu.structures import BICUBIC, CULL, PERSPECTIVE

PAD = 2
"""Replicated texels around a texture."""
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


class DeviceMesh:
    """In place of `visavis.kernels.Mesh`; the same arguments."""

    def __init__(
        self,
        device: Device,
        triangles: npt.NDArray[np.int32],
        uv: FloatArray,
        part: Bytes,
        attr: FloatArray,
        texture: Bytes,
        edge_flags: Bytes | None = None,
        shade: FloatArray | None = None,
        *,
        rest_depth: FloatArray | None = None,
        uv_margin: float = 2.0,
    ) -> None:
        self.n_triangles, self.n_vertices = len(triangles), len(uv)
        self.uv_margin = uv_margin
        self.tex_height, self.tex_width = texture.shape[:2]
        host: dict[str, npt.NDArray[Any]] = {
            "triangles": np.asarray(triangles, np.int32),
            "uv": np.asarray(uv, np.float32),
            "attr": np.asarray(attr, np.float32),
            "part": np.asarray(part, np.uint8),
            "edges": np.zeros(len(triangles), np.uint8)
            if edge_flags is None
            else np.asarray(edge_flags, np.uint8),
            "kind": triangle_kinds(triangles, uv, texture[..., 3], uv_margin),
            "texture": padded_texture(texture),
        }
        if rest_depth is not None:
            host["rest_depth"] = np.asarray(rest_depth, np.float32)
        if shade is not None:
            host["shade"] = np.asarray(shade, np.float32)
        self.arrays = {name: put(device, array) for name, array in host.items()}


@dataclass(frozen=True)
class Posed:
    """Vertices that the device will pose."""

    rig: DeviceRig
    coefficients: FloatArray
    joints: FloatArray
    camera: tuple[float, float, float, float]


class DeviceRig:
    """In place of `visavis.kernels.PoseRig`; kept on the host until the batch's sizes are known."""

    def __init__(
        self,
        rest: FloatArray,
        basis: npt.NDArray[Any] | Sequence[tuple[npt.NDArray[Any], npt.NDArray[Any]]],
        skin_weights: FloatArray,
    ) -> None:
        self.n_vertices, self.n_joints = skin_weights.shape
        dense = np.zeros((len(basis), self.n_vertices, 3), np.float16)
        if isinstance(basis, np.ndarray):
            dense[:] = basis
        else:
            for shape, (indices, deltas) in zip(dense, basis, strict=True):
                shape[indices] = deltas
        self.n_shapes = len(dense)
        self.rest, self.basis, self.weights = np.asarray(rest, np.float32), dense, skin_weights

    def padded(
        self, vertices: int, shapes: int, joints: int
    ) -> tuple[FloatArray, npt.NDArray[np.float16], FloatArray]:
        """rest (3, vertices), basis (shapes, 3, vertices), weights (joints, vertices), filled up with zeros."""
        rest = np.zeros((3, vertices), np.float32)
        basis = np.zeros((shapes, 3, vertices), np.float16)
        weights = np.zeros((joints, vertices), np.float32)
        rest[:, : self.n_vertices] = self.rest.T
        basis[: self.n_shapes, :, : self.n_vertices] = self.basis.transpose(0, 2, 1)
        weights[: self.n_joints, : self.n_vertices] = self.weights.T
        return rest, basis, weights

    def pose(
        self,
        coefficients: FloatArray,
        joints: FloatArray,
        camera: tuple[float, float, float, float],
        out: None = None,
        camera_space: None = None,
    ) -> Posed:
        """See `PoseRig.pose`; the result can only be drawn."""
        if out is not None or camera_space is not None:
            raise DeviceError("posed vertices stay on the device: out and camera_space cannot be had")
        if np.shape(coefficients) != (self.n_shapes,) or np.shape(joints) != (self.n_joints, 3, 4):
            raise ValueError(
                f"coefficients {np.shape(coefficients)} and joints {np.shape(joints)}: expected ({self.n_shapes},) and ({self.n_joints}, 3, 4)"
            )
        numbers = tuple(float(x) for x in camera)
        return Posed(
            self,
            np.array(coefficients, np.float32),
            np.array(joints, np.float32),
            (numbers[0], numbers[1], numbers[2], numbers[3]),
        )


@dataclass(frozen=True)
class Draw:
    """One group of a frame: a mesh at vertices that the device poses, or at given ones (V, 3)."""

    mesh: DeviceMesh
    vertices: Posed | FloatArray
    flags: int


@dataclass
class FrameDraws:
    """What a renderer asked for since `begin`."""

    plate: Bytes | None = None
    draws: list[Draw] = field(default_factory=list)


class _Picture:
    """Stands for the finished picture: `copy` has it drawn and fetched."""

    def __init__(self, fetch: Callable[[], npt.NDArray[np.uint8]]) -> None:
        self._fetch = fetch

    def copy(self) -> npt.NDArray[np.uint8]:
        return self._fetch()


class DeviceTarget:
    """In place of `visavis.kernels.Target`: notes the groups of a frame and has them drawn when `rgb` is copied."""

    def __init__(
        self, width: int, height: int, finish: Callable[[FrameDraws], npt.NDArray[np.uint8]]
    ) -> None:
        self.width, self.height = width, height
        self.frame = FrameDraws()
        self.rgb = _Picture(lambda: finish(self.frame))

    def begin(self, plate: Bytes) -> None:
        """See `Target.begin`."""
        if plate.shape != (self.height, self.width, 3):
            raise ValueError(f"plate: expected ({self.height}, {self.width}, 3), got {plate.shape}")
        self.frame = FrameDraws(plate)

    def draw(
        self,
        mesh: DeviceMesh,
        vertices: Posed | FloatArray,
        *,
        perspective: bool = True,
        filter: str = "bicubic",
        cull: bool = False,
        brightness: None = None,
        threads: int = 1,
    ) -> None:
        """See `Target.draw`; without brightness, and `threads` means nothing here."""
        if brightness is not None:
            raise DeviceError("brightness that changes from frame to frame is not carried to the device")
        if self.frame.plate is None:
            raise DeviceError("draw before begin")
        flags = PERSPECTIVE * perspective | BICUBIC * (filter == "bicubic") | CULL * cull
        self.frame.draws.append(Draw(mesh, vertices, flags))


class SlotKit:
    """Makes the drawables of one slot."""

    def __init__(self, device: Device, finish: Callable[[FrameDraws], npt.NDArray[np.uint8]]) -> None:
        self._device, self._finish = device, finish

    def mesh(self, *args: Any, **kwargs: Any) -> DeviceMesh:
        return DeviceMesh(self._device, *args, **kwargs)

    def rig(self, *args: Any, **kwargs: Any) -> DeviceRig:
        return DeviceRig(*args, **kwargs)

    def target(self, width: int, height: int) -> DeviceTarget:
        return DeviceTarget(width, height, self._finish)
