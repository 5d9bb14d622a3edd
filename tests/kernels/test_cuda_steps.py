"""kv_ring.cu, sampler_step.cu, paste_plan.cu, composite.cu, face_crop.cu and states.cu: on the CPU in shuffled thread orders, on a GPU with `-m gpu`."""

from __future__ import annotations

import ctypes

import cv2
import numpy as np
import sampler_reference as sampler
from cuda_build import SEEDS
from hypothesis import given, settings
from hypothesis import strategies as st
from launcher import Launcher
from numpy.typing import NDArray
from paste_reference import painting
from visavis import kernels
from visavis.engine.runtime.gpu.structures import StateTensor
from visavis.engine.video.crop import CropTransform, place_of
from visavis.engine.video.crop import crop as product_crop
from visavis.engine.video.tones import Tones

several = settings(max_examples=15, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
GUARD = 77


# Key/value ring


def check_ring(
    cuda: Launcher, seed: int, planes: int, slots: int, sink: int, window: int, words: int, calls: int
) -> None:
    """Several updates of random length, with masks and resets, against lists of tokens."""
    for order in SEEDS:
        rng = np.random.default_rng(seed)
        cuda.shuffle(order)
        row = 16 * words
        cache = cuda.array((planes, slots, sink + window, row))
        cache[:] = GUARD
        positions = cuda.put(np.full((slots, sink + window), -9, np.int32))
        written = cuda.put(rng.integers(0, 3 * window, slots).astype(np.int64))
        given_sink = seed % 4 != 0
        streams: list[dict[int, NDArray]] = [{} for _ in range(slots)]  # token -> (planes, row)
        sinks: list[NDArray | None] = [None] * slots
        for call in range(calls):
            n = int(rng.integers(1, window + 1))
            fresh = cuda.put(rng.integers(0, 256, (planes, slots, n, row), dtype=np.uint8))
            photo = cuda.put(rng.integers(0, 256, (planes, slots, sink, row), dtype=np.uint8))
            mask = cuda.put(rng.integers(0, 2, slots, dtype=np.uint8)) if call % 3 else None
            anew = np.ones(slots, np.uint8) if call == 0 else (rng.random(slots) < 0.3).astype(np.uint8)
            reset = cuda.put(anew)
            before = cache.copy(), positions.copy(), written.copy()
            code = cuda.vvc_kv_ring(
                cuda.pointer(fresh), cuda.pointer(photo if given_sink else None), cuda.pointer(cache), cuda.pointer(positions),
                cuda.pointer(written), cuda.pointer(mask), cuda.pointer(reset), planes, slots, n, sink, window, row,
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
    cuda: Launcher, seed: int, planes: int, slots: int, sink: int, window: int, words: int
) -> None:
    check_ring(cuda, seed, planes, slots, sink, window, words, 5)


def test_a_ring_of_more_rows_than_a_block_has_threads(cuda: Launcher) -> None:
    check_ring(cuda, 1, 2, 2, 7, 300, 2, 3)


def test_positions_stay_bounded_after_days(cuda: Launcher) -> None:
    written = cuda.put(np.array([2**40 + 3], np.int64))
    cache, fresh = cuda.array((1, 1, 10, 16)), cuda.array((1, 1, 2, 16))
    positions = cuda.array((1, 10), np.int32)
    code = cuda.vvc_kv_ring(
        cuda.pointer(fresh), None, cuda.pointer(cache), cuda.pointer(positions), cuda.pointer(written), None, None, 1, 1, 2, 2, 8, 16
    )  # fmt: skip
    assert code == 0 and written[0] == 2**40 + 5
    # 2**40 is a multiple of 8: the newest token is in row 4 of the ring, the oldest in row 5.
    np.testing.assert_array_equal(positions[0], [0, 1, 5, 6, 7, 8, 9, 2, 3, 4])


def test_kv_ring_refuses_what_does_not_fit(cuda: Launcher) -> None:
    for n, sink, window, row in ((9, 0, 8, 16), (0, 0, 8, 16), (1, -1, 8, 16), (1, 0, 8, 24), (1, 0, 8, 0)):
        none = [None] * 7
        assert cuda.vvc_kv_ring(*none, 1, 1, n, sink, window, row) == 1


# Sampler step


class SamplerStep(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_void_p) for n in ("x", "kept", "velocity", "free", "seeds", "frames", "mask")),
        *((n, ctypes.c_float) for n in ("dt", "sigma", "guidance")),
        ("kind", ctypes.c_int),
        *((n, ctypes.c_uint32) for n in ("step", "purpose")),
    ]


