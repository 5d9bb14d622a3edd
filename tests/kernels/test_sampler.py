"""Noise, sampler step and key/value ring of the CPU library: the bits of the numpy reference and of the CUDA text."""

from __future__ import annotations

import numpy as np
import pytest
import sampler_reference as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from launcher import Launcher
from numpy.typing import NDArray
from visavis import kernels

several = settings(max_examples=15, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(params=kernels.available_isas())
def isa(request: pytest.FixtureRequest) -> object:
    kernels.use_isa(request.param)
    yield request.param
    kernels.use_isa()


@pytest.mark.parametrize("n", [1, 4, 31, 32, 33, 1000])
def test_noise_has_the_bits_of_the_reference(isa: str, n: int) -> None:
    for seed, frame, step, purpose in ((0, 0, 0, 0), (2**63 + 5, 7, 2, 1), (3, 2**32 - 1, 11, 2**31)):
        wanted = reference.noise(n, seed, frame, step, purpose)
        np.testing.assert_array_equal(kernels.noise(n, seed, frame, step, purpose), wanted)


def test_noise_takes_a_shape_and_depends_on_every_argument() -> None:
    first = kernels.noise((5, 7), 1, 2, 3, 4)
    assert first.shape == (5, 7) and first.dtype == np.float32
    np.testing.assert_array_equal(first.ravel(), kernels.noise(35, 1, 2, 3, 4))
    for other in ((9, 2, 3, 4), (1, 9, 3, 4), (1, 2, 9, 4), (1, 2, 3, 9)):
        assert not np.array_equal(first, kernels.noise((5, 7), *other))
    assert kernels.noise((0, 3), 1).shape == (0, 3)


@several
@given(seeds, st.integers(1, 3), st.integers(1, 150), st.sampled_from(kernels.sampler.KINDS))
def test_a_step_has_the_bits_of_the_reference(
    seed: int, slots: int, n: int, kind: kernels.sampler.Kind
) -> None:
    rng = np.random.default_rng(seed)
    x, kept, v, free = (rng.standard_normal((slots, n)).astype(np.float32) for _ in range(4))
    keys, frames = (
        rng.integers(0, 2**64, slots, dtype=np.uint64),
        rng.integers(0, 2**32, slots, dtype=np.uint32),
    )
    mask = rng.integers(0, 2, slots, dtype=np.uint8) if seed % 2 else None
    guided, sigma = bool(seed & 4), 0.0 if seed & 8 else float(np.float32(rng.uniform(0.1, 2)))
    got_x, got_kept = x.copy(), kept.copy()
    kernels.sampler_step(
        kind, got_x, v, dt=0.3, sigma=sigma, guidance=1.7, free=free if guided else None, kept=got_kept,
        seeds=keys, frames=frames, mask=mask, step=2, purpose=5,
    )  # fmt: skip
    number = kernels.sampler.KINDS.index(kind)
    for s in range(slots):
        wanted = x[s], kept[s]
        if mask is None or mask[s]:
            z = None
            if sigma and number != reference.PREDICTOR:
                z = np.float32(sigma) * reference.noise(n, int(keys[s]), int(frames[s]), 2, 5)
            wanted = reference.step(number, x[s], kept[s], v[s], free[s] if guided else None, 1.7, 0.3, z)
        np.testing.assert_array_equal(got_x[s], wanted[0])
        np.testing.assert_array_equal(got_kept[s], wanted[1])


def test_steps_that_cannot_be_made_are_refused() -> None:
    x = np.zeros((2, 3), np.float32)
    with pytest.raises(ValueError, match="kind"):
        kernels.sampler_step("rk4", x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="missing"):
        kernels.sampler_step("euler", x, dt=0.1)
    with pytest.raises(ValueError, match="missing"):
        kernels.sampler_step("start", x, sigma=1.0)
    with pytest.raises(ValueError, match="velocity: expected shape"):
        kernels.sampler_step("euler", x, np.zeros((2, 4), np.float32))
    with pytest.raises(ValueError, match="x: must be C-contiguous"):
        kernels.sampler_step("start", np.zeros((4, 6), np.float32)[:, ::2], sigma=0.0)


def ring_by_cuda(cuda: Launcher, arrays: list[NDArray | None], sizes: tuple[int, ...]) -> list[NDArray]:
    memory = [None if a is None else cuda.put(a) for a in arrays]
    assert cuda.vvc_kv_ring(*map(cuda.pointer, memory), *sizes) == 0
    return [m for m in memory[2:5] if m is not None]


@several
@given(seeds, st.integers(1, 3), st.integers(1, 3), st.integers(0, 4), st.integers(1, 9))
def test_the_ring_is_that_of_the_cuda_text(
    cuda: Launcher, seed: int, planes: int, slots: int, sinks: int, window: int
) -> None:
    rng = np.random.default_rng(seed)
    width = 4 * int(rng.integers(1, 4))
    cache = rng.standard_normal((planes, slots, sinks + window, width)).astype(np.float32)
    positions = np.full((slots, sinks + window), -9, np.int32)
    written = rng.integers(0, 2**40, slots)
    for call in range(4):
        n = int(rng.integers(1, window + 1))
        fresh = rng.standard_normal((planes, slots, n, width)).astype(np.float32)
        sink = (
            rng.standard_normal((planes, slots, sinks, width)).astype(np.float32)
            if seed % 3 and sinks
            else None
        )
        mask = rng.integers(0, 2, slots, dtype=np.uint8) if call else None
        reset = rng.integers(0, 2, slots, dtype=np.uint8) if call != 1 else None
        sizes = (planes, slots, n, sinks, window, 4 * width)
        wanted = ring_by_cuda(cuda, [fresh, sink, cache, positions, written, mask, reset], sizes)
        kernels.kv_ring(fresh, cache, positions, written, sink_rows=sinks, sink=sink, mask=mask, reset=reset)
        for got, want in zip((cache, positions, written), wanted, strict=True):
            np.testing.assert_array_equal(got, want)


def test_rows_that_do_not_fit_are_refused() -> None:
    cache, positions, written = (
        np.zeros((1, 1, 5, 4), np.float32),
        np.zeros((1, 5), np.int32),
        np.zeros(1, np.int64),
    )
    with pytest.raises(ValueError, match="do not fit"):
        kernels.kv_ring(np.zeros((1, 1, 4, 4), np.float32), cache, positions, written, sink_rows=2)
    with pytest.raises(ValueError, match="sink_rows"):
        kernels.kv_ring(np.zeros((1, 1, 1, 4), np.float32), cache, positions, written, sink_rows=5)
    with pytest.raises(ValueError, match="fresh: expected an array of float32"):
        kernels.kv_ring(np.zeros((1, 1, 1, 4)), cache, positions, written)
