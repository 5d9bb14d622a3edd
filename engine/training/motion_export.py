"""Write the motion model for the product: three ONNX files whose state goes in and comes out, and their weights.

    python -m visavis.engine.training.motion_export --encoder E/final.pt --face F/final.pt --life L/final.pt \
        --steps 4 --to engine/weights
"""

from __future__ import annotations

import argparse
import hashlib
import json
from pathlib import Path

import torch
from torch import Tensor, nn
from visavis.engine import diffusion
from visavis.engine.audio.mel import MELS_PER_FRAME, N_MELS
from visavis.engine.motion.layout import FEATURES, LABELS
from visavis.engine.motion.speech import CONTEXT, MAX_LOOKAHEAD
from visavis.engine.training.motion import load_net
from visavis.engine.training.motion_hearing import Experts, load_experts
from visavis.engine.training.motion_nets import MotionNet
from visavis.engine.training.speech_export import gru_cell, strip_traces


class EncoderStep(nn.Module):
    """One frame of sound -> FEATURES values, voice among them."""

    def __init__(self, net: Experts) -> None:
        super().__init__()
        self.net = net

    def forward(
        self, mel: Tensor, delay: Tensor, context: Tensor, hidden: Tensor, tail: Tensor, first: Tensor
    ) -> tuple[Tensor, ...]:
        """mel (B, 4, M), delay (B, 3) one-hot, context (B, CONTEXT, M), hidden, first (B, width), tail (B, width of it)."""
        both, net, one = self.net, self.net.encoder, self.net.first
        heard = torch.cat([context, mel], dim=1)
        encoded = net.encode(heard, delay)
        hidden = gru_cell(net.gru, encoded[:, 0], hidden)
        x, _, phone, prosody, told = net.read(encoded, hidden[:, None])
        tail = gru_cell(net.tail, told[:, 0], tail)
        encoded = one.encode(heard, delay)
        first = gru_cell(one.gru, encoded[:, 0], first)
        face, voice, _ = one.decode(encoded, first[:, None])
        mouth = both.mix(net.mouth(x, tail[:, None]) * net.gain, face * one.gain)[:, 0]
        power = (torch.exp(mel) - 1).sum(-1).mean(-1, keepdim=True)
        level = torch.log(power + 1e-3) * (10 / 2.302585093) / 30 - 1
        parts = [mouth, torch.softmax(phone[:, 0], -1), torch.sigmoid(voice), prosody[:, 0], level]
        return torch.cat(parts, -1), heard[:, MELS_PER_FRAME:], hidden, tail, first


class MotionStep(nn.Module):
    """One frame of one network: `steps` passes of the head, no guidance (it is folded in). With `arms` (values,
    N_CHANNELS) the channels that the last values stand for come out as well."""

    def __init__(self, net: MotionNet, steps: int, sized: bool, arms: Tensor | None = None) -> None:
        super().__init__()
        self.net, self.steps, self.sized = net, steps, sized
        self.register_buffer("arms", arms)

    def forward(
        self, heard: Tensor, labels: Tensor, noise: Tensor, index: Tensor, filled: Tensor,
        past: Tensor, moved: Tensor, keys: Tensor, values: Tensor,
    ) -> tuple[Tensor, ...]:  # fmt: skip
        """heard (B, FEATURES), labels (B, LABELS), noise (B, D), index, filled (B,) int64, past (B, D) the frame
        shown before, moved (B, D) how it had moved, keys, values (B, layers, H, W, E) -> motion (B, D), [arms
        (B, N_CHANNELS)], next_moved, next_keys, next_values."""
        net = self.net
        told = torch.cat([heard, torch.ones_like(heard[:, :1])], -1)
        before = net.past(past, moved)
        context, keys, values = net.step(before, told, labels, keys, values, index, filled)
        size = torch.zeros_like(noise[:, :1]) + (1 / self.steps if self.sized else 0.0)
        made = diffusion.euler(
            lambda x_t, t: net.head(x_t, torch.zeros_like(noise[:, :1]) + t, size, context),
            noise,
            diffusion.schedule(self.steps),
        )
        motion = net.shown(made, past, moved)
        moved = net.move(motion, past)
        if self.arms is None:
            return motion, moved, keys, values
        return motion, motion[:, -len(self.arms) :] @ self.arms, moved, keys, values


