"""A network shared by all slots: one engine of a fixed batch, streaming state on the device, a `Network` for each slot."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.engine.runtime.gpu.device import Device, DeviceError, Host, Shape, address, call, put_structures
from visavis.engine.runtime.gpu.rendezvous import Rendezvous
from visavis.engine.runtime.gpu.structures import StateTensor
from visavis.engine.runtime.tensorrt_build import STATE


@dataclass(eq=False)
class SlotState:
    """A slot's state as it is on the device after a call: something to hand back at the next.

    It passes for an array where one is kept: `numpy.asarray` fetches it, and writing into it fetches it once and sends it
    back with the next call. `age` counts the network's calls for this slot: only the latest can be handed back.
    """

    network: BatchNetwork
    name: str
    slot: int
    age: int
    changed: Host | None = None
    """What was written over it here, if anything."""

    @property
    def shape(self) -> Shape:
        return self.network.row_shape(self.name)

    @property
    def dtype(self) -> np.dtype:
        return self.network.engine.inputs[self.name][1]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> Host:
        array = self.network.fetch(self) if self.changed is None else self.changed
        return array if dtype is None else array.astype(dtype)

    def astype(self, dtype: npt.DTypeLike, copy: bool = True) -> SlotState | Host:
        """Itself where the type is its own and no copy is asked for."""
        return self if np.dtype(dtype) == self.dtype and not copy else np.asarray(self).astype(dtype)

    def __getitem__(self, key: Any) -> Host:
        return np.asarray(np.asarray(self)[key])

    def __setitem__(self, key: Any, value: Any) -> None:
        if self.changed is None:
            self.changed = self.network.fetch(self)
        self.changed[key] = value


class BatchNetwork:
    """The network of an ONNX file for all slots of a worker. An input that an output `next_NAME` answers is state."""

    def __init__(self, device: Device, onnx: Path, slots: int, meeting: Rendezvous, order: int = 10) -> None:
        self.device, self.slots, self.name = device, slots, onnx.stem
        self.engine = device.engine(onnx, slots)
        self.states = {n: STATE + n for n in self.engine.inputs if STATE + n in self.engine.outputs}
        self._meeting = meeting
        self._stage = meeting.stage(order, self._run)
        every = {**self.engine.inputs, **self.engine.outputs}
        self.tensors = {name: device.zeros(shape, dtype) for name, (shape, dtype) in every.items()}
        self._host = {name: device.pinned(shape, dtype) for name, (shape, dtype) in every.items()}
        self._fed = [name for name in self.engine.inputs if name not in self.states]
        self._read = [name for name in self.engine.outputs if name not in self.states.values()]
        self._ages = [0] * slots
        self._mask, self._host_mask = device.zeros((slots,), np.uint8), device.pinned((slots,), np.uint8)
        self._table = self._state_table()
        self._replay: Any = None

    def row_shape(self, name: str) -> Shape:
        """Shape of one slot's part of a tensor: the batch axis has length 1."""
        shape, _ = {**self.engine.inputs, **self.engine.outputs}[name]
        axis = self.engine.axes[name]
        return tuple(1 if i == axis else n for i, n in enumerate(shape))

    def slot(self, slot: int) -> SlotNetwork:
        """The network as one session sees it."""
        return SlotNetwork(self, slot)

    def visit(self, slot: int, inputs: Mapping[str, Any]) -> dict[str, Any]:
        """One call of one slot; see `Network`."""
        missing = set(self.engine.inputs) - set(inputs)
        if missing or set(inputs) - set(self.engine.inputs):
            raise DeviceError(f"{self.name} takes {', '.join(self.engine.inputs)}; got {', '.join(inputs)}")
        answer: dict[str, Any] = self._meeting.visit(self._stage, slot, inputs)
        return answer

    def fetch(self, state: SlotState) -> Host:
        """What a state holds. Raises DeviceError for one that later calls have replaced."""
        self._check(state)
        return self._row_from_device(self.tensors[state.name], state.name, state.slot)

    def _check(self, state: SlotState) -> None:
        if state.age != self._ages[state.slot]:
            raise DeviceError(f"{self.name}: {state.name} is not the state after the latest call")

    def _rows(self, name: str, array: Any, slot: int) -> Any:
        """A slot's rows of a tensor as something contiguous: (outer, ...) pieces, one for each place before the batch axis."""
        axis = self.engine.axes[name]
        flat = array.reshape((-1, *array.shape[axis:]))
        return [flat[k, slot : slot + 1] for k in range(flat.shape[0])]

    def _row_from_device(self, array: Any, name: str, slot: int) -> Host:
        host = self._host[name]
        for to, source in zip(self._rows(name, host, slot), self._rows(name, array, slot), strict=True):
            self.device.download(to, source)
        self.device.synchronize()
        return np.ascontiguousarray(np.take(host, [slot], self.engine.axes[name]))

    def _state_table(self) -> Any:
        table = (StateTensor * max(len(self.states), 1))()
        for k, (name, after) in enumerate(self.states.items()):
            shape, dtype = self.engine.inputs[name]
            axis = self.engine.axes[name]
            row = int(np.prod(shape[axis + 1 :])) * dtype.itemsize
            if row % 4:
                raise DeviceError(f"{self.name}: a row of {name} has {row} bytes, not a multiple of four")
            pointer = self.device.pointer
            table[k] = StateTensor(
                pointer(self.tensors[after]), pointer(self.tensors[name]), int(np.prod(shape[:axis])), row
            )
        return put_structures(self.device, table)

    def _run(self, requests: dict[int, Mapping[str, Any]]) -> dict[int, dict[str, Any]]:
        self._host_mask[:] = 0
        for slot, inputs in requests.items():
            self._host_mask[slot] = 1
            for name, value in inputs.items():
                if isinstance(value, SlotState):
                    if value.network is not self or value.name != name or value.slot != slot:
                        raise DeviceError(f"{self.name}: {name} was given the state of something else")
                    if value.changed is None:
                        self._check(value)
                        continue
                value = np.asarray(value)
                if value.shape != self.row_shape(name):
                    raise DeviceError(
                        f"{self.name}: {name} has shape {value.shape}, expected {self.row_shape(name)}"
                    )
                axis = self.engine.axes[name]
                place = (slice(None),) * axis + (slice(slot, slot + 1),)
                self._host[name][place] = value
                if name in self.states:  # begun anew: this slot's state comes from the host, once
                    rows = zip(
                        self._rows(name, self.tensors[name], slot),
                        self._rows(name, self._host[name], slot),
                        strict=True,
                    )
                    for to, source in rows:
                        self.device.upload(to, source)
        if self._replay is None:
            self._replay = self.device.capture(self._work)
        self._replay()
        self.device.synchronize()
        answers: dict[int, dict[str, Any]] = {}
        for slot in requests:
            self._ages[slot] += 1
            out: dict[str, Any] = {
                name: np.ascontiguousarray(np.take(self._host[name], [slot], self.engine.axes[name]))
                for name in self._read
            }
            for name, after in self.states.items():
                out[after] = SlotState(self, name, slot, self._ages[slot])
            answers[slot] = {name: out[name] for name in self.engine.outputs}
        return answers

    def _work(self) -> None:
        device = self.device
        device.upload(self._mask, self._host_mask)
        for name in self._fed:
            device.upload(self.tensors[name], self._host[name])
        self.engine(self.tensors)
        if self.states:
            call(
                device, "vvc_commit", address(device, self._table), len(self.states), address(device, self._mask), self.slots,
                int(max(int(np.prod(self.row_shape(n))) * self.engine.inputs[n][1].itemsize for n in self.states)),
            )  # fmt: skip
        for name in self._read:
            device.download(self._host[name], self.tensors[name])


class SlotNetwork:
    """A `Network` for one slot's session. States come out as `SlotState` and go back in; a plain array starts anew."""

    def __init__(self, network: BatchNetwork, slot: int) -> None:
        self._network, self._slot = network, slot
        self.inputs: dict[str, Shape] = {n: network.row_shape(n) for n in network.engine.inputs}
        self.outputs: dict[str, Shape] = {n: network.row_shape(n) for n in network.engine.outputs}

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        return self._network.visit(self._slot, inputs)
