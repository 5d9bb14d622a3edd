"""The key/value ring of a streaming transformer: a sink that stays, a window that rolls, positions that never grow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from .library import check, check_writable, lib


def kv_ring(
    fresh: NDArray,
    cache: NDArray,
    positions: NDArray[np.int32],
    written: NDArray[np.int64],
    *,
    sink_rows: int = 0,
    sink: NDArray | None = None,
    mask: NDArray[np.uint8] | None = None,
    reset: NDArray[np.uint8] | None = None,
) -> None:
    """Put new rows into the rings of all slots, in place.

    fresh (planes, slots, n, width), cache (planes, slots, sink rows + window, width), the same type; a plane is the
    keys or the values of one layer. positions int32 (slots, sink rows + window): where each row stands for the
    attention that follows, the sink's rows first, then the window's by age, -1 for a row that holds nothing yet.
    written int64 (slots,): tokens so far. sink (planes, slots, sink_rows, width) is copied into slots that are reset;
    without it their sink rows stay. mask, reset uint8 (slots,). ValueError for what does not fit.
    """
    if not isinstance(cache, np.ndarray) or cache.ndim != 4:
        raise ValueError("cache: expected an array (planes, slots, rows, width)")
    planes, slots, rows, width = cache.shape
    fresh = check("fresh", fresh, cache.dtype, (planes, slots, None, width))
    if not 0 <= sink_rows < rows:
        raise ValueError(f"sink_rows: 0..{rows - 1} in a cache of {rows} rows, got {sink_rows}")
    if sink is not None:
        sink = check("sink", sink, cache.dtype, (planes, slots, sink_rows, width))
    check("positions", positions, np.int32, (slots, rows))
    check("written", written, np.int64, (slots,))
    for name, array in (("cache", cache), ("positions", positions), ("written", written)):
        check_writable(name, array)
    mask = None if mask is None else check("mask", mask, np.uint8, (slots,))
    reset = None if reset is None else check("reset", reset, np.uint8, (slots,))
    code = lib.vv_kv_ring(
        fresh.ctypes.data,
        None if sink is None else sink.ctypes.data,
        cache.ctypes.data,
        positions.ctypes.data,
        written.ctypes.data,
        None if mask is None else mask.ctypes.data,
        None if reset is None else reset.ctypes.data,
        planes,
        slots,
        fresh.shape[2],
        sink_rows,
        rows - sink_rows,
        width * cache.itemsize,
    )
    if code:
        raise ValueError(f"fresh: {fresh.shape[2]} rows do not fit in a window of {rows - sink_rows}")
