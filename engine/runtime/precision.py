"""A float32 ONNX network in bfloat16 or float16, as strongly typed engine builders want it.

Weights and activations change their type; inputs and outputs stay float32, so that every runtime feeds the same
arrays. Operations that lose too much (angles of embeddings) or that ask for float32 stay as they are, between casts.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

if TYPE_CHECKING:
    import onnx

Precision = Literal["fp32", "bf16", "fp16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16", "fp16")
CONVERSION = 2
"""Changes when the same file would give another network; part of what a built engine is bound to."""

KEPT = frozenset(
    {"Sin", "Cos", "Range", "CumSum", "RandomNormalLike", "Resize", "QuantizeLinear", "DequantizeLinear"}
)
"""Operations that stay in float32."""
_PASSIVE = frozenset({"Shape", "Size"})
"""Operations that take any type and give integers."""


def _unambiguous(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network where no weight has the name of what a node gives: some readers allow it, TensorRT does not."""
    graph = model.graph
    weights = {t.name: t for t in graph.initializer}
    taken = weights.keys() & {name for node in graph.node for name in node.output}
    for name in taken:
        weights[name].name = f"{name}_weight"
    for node in graph.node:
        # Until the node that gives it, the name is the weight's.
        node.input[:] = [f"{name}_weight" if name in taken else name for name in node.input]
        taken = taken - set(node.output)
    return model


def _without_bytes(model: onnx.ModelProto) -> onnx.ModelProto:
    """The same network with bytes (uint8) at its inputs and outputs alone, and float32 between: TensorRT knows no other."""
    import onnx
    from onnx import helper, shape_inference

    byte, single, whole = onnx.TensorProto.UINT8, onnx.TensorProto.FLOAT, onnx.TensorProto.INT32
    graph = model.graph
    typed = shape_inference.infer_shapes(model).graph
    bytes_ = {
        v.name
        for v in (*typed.input, *typed.output, *typed.value_info)
        if v.type.tensor_type.elem_type == byte
    }
    if not bytes_:
        return model
    nodes = [
        helper.make_node("Cast", [v.name], [f"{v.name}_wide"], f"wide_{v.name}", to=single)
        for v in graph.input
        if v.name in bytes_
    ]
    wide = {v.name: f"{v.name}_wide" for v in (*graph.input, *graph.output) if v.name in bytes_}
    for node in graph.node:
        node.input[:] = [wide.get(name, name) for name in node.input]
        node.output[:] = [wide.get(name, name) for name in node.output]
        to = next((a for a in node.attribute if a.name == "to"), None)
        if node.op_type == "Cast" and to is not None and to.i == byte:
            # Towards zero, as the cast to bytes was.
            name = f"{node.output[0]}_whole"
            nodes.append(helper.make_node("Cast", list(node.input), [name], f"whole_{node.name}", to=whole))
            node.input[:] = [name]
            to.i = single
        nodes.append(node)
    nodes += [
        helper.make_node("Cast", [wide[v.name]], [v.name], f"narrow_{v.name}", to=byte)
        for v in graph.output
        if v.name in bytes_
    ]
    for tensor in [*graph.initializer, *(a.t for node in nodes for a in node.attribute)]:
        if tensor.data_type == byte:
            values = onnx.numpy_helper.to_array(tensor).astype(np.float32)
            tensor.CopyFrom(onnx.numpy_helper.from_array(values, tensor.name))
    kept = [onnx.NodeProto.FromString(node.SerializeToString()) for node in nodes]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(kept)
    return model


