"""`visavis compile`: the shipped networks as TensorRT engines, for GPUs that need not be here."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import visavis.engine
from visavis.engine.errors import VisavisError
from visavis.engine.runtime.tensorrt_build import (
    Built,
    backend,
    build,
    networks,
    parse_precisions,
    parse_targets,
)
from visavis.engine.runtime.tensorrt_layers import has_attention, has_fused_norm

Progress = Callable[[str], None]
"""Called with what was done, once an engine."""


def shipped() -> Path:
    """The folder of the networks that come with the package."""
    return Path(str(visavis.engine.__file__)).parent / "weights"


def compile_networks(
    out: Path,
    *,
    targets: str,
    precisions: str = "bf16,fp16",
    source: Path | None = None,
    builder: str = "auto",
    again: bool = False,
    progress: Progress = lambda name: None,
) -> tuple[list[Built], list[str]]:
    """Build every network for every target and precision; what was built, and one line for each that could not be."""
    chosen, kinds = parse_targets(targets), parse_precisions(precisions)
    files = networks(source or shipped()) if source is None or source.is_dir() else [source]
    built, failed = [], []
    for onnx in files:
        for kind in kinds:
            for target in chosen:
                try:
                    trt = backend(builder, target)
                    built.append(build(onnx, out, target, kind, trt=trt, again=again))
                except VisavisError as error:
                    failed.append(str(error))
                progress(f"{onnx.stem} {kind} {target}")
    return built, failed


def count(out: int, text: str) -> str:
    """ "1 engine", "3 engines"."""
    return f"{out} {text}{'' if out == 1 else 's'}"


def run(
    out: Path,
    *,
    targets: str,
    precisions: str,
    source: Path | None,
    builder: str,
    again: bool,
    bar: Callable[[int], tuple[Progress, Callable[[], None]]],
) -> int:
    """Build, print a table, and say how long it took; 1 if a network could not be built."""
    if source is not None and not source.exists():
        raise VisavisError(f"no such network: {source}")
    start = time.perf_counter()
    files = [source] if source is not None and source.is_file() else networks(source or shipped())
    total = len(files) * len(parse_targets(targets)) * len(parse_precisions(precisions))
    backend(builder, parse_targets(targets)[0])  # what is not installed is said at once
    progress, close = bar(total)
    try:
        built, failed = compile_networks(
            out,
            targets=targets,
            precisions=precisions,
            source=source,
            builder=builder,
            again=again,
            progress=progress,
        )
    finally:
        close()
    print(f"{'engine':44} {'MB':>6} {'batches':>12} {'kernels':>8} {'s':>6}  fused")
    for b in built:
        first = [layer for layer in b.layers if layer.profile == 0]
        fused = [
            word for word, found in (("attention", has_attention), ("norm", has_fused_norm)) if found(first)
        ]
        batches = f"{b.metadata.profiles[0]}..{b.metadata.profiles[-1]}"
        kernels = "" if b.reused else str(len(first))
        what = "kept: it matches" if b.reused else ", ".join(fused)
        size = b.path.stat().st_size / 1e6
        print(f"{b.path.name:44} {size:6.1f} {batches:>12} {kernels:>8} {b.seconds:6.1f}  {what}")
    for line in failed:
        print(f"FAILED  {line}")
    seconds = time.perf_counter() - start
    names = " and ".join(sorted({b.metadata.builder for b in built})) or "nothing"
    print(f"{count(len(built), 'engine')} in {out} by {names}, {seconds:.1f} s; none of them was run here")
    return 1 if failed else 0
