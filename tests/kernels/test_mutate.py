"""A few of mutate.py's mutations; all of them by hand: python tests/kernels/mutate.py."""

from __future__ import annotations

import os
from pathlib import Path

import mutate
import pytest
from cuda_build import CUDA

QUICK = [
    ("log_mel.cu", "no barrier"),
    ("kv_ring.cu", "no barrier"),
    ("kv_ring.cu", "ring over the sink"),
    ("sampler_step.cu", "tail overruns"),
    ("composite.cu", "before the first pixel"),
    ("face_crop.cu", "no barrier"),
    ("motion.cu", "no barrier"),
    ("figure.cu", "no barrier"),
    ("states.cu", "carried when"),
    ("raster.cu", "warps before this one miscounted"),
]


def test_every_mutation_still_has_its_place() -> None:
    for m in mutate.mutations():
        text = (CUDA / m.source).read_text()
        assert m.before in text, f"{m.source}: {m.name}"
        assert m.before != m.after
    assert {m.source for m in mutate.mutations()} >= set(mutate.CHECKS)
    assert set(mutate.CHECKS) == {f.name for f in CUDA.glob("*.cu")}


@pytest.mark.parametrize(("source", "name"), QUICK)
def test_a_broken_kernel_is_caught(source: str, name: str, tmp_path: Path) -> None:
    if os.environ.get("VISAVIS_LIBRARY_DIR"):
        pytest.skip("once is enough")
    found = [m for m in mutate.mutations() if m.source == source and m.name.startswith(name)]
    assert found and not mutate.survives(found[0], source, tmp_path)
