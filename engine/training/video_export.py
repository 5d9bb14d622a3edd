"""Stage 2 as ONNX: three graphs with pictures in and out as bytes and all streaming state as named tensors.

    python -m visavis.engine.training.video_export --weights runs/video/final/last.pt --out engine/weights

Batch is free; `active` (B,) says which sessions of a batch move: the others' state comes out as it went in.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from visavis.engine.body.model import load_body
from visavis.engine.training.video import load
from visavis.engine.training.video_model import FrameNet, PhotoNet, StepNet, VideoNet, blended
from visavis.engine.video.generator_inputs import EYES, LIPS, MOUTH


def _chw(picture: Tensor) -> Tensor:
    return picture.permute(0, 3, 1, 2).float() * (1 / 255)


def _any_of(part: Tensor, names: tuple[str, ...]) -> Tensor:
    ids = [load_body().parts.index(name) for name in names]
    found = part == ids[0]
    for k in ids[1:]:
        found = found | (part == k)
    return found.float()


def _masks(part: Tensor, coverage: Tensor) -> Tensor:
    label = part.to(torch.int32)
    return torch.stack([_any_of(label, MOUTH), _any_of(label, LIPS), _any_of(label, EYES), coverage], 1)


def _corner(part: Tensor) -> Tensor:
    return torch.full((1, 2), -1.0).expand(part.shape[0], -1)


class PhotoGraph(nn.Module):
    """`photo`, `position` (B, 256, 256, 3), `part` (B, 256, 256) bytes -> `sink` (B, layers, N, 2 width)."""

    def __init__(self, net: PhotoNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, photo: Tensor, part: Tensor, position: Tensor) -> Tensor:
        masks = _masks(part, (part.to(torch.int32) > 0).float())
        return self.net(_chw(photo), masks, _chw(position), _corner(part))


class FrameGraph(nn.Module):
    """`warp`, `position` (B, 256, 256, 3), `part`, `coverage` (B, 256, 256) bytes, `previous` (B, 3, 256, 256), `sink`, `ring` (B, layers,
    window, N, 2 width), `active` (B,) -> `features`, `picture` (the warp as B, 3, 256, 256), `next_ring`."""

    def __init__(self, net: FrameNet) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, warp: Tensor, part: Tensor, coverage: Tensor, position: Tensor, previous: Tensor, sink: Tensor, ring: Tensor,
        active: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        picture = _chw(warp)
        masks = _masks(part, coverage.float() * (1 / 255))
        features, keys = self.net(picture, previous, masks, _chw(position), _corner(part), sink, ring)
        moved = torch.cat([ring[:, :, 1:], keys[:, :, None]], 2)
        on = active[:, None, None, None, None]
        return features, picture, ring + on * (moved - ring)


class StepGraph(nn.Module):
    """`features`, `picture`, `noisy` (B, 3, 256, 256), `t`, `next_t` (B,), `previous`, `active` (B,) -> `next_noisy`, `colour` (B, 256, 256, 3)
    bytes, `mask` (B, 256, 256), `next_previous`: the state after the last step."""

    def __init__(self, net: StepNet) -> None:
        super().__init__()
        self.net = net

    def forward(
        self,
        features: Tensor,
        picture: Tensor,
        noisy: Tensor,
        t: Tensor,
        next_t: Tensor,
        previous: Tensor,
        active: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        colour, mask = self.net(features, noisy, t, picture)
        frame = blended(colour, mask, picture)
        share = ((next_t - t) / (1 - t))[:, None, None, None]
        moved = noisy + share * (2 * frame - 1 - noisy)
        on = active[:, None, None, None]
        bytes_ = (colour * 255 + 0.5).clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1)
        return moved, bytes_, mask[:, 0], previous + on * (frame.clamp(0, 1) - previous)


def export(net: VideoNet, out: Path) -> list[Path]:
    """Write `video_photo.onnx`, `video_frame.onnx`, `video_step.onnx`; returns their paths."""
    net = net.eval()
    config = net.config
    c, n = config.crop, (config.crop // 16) ** 2
    width = 2 * config.widths[2]

    def picture(*shape: int) -> Tensor:
        return torch.randint(0, 255, (2, *shape), dtype=torch.uint8)

    sink = torch.rand(2, config.attention, n, width)
    ring = torch.rand(2, config.attention, config.window, n, width)
    active = torch.ones(2)
    plain = torch.rand(2, 3, c, c)
    t = torch.tensor([0.0, 0.5])
    jobs: list[tuple[str, nn.Module, tuple[Tensor, ...], list[str], list[str]]] = [
        (
            "video_photo", PhotoGraph(net.photo), (picture(c, c, 3), picture(c, c), picture(c, c, 3)),
            ["photo", "part", "position"], ["sink"],
        ),
        (
            "video_frame", FrameGraph(net.frame),
            (picture(c, c, 3), picture(c, c), picture(c, c), picture(c, c, 3), plain, sink, ring, active),
            ["warp", "part", "coverage", "position", "previous", "sink", "ring", "active"],
            ["features", "picture", "next_ring"],
        ),
        (
            "video_step", StepGraph(net.step),
            (torch.rand(2, config.step_width, c // 4, c // 4), plain, plain, t, t + 0.5, plain, active),
            ["features", "picture", "noisy", "t", "next_t", "previous", "active"],
            ["next_noisy", "colour", "mask", "next_previous"],
        ),
    ]  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for name, graph, example, inputs, outputs in jobs:
        path = out / f"{name}.onnx"
        torch.onnx.export(
            graph, example, str(path), dynamo=False, opset_version=18, input_names=inputs, output_names=outputs,
            dynamic_axes={key: {0: "batch"} for key in (*inputs, *outputs)},
        )  # fmt: skip
        _clean(path)
        paths.append(path)
    return paths


def _clean(path: Path) -> None:
    """Remove what tells of the exporting machine; keep weights as fp16, which they were rounded to, at half the size."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(str(path))
    casts = []
    for tensor in model.graph.initializer:
        if tensor.data_type == TensorProto.FLOAT and int(np.prod(tensor.dims)) >= 256:
            half = numpy_helper.from_array(
                numpy_helper.to_array(tensor).astype(np.float16), f"{tensor.name}.half"
            )
            casts.append(helper.make_node("Cast", [half.name], [tensor.name], to=TensorProto.FLOAT))
            tensor.CopyFrom(half)
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.doc_string = ""
    for node in model.graph.node:
        node.doc_string = ""
        del node.metadata_props[:]
    onnx.save(model, str(path))


