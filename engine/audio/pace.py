"""The pace of a live source: no more sound waits than the network's unevenness asks for.

A microphone's packets and the frame clock run side by side. What is left over after each frame was taken is standing delay: it comes from
the phase between the two, from a hiccup that was bridged by a frame of silence, from clocks that drift apart. The least that was left
over within a window was never needed; it is taken out of the next quiet moment, a few milliseconds at a time. (The idea of a receiver's jitter
buffer, RFC 3550 and WebRTC's NetEq, on samples instead of packets.)
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field

import numpy as np
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.timing import FPS

WINDOW = 25
"""Frames over which the least left over is looked for: two seconds."""
MARGIN_S = 0.012
"""What may always be left over: packets of 20 ms that come a little late must not stop the mouth."""
FADE_S = 0.002
"""Length of the cross-fade over a cut."""
QUIET_RMS = 10 ** (-45 / 20)


@dataclass
class LivePace:
    """Watches what is left over after each frame and takes the surplus out of silences."""

    _left: deque[float] = field(default_factory=lambda: deque(maxlen=WINDOW))
    surplus_s: float = 0.0
    """Seconds of sound to be taken out."""

    def reset(self) -> None:
        """Forget all that was seen."""
        self._left.clear()
        self.surplus_s = 0.0

    def step(self, left_s: float, *, held: bool = False) -> None:
        """A frame was taken and `left_s` seconds of sound are left over; or it was `held`: there was too little for one, and silence
        takes its place."""
        if held:  # all sound from now on waits a frame longer
            for k in range(len(self._left)):
                self._left[k] += 1 / FPS
        self._left.append(left_s)
        if len(self._left) == WINDOW:
            self.surplus_s = max(0.0, min(self._left) - MARGIN_S)

    def shorten(self, samples: FloatArray, rate: int) -> FloatArray:
        """A quiet block (n,) at `rate`, without as much of the surplus as it can give, cross-faded. A loud one comes back as it is."""
        fade = int(FADE_S * rate)
        cut = min(int(self.surplus_s * rate), len(samples) - 2 * fade)
        if cut < fade or float(np.sqrt(np.mean(np.square(samples)))) > QUIET_RMS:
            return samples
        self.surplus_s -= cut / rate
        for k in range(len(self._left)):  # what was left over is less by that, now as then
            self._left[k] -= cut / rate
        ramp = np.linspace(0, 1, fade, dtype=np.float32)
        head, tail = samples[: len(samples) - cut].copy(), samples[len(samples) - fade :]
        head[-fade:] = (1 - ramp) * head[-fade:] + ramp * tail
        return head
