"""A network shared by all slots: one engine of a fixed batch whose streaming state stays on the device and is never copied.

The engine reads its state from one array and writes it to another; at every tick the two change places. Nothing else is sound: an
engine may read a state again after it has written part of the next one.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from visavis.engine.runtime.gpu.device import Device, DeviceError, Shape, address, call, put_structures
from visavis.engine.runtime.gpu.structures import StateTensor
from visavis.engine.runtime.tensorrt_build import STATE


class SlotNetwork:
    """The network of an ONNX file for all slots of a worker. An input that an output `next_NAME` answers is state.

    `tensors`: everything that is not state, by name; `states[name]`: the two arrays of a state. At parity p a state is read from
    `states[name][p]`. Arrays given as `shared` are used where the names fit, so that one network's output is another's input.
    """

    def __init__(
        self, device: Device, onnx: Path, slots: int, shared: Mapping[str, Any] | None = None
    ) -> None:
        self.device, self.slots, self.name = device, slots, onnx.stem
        self.engine = device.engine(onnx, slots)
        every = {**self.engine.inputs, **self.engine.outputs}
        self.answers = {n: STATE + n for n in self.engine.inputs if STATE + n in self.engine.outputs}
        held = self.answers.keys() | set(self.answers.values())
        shared = shared or {}
        self.tensors = {
            name: shared[name] if name in shared else device.zeros(shape, dtype)
            for name, (shape, dtype) in every.items()
            if name not in held
        }
        self.states = {
            name: (device.zeros(*every[name]), device.zeros(*every[name])) for name in self.answers
        }
        for name in every:
            if name in shared and (shared[name].shape, shared[name].dtype) != every[name]:
                raise DeviceError(
                    f"{self.name}: {name} is {every[name]}, where the other network has {shared[name].shape}"
                )

    def bound(self, parity: int) -> dict[str, Any]:
        """All arrays by the engine's names, at a parity."""
        out = dict(self.tensors)
        for name, after in self.answers.items():
            out[name], out[after] = self.states[name][parity], self.states[name][1 - parity]
        return out

    def run(self, parity: int) -> None:
        """Queue one call."""
        self.engine(self.bound(parity))

    def expect(self, shapes: Mapping[str, tuple[Shape, np.dtype]]) -> None:
        """Raises DeviceError where a tensor is missing, or not of this shape and type."""
        have = {**self.engine.inputs, **self.engine.outputs}
        for name, wanted in shapes.items():
            if have.get(name) != wanted:
                raise DeviceError(f"{self.name}: {name} is {have.get(name)}, expected {wanted}")


class StateTable:
    """States of some networks, and what one launch of states.cu does to them. See `kernels/cuda/states.cu`."""

    def __init__(self, device: Device, slots: int) -> None:
        self.device, self.slots = device, slots
        self._rows: list[StateTensor] = []
        self._table: Any = None

    def add(self, source: Any, to: Any, action: Any, axis: int = 0) -> StateTable:
        """One more: arrays whose axis `axis` is the slot, and the action of each slot on the device."""
        row = int(np.prod(to.shape[axis + 1 :])) * to.dtype.itemsize
        if row % 4:
            raise DeviceError(f"a state's row has {row} bytes, not a multiple of four")
        pointer = self.device.pointer
        outer = int(np.prod(to.shape[:axis]))
        self._rows.append(
            StateTensor(None if source is None else pointer(source), pointer(to), pointer(action), outer, row)
        )
        return self

    def add_network(
        self, network: SlotNetwork, source: int, to: int, actions: Mapping[str, Any]
    ) -> StateTable:
        """All states of a network from one of their arrays to the other; `actions` by name, "" for the rest."""
        for name, arrays in network.states.items():
            axis = network.engine.axes[name]
            self.add(arrays[source], arrays[to], actions.get(name, actions[""]), axis)
        return self

    def queue(self) -> None:
        """Launch."""
        if self._table is None:
            self._table = put_structures(self.device, (StateTensor * len(self._rows))(*self._rows))
        largest = max(row.row_bytes for row in self._rows)
        call(
            self.device, "vvc_states", address(self.device, self._table), len(self._rows), self.slots, largest
        )
