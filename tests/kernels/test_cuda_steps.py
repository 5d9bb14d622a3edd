"""kv_ring.cu, sampler_step.cu and composite.cu, run on the CPU in shuffled thread orders, against numpy."""

from __future__ import annotations

import ctypes

import numpy as np
import sampler_reference as sampler
from cuda_build import SEEDS, aligned, on_device, pointer
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from visavis import kernels
from visavis.kernels.library import lib

several = settings(max_examples=15, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
GUARD = 77


# Key/value ring


def check_ring(
    cuda: ctypes.CDLL, seed: int, planes: int, slots: int, sink: int, window: int, words: int, calls: int
) -> None:
    """Several updates of random length, with masks and resets, against lists of tokens."""
    for order in SEEDS:
        rng = np.random.default_rng(seed)
        cuda.cuda_on_cpu_seed(order)
        row = 16 * words
        cache = aligned((planes, slots, sink + window, row))
        cache[:] = GUARD
        positions = np.full((slots, sink + window), -9, np.int32)
        written = rng.integers(0, 3 * window, slots).astype(np.int64)
        given_sink = seed % 4 != 0
        streams: list[dict[int, NDArray]] = [{} for _ in range(slots)]  # token -> (planes, row)
        sinks: list[NDArray | None] = [None] * slots
        for call in range(calls):
            n = int(rng.integers(1, window + 1))
            fresh = on_device(rng.integers(0, 256, (planes, slots, n, row), dtype=np.uint8))
            photo = on_device(rng.integers(0, 256, (planes, slots, sink, row), dtype=np.uint8))
            mask = rng.integers(0, 2, slots, dtype=np.uint8) if call % 3 else None
            reset = np.ones(slots, np.uint8) if call == 0 else (rng.random(slots) < 0.3).astype(np.uint8)
            before = cache.copy(), positions.copy(), written.copy()
            code = cuda.vvc_kv_ring(
                pointer(fresh), pointer(photo if given_sink else None), pointer(cache), pointer(positions),
                pointer(written), pointer(mask), pointer(reset), planes, slots, n, sink, window, row, None,
            )  # fmt: skip
            assert code == 0
            for s in range(slots):
                if mask is not None and not mask[s]:
                    np.testing.assert_array_equal(cache[:, s], before[0][:, s])
                    np.testing.assert_array_equal(positions[s], before[1][s])
                    assert written[s] == before[2][s]
                    continue
                if reset[s]:
                    streams[s] = {}
                    sinks[s] = photo[:, s].copy() if given_sink else None
                first = len(streams[s])
                for t in range(n):
                    streams[s][first + t] = fresh[:, s, t].copy()
                total = first + n
                assert written[s] == total
                oldest = max(0, total - window)
                wanted = np.full(sink + window, -1)
                wanted[:sink] = np.arange(sink)
                for token in range(oldest, total):
                    wanted[sink + token % window] = sink + token - oldest
                    np.testing.assert_array_equal(
                        cache[:, s, sink + token % window], streams[s][token], err_msg=f"token {token}"
                    )
                np.testing.assert_array_equal(positions[s], wanted)
                kept = sinks[s]
                np.testing.assert_array_equal(
                    cache[:, s, :sink], before[0][:, s, :sink] if kept is None else kept
                )


@several
@given(seeds, st.integers(1, 3), st.integers(1, 3), st.integers(0, 5), st.integers(1, 9), st.integers(1, 5))
def test_kv_ring(
    cuda: ctypes.CDLL, seed: int, planes: int, slots: int, sink: int, window: int, words: int
) -> None:
    check_ring(cuda, seed, planes, slots, sink, window, words, 5)


def test_a_ring_of_more_rows_than_a_block_has_threads(cuda: ctypes.CDLL) -> None:
    check_ring(cuda, 1, 2, 2, 7, 300, 2, 3)


def test_positions_stay_bounded_after_days(cuda: ctypes.CDLL) -> None:
    written = np.array([2**40 + 3], np.int64)
    cache, fresh = aligned((1, 1, 10, 16)), aligned((1, 1, 2, 16))
    positions = np.zeros((1, 10), np.int32)
    code = cuda.vvc_kv_ring(
        pointer(fresh), None, pointer(cache), pointer(positions), pointer(written), None, None, 1, 1, 2, 2, 8, 16, None
    )  # fmt: skip
    assert code == 0 and written[0] == 2**40 + 5
    # 2**40 is a multiple of 8: the newest token is in row 4 of the ring, the oldest in row 5.
    np.testing.assert_array_equal(positions[0], [0, 1, 5, 6, 7, 8, 9, 2, 3, 4])


def test_kv_ring_refuses_what_does_not_fit(cuda: ctypes.CDLL) -> None:
    for n, sink, window, row in ((9, 0, 8, 16), (0, 0, 8, 16), (1, -1, 8, 16), (1, 0, 8, 24), (1, 0, 8, 0)):
        none = [None] * 7
        assert cuda.vvc_kv_ring(*none, 1, 1, n, sink, window, row, None) == 1


# Sampler step


class SamplerStep(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_void_p) for n in ("x", "kept", "velocity", "free", "seeds", "frames", "mask")),
        *((n, ctypes.c_float) for n in ("dt", "sigma", "guidance")),
        ("kind", ctypes.c_int),
        *((n, ctypes.c_uint32) for n in ("step", "purpose")),
    ]


