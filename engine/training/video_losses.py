"""Losses of stage 2: what makes an estimate of a frame good."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class _Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        width = 64
        self.conv = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(x) + x)


class Features(nn.Module):
    """The first stages of the tiny autoencoder `taef2`'s encoder (madebyollin/taesd, MIT), frozen: what pictures look like from further away."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.stage0 = nn.Sequential(nn.Conv2d(3, 64, 3, padding=1), _Residual())
        self.stage1 = nn.Sequential(
            nn.Conv2d(64, 64, 3, 2, 1, bias=False), _Residual(), _Residual(), _Residual()
        )
        self.stage2 = nn.Sequential(
            nn.Conv2d(64, 64, 3, 2, 1, bias=False), _Residual(), _Residual(), _Residual()
        )
        state = torch.load(path, map_location="cpu", weights_only=True)
        for offset, stage in ((0, self.stage0), (2, self.stage1), (6, self.stage2)):
            own = stage.state_dict()
            stage.load_state_dict(
                {k: state[f"{int(k.split('.')[0]) + offset}.{k.split('.', 1)[1]}"] for k in own}
            )
        self.requires_grad_(False)

    def forward(self, picture: Tensor) -> list[Tensor]:
        """Pictures (B, 3, H, W) in 0..1 -> features at full, half and quarter size."""
        full = self.stage0(picture)
        half = self.stage1(full)
        return [full, half, self.stage2(half)]

    def distance(self, made: Tensor, real: Tensor) -> Tensor:
        """Mean distance of the features, each stage scaled by the real one's spread."""
        with torch.no_grad():
            goal = self(real)
        return torch.stack(
            [F.l1_loss(a, b) / (b.abs().mean() + 1e-3) for a, b in zip(self(made), goal, strict=True)]
        ).mean()


def patches(picture: Tensor, middle: Tensor, side: int) -> Tensor:
    """Squares (B, C, side, side) of pictures (B, C, H, W) about `middle` (B, 2), x y in pixels, clipped to the picture."""
    height, width = picture.shape[2:]
    out = []
    for image, (x, y) in zip(picture, middle.tolist(), strict=True):
        x0 = int(min(max(x - side / 2, 0), width - side))
        y0 = int(min(max(y - side / 2, 0), height - side))
        out.append(image[:, y0 : y0 + side, x0 : x0 + side])
    return torch.stack(out)


def edges(made: Tensor, real: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 of horizontal and vertical differences: sharpness that a mean of colours does not see."""
    across = (made[..., 1:] - made[..., :-1]) - (real[..., 1:] - real[..., :-1])
    down = (made[..., 1:, :] - made[..., :-1, :]) - (real[..., 1:, :] - real[..., :-1, :])
    return (across.abs() * weight[..., 1:]).mean() + (down.abs() * weight[..., 1:, :]).mean()


def texture(made: Tensor, real: Tensor, weight: Tensor) -> Tensor:
    """Weighted L1 of how much fine detail there is about each pixel, wherever exactly it lies: a mean of pictures that lie a pixel apart is a blur,
    and nearer to each in L1 than a sharp one."""

    def amount(picture: Tensor) -> Tensor:
        detail = (picture - F.avg_pool2d(picture, 5, 1, 2, count_include_pad=False)).abs()
        return F.avg_pool2d(detail, 7, 1, 3, count_include_pad=False)

    return ((amount(made) - amount(real)).abs() * weight).mean()


class Critic(nn.Module):
    """A small patch discriminator on mouth squares (hinge loss), told the warp."""

    def __init__(self, width: int = 32) -> None:
        super().__init__()

        def layer(a: int, b: int) -> nn.Module:
            return nn.utils.parametrizations.spectral_norm(nn.Conv2d(a, b, 4, 2, 1))

        self.layers = nn.Sequential(
            layer(6, width), nn.LeakyReLU(0.2), layer(width, 2 * width), nn.LeakyReLU(0.2),
            layer(2 * width, 4 * width), nn.LeakyReLU(0.2),
            nn.utils.parametrizations.spectral_norm(nn.Conv2d(4 * width, 1, 3, 1, 1)),
        )  # fmt: skip

    def forward(self, picture: Tensor, warp: Tensor) -> Tensor:
        """Scores (B, 1, h, w), high where the picture seems real."""
        return self.layers(torch.cat([picture, warp], 1) * 2 - 1)
