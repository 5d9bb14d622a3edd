"""Lips that meet: what opens a mouth is scaled down until they do, whatever else the mouth is doing.

A regression to the mean of what lips do leaves them apart at many a p, b and m; the speech encoder knows better that one was said than
how far the mouth opens, so what it hears shuts the lips directly.
"""

from __future__ import annotations

import numpy as np
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.motion.layout import FACE

_APERTURE = {
    "jawOpen": 0.3611, "mouthClose": -0.3633, "mouthFunnel": 0.1331, "mouthPucker": 0.0021, "mouthRollLower": -0.0402,
    "mouthRollUpper": -0.0453, "mouthShrugLower": -0.049, "mouthShrugUpper": 0.0495, "mouthFrown": 0.0016,
    "mouthLowerDown": 0.046, "mouthPress": -0.0332, "mouthSmile": -0.0348, "mouthStretch": 0.0032, "mouthUpperUp": 0.0554,
}  # fmt: skip
APERTURE = np.array([_APERTURE.get(name, 0.0) for name in FACE], np.float32)
"""How far each FACE value parts the lips of the mean person, in distances between the outer eye corners."""
_WIDTH = {
    "jawOpen": -0.0523, "mouthClose": 0.056, "mouthFunnel": -0.0691, "mouthPucker": -0.0982, "mouthRollLower": -0.0012,
    "mouthRollUpper": 0.0034, "mouthShrugLower": -0.0003, "mouthDimple": 0.1219, "mouthFrown": 0.0279, "mouthLowerDown": 0.0003,
    "mouthPress": 0.136, "mouthSmile": 0.1636, "mouthStretch": 0.1244, "mouthUpperUp": -0.005,
}  # fmt: skip
WIDTH = np.array([_WIDTH.get(name, 0.0) for name in FACE], np.float32)
"""How much wider each makes that mouth, in the same unit."""
TOUCH = 0.004
"""The aperture of lips that meet."""
HEARD = (0.08, 0.25)
"""Probabilities of p, b or m at which lips begin to be shut, and are."""
_OPENING, _PULL = np.maximum(APERTURE, 0), np.minimum(APERTURE, 0)


def meet(face: FloatArray, strength: FloatArray) -> FloatArray:
    """FACE values (..., N) with lips that meet as far as `strength` (...), 0 to 1, says; lips that meet already are left alone."""
    opens, pulls = face @ _OPENING, face @ _PULL
    wanted = np.clip((TOUCH - pulls) / np.maximum(opens, 1e-4), 0, 1)
    factor = 1 - strength * (1 - wanted)
    return (face * np.where(_OPENING > 0, factor[..., None], 1)).astype(np.float32)


def heard_closed(probability: FloatArray) -> FloatArray:
    """How strongly lips are to be shut (...) at probabilities (...) of p, b or m."""
    low, high = HEARD
    return np.clip((probability - low) / (high - low), 0, 1).astype(np.float32)
