"""The emulated device: the CUDA text compiled for the CPU and OpenVINO in place of engines.

It shows that the host logic is right where there is no GPU; it is many times slower than the CPU's own kernels.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.engine.runtime.gpu.device import DeviceError, Host, Shape


class EmulatedEngine:
    """An ONNX file at one batch size, run by OpenVINO."""

    def __init__(self, onnx: Path, batch: int) -> None:
        import openvino

        core = openvino.Core()
        try:
            model = core.read_model(onnx)
        except Exception as error:
            raise DeviceError(f"{onnx} cannot be read: {str(error).strip().splitlines()[-1][:200]}") from None
        self.axes: dict[str, int] = {}
        fixed = {}
        for port in model.inputs:
            name, shape = port.get_any_name(), port.get_partial_shape()
            free = [i for i, d in enumerate(shape) if d.is_dynamic]
            if len(free) != 1:
                raise DeviceError(
                    f"{onnx.name}: input {name} has {len(free)} free axes; the batch alone must be free"
                )
            self.axes[name] = free[0]
            fixed[name] = [batch if d.is_dynamic else d.get_length() for d in shape]
        names = [port.get_any_name() for port in model.outputs]
        for port, name in zip(model.outputs, names, strict=True):
            shape = port.get_partial_shape()
            # The batch is the first free axis; further ones are known once the inputs are.
            self.axes[name] = next((i for i, d in enumerate(shape) if d.is_dynamic), 0)
        model.reshape(fixed)
        self.inputs = {n: (tuple(fixed[n]), _type(p)) for n, p in zip(fixed, model.inputs, strict=True)}
        self.outputs = {
            n: (tuple(p.get_partial_shape().to_shape()), _type(p))
            for n, p in zip(names, model.outputs, strict=True)
        }
        options = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
        self._request = core.compile_model(model, "CPU", options).create_infer_request()

    def __call__(self, tensors: Mapping[str, Any]) -> None:
        self._request.infer({name: tensors[name] for name in self.inputs}, share_inputs=True)
        for k, name in enumerate(self.outputs):
            tensors[name][...] = self._request.get_output_tensor(k).data


def _type(port: Any) -> np.dtype:
    return np.dtype(port.get_element_type().to_dtype())


class EmulatedDevice:
    """Device memory is host memory; what is queued is done at once."""

    name = "the emulated device"
    stream: int | None = None

    def __init__(self, library: ctypes.CDLL) -> None:
        self.library = library
        self.counts = {"upload": 0, "download": 0, "graph": 0, "replay": 0}
        """How often what was asked of the device."""

    def zeros(self, shape: Shape, dtype: npt.DTypeLike) -> Host:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        raw = np.zeros(size + 16, np.uint8)
        start = -raw.ctypes.data % 16
        return raw[start : start + size].view(dtype).reshape(shape)

    def pointer(self, array: Host) -> int:
        if not array.flags.c_contiguous:
            raise DeviceError("a kernel was given an array that is not contiguous")
        return int(array.ctypes.data)

    def pinned(self, shape: Shape, dtype: npt.DTypeLike) -> Host:
        return np.zeros(shape, dtype)

    def upload(self, to: Host, source: Host) -> None:
        self._copy("upload", to, source)

    def download(self, to: Host, source: Host) -> None:
        self._copy("download", to, source)

    def _copy(self, way: str, to: Host, source: Host) -> None:
        # As strict as a copy of bytes is.
        if to.shape != source.shape or to.dtype != source.dtype or not source.flags.c_contiguous:
            raise DeviceError(f"{way}: {source.dtype}{source.shape} does not fit {to.dtype}{to.shape}")
        self.counts[way] += 1
        to[...] = source

    def synchronize(self) -> None:
        pass

    def engine(self, onnx: Path, batch: int) -> EmulatedEngine:
        if not onnx.is_file():
            raise DeviceError(f"no network file at {onnx}")
        return EmulatedEngine(onnx, batch)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        self.counts["graph"] += 1

        def replay() -> None:
            self.counts["replay"] += 1
            work()

        return replay
