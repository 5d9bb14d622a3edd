"""What the tests of the CUDA sources share."""

from __future__ import annotations

import ctypes

import pytest
from cuda_build import build


@pytest.fixture(scope="session")
def cuda(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    """All CUDA sources in one library that runs on the CPU."""
    return ctypes.CDLL(str(build(tmp_path_factory.mktemp("cuda"))))
