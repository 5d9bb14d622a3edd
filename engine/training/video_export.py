"""Stage 2 as ONNX: three graphs with pictures in and out as bytes and all streaming state as named tensors.

    python -m visavis.engine.training.video_export --weights runs/video/final/last.pt --out engine/weights

Batch is free; `active` (B,) says which sessions of a batch move: the others' state comes out as it went in. For the mouth alone there are the same
graphs over that part of the crop (`*_mouth.onnx`); they read their weights out of the whole crop's files beside them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from visavis.engine.body.model import load_body
from visavis.engine.training.video import load, mean_of
from visavis.engine.training.video_model import FrameNet, PhotoNet, StepNet, VideoNet, blended
from visavis.engine.video.crop import CROP, WHOLE, Area
from visavis.engine.video.crop import MOUTH as MOUTH_AREA
from visavis.engine.video.generator import files
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


def _corner(area: Area, part: Tensor) -> Tensor:
    at = torch.tensor([[2 * area.left / CROP - 1, 2 * area.top / CROP - 1]])
    return at.expand(part.shape[0], -1)


class PhotoGraph(nn.Module):
    """`photo`, `position` (B, H, W, 3), `part` (B, H, W) bytes -> `sink` (B, layers, N, 2 width). H and W are the area's."""

    def __init__(self, net: PhotoNet, area: Area = WHOLE) -> None:
        super().__init__()
        self.net, self.area = net, area

    def forward(self, photo: Tensor, part: Tensor, position: Tensor) -> Tensor:
        masks = _masks(part, (part.to(torch.int32) > 0).float())
        return self.net(_chw(photo), masks, _chw(position), _corner(self.area, part))


class FrameGraph(nn.Module):
    """`warp`, `position` (B, H, W, 3), `part`, `coverage` (B, H, W) bytes, `previous` (B, 3, H, W), `sink`, `ring` (B, layers,
    window, N, 2 width), `active` (B,) -> `features`, `picture` (the warp as B, 3, H, W), `next_ring`."""

    def __init__(self, net: FrameNet, area: Area = WHOLE) -> None:
        super().__init__()
        self.net, self.area = net, area

    def forward(
        self, warp: Tensor, part: Tensor, coverage: Tensor, position: Tensor, previous: Tensor, sink: Tensor, ring: Tensor,
        active: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:  # fmt: skip
        picture = _chw(warp)
        masks = _masks(part, coverage.float() * (1 / 255))
        features, keys = self.net(
            picture, previous, masks, _chw(position), _corner(self.area, part), sink, ring
        )
        moved = torch.cat([ring[:, :, 1:], keys[:, :, None]], 2)
        on = active[:, None, None, None, None]
        return features, picture, ring + on * (moved - ring)


class StepGraph(nn.Module):
    """`features`, `picture`, `noisy` (B, 3, H, W), `t`, `next_t` (B,), `previous`, `active` (B,) -> `next_noisy`, `colour` (B, H, W, 3)
    bytes, `mask` (B, H, W), `next_previous`: the state after the last step."""

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


def export(net: VideoNet, out: Path, area: Area = WHOLE) -> list[Path]:
    """Write `video_photo.onnx`, `video_frame.onnx`, `video_step.onnx` for an area of the crop; returns their paths. Those of the whole crop come
    first: the others take their weights from them."""
    net = net.eval()
    config = net.config
    h, w = area.height, area.width
    n = (h // 16) * (w // 16)
    width = 2 * config.widths[2]

    def picture(*shape: int) -> Tensor:
        return torch.randint(0, 255, (2, *shape), dtype=torch.uint8)

    sink = torch.rand(2, config.attention, n, width)
    ring = torch.rand(2, config.attention, config.window, n, width)
    active = torch.ones(2)
    plain = torch.rand(2, 3, h, w)
    t = torch.tensor([0.0, 0.5])
    jobs: list[tuple[str, nn.Module, tuple[Tensor, ...], list[str], list[str]]] = [
        (
            "video_photo", PhotoGraph(net.photo, area), (picture(h, w, 3), picture(h, w), picture(h, w, 3)),
            ["photo", "part", "position"], ["sink"],
        ),
        (
            "video_frame", FrameGraph(net.frame, area),
            (picture(h, w, 3), picture(h, w), picture(h, w), picture(h, w, 3), plain, sink, ring, active),
            ["warp", "part", "coverage", "position", "previous", "sink", "ring", "active"],
            ["features", "picture", "next_ring"],
        ),
        (
            "video_step", StepGraph(net.step),
            (torch.rand(2, config.step_width, h // 4, w // 4), plain, plain, t, t + 0.5, plain, active),
            ["features", "picture", "noisy", "t", "next_t", "previous", "active"],
            ["next_noisy", "colour", "mask", "next_previous"],
        ),
    ]  # fmt: skip
    out.mkdir(parents=True, exist_ok=True)
    paths = []
    for (name, graph, example, inputs, outputs), path in zip(jobs, files(area, out), strict=True):
        assert path.stem.startswith(name)
        torch.onnx.export(
            graph, example, str(path), dynamo=False, opset_version=18, input_names=inputs, output_names=outputs,
            dynamic_axes={key: {0: "batch"} for key in (*inputs, *outputs)},
        )  # fmt: skip
        _clean(path)
        if area != WHOLE:
            _share(path, out / f"{name}.onnx")
        paths.append(path)
    return paths


def _share(path: Path, whole: Path) -> None:
    """Weights of `path` that `whole`, a file beside it, holds too are read from there (ONNX's external data): the same numbers once."""
    import onnx
    from onnx import TensorProto

    model, held = onnx.load(str(path)), whole.read_bytes()
    for tensor in model.graph.initializer:
        raw = tensor.raw_data
        at = held.find(raw) if len(raw) >= 512 else -1
        if at < 0:
            continue
        tensor.ClearField("raw_data")
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", whole.name), ("offset", at), ("length", len(raw))):
            entry = tensor.external_data.add()
            entry.key, entry.value = key, str(value)
    path.write_bytes(model.SerializeToString())


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


def check(net: VideoNet, paths: list[Path], area: Area = WHOLE) -> float:
    """Largest difference between the exported frame and step graphs and the network, on random input."""
    import openvino

    core = openvino.Core()
    rng = np.random.default_rng(0)
    worst = 0.0
    for path, graph in zip(
        paths, (PhotoGraph(net.photo, area), FrameGraph(net.frame, area), StepGraph(net.step)), strict=True
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
    parser.add_argument(
        "--weights", type=Path, nargs="+", required=True, help="checkpoint, or several whose mean it is to be"
    )
    parser.add_argument("--out", type=Path, default=Path("engine/weights"))
    args = parser.parse_args(argv)
    from safetensors.torch import save_file

    net = mean_of([load(path) for path in args.weights]).half().float()
    paths = {area: export(net, args.out, area) for area in (WHOLE, MOUTH_AREA)}
    save_file(
        {k: v.half().contiguous() for k, v in net.state_dict().items()}, str(args.out / "video.safetensors"),
        metadata={"config": json.dumps(net.config.to_dict())},
    )  # fmt: skip
    for area, written in paths.items():
        print(f"{area.name}: largest difference to the network {check(net, written, area):.2e}")
        for path in written:
            print(path, f"{path.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
