"""Small networks as ONNX files, for tests of what builds and runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper


def _save(path: Path, nodes: list, inputs: dict, outputs: dict, weights: dict[str, np.ndarray]) -> Path:
    def infos(shapes: dict) -> list:
        return [helper.make_tensor_value_info(n, TensorProto.FLOAT, s) for n, s in shapes.items()]

    tensors = [numpy_helper.from_array(a, n) for n, a in weights.items()]
    graph = helper.make_graph(nodes, path.stem, infos(inputs), infos(outputs), tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def transformer(path: Path, *, width: int = 128, heads: int = 4, tokens: int = 64, layers: int = 2) -> Path:
    """Layers of norm, attention and residual on `x` (batch, tokens, width)."""
    rng = np.random.default_rng(0)
    size = width // heads
    weights: dict[str, np.ndarray] = {
        "split": np.array([0, tokens, heads, size]),
        "join": np.array([0, tokens, width]),
        "scale": np.float32(size**-0.5) * np.ones(1, np.float32),
    }
    nodes = []
    x = "x"
    for k in range(layers):
        p = f"layer{k}_"
        for name, mean in (("gain", 1.0), ("bias", 0.0)):
            weights[p + name] = (mean + 0.1 * rng.standard_normal(width)).astype(np.float32)
        for name in "qkvo":
            weights[p + name] = (rng.standard_normal((width, width)) * width**-0.5).astype(np.float32)
        nodes.append(
            helper.make_node("LayerNormalization", [x, p + "gain", p + "bias"], [p + "norm"], axis=-1)
        )
        for name in "qkv":
            nodes += [
                helper.make_node("MatMul", [p + "norm", p + name], [p + name + "1"]),
                helper.make_node("Reshape", [p + name + "1", "split"], [p + name + "2"]),
                helper.make_node(
                    "Transpose",
                    [p + name + "2"],
                    [p + name + "3"],
                    perm=[0, 2, 3, 1] if name == "k" else [0, 2, 1, 3],
                ),
            ]
        nodes += [
            helper.make_node("MatMul", [p + "q3", p + "k3"], [p + "score"]),
            helper.make_node("Mul", [p + "score", "scale"], [p + "scaled"]),
            helper.make_node("Softmax", [p + "scaled"], [p + "share"], axis=-1),
            helper.make_node("MatMul", [p + "share", p + "v3"], [p + "heads"]),
            helper.make_node("Transpose", [p + "heads"], [p + "turned"], perm=[0, 2, 1, 3]),
            helper.make_node("Reshape", [p + "turned", "join"], [p + "joined"]),
            helper.make_node("MatMul", [p + "joined", p + "o"], [p + "out"]),
            helper.make_node("Add", [x, p + "out"], [p + "x"]),
        ]
        x = p + "x"
    nodes.append(helper.make_node("Identity", [x], ["y"]))
    shape = ["batch", tokens, width]
    return _save(path, nodes, {"x": shape}, {"y": shape}, weights)


def recurrent(path: Path, *, width: int = 8) -> Path:
    """angle = sin(w memory); memory' = 0.5 memory + x; y = memory' + angle: state in and out, and an angle that stays float32."""
    weights = {
        "half": np.full(1, 0.5, np.float32),
        "w": np.linspace(1, 2, width, dtype=np.float32),
    }
    nodes = [
        helper.make_node("Mul", ["memory", "w"], ["turned"]),
        helper.make_node("Sin", ["turned"], ["angle"]),
        helper.make_node("Mul", ["memory", "half"], ["kept"]),
        helper.make_node("Add", ["kept", "x"], ["next_memory"]),
        helper.make_node("Add", ["next_memory", "angle"], ["y"]),
    ]
    shape = ["batch", width]
    inputs = {"x": shape, "memory": shape}
    return _save(path, nodes, inputs, {"y": shape, "next_memory": shape}, weights)


def pictures(path: Path) -> Path:
    """Bytes in, bytes out: out = 255 - picture turned to planes and back; label = 1 where the first channel is 7."""
    byte, single, whole = TensorProto.UINT8, TensorProto.FLOAT, TensorProto.INT32
    weights = {
        "white": np.ones(1, np.float32), "scale": np.full(1, 1 / 255, np.float32), "back": np.full(1, 255, np.float32),
        "half": np.full(1, 0.5, np.float32), "seven": np.array([7], np.int32), "first": np.array([0]),
    }  # fmt: skip
    nodes = [
        helper.make_node("Transpose", ["picture"], ["planes"], perm=[0, 3, 1, 2]),
        helper.make_node("Cast", ["planes"], ["floats"], to=single),
        helper.make_node("Mul", ["floats", "scale"], ["unit"]),
        helper.make_node("Sub", ["white", "unit"], ["turned"]),
        helper.make_node("Mul", ["turned", "back"], ["large"]),
        helper.make_node("Add", ["large", "half"], ["raised"]),
        helper.make_node("Cast", ["raised"], ["narrow"], to=byte),
        helper.make_node("Transpose", ["narrow"], ["out"], perm=[0, 2, 3, 1]),
        helper.make_node("Gather", ["planes", "first"], ["channel"], axis=1),
        helper.make_node("Cast", ["channel"], ["number"], to=whole),
        helper.make_node("Equal", ["number", "seven"], ["same"]),
        helper.make_node("Cast", ["same"], ["label"], to=single),
    ]

    def info(name: str, kind: int, *shape: object) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, ["batch", *shape])

    outputs = [info("out", byte, 4, 4, 3), info("label", single, 1, 4, 4)]
    tensors = [numpy_helper.from_array(a, n) for n, a in weights.items()]
    graph = helper.make_graph(nodes, "pictures", [info("picture", byte, 4, 4, 3)], outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    onnx.checker.check_model(model)
    path.write_bytes(model.SerializeToString())
    return path


def unknown(path: Path) -> Path:
    """A network with an operation that nobody knows."""
    node = helper.make_node("Frobnicate", ["x"], ["y"], domain="visavis.test")
    shape = ["batch", 4]
    graph = helper.make_graph(
        [node],
        "unknown",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, shape)],
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid("visavis.test", 1)]
    path.write_bytes(helper.make_model(graph, opset_imports=opsets, ir_version=10).SerializeToString())
    return path
