"""Samplers: from noise to data by a network that predicts the data, and guidance."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from typing import Any

from visavis.engine.diffusion.path import A, mix, velocity_of_x

Predict = Callable[[Any, float], Any]
"""x_hat = predict(x_t, t)."""


def guided(given: A, free: A, scale: float) -> A:
    """Classifier-free guidance: free + scale (given - free) of two predictions, with and without the condition (Ho &
    Salimans, 2022). Predictions of data and of velocity mix alike; a scale of 1 changes nothing."""
    return free + scale * (given - free)


def euler(predict: Predict, noise: A, times: Sequence[float]) -> A:
    """Follow the flow from `noise` at times[0] to times[-1], one evaluation a step; a last time of 1 gives the last
    prediction itself."""
    x = noise
    for now, then in itertools.pairwise(times):
        x_hat = predict(x, now)
        x = x_hat if then >= 1 else x + (then - now) * velocity_of_x(x_hat, x, now)
    return x


def heun(predict: Predict, noise: A, times: Sequence[float]) -> A:
    """As `euler` with the mean of the velocities at both ends of each step but the last: second order, two
    evaluations a step."""
    x = noise
    for now, then in itertools.pairwise(times):
        x_hat = predict(x, now)
        if then >= 1:
            return x_hat
        first = velocity_of_x(x_hat, x, now)
        ahead = x + (then - now) * first
        x = x + (then - now) * 0.5 * (first + velocity_of_x(predict(ahead, then), ahead, then))
    return x


def renoise(predict: Predict, noises: Sequence[A], times: Sequence[float]) -> A:
    """The sampler of consistency models (Song et al., 2023): predict the data, mix it with fresh noise at the next
    time, and so on. `noises` holds one array a step, the first of them the start."""
    x_hat = predict(noises[0], times[0])
    for noise, time in zip(noises[1:], times[1:-1], strict=True):
        x_hat = predict(mix(noise, x_hat, time), time)
    return x_hat
