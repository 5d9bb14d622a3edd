"""The networks of stage 2: what they compute. Training is in `video.py`, data in `video_data.py`.

Three networks, so that nothing is computed twice in a live call:

- `PhotoNet`, once an avatar: the photo's crop to keys and values, the attention sink of every frame (StreamingLLM's
  idea, with a real picture as the sink);
- `FrameNet`, once a frame: warped photo, controls and the previous frame to features; attends to the photo and to
  a ring of the last frames' keys and values;
- `StepNet`, once a sampler step: features, noisy frame and time to colour and blend mask, the estimate of the clean frame
  (x-prediction, as in "Back to Basics: Let Denoising Generative Models Denoise", Li and He 2025).

No normalisation over batch or picture (as in EDSR): residual branches start at zero. Pictures are (B, C, 256, 256) in 0..1.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

PATCH = 4
"""Pixels along each side of one cell of the finest feature map."""
SHUT = -3.0
"""What gates start at before the sigmoid."""
MASKS = 4
"""Full-resolution masks: mouth interior, lips, eyes, coverage."""


@dataclass(frozen=True)
class VideoConfig:
    """Size of the networks. `widths` at 1/4, 1/8 and 1/16 of the crop; `blocks` down at each, `up` at the upper two; `window` frames
    remembered by attention besides the photo; `head` width and blocks of `StepNet`."""

    name: str = "tiny"
    widths: tuple[int, int, int] = (32, 64, 128)
    blocks: tuple[int, int, int] = (1, 2, 2)
    up: tuple[int, int] = (1, 2)
    attention: int = 2
    heads: int = 4
    window: int = 2
    step_width: int = 32
    step_blocks: int = 1
    crop: int = 256

    def to_dict(self) -> dict[str, object]:
        """For the checkpoint."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> VideoConfig:
        """What `to_dict` gave, also where JSON has made lists of its tuples."""
        return cls(
            **{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        )


SIZES: dict[str, VideoConfig] = {
    "tiny": VideoConfig(),
    "base": VideoConfig("base", (96, 192, 384), (2, 4, 4), (3, 3), 4, 6, 4, 96, 3),
    "large": VideoConfig("large", (192, 384, 768), (3, 6, 8), (4, 4), 8, 12, 8, 192, 4),
}


class Block(nn.Module):
    """Residual pair of 3x3 convolutions; the second starts at zero. `film` scales and shifts between them."""

    def __init__(self, width: int, film: int = 0) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        assert self.second.bias is not None
        nn.init.zeros_(self.second.bias)
        self.film = nn.Linear(film, 2 * width) if film else None
        if self.film is not None:
            nn.init.zeros_(self.film.weight)
            nn.init.zeros_(self.film.bias)

    def forward(self, x: Tensor, condition: Tensor | None = None) -> Tensor:
        h = self.first(F.silu(x))
        if self.film is not None:
            assert condition is not None
            scale, shift = self.film(condition)[:, :, None, None].chunk(2, 1)
            h = h * (1 + scale) + shift
        return x + self.second(F.silu(h))


def _fourier(x: Tensor, octaves: int) -> Tensor:
    """Sines and cosines of (B, C, H, W) in octaves: (B, 2 C octaves, H, W)."""
    scaled = torch.cat([x * (math.pi * 2**k) for k in range(octaves)], 1)
    return torch.cat([scaled.sin(), scaled.cos()], 1)


def cells(picture: Tensor) -> Tensor:
    """(B, C, H, W) to (B, 16 C, H / 4, W / 4)."""
    return F.pixel_unshuffle(picture, PATCH)


def place(height: int, width: int, origin: Tensor, extent: int) -> Tensor:
    """Coordinates (B, 2, height, width) in -1..1 of the cells of a window of the crop; `origin` (B, 2) its corner, x y, in -1..1; a whole
    crop has `extent` cells."""
    step = 2.0 / extent
    y, x = torch.meshgrid(
        torch.arange(height, dtype=torch.float32) * step + 0.5 * step,
        torch.arange(width, dtype=torch.float32) * step + 0.5 * step,
        indexing="ij",
    )
    return torch.stack([x, y])[None] + origin[:, :, None, None]


class Attention(nn.Module):
    """Attention of a frame's cells to the photo's, to earlier frames' and to their own; keys carry their age."""

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        width = config.widths[2]
        self.heads = config.heads
        self.norm = nn.LayerNorm(width)
        self.q = nn.Linear(width, width, bias=False)
        self.kv = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        nn.init.zeros_(self.out.weight)
        nn.init.zeros_(self.out.bias)
        self.age = nn.Parameter(torch.zeros(config.window + 2, width))  # photo, oldest .. newest, own

    def keys(self, tokens: Tensor) -> Tensor:
        """Keys and values (B, N, 2 width) of cells (B, N, width): what the ring keeps."""
        return self.kv(self.norm(tokens))

    def forward(self, x: Tensor, memory: Tensor) -> Tensor:
        """x (B, N, width); memory (B, 2 + window, N', 2 width): photo, earlier frames, own."""
        batch, n, width = x.shape
        size = width // self.heads
        k, v = memory.chunk(2, -1)
        k = k + self.age[None, :, None, :]

        def split(t: Tensor) -> Tensor:
            return t.reshape(batch, -1, self.heads, size).transpose(1, 2)

        q, k, v = split(self.q(self.norm(x))), split(k), split(v)
        score = (q @ k.transpose(-1, -2)) * (1 / math.sqrt(size))
        h = (score.softmax(-1) @ v).transpose(1, 2).reshape(batch, n, width)
        return x + self.out(h)


class PhotoNet(nn.Module):
    """The photo's crop and its controls to keys and values of every attention layer."""

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        a, b, c = config.widths
        self.enter = nn.Conv2d((3 + MASKS) * PATCH**2 + 3, a, 1)
        self.stages = nn.Sequential(
            Block(a), nn.Conv2d(a, b, 2, 2), Block(b), Block(b), nn.Conv2d(b, c, 2, 2), Block(c)
        )
        self.where = nn.Conv2d(2 * 4 * 2 + 2 * 4 * 3, c, 1)
        self.kv = nn.ModuleList(nn.Linear(c, 2 * c, bias=False) for _ in range(config.attention))
        self.norm = nn.LayerNorm(c)
        self.extent = config.crop // 16

    def forward(self, photo: Tensor, masks: Tensor, position: Tensor, origin: Tensor) -> Tensor:
        """photo (B, 3, H, W), masks (B, MASKS, H, W), position (B, 3, H, W), origin (B, 2) -> (B, layers, N, 2 width)."""
        small = position[:, :, 2::PATCH, 2::PATCH]
        h = self.stages(self.enter(torch.cat([cells(photo), cells(masks), small], 1)))
        h = h + self.where(_where(h, position, origin, self.extent))
        tokens = self.norm(h.flatten(2).transpose(1, 2))
        return torch.stack([kv(tokens) for kv in self.kv], 1)


def _where(h: Tensor, position: Tensor, origin: Tensor, extent: int) -> Tensor:
    at = place(h.shape[2], h.shape[3], origin, extent)
    return torch.cat([_fourier(at, 4), _fourier(position[:, :, 8::16, 8::16], 4)], 1)


class FrameNet(nn.Module):
    """Controls and history to the features that every sampler step of the frame shares."""

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        a, b, c = config.widths
        self.config = config
        self.enter = nn.Conv2d((3 + 3 + MASKS) * PATCH**2 + 3, a, 1)
        self.down0 = nn.Sequential(*(Block(a) for _ in range(config.blocks[0])))
        self.to1 = nn.Conv2d(a, b, 2, 2)
        self.down1 = nn.Sequential(*(Block(b) for _ in range(config.blocks[1])))
        self.to2 = nn.Conv2d(b, c, 2, 2)
        self.where = nn.Conv2d(2 * 4 * 2 + 2 * 4 * 3, c, 1)
        self.deep = nn.ModuleList(Block(c) for _ in range(config.blocks[2] + config.attention))
        self.attention = nn.ModuleList(Attention(config) for _ in range(config.attention))
        self.from2 = nn.Conv2d(c, 4 * b, 1)
        self.up1 = nn.Sequential(*(Block(b) for _ in range(config.up[1])))
        self.from1 = nn.Conv2d(b, 4 * a, 1)
        self.up0 = nn.Sequential(*(Block(a) for _ in range(config.up[0])))
        self.leave = nn.Conv2d(a, config.step_width, 1)

    def forward(
        self,
        warp: Tensor,
        previous: Tensor,
        masks: Tensor,
        position: Tensor,
        origin: Tensor,
        photo: Tensor,
        ring: Tensor | None,
        frames: int = 1,
    ) -> tuple[Tensor, Tensor]:
        """Features (B, step_width, H/4, W/4) and the frame's own keys and values (B, layers, N, 2 width).

        photo (B, layers, N', 2 width). In a live call `ring` (B, layers, window, N, 2 width) holds the frames before, oldest first. In
        training the batch is clips of `frames` frames (B = clips x frames), `ring` is None: each frame attends to those before it
        in its clip, and to the photo in the place of those before the clip.
        """
        window = self.config.window
        small = position[:, :, 2::PATCH, 2::PATCH]
        h0 = self.down0(self.enter(torch.cat([cells(warp), cells(previous), cells(masks), small], 1)))
        h1 = self.down1(self.to1(h0))
        h = self.to2(h1)
        h = h + self.where(_where(h, position, origin, self.config.crop // 16))
        fresh = []
        for k, block in enumerate(self.deep):
            h = block(h)
            at = k - (len(self.deep) - len(self.attention))
            if at >= 0:
                attention = self.attention[at]
                assert isinstance(attention, Attention)
                tokens = h.flatten(2).transpose(1, 2)
                own = attention.keys(tokens)
                if ring is None:
                    past = _earlier(own, photo[:, at], window, frames)
                else:
                    past = ring[:, at]
                memory = torch.cat([photo[:, at][:, None], past, own[:, None]], 1)
                tokens = attention(tokens, memory)
                h = tokens.transpose(1, 2).reshape(h.shape)
                fresh.append(own)
        h1 = self.up1(F.pixel_shuffle(self.from2(h), 2) + h1)
        h0 = self.up0(F.pixel_shuffle(self.from1(h1), 2) + h0)
        return self.leave(F.silu(h0)), torch.stack(fresh, 1)


def _earlier(own: Tensor, photo: Tensor, window: int, frames: int) -> Tensor:
    """Keys of the `window` frames before each (clips x frames, window, N, width), the photo's before the clip's start."""
    clips = own.reshape(-1, frames, *own.shape[1:])
    start = photo.reshape(-1, frames, *photo.shape[1:])[:, :1].expand(-1, window, -1, -1)
    padded = torch.cat([start, clips[:, :-1]], 1)
    past = torch.stack([padded[:, k : k + frames] for k in range(window)], 2)
    return past.reshape(-1, window, *own.shape[1:])


class StepNet(nn.Module):
    """Features, noisy frame and time to the clean frame's estimate."""

    octaves: Tensor

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        a = config.step_width
        time = 64
        self.time = nn.Sequential(nn.Linear(32, time), nn.SiLU(), nn.Linear(time, time), nn.SiLU())
        self.register_buffer("octaves", 2.0 ** (torch.arange(16) / 2 - 2), persistent=False)
        self.enter = nn.Conv2d(3 * PATCH**2, a, 1)
        self.first = nn.ModuleList(Block(a, time) for _ in range(config.step_blocks))
        self.down = nn.Conv2d(a, 2 * a, 2, 2)
        self.low = nn.ModuleList(Block(2 * a, time) for _ in range(config.step_blocks))
        self.up = nn.Conv2d(2 * a, 4 * a, 1)
        self.last = nn.ModuleList(Block(a, time) for _ in range(config.step_blocks))
        self.leave = nn.Conv2d(a, 5 * PATCH**2, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        assert self.leave.bias is not None
        nn.init.zeros_(self.leave.bias)
        with torch.no_grad():  # blend and softening start almost shut: the warp is the first guess
            self.leave.bias[3 * PATCH**2 :] = SHUT
        self.register_load_state_dict_pre_hook(_without_softening)

    def forward(self, features: Tensor, noisy: Tensor, t: Tensor, warp: Tensor) -> tuple[Tensor, Tensor]:
        """noisy (B, 3, H, W) in about -1..1, t (B,), warp (B, 3, H, W) in 0..1 -> colour (B, 3, H, W) in 0..1 where the network is sure, mask
        (B, 1, H, W) in 0..1. The clean frame is mask colour + (1 - mask) warp."""
        angles = t[:, None] * (math.pi * 0.5) * self.octaves[None]
        condition = self.time(torch.cat([angles.sin(), angles.cos()], 1))
        h = self.enter(cells(noisy)) + features
        for block in self.first:
            h = block(h, condition)
        low = self.down(h)
        for block in self.low:
            low = block(low, condition)
        h = h + F.pixel_shuffle(self.up(low), 2)
        for block in self.last:
            h = block(h, condition)
        colour, gates = self.leave(F.silu(h)).split([3 * PATCH**2, 2 * PATCH**2], 1)
        mask, soften = torch.sigmoid(F.pixel_shuffle(gates, PATCH)).chunk(2, 1)
        # The colour is a change of the warp's, where the network asks for it of the warp without its details: a row of modelled teeth that
        # is not there could only be painted over by its exact negative, and speckles stay.
        base = warp + soften * (softened(warp) - warp)
        return base + F.pixel_shuffle(colour, PATCH), mask


class VideoNet(nn.Module):
    """The three together."""

    def __init__(self, config: VideoConfig) -> None:
        super().__init__()
        self.config = config
        self.photo = PhotoNet(config)
        self.frame = FrameNet(config)
        self.step = StepNet(config)


def softened(picture: Tensor) -> Tensor:
    """A picture without details finer than a tooth (a tent of 13 pixels)."""
    wide = F.pad(picture, (6, 6, 6, 6), mode="replicate")
    for size in ((7, 1), (7, 1), (1, 7), (1, 7)):
        wide = F.avg_pool2d(wide, size, 1)
    return wide


def _without_softening(module: nn.Module, state: dict[str, Tensor], prefix: str, *_: object) -> None:
    """Weights from before the step network could soften load as ones that do not."""
    weight, bias = state.get(f"{prefix}leave.weight"), state.get(f"{prefix}leave.bias")
    if weight is None or bias is None or len(weight) != 4 * PATCH**2:
        return
    state[f"{prefix}leave.weight"] = torch.cat([weight, weight.new_zeros(PATCH**2, *weight.shape[1:])])
    state[f"{prefix}leave.bias"] = torch.cat([bias, bias.new_full((PATCH**2,), SHUT)])


def blended(colour: Tensor, mask: Tensor, warp: Tensor) -> Tensor:
    """The clean frame's estimate."""
    return warp + mask * (colour - warp)
