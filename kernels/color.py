"""Colour conversion and blending of finished frames."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .library import check, check_writable, lib


def rgb_to_i420(rgb: NDArray[np.uint8], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """RGB uint8 (H, W, 3), even sides -> I420 uint8 (H * 3 / 2, W): plane Y, then U, then V (H/2 x W/2
    each), packed.

    BT.601, limited range; chroma is the mean of 2x2 pixels (MPEG-1 siting), rounded once. `out` is reused if
    given.
    """
    rgb = check("rgb", rgb, np.uint8, (None, None, 3))
    height, width = rgb.shape[:2]
    if height % 2 or width % 2 or not height or not width:
        raise ValueError(f"rgb: I420 needs even sides, got {width}x{height}")
    if out is None:
        out = np.empty((height * 3 // 2, width), np.uint8)
    else:
        check("out", out, np.uint8, (height * 3 // 2, width))
        check_writable("out", out)
    lib.vv_rgb_to_i420(rgb.ctypes.data, width, height, out.ctypes.data)
    return out


def blend(base: NDArray[np.uint8], patch: NDArray[np.uint8], mask: NDArray[np.uint8], x: int, y: int) -> None:
    """Blend `patch` (uint8 (h, w, 3)) into `base` (uint8 (H, W, 3), changed in place) with its top left
    corner at column x, row y: base + (patch - base) * mask / 255, rounded; `mask` uint8 (h, w), 255 = patch.
    The patch must lie inside."""
    check("base", base, np.uint8, (None, None, 3))
    check_writable("base", base)
    patch = check("patch", patch, np.uint8, (None, None, 3))
    height, width = patch.shape[:2]
    mask = check("mask", mask, np.uint8, (height, width))
    if not (0 <= x <= base.shape[1] - width and 0 <= y <= base.shape[0] - height):
        raise ValueError(
            f"patch: {width}x{height} at ({x}, {y}) leaves the {base.shape[1]}x{base.shape[0]} picture"
        )
    lib.vv_blend(
        base.ctypes.data + 3 * (y * base.shape[1] + x),
        3 * base.shape[1],
        patch.ctypes.data,
        mask.ctypes.data,
        width,
        height,
    )
