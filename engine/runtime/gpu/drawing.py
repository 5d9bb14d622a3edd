"""From the motion of all slots to their pictures: figure, pose and raster launches, colour conversion. Nothing leaves the device.

A person is a list of parts (eyes, mouth, the portrait, each arm ...), the same from frame to frame; part g of all slots is one
launch. Sizes are the largest of all slots; a slot without part g has no triangles there.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from visavis.engine.motion.channels import ARKIT, N_CHANNELS, TRANSLATION_SLICE
from visavis.engine.runtime.gpu import structures as st
from visavis.engine.runtime.gpu.device import Device, DeviceError, address, call, put, put_structures
from visavis.engine.runtime.gpu.figure import UV_MARGIN, DeviceFigure, DevicePart
from visavis.engine.video.crop import CROP


@dataclass(frozen=True)
class GroupSize:
    """Largest of a group over all slots."""

    triangles: int = 1
    vertices: int = 1
    shapes: int = 0
    joints: int = 1

    def with_part(self, part: DevicePart) -> GroupSize:
        """As large as this and `part`."""
        return GroupSize(
            max(self.triangles, part.n_triangles), max(self.vertices, part.n_vertices), max(self.shapes, part.n_shapes),
            max(self.joints, part.n_joints),
        )  # fmt: skip


@dataclass
class _Group:
    """Arrays of one launch for all slots."""

    size: GroupSize
    coefficients: Any
    joints: Any
    screen: Any
    pose_table: Any = None
    raster_table: Any = None


class BatchDrawing:
    """The drawing of up to `slots` sessions of width x height pixels.

    `picture` (slots, H, W, 3), `coverage`, `labels` (slots, H, W), `position` (slots, H, W, 3), `places` (CropPlace, slots) are on
    the device after `queue`; `yuv` (slots, H * 3 / 2, W) is I420.
    """

    def __init__(
        self, device: Device, slots: int, width: int, height: int, motion: Any, mask: Any, yuv: Any
    ) -> None:
        """`motion` (slots, N_CHANNELS), `mask` (slots,): who is drawn, `yuv`: on the device."""
        if width % 2 or height % 2:
            raise DeviceError(f"I420 needs even sides, got {width}x{height}")
        self.device, self.slots, self.width, self.height = device, slots, width, height
        self.motion, self.mask, self.yuv = motion, mask, yuv
        self.picture = device.zeros((slots, height, width, 3), np.uint8)
        self.coverage = device.zeros((slots, height, width), np.uint8)
        self.labels = device.zeros((slots, height, width), np.uint8)
        self.position = device.zeros((slots, height, width, 3), np.float32)
        self.places = device.zeros((slots, ctypes.sizeof(st.CropPlace)), np.uint8)
        self.placement = device.zeros((slots, 3), np.float32)
        self.nv12 = False
        """Chroma of the converted frames interleaved (NV12, as NVENC takes it) instead of in planes (I420)."""
        self.changed: Callable[[], None] = lambda: None
        """Called when arrays have moved: what was captured holds no longer."""
        self._bound: dict[int, DeviceFigure] = {}
        self._groups: list[_Group] = []
        self._keep: list[Any] = []
        self._figure_table: Any = None
        self._most = (1, 0)
        device.library.vvc_raster_scratch.restype = ctypes.c_long

    def bind(self, slot: int, figure: DeviceFigure) -> None:
        """Give a slot its person."""
        if figure.plate.shape != (self.height, self.width, 3):
            raise DeviceError(f"the person is not {self.width}x{self.height}, as this worker's are")
        self._bound[slot] = figure
        self._lay_out()

    def release(self, slot: int) -> None:
        """Forget a slot's person."""
        if self._bound.pop(slot, None) is not None:
            self._lay_out()

    def queue(self) -> None:
        """Draw the slots of the mask; the others stay as they are."""
        device, n = self.device, self.slots
        at = lambda array: address(device, array)  # noqa: E731
        if not self._groups:
            return
        bones, gaps = self._most
        call(
            device, "vvc_figure", at(self._figure_table), at(self.motion), at(self.mask), at(self.places), at(self.placement), n,
            N_CHANNELS, len(ARKIT), TRANSLATION_SLICE.start, bones, gaps, CROP, self.width, self.height,
        )  # fmt: skip
        for g, group in enumerate(self._groups):
            size = group.size
            call(
                device,
                "vvc_pose",
                at(group.pose_table),
                at(self.mask),
                n,
                size.vertices,
                size.shapes,
                size.joints,
            )
            flags = st.PERSPECTIVE | st.BICUBIC | (st.BEGIN if g == 0 else 0)
            call(
                device, "vvc_raster", at(group.raster_table), at(self.mask), n, size.triangles, self.width, self.height, flags
            )  # fmt: skip

    def convert(self) -> None:
        """Queue what makes I420 or NV12 of the drawn pictures."""
        pointers = [address(self.device, array) for array in (self.picture, self.yuv, self.mask)]
        call(self.device, "vvc_rgb_to_yuv", *pointers, self.slots, self.width, self.height, int(self.nv12))

    def _lay_out(self) -> None:
        """Arrays and tables for the people that are bound now."""
        self.changed()
        self.device.synchronize()
        sizes: list[GroupSize] = []
        for figure in self._bound.values():
            for g, part in enumerate(figure.parts):
                if g == len(sizes):
                    sizes.append(GroupSize())
                sizes[g] = sizes[g].with_part(part)
        n, zeros = self.slots, self.device.zeros
        self._keep = []
        self._groups = [
            _Group(
                s, zeros((n, max(s.shapes, 1)), np.float32), zeros((n, s.joints, 3, 4), np.float32),
                zeros((n, s.vertices, 3), np.float32),
            )
            for s in sizes
        ]  # fmt: skip
        most = max((s.triangles for s in sizes), default=1)
        bytes_ = int(self.device.library.vvc_raster_scratch(most, self.width, self.height))
        self._scratch = zeros((n, -(-bytes_ // 16) * 16), np.uint8)
        table = (st.FigureSlot * n)()
        for slot, figure in self._bound.items():
            targets = [(g.coefficients[slot], g.joints[slot]) for g in self._groups[: len(figure.parts)]]
            table[slot] = figure.entry(self.device, targets, self._keep)
        self._figure_table = put_structures(self.device, table)
        self._most = (
            max((len(f.figure.bones) for f in self._bound.values()), default=1),
            max((len(f.figure.gap) for f in self._bound.values()), default=0),
        )
        for g, group in enumerate(self._groups):
            parts = {slot: f.parts[g] for slot, f in self._bound.items() if g < len(f.parts)}
            group.pose_table, group.raster_table = (
                self._pose_table(group, parts),
                self._raster_table(group, parts),
            )

    def _pose_table(self, group: _Group, parts: dict[int, DevicePart]) -> Any:
        size, pointer = group.size, self.device.pointer
        table = (st.PoseSlot * self.slots)()
        # Slots without this part pose nothing into their own arrays.
        empty = [put(self.device, np.zeros(s, d)) for s, d in (
            ((3, size.vertices), np.float32), ((max(size.shapes, 1), 3, size.vertices), np.float16),
            ((size.joints, size.vertices), np.float32))]  # fmt: skip
        self._keep.append(empty)
        for slot in range(self.slots):
            arrays, camera = empty, (1.0, 1.0, 0.0, 0.0)
            if slot in parts:
                arrays = [
                    put(self.device, a) for a in parts[slot].rig(size.vertices, size.shapes, size.joints)
                ]
                camera = self._bound[slot].figure.camera
                self._keep.append(arrays)
            moving = (group.coefficients[slot], group.joints[slot], group.screen[slot])
            table[slot] = st.PoseSlot(*map(pointer, arrays), *map(pointer, moving), *camera)
        return put_structures(self.device, table)

    def _raster_table(self, group: _Group, parts: dict[int, DevicePart]) -> Any:
        pointer = self.device.pointer
        table = (st.RasterSlot * self.slots)()
        for slot, figure in self._bound.items():
            entry = table[slot]
            entry.plate = pointer(figure.plate)
            for name, array in (
                ("rgb", self.picture), ("coverage", self.coverage), ("labels", self.labels),
                ("position", self.position), ("scratch", self._scratch),
            ):  # fmt: skip
                setattr(entry, name, pointer(array[slot]))
            part = parts.get(slot)
            if part is None:
                continue
            for name, array in part.arrays.items():
                setattr(entry, name, pointer(array))
            entry.vertices = pointer(group.screen[slot])
            entry.n_triangles, entry.uv_margin = part.n_triangles, UV_MARGIN
            entry.tex_width, entry.tex_height = part.tex_width, part.tex_height
        return put_structures(self.device, table)
