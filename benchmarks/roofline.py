"""Computed limits of the GPU path: `visavis bench roofline`. Nothing here is measured.

Operations and bytes of every kernel (from the formulas that head kernels/cuda/*.cu) and of every network's layers (from
the ONNX graphs), a session and a tick; the least time that a GPU's data sheet allows for them; and how many sessions of
25 frames a second fit a GPU if every piece ran at that limit. Real times are longer: read these as bounds and as
what binds. Layers count as fused: elementwise steps, norms and softmax cost nothing of their own; weights are read
once a tick for all sessions; activations are half precision and go to memory between matrix products and convolutions.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

TICK_S = 0.04
LAUNCH_S = 2e-6
"""What a launch inside a CUDA graph costs at least."""
HALF = 2
SIDE, CELL = 256, 16


@dataclass(frozen=True)
class Gpu:
    """From the makers' data sheets: dense half-precision tensor rate, float32 rate, memory, bus to the host."""

    name: str
    tensor: float
    single: float
    memory_bytes_s: float
    memory: float
    bus_bytes_s: float
    encoders: int


GPUS = (
    Gpu("H100", 989e12, 67e12, 3.35e12, 80e9, 50e9, 0),
    Gpu("RTX 4090", 165e12, 82.6e12, 1.008e12, 24e9, 25e9, 2),
    Gpu("L4", 60.5e12, 30.3e12, 300e9, 24e9, 25e9, 2),
)


@dataclass(frozen=True)
class Work:
    """One piece of a tick. `bytes_shared` are read once for all sessions, the rest for each."""

    name: str
    operations: float
    bytes_each: float
    bytes_shared: float = 0.0
    launches: int = 1
    unit: str = "single"
    """Which rate binds: "tensor", "single" or "bus"."""

    def seconds(self, gpu: Gpu, sessions: int) -> tuple[float, str]:
        """The least time for a tick of this many sessions, and what binds."""
        if self.unit == "bus":
            return self.bytes_each * sessions / gpu.bus_bytes_s, "bus"
        rate = (
            gpu.tensor if self.unit == "tensor" else gpu.single / 2
        )  # integer work runs at half the float32 rate
        times = {
            "arithmetic": self.operations * sessions / rate,
            "memory": (self.bytes_each * sessions + self.bytes_shared) / gpu.memory_bytes_s,
            "launches": self.launches * LAUNCH_S,
        }
        binds = max(times, key=lambda k: times[k])
        return times[binds], binds


@dataclass(frozen=True)
class Scene:
    """Sizes of one session: the frame, and the mesh of a portrait with its layers."""

    width: int = 512
    height: int = 512
    vertices: int = 3600
    triangles: int = 6900
    shapes: int = 152
    joints: int = 5
    bones: int = 7
    gaps: int = 100
    groups: int = 7
    covered: float = 0.6
    tiles_a_triangle: float = 1.9
    crop_scale: float = 0.56


