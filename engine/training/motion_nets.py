"""The networks of the motion model: a causal transformer over frames and a small flow head on each of its outputs.

The transformer sees, a frame a token, the motion of the frame before, what is heard, and labels; it runs once a frame
with a ring of keys and values. The head, an MLP, predicts the frame's motion from noise in a few passes (after Li et al.,
"Autoregressive Image Generation without Vector Quantization", 2024). Positions are ages, which roll for ever.

Axes: B sequences, T frames, D values of motion, F features heard, L labels, W ring, H heads, E width of a head.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@dataclass
class Shape:
    """Sizes of one network."""

    values: int
    """D."""
    features: int
    labels: int
    width: int = 128
    layers: int = 3
    heads: int = 4
    window: int = 50
    """Frames of the past, this one included, that are attended to."""
    head: int = 192
    blocks: int = 2
    momentum: bool = False
    """Values are generated as what their own last two frames do not foretell, and the last move is read as well."""


class Layer(nn.Module):
    """Pre-norm attention over the last `window` frames and a learned sink, and an MLP."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.heads, self.window = shape.heads, shape.window
        width = shape.width
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 3 * width), nn.Linear(3 * width, width)
        self.bias_HW = nn.Parameter(torch.zeros(shape.heads, shape.window))
        """Attention by age."""
        self.sink_HE = nn.Parameter(0.02 * torch.randn(2, shape.heads, width // shape.heads))
        """Key and value that never leave the window: attention has somewhere to rest."""

    def split(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, width) -> queries, keys, values (B, H, T, E)."""
        b, t, _ = x.shape
        q, k, v = self.qkv(self.norm1(x)).view(b, t, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        return q, k, v

    def attend(self, q: Tensor, k: Tensor, v: Tensor, bias: Tensor) -> Tensor:
        """q (B, H, T, E), k, v (B, H, S, E), bias (..., T, S) -> (B, T, width)."""
        scale = 1 / math.sqrt(q.shape[-1])
        scores = q @ k.transpose(-1, -2) * scale + bias
        sink = (q * self.sink_HE[0][:, None]).sum(-1, keepdim=True) * scale
        weights = torch.softmax(torch.cat([sink, scores], -1), -1)
        mixed = weights[..., 1:] @ v + weights[..., :1] * self.sink_HE[1][:, None]
        return mixed.transpose(1, 2).flatten(2)

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        x = x + self.out(mixed)
        return x + self.down(F.gelu(self.up(self.norm2(x)), approximate="tanh"))

    def forward(self, x: Tensor, age_TT: Tensor, outside_TT: Tensor) -> Tensor:
        """All frames at once."""
        q, k, v = self.split(x)
        bias = self.bias_HW[:, age_TT].masked_fill(outside_TT, -1e9)
        return self.finish(x, self.attend(q, k, v, bias))

    def step(
        self, x: Tensor, keys: Tensor, values: Tensor, here_BW: Tensor, age_BW: Tensor, outside_BW: Tensor
    ):  # type: ignore[no-untyped-def]
        """One frame x (B, 1, width) with the ring keys, values (B, H, W, E); gives x and the ring after it."""
        q, k, v = self.split(x)
        at = here_BW[:, None, :, None]
        keys, values = torch.where(at, k, keys), torch.where(at, v, values)
        bias = self.bias_HW.T[age_BW].permute(0, 2, 1)[:, :, None]  # (B, H, 1, W)
        bias = bias - 1e9 * outside_BW[:, None, None]
        return self.finish(x, self.attend(q, keys, values, bias)), keys, values


class FlowHead(nn.Module):
    """x_hat of one frame from x_t, t, the step's size and the transformer's output: an MLP with adaptive norms."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        wide = shape.head
        self.enter = nn.Linear(shape.values, wide)
        self.condition = nn.Linear(shape.width, wide)
        self.time = nn.Linear(32, wide)
        self.modulate = nn.ModuleList(nn.Linear(wide, 3 * wide) for _ in range(shape.blocks))
        self.first = nn.ModuleList(nn.Linear(wide, wide) for _ in range(shape.blocks))
        self.second = nn.ModuleList(nn.Linear(wide, wide) for _ in range(shape.blocks))
        self.norm = nn.LayerNorm(wide, elementwise_affine=False)
        self.leave = nn.Linear(wide, shape.values)
        self.mean = nn.Linear(shape.width, shape.values)
        self.register_buffer("waves", torch.exp(torch.linspace(0, math.log(60.0), 8)))
        for layer in self.modulate:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    def forward(self, x_t: Tensor, t: Tensor, size: Tensor, context: Tensor) -> Tensor:
        """x_t (..., D); t and size (..., 1); context (..., width) -> x_hat (..., D)."""
        phase_t, phase_s = t * self.waves, size * self.waves
        told = torch.cat([phase_t.sin(), phase_t.cos(), phase_s.sin(), phase_s.cos()], -1)
        condition = F.silu(self.condition(context) + self.time(told))
        x = self.enter(x_t)
        for modulate, first, second in zip(self.modulate, self.first, self.second, strict=True):
            scale, shift, gate = modulate(condition).chunk(3, -1)
            inner = self.norm(x) * (1 + scale) + shift
            x = x + (1 + gate) * second(F.silu(first(inner)))
        return self.leave(self.norm(x)) + self.mean(context)


class MotionNet(nn.Module):
    """Transformer and head; motion in and out is normalised by `centre` and `spread`."""

    def __init__(self, shape: Shape) -> None:
        super().__init__()
        self.shape = shape
        self.enter = nn.Linear(
            shape.values * (2 if shape.momentum else 1) + shape.features + shape.labels, shape.width
        )
        self.layers = nn.ModuleList(Layer(shape) for _ in range(shape.layers))
        self.norm = nn.LayerNorm(shape.width)
        self.head = FlowHead(shape)
        self.register_buffer("hears", torch.ones(shape.features))
        """1 for the features that this network listens to."""
        self.register_buffer("centre", torch.zeros(shape.values))
        self.register_buffer("spread", torch.ones(shape.values))
        self.register_buffer("persistence", torch.zeros(2, shape.values))
        """Linear prediction of a value's distance from its centre from those one and two frames before."""
        self.register_buffer("stride", torch.ones(shape.values))
        """What is generated, in units of the values."""
        self.register_buffer("pace", torch.ones(shape.values))
        """A usual move of one frame."""
        self.register_buffer("tells", torch.ones(shape.values))
        """1 for values whose last move is read; 0 where something else moves them (eyes)."""

    def foretold(self, before: Tensor, moved: Tensor) -> Tensor:
        """What the linear prediction says of the frame after `before`, which had `moved` (in paces)."""
        first, second = self.persistence
        return self.centre + (first + second) * (before - self.centre) - second * moved * self.pace

    def generated(self, x: Tensor, before: Tensor, moved: Tensor) -> Tensor:
        """What the head generates of frames x (..., D) that follow `before`, at unit scale."""
        return (x - self.foretold(before, moved)) / self.stride

    def shown(self, y: Tensor, before: Tensor, moved: Tensor) -> Tensor:
        """The inverse: values (..., D) of what was generated, kept within bounds."""
        x = y.clamp(-16, 16) * self.stride + self.foretold(before, moved)
        return self.centre + ((x - self.centre) / self.spread).clamp(-5, 5) * self.spread

    def move(self, x: Tensor, before: Tensor) -> Tensor:
        """How far x is from the frame before, in paces."""
        return (x - before) / self.pace

    def past(self, before: Tensor, moved: Tensor) -> Tensor:
        """What the transformer reads of the frame before: where it was and, with momentum, how it moved."""
        place = (before - self.centre) / self.spread
        return torch.cat([place, moved * self.tells], -1) if self.shape.momentum else place

    def forward(self, past_BTD: Tensor, heard_BTF: Tensor, labels_BTL: Tensor) -> Tensor:
        """Contexts (B, T, width) of frames whose predecessors are `past` (normalised)."""
        t, window = past_BTD.shape[1], self.shape.window
        place = torch.arange(t, device=past_BTD.device)
        age = place[:, None] - place
        outside = (age < 0) | (age >= window)
        age = age.clamp(0, window - 1)
        x = self.enter(torch.cat([past_BTD, heard_BTF * self.hears, labels_BTL], -1))
        for layer in self.layers:
            x = layer(x, age, outside)
        return self.norm(x)

    def step(self, past_BD: Tensor, heard_BF: Tensor, labels_BL: Tensor, keys: Tensor, values: Tensor,
             index_B: Tensor, filled_B: Tensor):  # type: ignore[no-untyped-def]  # fmt: skip
        """One frame: context (B, width) and rings after it; keys, values (B, layers, H, W, E), index the slot to write,
        filled how many slots hold frames."""
        window = self.shape.window
        slots = torch.arange(window, device=past_BD.device)
        here = slots[None] == index_B[:, None]
        age = torch.remainder(index_B[:, None] - slots[None], window)
        outside = (age > filled_B[:, None]).float()
        x = self.enter(torch.cat([past_BD, heard_BF * self.hears, labels_BL], -1))[:, None]
        new_keys, new_values = [], []
        for k, layer in enumerate(self.layers):
            x, key, value = layer.step(x, keys[:, k], values[:, k], here, age, outside)
            new_keys.append(key)
            new_values.append(value)
        return self.norm(x)[:, 0], torch.stack(new_keys, 1), torch.stack(new_values, 1)
