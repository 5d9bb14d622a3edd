"""The video network on the device: the face cut out, features, sampler steps, and what it painted put back.

What `engine.video.generator` does for one session, for all slots of a worker: what one engine gives is what the next is given, and
nothing leaves the device. The networks themselves leave the state of slots that are not `active` as it was.
"""

from __future__ import annotations

import ctypes
import itertools
from pathlib import Path
from typing import Any

import numpy as np
from visavis.engine.diffusion import schedule
from visavis.engine.runtime.gpu import structures as st
from visavis.engine.runtime.gpu.device import Device, DeviceError, address, call, put, put_structures
from visavis.engine.runtime.gpu.drawing import BatchDrawing
from visavis.engine.runtime.gpu.staging import Layout, Staging
from visavis.engine.runtime.tensorrt_build import STATE
from visavis.engine.video.crop import CROP, POSITION_HIGH, POSITION_LOW, RAMP
from visavis.engine.video.generator import NETWORKS
from visavis.engine.video.tones import Tones

NOISE = "noisy"
"""What the sampler steps turn into a picture; every frame begins with the session's own noise."""


def staging_layout(slots: int) -> Layout:
    """What the stage is told of a tick."""
    return {"active": ((slots,), np.float32), "fresh": ((slots,), np.uint8)}


