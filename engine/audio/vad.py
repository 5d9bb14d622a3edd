"""Voice activity: is somebody speaking in this frame?

The WebRTC detector decides for each 10 ms; a frame counts as voiced when at least half of it is. A hangover
bridges the short gaps inside words, so that stops and soft endings stay inside the speech.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import webrtcvad
from visavis.engine.audio.pcm import FloatArray, to_int16
from visavis.engine.timing import SAMPLE_RATE, SAMPLES_PER_FRAME

_BLOCK = SAMPLE_RATE // 100
_BLOCKS = SAMPLES_PER_FRAME // _BLOCK
_QUIET = 10 ** (-62 / 20)
"""RMS below which nothing is speech, whatever the detector says (-62 dB of full scale)."""


@dataclass
class VoiceActivity:
    """Voice activity of mono 16 kHz sound, one video frame at a time.

    `aggressiveness` is the WebRTC detector's mode, 0 (eager) to 3 (strict); `hangover` is how many frames
    after the last voiced one still count as speech.
    """

    aggressiveness: int = 2
    hangover: int = 3
    remaining: int = field(default=0, init=False)
    _vad: webrtcvad.Vad = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget what was heard."""
        self._vad = webrtcvad.Vad(self.aggressiveness)
        self.remaining = 0

    def push(self, samples: FloatArray) -> bool:
        """One frame of samples (640,) -> does it belong to speech?"""
        if samples.shape != (SAMPLES_PER_FRAME,):
            raise ValueError(
                f"voice activity takes frames of {SAMPLES_PER_FRAME} samples, got shape {samples.shape}"
            )
        sound = to_int16(samples)
        votes = sum(
            self._vad.is_speech(sound[k * _BLOCK : (k + 1) * _BLOCK].tobytes(), SAMPLE_RATE)
            for k in range(_BLOCKS)
        )
        loud = float(np.sqrt(np.mean(np.square(samples)))) > _QUIET
        if loud and votes * 2 >= _BLOCKS:
            self.remaining = self.hangover
            return True
        if self.remaining:
            self.remaining -= 1
            return True
        return False
