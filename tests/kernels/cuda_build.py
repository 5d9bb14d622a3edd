"""Builds the CUDA sources for the CPU (kernels/cuda/cuda_on_cpu.h)."""

from __future__ import annotations

import os
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

CUDA = Path(__file__).resolve().parents[2] / "kernels" / "cuda"
SEEDS = (0, 1, 2)
# Alignment is checked, for the 16-byte accesses; the checks left out repeat what the address sanitizer sees.
SANITIZERS = [
    "-fsanitize=address,undefined",
    "-fno-sanitize=null,object-size,vptr",
    "-fno-sanitize-recover=undefined",
]


def build(
    folder: Path, source: str = "", replace: tuple[str, str] | None = None, sanitize: bool | None = None
) -> Path:
    """Compiles the .cu files (or one, with a text replaced) into a library in `folder`; skips without g++."""
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    if sanitize is None:
        sanitize = bool(os.environ.get("VISAVIS_LIBRARY_DIR"))
    files = [CUDA / source] if source else sorted(CUDA.glob("*.cu"))
    if replace is not None:
        text = files[0].read_text()
        assert replace[0] in text, f"{source} no longer holds {replace[0]!r}"
        files = [folder / source]
        files[0].write_text(text.replace(*replace, 1))
    out = folder / "libcuda_on_cpu.so"
    options = SANITIZERS if sanitize else []
    command = [compiler, *options, "-x", "c++", "-std=c++17", "-O1", "-g1", "-ffp-contract=off", "-fPIC"]
    command += ["-Wno-unknown-pragmas", "-I", str(CUDA), "-c"]

    def compile(file: Path) -> Path:
        target = folder / f"{file.stem}.o"
        subprocess.run([*command, "-o", str(target), str(file)], check=True)
        return target

    with ThreadPoolExecutor(2) as pool:
        objects = [str(o) for o in pool.map(compile, files)]
    subprocess.run([compiler, *options, "-shared", "-o", str(out), *objects], check=True)
    return out
