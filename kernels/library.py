"""Finds and loads libvisavis_cpu, and says which array is wrong when one is."""

from __future__ import annotations

import ctypes
import os
import sys
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

_ABI = 1
_P = ctypes.c_void_p
_I = ctypes.c_int
_SIGNATURES: dict[str, tuple[Any, list[Any]]] = {
    "vv_abi_version": (_I, []),
    "vv_isa": (ctypes.c_char_p, []),
    "vv_use_isa": (_I, [ctypes.c_char_p]),
    "vv_mesh_create": (_P, [_I, _I, *[_P] * 8, _I, _I, ctypes.c_float]),
    "vv_mesh_destroy": (None, [_P]),
    "vv_target_create": (_P, [_I, _I]),
    "vv_target_destroy": (None, [_P]),
    "vv_draw": (_I, [_P, _P, _P, _P, _I, _I, _P, _P, _P, _P, _P]),
    "vv_rgb_to_i420": (None, [_P, _I, _I, _P]),
    "vv_blend": (None, [_P, ctypes.c_long, _P, _P, _I, _I]),
    "vv_pose_create": (_P, [_I, _I, _I, _P, _P, _P, _I]),
    "vv_pose_destroy": (None, [_P]),
    "vv_pose_bytes": (ctypes.c_long, [_P]),
    "vv_pose": (None, [_P, _P, _P, _P, _P, _P]),
    "vv_paste_plan": (_I, [_P, _P, _P, _P, _I, _P]),
    "vv_composite": (_I, [_P, _I, _I, _P, _I, *[ctypes.c_float] * 3, _P]),
    "vv_sampler_step": (_I, [_P, _I, ctypes.c_long]),
    "vv_log_mel": (None, [_P, _P, _I, _P]),
    "vv_face_crop": (_I, [_P]),
    "vv_kv_ring": (_I, [*[_P] * 7, *[_I] * 6]),
}


def _name(stem: str) -> str:
    return {"darwin": f"lib{stem}.dylib", "win32": f"{stem}.dll"}.get(sys.platform, f"lib{stem}.so")


def find_library(stem: str) -> Path | None:
    """Path of a native library of this package, or None. `VISAVIS_LIBRARY_DIR` goes first; an editable
    install keeps the library beside the installed package, not in the source tree, so every folder of the
    package is looked into."""
    import visavis.kernels as package

    override = os.environ.get("VISAVIS_LIBRARY_DIR")
    folders = [override] if override else []
    folders += [*package.__path__, str(Path(__file__).parent)]
    folders += [str(Path(entry, "visavis", "kernels")) for entry in sys.path if entry]
    for folder in folders:
        path = Path(folder, _name(stem))
        if path.is_file():
            return path
    return None


def _load() -> ctypes.CDLL:
    path = find_library("visavis_cpu")
    if path is None:
        raise ImportError(
            f"{_name('visavis_cpu')} is not there: visavis.kernels was not built. "
            "Install the project with `pip install .` (or `-e .`) in its root; it needs a C++17 compiler."
        )
    library = ctypes.CDLL(str(path))
    try:
        library.vv_abi_version.restype = _I
        version = library.vv_abi_version()
    except AttributeError:
        version = 0
    if version != _ABI:
        raise ImportError(
            f"{path} is of another version ({version}, need {_ABI}): build it again with `pip install .`."
        )
    for name, (result, arguments) in _SIGNATURES.items():
        function = getattr(library, name, None)
        if function is None:
            raise ImportError(f"{path} has no {name}: build it again with `pip install .`.")
        function.restype = result
        function.argtypes = arguments
    return library


lib = _load()


def isa() -> str:
    """Instruction set in use: "avx512", "avx2" or "base" (SSE2 or NEON)."""
    name: bytes = lib.vv_isa()
    return name.decode()


def use_isa(name: str = "") -> None:
    """Choose the instruction set for the whole process ("" = the best). All give the same bits; for tests
    and benchmarks.

    Raises ValueError if this processor or this build has no such one.
    """
    if lib.vv_use_isa(name.encode()):
        raise ValueError(f"instruction set {name!r} is not available here; have {available_isas()}")


def available_isas() -> list[str]:
    """Instruction sets that this processor and this build have, best first."""
    now = isa()
    found = [name for name in ("avx512", "avx2", "base") if not lib.vv_use_isa(name.encode())]
    lib.vv_use_isa(now.encode())
    return found


if os.environ.get("VISAVIS_ISA"):
    use_isa(os.environ["VISAVIS_ISA"])


def check(name: str, array: Any, dtype: DTypeLike, shape: tuple[int | None, ...]) -> NDArray[Any]:
    """`array` as a C-contiguous array; ValueError unless it has `dtype` and `shape` (None = any length)."""
    if not isinstance(array, np.ndarray) or array.dtype != np.dtype(dtype):
        found = f"an array of {array.dtype}" if isinstance(array, np.ndarray) else type(array).__name__
        raise ValueError(f"{name}: expected an array of {np.dtype(dtype)}, got {found}")
    wrong = array.ndim != len(shape)
    if wrong or any(w is not None and w != h for w, h in zip(shape, array.shape, strict=True)):
        wanted = "(" + ", ".join("any" if w is None else str(w) for w in shape) + ")"
        raise ValueError(f"{name}: expected shape {wanted}, got {array.shape}")
    return np.ascontiguousarray(array)


def check_writable(name: str, array: NDArray[Any]) -> None:
    """ValueError unless `array` can be written in place as C-contiguous memory."""
    if not array.flags.c_contiguous or not array.flags.writeable:
        raise ValueError(f"{name}: must be C-contiguous and writable")
