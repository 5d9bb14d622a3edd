"""What the video network is told of a posed frame besides the warp itself: masks of the parts that a warp cannot know.

Shared by training and the live product.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from visavis.engine.body.model import load_body

MOUTH = ("upperTeeth", "lowerTeeth", "tongue")
LIPS = ("lips",)
EYES = ("eyeLeft", "eyeRight")


@lru_cache(maxsize=1)
def _table() -> npt.NDArray[np.float32]:
    parts = load_body().parts
    table = np.zeros((3, 256), np.float32)
    for row, names in zip(table, (MOUTH, LIPS, EYES), strict=True):
        row[[parts.index(name) for name in names]] = 1
    return table


def part_masks(part: npt.NDArray[np.uint8], coverage: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Part labels and coverage (N, H, W) -> masks (N, 4, H, W) in 0..1: mouth interior, lips, eyes, coverage of the person."""
    out = np.empty((len(part), 4, *part.shape[1:]), np.float32)
    for k in range(3):
        np.take(_table()[k], part, out=out[:, k])
    np.multiply(coverage, np.float32(1 / 255), out=out[:, 3], casting="unsafe")
    return out