def export_onnx(module: nn.Module, example: dict[str, Tensor], outputs: list[str], path: Path) -> None:
    """Batch axis free, names as in `example`; traces of this machine removed."""
    module.eval()
    free = torch.export.Dim("batch", min=1, max=256)
    torch.onnx.export(
        module, tuple(example.values()), str(path), dynamo=True, external_data=False, opset_version=18,
        verbose=False, input_names=list(example), output_names=outputs,
        dynamic_shapes={name: {0: free} for name in example},
    )  # fmt: skip
    strip_traces(path)


def encoder_example(net: Experts, batch: int = 2) -> dict[str, Tensor]:
    return {
        "mel": torch.zeros(batch, MELS_PER_FRAME, N_MELS),
        "delay": torch.eye(MAX_LOOKAHEAD + 1)[[2] * batch],
        "context": torch.zeros(batch, CONTEXT, N_MELS),
        "hidden": torch.zeros(batch, net.encoder.width),
        "tail": torch.zeros(batch, net.encoder.tail_width),
        "first": torch.zeros(batch, net.first.width),
    }


def motion_example(net: MotionNet, batch: int = 2) -> dict[str, Tensor]:
    shape = net.shape
    ring = torch.zeros(batch, shape.layers, shape.heads, shape.window, shape.width // shape.heads)
    return {
        "heard": torch.zeros(batch, FEATURES),
        "labels": torch.zeros(batch, LABELS),
        "noise": torch.randn(batch, shape.values),
        "index": torch.zeros(batch, dtype=torch.int64),
        "filled": torch.zeros(batch, dtype=torch.int64),
        "past": torch.zeros(batch, shape.values),
        "moved": torch.zeros(batch, shape.values),
        "keys": ring,
        "values": ring.clone(),
    }


def kept(name: str, value: Tensor) -> Tensor:
    """As it is archived: half precision where the file is large and nothing is computed from it (the ONNX files hold all in full)."""
    return value.half() if name.startswith("speech.encoder.") or ".head." in name else value


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", type=Path, help="final.pt of training.motion_encoder")
    parser.add_argument("--first", type=Path, help="final.pt of training.speech")
    parser.add_argument("--face", type=Path)
    parser.add_argument("--life", type=Path)
    parser.add_argument("--steps", type=int, default=4, help="passes of the head a frame")
    parser.add_argument("--to", type=Path, required=True)
    args = parser.parse_args(arguments)
    from safetensors.torch import load_file, save_file

    args.to.mkdir(parents=True, exist_ok=True)
    weights_path = args.to / "motion.safetensors"
    weights = load_file(weights_path) if weights_path.exists() else {}
    with torch.no_grad():
        if args.encoder:
            encoder = load_experts(args.encoder, args.first)
            outputs = ["features", "next_context", "next_hidden", "next_tail", "next_first"]
            export_onnx(
                EncoderStep(encoder), encoder_example(encoder), outputs, args.to / "motion_speech.onnx"
            )
            weights = {k: v for k, v in weights.items() if not k.startswith("speech.")}
            own = {k: v for k, v in encoder.state_dict().items() if not k.startswith("first.")}
            weights |= {f"speech.{k}": v.contiguous() for k, v in own.items()}
        for part, path in (("face", args.face), ("life", args.life)):
            if not path:
                continue
            net, _ = load_net(path)
            saved = torch.load(path, weights_only=True)
            arms = saved["arms"] if part == "life" else None
            outputs = [
                "motion",
                *(["arms"] if part == "life" else []),
                "next_moved",
                "next_keys",
                "next_values",
            ]
            step = MotionStep(net, args.steps, bool(saved.get("sized", False)), arms)
            export_onnx(step, motion_example(net), outputs, args.to / f"motion_{part}.onnx")
            weights = {k: v for k, v in weights.items() if not k.startswith(f"{part}.")}
            weights |= {f"{part}.{k}": v.contiguous() for k, v in net.state_dict().items()}
    save_file({name: kept(name, value) for name, value in weights.items()}, weights_path)
    print(
        json.dumps(
            {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in sorted(args.to.glob("motion*"))}
        )
    )


if __name__ == "__main__":
    main()
