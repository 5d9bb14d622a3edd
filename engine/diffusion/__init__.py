"""Flow matching: paths, times, samplers, guidance and distillation as pure functions, which both stages call.

Noise is at t = 0, data at t = 1, with x_t = (1 - t) noise + t x (rectified flow: Liu, Gong & Liu, 2022; Lipman et al., 2022).
Networks predict the data itself, x_hat(x_t, t). Every function takes numpy arrays or torch tensors and gives back the same;
neither library is imported for the other. `t` is a number or an array of the leading axes of `x`.
"""

from visavis.engine.diffusion.distill import (
    consistency_pair,
    guidance_target,
    huber,
    shortcut_target,
    temporal_difference,
)
from visavis.engine.diffusion.history import drop_history, noisy_history
from visavis.engine.diffusion.path import (
    expand,
    mix,
    noise_of_velocity,
    velocity,
    velocity_of_x,
    x_of_velocity,
)
from visavis.engine.diffusion.sampler import euler, guided, heun, renoise
from visavis.engine.diffusion.times import logit_normal, schedule, shifted

__all__ = [
    "consistency_pair",
    "drop_history",
    "euler",
    "expand",
    "guidance_target",
    "guided",
    "heun",
    "huber",
    "logit_normal",
    "mix",
    "noise_of_velocity",
    "noisy_history",
    "renoise",
    "schedule",
    "shifted",
    "shortcut_target",
    "temporal_difference",
    "velocity",
    "velocity_of_x",
    "x_of_velocity",
]
