"""How this person's mouth goes with what is heard: a small correction of the mouth that the networks give, learned from film of the person.

The networks know the mouths of those they were trained on. How far and how wide one person opens at a vowel is that person's own; half a minute of
film tells it well enough for a ridge regression (`engine/articulate.py`) of what the lips really did onto what was heard and what the networks
said, over the last frames. Only aperture and width are corrected: the eye reads these two, and landmarks measure them well.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.motion.layout import FACE, PHONES
from visavis.engine.motion.lips import APERTURE, WIDTH
from visavis.engine.runtime.digest import digest_of

log = logging.getLogger(__name__)

LAGS = 9
"""Frames that are looked at: this one and those before."""
HEARD = len(FACE) + PHONES
"""Features that are looked at: mean mouth and phonemes; loudness and pitch differ between microphones and voices more than mouths do."""
INPUTS = HEARD + 2
"""Those, and aperture and width of the networks' mouth."""
OWN_SCALE = 3.0
"""How much more aperture and width count than a feature, which is between 0 and 1."""
MOST = np.array([0.12, 0.10], np.float32)
"""The largest correction of aperture and width, in distances between the outer eye corners."""
_OPENS = np.maximum(APERTURE, 0)
PARTS = np.zeros(len(FACE), np.float32)
for _name, _share in (("jawOpen", 0.75), ("mouthLowerDown", 0.15), ("mouthUpperUp", 0.10)):
    PARTS[FACE.index(_name)] = _share / APERTURE[FACE.index(_name)]
"""What parts the lips by 1 (len(FACE),)."""
WIDENS = np.zeros(len(FACE), np.float32)
for _name, _share in (("mouthStretch", 0.6), ("mouthDimple", 0.4)):
    WIDENS[FACE.index(_name)] = _share / WIDTH[FACE.index(_name)]
"""What widens the mouth by 1 (len(FACE),)."""
_SPREADS = np.where(WIDENS > 0, WIDTH, 0)
PUCKER = FACE.index("mouthPucker")
"""Which value purses it."""


def base_of(weights: Path) -> str:
    """Which networks lie in a folder: a digest of those that are corrected."""
    return digest_of(weights, ("motion_speech", "motion_face"))


class Corrects(Protocol):
    """What adds to a mouth's aperture and width."""

    @property
    def reach(self) -> float | None:
        """How far lips are apart in speech, None: as everybody's."""
        ...

    def added(self, past: FloatArray) -> FloatArray:
        """What to add (2,) given the last frames' inputs (LAGS, INPUTS), this one's first."""
        ...


@dataclass(frozen=True, eq=False)
class Articulation:
    """`weights` (LAGS, INPUTS, 2) and `offset` (2,): what is added to aperture and width; `reach`: how far this person's lips are apart in speech, in the
    mean, in distances between the outer eye corners (None: as everybody's); `base`: with which networks it was learned."""

    weights: FloatArray
    offset: FloatArray
    reach: float | None
    base: str

    def __post_init__(self) -> None:
        """ValueError where these are no such numbers."""
        if self.weights.shape != (LAGS, INPUTS, 2) or self.offset.shape != (2,):
            raise ValueError(f"an articulation of shape {self.weights.shape}, {self.offset.shape}")
        if not (np.isfinite(self.weights).all() and np.isfinite(self.offset).all()):
            raise ValueError("an articulation that is not finite")
        if self.reach is not None and not 0 < self.reach < 1:
            raise ValueError(f"a reach of {self.reach}")

    def added(self, past: FloatArray) -> FloatArray:
        """See Corrects."""
        told = np.tensordot(past, self.weights, 2) + self.offset
        return np.asarray(np.clip(told, -MOST, MOST), np.float32)


def usable(articulation: Articulation | None, weights: Path) -> Articulation | None:
    """An avatar's articulation, or None where it was learned with other networks than those in the folder."""
    if articulation is not None and articulation.base != base_of(weights):
        log.warning(
            "this person's articulation was learned with another version: enrol the film again; everybody's is used"
        )
        return None
    return articulation


def inputs_of(heard: FloatArray, face: FloatArray) -> FloatArray:
    """What the correction reads of a frame (INPUTS,): the features heard (FEATURES,) and the mouth (len(FACE),) that the networks make of them."""
    own = np.array([face @ APERTURE, face @ WIDTH], np.float32) * np.float32(OWN_SCALE)
    return np.concatenate([heard[:HEARD], own]).astype(np.float32)


def corrected(face: FloatArray, added: FloatArray) -> FloatArray:
    """The mouth (len(FACE),) with its aperture and width changed by `added` (2,), within what a mouth can do.

    What parts the lips is scaled, so that they keep their shape; beyond half as much again the jaw opens, and shut lips are parted by it.
    """
    out = face.astype(np.float32).copy()
    opens = float(out @ _OPENS)
    more = float(added[0])
    factor = 1 + np.clip(more / max(opens, 1e-4), -1, 0.5) if opens > 0.01 else 1.0
    out *= np.where(_OPENS > 0, np.float32(factor), np.float32(1))
    out += PARTS * np.float32(max(0.0, more - (factor - 1) * opens))
    wider = float(added[1])
    if wider > 0:  # a pursed mouth stops to be one first
        unpursed = min(float(-out[PUCKER] * WIDTH[PUCKER]), wider)
        out[PUCKER] += unpursed / WIDTH[PUCKER]
        out += WIDENS * np.float32(wider - unpursed)
    else:  # and a spread one to be spread
        spread = float(out @ _SPREADS)
        taken = min(spread, -wider)
        out *= np.where(_SPREADS > 0, np.float32(1 - taken / max(spread, 1e-4)), np.float32(1))
        out[PUCKER] += np.float32((wider + taken) / WIDTH[PUCKER])
    return np.clip(out, 0, 1)
