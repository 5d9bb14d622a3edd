"""Registers, shared memory and spills of every CUDA kernel, as nvcc reports them.

    python tests/kernels/cuda_resources.py       writes kernels/cuda/resources.txt

The test compares what the same release of nvcc says now with that table.
"""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from cuda_build import CUDA

TABLE = CUDA / "resources.txt"
ARCHITECTURES = (80, 86, 89, 90, 100, 120)
COLUMNS = ("registers", "shared", "stack", "spill_stores", "spill_loads")
Usage = dict[str, int]


def release(nvcc: str) -> str:
    """As "13.0"."""
    text = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"release (\d+\.\d+)", text)
    return found[1] if found else "unknown"


def kernel_names(source: Path) -> list[str]:
    return re.findall(r"__global__ void (?:__launch_bounds__\(\w+\) )?(\w+)\(", source.read_text())


def parse(log: str, kernels: list[str]) -> dict[tuple[int, str], Usage]:
    """(Architecture, kernel) -> usage, from what ptxas prints with --resource-usage."""
    out: dict[tuple[int, str], Usage] = {}
    for block in re.split(r"Compiling entry function '", log)[1:]:
        mangled = block.split("'", 1)[0]
        target = re.search(r"for 'sm_(\d+)'", block)
        assert target is not None, block
        # The longest name that occurs: one may be the beginning of another.
        name = max((k for k in kernels if f"{len(k)}{k}" in mangled), key=len)
        flag = re.search(rf"{name}ILb([01])E", mangled)
        if flag:
            name += "<true>" if flag[1] == "1" else "<false>"

        def number(pattern: str, block: str = block) -> int:
            found = re.search(pattern, block)
            return int(found[1]) if found else 0

        out[int(target[1]), name] = {
            "registers": number(r"Used (\d+) registers"),
            "shared": number(r"(\d+) bytes smem"),
            "stack": number(r"(\d+) bytes stack frame"),
            "spill_stores": number(r"(\d+) bytes spill stores"),
            "spill_loads": number(r"(\d+) bytes spill loads"),
        }
    return out


def measure(
    nvcc: str, source: Path, architectures: tuple[int, ...] = ARCHITECTURES
) -> dict[tuple[int, str], Usage]:
    """Builds for all targets in one call, with warnings as errors, as the product's build does."""
    with tempfile.TemporaryDirectory() as folder:
        command = [nvcc, "-O3", "-std=c++17", "-fmad=false", "-Werror", "all-warnings", "--resource-usage"]
        for architecture in architectures:
            command += ["-gencode", f"arch=compute_{architecture},code=sm_{architecture}"]
        command += ["-t", "2", "-c", "-o", f"{folder}/out.o", str(source)]
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        raise RuntimeError(f"nvcc failed on {source.name} for {architectures}:\n{result.stderr}")
    return parse(result.stdout + result.stderr, kernel_names(source))


def read_table() -> tuple[str, dict[tuple[str, int, str], Usage]]:
    """The release of nvcc, and (source, architecture, kernel) -> usage."""
    lines = TABLE.read_text().splitlines()
    found = re.search(r"nvcc (\d+\.\d+)", lines[0])
    rows = {}
    for line in lines:
        if not line or line.startswith("#") or line.startswith("source"):
            continue
        source, architecture, kernel, *numbers = line.split()
        rows[source, int(architecture), kernel] = dict(zip(COLUMNS, map(int, numbers), strict=True))
    return (found[1] if found else ""), rows


def main() -> int:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        print("nvcc is not here")
        return 1
    header = f"{'source':17}{'sm':>4}  {'kernel':24}" + "".join(f"{c:>14}" for c in COLUMNS)
    lines = [
        f"# nvcc {release(nvcc)}: registers a thread; bytes of the rest. python tests/kernels/cuda_resources.py"
    ]
    lines.append(header)
    for source in sorted(CUDA.glob("*.cu")):
        for (architecture, kernel), usage in sorted(measure(nvcc, source).items()):
            numbers = "".join(f"{usage[c]:>14}" for c in COLUMNS)
            lines.append(f"{source.name:17}{architecture:>4}  {kernel:24}{numbers}")
    TABLE.write_text("\n".join(lines) + "\n")
    print(TABLE.read_text(), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
