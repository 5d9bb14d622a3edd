"""Write the network from speech to the face for the product: one step whose state goes in and comes out."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from visavis.engine.audio.mel import MELS_PER_FRAME, N_MELS
from visavis.engine.motion.speech import CONTEXT, MAX_LOOKAHEAD
from visavis.engine.training.speech_net import SpeechNet


def gru_cell(gru: nn.GRU, x: Tensor, h: Tensor) -> Tensor:
    """One step of a GRU layer, written out: x (B, in), h (B, width)."""
    width = gru.hidden_size
    gates_x = F.linear(x, gru.weight_ih_l0, gru.bias_ih_l0)
    gates_h = F.linear(h, gru.weight_hh_l0, gru.bias_hh_l0)
    reset = torch.sigmoid(gates_x[:, :width] + gates_h[:, :width])
    update = torch.sigmoid(gates_x[:, width : 2 * width] + gates_h[:, width : 2 * width])
    new = torch.tanh(gates_x[:, 2 * width :] + reset * gates_h[:, 2 * width :])
    return new + update * (h - new)


class Step(nn.Module):
    """One video frame with its state going in and out: what is exported."""

    def __init__(self, net: SpeechNet) -> None:
        super().__init__()
        self.net = net

    def forward(self, mel: Tensor, context: Tensor, hidden: Tensor, delay: Tensor) -> tuple[Tensor, ...]:
        """mel (B, 4, M), context (B, CONTEXT, M), hidden (1, B, width), delay (B, 3) one-hot ->
        face (B, C), voice (B, 1) probability, next_context, next_hidden."""
        heard = torch.cat([context, mel], dim=1)
        encoded = self.net.encode(heard, delay)[:, 0]
        recurrent = gru_cell(self.net.gru, encoded, hidden[0])
        face, voice, _ = self.net.decode(encoded[:, None], recurrent[:, None])
        return face[:, 0] * self.net.gain, torch.sigmoid(voice), heard[:, MELS_PER_FRAME:], recurrent[None]


def export(net: SpeechNet, folder: Path) -> None:
    """Write speech.onnx (one step, batch axis free) and speech.safetensors."""
    from safetensors.torch import save_file

    net.eval()
    step = Step(net)
    batch_size = 2
    example = (
        torch.zeros(batch_size, MELS_PER_FRAME, N_MELS), torch.zeros(batch_size, CONTEXT, N_MELS),
        torch.zeros(1, batch_size, net.width), torch.eye(MAX_LOOKAHEAD + 1)[[2, 2]],
    )  # fmt: skip
    free = torch.export.Dim("batch", min=1, max=256)
    torch.onnx.export(
        step,
        example,
        str(folder / "speech.onnx"),
        dynamo=True,
        external_data=False,
        opset_version=18,
        verbose=False,
        input_names=["mel", "context", "hidden", "delay"],
        output_names=["face", "voice", "next_context", "next_hidden"],
        dynamic_shapes={"mel": {0: free}, "context": {0: free}, "hidden": {1: free}, "delay": {0: free}},
    )
    strip_traces(folder / "speech.onnx")
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "speech.safetensors")


def strip_traces(path: Path) -> None:
    """Drop what the exporter notes of the machine that exported: stack traces, file paths."""
    import onnx

    model = onnx.load(path)
    for entry in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        entry.ClearField("metadata_props")
        entry.ClearField("doc_string")
    onnx.save(model, path)


def describe(folder: Path) -> dict[str, str]:
    """What identifies an export: commit and sha256 of the ONNX file."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {"commit": commit, "sha256": hashlib.sha256((folder / "speech.onnx").read_bytes()).hexdigest()}