def kernels_of(s: Scene, video: bool) -> list[Work]:
    """The kernels of a tick, a session."""
    pixels, square = s.width * s.height, SIDE * SIDE
    v, k, j, t = s.vertices, s.shapes, s.joints, s.triangles
    bins = -(-s.width // 128) * -(-s.height // 128)
    records = t * s.tiles_a_triangle
    fragments = 1.3 * s.covered * pixels
    raster_bytes = 358 * t + 8 * t * bins / 4 + 240 * records + 4 * pixels + (3 + 20 * s.covered) * pixels
    raster_ops = 150 * t + 20 * 256 * records + 60 * fragments + 150 * s.covered * pixels
    out = [
        Work("log_mel", 100e3, 5.8e3),
        Work("motion and sampler_step", 2 * 182 * 29 + 2 * 52 * 15 + 60 * 44, 5e3, 24e3, launches=4),
        Work("states of slots that rest (none)", 0, 0, launches=3),
        Work("figure", 2 * 52 * s.gaps + 300 * s.bones, 4 * 52 * s.gaps + 80 * s.bones + 48 * j * s.groups),
        Work("pose", 6 * v * k + 21 * v * j, 6 * v * k + 12 * v + 4 * v * j + 12 * v, launches=s.groups),
        Work("raster", raster_ops, raster_bytes, launches=3 * s.groups),
    ]
    if video:
        out.append(Work("face_crop", 140 * square, 8 * square + 17 * square / s.crop_scale**2))
        out.append(Work("paste_plan", 250 * square, 18 * square))
        out.append(
            Work(
                "composite",
                14 * pixels + 70 * min(pixels, square / s.crop_scale**2),
                4.5 * pixels + 8 * square,
            )
        )
    else:
        out.append(Work("rgb_to_yuv", 14 * pixels, 4.5 * pixels))
    out.append(Work("upload of sound and cues", 0, 640 * 4 + 182 * 4 + 52, unit="bus"))
    out.append(Work("download of I420 and motion", 0, 1.5 * pixels + 183 * 4, unit="bus"))
    return out


def network_layers(path: Path, calls: int) -> tuple[list[Work], float]:
    """An ONNX network's layer groups a session and tick, called `calls` times; and the bytes of its state."""
    import openvino

    model = openvino.Core().read_model(path)
    model.reshape({
        port.get_any_name(): [1 if d.is_dynamic else d.get_length() for d in port.get_partial_shape()]
        for port in model.inputs
    })  # fmt: skip
    sums: dict[str, list[float]] = {}
    for op in model.get_ordered_ops():
        kind = op.get_type_name()
        if kind not in ("Convolution", "GroupConvolution", "MatMul"):
            continue
        sizes = [float(np.prod(tuple(port.get_shape()))) for port in (*op.inputs(), *op.outputs())]
        fixed = [_is_weight(port.get_source_output().get_node()) for port in op.inputs()]
        first, second = (tuple(port.get_shape()) for port in op.inputs())
        if kind == "MatMul":
            depth = first[-2] if op.get_attributes()["transpose_a"] and len(first) > 1 else first[-1]
            group = "matrix products" if any(fixed) else "attention"
        else:
            depth = int(np.prod(second[-3:] if kind == "Convolution" else second[-2:]))
            group = "convolutions 1x1" if np.prod(second[-2:]) == 1 else "convolutions 3x3 and up"
        entry = sums.setdefault(group, [0.0, 0.0, 0.0, 0.0])
        moving = [n for n, weight in zip(sizes, [*fixed, False], strict=True) if not weight]
        # Fused attention is two products in one kernel; its scores, the largest of the three, stay on the chip.
        fused = group == "attention"
        entry[0] += 2 * sizes[-1] * depth
        entry[1] += HALF * (sum(moving) - (max(moving) if fused else 0))
        entry[2] += HALF * sum(n for n, weight in zip(sizes, fixed, strict=False) if weight)
        entry[3] += 0.5 if fused else 1
    outputs = {name for port in model.outputs for name in port.get_names()}
    state = sum(
        float(np.prod(tuple(port.get_shape()))) * 4
        for port in model.inputs
        if f"next_{port.get_any_name()}" in outputs
    )
    work = [
        Work(
            f"{path.stem}: {group}",
            calls * o,
            calls * each,
            calls * shared,
            calls * round(n + 0.49),
            "tensor",
        )
        for group, (o, each, shared, n) in sums.items()
    ]
    return work, state


def _is_weight(node: Any) -> bool:
    """A constant, perhaps turned or cast first."""
    while node.get_type_name() in ("Convert", "Reshape", "Transpose", "Unsqueeze"):
        node = node.input(0).get_source_output().get_node()
    return bool(node.get_type_name() == "Constant")


def calls_a_tick(name: str, steps: int) -> int:
    """How often a shipped network runs for one frame."""
    if name in ("video_photo", "speech"):
        return 0  # once an avatar; the first network, which a worker does not run
    return steps if name.endswith("_step") else 1


def most_sessions(work: Sequence[Work], gpu: Gpu) -> int:
    """Sessions whose tick stays within 40 ms at the limit of every piece."""
    low, high = 0, 1
    while _tick(work, gpu, high) <= TICK_S and high < 1 << 16:
        low, high = high, 2 * high
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if _tick(work, gpu, middle) <= TICK_S else (low, middle)
    return low


def _tick(work: Sequence[Work], gpu: Gpu, sessions: int) -> float:
    return sum(w.seconds(gpu, sessions)[0] for w in work)


def tick_of(folder: Path, scene: Scene, steps: int) -> list[Work]:
    """Everything that a tick does with the networks of a folder."""
    from visavis.engine.runtime.tensorrt_build import networks as networks_of

    networks: list[Work] = []
    state = 0.0
    files = networks_of(folder)
    for path in files:
        calls = calls_a_tick(path.stem, steps)
        if calls:
            layers, bytes_ = network_layers(path, calls)
            networks += layers
            state += bytes_
    video = any(path.stem == "video_frame" for path in files)
    # An engine writes the whole of its next state, wherever it reads the last one.
    networks.append(Work("networks: states read and written", 0, 2 * state, launches=0))
    return [*kernels_of(scene, video), *networks]


def main(argv: Sequence[str] | None = None) -> int:
    """Prints tables, then one line of JSON."""
    from visavis import engine

    shipped = Path(str(engine.__file__)).parent / "weights"
    parser = argparse.ArgumentParser(
        prog="visavis bench roofline", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "--networks", type=Path, default=shipped, metavar="DIR", help="ONNX files (the shipped ones)"
    )
    parser.add_argument("--steps", type=int, default=2, metavar="N", help="sampler steps a frame (2)")
    parser.add_argument(
        "--sessions", type=int, default=8, metavar="N", help="sessions a tick in the table (8)"
    )
    args = parser.parse_args(argv)
    if not args.networks.is_dir() or args.steps < 1 or args.sessions < 1:
        parser.error("--networks must be a folder, --steps and --sessions at least 1")
    work = tick_of(args.networks, Scene(), args.steps)
    n = args.sessions
    print(
        f"COMPUTED, not measured: data-sheet limits, {n} sessions a tick, 512x512, {args.steps} sampler steps\n"
    )
    head = "".join(f"{g.name + ' us':>13} {'binds':>10}" for g in GPUS)
    print(f"{'a session and tick':44} {'MFLOP':>9} {'MB':>8} {'shared MB':>10}{head}")
    rows: list[dict[str, Any]] = []
    for w in work:
        limits = [w.seconds(g, n) for g in GPUS]
        text = "".join(f"{1e6 * s:13.1f} {b:>10}" for s, b in limits)
        print(
            f"{w.name:44} {w.operations / 1e6:9.2f} {w.bytes_each / 1e6:8.2f} {w.bytes_shared / 1e6:10.2f}{text}"
        )
        rows.append(
            asdict(w)
            | {g.name: {"computed_us": 1e6 * s, "binds": b} for g, (s, b) in zip(GPUS, limits, strict=True)}
        )
    print()
    result: dict[str, Any] = {}
    for gpu in GPUS:
        most = most_sessions(work, gpu)
        pieces = {w.name: w.seconds(gpu, max(most, 1)) for w in work}
        first = max(pieces, key=lambda k: pieces[k][0])
        total = _tick(work, gpu, n)
        result[gpu.name] = {
            "computed_sessions_at_25_fps": most,
            "computed_tick_ms": 1e3 * total,
            "binds": f"{first} ({pieces[first][1]})",
            "nvenc_units": gpu.encoders,
        }
        encoders = (
            f"{gpu.encoders} NVENC units" if gpu.encoders else "no NVENC: frames are encoded on the CPU"
        )
        print(
            f"{gpu.name:9} computed: at most {most} sessions at 25 fps ({1e3 * total:.2f} ms a tick of {n}); "
            f"most time goes to {first}, bound by {pieces[first][1]}; {encoders}"
        )
    print(
        json.dumps({"benchmark": "roofline", "kind": "computed", "sessions": n, "rows": rows, "gpus": result})
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
