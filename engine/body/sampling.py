"""Pictures read between their pixels."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]


def sampled(image: npt.NDArray[Any], px: Float64) -> Float64:
    """Values of an image (H, W) or (H, W, C), uint8 or float32, at pixels (n, 2) or (n, m, 2), whose centres lie at halves: (n[, m][, C]), bilinear; beyond
    the border it is repeated."""
    x, y = (px[..., k].astype(np.float32) - np.float32(0.5) for k in (0, 1))
    found = cv2.remap(image, x, y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return np.asarray(found, np.float64).reshape(*px.shape[:-1], *image.shape[2:])
