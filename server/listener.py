"""Hearing the caller while the avatar speaks: voice activity on the microphone, and barge-in.

For sessions whose speech is pushed (a speech synthesiser's) and whose caller has a microphone: the microphone does not move the mouth
but tells when the caller begins to speak.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from visavis.engine.audio.resample import Resampler
from visavis.engine.audio.vad import VoiceActivity
from visavis.engine.timing import SAMPLE_RATE, SAMPLES_PER_FRAME

ONSET_FRAMES = 2
"""Frames (40 ms) in a row that must be voiced: a click is none."""


@dataclass
class Listener:
    """Takes the microphone's blocks; tells when speech starts and stops."""

    rate: int = 0
    speaking: bool = False
    _vad: VoiceActivity = field(default_factory=lambda: VoiceActivity(aggressiveness=3, hangover=10))
    _resampler: Resampler | None = None
    _samples: npt.NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    _heard: int = 0
    _voiced: int = 0

    def push(self, pcm: npt.NDArray[np.int16], rate: int) -> list[tuple[str, int]]:
        """Mono int16 at `rate` -> what happened: ("started" or "stopped", milliseconds since the first block)."""
        if self._resampler is None or rate != self.rate:
            self.rate, self._resampler = rate, Resampler(rate, SAMPLE_RATE)
        sound = self._resampler.push(pcm.astype(np.float32) / np.float32(32768))
        self._samples = np.concatenate([self._samples, sound])
        found: list[tuple[str, int]] = []
        while len(self._samples) >= SAMPLES_PER_FRAME:
            frame, self._samples = self._samples[:SAMPLES_PER_FRAME], self._samples[SAMPLES_PER_FRAME:]
            self._heard += 1
            voiced = self._vad.push(np.ascontiguousarray(frame))
            self._voiced = self._voiced + 1 if voiced else 0
            if not self.speaking and self._voiced >= ONSET_FRAMES:
                self.speaking = True
                found.append(("started", 40 * (self._heard - self._voiced)))
            elif self.speaking and not voiced:
                self.speaking = False
                found.append(("stopped", 40 * self._heard))
        return found
