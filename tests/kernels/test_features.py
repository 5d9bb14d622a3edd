"""Log-mel features and the square around the face, against plain numpy, on every instruction set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cuda_steps import crop_reference
from visavis import kernels
from visavis.engine.audio import mel

several = settings(max_examples=15, deadline=None, derandomize=True)


def features(sound: np.ndarray) -> np.ndarray:
    """As numpy has it."""
    n = max(0, (len(sound) - mel.WINDOW) // mel.HOP + 1)
    if not n:
        return np.zeros((0, mel.N_MELS))
    windows = np.lib.stride_tricks.sliding_window_view(sound, mel.WINDOW)[: n * mel.HOP : mel.HOP]
    spectrum = np.fft.rfft(windows * mel.TABLES.window, mel.N_FFT)
    power = np.abs(spectrum) ** 2 * mel.TABLES.scale
    return np.log((power @ mel.mel_filters() + mel.FLOOR) / mel.FLOOR)


def with_every_isa(run: Any) -> None:
    for isa in kernels.available_isas():
        kernels.use_isa(isa)
        try:
            run()
        finally:
            kernels.use_isa()


@several
@given(st.integers(0, 2**32 - 1), st.integers(0, 3000), st.sampled_from([1e-4, 0.05, 1.0]))
def test_log_mel(seed: int, n: int, loud: float) -> None:
    rng = np.random.default_rng(seed)
    tone = np.sin(2 * np.pi * rng.uniform(60, 7000) * np.arange(n) / 16000)
    sound = (loud * (0.5 * tone + 0.5 * rng.standard_normal(n))).astype(np.float32)
    wanted = features(sound)
    with_every_isa(
        lambda: np.testing.assert_allclose(kernels.log_mel(mel.TABLES, sound), wanted, atol=2e-3, rtol=1e-4)
    )


def test_all_instruction_sets_hear_the_same() -> None:
    sound = np.random.default_rng(0).standard_normal(3000).astype(np.float32)
    wanted = kernels.log_mel(mel.TABLES, sound)
    with_every_isa(lambda: np.testing.assert_array_equal(kernels.log_mel(mel.TABLES, sound), wanted))
    # One window is what it is among others.
    np.testing.assert_array_equal(kernels.log_mel(mel.TABLES, sound[160 * 9 : 160 * 9 + 400])[0], wanted[9])


def test_tables_that_make_no_sense_are_refused() -> None:
    t = mel.TABLES
    with pytest.raises(ValueError, match="window: expected shape"):
        kernels.MelTables(t.window[1:], t.first, t.bin, t.weights, 1.0, 1.0)
    with pytest.raises(ValueError, match="rise from 0"):
        kernels.MelTables(t.window, t.first[::-1].copy(), t.bin, t.weights, 1.0, 1.0)
    with pytest.raises(ValueError, match=r"lie in 0\.\.256"):
        kernels.MelTables(t.window, t.first, t.bin + np.int32(1), t.weights, 1.0, 1.0)
    with pytest.raises(ValueError, match="sound: expected"):
        kernels.log_mel(t, np.zeros(700))  # type: ignore[arg-type]


@several
@given(st.integers(0, 2**32 - 1), st.integers(4, 50), st.integers(4, 50), st.integers(1, 3))
def test_face_crop(seed: int, width: int, height: int, by: int) -> None:
    rng = np.random.default_rng(seed)
    frame = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    labels = rng.integers(0, 3, (height, width), dtype=np.uint8)
    position = rng.uniform(-3, 4, (height, width, 3)).astype(np.float32)
    left, top = int(rng.integers(0, width - by + 1)), int(rng.integers(0, height - by + 1))
    scale = float(rng.choice([3.0, 7.25, 20.0]))
    place = kernels.CropPlace(
        scale, float(np.float32(128 - scale * rng.uniform(0, width))), float(np.float32(128 - scale * rng.uniform(0, height))),
        by, left, top, (width - left) // by, (height - top) // by,
    )  # fmt: skip
    colour, label, rest = crop_reference(frame, labels, position, place)

    def check() -> None:
        held = (np.ascontiguousarray(frame[..., :3]), np.ascontiguousarray(frame[..., 3]), labels, position)
        got = kernels.face_crop(*held, place, 256, (50.0,) * 3, (100.0,) * 3)
        for a, b in zip(got, (colour[..., :3], colour[..., 3], label, rest), strict=True):
            np.testing.assert_array_equal(a, b)

    with_every_isa(check)


@several
@given(st.integers(0, 2**32 - 1), st.integers(1, 3))
def test_a_part_of_a_crop_is_the_whole_one_s(seed: int, by: int) -> None:
    rng = np.random.default_rng(seed)
    width, height, side = (int(n) for n in rng.integers(6, 60, 3))
    held = (
        rng.integers(0, 256, (height, width, 3), dtype=np.uint8), rng.integers(0, 256, (height, width), dtype=np.uint8),
        rng.integers(0, 3, (height, width), dtype=np.uint8), rng.uniform(-3, 4, (height, width, 3)).astype(np.float32),
    )  # fmt: skip
    scale, x0, y0 = rng.uniform(0.4, 4), *rng.uniform(-30, 30, 2)
    place = kernels.CropPlace(scale, x0, y0, by, 0, 0, width // by, height // by)
    left, top = (int(n) for n in rng.integers(0, side, 2))
    area = left, top, int(rng.integers(1, side - left + 1)), int(rng.integers(1, side - top + 1))

    def check() -> None:
        whole = kernels.face_crop(*held, place, side, (50.0,) * 3, (100.0,) * 3)
        piece = kernels.face_crop(*held, place, side, (50.0,) * 3, (100.0,) * 3, area)
        for a, b in zip(piece, whole, strict=True):
            np.testing.assert_array_equal(a, b[top : top + area[3], left : left + area[2]])

    with_every_isa(check)


def test_a_crop_outside_its_frame_is_refused() -> None:
    plain = np.zeros((8, 6), np.uint8)
    held: list[Any] = [np.zeros((8, 6, 3), np.uint8), plain, plain, np.zeros((8, 6, 3), np.float32)]
    good = (1.0, 0.0, 0.0, 2, 0, 0, 3, 4)
    for k, value in ((0, 0.0), (1, np.nan), (3, 0), (4, 1), (5, -1), (6, 4), (7, 0)):
        place = kernels.CropPlace(*good[:k], value, *good[k + 1 :])  # type: ignore[arg-type]
        with pytest.raises(ValueError, match="does not lie in a frame of 6x8"):
            kernels.face_crop(*held, place, 16, (1.0,) * 3, (0.0,) * 3)
    for area in ((-1, 0, 4, 4), (0, 0, 0, 4), (13, 0, 4, 4), (0, 1, 4, 16)):
        with pytest.raises(ValueError, match="does not lie in a square of 16"):
            kernels.face_crop(*held, kernels.CropPlace(*good), 16, (1.0,) * 3, (0.0,) * 3, area)
    with pytest.raises(ValueError, match="labels: expected shape"):
        kernels.face_crop(*held[:2], plain[1:], held[3], kernels.CropPlace(*good), 16, (1.0,) * 3, (0.0,) * 3)
