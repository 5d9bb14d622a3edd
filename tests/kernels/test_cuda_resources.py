"""The table of registers, shared memory and spills says what nvcc says; without nvcc, that it is whole."""

from __future__ import annotations

import os
import shutil

import cuda_resources as resources
import pytest
from cuda_build import CUDA

# Bytes a thread (stores, loads). On sm_100 alone nvcc 13.0 keeps this one to 80 registers and spills.
SPILLS = {("raster.cu", 100, "raster_draw<true>"): (32, 48)}


def test_the_table_has_every_kernel_and_keeps_the_budget() -> None:
    _, rows = resources.read_table()
    wanted = {
        (f.name, architecture, name)
        for f in CUDA.glob("*.cu")
        for name in resources.kernel_names(f)
        for architecture in resources.ARCHITECTURES
    }
    assert {(source, sm, kernel.split("<")[0]) for source, sm, kernel in rows} == wanted
    for key, usage in rows.items():
        # Two blocks of 256 threads a multiprocessor at least, static shared memory, no spills but those known.
        assert 0 < usage["registers"] <= 128, key
        assert usage["shared"] <= 48 * 1024, key
        assert (usage["spill_stores"], usage["spill_loads"]) == SPILLS.get(key, (0, 0)), key


def test_what_ptxas_prints_is_read() -> None:
    log = (
        "ptxas info    : Compiling entry function '_ZN1_9composite_4drawILb1EEvPKh' for 'sm_89'\n"
        "    24 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads\n"
        "ptxas info    : Used 61 registers, used 1 barriers, 8736 bytes smem, 384 bytes cmem[0]\n"
    )
    assert resources.parse(log, ["draw"]) == {
        (89, "draw<true>"): {
            "registers": 61,
            "shared": 8736,
            "stack": 24,
            "spill_stores": 8,
            "spill_loads": 4,
        }
    }


@pytest.mark.parametrize("source", sorted(f.name for f in CUDA.glob("*.cu")))
def test_nvcc_says_what_the_table_says(source: str) -> None:
    nvcc = shutil.which("nvcc")
    if nvcc is None:
        pytest.skip("needs nvcc")
    if os.environ.get("VISAVIS_LIBRARY_DIR"):
        pytest.skip("once is enough")
    release, rows = resources.read_table()
    if resources.release(nvcc) != release:
        pytest.skip(f"the table is of nvcc {release}, this is {resources.release(nvcc)}")
    expected = {(sm, k): u for (s, sm, k), u in rows.items() if s == source}
    assert resources.measure(nvcc, CUDA / source) == expected