def check_step(cuda: Launcher, seed: int, slots: int, n: int, kind: int) -> None:
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
        cuda.shuffle(order)
        arrays: dict[str, NDArray] = {"x": x, "kept": kept, "velocity": v, "seeds": keys, "frames": frames}
        arrays |= {"free": free} if guided else {}
        arrays |= {"mask": mask} if mask is not None else {}
        edge = np.full(4, GUARD, np.float32)
        memory = {k: cuda.put(np.concatenate([a.ravel(), edge.astype(a.dtype)])) for k, a in arrays.items()}
        pointers = {k: cuda.address(a) for k, a in memory.items()}
        call = SamplerStep(
            **pointers, dt=dt, sigma=sigma, guidance=guidance, kind=kind, step=number, purpose=purpose
        )
        assert cuda.vvc_sampler_step(ctypes.byref(call), slots, n) == 0
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
def test_sampler_step(cuda: Launcher, seed: int, slots: int, n: int, kind: int, whole: bool) -> None:
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


def test_heun_is_exact_to_second_order(cuda: Launcher) -> None:
    """dx/dt = x from 1 to e: the error falls by four when the steps are halved."""
    errors = []
    for steps in (4, 8):
        x, kept, v = (cuda.array((1, 4), np.float32) for _ in range(3))
        x[:] = 1
        call = SamplerStep(x=cuda.address(x), kept=cuda.address(kept), velocity=cuda.address(v), dt=1 / steps)
        for _ in range(steps):
            for kind in (sampler.PREDICTOR, sampler.CORRECTOR):
                v[:] = x
                call.kind = kind
                assert cuda.vvc_sampler_step(ctypes.byref(call), 1, 4) == 0
        errors.append(float(abs(x[0, 0] - np.e)))
    assert errors[0] < 0.05 and 3.3 < errors[0] / errors[1] < 4.7


def test_the_sampler_refuses_steps_without_their_arrays(cuda: Launcher) -> None:
    x = cuda.array((4,), np.float32)
    p = cuda.address(x)
    for call, n in (
        (SamplerStep(x=p, velocity=p, kind=4), 4),
        (SamplerStep(x=p, velocity=p, kind=-1), 4),
        (SamplerStep(x=p, kind=sampler.EULER), 4),
        (SamplerStep(x=p, velocity=p, kind=sampler.CORRECTOR), 4),
        (SamplerStep(x=p, sigma=1.0, kind=sampler.START), 4),
        (SamplerStep(velocity=p, kind=sampler.EULER), 4),
        (SamplerStep(x=p, velocity=p, kind=sampler.EULER), 0),
    ):
        assert cuda.vvc_sampler_step(ctypes.byref(call), 1, n) == 1


# Composite


class PastePlanSlot(ctypes.Structure):
    _fields_ = [(n, ctypes.c_void_p) for n in ("colour", "under", "blend", "plan", "tones")]


class CompositeSlot(ctypes.Structure):
    _fields_ = [(n, ctypes.c_void_p) for n in ("rgb", "plan", "placement", "out")]


def check_paste_plan(cuda: Launcher, seed: int, slots: int, side: int) -> None:
    """The bits of the CPU library's plan."""
    rng = np.random.default_rng(seed)
    paintings = [painting(rng, side) for _ in range(slots)]
    curves = [
        Tones(rng.integers(0, 256, (256, 3), np.uint8)) if rng.random() < 0.3 else None for _ in paintings
    ]
    tones = [None if one is None else cuda.put(one.curve) for one in curves]
    window = cuda.put(paintings[0][3])
    mask = cuda.put(rng.integers(0, 2, slots, dtype=np.uint8)) if rng.random() < 0.5 else None
    for order in SEEDS:
        cuda.shuffle(order)
        plans = [cuda.array((side * side * 4 + 8,), np.int16) for _ in range(slots)]
        for plan in plans:
            plan[:] = GUARD
        memory = [[cuda.put(a) for a in p[:3]] for p in paintings]
        table = cuda.structures(
            PastePlanSlot,
            [
                PastePlanSlot(*map(cuda.address, (*memory[s], plans[s])), cuda.pointer(tones[s]))
                for s in range(slots)
            ],
        )
        where = cuda.pointer(table), cuda.pointer(mask), cuda.pointer(window)
        assert cuda.vvc_paste_plan(*where, slots, side) == 0
        for s, (colour, under, blend, _) in enumerate(paintings):
            assert (plans[s][-8:] == GUARD).all()
            if mask is not None and not mask[s]:
                assert (plans[s] == GUARD).all()
                continue
            own = curves[s]
            shown = colour if own is None else own.toned(colour)
            wanted = kernels.Square(shown, under, blend, paintings[0][3], (1.0, 0.0, 0.0)).plan()
            np.testing.assert_array_equal(plans[s][:-8].reshape(wanted.shape), wanted)


