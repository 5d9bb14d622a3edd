"""Which times are trained on and which are stepped through."""

from __future__ import annotations

from typing import Any

import numpy as np


def logit_normal(draws: Any, mean: float = 0.0, spread: float = 1.0) -> Any:
    """Times sigmoid(mean + spread z) of standard normal draws z: more of the middle of the path, where there is
    most to learn (Esser et al., "Scaling Rectified Flow Transformers", 2024). A negative mean: more noise."""
    raised = -(mean + spread * draws)
    return 1 / (1 + (raised.exp() if hasattr(raised, "exp") else np.exp(raised)))


def shifted(t: Any, shift: float) -> Any:
    """t / (t + shift (1 - t)): the same steps spent nearer to the noise for a shift above 1 (ibid.)."""
    return t / (t + shift * (1 - t))


def schedule(steps: int, shift: float = 1.0) -> list[float]:
    """`steps` + 1 times from 0 to 1, evenly spaced before `shifted`."""
    if steps < 1:
        raise ValueError(f"a sampler takes at least one step, not {steps}")
    return [float(shifted(k / steps, shift)) for k in range(steps)] + [1.0]
