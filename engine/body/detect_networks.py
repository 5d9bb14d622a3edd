"""Loading MediaPipe's networks with OpenVINO.

The TFLite files in `engine/weights/mediapipe` (see the README there) are read as they are. Networks run in
float32: on processors with AMX OpenVINO would otherwise choose bfloat16, whose 8 bits of mantissa move
landmarks.
"""

from __future__ import annotations

import functools
import threading
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import openvino as ov

FloatArray = npt.NDArray[np.floating[Any]]

WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "mediapipe"


class Network:
    """A compiled network with one input; calls from several threads take turns."""

    def __init__(self, model: ov.Model, threads: int = 1) -> None:
        config = {
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_NUM_THREADS": threads,
            "INFERENCE_PRECISION_HINT": "f32",
        }
        self._request = _core().compile_model(model, "CPU", config).create_infer_request()
        self._lock = threading.Lock()
        self.input_shape: tuple[int, ...] = tuple(model.input(0).shape)

    def __call__(self, x: FloatArray) -> list[FloatArray]:
        """Run on `x` of `input_shape`; gives the outputs in the file's order."""
        with self._lock:
            self._request.infer([np.ascontiguousarray(x, np.float32)])
            return [np.array(tensor.data) for tensor in self._request.output_tensors]


@functools.cache
def _core() -> ov.Core:
    return ov.Core()


_load_lock = threading.Lock()


@functools.cache
def _load(name: str, shape: tuple[int, ...] | None) -> Network:
    model = _core().read_model(WEIGHTS / f"{name}.tflite")
    if shape is not None:
        model.reshape(list(shape))
    return Network(model)


def load(name: str, shape: tuple[int, ...] | None = None) -> Network:
    """The network in `<name>.tflite`, compiled once a process; `shape` fixes an axis that the file leaves
    open."""
    with _load_lock:
        return _load(name, shape)
