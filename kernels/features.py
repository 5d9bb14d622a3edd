"""What networks are given: log-mel features of sound, the square around the face of a drawn frame."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .library import check, lib

MEL_WINDOW, MEL_HOP, MEL_FFT, MEL_BANDS = 400, 160, 512, 80
"""Sizes that the kernel is made for."""
_P, _F, _I = ctypes.c_void_p, ctypes.c_float, ctypes.c_int


class _MelTables(ctypes.Structure):
    _fields_ = [
        *((n, _P) for n in ("window", "cosine", "sine", "first", "bin", "weights")),
        *((n, _F) for n in ("scale", "floor")),
    ]


@dataclass(frozen=True, eq=False)
class MelTables:
    """What log-mel features are made with: window float32 (400,), filters as runs of bins (first int32 (81,): where each band's
    weights begin, bin int32 (80,): its first bin, weights float32), power scale and floor."""

    window: NDArray[np.float32]
    first: NDArray[np.int32]
    bin: NDArray[np.int32]
    weights: NDArray[np.float32]
    scale: float
    floor: float
    cosine: NDArray[np.float32] = field(init=False)
    sine: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        check("window", self.window, np.float32, (MEL_WINDOW,))
        check("first", self.first, np.int32, (MEL_BANDS + 1,))
        check("bin", self.bin, np.int32, (MEL_BANDS,))
        check("weights", self.weights, np.float32, (None,))
        runs = np.diff(self.first)
        if self.first[0] or self.first[-1] != len(self.weights) or (runs < 0).any():
            raise ValueError("first: must rise from 0 to the number of weights")
        if (self.bin < 0).any() or (self.bin + runs > MEL_FFT // 2 + 1).any():
            raise ValueError(f"bin: bands must lie in 0..{MEL_FFT // 2}")
        angle = -2 * np.pi * np.arange(MEL_FFT // 2) / MEL_FFT
        for name, values in (("cosine", np.cos(angle)), ("sine", np.sin(angle))):
            object.__setattr__(self, name, values.astype(np.float32))

    @property
    def arrays(self) -> list[NDArray[Any]]:
        """In the order in which the kernels take them."""
        return [self.window, self.cosine, self.sine, self.first, self.bin, self.weights]


def log_mel(tables: MelTables, sound: NDArray[np.float32]) -> NDArray[np.float32]:
    """Features (n, 80) of all whole windows in sound float32 (samples,), each 400 samples, 160 apart:
    ln((power in the band + floor) / floor)."""
    sound = check("sound", sound, np.float32, (None,))
    n = max(0, (len(sound) - MEL_WINDOW) // MEL_HOP + 1)
    out = np.empty((n, MEL_BANDS), np.float32)
    if n:
        call = _MelTables(*(a.ctypes.data for a in tables.arrays), tables.scale, tables.floor)
        lib.vv_log_mel(ctypes.byref(call), sound.ctypes.data, n, out.ctypes.data)
    return out


class _FaceCrop(ctypes.Structure):
    _fields_ = [
        *((n, _P) for n in ("rgb", "coverage", "labels", "position", "warp", "seen", "part", "rest")),
        *((n, _F * 3) for n in ("factor", "offset")),
        *((n, _F) for n in ("scale", "x0", "y0")),
        *(
            (n, _I)
            for n in ("by", "left", "top", "columns", "rows", "width", "height", "u0", "v0", "wide", "tall")
        ),
    ]


@dataclass(frozen=True)
class CropPlace:
    """Where a square lies in a frame: pixel (x, y) of the frame at (scale x + x0, scale y + y0) of the square, pixel centres at
    halves. Colours are first averaged over `by` x `by` pixels, in `columns` x `rows` of them from (left, top) on."""

    scale: float
    x0: float
    y0: float
    by: int
    left: int
    top: int
    columns: int
    rows: int


Bytes = NDArray[np.uint8]


def face_crop(
    rgb: Bytes,
    coverage: Bytes,
    labels: Bytes,
    position: NDArray[np.float32],
    place: CropPlace,
    side: int,
    factor: Sequence[float],
    offset: Sequence[float],
    area: tuple[int, int, int, int] | None = None,
) -> tuple[Bytes, Bytes, Bytes, Bytes]:
    """The square of `side` pixels in a drawn frame, the border repeated outside: colour (S, S, 3) and coverage (S, S) bilinearly,
    labels (S, S) and rest positions (S, S, 3) of the nearest pixel; or of that square an `area` (left, top, width, height) alone.

    rgb uint8 (H, W, 3), coverage and labels uint8 (H, W), position float32 (H, W, 3). Positions become bytes, position * factor
    + offset kept to 1..255, and 0 where the label is 0. ValueError for what does not fit.
    """
    rgb = check("rgb", rgb, np.uint8, (None, None, 3))
    height, width = rgb.shape[:2]
    coverage = check("coverage", coverage, np.uint8, (height, width))
    labels = check("labels", labels, np.uint8, (height, width))
    position = check("position", position, np.float32, (height, width, 3))
    inside = (
        1 <= side <= 8192 and place.by >= 1 and place.columns >= 1 and place.rows >= 1 and place.left >= 0 and place.top >= 0
        and place.left + place.by * place.columns <= width and place.top + place.by * place.rows <= height
    )  # fmt: skip
    if not inside or not place.scale > 0 or not np.isfinite((place.scale, place.x0, place.y0)).all():
        raise ValueError(f"{place} with a side of {side} does not lie in a frame of {width}x{height}")
    u0, v0, wide, tall = area or (0, 0, side, side)
    if min(u0, v0) < 0 or min(wide, tall) < 1 or u0 + wide > side or v0 + tall > side:
        raise ValueError(f"area {area} does not lie in a square of {side}")
    out = [np.empty((tall, wide, 3)[:n], np.uint8) for n in (3, 2, 2, 3)]
    held: list[NDArray[Any]] = [rgb, coverage, labels, position, *out]
    call = _FaceCrop(
        *(a.ctypes.data for a in held), tuple(factor), tuple(offset), place.scale, place.x0, place.y0,
        place.by, place.left, place.top, place.columns, place.rows, width, height, u0, v0, wide, tall,
    )  # fmt: skip
    if lib.vv_face_crop(ctypes.byref(call)):
        raise MemoryError("no memory for a crop")
    warp, seen, part, rest = out
    return warp, seen, part, rest
