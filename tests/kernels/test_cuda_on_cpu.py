"""log_mel.cu, pose.cu and rgb_to_yuv.cu give what the CPU kernels give: on the CPU in shuffled thread orders, on a GPU with `-m gpu`."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
from cuda_build import CUDA, SEEDS, build
from hypothesis import given, settings
from hypothesis import strategies as st
from launcher import Launcher
from visavis import kernels
from visavis.engine.audio import mel

several = settings(max_examples=12, deadline=None, derandomize=True)


def run_yuv(cuda: Launcher, rgb: np.ndarray, mask: np.ndarray | None, nv12: bool) -> np.ndarray:
    slots, height, width, _ = rgb.shape
    source, out = cuda.array(rgb.shape), cuda.array((slots, height * 3 // 2, width))
    source[...] = rgb
    out[...] = 77
    assert (
        cuda.vvc_rgb_to_yuv(
            cuda.pointer(source), cuda.pointer(out), cuda.pointer(mask), slots, width, height, nv12
        )
        == 0
    )
    return out


@several
@given(st.integers(0, 2**32 - 1), st.integers(1, 24), st.integers(1, 20), st.integers(1, 3), st.booleans())
def test_rgb_to_yuv(cuda: Launcher, seed: int, columns: int, rows: int, slots: int, wide: bool) -> None:
    rng = np.random.default_rng(seed)
    width, height = 16 * columns if wide else 2 * columns, 2 * rows
    rgb = rng.integers(0, 256, (slots, height, width, 3), dtype=np.uint8)
    mask = cuda.put(rng.integers(0, 2, slots, dtype=np.uint8)) if rng.random() < 0.7 else None
    area = width * height
    for order in SEEDS:
        cuda.shuffle(order)
        i420, nv12 = (run_yuv(cuda, rgb, mask, format) for format in (False, True))
        for slot in range(slots):
            if mask is not None and not mask[slot]:
                assert (i420[slot] == 77).all() and (nv12[slot] == 77).all()
                continue
            expected = kernels.rgb_to_i420(rgb[slot]).ravel()
            np.testing.assert_array_equal(i420[slot].ravel(), expected)
            u, v = expected[area:].reshape(2, -1)
            np.testing.assert_array_equal(nv12[slot].ravel()[:area], expected[:area])
            np.testing.assert_array_equal(nv12[slot].ravel()[area:], np.stack([u, v], -1).ravel())


class PoseSlot(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_void_p) for n in ("rest", "basis", "weights", "coefficients", "joints", "screen")),
        *((n, ctypes.c_float) for n in ("fx", "fy", "cx", "cy")),
    ]


@several
@given(
    st.integers(0, 2**32 - 1), st.integers(1, 300), st.integers(0, 20), st.integers(1, 9), st.integers(1, 3)
)
def test_pose(cuda: Launcher, seed: int, v: int, k: int, j: int, slots: int) -> None:
    rng = np.random.default_rng(seed)
    mask = cuda.put(rng.integers(0, 2, slots, dtype=np.uint8))
    keep, expected, screens = [], [], []
    table = cuda.structures(PoseSlot, slots)
    for slot in range(slots):
        rest = rng.uniform(-0.2, 0.2, (v, 3)).astype(np.float32)
        basis = (rng.standard_normal((k, v, 3)) * 0.01).astype(np.float16)
        weights = rng.random((v, j)).astype(np.float32)
        joints = (np.eye(3, 4) + rng.normal(0, 0.05, (j, 3, 4))).astype(np.float32)
        joints[:, 2, 3] += 1.5
        coefficients = (rng.standard_normal(k) * (rng.random(k) < 0.7)).astype(np.float32)
        camera = (900.0, 950.0, 250.0 + slot, 260.0)
        expected.append(kernels.PoseRig(rest, basis, weights).pose(coefficients, joints, camera))
        arrays = [rest.T, basis.transpose(0, 2, 1), weights.T, coefficients, joints]
        arrays = [cuda.put(a) for a in [*arrays, np.full((v, 3), -7, np.float32)]]
        keep.append(arrays)
        screens.append(arrays[-1])
        table[slot] = PoseSlot(*map(cuda.address, arrays), *camera)
    for order in SEEDS:
        cuda.shuffle(order)
        for screen in screens:
            screen[:] = -7
        assert cuda.vvc_pose(cuda.pointer(table), cuda.pointer(mask), slots, v, k, j) == 0
        for on, screen, wanted in zip(mask, screens, expected, strict=True):
            np.testing.assert_array_equal(screen, wanted if on else np.full_like(wanted, -7))


def test_pose_refuses_what_it_cannot_hold(cuda: Launcher) -> None:
    assert cuda.vvc_pose(None, None, 1, 10, 10_000, 1) == 1


class MelTables(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_void_p) for n in ("window", "cosine", "sine", "first", "bin", "weights")),
        *((n, ctypes.c_float) for n in ("scale", "floor")),
    ]


def mel_tables(cuda: Launcher) -> tuple[MelTables, list[np.ndarray]]:
    tables = mel.TABLES
    arrays = [cuda.put(a) for a in tables.arrays]
    return MelTables(*map(cuda.address, arrays), tables.scale, tables.floor), arrays


def run_mel(cuda: Launcher, sound: np.ndarray, masks: np.ndarray) -> np.ndarray:
    """sound (frames, slots, 640), masks (frames, slots) -> (frames, slots, 4, 80); -1 where a slot did not run."""
    tables, keep = mel_tables(cuda)
    state = cuda.array((sound.shape[1], 240), np.float32)
    out = cuda.put(np.full((*sound.shape[:2], 4, 80), -1, np.float32))
    for frame, mask, features in zip(sound, masks, out, strict=True):
        frame, mask = cuda.put(frame), cuda.put(mask)
        code = cuda.vvc_log_mel(
            ctypes.byref(tables),
            cuda.pointer(frame),
            cuda.pointer(state),
            cuda.pointer(features),
            cuda.pointer(mask),
            len(mask),
        )
        assert code == 0
    del keep
    return out


def test_log_mel_is_the_stream_that_the_product_hears(cuda: Launcher) -> None:
    rng = np.random.default_rng(0)
    time = np.arange(4 * 640)[:, None] / 16000
    tones = np.sin(2 * np.pi * time * np.array([180.0, 2400.0])) * 0.3 + rng.normal(0, 0.01, (4 * 640, 2))
    sound = tones.astype(np.float32).reshape(4, 640, 2).transpose(0, 2, 1)
    masks = np.array([[1, 1], [1, 0], [0, 1], [1, 1]], np.uint8)
    for order in SEEDS:
        cuda.shuffle(order)
        out = run_mel(cuda, sound, masks)
        for slot in range(2):
            stream = mel.LogMel()
            for k in range(4):
                if masks[k, slot]:
                    # Logarithms of two libraries: the last places of numbers up to 16.
                    np.testing.assert_allclose(
                        out[k, slot], stream.push(sound[k, slot]), rtol=5e-7, atol=1e-6
                    )
                else:
                    assert (out[k, slot] == -1).all()


def caught(cuda: Launcher) -> bool:
    """Whether the product's numbers and these differ under any of a few thread orders."""
    sound = np.random.default_rng(1).normal(0, 0.1, (1, 1, 640)).astype(np.float32)
    wanted = mel.LogMel().push(sound[0, 0])
    for order in SEEDS:
        cuda.shuffle(order)
        if not np.allclose(run_mel(cuda, sound, np.ones((1, 1), np.uint8))[0, 0], wanted, atol=2e-3):
            return True
    return False


def in_a_process(body: Callable[[Path], None], path: Path) -> subprocess.CompletedProcess[str]:
    code = (
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r}); import {Path(__file__).stem} as t; "
    )
    code += f"from pathlib import Path; t.{body.__name__}(Path({str(path)!r}))"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


def run_broken_mel(path: Path) -> None:
    caught(Launcher.on_cpu(path))


def test_a_divergent_barrier_aborts(tmp_path: Path) -> None:
    text = (CUDA / "log_mel.cu").read_text()
    before = "    for (int i = tid; i <= kFft / 2; i += kThreads) power[i]"
    assert before in text
    library = build(tmp_path, "log_mel.cu", (before, "    if (tid == 3) return;\n" + before))
    result = in_a_process(run_broken_mel, library)
    assert result.returncode != 0 and "a barrier that some threads never reach" in result.stderr
