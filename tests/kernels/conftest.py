"""The two places where the kernels' tests run them."""

from __future__ import annotations

from pathlib import Path

import pytest
from launcher import Launcher
from visavis.engine.runtime.gpu import cuda as runtime

WHY = runtime.missing()
ON_GPU = pytest.param("gpu", marks=[pytest.mark.gpu, pytest.mark.skipif(WHY is not None, reason=str(WHY))])


@pytest.fixture(scope="session", params=["cpu", ON_GPU])
def cuda(request: pytest.FixtureRequest) -> Launcher:
    """All kernels: the CUDA text on the CPU, and with `-m gpu` the product's library on the GPU."""
    if request.param == "gpu":
        return Launcher(runtime.CudaDevice())
    library: Path = request.getfixturevalue("cuda_library")
    return Launcher.on_cpu(library)
