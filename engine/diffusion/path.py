"""The straight path between noise and data, and what follows from one of its ends."""

from __future__ import annotations

from typing import Any, TypeVar

A = TypeVar("A", bound=Any)
"""A numpy array or a torch tensor."""
LEAST = 1e-3
"""The path's last stretch that velocities never divide by."""


def expand(t: Any, like: A) -> Any:
    """`t`, a number or an array (B, ...) of the leading axes of `like`, with axes of one behind it so that both
    broadcast."""
    missing = like.ndim - getattr(t, "ndim", like.ndim)
    return t.reshape(*t.shape, *([1] * missing)) if missing > 0 else t


def mix(noise: A, x: A, t: Any) -> A:
    """x_t = (1 - t) noise + t x."""
    t = expand(t, x)
    return (1 - t) * noise + t * x


def velocity(noise: A, x: A) -> A:
    """d x_t / dt = x - noise: what a velocity network learns."""
    return x - noise


def velocity_of_x(x_hat: A, x_t: A, t: Any, least: float = LEAST) -> A:
    """Velocity (x_hat - x_t) / (1 - t) of a prediction of the data; 1 - t is at least `least`."""
    rest = 1 - expand(t, x_t)
    rest = rest.clip(min=least) if hasattr(rest, "clip") else max(rest, least)
    return (x_hat - x_t) / rest


def x_of_velocity(v: A, x_t: A, t: Any) -> A:
    """The data that a velocity points at: x_t + (1 - t) v."""
    return x_t + (1 - expand(t, x_t)) * v


def noise_of_velocity(v: A, x_t: A, t: Any) -> A:
    """The noise that a velocity comes from: x_t - t v."""
    return x_t - expand(t, x_t) * v
