"""Colour conversion and blending of finished frames."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .library import check, check_writable, lib


def rgb_to_i420(rgb: NDArray[np.uint8], out: NDArray[np.uint8] | None = None) -> NDArray[np.uint8]:
    """RGB uint8 (H, W, 3), even sides -> I420 uint8 (H * 3 / 2, W): plane Y, then U, then V (H/2 x W/2
    each), packed.

    BT.601, limited range; chroma is the mean of 2x2 pixels (MPEG-1 siting), rounded once. `out` is reused if
    given.
    """
    rgb, out = _even(rgb, out)
    height, width = rgb.shape[:2]
    lib.vv_rgb_to_i420(rgb.ctypes.data, width, height, out.ctypes.data)
    return out


Placement = tuple[float, float, float]
"""scale, x0, y0: a frame's pixel (x, y) lies at (scale x + x0, scale y + y0) of the square, pixel centres at halves."""


@dataclass(frozen=True)
class Square:
    """A painted square to be put over a frame, bilinearly, where it lies by `placement`. ValueError for what does not fit.

    colour uint8 (S, S, 3); under uint8 (S, S, 3): what the square shows of the frame before; mask float32 (S, S): 0..1, how
    much of the colour is wanted; window float32 (S,): a feather, the mask's factor along either side.

    What is finer in the frame than the square can show stays as far as `colour` keeps the finest that it does show.
    """

    colour: NDArray[np.uint8]
    under: NDArray[np.uint8]
    mask: NDArray[np.float32]
    window: NDArray[np.float32]
    placement: Placement

    def __post_init__(self) -> None:
        side = self.side
        for name, dtype, shape in (
            ("colour", np.uint8, (side, side, 3)),
            ("under", np.uint8, (side, side, 3)),
            ("mask", np.float32, (side, side)),
            ("window", np.float32, (side,)),
        ):
            object.__setattr__(self, name, check(name, getattr(self, name), dtype, shape))
        if not 1 <= side <= 8192 or not self.placement[0] > 0 or not np.isfinite(self.placement).all():
            raise ValueError(
                f"a square of {side} pixels at {self.placement}: expected a side of 1..8192 and a scale > 0"
            )

    @property
    def side(self) -> int:
        """S."""
        return len(self.colour) if isinstance(self.colour, np.ndarray) and self.colour.ndim else 0

    def plan(self) -> NDArray[np.int16]:
        """What it changes in the frame, int16 (S, S, 4): colours to be added in 1/64 level, and the share in 1/16384 of what was there
        that goes. All 0 where nothing changes."""
        out = np.empty((self.side, self.side, 4), np.int16)
        pointers = [a.ctypes.data for a in (self.colour, self.under, self.mask, self.window)]
        if lib.vv_paste_plan(*pointers, self.side, out.ctypes.data):
            raise MemoryError("no memory for pasting")
        return out

    def over(self, frame: NDArray[np.uint8], out: NDArray[np.uint8] | None) -> None:
        """Into `frame` itself, or with it into I420."""
        height, width = frame.shape[:2]
        plan = self.plan()
        written = None if out is None else out.ctypes.data
        if lib.vv_composite(
            frame.ctypes.data, width, height, plan.ctypes.data, self.side, *self.placement, written
        ):
            raise MemoryError("no memory for pasting")


def paste(frame: NDArray[np.uint8], square: Square) -> None:
    """Put a square over `frame` uint8 (H, W, 3) in place. Pixels where nothing of it is wanted keep their bits."""
    check("frame", frame, np.uint8, (None, None, 3))
    check_writable("frame", frame)
    square.over(frame, None)


def composite(
    frame: NDArray[np.uint8], square: Square, out: NDArray[np.uint8] | None = None
) -> NDArray[np.uint8]:
    """`paste` and `rgb_to_i420` in one pass: I420 uint8 (H * 3 / 2, W); `frame` (even sides) stays as it is."""
    frame, out = _even(frame, out)
    square.over(frame, out)
    return out


def _even(
    rgb: NDArray[np.uint8], out: NDArray[np.uint8] | None
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """A picture that I420 can be made of, and room for it."""
    rgb = check("rgb", rgb, np.uint8, (None, None, 3))
    height, width = rgb.shape[:2]
    if height % 2 or width % 2 or not height or not width:
        raise ValueError(f"rgb: I420 needs even sides, got {width}x{height}")
    if out is None:
        return rgb, np.empty((height * 3 // 2, width), np.uint8)
    check("out", out, np.uint8, (height * 3 // 2, width))
    check_writable("out", out)
    return rgb, out


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
