"""The video network on the device: the face cut out, features, sampler steps, and what it painted put back.

What `engine.video.generator` does for one session, for all slots of a worker: three engines over one pool of named
arrays, so that what one gives is what the next is given, and nothing leaves the device.
"""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.engine.diffusion import schedule
from visavis.engine.runtime.gpu.device import Device, DeviceError, address, call, put, put_structures
from visavis.engine.runtime.gpu.drawables import FrameDraws
from visavis.engine.runtime.gpu.drawing import BatchDrawing, Staging
from visavis.engine.runtime.gpu.structures import CompositeSlot, CropPlace, FaceCrop, StateTensor
from visavis.engine.video.crop import CROP, POSITION_HIGH, POSITION_LOW, RAMP, CropTransform
from visavis.engine.video.generator import NETWORKS

FloatArray = npt.NDArray[np.float32]


def crop_place(
    where: CropTransform, width: int, height: int
) -> tuple[float, float, float, int, int, int, int, int]:
    """scale, x0, y0 and by, left, top, columns, rows of face_crop.cu for a frame of width x height: as `crop` has it."""
    by, left, top, columns, rows = 1, 0, 0, width, height
    if where.scale < 0.67:
        by = round(1 / where.scale)
        x0, y0, x1, y1 = where.box(width, height)
        left, top = max(x0 - by, 0), max(y0 - by, 0)
        columns = (min(x1 + 2 * by, width) - left) // by
        rows = (min(y1 + 2 * by, height) - top) // by
        if x1 <= x0 or y1 <= y0 or columns < 1 or rows < 1:
            by, left, top, columns, rows = 1, 0, 0, width, height
    return where.scale, where.x0, where.y0, by, left, top, columns, rows