class _Converter:
    """One graph on its way; `floats` are the names that held float32."""

    def __init__(self, model: onnx.ModelProto, precision: Precision) -> None:
        import onnx
        from onnx import shape_inference

        self.onnx = onnx
        self.type = onnx.TensorProto.BFLOAT16 if precision == "bf16" else onnx.TensorProto.FLOAT16
        self.model = shape_inference.infer_shapes(model)
        graph = self.graph = self.model.graph
        typed = {
            v.name: v.type.tensor_type.elem_type for v in (*graph.input, *graph.output, *graph.value_info)
        }
        typed |= {t.name: t.data_type for t in graph.initializer}
        self.floats = {name for name, kind in typed.items() if kind == onnx.TensorProto.FLOAT}
        self.bytes = {name for name, kind in typed.items() if kind == onnx.TensorProto.UINT8}
        self.nodes: list[onnx.NodeProto] = []
        self.casts: dict[tuple[str, int], str] = {}
        self.weights = {t.name: t for t in graph.initializer}

    def half(self, tensor: onnx.TensorProto) -> onnx.TensorProto:
        values = self.onnx.numpy_helper.to_array(tensor)
        if self.type == self.onnx.TensorProto.FLOAT16:
            limit = np.finfo(np.float16).max
            return self.onnx.numpy_helper.from_array(
                np.clip(values, -limit, limit).astype(np.float16), tensor.name
            )
        return self.onnx.helper.make_tensor(
            tensor.name, self.type, tensor.dims, _to_bfloat16(values).tobytes(), raw=True
        )

    def cast(self, name: str, to: int) -> str:
        """The name of `name` cast to a type; one cast for all who ask."""
        key = (name, to)
        if key not in self.casts:
            self.casts[key] = f"{name}_as_{self.onnx.TensorProto.DataType.Name(to).lower()}"
            self.nodes.append(
                self.onnx.helper.make_node(
                    "Cast", [name], [self.casts[key]], f"cast_{self.casts[key]}", to=to
                )
            )
        return self.casts[key]

    def run(self) -> onnx.ModelProto:
        graph, onnx = self.graph, self.onnx
        inputs = {v.name for v in graph.input} & self.floats
        outputs = {v.name for v in graph.output} & self.floats
        kept_weights: set[str] = set()
        single = onnx.TensorProto.FLOAT
        # What holds the new type: everything that was float32, but inputs and what the kept operations give.
        renamed: dict[str, str] = {}
        for node in graph.node:
            if any(a.type in (onnx.AttributeProto.GRAPH, onnx.AttributeProto.GRAPHS) for a in node.attribute):
                raise ValueError(
                    f"{node.op_type} {node.name} holds a graph of its own, which cannot be converted"
                )
            # Bytes become halves by way of float32, and back.
            kept = node.op_type in KEPT or bool(self.bytes & {*node.input, *node.output})
            for i, name in enumerate(node.input):
                if name not in self.floats or node.op_type in _PASSIVE:
                    node.input[i] = renamed.get(name, name)
                elif name in self.weights:
                    if kept:
                        kept_weights.add(name)
                elif kept:
                    node.input[i] = name if name in inputs else self.cast(renamed.get(name, name), single)
                else:
                    node.input[i] = self.cast(name, self.type) if name in inputs else renamed.get(name, name)
            if not kept:
                self._constants(node)
            self.nodes.append(node)
            for i, name in enumerate(node.output):
                if name not in self.floats:
                    continue
                if kept:
                    node.output[i] = f"{name}_single"
                    cast = onnx.helper.make_node("Cast", [node.output[i]], [f"{name}_typed"], to=self.type)
                    self.nodes.append(cast)
                    renamed[name] = f"{name}_typed"
                elif name in outputs:
                    node.output[i] = renamed[name] = f"{name}_typed"
        for name in sorted(outputs):
            source = renamed.get(name, name)
            if name in inputs:
                raise ValueError(f"{name} is an input and an output at once")
            self.nodes.append(onnx.helper.make_node("Cast", [source], [name], f"output_{name}", to=single))
        del graph.node[:], graph.value_info[:]
        graph.node.extend(self.nodes)
        tensors = []
        for tensor in self.weights.values():
            if tensor.data_type != single:
                tensors.append(tensor)
                continue
            tensors.append(self.half(tensor))
            if tensor.name in kept_weights:
                copy = onnx.TensorProto()
                copy.CopyFrom(tensor)
                copy.name = f"{tensor.name}_single"
                tensors.append(copy)
        for node in graph.node:
            if node.op_type in KEPT:
                for i, name in enumerate(node.input):
                    if name in kept_weights:
                        node.input[i] = f"{name}_single"
        del graph.initializer[:]
        graph.initializer.extend(tensors)
        return self.model

    def _constants(self, node: onnx.NodeProto) -> None:
        """Constants in attributes, and casts to float32, take the new type."""
        for attribute in node.attribute:
            if (
                attribute.type == self.onnx.AttributeProto.TENSOR
                and attribute.t.data_type == self.onnx.TensorProto.FLOAT
            ):
                attribute.t.CopyFrom(self.half(attribute.t))
            if (
                node.op_type == "Cast"
                and attribute.name == "to"
                and attribute.i == self.onnx.TensorProto.FLOAT
            ):
                attribute.i = self.type


def _to_bfloat16(values: np.ndarray) -> np.ndarray:
    """The upper halves of float32 values, rounded to the nearest, ties to even: uint16."""
    bits = np.ascontiguousarray(values, np.float32).view(np.uint32).astype(np.uint64)
    rounded = (bits + 0x7FFF + (bits >> 16 & 1)) >> 16
    return np.where(np.isnan(values), np.uint64(0x7FC0), rounded).astype(np.uint16)


def converted(data: bytes, precision: Precision) -> bytes:
    """An ONNX file's bytes with the network in `precision`; inputs and outputs (float32, uint8) stay what they are.

    Raises ValueError for what cannot be converted, ImportError without the `onnx` package.
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision: one of {', '.join(PRECISIONS)}; got {precision!r}")
    import onnx

    result: Any = _without_bytes(_unambiguous(onnx.load_from_string(data)))
    if precision != "fp32":
        result = _Converter(result, precision).run()
    return bytes(result.SerializeToString())
