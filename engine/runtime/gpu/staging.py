"""What goes to the device, or comes from it, in one copy a tick."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.engine.runtime.gpu.device import Device

Layout = Mapping[str, tuple[tuple[int, ...], npt.DTypeLike]]


@dataclass
class Staging:
    """Named arrays in one piece of memory on either side; `host` and `device` hold views of it."""

    host_all: npt.NDArray[np.uint8]
    device_all: Any
    host: dict[str, npt.NDArray[Any]] = field(default_factory=dict)
    device: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, device: Device, layout: Layout) -> Staging:
        """Arrays of these shapes and types, each at a multiple of 16 bytes, cleared."""
        spans, size = {}, 0
        for name, (shape, dtype) in layout.items():
            n = int(np.prod(shape)) * np.dtype(dtype).itemsize
            spans[name] = slice(size, size + n)
            size += -(-n // 16) * 16
        out = cls(device.pinned((size,), np.uint8), device.zeros((size,), np.uint8))
        for name, (shape, dtype) in layout.items():
            out.host[name] = out.host_all[spans[name]].view(dtype).reshape(shape)
            out.device[name] = out.device_all[spans[name]].view(dtype).reshape(shape)
        return out

    def upload(self, device: Device) -> None:
        """Queue host to device."""
        device.upload(self.device_all, self.host_all)

    def download(self, device: Device) -> None:
        """Queue device to host."""
        device.download(self.host_all, self.device_all)