def check(net: VideoNet, paths: list[Path]) -> float:
    """Largest difference between the exported frame and step graphs and the network, on random input."""
    import openvino

    core = openvino.Core()
    rng = np.random.default_rng(0)
    worst = 0.0
    for path, graph in zip(
        paths, (PhotoGraph(net.photo), FrameGraph(net.frame), StepGraph(net.step)), strict=True
    ):
        compiled = core.compile_model(str(path), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
        feeds = []
        for port in compiled.inputs:
            shape = [1 if d.is_dynamic else d.get_length() for d in port.get_partial_shape()]
            byte = "u8" in str(port.get_element_type())
            feeds.append(
                rng.integers(0, 12, shape).astype(np.uint8)
                if byte
                else rng.random(shape).astype(np.float32) * 0.9
            )
        with torch.no_grad():
            wanted = graph(*(torch.from_numpy(f) for f in feeds))
        wanted = wanted if isinstance(wanted, tuple) else (wanted,)
        for got, want in zip(compiled(feeds).values(), wanted, strict=True):
            worst = max(
                worst, float(np.abs(np.asarray(got, np.float64) - want.numpy().astype(np.float64)).max())
            )
    return worst


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--weights", type=Path, required=True, help="checkpoint")
    parser.add_argument("--out", type=Path, default=Path("engine/weights"))
    args = parser.parse_args(argv)
    from safetensors.torch import save_file

    net = load(args.weights).half().float()
    paths = export(net, args.out)
    save_file(
        {k: v.half().contiguous() for k, v in net.state_dict().items()}, str(args.out / "video.safetensors"),
        metadata={"config": json.dumps(net.config.to_dict())},
    )  # fmt: skip
    print(f"largest difference to the network: {check(net, paths):.2e}")
    for path in paths:
        print(path, f"{path.stat().st_size / 1e6:.1f} MB")


if __name__ == "__main__":
    main()
