"""Launches kernels for tests that hold numpy arrays: on the CPU's build of the CUDA text, or on a GPU.

What `array`, `put` and `structures` give is host memory with a twin on the device. A launch copies every such array that is
still alive to its twin, runs the kernel and copies them back, so a comparison reads and writes numpy alone and is the same
for both devices. The twins lie apart from the arrays on the CPU too, and every address that a launch is given must lie in
device memory: a comparison that would hand a GPU the host's memory fails on the CPU.
"""

from __future__ import annotations

import ctypes
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from visavis.engine.runtime.gpu.device import Device, Host, Shape
from visavis.engine.runtime.gpu.emulated import EmulatedDevice


class CpuDevice(EmulatedDevice):
    """The emulated device with no bytes to spare behind an array, so that the address sanitizer sees the first one outside."""

    def zeros(self, shape: Shape, dtype: DTypeLike) -> Host:
        exact = np.zeros(shape, dtype)
        return super().zeros(shape, dtype) if exact.ctypes.data % 16 else exact


@dataclass(frozen=True)
class Twin:
    """Host memory, as long as a test holds it, and the device memory that goes with it."""

    host: weakref.ref[NDArray[np.uint8]]
    device: Any
    first: int
    """Address on the host."""
    address: int
    """Address on the device."""
    size: int
    kind: Any
    """The ctypes array type of what lies there, if it is structures."""


class Borrowed:
    """The launcher's device for the product's own code; what it allocates counts as device memory while this lives."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.taken: list[tuple[int, int, Any]] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._device, name)

    def zeros(self, shape: Shape, dtype: DTypeLike) -> Any:
        array = self._device.zeros(shape, dtype)
        self.taken.append((self._device.pointer(array), max(int(array.nbytes), 1), array))
        return array

    def read(self, array: Any) -> Host:
        """A copy on the host."""
        out = np.zeros(array.shape, array.dtype)
        self._device.download(out, array)
        self._device.synchronize()
        return out


class Launcher:
    """`launcher.vvc_…(arguments without the stream)` -> the code that the kernel's launch gave."""

    def __init__(self, device: Device) -> None:
        self.device = device
        self._twins: list[Twin] = []
        self._borrowed: weakref.WeakSet[Borrowed] = weakref.WeakSet()

    @classmethod
    def on_cpu(cls, library: Path) -> Launcher:
        """With a library of `cuda_build.build`."""
        return cls(CpuDevice(ctypes.CDLL(str(library))))

    def shuffle(self, order: int) -> None:
        """On the CPU: another order of the threads. A GPU has its own."""
        if isinstance(self.device, EmulatedDevice):
            self.device.library.cuda_on_cpu_seed(order)

    def borrow(self) -> Borrowed:
        borrowed = Borrowed(self.device)
        self._borrowed.add(borrowed)
        return borrowed

    def array(self, shape: tuple[int, ...], dtype: DTypeLike = np.uint8, kind: Any = None) -> NDArray[Any]:
        """Zeros."""
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = np.zeros(size + 16, np.uint8)
        start = -raw.ctypes.data % 16
        device = self.device.zeros((max(size, 1),), np.uint8)
        address, first = self.device.pointer(device), raw.ctypes.data + start
        self._twins.append(Twin(weakref.ref(raw), device, first, address, size, kind))
        return raw[start : start + size].view(dtype).reshape(shape)

    def put(self, array: NDArray[Any]) -> NDArray[Any]:
        """A copy."""
        out = self.array(array.shape, array.dtype)
        out[...] = array
        return out

    def structures(self, kind: Any, content: int | Sequence[Any]) -> Any:
        """An array of structures: so many, all fields 0, or these."""
        n = content if isinstance(content, int) else len(content)
        table = (kind * n).from_buffer(self.array((n * ctypes.sizeof(kind),), kind=kind * n))
        for k, item in enumerate([] if isinstance(content, int) else content):
            table[k] = item
        return table

    def address(self, held: Any) -> int:
        """Where an array (or a part of one) or structures of this launcher lie on the device."""
        host = held.ctypes.data if isinstance(held, np.ndarray) else ctypes.addressof(held)
        for twin in self._alive():
            if twin.first <= host < twin.first + max(twin.size, 1):
                return twin.address + host - twin.first
        raise AssertionError("this memory is not the launcher's: take it from array, put or structures")

    def pointer(self, held: Any) -> ctypes.c_void_p:
        """The same as an argument; None is the null pointer."""
        return ctypes.c_void_p(None if held is None else self.address(held))

    def __getattr__(self, name: str) -> Callable[..., int]:
        if not name.startswith("vvc_"):
            raise AttributeError(name)
        return lambda *arguments: self._launch(name, *arguments)

    def _launch(self, name: str, *arguments: Any) -> int:
        twins = [(t, host) for t in self._alive() if (host := t.host()) is not None]
        self._check(name, arguments, [t for t, _ in twins])
        device = self.device
        parts = [(t, host[(at := t.first - host.ctypes.data) : at + t.size]) for t, host in twins if t.size]
        for twin, part in parts:
            device.upload(twin.device, part)
        code = getattr(device.library, name)(*arguments, ctypes.c_void_p(device.stream))
        for twin, part in parts:
            device.download(part, twin.device)
        device.synchronize()
        return int(code)

    def _alive(self) -> list[Twin]:
        self._twins = [t for t in self._twins if t.host() is not None]
        return self._twins

    def _check(self, name: str, arguments: tuple[Any, ...], twins: list[Twin]) -> None:
        """Every address in arguments, in structures by reference and in tables on the device lies in device memory."""
        memory = [(t.address, max(t.size, 1)) for t in twins]
        memory += [(first, size) for b in self._borrowed for first, size, _ in b.taken]

        def check(address: int | None, where: str) -> None:
            inside = not address or any(first <= address < first + size for first, size in memory)
            assert inside, f"{name}: {where} is not an address on the device"

        for k, argument in enumerate(arguments):
            if isinstance(argument, ctypes.c_void_p):
                check(argument.value, f"argument {k}")
                for twin in twins:
                    if twin.kind is not None and twin.address == argument.value:
                        for where, address in pointers(twin.kind.from_address(twin.first)):
                            check(address, f"argument {k}{where}")
            elif hasattr(argument, "_obj"):  # by reference: read by the host
                for where, address in pointers(argument._obj):
                    check(address, f"argument {k}{where}")
            else:
                assert argument is None or isinstance(argument, int | float), f"{name}: argument {k}"


def pointers(value: Any) -> Iterator[tuple[str, int | None]]:
    """Every pointer in a structure or an array of them, with its place in words."""
    if isinstance(value, ctypes.Array):
        for k, item in enumerate(value):
            if value._type_ is ctypes.c_void_p:
                yield f"[{k}]", item
            elif isinstance(item, ctypes.Array | ctypes.Structure):
                yield from ((f"[{k}]{where}", address) for where, address in pointers(item))
        return
    for name, kind, *_ in value._fields_:
        item = getattr(value, name)
        if kind is ctypes.c_void_p:
            yield f".{name}", item
        elif isinstance(item, ctypes.Array | ctypes.Structure):
            yield from ((f".{name}{where}", address) for where, address in pointers(item))