class FaceStage:
    """Completes what `drawing` has drawn, by the networks of a folder, with `steps` sampler steps a frame."""

    def __init__(
        self, device: Device, drawing: BatchDrawing, staging: Staging, weights: Path, steps: int = 2
    ) -> None:
        self.device, self.drawing, self._staging = device, drawing, staging
        n = drawing.slots
        self._photo, self._frame, self._step = (
            device.engine(weights / f"{name}.onnx", n) for name in NETWORKS
        )
        # One array a name: features and picture, for instance, go from one engine to the next. What comes out as `next_x` and goes
        # in as `x` is state, in two arrays that change places; but for the path from noise to picture, which begins anew.
        every = {**self._frame.inputs, **self._frame.outputs, **self._step.inputs, **self._step.outputs}
        names = [name for name in every if STATE + name in every and name != NOISE]
        self.states = {name: (device.zeros(*every[name]), device.zeros(*every[name])) for name in names}
        held = {*names, *(STATE + name for name in names)}
        self.tensors = {
            name: device.zeros(shape, dtype) for name, (shape, dtype) in every.items() if name not in held
        }
        self.tensors["active"] = staging.device["active"]
        self._new_sink = device.zeros(*self._photo.outputs["sink"])
        turns = [self.tensors[STATE + NOISE], device.zeros(*every[STATE + NOISE])]
        self._steps: list[dict[str, Any]] = []
        source = self.tensors[NOISE]
        for k, (now, then) in enumerate(itertools.pairwise(schedule(steps))):
            times = {
                name: put(device, np.full(self._step.inputs[name][0], t, np.float32))
                for name, t in (("t", now), ("next_t", then))
            }
            self._steps.append({**times, NOISE: source, STATE + NOISE: turns[k % 2]})
            source = turns[k % 2]
        self._window = put(device, RAMP)
        self._crops = [self._crop_call(parity) for parity in (0, 1)]
        self._plan = device.zeros((n, CROP, CROP, 4), np.int16)
        self._planned, self._table = self._paste_tables()
        self._paintings = put_structures(device, self._planned)
        self._tones: list[Any] = [None] * n  # what _planned points to

    def bound(self, parity: int) -> dict[str, Any]:
        """All arrays by name, at a parity: a state is read from `states[name][parity]`."""
        out = dict(self.tensors)
        for name, arrays in self.states.items():
            out[name], out[STATE + name] = arrays[parity], arrays[1 - parity]
        return out

    def queue(self, parity: int) -> None:
        """Complete the drawn slots, and make I420 or NV12 of them."""
        device, drawing = self.device, self.drawing
        call(device, "vvc_face_crop", ctypes.byref(self._crops[parity]), drawing.slots)
        tensors = self.bound(parity)
        self._frame(tensors)
        for step in self._steps:
            self._step({**tensors, **step})
        paintings, table, mask, window = (
            address(device, array) for array in (self._paintings, self._table, drawing.mask, self._window)
        )
        call(device, "vvc_paste_plan", paintings, mask, window, drawing.slots, CROP)
        call(
            device, "vvc_composite", table, mask, drawing.slots, CROP, drawing.width, drawing.height, int(drawing.nv12)
        )  # fmt: skip

    def bind(self, slot: int, parity: int, seed: int, tones: Tones | None = None) -> None:
        """Begin a session whose person at rest has just been drawn. Its keys and values become the sink and fill the ring; the first
        frame is its own history; what is painted takes the photo's `tones`. Waits."""
        device = self.device
        self._planned[slot].tones = self._tones[slot] = None
        if tones is not None:
            self._tones[slot] = put(device, tones.curve)
            self._planned[slot].tones = device.pointer(self._tones[slot])
        device.upload(self._paintings, np.frombuffer(bytes(self._planned), np.uint8))
        call(device, "vvc_face_crop", ctypes.byref(self._crops[parity]), self.drawing.slots)
        seen = {"photo": "warp", "part": "part", "position": "position"}
        self._photo({**{own: self.tensors[name] for own, name in seen.items()}, "sink": self._new_sink})
        sink = np.zeros(self._new_sink.shape[1:], self._photo.outputs["sink"][1])
        device.download(sink, self._new_sink[slot])
        device.synchronize()
        window = self._frame.inputs["ring"][0][2]
        ring = np.ascontiguousarray(np.repeat(sink[:, None], window, 1))
        noise = np.random.default_rng([seed, 2]).standard_normal((3, CROP, CROP), np.float32)
        values = [(self.tensors["sink"], sink), (self.tensors[NOISE], noise)]
        for tensor, value in [*values, *((array, ring) for array in self.states["ring"])]:
            device.upload(tensor[slot], value)
        device.synchronize()

    def _crop_call(self, parity: int) -> st.FaceCrop:
        pointer, drawing, staging = self.device.pointer, self.drawing, self._staging.device
        for name, shape in (("warp", 3), ("coverage", 1), ("part", 1), ("position", 3)):
            expected = (drawing.slots, CROP, CROP, 3)[: 4 if shape == 3 else 3]
            if self._frame.inputs[name] != (expected, np.dtype(np.uint8)):
                raise DeviceError(
                    f"the video network's {name} is {self._frame.inputs[name]}, expected bytes {expected}"
                )
        quantum = 254 / (POSITION_HIGH - POSITION_LOW)
        held = (
            drawing.picture,
            drawing.coverage,
            drawing.labels,
            drawing.position,
            drawing.places,
            drawing.mask,
        )
        own = [self.tensors[name] for name in ("warp", "coverage", "part", "position")]
        return st.FaceCrop(
            *map(pointer, held), pointer(staging["fresh"]), *map(pointer, [*own, self.states["previous"][parity]]),
            tuple(quantum), tuple(1.5 - POSITION_LOW * quantum), drawing.width, drawing.height, CROP,
        )  # fmt: skip

    def _paste_tables(self) -> tuple[Any, Any]:
        """Every slot's arrays for planning the paste, on the host, and for doing it."""
        pointer, drawing, tensors = self.device.pointer, self.drawing, self.tensors
        planned, pasted = (st.PastePlanSlot * drawing.slots)(), (st.CompositeSlot * drawing.slots)()
        for slot in range(drawing.slots):
            painting = (tensors["colour"], tensors["warp"], tensors["mask"], self._plan)
            frame = (drawing.picture, self._plan, drawing.placement, drawing.yuv)
            planned[slot] = st.PastePlanSlot(*(pointer(array[slot]) for array in painting))
            pasted[slot] = st.CompositeSlot(*(pointer(array[slot]) for array in frame))
        return planned, put_structures(self.device, pasted)
