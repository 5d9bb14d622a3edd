"""Figures of motion quality: pure functions of curves, 25 frames a second, apertures in distances between the outer eye corners."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Curve = npt.NDArray[np.floating]
Mask = npt.NDArray[np.bool_]
FPS = 25
CLOSED = 0.02
"""Aperture below which lips count as closed: a third of a millimetre to a millimetre on a face, under a third of the mean opening in speech."""
PBM, SILENCE = 1, 0
"""Classes of phonemes (`engine/training/voices.py`) at 100 Hz: lips meet; nobody speaks."""
MAX_LAG = 5


def runs(mask: Mask) -> list[tuple[int, int]]:
    """Start and end of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], np.asarray(mask).astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def correlation(made: Curve, real: Curve, lag: int = 0) -> float:
    """Correlation of `made` delayed by `lag` frames with `real`; 0 where one of them does not move."""
    a, b = np.asarray(made, np.float64), np.asarray(real, np.float64)
    if lag > 0:
        a, b = a[:-lag], b[lag:]
    elif lag < 0:
        a, b = a[-lag:], b[:lag]
    known = np.isfinite(a) & np.isfinite(b)
    if known.sum() < 10 or a[known].std() < 1e-9 or b[known].std() < 1e-9:
        return 0.0
    return float(np.corrcoef(a[known], b[known])[0, 1])


def reach(aperture: Curve, spoken: Mask) -> float:
    """Mean aperture (T,) in the frames `spoken` (T,): whether somebody articulates or mumbles; NaN where nobody speaks."""
    return float(np.mean(np.asarray(aperture)[spoken])) if spoken.any() else float("nan")


def best_lag(made: Curve, real: Curve) -> int:
    """Frames by which `made` must be delayed to match best: positive means it is early."""
    return max(range(-MAX_LAG, MAX_LAG + 1), key=lambda lag: correlation(made, real, lag))


def jitter(curve: Curve) -> float:
    """Mean size of the third difference, a frame cubed."""
    return float(
        np.mean(np.linalg.norm(np.atleast_2d(np.diff(np.asarray(curve, np.float64), 3, axis=0).T), axis=0))
    )


def closures(phones: npt.NDArray[np.integer], frames: int) -> list[tuple[int, int]]:
    """Frames [start, end) in which lips must meet once: those that a p, b or m at 100 Hz touches."""
    spans = [(a // 4, (b - 1) // 4 + 1) for a, b in runs(np.asarray(phones) == PBM)]
    return [(a, min(b, frames)) for a, b in spans if a < frames]


def closure_counts(
    aperture: Curve, phones: npt.NDArray[np.integer], real: Curve | None = None, within: int = 1
) -> dict[str, int]:
    """Counts for recall and precision of lip closure.

    wanted / met: p, b, m and those near which (`within` frames) the lips close; inside / met_inside: the same for those after other speech
    (a mouth that has not yet opened closes no lips); made / right: closures within speech, and those at a p, b or m or where the real lips are
    closed (`real`: aperture relative to closed).
    """
    n = len(aperture)
    closed = np.asarray(aperture) < CLOSED
    spans = closures(phones, n)
    spoken = np.flatnonzero(np.asarray(phones) != SILENCE)
    counts = dict.fromkeys(("wanted", "met", "inside", "met_inside", "made", "right"), 0)
    if not len(spoken):
        return counts
    first, last = spoken[0] // 4, min(n, spoken[-1] // 4 + 1)
    allowed = np.zeros(n, bool)
    for a, b in spans:
        met = bool(closed[max(0, a - within) : b + within].any())
        inside = a > first + 1
        counts["wanted"] += 1
        counts["met"] += met
        counts["inside"] += inside
        counts["met_inside"] += met and inside
        allowed[max(0, a - within) : b + within] = True
    if real is not None:
        for a, b in runs(np.asarray(real) < CLOSED * 1.5):
            allowed[max(0, a - within) : b + within] = True
    quiet = np.ones(n, bool)  # closures that reach into a pause are the pause's
    quiet[: min(n, len(phones) // 4)] = [
        bool((phones[4 * k : 4 * k + 4] == SILENCE).all()) for k in range(min(n, len(phones) // 4))
    ]
    for a, b in runs(closed):
        if a <= first or b >= last or quiet[max(0, a - 1) : b + 1].any():
            continue
        counts["made"] += 1
        counts["right"] += bool(allowed[a:b].any())
    return counts


def share(part: int, whole: int) -> float | None:
    """part / whole, None of nothing."""
    return round(part / whole, 4) if whole else None


def behind(counts: dict[str, int], other: dict[str, int]) -> tuple[float, float]:
    """How many points recall (met of wanted) lies below another's, and the standard error of that difference: with 40 closures each, 5 points
    are chance. Rates are estimated with one hit and one miss more than counted, so that nothing is ever certain."""

    def rate(c: dict[str, int]) -> tuple[float, float]:
        share = (c["met"] + 1) / (c["wanted"] + 2)
        return c["met"] / max(1, c["wanted"]), share * (1 - share) / (c["wanted"] + 2)

    (own, spread), (its, its_spread) = rate(counts), rate(other)
    return round(100 * (its - own), 1), round(100 * float(np.sqrt(spread + its_spread)), 1)


def add(total: dict[str, int], more: dict[str, int]) -> dict[str, int]:
    """Sum of counts."""
    return {key: total.get(key, 0) + more[key] for key in more}


def closing_time(aperture: Curve, end: int) -> float:
    """Milliseconds from the end of speech (the first silent frame) until the lips close and stay closed; infinite if they never do."""
    after = np.asarray(aperture[end:]) >= CLOSED
    return (
        float("inf")
        if after[-1]
        else float((np.flatnonzero(after)[-1] + 1 if after.any() else 0) * 1000 / FPS)
    )


def blinks(lids: Curve) -> int:
    """How often lids (T,) close beyond a half."""
    return len(runs(np.asarray(lids) > 0.5))


def mean(values: list[float]) -> float | None:
    """Mean of the finite ones."""
    known = [v for v in values if np.isfinite(v)]
    return round(float(np.mean(known)), 4) if known else None


def table(rows: dict[str, dict[str, Any]], columns: tuple[str, ...]) -> str:
    """Rows by name, printed in columns."""
    width = max((len(name) for name in rows), default=0) + 2

    def cell(value: Any) -> str:
        return "-" if value is None else f"{value:.3f}" if isinstance(value, float) else str(value)

    lines = ["".ljust(width) + " ".join(f"{c:>{max(8, len(c))}}" for c in columns)]
    for name, row in rows.items():
        lines.append(name.ljust(width) + " ".join(f"{cell(row.get(c)):>{max(8, len(c))}}" for c in columns))
    return "\n".join(lines)