class FaceStage:
    """Completes what `drawing` has drawn, by the networks of a folder, with `steps` sampler steps a frame."""

    def __init__(self, device: Device, drawing: BatchDrawing, weights: Path, steps: int = 2) -> None:
        self.device, self.drawing = device, drawing
        n = drawing.slots
        self._photo, self._frame, self._step = (
            device.engine(weights / f"{name}.onnx", n) for name in NETWORKS
        )
        # One array a name: features and picture, for instance, go from one engine to the next.
        every = {**self._frame.inputs, **self._frame.outputs, **self._step.inputs, **self._step.outputs}
        self.tensors = {name: device.zeros(shape, dtype) for name, (shape, dtype) in every.items()}
        sink = self._photo.outputs["sink"]
        self._new_sink = device.zeros(*sink)
        self._staging = Staging.of(
            device,
            {
                "active": ((n,), np.float32),
                "fresh": ((n,), np.uint8),
                "place": ((n, ctypes.sizeof(CropPlace)), np.uint8),
                "placement": ((n, 3), np.float32),
            },
        )
        self.tensors["active"] = self._staging.device["active"]
        # The path from noise to picture goes through two arrays in turns; times are constants.
        self._noise = self.tensors["noisy"]
        turns = [self.tensors["next_noisy"], device.zeros(*self._step.outputs["next_noisy"])]
        self._steps: list[dict[str, Any]] = []
        source = self._noise
        for k, (now, then) in enumerate(itertools.pairwise(schedule(steps))):
            times = {
                name: put(device, np.full(self._step.inputs[name][0], t, np.float32))
                for name, t in (("t", now), ("next_t", then))
            }
            self._steps.append({**self.tensors, **times, "noisy": source, "next_noisy": turns[k % 2]})
            source = turns[k % 2]
        self._window = put(device, RAMP)
        self._crop = self._crop_call()
        self._table = self._composite_table()
        self._states = self._state_table([("next_ring", "ring"), ("next_previous", "previous")])
        self._sinks = self._state_table([("", "sink")])
        drawing.convert = self._work

    def stage(self, slot: int, where: CropTransform) -> None:
        """Where the face is in the next frame of a slot."""
        host = self._staging.host
        place = crop_place(where, self.drawing.width, self.drawing.height)
        host["place"][slot] = np.frombuffer(bytes(CropPlace(*place)), np.uint8)
        host["placement"][slot] = place[:3]

    def launch(self, frames: dict[int, FrameDraws]) -> None:
        """Draw and complete these slots' frames; see `BatchDrawing.launch`."""
        host = self._staging.host
        host["active"][:] = 0
        host["active"][list(frames)] = 1
        self.drawing.launch(frames)
        host["fresh"][list(frames)] = 0

    def bind(self, slot: int, photo: FrameDraws, where: CropTransform, seed: int) -> None:
        """Begin a session: `photo` is the person at rest, `where` the face in it. Its keys and values become the sink and
        fill the ring; the first frame is its own history."""
        device, n = self.device, self.drawing.slots
        self.stage(slot, where)
        self.launch({slot: photo})  # for the conditions alone; the state that this leaves is replaced
        names = self._frame.inputs
        seen = {"photo": "warp", "part": "part", "position": "position"}
        self._photo({**{own: self.tensors[name] for own, name in seen.items()}, "sink": self._new_sink})
        mask = np.zeros(n, np.uint8)
        mask[slot] = 1
        self._commit(self._sinks, 1, put(device, mask), ["sink"])
        sink = np.zeros(names["sink"][0], np.float32)[slot]
        device.download(sink, self.tensors["sink"][slot])
        device.synchronize()
        window = names["ring"][0][2]
        ring = np.ascontiguousarray(np.repeat(sink[:, None], window, 1))
        noise = np.random.default_rng([seed, 2]).standard_normal((3, CROP, CROP), np.float32)
        for tensor, values in ((self.tensors["ring"], ring), (self._noise, noise)):
            device.upload(tensor[slot], values)
        device.synchronize()
        self._staging.host["fresh"][slot] = 1

    def _crop_call(self) -> FaceCrop:
        pointer, drawing = self.device.pointer, self.drawing
        for name, shape in (("warp", 3), ("coverage", 1), ("part", 1), ("position", 3)):
            expected = (drawing.slots, CROP, CROP, 3)[: 4 if shape == 3 else 3]
            if self._frame.inputs[name] != (expected, np.dtype(np.uint8)):
                raise DeviceError(
                    f"the video network's {name} is {self._frame.inputs[name]}, expected bytes {expected}"
                )
        quantum = 254 / (POSITION_HIGH - POSITION_LOW)
        held = (drawing.picture, drawing.coverage, drawing.labels, drawing.position)
        own = (self.tensors[name] for name in ("warp", "coverage", "part", "position", "previous"))
        return FaceCrop(
            *map(pointer, held), pointer(self._staging.device["place"]), None, pointer(self._staging.device["fresh"]),
            *map(pointer, own), tuple(quantum), tuple(1.5 - POSITION_LOW * quantum), drawing.width, drawing.height, CROP,
        )  # fmt: skip

    def _composite_table(self) -> Any:
        pointer, drawing = self.device.pointer, self.drawing
        table = (CompositeSlot * drawing.slots)()
        for slot in range(drawing.slots):
            arrays = (
                drawing.picture, self.tensors["colour"], self.tensors["mask"], self._staging.device["placement"],
                drawing.device_yuv,
            )  # fmt: skip
            table[slot] = CompositeSlot(*(pointer(array[slot]) for array in arrays))
        return put_structures(self.device, table)

    def _state_table(self, pairs: list[tuple[str, str]]) -> Any:
        table = (StateTensor * len(pairs))()
        for k, (after, before) in enumerate(pairs):
            source = self.tensors[after] if after else self._new_sink
            table[k] = StateTensor(
                self.device.pointer(source),
                self.device.pointer(self.tensors[before]),
                1,
                self._row_bytes(before),
            )
        return put_structures(self.device, table)

    def _row_bytes(self, name: str) -> int:
        shape, dtype = self._frame.inputs[name]
        return int(np.prod(shape[1:])) * dtype.itemsize

    def _commit(self, table: Any, n: int, mask: Any, names: list[str]) -> None:
        largest = max(self._row_bytes(name) for name in names)
        call(
            self.device,
            "vvc_commit",
            address(self.device, table),
            n,
            address(self.device, mask),
            self.drawing.slots,
            largest,
        )

    def _work(self) -> None:
        device, drawing = self.device, self.drawing
        device.upload(self._staging.device_all, self._staging.host_all)
        self._crop.mask = device.pointer(drawing.mask)
        call(device, "vvc_face_crop", ctypes.byref(self._crop), drawing.slots)
        self._frame(self.tensors)
        for tensors in self._steps:
            self._step(tensors)
        self._commit(self._states, 2, drawing.mask, ["ring", "previous"])
        call(
            device, "vvc_composite", address(device, self._table), address(device, drawing.mask),
            address(device, self._window), drawing.slots, CROP, drawing.width, drawing.height, 0,
        )  # fmt: skip
