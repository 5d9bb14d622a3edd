"""Drawing the frames of all slots in one go: one upload, pose and raster launches a group, colour conversion, one download.

A frame is a list of groups (the person behind, the portrait, each arm ...), the same from frame to frame; group g of
all slots is one launch. Sizes are the largest of all slots; a slot without group g has no triangles there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.engine.runtime.gpu.device import Device, DeviceError, address, call, put, put_structures
from visavis.engine.runtime.gpu.drawables import Draw, FrameDraws, Posed
from visavis.engine.runtime.gpu.structures import BEGIN, PoseSlot, RasterSlot


@dataclass(frozen=True)
class GroupSize:
    """Largest of a group over all slots; shapes and joints are 0 where no slot poses it."""

    triangles: int = 0
    vertices: int = 0
    shapes: int = 0
    joints: int = 0
    posed: bool = False
    flags: int = 0

    def with_draw(self, draw: Draw) -> GroupSize:
        """As large as this and `draw`."""
        rig = draw.vertices.rig if isinstance(draw.vertices, Posed) else None
        if self.triangles and self.flags != draw.flags:
            raise DeviceError("a group's filter, perspective and culling must be the same in all slots")
        return GroupSize(
            max(self.triangles, draw.mesh.n_triangles, 1),
            max(self.vertices, draw.mesh.n_vertices),
            max(self.shapes, rig.n_shapes if rig else 0),
            max(self.joints, rig.n_joints if rig else 0),
            self.posed or rig is not None,
            draw.flags,
        )


def _camera(draw: Draw) -> tuple[float, ...] | None:
    return draw.vertices.camera if isinstance(draw.vertices, Posed) else None


@dataclass
class Staging:
    """Everything of a tick that changes, in one piece of memory on either side; `host` and `device` hold views of it."""

    host_all: npt.NDArray[np.uint8]
    device_all: Any
    host: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    device: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, device: Device, layout: dict[str, tuple[tuple[int, ...], type]]) -> Staging:
        starts, size = {}, 0
        for name, (shape, dtype) in layout.items():
            starts[name] = size
            size += -(-int(np.prod(shape)) * np.dtype(dtype).itemsize // 16) * 16
        out = cls(device.pinned((size,), np.uint8), device.zeros((size,), np.uint8))
        for name, (shape, dtype) in layout.items():
            span = slice(starts[name], starts[name] + int(np.prod(shape)) * np.dtype(dtype).itemsize)
            out.host[name] = out.host_all[span].view(dtype).reshape(shape)
            out.device[name] = out.device_all[span].view(dtype).reshape(shape)
        return out


class BatchDrawing:
    """The drawing of up to `slots` sessions of width x height pixels. Not for several threads at once.

    `picture` (slots, H, W, 3), `coverage`, `labels` (slots, H, W), `position` (slots, H, W, 3) are on the device after
    `launch`; `yuv` (slots, H * 3 / 2, W) is I420, on the host.
    """

    def __init__(self, device: Device, slots: int, width: int, height: int) -> None:
        if width % 2 or height % 2:
            raise DeviceError(f"I420 needs even sides, got {width}x{height}")
        self.device, self.slots, self.width, self.height = device, slots, width, height
        self.picture = device.zeros((slots, height, width, 3), np.uint8)
        self.coverage = device.zeros((slots, height, width), np.uint8)
        self.labels = device.zeros((slots, height, width), np.uint8)
        self.position = device.zeros((slots, height, width, 3), np.float32)
        self.device_yuv = device.zeros((slots, height * 3 // 2, width), np.uint8)
        self.yuv = device.pinned((slots, height * 3 // 2, width), np.uint8)
        self.convert: Callable[[], None] = self._convert
        """Queues what makes `device_yuv` of the drawn pictures; the video network puts itself here."""
        self._bound: dict[int, FrameDraws] = {}
        self._plates: dict[int, Any] = {}
        self._sizes: list[GroupSize] = []
        self._keep: list[Any] = []
        self._run: Callable[[], None] | None = None
        self._staging = Staging.of(device, {"mask": ((slots,), np.uint8)})
        device.library.vvc_raster_scratch.restype = ctypes.c_long

    @property
    def mask(self) -> Any:
        """(slots,) on the device: who is drawn in this tick."""
        return self._staging.device["mask"]

    def bind(self, slot: int, frame: FrameDraws) -> None:
        """Give a slot its person: `frame` is any frame of it, which has the groups that all frames have."""
        if frame.plate is None or frame.plate.shape != (self.height, self.width, 3):
            raise DeviceError(f"the person is not {self.width}x{self.height}, as this worker's are")
        self._bound[slot] = frame
        self._plates[slot] = put(self.device, frame.plate)
        self._lay_out()

    def release(self, slot: int) -> None:
        """Forget a slot's person."""
        self._bound.pop(slot, None)
        self._plates.pop(slot, None)
        self._lay_out()

    def launch(self, frames: dict[int, FrameDraws]) -> None:
        """Draw these slots' frames; the others stay as they are. `yuv` holds them when it returns."""
        host = self._staging.host
        host["mask"][:] = 0
        for g in range(len(self._sizes)):
            if self._sizes[g].posed:
                host[f"posed{g}"][:] = 0
        for slot, frame in frames.items():
            self._stage(slot, frame)
        if self._run is None:
            self._run = self.device.capture(self._work)
        self._run()
        self.device.synchronize()

    def _stage(self, slot: int, frame: FrameDraws) -> None:
        bound = self._bound.get(slot)
        if bound is None:
            raise DeviceError(f"slot {slot} has no person")
        same = len(frame.draws) == len(bound.draws) and all(
            a.mesh is b.mesh and a.flags == b.flags and _camera(a) == _camera(b)
            for a, b in zip(frame.draws, bound.draws, strict=True)
        )
        if not same:
            raise DeviceError("a frame's groups differ from those that the slot was made for")
        host = self._staging.host
        host["mask"][slot] = 1
        for g, draw in enumerate(frame.draws):
            if isinstance(draw.vertices, Posed):
                posed = draw.vertices
                host[f"posed{g}"][slot] = 1
                host[f"coefficients{g}"][slot, : len(posed.coefficients)] = posed.coefficients
                host[f"joints{g}"][slot, : len(posed.joints)] = posed.joints
            else:
                host[f"vertices{g}"][slot, : len(draw.vertices)] = draw.vertices

    def _lay_out(self) -> None:
        """Arrays and tables for the people that are bound now; the graph is captured anew at the next launch."""
        sizes: list[GroupSize] = []
        for frame in self._bound.values():
            for g, draw in enumerate(frame.draws):
                if g == len(sizes):
                    sizes.append(GroupSize())
                sizes[g] = sizes[g].with_draw(draw)
        self._sizes, self._keep, self._run = sizes, [], None
        n = self.slots
        layout: dict[str, tuple[tuple[int, ...], type]] = {"mask": ((n,), np.uint8)}
        for g, size in enumerate(sizes):
            if size.posed:
                layout[f"posed{g}"] = ((n,), np.uint8)
                layout[f"coefficients{g}"] = ((n, max(size.shapes, 1)), np.float32)
                layout[f"joints{g}"] = ((n, size.joints, 3, 4), np.float32)
            if any(not isinstance(d.vertices, Posed) for d in self._group(g).values()):
                layout[f"vertices{g}"] = ((n, size.vertices, 3), np.float32)
        self._staging = Staging.of(self.device, layout)
        most = max((size.triangles for size in sizes), default=1)
        bytes_ = int(self.device.library.vvc_raster_scratch(most, self.width, self.height))
        self._scratch = self.device.zeros((n, -(-bytes_ // 16) * 16), np.uint8)
        self._screens: dict[int, Any] = {
            g: self.device.zeros((n, size.vertices, 3), np.float32)
            for g, size in enumerate(sizes)
            if size.posed
        }
        self._pose_tables = [self._pose_table(g) if size.posed else None for g, size in enumerate(sizes)]
        self._raster_tables = [self._raster_table(g) for g in range(len(sizes))]

    def _group(self, g: int) -> dict[int, Draw]:
        return {slot: frame.draws[g] for slot, frame in self._bound.items() if g < len(frame.draws)}

    def _pose_table(self, g: int) -> Any:
        size, pointer = self._sizes[g], self.device.pointer
        table = (PoseSlot * self.slots)()
        for slot, draw in self._group(g).items():
            if not isinstance(draw.vertices, Posed):
                continue
            arrays = [
                put(self.device, a) for a in draw.vertices.rig.padded(size.vertices, size.shapes, size.joints)
            ]
            self._keep.append(arrays)
            moving = (
                self._staging.device[f"coefficients{g}"],
                self._staging.device[f"joints{g}"],
                self._screens[g],
            )
            table[slot] = PoseSlot(
                *map(pointer, arrays), *(pointer(a[slot]) for a in moving), *draw.vertices.camera
            )
        return put_structures(self.device, table)

    def _raster_table(self, g: int) -> Any:
        pointer = self.device.pointer
        table = (RasterSlot * self.slots)()
        group = self._group(g)
        for slot in self._bound:
            entry = table[slot]
            entry.plate = pointer(self._plates[slot])
            for name, array in (
                ("rgb", self.picture), ("coverage", self.coverage), ("labels", self.labels),
                ("position", self.position), ("scratch", self._scratch),
            ):  # fmt: skip
                setattr(entry, name, pointer(array[slot]))
            draw = group.get(slot)
            if draw is None:
                continue
            mesh = draw.mesh
            for name, array in mesh.arrays.items():
                setattr(entry, name, pointer(array))
            vertices = (
                self._screens[g] if isinstance(draw.vertices, Posed) else self._staging.device[f"vertices{g}"]
            )
            entry.vertices = pointer(vertices[slot])
            entry.n_triangles, entry.uv_margin = mesh.n_triangles, mesh.uv_margin
            entry.tex_width, entry.tex_height = mesh.tex_width, mesh.tex_height
        return put_structures(self.device, table)

    def _work(self) -> None:
        device, staging, n = self.device, self._staging, self.slots
        at = lambda array: address(device, array)  # noqa: E731
        device.upload(staging.device_all, staging.host_all)
        for g, size in enumerate(self._sizes):
            if size.posed:
                call(
                    device, "vvc_pose", at(self._pose_tables[g]), at(staging.device[f"posed{g}"]), n,
                    size.vertices, size.shapes, size.joints,
                )  # fmt: skip
            flags = size.flags | (BEGIN if g == 0 else 0)
            call(
                device, "vvc_raster", at(self._raster_tables[g]), at(self.mask), n, size.triangles, self.width, self.height, flags,
            )  # fmt: skip
        self.convert()
        device.download(self.yuv, self.device_yuv)

    def _convert(self) -> None:
        pointers = [address(self.device, array) for array in (self.picture, self.device_yuv, self.mask)]
        call(self.device, "vvc_rgb_to_yuv", *pointers, self.slots, self.width, self.height, 0)
