"""Counters, gauges and histograms in the Prometheus text format (exposition format 0.0.4)."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
STEP_BUCKETS = (0.002, 0.004, 0.006, 0.008, 0.010, 0.015, 0.020, 0.030, 0.040, 0.060, 0.100, 0.250, 1.0)


@dataclass
class Counter:
    """A sum that only grows."""

    name: str
    help: str
    value: float = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} counter"
        yield f"{self.name} {self.value:g}"


@dataclass
class Gauge:
    """A value read when the page is asked for."""

    name: str
    help: str
    read: Callable[[], float]

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} gauge"
        yield f"{self.name} {self.read():g}"


@dataclass
class Histogram:
    """Counts of observations up to each bound, their sum and number."""

    name: str
    help: str
    bounds: tuple[float, ...] = STEP_BUCKETS
    counts: list[int] = field(default_factory=list)
    total: float = 0.0

    def __post_init__(self) -> None:
        self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} histogram"
        running = 0
        for bound, count in zip((*self.bounds, float("inf")), self.counts, strict=True):
            running += count
            label = "+Inf" if bound == float("inf") else f"{bound:g}"
            yield f'{self.name}_bucket{{le="{label}"}} {running}'
        yield f"{self.name}_sum {self.total:.6f}"
        yield f"{self.name}_count {running}"


@dataclass
class Family:
    """A summary (sum and number) for each value of one label."""

    name: str
    help: str
    label: str
    sums: dict[str, list[float]] = field(default_factory=dict)

    def observe(self, value: float, label: str) -> None:
        entry = self.sums.setdefault(label, [0.0, 0.0])
        entry[0] += value
        entry[1] += 1

    def lines(self) -> Iterator[str]:
        yield f"# HELP {self.name} {self.help}"
        yield f"# TYPE {self.name} summary"
        for value, (total, count) in self.sums.items():
            yield f'{self.name}_sum{{{self.label}="{value}"}} {total:.6f}'
            yield f'{self.name}_count{{{self.label}="{value}"}} {count:g}'


class Metrics:
    """All of a server's figures."""

    def __init__(self) -> None:
        self.sessions_started = Counter("visavis_sessions_started_total", "Sessions created.")
        self.frames = Counter("visavis_frames_total", "Frames published.")
        self.late_frames = Counter(
            "visavis_late_frames_total", "Frames published more than one frame period after they were due."
        )
        self.repeated_frames = Counter(
            "visavis_repeated_frames_total", "Frames that were not drawn: half the frame rate."
        )
        self.reduced_frames = Counter(
            "visavis_reduced_frames_total", "Frames of the moved photo alone, without the video network."
        )
        self.refused_sessions = Counter(
            "visavis_refused_sessions_total", "Sessions refused for want of room."
        )
        self.barge_ins = Counter("visavis_barge_ins_total", "Times a caller's voice stopped the avatar.")
        self.worker_deaths = Counter(
            "visavis_worker_deaths_total", "Workers that died and were started again."
        )
        self.dropped_pairs = Counter(
            "visavis_dropped_pairs_total", "Frames that a slow connection's queue had no room for."
        )
        self.speech_seconds = Counter("visavis_speech_seconds_total", "Seconds of speech taken in.")
        self.enrollments = Counter("visavis_enrollments_total", "Photos enrolled.")
        self.enrollment_failures = Counter("visavis_enrollment_failures_total", "Photos refused or failed.")
        self.step_seconds = Histogram(
            "visavis_step_seconds", "Time to compute one frame and convert its colours."
        )
        self.tick_late_seconds = Histogram(
            "visavis_tick_late_seconds", "How long after its tick a frame was begun."
        )
        self.stage_seconds = Family("visavis_stage_seconds", "Time of each stage of a frame.", "stage")
        self.encode_seconds = Histogram("visavis_encode_seconds", "Time to encode one video frame.")
        self._gauges: list[Gauge] = []

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """Adds a gauge that is read on each scrape."""
        self._gauges.append(Gauge(name, help, read))

    def render(self) -> str:
        """The page that Prometheus scrapes."""
        series = [item for item in vars(self).values() if isinstance(item, Counter | Histogram | Family)]
        lines = [line for item in (*series, *self._gauges) for line in item.lines()]
        return "\n".join(lines) + "\n"
