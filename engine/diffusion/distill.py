"""Targets and losses that turn a many-step teacher into a few-step student.

Each gives what the student's prediction is compared with; the caller runs its networks, without gradients where a
target is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from visavis.engine.diffusion.path import A, expand, velocity_of_x, x_of_velocity
from visavis.engine.diffusion.sampler import Predict, guided


def huber(a: A, b: A, width: float = 0.03) -> A:
    """Pseudo-Huber distance sqrt((a - b)^2 + width^2) - width, element by element: as robust as consistency training needs it
    (Song & Dhariwal, 2023). `width` on the scale of the data."""
    return ((a - b) ** 2 + width**2) ** 0.5 - width


def guidance_target(given: A, free: A, scale: float) -> A:
    """What one pass of the student is to predict: the teacher's guided prediction (Meng et al., "On Distillation of
    Guided Diffusion Models", 2023)."""
    return guided(given, free, scale)


def consistency_pair(predict: Callable[[Any, Any], Any], x_t: A, t: Any, later: Any) -> A:
    """x at time `later`, nearer the data, one Euler step of the teacher's along the same path (discrete consistency
    distillation, Song et al., 2023). The student's prediction at (x_t, t) is to equal its average's at (result, later)."""
    return x_t + expand(later - t, x_t) * velocity_of_x(predict(x_t, t), x_t, t)


def shortcut_target(predict: Callable[[Any, Any, Any], Any], x_t: A, t: Any, size: Any) -> A:
    """The prediction that makes one step of `size` land where two of half of it do (shortcut models, Frans et al.,
    2024). `predict(x_t, t, size)` is the student's own average and knows its step's size; `t + size` is at most 1."""
    half = size / 2
    first = velocity_of_x(predict(x_t, t, half), x_t, t)
    middle = x_t + expand(half, x_t) * first
    second = velocity_of_x(predict(middle, t + half, half), middle, t + half)
    return x_of_velocity((first + second) / 2, x_t, t)


def temporal_difference(x: A) -> A:
    """Differences along the second axis, (B, T, ...) -> (B, T - 1, ...): compared between prediction and data, they keep
    motion from being averaged away (VLOGGER's temporal loss)."""
    return x[:, 1:] - x[:, :-1]


__all__ = [
    "Predict",
    "consistency_pair",
    "guidance_target",
    "huber",
    "shortcut_target",
    "temporal_difference",
]
