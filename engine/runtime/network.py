"""Networks from ONNX files on the CPU, by OpenVINO.

A file is compiled once a process and thread count; every `load` gives its own request, so two sessions
never share buffers.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from visavis.engine.errors import VisavisError

Array = npt.NDArray[Any]
Shape = tuple[int, ...]


class NetworkError(VisavisError):
    """A network file that is missing or cannot be read."""

    code = "network"


class Network(Protocol):
    """A network: named arrays in, named arrays out."""

    inputs: dict[str, Shape]
    """Name and shape of each input; -1 where the length is free."""
    outputs: dict[str, Shape]

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        """Run once. The arrays returned are the caller's own."""
        ...


_lock = threading.Lock()


@lru_cache(maxsize=32)
def _compile(
    path: str, modified: int, threads: int, batch: int | None, fast: bool
) -> tuple[Any, dict[str, Shape], dict[str, Shape]]:
    import openvino

    core = openvino.Core()
    options = {
        "INFERENCE_NUM_THREADS": threads,
        "PERFORMANCE_HINT": "LATENCY",
        # Without such units bf16 is emulated, and slower than f32.
        "INFERENCE_PRECISION_HINT": "bf16" if fast and has_bf16() else "f32",
    }
    model = core.read_model(path)
    if batch is not None:
        model.reshape({
            port.get_any_name(): [batch if d.is_dynamic else d.get_length() for d in port.get_partial_shape()]
            for port in model.inputs
        })  # fmt: skip
    # Read before compiling, which adds inner names to the ports.
    shapes = _shapes(model.inputs), _shapes(model.outputs)
    return core.compile_model(model, "CPU", options), *shapes


def _shapes(ports: list[Any]) -> dict[str, Shape]:
    return {
        port.get_any_name(): tuple(-1 if d.is_dynamic else d.get_length() for d in port.get_partial_shape())
        for port in ports
    }


class OpenVinoNetwork:
    """A request of a compiled model. Not for two threads at once."""

    def __init__(self, compiled: Any, inputs: dict[str, Shape], outputs: dict[str, Shape]) -> None:
        self.inputs, self.outputs = dict(inputs), dict(outputs)
        self._request = compiled.create_infer_request()

    def __call__(self, inputs: Mapping[str, Array]) -> dict[str, Array]:
        self._request.infer(dict(inputs), share_inputs=True)
        return {
            name: np.array(self._request.get_output_tensor(k).data) for k, name in enumerate(self.outputs)
        }


@lru_cache(maxsize=1)
def has_bf16() -> bool:
    """Does this CPU multiply bf16 in hardware (AMX or AVX-512 BF16)?"""
    try:
        flags = Path("/proc/cpuinfo").read_text()
    except OSError:
        return False
    return "amx_bf16" in flags or "avx512_bf16" in flags


def load(path: str | Path, threads: int = 1, *, batch: int | None = None, fast: bool = False) -> Network:
    """Make the network of an ONNX file ready to run on `threads` CPU threads.

    `batch` fixes every free length to one number, which runs faster (the video network's step: 9 against 15 ms). `fast` allows bf16 where the
    CPU is quicker at it.

    Raises NetworkError when the file is missing or is no network.
    """
    path = Path(path)
    if not path.is_file():
        raise NetworkError(
            f"no network file at {path}: the installation is incomplete, or train and export it first"
        )
    with _lock:
        try:
            compiled, inputs, outputs = _compile(str(path), path.stat().st_mtime_ns, threads, batch, fast)
        except Exception as error:
            reason = str(error).strip().splitlines()[-1][:200]
            raise NetworkError(f"{path} cannot be run as a network: {reason}") from None
    return OpenVinoNetwork(compiled, inputs, outputs)
