"""Test pictures made from the demo photo."""

from __future__ import annotations

import functools
from pathlib import Path

import cv2
import numpy as np
import visavis.engine
from visavis.engine.body.photo import load_photo

ASTRONAUT = Path(visavis.engine.__file__).parent / "assets" / "astronaut.png"


@functools.cache
def astronaut() -> np.ndarray:
    """The demo photo (512, 512, 3): a face of about 110 px at (225, 115)."""
    rgb = load_photo(ASTRONAUT).rgb
    rgb.flags.writeable = False
    return rgb


def bust(size: int) -> np.ndarray:
    """Head and shoulders cut out of it, (size, size, 3); the face takes about half of the side."""
    return cv2.resize(astronaut()[10:230, 115:335], (size, size), interpolation=cv2.INTER_CUBIC)


def canvas(height: int, width: int, *placed: tuple[np.ndarray, int, int]) -> np.ndarray:
    """A grey picture with pictures placed at (x, y)."""
    out = np.full((height, width, 3), 110, np.uint8)
    for picture, x, y in placed:
        out[y : y + picture.shape[0], x : x + picture.shape[1]] = picture
    return out
