"""Full quality while the machine keeps up, the moved photo alone while it does not.

What a frame of the video network costs on an idle machine says little about a call in which encoders, sockets, other sessions and the caller's
own browser want the same cores. So the decision is made by what frames really take, until they are made and until they are handed out, for each
session, all the time: a run of late frames takes the network out, and after a while it is tried again, each time after a longer while if that was
too early.
"""

from __future__ import annotations

from dataclasses import dataclass

from visavis.engine.timing import FPS

LATE_S = 0.8 / FPS
"""A frame that is ready later than this after its tick is late: encoder and sender want their share of the 40 ms."""
DECAY = 0.96
"""Lateness is forgotten within about a second."""
TOO_MANY = 4.0
"""Late frames of the last second or so that take the network out."""
FIRST_REST_S, LONGEST_REST_S = 10.0, 160.0
PROVEN_S = 30.0
"""Full quality that lasted this long was no mistake: the next rest is a short one again."""


@dataclass
class Governor:
    """Of one session. Times are seconds of any one clock."""

    reduced: bool = False
    score: float = 0.0
    rest_s: float = FIRST_REST_S
    _since: float = 0.0

    def frame(self, took_s: float, now: float) -> bool:
        """A frame was ready `took_s` after its tick, or was left out (infinity); returns whether the next is to be reduced."""
        self.score = DECAY * self.score + (took_s > LATE_S)
        if not self.reduced and self.score > TOO_MANY:
            if now - self._since > PROVEN_S:
                self.rest_s = FIRST_REST_S
            self.reduced, self._since = True, now
        elif self.reduced and now - self._since > self.rest_s:
            # without the network frames must be in time, else it is not the network that makes them late
            self.rest_s = min(2 * self.rest_s, LONGEST_REST_S)
            self.reduced, self._since, self.score = self.score > 1.0, now, 0.0
        return self.reduced
