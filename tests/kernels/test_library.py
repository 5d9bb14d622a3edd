"""Finding the native library, and running it under the sanitizers."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from visavis import kernels
from visavis.kernels import library

ROOT = Path(__file__).resolve().parents[2]


def test_a_missing_library_says_how_to_build_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(library, "find_library", lambda stem: None)
    with pytest.raises(ImportError, match=r"was not built.*pip install \."):
        library._load()


def test_a_library_of_another_version_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    source = tmp_path / "old.c"
    source.write_text("int vv_abi_version(void) { return -7; }\n")
    old = tmp_path / "libold.so"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", str(old), str(source)], check=True)
    monkeypatch.setattr(library, "find_library", lambda stem: old)
    with pytest.raises(ImportError, match=r"another version \(-7"):
        library._load()


def test_the_baseline_is_always_there() -> None:
    have = kernels.available_isas()
    assert have[-1] == "base" and kernels.isa() == have[0]


def test_the_environment_chooses_the_instruction_set() -> None:
    command = [sys.executable, "-c", "from visavis import kernels; print(kernels.isa())"]
    result = subprocess.run(
        command, env={**os.environ, "VISAVIS_ISA": "base"}, capture_output=True, text=True, check=True
    )
    assert result.stdout.strip() == "base"


@pytest.mark.timeout(600)
def test_the_kernels_are_clean_under_the_sanitizers(tmp_path: Path) -> None:
    """Builds the library with AddressSanitizer and UndefinedBehaviorSanitizer and runs the other kernel tests on it."""
    compiler, cmake, ninja = (shutil.which(name) for name in ("g++", "cmake", "ninja"))
    if compiler is None or cmake is None or ninja is None:
        pytest.skip("needs g++, cmake and ninja")
    if os.environ.get("VISAVIS_LIBRARY_DIR"):
        pytest.skip("already running on another library")
    options = ["-DVISAVIS_SANITIZE=ON", "-DVISAVIS_CUDA=OFF", f"-DCMAKE_CXX_COMPILER={compiler}"]
    subprocess.run(
        [cmake, "-S", ROOT, "-B", tmp_path, "-G", "Ninja", *options], check=True, capture_output=True
    )
    subprocess.run([cmake, "--build", tmp_path, "-j", "2"], check=True, capture_output=True)
    runtime = [
        subprocess.run(
            [compiler, f"-print-file-name=lib{n}.so"], capture_output=True, text=True
        ).stdout.strip()
        for n in ("asan", "ubsan", "stdc++")
    ]
    environment = {
        **os.environ,
        "VISAVIS_LIBRARY_DIR": str(tmp_path / "kernels"),
        "LD_PRELOAD": " ".join(runtime),
        "ASAN_OPTIONS": "detect_leaks=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "VISAVIS_TEST_EXAMPLES": "8",
        "OPENBLAS_NUM_THREADS": "1",
    }
    command = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "-x",
        "-p",
        "no:cacheprovider",
        str(Path(__file__).parent),
    ]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=ROOT)
    assert result.returncode == 0, result.stdout[-4000:] + result.stderr[-4000:]
