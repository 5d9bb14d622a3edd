"""Speech to face: a small causal network from log-mel features to the face channels that speech drives.

The network is an ONNX file whose streaming state (the last features and the recurrent state) goes in and
comes out by name. It hears one video frame of sound at a time and answers for the frame `lookahead` frames
earlier. How it was trained: `engine/training/speech.py` and the card beside the weights.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from visavis.engine.audio.mel import MELS_PER_FRAME, N_MELS, LogMel
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.audio.vad import VoiceActivity
from visavis.engine.motion.channels import ARKIT
from visavis.engine.runtime import Network, load

SPEECH_CHANNELS: tuple[str, ...] = (
    "jawOpen", "mouthClose", "mouthFunnel", "mouthPucker", "mouthRollLower", "mouthRollUpper",
    "mouthShrugLower", "mouthShrugUpper",
    "mouthDimple", "mouthFrown", "mouthLowerDown", "mouthPress", "mouthSmile", "mouthStretch", "mouthUpperUp",
)  # fmt: skip
"""What the network predicts; a name without a side stands for both sides, which move alike."""

WEIGHTS = Path(__file__).parent.parent / "weights" / "speech.onnx"
MAX_LOOKAHEAD = 2
FORGET = 15
"""Frames at rest after which the recurrent state starts anew."""
CONTEXT = 8
"""Features before the current frame's four that the network's first layers see."""


def _spread_matrix() -> FloatArray:
    matrix = np.zeros((len(SPEECH_CHANNELS), len(ARKIT)), np.float32)
    for row, name in enumerate(SPEECH_CHANNELS):
        for full in (name, f"{name}Left", f"{name}Right"):
            if full in ARKIT:
                matrix[row, ARKIT.index(full)] = 1
    return matrix


_SPREAD = _spread_matrix()


def spread(values: FloatArray) -> FloatArray:
    """Speech channels (..., len(SPEECH_CHANNELS)) as ARKit coefficients (..., 52)."""
    return values @ _SPREAD


@dataclass
class SpeechState:
    """What the network remembers of one stream, and the gate that keeps the mouth shut when nobody speaks."""

    context: FloatArray
    """(1, CONTEXT, N_MELS): the last features."""
    hidden: FloatArray
    """(layers, 1, width): the recurrent state."""
    heard: deque[bool]
    """Voice activity of the frames not yet answered for."""
    gate: float = 0.0
    """0 = mouth at rest, 1 = as the network says."""
    rest: int = 0
    """Frames since the mouth came to rest."""


@dataclass
class SpeechToFace:
    """The network and its stream: push one frame of sound, get the face of the frame `lookahead` frames
    earlier.

    `lookahead` is 0, 1 or 2 frames (40 ms each). Feeding frame by frame is the only way there is, so a
    whole clip and a stream give the same.
    """

    lookahead: int = MAX_LOOKAHEAD
    weights: Path = WEIGHTS
    state: SpeechState = field(init=False, repr=False)

    def __post_init__(self) -> None:
        if not 0 <= self.lookahead <= MAX_LOOKAHEAD:
            raise ValueError(f"lookahead is {self.lookahead} frames, expected 0 to {MAX_LOOKAHEAD}")
        self._network: Network = load(self.weights)
        self._mel = LogMel()
        self._vad = VoiceActivity(hangover=1)
        self._delay = np.eye(MAX_LOOKAHEAD + 1, dtype=np.float32)[[self.lookahead]]
        self.reset()

    def reset(self) -> None:
        """Forget what was heard; the mouth is at rest."""
        self._mel.reset()
        self._vad.reset()
        layers, _, width = self._network.inputs["hidden"]
        self.state = SpeechState(
            context=np.zeros((1, CONTEXT, N_MELS), np.float32),
            hidden=np.zeros((layers, 1, width), np.float32),
            heard=deque([False] * (self.lookahead + 1), maxlen=self.lookahead + 1),
        )

    def push(self, samples: FloatArray) -> FloatArray:
        """One frame of mono 16 kHz sound (640,) -> ARKit coefficients (52,) of the frame `lookahead` frames
        earlier."""
        state = self.state
        mel = self._mel.push(samples).reshape(1, MELS_PER_FRAME, N_MELS)
        out = self._network(
            {"mel": mel, "context": state.context, "hidden": state.hidden, "delay": self._delay}
        )
        state.context, state.hidden = out["next_context"], out["next_hidden"]
        state.heard.append(self._vad.push(samples))
        self._move_gate(float(out["voice"][0, 0]))
        state.rest = state.rest + 1 if state.gate == 0 else 0
        if state.rest == FORGET:
            # Training knows sequences of four seconds: what was said before a pause must not linger for minutes.
            state.hidden, state.rest = np.zeros_like(state.hidden), 0
        return spread(out["face"][0] * np.float32(state.gate))

    def _move_gate(self, voice: float) -> None:
        # Both must agree that somebody speaks: the detector is quick but takes noise for speech, the
        # network knows better.
        wanted = min(1.0, max(0.0, (voice - 0.25) / 0.25)) if any(self.state.heard) else 0.0
        step = 0.5 if wanted < self.state.gate else 1.0  # opens at once, closes within two frames
        self.state.gate += max(-step, min(step, wanted - self.state.gate))
