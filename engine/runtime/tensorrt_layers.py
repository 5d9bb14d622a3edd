"""What a TensorRT builder made of a network: its log with detailed verbosity, read as layers."""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

_LAYER = re.compile(r"^Name: (?P<name>.*?), LayerType: (?P<kind>\w+), ", re.MULTILINE)
_PROFILE = re.compile(r"\[profile (\d+)\]|_myl(\d+)_\d+$")
_SILENT = {"signal", "wait", "shape_call"}

COMPUTE = {
    "kgen": "generated kernel of elementwise and reduction steps",
    "gemm": "matrix product",
    "correlation": "convolution",
    "runtime_fusion": "matrix product or convolution with what follows it",
    "fused_mha": "attention",
}


@dataclass(frozen=True)
class Layer:
    """One kernel of the engine. `kind` is the builder's own word, `profile` the batch profile it serves."""

    name: str
    kind: str
    profile: int

    @property
    def steps(self) -> list[str]:
        """The operations that a generated kernel joins, in the builder's short names: `AddReluMean` -> Add, Relu, Mean."""
        found = re.match(r"__my[le][ln]?_([A-Za-z0-9]+?)_myl\d+_\d+$", self.name)
        return re.findall(r"[A-Z][a-z0-9]*", found[1]) if found else []


@dataclass
class BuildLog:
    """Collects what a builder says; `errors` are what it complains of."""

    lines: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def add(self, message: str, is_error: bool) -> None:
        """One message of the builder."""
        self.lines.append(message)
        if is_error:
            self.errors.append(message)

    def layers(self) -> list[Layer]:
        """The kernels of the engine, in order, as its description lists them."""
        for text in reversed(self.lines):
            if text.startswith("Layers:") or "\nLayers:" in text or text.startswith("Name: "):
                return [_layer(m) for m in _LAYER.finditer(text) if m["kind"] not in _SILENT]
        return []


def _layer(match: re.Match[str]) -> Layer:
    found = _PROFILE.search(match["name"])
    profile = int(found[1] or found[2]) if found else 0
    return Layer(match["name"], match["kind"], profile)


def logger(trt: Any, log: BuildLog) -> Any:
    """A TensorRT logger that fills `log`."""

    class Logger(trt.ILogger):  # type: ignore[misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: Any, message: str) -> None:
            log.add(message, severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR))

    return Logger()


def has_attention(layers: list[Layer]) -> bool:
    """Whether scores, softmax and weighted sum run as one kernel, so that the score matrix never goes to memory."""
    return any("mha" in f"{layer.kind} {layer.name}".lower() for layer in layers)


def has_fused_norm(layers: list[Layer]) -> bool:
    """Whether a normalisation runs in one kernel: mean, variance and scaling joined."""
    return any({"Mean", "Sqrt"} <= set(layer.steps) and len(layer.steps) >= 4 for layer in layers)


def report(title: str, layers: list[Layer], nodes: int) -> str:
    """A text for people: how many kernels the graph became, of which kinds, and each one's name."""
    first = [layer for layer in layers if layer.profile == 0]
    kinds = Counter(layer.kind for layer in first)
    lines = [title, f"{nodes} ONNX operations became {len(first)} kernels (first profile)", ""]
    lines += [f"{n:5}  {kind:16} {COMPUTE.get(kind, '')}".rstrip() for kind, n in kinds.most_common()]
    lines += ["", f"attention in one kernel: {'yes' if has_attention(first) else 'none found'}"]
    lines += [f"normalisation in one kernel: {'yes' if has_fused_norm(first) else 'none found'}", ""]
    for layer in first:
        steps = " ".join(layer.steps)
        lines.append(f"{layer.kind:16} {steps or layer.name}")
    return "\n".join(lines) + "\n"
