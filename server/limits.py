"""How often one caller may ask: token buckets by caller, bounded in number."""

from __future__ import annotations

import math
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass, field

from visavis.server.errors import ApiError

MAX_CALLERS = 10_000


@dataclass
class RateLimit:
    """`rate` a second on average, `burst` at once, for each caller."""

    rate: float
    burst: float
    clock: Callable[[], float] = time.monotonic
    _buckets: OrderedDict[str, tuple[float, float]] = field(default_factory=OrderedDict)

    def take(self, caller: str) -> None:
        """Count one request; ApiError 429 where there were too many."""
        if self.rate <= 0:
            return
        now = self.clock()
        level, at = self._buckets.pop(caller, (self.burst, now))
        level = min(self.burst, level + (now - at) * self.rate)
        allowed = level >= 1.0
        self._buckets[caller] = (level - 1.0 if allowed else level, now)
        if len(self._buckets) > MAX_CALLERS:
            self._buckets.popitem(last=False)
        if not allowed:
            wait = math.ceil((1.0 - level) / self.rate)
            raise ApiError(
                429, "too_many", f"Too many requests; try again in {wait} s.", {"Retry-After": str(wait)}
            )