def check_step(cuda: ctypes.CDLL, seed: int, slots: int, n: int, kind: int) -> None:
    """One step of one kind: the numpy reference's bits, under every thread order."""
    rng = np.random.default_rng(seed)
    x, kept, v, free = (rng.standard_normal((slots, n)).astype(np.float32) for _ in range(4))
    keys = rng.integers(0, 2**64, slots, dtype=np.uint64)
    frames = rng.integers(0, 2**32, slots, dtype=np.uint32)
    mask = rng.integers(0, 2, slots, dtype=np.uint8) if rng.random() < 0.6 else None
    guided = bool(rng.random() < 0.5)
    sigma = 0.0 if rng.random() < 0.4 else float(np.float32(rng.uniform(0.1, 2)))
    dt, guidance, number, purpose = 0.3, 1.7, int(rng.integers(4)), int(rng.integers(3))
    for order in SEEDS:
        cuda.cuda_on_cpu_seed(order)
        arrays: dict[str, NDArray] = {"x": x, "kept": kept, "velocity": v, "seeds": keys, "frames": frames}
        arrays |= {"free": free} if guided else {}
        arrays |= {"mask": mask} if mask is not None else {}
        edge = np.full(4, GUARD, np.float32)
        memory = {k: on_device(np.concatenate([a.ravel(), edge.astype(a.dtype)])) for k, a in arrays.items()}
        pointers = {k: a.ctypes.data for k, a in memory.items()}
        call = SamplerStep(
            **pointers, dt=dt, sigma=sigma, guidance=guidance, kind=kind, step=number, purpose=purpose
        )
        assert cuda.vvc_sampler_step(ctypes.byref(call), slots, n, None) == 0
        got = {k: memory[k][: slots * n].reshape(slots, n) for k in ("x", "kept")}
        for a in memory.values():
            assert (a[-4:] == GUARD).all()
        for s in range(slots):
            wanted = x[s], kept[s]
            if mask is None or mask[s]:
                z = None
                if sigma and kind != sampler.PREDICTOR:
                    z = np.float32(sigma) * sampler.noise(n, int(keys[s]), int(frames[s]), number, purpose)
                wanted = sampler.step(kind, x[s], kept[s], v[s], free[s] if guided else None, guidance, dt, z)
            np.testing.assert_array_equal(got["x"][s], wanted[0])
            np.testing.assert_array_equal(got["kept"][s], wanted[1])


@several
@given(seeds, st.integers(1, 3), st.integers(1, 700), st.integers(0, 3), st.booleans())
def test_sampler_step(cuda: ctypes.CDLL, seed: int, slots: int, n: int, kind: int, whole: bool) -> None:
    check_step(cuda, seed, slots, n * 4 if whole and n < 300 else n, kind)


