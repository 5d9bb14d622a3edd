"""What the GPU runtime needs of a device: arrays, copies, kernels, engines, graphs; one stream a worker."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from visavis.engine.errors import VisavisError

Host = npt.NDArray[Any]
Shape = tuple[int, ...]


class DeviceError(VisavisError):
    """A device that is not there, or a call that it refused."""

    code = "device"


class WorkerFullError(VisavisError):
    """More sessions than a worker has slots."""

    code = "worker_full"


class Engine(Protocol):
    """A network bound to one batch size. It runs on the device's stream, in and out of arrays by name."""

    inputs: dict[str, tuple[Shape, np.dtype]]
    """Shape and type of each input at this batch size."""
    outputs: dict[str, tuple[Shape, np.dtype]]
    axes: dict[str, int]
    """Which axis of each tensor is the batch."""

    def __call__(self, tensors: Mapping[str, Any]) -> None:
        """Run once on device arrays; all inputs and outputs by name."""
        ...


class Device(Protocol):
    """A device and its one stream. All copies and launches are queued there in order."""

    name: str
    library: ctypes.CDLL
    """The kernels' C ABI (kernels/cuda)."""
    stream: int | None
    """As the kernels take it."""

    def zeros(self, shape: Shape, dtype: npt.DTypeLike) -> Any:
        """A device array, 16-byte aligned, cleared."""
        ...

    def pointer(self, array: Any) -> int:
        """Address of a contiguous device array."""
        ...

    def pinned(self, shape: Shape, dtype: npt.DTypeLike) -> Host:
        """Host memory that the device can copy from and to by itself, cleared."""
        ...

    def upload(self, to: Any, source: Host) -> None:
        """Queue a copy to the device; `source` is contiguous and must not change before it is done."""
        ...

    def download(self, to: Host, source: Any) -> None:
        """Queue a copy from the device."""
        ...

    def synchronize(self) -> None:
        """Wait for everything queued."""
        ...

    def engine(self, onnx: Path, batch: int) -> Engine:
        """The network of an ONNX file for one batch size. Raises DeviceError where it cannot be had."""
        ...

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        """`work` as something to call again and again: on a GPU a graph, whose copies and launches are those that
        `work` queued when it ran once. Arrays that it uses must stay where they are."""
        ...


def put(device: Device, array: Host) -> Any:
    """A copy of `array` on the device, done when this returns."""
    array = np.ascontiguousarray(array)
    out = device.zeros(array.shape, array.dtype)
    if array.size:
        device.upload(out, array)
        device.synchronize()
    return out


def put_structures(device: Device, table: Any) -> Any:
    """A ctypes array of structures on the device."""
    return put(device, np.frombuffer(bytes(table), np.uint8))


def call(device: Device, name: str, *arguments: Any) -> None:
    """Launch a kernel of the C ABI on the device's stream. Raises DeviceError with the code that it gave."""
    function = getattr(device.library, name, None)
    if function is None:
        raise DeviceError(f"{name} is not in the kernels' library of {device.name}: build it again")
    code = function(*arguments, ctypes.c_void_p(device.stream))
    if code:
        raise DeviceError(f"{name} on {device.name} failed with CUDA error {code}")


def address(device: Device, array: Any) -> ctypes.c_void_p:
    """A device array, or None, as a pointer argument."""
    return ctypes.c_void_p(None if array is None else device.pointer(array))
