"""Full quality while the machine keeps up, the moved photo alone while it does not, and half the frames where even that comes late.

What a frame of the video network costs on an idle machine says little about a call in which encoders, sockets, other sessions and the caller's
own browser want the same cores. So the decision is made by what frames really take, until they are made and until they are handed out, for each
session, all the time: a run of late frames takes a step down, and after a while the step up is tried again, each time after a longer while if that was
too early.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum

from visavis.engine.timing import FPS

LATE_S = 0.8 / FPS
"""A frame that is ready later than this after its tick is late: encoder and sender want their share of the 40 ms."""
DECAY = 0.96
"""Lateness is forgotten within about a second."""
FIRST_REST_S, LONGEST_REST_S = 10.0, 160.0
PROVEN_S = 30.0
"""A step up that lasted this long was no mistake: the next rest is a short one again."""


class Quality(IntEnum):
    """What a session shows, from the best down."""

    FULL = 0
    WARP = 1
    """Without the video network."""
    HALVED = 2
    """And every second frame only."""


TOO_MANY = {Quality.FULL: 4.0, Quality.WARP: 10.0, Quality.HALVED: float("inf")}
"""Late frames of the last second or so that take a step down. Half the frames look worse than some that come late, so four in ten must."""


@dataclass
class Governor:
    """Of one session. `best` and `worst`: what it can show. Times are seconds of any one clock."""

    best: Quality = Quality.FULL
    worst: Quality = Quality.HALVED
    score: float = 0.0
    rest_s: float = FIRST_REST_S
    _since: float = 0.0

    def __post_init__(self) -> None:
        self.quality = self.best

    def frame(self, took_s: float, now: float) -> Quality:
        """A frame was ready `took_s` after its tick, or was left out (infinity); returns what the next is to be."""
        late = took_s > LATE_S * (2 if self.quality is Quality.HALVED else 1)
        self.score = DECAY * self.score + late
        if self.score > TOO_MANY[self.quality] and self.quality < self.worst:
            if now - self._since > PROVEN_S:
                self.rest_s = FIRST_REST_S
            self._go(Quality(self.quality + 1), now)
        elif self.quality > self.best and now - self._since > self.rest_s:
            # one step down frames must be in time, else it is not what was left out that makes them late
            self.rest_s = min(2 * self.rest_s, LONGEST_REST_S)
            self._go(Quality(self.quality - (self.score <= 1.0)), now)
        return self.quality

    def _go(self, quality: Quality, now: float) -> None:
        self.quality, self._since, self.score = quality, now, 0.0
