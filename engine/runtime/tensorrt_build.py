"""TensorRT engines ahead of time: ONNX in, an engine a target out, with what it is bound to in a file beside it.

`tensorrt_rtx` builds for any target on any machine, with or without a GPU; `tensorrt` builds for the GPU that is
here. Engines hold one profile for each batch size of PROFILES, each of fixed shapes (a builder fuses more where it
knows the shapes): a worker takes the smallest that holds its slots and masks the rest.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from visavis.engine.errors import VisavisError
from visavis.engine.runtime.precision import CONVERSION, PRECISIONS, Precision, converted
from visavis.engine.runtime.tensorrt_layers import BuildLog, Layer, logger, report

ANYWHERE = ("sm75", "sm80", "sm86", "sm89", "sm120", "sm121")
"""Compute capabilities that `tensorrt_rtx` builds for, on any machine."""
TARGETS = (*ANYWHERE, "sm90", "sm100", "sm103")
"""All that can be built for: those that are not in ANYWHERE (H100, B200, B300) by `tensorrt`, on a machine that has one."""
PROFILES = (1, 2, 4, 8, 16, 32)
"""Batch sizes, in sessions."""
BATCH = "batch"
"""Name of the batch axis in the shipped ONNX files."""
STATE = "next_"
"""An output `next_x` is the state that goes back into the input `x`."""
FORMAT = 1
WORKSPACE = 1 << 30


class BuildError(VisavisError):
    """A network that cannot be built, a target that is not known, a builder that is not installed."""

    code = "compile"


@dataclass(frozen=True)
class Metadata:
    """What an engine is bound to: used only where all of it is the same."""

    network: str
    onnx_sha256: str
    builder: str
    """Package and version."""
    target: str
    precision: str
    profiles: tuple[int, ...]
    inputs: dict[str, list[int]]
    """Shapes; -1 is the batch."""
    outputs: dict[str, list[int]]
    states: dict[str, str]
    """Input -> the output that holds it after the call."""
    conversion: int = CONVERSION
    format: int = FORMAT


@dataclass(frozen=True)
class Built:
    """One engine on disk."""

    path: Path
    metadata: Metadata
    reused: bool
    seconds: float
    layers: list[Layer] = field(default_factory=list)


def backend(name: str = "auto", target: str = ANYWHERE[-1]) -> Any:
    """The builder's Python module: "tensorrt-rtx", "tensorrt" or whichever is installed and knows the target ("auto", in that order).

    Raises BuildError where it is not installed.
    """
    modules = {"tensorrt-rtx": "tensorrt_rtx", "tensorrt": "tensorrt"}
    if name != "auto" and name not in modules:
        raise BuildError(f"builder {name!r}: one of auto, {', '.join(modules)}")
    able = list(modules) if target in ANYWHERE else ["tensorrt"]
    wanted = able if name == "auto" else [name]
    for package in wanted:
        try:
            return importlib.import_module(modules[package])
        except ImportError:
            continue
    extra = "gpu" if "tensorrt-rtx" in wanted else "trt"
    reason = "" if target in ANYWHERE else f" and nothing else builds for {target}"
    raise BuildError(
        f"{' and '.join(wanted)} {'is' if len(wanted) == 1 else 'are'} not installed{reason}: pip install 'visavis[{extra}]'"
    )


def builder_of(trt: Any) -> str:
    """Package and version, as "tensorrt_rtx 1.7.1.116"."""
    return f"{trt.__name__} {trt.__version__}"


FOR_CPUS = "_mouth"
"""How the names of the video network's files for the mouth alone end."""


def networks(folder: Path) -> list[Path]:
    """The ONNX files of a folder, but for those that are for CPUs: a GPU paints the whole face."""
    found = sorted(path for path in folder.glob("*.onnx") if not path.stem.endswith(FOR_CPUS))
    if not found:
        raise BuildError(f"no .onnx file in {folder}")
    return found


def parse_targets(text: str) -> list[str]:
    """ "sm86,sm89" as a list. Raises BuildError for targets that are not known."""
    targets = list(dict.fromkeys(t.strip().lower() for t in text.split(",") if t.strip()))
    unknown = [t for t in targets if t not in TARGETS]
    if unknown or not targets:
        raise BuildError(f"--target {text!r}: one or more of {', '.join(TARGETS)}, with commas between")
    return targets


def parse_precisions(text: str) -> list[Precision]:
    """ "bf16,fp16" as a list. Raises BuildError for what is not known."""
    found = list(dict.fromkeys(p.strip().lower() for p in text.split(",") if p.strip()))
    if not found or any(p not in PRECISIONS for p in found):
        raise BuildError(f"--precision {text!r}: one or more of {', '.join(PRECISIONS)}, with commas between")
    return [p for p in PRECISIONS if p in found]


def engine_path(folder: Path, network: str, precision: str, target: str) -> Path:
    """Where an engine lies; its metadata and its report have the same name with other endings."""
    return folder / f"{network}.{precision}.{target}.engine"


