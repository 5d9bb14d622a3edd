"""Stage 1 as the session sees it: sound in, all motion channels out.

`MotionSource` is the seam: a session needs nothing else of stage 1. Here it is filled by a network for the
mouth and a stochastic process for the rest; a generative model of all channels takes the same place.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.motion.channels import ARKIT, FACE_SLICE
from visavis.engine.motion.life import Life, SpeechCue
from visavis.engine.motion.speech import SpeechToFace


class MotionSource(Protocol):
    """Turns sound into motion, one frame out a step."""

    lookahead: int
    """How many frames the motion lags behind what is heard. A new source has heard this many frames of
    silence."""

    def step(self, heard: FloatArray) -> FloatArray:
        """Hear frames (n, 640) of mono 16 kHz sound, give the motion (N_CHANNELS,) of the frame `lookahead`
        frames before the last.

        n is 1 as a rule; more when speech starts and the frames before it are skipped; 0 when sound is
        missing: the person then lives on and the mouth comes to rest.
        """
        ...

    def hush(self) -> None:
        """Barge-in: forget what was heard; the mouth is at rest from the next frame on, or nearly so."""
        ...


@dataclass
class DirectorState:
    """What is remembered between steps besides the network's and the life's own state."""

    levels: deque[float]
    """Level in dB of the frames heard but not shown."""
    face: FloatArray = field(default_factory=lambda: np.zeros(len(ARKIT), np.float32))
    """The mouth shown last."""
    released: FloatArray = field(default_factory=lambda: np.zeros(len(ARKIT), np.float32))
    """What is left of a mouth that was stopped; fades within two frames."""


class MotionDirector:
    """SpeechToFace moves the mouth, Life everything else."""

    def __init__(self, seed: int = 0, lookahead: int = 2, speech: SpeechToFace | None = None) -> None:
        self.lookahead = lookahead
        self._speech = speech if speech is not None else SpeechToFace(lookahead)
        if self._speech.lookahead != lookahead:
            raise ValueError(
                f"the network looks {self._speech.lookahead} frames ahead, the director {lookahead}"
            )
        self._life = Life(seed)
        sides = np.random.default_rng([seed, 1]).uniform(-0.06, 0.06)
        self._asymmetry = np.ones(len(ARKIT), np.float32)
        for k, name in enumerate(ARKIT):
            if (
                name.startswith("mouth")
                and name.endswith(("Left", "Right"))
                and len(name) > len("mouthRight")
            ):
                self._asymmetry[k] += sides if name.endswith("Left") else -sides
        self.state = DirectorState(deque([-100.0] * (lookahead + 1), maxlen=lookahead + 1))

    def step(self, heard: FloatArray) -> FloatArray:
        """See MotionSource."""
        state = self.state
        face = state.face * np.float32(0.4)
        for block in heard:
            face = self._speech.push(block)
            state.levels.append(float(10 * np.log10(np.mean(np.square(block)) + 1e-10)))
        state.face = face
        speaking = len(heard) > 0 and self._speech.state.gate > 0.5
        motion = self._life.step(SpeechCue(state.levels[0], speaking))
        state.released *= np.float32(0.2)
        motion[FACE_SLICE] += np.clip((face + state.released) * self._asymmetry, -0.1, 1.0)
        return motion

    def hush(self) -> None:
        """See MotionSource."""
        self._speech.reset()
        state = self.state
        state.released = state.face + state.released
        state.face = np.zeros_like(state.face)
        state.levels.extend([-100.0] * (self.lookahead + 1))
