"""RGB to I420 and blending against plain numpy and OpenCV."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paste_reference import painting, pasted, planned
from visavis import kernels

sizes = st.integers(1, 40).map(lambda n: 2 * n)
seeds = st.integers(0, 2**32 - 1)


def i420_reference(rgb: np.ndarray) -> np.ndarray:
    """BT.601 limited range in float64."""
    matrix = np.array([[65.481, 128.553, 24.966], [-37.797, -74.203, 112.0], [112.0, -93.786, -18.214]]) / 255
    h, w = rgb.shape[:2]
    y = rgb @ matrix[0] + 16
    small = rgb.reshape(h // 2, 2, w // 2, 2, 3).mean((1, 3))
    u, v = (small @ m + 128 for m in matrix[1:])
    return np.concatenate([y.ravel(), u.ravel(), v.ravel()]).reshape(h * 3 // 2, w)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seeds, sizes, sizes, st.booleans())
def test_i420_is_the_standard_rounded(seed: int, width: int, height: int, extreme: bool) -> None:
    rng = np.random.default_rng(seed)
    rgb = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    if extreme:
        rgb = np.where(rgb < 128, 0, 255).astype(np.uint8)
    expected = i420_reference(rgb)
    for name in kernels.available_isas():
        kernels.use_isa(name)
        assert np.abs(kernels.rgb_to_i420(rgb) - expected).max() <= 0.52
    kernels.use_isa()


def test_i420_range_and_neutral_chroma() -> None:
    grey = np.repeat(np.arange(256, dtype=np.uint8)[:, None, None], 3, 2).repeat(2, 1)
    out = kernels.rgb_to_i420(grey)
    assert out.min() == 16 and out[:256].max() == 235
    assert (out[256:] == 128).all()


def test_i420_comes_back_through_opencv() -> None:
    rng = np.random.default_rng(0)
    rgb = cv2.resize(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8), (64, 64), interpolation=cv2.INTER_CUBIC)
    back = cv2.cvtColor(kernels.rgb_to_i420(rgb), cv2.COLOR_YUV2RGB_I420)
    error = (back.astype(float) - rgb) ** 2
    assert 10 * np.log10(255**2 / error.mean()) > 30


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seeds, st.integers(0, 30), st.integers(0, 30))
def test_blend_is_the_rounded_mix(seed: int, x: int, y: int) -> None:
    rng = np.random.default_rng(seed)
    base = rng.integers(0, 256, (50, 60, 3), dtype=np.uint8)
    patch = rng.integers(0, 256, (20, 25, 3), dtype=np.uint8)
    mask = rng.integers(0, 256, (20, 25), dtype=np.uint8)
    mask[rng.random(mask.shape) < 0.3] = rng.choice([0, 255])
    expected = base.astype(np.float64)
    part = expected[y : y + 20, x : x + 25]
    part += (patch - part) * (mask[..., None] / 255)
    for name in kernels.available_isas():
        kernels.use_isa(name)
        mixed = base.copy()
        kernels.blend(mixed, patch, mask, x, y)
        np.testing.assert_array_equal(mixed, np.floor(expected + 0.5 + 1e-9))
    kernels.use_isa()


def test_wrong_input_is_one_clear_error() -> None:
    with pytest.raises(ValueError, match="even sides, got 5x4"):
        kernels.rgb_to_i420(np.zeros((4, 5, 3), np.uint8))
    with pytest.raises(ValueError, match="even sides, got 0x0"):
        kernels.rgb_to_i420(np.zeros((0, 0, 3), np.uint8))
    with pytest.raises(ValueError, match="rgb: expected an array of uint8"):
        kernels.rgb_to_i420(np.zeros((4, 4, 3)))
    with pytest.raises(ValueError, match="out: expected shape"):
        kernels.rgb_to_i420(np.zeros((4, 4, 3), np.uint8), np.zeros((4, 4), np.uint8))
    base, patch, mask = (
        np.zeros((8, 8, 3), np.uint8),
        np.zeros((4, 4, 3), np.uint8),
        np.zeros((4, 4), np.uint8),
    )
    for x, y in ((-1, 0), (0, -1), (5, 0), (0, 5)):
        with pytest.raises(ValueError, match="leaves the 8x8 picture"):
            kernels.blend(base, patch, mask, x, y)
    with pytest.raises(ValueError, match="base: must be C-contiguous"):
        kernels.blend(base[:, ::2], patch[:2, :2], mask[:2, :2], 0, 0)
    with pytest.raises(ValueError, match="mask: expected shape"):
        kernels.blend(base, patch, mask[:2], 0, 0)


@pytest.mark.parametrize("seed", range(12))
def test_paste_and_composite(seed: int) -> None:
    rng = np.random.default_rng(seed)
    width, height, side = 2 * int(rng.integers(1, 40)), 2 * int(rng.integers(1, 30)), int(rng.integers(1, 30))
    frame = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    colour, under, mask, window = painting(rng, side)
    scale = float(rng.choice([0.3, 1.0, 2.2]))
    x0, y0 = (side / 2 - scale * float(rng.uniform(-3, n + 3)) for n in (width, height))
    placement = tuple(float(np.float32(x)) for x in (scale, x0, y0))
    plan = planned(colour, under, mask, window)
    wanted = pasted(frame, plan, placement)
    for isa in kernels.available_isas():
        kernels.use_isa(isa)
        try:
            square = kernels.Square(colour, under, mask, window, placement)  # type: ignore[arg-type]
            np.testing.assert_array_equal(square.plan(), plan)
            got = frame.copy()
            kernels.paste(got, square)
            np.testing.assert_array_equal(got, wanted)
            kept = frame.copy()
            fused = kernels.composite(kept, square)
            np.testing.assert_array_equal(kept, frame)
            np.testing.assert_array_equal(fused, kernels.rgb_to_i420(wanted))
        finally:
            kernels.use_isa()


@pytest.mark.parametrize("side", [31, 64, 256])
def test_a_plan_of_a_part_is_that_of_the_whole(side: int) -> None:
    """Only the part that is wanted is looked at: wherever it lies, the numbers are those of looking at everything."""
    rng = np.random.default_rng(side)
    colour, under = (rng.integers(0, 256, (side, side, 3), dtype=np.uint8) for _ in range(2))
    window = np.ones(side, np.float32)
    for x, y in ((side // 2, side // 2), (0, side // 2), (side - 5, 0), (3, side - 9)):
        mask = np.zeros((side, side), np.float32)
        mask[y : y + 9, x : x + 5] = 0.7
        got = kernels.Square(colour, under, mask, window, (1.0, 0.0, 0.0)).plan()
        np.testing.assert_array_equal(got, planned(colour, under, mask, window))
        assert got[max(y - 5, 0) : y + 14, max(x - 5, 0) : x + 10].any() and not got[:, x + 10 :].any()


def test_a_paste_keeps_what_is_finer_than_the_square() -> None:
    """Twice the square's resolution: a painting that darkens keeps the frame's details, one that smooths takes them away."""
    rng = np.random.default_rng(3)
    noise = rng.normal(0, 12, (128, 128, 1)) + cv2.resize(rng.normal(0, 25, (64, 64)), (128, 128))[..., None]
    frame = np.clip(128 + noise + np.zeros(3), 0, 255).astype(np.uint8)
    under = cv2.resize(frame, (64, 64), interpolation=cv2.INTER_AREA)
    mask, window = np.ones((64, 64), np.float32), np.ones(64, np.float32)

    def fine(colour):
        out = frame.copy()
        kernels.paste(out, kernels.Square(colour, under, mask, window, (0.5, 0.0, 0.0)))
        piece = out[16:-16, 16:-16].astype(np.float32)
        return float(np.abs(piece - cv2.GaussianBlur(piece, (0, 0), 1)).mean()), float(piece.mean())

    before, mean = fine(under)
    darker, dark = fine(under - 40)
    smooth, _ = fine(cv2.blur(under, (9, 9)))
    assert abs(darker / before - 1) < 0.02 and abs(mean - 40 - dark) < 1
    assert smooth < 0.25 * before


def test_squares_that_make_no_sense_are_refused() -> None:
    frame, colour = np.zeros((4, 4, 3), np.uint8), np.zeros((3, 3, 3), np.uint8)
    mask, window = np.zeros((3, 3), np.float32), np.zeros(3, np.float32)
    with pytest.raises(ValueError, match="scale > 0"):
        kernels.Square(colour, colour, mask, window, (0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="mask: expected shape"):
        kernels.Square(colour, colour, mask[:2], window, (1.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="under: expected shape"):
        kernels.Square(colour, colour[:2], mask, window, (1.0, 0.0, 0.0))
    square = kernels.Square(colour, colour, mask, window, (1.0, 0.0, 0.0))
    with pytest.raises(ValueError, match="even sides"):
        kernels.composite(frame[:3], square)
    with pytest.raises(ValueError, match="frame: must be C-contiguous"):
        kernels.paste(np.zeros((4, 8, 3), np.uint8)[:, ::2], square)
