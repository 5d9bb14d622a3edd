"""The real device: CuPy arrays, a stream and graphs by cuda-bindings, the kernels' library by its C ABI, TensorRT engines."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.engine.runtime import tensorrt_build
from visavis.engine.runtime.gpu.device import DeviceError, Host, Shape
from visavis.engine.runtime.precision import Precision
from visavis.engine.runtime.tensorrt_layers import BuildLog, logger
from visavis.kernels.library import find_library

CACHE = Path.home() / ".cache" / "visavis" / "engines"


def missing() -> str | None:
    """Why there is no device to use here, in one line; None where there is one."""
    try:
        from cuda.bindings import runtime as cudart
    except ImportError:
        return "the extra `gpu` is not installed: pip install 'visavis[gpu]'"
    error, count = cudart.cudaGetDeviceCount()
    if int(error):
        return f"no CUDA device: {_words(cudart, error)}"
    if not count:
        return "no CUDA device"
    if find_library("visavis_cuda") is None:
        return (
            "the kernels were built without CUDA: install with nvcc at hand and CMAKE_ARGS=-DVISAVIS_CUDA=ON"
        )
    return None


def _words(cudart: Any, error: Any) -> str:
    _, text = cudart.cudaGetErrorString(error)
    return text.decode() if isinstance(text, bytes) else str(error)


class CudaEngine:
    """A deserialised engine at one batch size, with a context of its own."""

    def __init__(self, device: CudaDevice, path: Path, batch: int) -> None:
        trt = device.trt
        self._device = device
        self._log = BuildLog()
        self._keep = logger(trt, self._log), trt.Runtime(logger(trt, self._log))
        engine = self._keep[1].deserialize_cuda_engine(path.read_bytes())
        if engine is None:
            raise DeviceError(
                f"{path} cannot be loaded: {(self._log.errors or ['no reason given'])[-1][:300]}"
            )
        self._engine, self._context = engine, engine.create_execution_context()
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        free = {name: tuple(engine.get_tensor_shape(name)) for name in names}
        if any(-1 in shape for shape in free.values()):
            if batch not in tensorrt_build.PROFILES:
                raise DeviceError(
                    f"{path.name} has no profile for {batch} sessions; there are {tensorrt_build.PROFILES}"
                )
            profile = tensorrt_build.PROFILES.index(batch)
            self._context.set_optimization_profile_async(profile, device.stream)
        elif batch != 1:
            raise DeviceError(f"{path.name} serves one session at a time: its batch axis is not free")
        self.axes = {name: shape.index(-1) if -1 in shape else 0 for name, shape in free.items()}
        inputs = [n for n in names if engine.get_tensor_mode(n) == trt.TensorIOMode.INPUT]
        for name in inputs:
            self._context.set_input_shape(name, tuple(batch if d == -1 else d for d in free[name]))

        def described(name: str) -> tuple[Shape, np.dtype]:
            return tuple(self._context.get_tensor_shape(name)), np.dtype(
                trt.nptype(engine.get_tensor_dtype(name))
            )

        self.inputs = {name: described(name) for name in inputs}
        self.outputs = {name: described(name) for name in names if name not in inputs}

    def __call__(self, tensors: Mapping[str, Any]) -> None:
        for name in (*self.inputs, *self.outputs):
            self._context.set_tensor_address(name, self._device.pointer(tensors[name]))
        if not self._context.execute_async_v3(self._device.stream):
            raise DeviceError(f"an engine failed: {(self._log.errors or ['no reason given'])[-1][:300]}")


class CudaDevice:
    """One GPU and one stream. Engines that are not in `engines` or do not match exactly are built when asked for."""

    def __init__(self, index: int = 0, *, engines: Path = CACHE, precision: Precision = "fp16") -> None:
        why = missing()
        if why is not None:
            raise DeviceError(why)
        import cupy
        from cuda.bindings import runtime as cudart

        self._cudart, self._cupy = cudart, cupy
        self._check(cudart.cudaSetDevice(index))
        properties = self._check(cudart.cudaGetDeviceProperties(index))
        self.name = properties.name.decode() if isinstance(properties.name, bytes) else str(properties.name)
        self.target = f"sm{properties.major}{properties.minor}"
        self.trt = tensorrt_build.backend(target=self.target)
        self.library = ctypes.CDLL(str(find_library("visavis_cuda")))
        self._stream = self._check(cudart.cudaStreamCreateWithFlags(cudart.cudaStreamNonBlocking))
        self.stream: int | None = int(self._stream)
        self._engines, self._precision = engines, precision

    def _check(self, result: tuple[Any, ...]) -> Any:
        error, *values = result
        if int(error):
            raise DeviceError(f"CUDA: {_words(self._cudart, error)}")
        return values[0] if len(values) == 1 else values

    def zeros(self, shape: Shape, dtype: npt.DTypeLike) -> Any:
        array = self._cupy.zeros(shape, dtype)
        self._cupy.cuda.get_current_stream().synchronize()  # cleared on CuPy's stream, used on ours
        return array

    def pointer(self, array: Any) -> int:
        if not array.flags.c_contiguous:
            raise DeviceError("a kernel was given an array that is not contiguous")
        return int(array.data.ptr)

    def pinned(self, shape: Shape, dtype: npt.DTypeLike) -> Host:
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        memory = self._cupy.cuda.alloc_pinned_memory(max(size, 1))
        array = np.frombuffer(memory, np.uint8, size).view(dtype).reshape(shape)
        array[...] = 0
        return array

    def upload(self, to: Any, source: Host) -> None:
        self._same(to, source)
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
        self._copy(self.pointer(to), source.ctypes.data, source.nbytes, kind)

    def download(self, to: Host, source: Any) -> None:
        self._same(to, source)
        kind = self._cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
        self._copy(to.ctypes.data, self.pointer(source), to.nbytes, kind)

    def _same(self, to: Any, source: Any) -> None:
        if to.shape != source.shape or to.dtype != source.dtype or not source.flags.c_contiguous:
            raise DeviceError(f"copy: {source.dtype}{source.shape} does not fit {to.dtype}{to.shape}")

    def _copy(self, to: int, source: int, size: int, kind: Any) -> None:
        if size:
            self._check(self._cudart.cudaMemcpyAsync(to, source, size, kind, self._stream))

    def synchronize(self) -> None:
        self._check(self._cudart.cudaStreamSynchronize(self._stream))

    def engine(self, onnx: Path, batch: int) -> CudaEngine:
        if not onnx.is_file():
            raise DeviceError(f"no network file at {onnx}")
        built = tensorrt_build.build(onnx, self._engines, self.target, self._precision, trt=self.trt)
        return CudaEngine(self, built.path, batch)

    def capture(self, work: Callable[[], None]) -> Callable[[], None]:
        cudart = self._cudart
        graphs: list[Any] = []

        def replay() -> None:
            if graphs:
                self._check(cudart.cudaGraphLaunch(graphs[0], self._stream))
                return
            # Once as it is: engines make their kernels ready when they first run, which a capture does not allow.
            work()
            self.synchronize()
            mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
            self._check(cudart.cudaStreamBeginCapture(self._stream, mode))
            try:
                work()
            finally:
                graph = self._check(cudart.cudaStreamEndCapture(self._stream))
            graphs.append(self._check(cudart.cudaGraphInstantiate(graph, 0)))

        return replay