def test_philox_gives_the_numbers_of_its_authors() -> None:
    # Known answers of Random123 (kat_vectors, philox4x32 10).
    digits = [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344]
    for counter, key, wanted in (
        ([0] * 4, 0, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
        (digits, 0x299F31D0_A4093822, [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1]),
    ):
        assert sampler.philox(np.array(counter, np.uint32), key).tolist() == wanted


def test_the_noise_is_standard_normal() -> None:
    z = np.concatenate([sampler.noise(50_000, seed, frame, 0) for seed in (1, 2) for frame in (0, 1)])
    assert abs(z.mean()) < 0.01 and abs(z.std() - 1) < 0.01
    assert abs((z**3).mean()) < 0.03 and abs((z**4).mean() - 3) < 0.06
    assert abs(np.corrcoef(z[:-1], z[1:])[0, 1]) < 0.01
    words = np.random.default_rng(0).integers(0, 2**32, 10_000, dtype=np.uint32)
    u = ((words >> 8) + 1.0) / 2**24
    np.testing.assert_allclose(sampler.radius(words), np.sqrt(-2 * np.log(u)), atol=2e-6)
    c, s = sampler.direction(words)
    angle = 2 * np.pi * words / 2.0**32
    np.testing.assert_allclose(c, np.cos(angle), atol=5e-7)
    np.testing.assert_allclose(s, np.sin(angle), atol=5e-7)
    ends = sampler.radius(np.array([0, 2**32 - 1], np.uint32))
    assert np.isfinite(ends).all() and ends[1] == 0 and 5.7 < ends[0] < 5.8


def test_heun_is_exact_to_second_order(cuda: ctypes.CDLL) -> None:
    """dx/dt = x from 1 to e: the error falls by four when the steps are halved."""
    errors = []
    for steps in (4, 8):
        x, kept, v = (aligned((1, 4), np.float32) for _ in range(3))
        x[:] = 1
        call = SamplerStep(x=x.ctypes.data, kept=kept.ctypes.data, velocity=v.ctypes.data, dt=1 / steps)
        for _ in range(steps):
            for kind in (sampler.PREDICTOR, sampler.CORRECTOR):
                v[:] = x
                call.kind = kind
                assert cuda.vvc_sampler_step(ctypes.byref(call), 1, 4, None) == 0
        errors.append(float(abs(x[0, 0] - np.e)))
    assert errors[0] < 0.05 and 3.3 < errors[0] / errors[1] < 4.7


def test_the_sampler_refuses_steps_without_their_arrays(cuda: ctypes.CDLL) -> None:
    x = aligned((4,), np.float32)
    p = x.ctypes.data
    for call, n in (
        (SamplerStep(x=p, velocity=p, kind=4), 4),
        (SamplerStep(x=p, velocity=p, kind=-1), 4),
        (SamplerStep(x=p, kind=sampler.EULER), 4),
        (SamplerStep(x=p, velocity=p, kind=sampler.CORRECTOR), 4),
        (SamplerStep(x=p, sigma=1.0, kind=sampler.START), 4),
        (SamplerStep(velocity=p, kind=sampler.EULER), 4),
        (SamplerStep(x=p, velocity=p, kind=sampler.EULER), 0),
    ):
        assert cuda.vvc_sampler_step(ctypes.byref(call), 1, n, None) == 1


# Composite


class CompositeSlot(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_void_p) for n in ("rgb", "patch", "blend", "out")),
        *((n, ctypes.c_int) for n in ("x", "y")),
    ]


