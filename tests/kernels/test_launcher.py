"""Every kernel's comparison by name, on the CPU and with `-m gpu` on the device; and what the launcher refuses."""

from __future__ import annotations

import ctypes
import gc
from pathlib import Path

import numpy as np
import pytest
from cuda_build import CUDA
from launcher import Launcher
from mutate import CHECKS
from test_cuda_on_cpu import PoseSlot
from visavis import kernels
from visavis.engine.runtime.gpu.structures import FaceCrop, Motion


@pytest.fixture(scope="module")
def emulated(cuda_library: Path) -> Launcher:
    return Launcher.on_cpu(cuda_library)


@pytest.mark.parametrize("source", sorted(f.name for f in CUDA.glob("*.cu")))
def test_every_kernel_gives_the_cpus_numbers(cuda: Launcher, source: str) -> None:
    CHECKS[source](cuda)


def test_results_come_back_from_memory_that_is_not_the_arrays(emulated: Launcher) -> None:
    rgb = emulated.put(np.arange(96, dtype=np.uint8).reshape(1, 4, 8, 3))
    out = emulated.array((1, 6, 8))
    assert emulated.address(out) != out.ctypes.data and emulated.address(out) % 16 == 0
    assert emulated.address(out[0, 2]) == emulated.address(out) + 16
    for _ in range(2):
        assert emulated.vvc_rgb_to_yuv(emulated.pointer(rgb), emulated.pointer(out), None, 1, 8, 4, 0) == 0
        np.testing.assert_array_equal(out[0], kernels.rgb_to_i420(rgb[0]))
        rgb[:] = 255 - rgb


def test_the_hosts_memory_is_refused(emulated: Launcher) -> None:
    own, shared = np.zeros(96, np.uint8), emulated.array((96,))
    out = emulated.pointer(emulated.array((48,)))
    with pytest.raises(AssertionError, match="not the launcher's"):
        emulated.pointer(own)
    for argument in (ctypes.c_void_p(own.ctypes.data), ctypes.c_void_p(shared.ctypes.data)):
        with pytest.raises(AssertionError, match="vvc_rgb_to_yuv: argument 0 is not"):
            emulated.vvc_rgb_to_yuv(argument, None, None, 1, 8, 4, 0)
    with pytest.raises(AssertionError, match="argument 1 is not"):  # nobody holds it
        emulated.vvc_rgb_to_yuv(emulated.pointer(shared), out, None, 1, 8, 4, 0)
    with pytest.raises(AssertionError, match="argument 0"):
        emulated.vvc_pose((PoseSlot * 1)(), None, 1, 1, 1, 1)


def test_structures_are_searched_for_the_hosts_memory(emulated: Launcher) -> None:
    own = np.zeros(16, np.uint8).ctypes.data
    table = emulated.structures(PoseSlot, [PoseSlot(), PoseSlot(rest=own)])
    with pytest.raises(AssertionError, match=r"argument 0\[1\]\.rest is not"):
        emulated.vvc_pose(emulated.pointer(table), None, 2, 1, 1, 1)
    with pytest.raises(AssertionError, match=r"argument 0\.warp is not"):
        emulated.vvc_face_crop(ctypes.byref(FaceCrop(warp=own)), 1)
    with pytest.raises(AssertionError, match=r"argument 0\.index\[1\] is not"):
        emulated.vvc_motion_show(ctypes.byref(Motion(index=(None, own))), 1)


def test_device_memory_is_given_back(emulated: Launcher) -> None:
    gc.collect()
    before = len(emulated._alive())
    part = emulated.array((8, 4))[2:]
    borrowed = emulated.borrow()
    mask = borrowed.zeros((3,), np.uint8)
    assert len(emulated._alive()) == before + 1
    assert (
        emulated.vvc_states(ctypes.c_void_p(mask.ctypes.data), 0, 1, 4) == 1
    )  # known, and refused for its size
    address = mask.ctypes.data
    del part, borrowed
    gc.collect()
    assert len(emulated._alive()) == before
    with pytest.raises(AssertionError, match="argument 0"):
        emulated.vvc_states(ctypes.c_void_p(address), 0, 1, 4)
