"""What streaming state is, and how it is batched, masked and reset.

A streaming network takes its state in by name and gives it out as `next_<name>`; the first axis of every array is the slot,
one live session each. `StreamingNetwork` keeps those arrays between calls for a fixed number of slots: a step advances the
slots whose execution mask is true and leaves the others exactly as they were; one slot can be reset alone. Memory is what the
arrays take, for ever. (The scheme of kyutai's Moshi: state apart from weights, one mask a step.)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.engine.runtime.network import Network

Array = npt.NDArray[Any]
Mask = npt.NDArray[np.bool_]


@dataclass
class StreamingState:
    """Named arrays (slots, ...) and what each slot starts from."""

    initial: dict[str, Array]
    """Of one slot, without the slot axis."""
    slots: int
    arrays: dict[str, Array] = field(init=False)

    def __post_init__(self) -> None:
        if self.slots < 1:
            raise ValueError(f"a batch has at least one slot, not {self.slots}")
        self.arrays = {name: np.stack([value] * self.slots) for name, value in self.initial.items()}

    def reset(self, slot: int | None = None) -> None:
        """Begin anew in one slot, or in all."""
        for name, value in self.initial.items():
            self.arrays[name][slice(None) if slot is None else slot] = value

    def update(self, new: Mapping[str, Array], mask: Mask | None = None) -> None:
        """Take over the state of the slots where `mask` (slots,) is true; of all without one."""
        for name, value in new.items():
            held = self.arrays[name]
            if value.shape != held.shape:
                raise ValueError(f"state {name} has shape {value.shape}, expected {held.shape}")
            if mask is None or mask.all():
                self.arrays[name] = value.astype(held.dtype, copy=False)
            else:
                held[mask] = value[mask]


class StreamingNetwork:
    """A network whose state in and out is kept between steps for a number of slots."""

    def __init__(self, network: Network, slots: int = 1) -> None:
        self._network = network
        initial: dict[str, Array] = {}
        for name, shape in network.inputs.items():
            if f"next_{name}" in network.outputs:
                initial[name] = np.zeros(shape[1:], np.float32)
        self.state = StreamingState(initial, slots)
        self.slots = slots

    def step(self, inputs: Mapping[str, Array], mask: Mask | None = None) -> dict[str, Array]:
        """Advance the slots of `mask` (slots,) by one frame; `inputs` are arrays (slots, ...) without state. Gives the
        outputs (slots, ...) without state: those of slots that were masked mean nothing."""
        out = self._network({**inputs, **self.state.arrays})
        self.state.update({name: out.pop(f"next_{name}") for name in self.state.initial}, mask)
        return out

    def reset(self, slot: int | None = None) -> None:
        """Begin anew in one slot, or in all."""
        self.state.reset(slot)


@dataclass
class RingIndex:
    """Where each slot's ring of keys and values is written next: an index that goes round and how many frames it
    holds, so that nothing grows with time."""

    window: int
    slots: int
    index: npt.NDArray[np.int64] = field(init=False)
    filled: npt.NDArray[np.int64] = field(init=False)

    def __post_init__(self) -> None:
        self.index = np.zeros(self.slots, np.int64)
        self.filled = np.zeros(self.slots, np.int64)

    def advance(self, mask: Mask) -> None:
        """The slots of `mask` have written a frame."""
        self.index[mask] = (self.index[mask] + 1) % self.window
        self.filled[mask] = np.minimum(self.filled[mask] + 1, self.window - 1)

    def reset(self, slot: int | None = None) -> None:
        """An empty ring in one slot, or in all."""
        at = slice(None) if slot is None else slot
        self.index[at] = self.filled[at] = 0