@several
@given(seeds, st.integers(1, 2), st.integers(1, 40))
def test_paste_plan(cuda: Launcher, seed: int, slots: int, side: int) -> None:
    check_paste_plan(cuda, seed, slots, side)


def test_paste_plan_refuses_no_square(cuda: Launcher) -> None:
    for slots, side in ((1, 0), (1, 9000), (0, 4)):
        assert cuda.vvc_paste_plan(None, None, None, slots, side) == 1


def check_composite(cuda: Launcher, seed: int, slots: int, width: int, height: int) -> None:
    """The bits of the CPU library's paste and conversion, wherever the square lies."""
    rng = np.random.default_rng(seed)
    side = int(rng.integers(1, 40))
    mask = cuda.put(rng.integers(0, 2, slots, dtype=np.uint8)) if rng.random() < 0.5 else None
    rgb = rng.integers(0, 256, (slots, height, width, 3), dtype=np.uint8)
    paintings = [painting(rng, side) for _ in range(slots)]
    places = np.empty((slots, 3), np.float32)
    places[:, 0] = rng.choice([0.0, 0.4, 1.0, 2.3], slots, p=[0.1, 0.3, 0.3, 0.3])
    places[:, 1:] = rng.uniform(-1.5, 0.5, (slots, 2)) * places[:, :1] * (width, height) + side / 2
    if seed % 3 == 0:
        places[:, 1:] = np.round(places[:, 1:])
    squares = [
        kernels.Square(*paintings[s], (float(places[s, 0]) or 1.0, float(places[s, 1]), float(places[s, 2])))
        for s in range(slots)
    ]
    area = width * height
    for order in SEEDS:
        cuda.shuffle(order)
        for nv12 in (False, True):
            out = [cuda.array((area * 3 // 2 + 16,)) for _ in range(slots)]
            for o in out:
                o[:] = GUARD
            memory = [[cuda.put(a) for a in (rgb[s], squares[s].plan(), places[s])] for s in range(slots)]
            table = cuda.structures(
                CompositeSlot,
                [CompositeSlot(*map(cuda.address, (*memory[s], out[s]))) for s in range(slots)],
            )
            code = cuda.vvc_composite(
                cuda.pointer(table), cuda.pointer(mask), slots, side, width, height, nv12
            )  # fmt: skip
            assert code == 0
            for s in range(slots):
                assert (out[s][-16:] == GUARD).all()
                if mask is not None and not mask[s]:
                    assert (out[s] == GUARD).all()
                    continue
                if places[s, 0] > 0:
                    wanted = kernels.composite(rgb[s], squares[s]).ravel()
                else:
                    wanted = kernels.rgb_to_i420(rgb[s]).ravel()
                if nv12:
                    wanted[area:] = wanted[area:].reshape(2, -1).T.ravel()
                np.testing.assert_array_equal(out[s][:-16], wanted)


@several
@given(seeds, st.integers(1, 2), st.integers(1, 4), st.integers(1, 20), st.booleans())
def test_composite(cuda: Launcher, seed: int, slots: int, columns: int, rows: int, wide: bool) -> None:
    check_composite(cuda, seed, slots, 16 * columns if wide else 14 * columns, 2 * rows)


def test_composite_refuses_odd_frames(cuda: Launcher) -> None:
    for width, height, side in ((3, 2, 1), (2, 3, 1), (0, 2, 1), (2, 2, 0), (2, 2, 9000)):
        assert cuda.vvc_composite(None, None, 1, side, width, height, 0) == 1


# Face crop

SIDE = 256


class CropPlace(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_float) for n in ("scale", "x0", "y0")),
        *((n, ctypes.c_int) for n in ("by", "left", "top", "columns", "rows")),
    ]


class FaceCrop(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_void_p) for n in ("rgb", "coverage", "labels", "position", "place", "mask", "fresh")),
        *((n, ctypes.c_void_p) for n in ("warp", "seen", "part", "rest", "previous")),
        *((n, ctypes.c_float * 3) for n in ("factor", "offset")),
        *((n, ctypes.c_int) for n in ("width", "height", "side")),
    ]


