"""The half-precision weights inside an ONNX file, without the package `onnx`: where they lie, what they are, the file with others in their place.

An ONNX file is a protobuf message; of it only the tags on the way to the initialisers' raw bytes are read. What is put in has the length of what was
there, so nothing else of the file changes: its graph stays the one that was shipped.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

Half = npt.NDArray[np.float16]

_GRAPH = 7  # of a model
_INITIALIZER = 5  # of a graph
_DATA_TYPE, _RAW_DATA = 2, 9  # of a tensor
_FLOAT16 = 10


def _varint(content: memoryview, at: int) -> tuple[int, int]:
    """A number of seven bits a byte, and where the next begins."""
    value = shift = 0
    while True:
        if at >= len(content) or shift > 63:
            raise ValueError("not an ONNX file, or cut short")
        byte = content[at]
        value |= (byte & 0x7F) << shift
        at += 1
        if byte < 0x80:
            return value, at
        shift += 7


def _fields(content: memoryview, start: int, stop: int) -> Iterator[tuple[int, int, int, int]]:
    """Fields of the message in content[start:stop]: number, value (0 but for numbers), and the bounds of the field's bytes."""
    at = start
    while at < stop:
        tag, at = _varint(content, at)
        number, kind = tag >> 3, tag & 7
        value = 0
        if kind == 0:
            begin = at
            value, at = _varint(content, at)
        elif kind == 2:
            length, begin = _varint(content, at)
            at = begin + length
        elif kind in (1, 5):
            begin, at = at, at + (8 if kind == 1 else 4)
        else:
            raise ValueError(f"not an ONNX file: a field of kind {kind}")
        if at > stop:
            raise ValueError("not an ONNX file, or cut short")
        yield number, value, begin, at


def spans(content: bytes) -> list[tuple[int, int]]:
    """Bounds in bytes of each half-precision initialiser of an ONNX file, in the file's order. ValueError where it is none."""
    view = memoryview(content)
    found = []
    for number, _, start, stop in _fields(view, 0, len(view)):
        if number != _GRAPH:
            continue
        for inner, _, tensor_start, tensor_stop in _fields(view, start, stop):
            if inner != _INITIALIZER:
                continue
            kind, bounds = 0, (0, 0)
            for part, value, begin, end in _fields(view, tensor_start, tensor_stop):
                if part == _DATA_TYPE:
                    kind = value
                elif part == _RAW_DATA:
                    bounds = begin, end
            if kind == _FLOAT16 and bounds[1] > bounds[0]:
                found.append(bounds)
    return found


def weights_of(content: bytes) -> Half:
    """All half-precision weights (N,) of an ONNX file."""
    parts = [np.frombuffer(content[start:stop], "<f2") for start, stop in spans(content)]
    return np.concatenate(parts) if parts else np.zeros(0, np.float16)


def with_weights(content: bytes, weights: Half) -> bytes:
    """The file with `weights` (N,) in the place of its own. ValueError where it has another number of them."""
    places = spans(content)
    wanted = sum(stop - start for start, stop in places) // 2
    if weights.shape != (wanted,):
        raise ValueError(f"{weights.shape} weights for a network of {wanted}")
    out, at = bytearray(content), 0
    raw = np.ascontiguousarray(weights, "<f2").tobytes()
    for start, stop in places:
        out[start:stop] = raw[at : at + stop - start]
        at += stop - start
    return bytes(out)
