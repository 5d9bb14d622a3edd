"""Counter-based noise and the update of a flow-matching sampler: the same numbers on the CPU and on a GPU."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from .library import check, check_writable, lib

Kind = Literal["start", "euler", "predictor", "corrector"]
KINDS: tuple[Kind, ...] = ("start", "euler", "predictor", "corrector")


class SamplerStep(ctypes.Structure):
    """What one step does; the layout that the CPU and the CUDA library share (kernels/cuda/sampler_step.cu)."""

    _fields_ = [
        *((n, ctypes.c_void_p) for n in ("x", "kept", "velocity", "free", "seeds", "frames", "mask")),
        *((n, ctypes.c_float) for n in ("dt", "sigma", "guidance")),
        ("kind", ctypes.c_int),
        *((n, ctypes.c_uint32) for n in ("step", "purpose")),
    ]


def noise(
    shape: int | Sequence[int], seed: int, frame: int = 0, step: int = 0, purpose: int = 0
) -> NDArray[np.float32]:
    """Standard normal numbers (*shape,) float32: a function of all arguments and the element's place alone.

    Philox4x32-10 (Salmon et al., SC 2011) and Box-Muller, in operations that round alike everywhere: the same bits
    on every processor and in the CUDA kernel. `seed` has 64 bits; `frame`, `step` and `purpose` 32 bits each.
    """
    out = np.empty(shape, np.float32)
    if not out.size:
        return out
    flat = out.reshape(1, -1)
    sampler_step(
        "start",
        flat,
        sigma=1.0,
        seeds=np.array([seed % 2**64], np.uint64),
        frames=np.array([frame % 2**32], np.uint32),
        step=step,
        purpose=purpose,
    )
    return out


def sampler_step(
    kind: Kind,
    x: NDArray[np.float32],
    velocity: NDArray[np.float32] | None = None,
    *,
    dt: float = 0.0,
    sigma: float = 0.0,
    guidance: float = 1.0,
    free: NDArray[np.float32] | None = None,
    kept: NDArray[np.float32] | None = None,
    seeds: NDArray[np.uint64] | None = None,
    frames: NDArray[np.uint32] | None = None,
    mask: NDArray[np.uint8] | None = None,
    step: int = 0,
    purpose: int = 0,
) -> None:
    """One update of `x` (slots, ...) float32 in place, a slot a row.

    With v = free + guidance (velocity - free) where `free` is given, and z standard normal:
    start x = sigma z; euler x += dt v [+ sigma z]; predictor kept = x + dt/2 v, x += dt v (Heun's first half);
    corrector x = kept + dt/2 v [+ sigma z] (its second half, velocity at the predicted x).
    velocity, free and kept have x's shape. seeds (slots,) uint64, frames (slots,) uint32: needed where sigma is not 0.
    mask (slots,) uint8: slots that are 0 are left alone. ValueError for what does not fit.
    """
    if kind not in KINDS:
        raise ValueError(f"kind: one of {', '.join(KINDS)}; got {kind!r}")
    if not isinstance(x, np.ndarray) or x.ndim < 1 or not x.size:
        raise ValueError("x: expected an array (slots, ...) that is not empty")
    held: dict[str, Any] = {"x": x, "kept": kept, "velocity": velocity, "free": free}
    for name, array in held.items():
        if array is not None:
            held[name] = check(name, array, np.float32, x.shape)
            if name in ("x", "kept"):
                check_writable(name, array)
    slots = len(x)
    for name, array, dtype in (
        ("seeds", seeds, np.uint64),
        ("frames", frames, np.uint32),
        ("mask", mask, np.uint8),
    ):
        held[name] = None if array is None else check(name, array, dtype, (slots,))
    call = SamplerStep(
        **{name: None if a is None else a.ctypes.data for name, a in held.items()},
        dt=dt,
        sigma=sigma,
        guidance=guidance,
        kind=KINDS.index(kind),
        step=step % 2**32,
        purpose=purpose % 2**32,
    )
    if lib.vv_sampler_step(ctypes.byref(call), slots, x.size // slots):
        raise ValueError(f"{kind}: velocity, kept (Heun) or seeds and frames (sigma {sigma}) are missing")
