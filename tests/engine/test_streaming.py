"""Streaming state: batched, masked, reset alone."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
from visavis.engine.streaming import RingIndex, StreamingNetwork, StreamingState


class Sum:
    """A network that adds what comes to what came."""

    inputs: dict[str, tuple[int, ...]] = {"x": (-1, 2), "total": (-1, 2)}  # noqa: RUF012
    outputs: dict[str, tuple[int, ...]] = {"y": (-1, 2), "next_total": (-1, 2)}  # noqa: RUF012

    def __call__(self, inputs: Mapping[str, Any]) -> dict[str, Any]:
        total = inputs["total"] + inputs["x"]
        return {"y": total * 10, "next_total": total}


def test_state_is_kept_between_steps() -> None:
    net = StreamingNetwork(Sum(), slots=3)
    for _ in range(4):
        out = net.step({"x": np.ones((3, 2), np.float32)})
    assert set(out) == {"y"}
    np.testing.assert_array_equal(out["y"], 40)


def test_masked_slots_stay_exactly_as_they_were() -> None:
    net = StreamingNetwork(Sum(), slots=3)
    net.step({"x": np.ones((3, 2), np.float32)})
    net.step({"x": np.ones((3, 2), np.float32)}, np.array([True, False, True]))
    np.testing.assert_array_equal(net.state.arrays["total"][:, 0], [2, 1, 2])
    out = net.step({"x": np.zeros((3, 2), np.float32)}, np.array([False] * 3))
    np.testing.assert_array_equal(net.state.arrays["total"][:, 0], [2, 1, 2])
    assert out["y"].shape == (3, 2)


def test_one_slot_begins_anew_alone() -> None:
    net = StreamingNetwork(Sum(), slots=3)
    net.step({"x": np.ones((3, 2), np.float32)})
    net.reset(1)
    np.testing.assert_array_equal(net.state.arrays["total"][:, 0], [1, 0, 1])
    net.reset()
    assert not net.state.arrays["total"].any()


def test_state_of_another_shape_is_refused() -> None:
    state = StreamingState({"h": np.zeros(4, np.float32)}, 2)
    with pytest.raises(ValueError, match=r"state h has shape \(2, 5\), expected \(2, 4\)"):
        state.update({"h": np.zeros((2, 5), np.float32)})
    with pytest.raises(ValueError, match="at least one slot"):
        StreamingState({}, 0)


def test_ring_index_goes_round_and_counts_what_it_holds() -> None:
    ring = RingIndex(window=4, slots=2)
    for _ in range(5):
        ring.advance(np.array([True, False]))
    np.testing.assert_array_equal(ring.index, [1, 0])
    np.testing.assert_array_equal(ring.filled, [3, 0])
    ring.advance(np.array([True, True]))
    ring.reset(0)
    np.testing.assert_array_equal(ring.index, [0, 1])
    np.testing.assert_array_equal(ring.filled, [0, 1])