def feathered(blend: NDArray[np.uint8], feather: int) -> NDArray[np.uint8]:
    h, w = blend.shape
    i, j = np.mgrid[0:h, 0:w]
    d = np.minimum(np.minimum(i, h - 1 - i), np.minimum(j, w - 1 - j))
    ramp = np.where(d >= feather, 255, (255 * (2 * d + 1) + feather) // max(1, 2 * feather))
    return ((2 * blend.astype(int) * ramp + 255) // 510).astype(np.uint8)


def composite(
    rgb: NDArray[np.uint8], patch: NDArray[np.uint8], weight: NDArray[np.uint8], x: int, y: int
) -> NDArray[np.uint8]:
    """The CPU library's blend, of the part of the patch that lies in the frame, and its I420."""
    out = rgb.copy()
    height, width = rgb.shape[:2]
    x0, y0 = max(0, x), max(0, y)
    x1, y1 = min(width, x + patch.shape[1]), min(height, y + patch.shape[0])
    if x0 < x1 and y0 < y1:
        part = np.ascontiguousarray(patch[y0 - y : y1 - y, x0 - x : x1 - x])
        mask = np.ascontiguousarray(weight[y0 - y : y1 - y, x0 - x : x1 - x])
        corner = out[y0:, x0:]
        lib.vv_blend(corner.ctypes.data, 3 * width, part.ctypes.data, mask.ctypes.data, x1 - x0, y1 - y0)
    return kernels.rgb_to_i420(out).ravel()


def check_composite(cuda: ctypes.CDLL, seed: int, slots: int, width: int, height: int) -> None:
    rng = np.random.default_rng(seed)
    pw, ph = int(rng.integers(0, width + 4)), int(rng.integers(0, height + 4))
    feather = int(rng.choice([0, 1, 2, 5, 9]))
    mask = rng.integers(0, 2, slots, dtype=np.uint8) if rng.random() < 0.5 else None
    rgb, patch = (
        rng.integers(0, 256, (slots, h, w, 3), dtype=np.uint8) for h, w in ((height, width), (ph, pw))
    )
    blend = rng.choice([0, 1, 128, 254, 255], (slots, ph, pw)).astype(np.uint8)
    places = [
        (int(rng.integers(-pw - 1, width + 2)), int(rng.integers(-ph - 1, height + 2))) for _ in range(slots)
    ]
    area = width * height
    for order in SEEDS:
        cuda.cuda_on_cpu_seed(order)
        for nv12 in (False, True):
            out = [aligned((area * 3 // 2 + 16,)) for _ in range(slots)]
            for o in out:
                o[:] = GUARD
            memory = [[on_device(a[s]) for a in (rgb, patch, blend)] for s in range(slots)]
            table = (CompositeSlot * slots)(
                *(
                    CompositeSlot(*(a.ctypes.data for a in (*memory[s], out[s])), *places[s])
                    for s in range(slots)
                )
            )
            code = cuda.vvc_composite(table, pointer(mask), slots, width, height, pw, ph, feather, nv12, None)
            assert code == 0
            for s in range(slots):
                assert (out[s][-16:] == GUARD).all()
                if mask is not None and not mask[s]:
                    assert (out[s] == GUARD).all()
                    continue
                wanted = composite(rgb[s], patch[s], feathered(blend[s], feather), *places[s])
                if nv12:
                    wanted[area:] = wanted[area:].reshape(2, -1).T.ravel()
                np.testing.assert_array_equal(out[s][:-16], wanted)


@several
@given(seeds, st.integers(1, 2), st.integers(1, 20), st.integers(1, 20), st.booleans())
def test_composite(cuda: ctypes.CDLL, seed: int, slots: int, columns: int, rows: int, wide: bool) -> None:
    check_composite(cuda, seed, slots, 16 * columns if wide else 2 * columns, 2 * rows)


def test_a_feather_rises_from_the_border() -> None:
    ramp = feathered(np.full((9, 9), 255, np.uint8), 3)
    assert ramp[4].tolist() == [43, 128, 213, 255, 255, 255, 213, 128, 43]
    assert (feathered(np.full((4, 4), 200, np.uint8), 0) == 200).all()


def test_composite_refuses_odd_frames(cuda: ctypes.CDLL) -> None:
    for width, height, pw, feather in (
        (3, 2, 1, 0),
        (2, 3, 1, 0),
        (0, 2, 1, 0),
        (2, 2, -1, 0),
        (2, 2, 1, -1),
    ):
        assert cuda.vvc_composite(None, None, 1, width, height, pw, 1, feather, 0, None) == 1
