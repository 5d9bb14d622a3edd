"""The paste of a painted square in plain numpy: what paste_plan.cu, composite.cu and their CPU twins compute."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def planned(
    colour: NDArray[np.uint8],
    under: NDArray[np.uint8],
    mask: NDArray[np.float32],
    window: NDArray[np.float32],
) -> NDArray[np.int64]:
    """What a painted square changes, in numpy, in whole numbers where the kernel has them."""
    f = np.float32
    side = len(colour)
    weight = (np.clip(np.nan_to_num(mask), 0, 1) * (f(255) * np.outer(window, window)) + f(0.5)).astype(int)
    change = (weight[..., None] * (colour.astype(int) - under) * 16448 + 32768) >> 16
    before = 4 * under.astype(int).sum(-1)

    def fine(picture):
        around = np.pad(picture, 1, "edge")
        return 9 * picture - sum(around[y : y + side, x : x + side] for y in range(3) for x in range(3))

    def summed(picture):
        around = np.pad(picture.astype(object), 4)  # of any size
        return sum(around[y : y + side, x : x + side] for y in range(9) for x in range(9))

    old = fine(before)
    lost = summed(old * (old - fine(before + (change.sum(-1) >> 4))))
    had = summed(old * old) + 472392
    share = np.array(
        [[min((max(a, 0) * 16384 + b // 2) // b, 16384) for a, b in zip(*row, strict=True)] for row in zip(lost, had, strict=True)]
    )  # fmt: skip
    share = (share * (32768 - share)) >> 14
    return np.dstack([change + ((share[..., None] * under.astype(int) + 128) >> 8), share])


def pasted(
    frame: NDArray[np.uint8], plan: NDArray[np.int64], placement: tuple[float, float, float]
) -> NDArray[np.uint8]:
    """A plan over a frame, in numpy, in whole numbers where the kernel has them."""
    f = np.float32
    side = len(plan)
    axes = []
    for n, origin in ((frame.shape[0], placement[2]), (frame.shape[1], placement[1])):
        u = f(placement[0]) * (np.arange(n, dtype=f) + f(0.5)) + f(origin)
        q = np.floor(u * f(256) - f(127.5)).astype(int)
        low, high = np.clip(q >> 8, 0, side - 1), np.clip((q >> 8) + 1, 0, side - 1)
        axes.append((np.where(q >> 8 < 0, 0, low), high, q & 255, (u >= 0) & (u <= side)))
    (r0, r1, fy, in_y), (c0, c1, fx, in_x) = axes
    fy, fx = fy[:, None, None], fx[None, :, None]
    left = (plan[r0][:, c0] * (256 - fy) + plan[r1][:, c0] * fy + 128) >> 8
    right = (plan[r0][:, c1] * (256 - fy) + plan[r1][:, c1] * fy + 128) >> 8
    over = ((left * (256 - fx) + right * fx + 128) >> 8) * (in_y[:, None] & in_x[None, :])[..., None]
    mixed = (frame.astype(int) * (16384 - over[..., 3:]) + over[..., :3] * 256 + 8192) >> 14
    return np.clip(mixed, 0, 255).astype(np.uint8)


def painting(
    rng: np.random.Generator, side: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8], NDArray[np.float32], NDArray[np.float32]]:
    """A square as the video network may paint it: like what lies under it, like something else, or like neither."""
    under = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    kind = rng.integers(0, 5)
    if kind == 4:  # as fine as can be
        under[:] = 255 * rng.integers(0, 2, (side, side, 1))
    if kind == 0:
        under[:] = rng.integers(0, 256, 3)
    colour = rng.integers(0, 256, (side, side, 3), dtype=np.uint8)
    if kind == 1:
        colour = np.clip(under.astype(int) * float(rng.uniform(0, 1.5)) + 20, 0, 255).astype(np.uint8)
    mask = rng.uniform(-0.5, 1.5, (side, side)).astype(np.float32)
    if kind == 4:  # and its negative
        colour, mask[:] = 255 - under, 1
    if kind == 2:
        mask[rng.random(side) < 0.8] = 0
    mask[0, 0] = np.nan
    return colour, under, mask, rng.choice(np.array([0, 0.4, 1], np.float32), side)