def crop_reference(
    rgba: NDArray[np.uint8], labels: NDArray[np.uint8], position: NDArray[np.float32], p: CropPlace
) -> tuple[NDArray, ...]:
    """The same in numpy: (colour and coverage, label, position in bytes), factor 50, offset 100."""
    f = np.float32
    piece = rgba[p.top : p.top + p.rows * p.by, p.left : p.left + p.columns * p.by].astype(np.int64)
    mean = piece.reshape(p.rows, p.by, p.columns, p.by, 4).sum((1, 3))
    mean = (mean + p.by**2 // 2) // p.by**2
    at = np.arange(SIDE, dtype=f) + f(0.5)
    x, y = (at - f(p.x0)) / f(p.scale), (at - f(p.y0)) / f(p.scale)
    axes = []
    for t, corner, n in ((x, p.left, p.columns), (y, p.top, p.rows)):
        q = np.floor((t - f(corner)) / f(p.by) * f(256) - f(127.5)).astype(int)
        axes.append((np.clip(q >> 8, 0, n - 1), np.clip((q >> 8) + 1, 0, n - 1), q & 255))
    (c0, c1, fx), (r0, r1, fy) = axes
    fy, fx = fy[:, None, None], fx[None, :, None]
    left = mean[r0][:, c0] * (256 - fy) + mean[r1][:, c0] * fy
    right = mean[r0][:, c1] * (256 - fy) + mean[r1][:, c1] * fy
    colour = (left * (256 - fx) + right * fx + 32768) >> 16
    i = np.clip(np.floor(y), 0, len(labels) - 1).astype(int)
    j = np.clip(np.floor(x), 0, labels.shape[1] - 1).astype(int)
    label = labels[i][:, j]
    bytes_ = np.clip(position[i][:, j] * f(50) + f(100), 1, 255).astype(np.uint8)
    return colour.astype(np.uint8), label, np.where(label[..., None] > 0, bytes_, 0)


def check_face_crop(cuda: Launcher, seed: int, slots: int = 2) -> None:
    rng = np.random.default_rng(seed)
    height, width = int(rng.integers(8, 60)), int(rng.integers(8, 60))
    frames = rng.integers(0, 256, (slots, height, width, 4), dtype=np.uint8)
    labels = rng.integers(0, 4, (slots, height, width), dtype=np.uint8)
    position = rng.uniform(-3, 4, (slots, height, width, 3)).astype(np.float32)
    places = (CropPlace * slots)()
    for p in places:
        p.by = int(rng.integers(1, 4))
        p.left, p.top = (int(rng.integers(0, n - p.by)) for n in (width, height))
        p.columns, p.rows = (width - p.left) // p.by, (height - p.top) // p.by
        p.scale = float(rng.choice([3.0, 7.3, 20.0]))
        p.x0, p.y0 = (128 - p.scale * float(rng.uniform(0, n)) for n in (width, height))
    mask = cuda.put(np.array([1, 0][:slots], np.uint8)) if seed % 2 else None
    fresh = cuda.put(np.array([0, 1] if seed % 4 < 2 else [1, 0], np.uint8)[:slots])
    table = cuda.put(np.frombuffer(bytes(places), np.uint8).copy())
    for order in SEEDS[: 1 + seed % 3]:
        cuda.shuffle(order)
        outs = {
            n: cuda.array((slots, SIDE, SIDE, 3)[: 4 if n in ("warp", "rest") else 3])
            for n in ("warp", "seen", "part", "rest")
        }
        for o in outs.values():
            o[:] = GUARD
        previous = cuda.put(np.full((slots, 3, SIDE, SIDE), GUARD, np.float32))
        held = [cuda.put(frames[..., :3]), cuda.put(frames[..., 3]), cuda.put(labels), cuda.put(position)]
        call = FaceCrop(
            *map(cuda.address, held), cuda.address(table), cuda.pointer(mask), cuda.address(fresh),
            *(cuda.address(outs[n]) for n in ("warp", "seen", "part", "rest")), cuda.address(previous),
            (ctypes.c_float * 3)(50, 50, 50), (ctypes.c_float * 3)(100, 100, 100), width, height, SIDE,
        )  # fmt: skip
        assert cuda.vvc_face_crop(ctypes.byref(call), slots) == 0
        for s in range(slots):
            if mask is not None and not mask[s]:
                assert all((o[s] == GUARD).all() for o in outs.values()) and (previous[s] == GUARD).all()
                continue
            colour, label, rest = crop_reference(frames[s], labels[s], position[s], places[s])
            np.testing.assert_array_equal(outs["warp"][s], colour[..., :3])
            np.testing.assert_array_equal(outs["seen"][s], colour[..., 3])
            np.testing.assert_array_equal(outs["part"][s], label)
            np.testing.assert_array_equal(outs["rest"][s], rest)
            twin = kernels.face_crop(*(a[s] for a in held), places[s], SIDE, (50.0,) * 3, (100.0,) * 3)
            for name, own in zip(("warp", "seen", "part", "rest"), twin, strict=True):
                np.testing.assert_array_equal(outs[name][s], own)
            if fresh[s]:
                np.testing.assert_allclose(previous[s], colour[..., :3].transpose(2, 0, 1) / 255, atol=1e-6)
            else:
                assert (previous[s] == GUARD).all()


@settings(max_examples=4, deadline=None, derandomize=True)
@given(st.integers(0, 1000))
def test_face_crop(cuda: Launcher, seed: int) -> None:
    check_face_crop(cuda, seed)


def test_face_crop_is_what_the_product_cuts(cuda: Launcher) -> None:
    """Within two levels of `engine.video.crop`, at scales above and below that of averaging."""
    rng = np.random.default_rng(0)
    smooth = cv2.resize(
        rng.integers(0, 256, (9, 9, 4), dtype=np.uint8), (300, 320), interpolation=cv2.INTER_CUBIC
    )
    labels = np.repeat(np.repeat(rng.integers(0, 4, (8, 6), dtype=np.uint8), 40, 0), 50, 1)
    for scale, x0, y0 in ((1.1, -20.3, -40.7), (0.55, 30.2, 24.6), (0.9, 128 - 0.9 * 300, -10.0)):
        where = CropTransform(scale, x0, y0)
        place = place_of(where, 300, 320)
        colour, label, _ = crop_reference(smooth, labels, np.zeros((320, 300, 3), np.float32), place)
        wanted = product_crop(smooth, where)
        difference = np.abs(colour.astype(int) - wanted)
        assert difference.max() <= 6 and difference.mean() < 0.6, scale
        assert (label != product_crop(labels, where, nearest=True)).mean() < 0.01


def test_face_crop_refuses_other_sides(cuda: Launcher) -> None:
    for side, slots, width in ((0, 1, 4), (100, 1, 4), (384, 1, 4), (256, 0, 4), (256, 1, 0)):
        call = FaceCrop(width=width, height=4, side=side)
        assert cuda.vvc_face_crop(ctypes.byref(call), slots) == 1


# States


def check_states(cuda: Launcher, seed: int, slots: int, sizes: list[tuple[int, int]]) -> None:
    """sizes: (outer, floats a row) of each tensor."""
    for order in SEEDS:
        rng = np.random.default_rng(seed)
        cuda.shuffle(order)
        pairs = [
            [cuda.put(rng.standard_normal((outer, slots, n)).astype(np.float32)) for _ in range(2)]
            for outer, n in sizes
        ]
        actions = [cuda.put(rng.integers(0, 3, slots, dtype=np.uint8)) for _ in sizes]
        before = [p[1].copy() for p in pairs]
        table = cuda.structures(
            StateTensor,
            [
                StateTensor(cuda.address(a), cuda.address(b), cuda.address(action), o, 4 * n)
                for (a, b), (o, n), action in zip(pairs, sizes, actions, strict=True)
            ],
        )
        largest = max(4 * n for _, n in sizes)
        assert cuda.vvc_states(cuda.pointer(table), len(sizes), slots, largest) == 0
        for (source, got), old, action in zip(pairs, before, actions, strict=True):
            a = action[None, :, None]
            np.testing.assert_array_equal(got, np.where(a == 2, 0, np.where(a == 1, source, old)))


@several
@given(
    seeds,
    st.integers(1, 4),
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 40)), min_size=1, max_size=3),
)
def test_states(cuda: Launcher, seed: int, slots: int, sizes: list[tuple[int, int]]) -> None:
    check_states(cuda, seed, slots, sizes)


def test_states_of_rows_longer_than_a_block(cuda: Launcher) -> None:
    check_states(cuda, 3, 3, [(2, 1028), (1, 4), (1, 2051)])


def test_states_refuse_nothing_at_all(cuda: Launcher) -> None:
    for n, slots, largest in ((0, 1, 4), (1, 0, 4), (1, 1, 3)):
        assert cuda.vvc_states(None, n, slots, largest) == 1