def read_metadata(path: Path) -> dict[str, Any] | None:
    """The metadata beside an engine, or None where there is none that can be read."""
    try:
        found = json.loads(path.with_suffix(".json").read_text())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def matches(path: Path, onnx: Path, builder: str, target: str, precision: str) -> bool:
    """Whether the engine at `path` is whole and was built of exactly this: only then may it be used."""
    found = read_metadata(path)
    if found is None or not path.is_file():
        return False
    expected = {
        "onnx_sha256": _sha256(onnx.read_bytes()),
        "builder": builder,
        "target": target,
        "precision": precision,
        "conversion": CONVERSION,
        "format": FORMAT,
    }
    if any(found.get(key) != value for key, value in expected.items()):
        return False
    if found.get("profiles") not in ([], [1], list(PROFILES)):
        return False
    return bool(found.get("engine_sha256") == _sha256(path.read_bytes()))


def build(
    onnx: Path, out: Path, target: str, precision: Precision = "bf16", *, trt: Any = None, again: bool = False
) -> Built:
    """Build one network for one target into `out`, or keep what is there and matches exactly.

    Writes NAME.PRECISION.TARGET.engine, .json (what it is bound to) and .layers.txt (what was fused).
    Raises BuildError where the network cannot be read or built.
    """
    trt = backend(target=target) if trt is None else trt
    path = engine_path(out, onnx.stem, precision, target)
    if not again and matches(path, onnx, builder_of(trt), target, precision):
        found = read_metadata(path) or {}
        kept = {k: v for k, v in found.items() if k in Metadata.__dataclass_fields__}
        return Built(path, Metadata(**{**kept, "profiles": tuple(kept["profiles"])}), True, 0.0)
    start = time.perf_counter()
    data = onnx.read_bytes()
    log = BuildLog()
    engine, metadata, nodes = _build(trt, data, onnx.stem, target, precision, log)
    layers = log.layers()
    out.mkdir(parents=True, exist_ok=True)
    title = f"{onnx.stem}, {precision}, {target}, by {metadata.builder}"
    path.with_suffix(".layers.txt").write_text(report(title, layers, nodes))
    path.with_suffix(".json").unlink(missing_ok=True)
    path.write_bytes(engine)
    seconds = time.perf_counter() - start
    record = asdict(metadata) | {
        "engine_sha256": _sha256(engine),
        "bytes": len(engine),
        "kernels": sum(layer.profile == 0 for layer in layers),
        "seconds": round(seconds, 2),
    }
    path.with_suffix(".json").write_text(json.dumps(record, indent=1) + "\n")
    return Built(path, metadata, False, seconds, layers)


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _build(
    trt: Any, data: bytes, name: str, target: str, precision: Precision, log: BuildLog
) -> tuple[bytes, Metadata, int]:
    """The serialised engine, its metadata, and how many operations the graph had."""
    keep = logger(trt, log)  # the builder does not hold it
    builder = trt.Builder(keep)
    flags = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if flags is None else 1 << int(flags))
    parser = trt.OnnxParser(network, keep)
    try:
        typed = converted(data, precision)
    except ImportError:
        raise BuildError("the extra `gpu` is not installed (no onnx): pip install 'visavis[gpu]'") from None
    except Exception as error:
        raise BuildError(f"{name}.onnx cannot be converted to {precision}: {error}") from None
    if not parser.parse(typed):
        reasons = "; ".join(str(parser.get_error(i).desc()) for i in range(parser.num_errors))
        raise BuildError(f"{name}.onnx cannot be read by {trt.__name__}: {reasons[:300]}")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED
    config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, WORKSPACE)
    _set_target(trt, config, target)
    inputs = {t.name: list(t.shape) for t in map(network.get_input, range(network.num_inputs))}
    outputs = {t.name: list(t.shape) for t in map(network.get_output, range(network.num_outputs))}
    dynamic = any(-1 in shape for shape in inputs.values())
    if any(shape.count(-1) > 1 for shape in inputs.values()):
        raise BuildError(f"{name}.onnx has an input with two free axes; only the batch may be free")
    for batch in PROFILES if dynamic else ():
        profile = builder.create_optimization_profile()
        for tensor, shape in inputs.items():
            fixed = tuple(batch if d == -1 else d for d in shape)
            profile.set_shape(tensor, fixed, fixed, fixed)
        config.add_optimization_profile(profile)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise BuildError(
            f"{name} for {target}, {precision}: {(log.errors or ['the builder gave nothing'])[-1][:300]}"
        )
    states = {
        x.removeprefix(STATE): x for x in outputs if x.startswith(STATE) and x.removeprefix(STATE) in inputs
    }
    profiles = PROFILES if dynamic else (1,)
    metadata = Metadata(
        name, _sha256(data), builder_of(trt), target, precision, profiles, inputs, outputs, states
    )
    return bytes(engine), metadata, network.num_layers


def _set_target(trt: Any, config: Any, target: str) -> None:
    """For which GPU: any, where the builder can; else only the one that is here."""
    if hasattr(config, "num_compute_capabilities"):
        if target not in ANYWHERE:
            raise BuildError(
                f"{trt.__name__} does not build for {target}: use tensorrt on a machine that has one"
            )
        config.num_compute_capabilities = 1
        config.set_compute_capability(getattr(trt.ComputeCapability, target.upper()), 0)
        return
    try:
        from cuda.bindings import runtime as cudart

        error, properties = cudart.cudaGetDeviceProperties(0)
        here = f"sm{properties.major}{properties.minor}" if int(error) == 0 else None
    except Exception:
        here = None
    if here != target:
        raise BuildError(
            f"tensorrt builds for the GPU that is here ({here or 'none'}), not for {target}: use tensorrt-rtx"
        )
