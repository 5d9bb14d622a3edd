"""What the sizes of stage 2 cost: computed, not measured.

    python -m visavis.engine.training.video_sizes [--share 0.35]

Operations are counted on the networks themselves (torch's FLOP counter, one frame of one session); frame rates divide a GPU's dense bf16 peak, by its
data sheet, times `--share` of it that small convolutions reach, by those operations, or its memory bandwidth by the bytes of weights and state that a
batch of one reads, whichever is slower.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode
from visavis.engine.training.video_model import MASKS, SIZES, VideoConfig, VideoNet

GPUS = {"H100 SXM": (989e12, 3.35e12), "RTX 4090": (165e12, 1.01e12), "L4": (121e12, 0.30e12)}
"""Dense bf16 FLOP/s and bytes/s."""


@dataclass(frozen=True)
class Cost:
    """Of one frame: operations of the features and of one sampler step; parameters; bytes of one session's state; bytes of training a
    batch of eight whole crops without recomputation (activations counted as four maps a block, fp32, plus Adam's state)."""

    frame: float
    step: float
    parameters: int
    state_bytes: float
    training_bytes: float


def cost(config: VideoConfig) -> Cost:
    """Count one size."""
    net = VideoNet(config).eval()
    c, n, width = config.crop, (config.crop // 16) ** 2, 2 * config.widths[2]
    picture, corner = torch.zeros(1, 3, c, c), torch.full((1, 2), -1.0)
    sink = torch.zeros(1, config.attention, n, width)
    ring = torch.zeros(1, config.attention, config.window, n, width)
    with torch.no_grad(), FlopCounterMode(display=False) as frame:
        net.frame(picture, picture, torch.zeros(1, MASKS, c, c), picture, corner, sink, ring)
    with torch.no_grad(), FlopCounterMode(display=False) as step:
        net.step(torch.zeros(1, config.step_width, c // 4, c // 4), picture, torch.zeros(1), picture)
    parameters = sum(p.numel() for p in net.parameters())
    maps = 0
    for k, w in enumerate(config.widths):
        blocks = config.blocks[k] + (config.up[k] if k < 2 else config.attention)
        maps += 4 * blocks * w * (c // 4 // 2**k) ** 2
    maps += 4 * 4 * config.step_blocks * config.step_width * (c // 4) ** 2
    state = 4.0 * (ring.numel() + sink.numel() + 2 * picture.numel())
    return Cost(
        frame.get_total_flops(), step.get_total_flops(), parameters, state, 16.0 * parameters + 8 * 4.0 * maps
    )


def main(argv: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--share", type=float, default=0.35, help="share of the peak that is reached (default: %(default)s)"
    )
    args = parser.parse_args(argv)
    print(
        "| size | parameters | GFLOP frame + step | state a session | training, batch 8 | "
        + " | ".join(f"frames/s {g}, 2 steps (computed)" for g in GPUS)
        + " |"
    )
    print("|" + "---|" * (5 + len(GPUS)))
    for name, config in SIZES.items():
        one = cost(config)
        total = one.frame + 2 * one.step
        rates = [
            min(args.share * peak / total, bandwidth / (2 * one.parameters + one.state_bytes))
            for peak, bandwidth in GPUS.values()
        ]
        print(
            f"| {name} | {one.parameters / 1e6:.1f} M | {one.frame / 1e9:.2f} + {one.step / 1e9:.2f} | {one.state_bytes / 1e6:.1f} MB"
            f" | {one.training_bytes / 1e9:.1f} GB | " + " | ".join(f"{rate:,.0f}" for rate in rates) + " |"
        )


if __name__ == "__main__":
    main()
