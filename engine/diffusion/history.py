"""Corruption of the past that an autoregressive model conditions on.

A model trained on perfect histories decays when it lives on its own: each error is taken for truth. Seeing histories mixed
with noise in training, it trusts the past less and corrects it (Valevski et al., "Diffusion Models Are Real-Time Game
Engines", 2024).
"""

from __future__ import annotations

from typing import Any

from visavis.engine.diffusion.path import A, expand, mix


def noisy_history(history: A, noise: A, level: Any) -> A:
    """`history` with a share `level` (0 to 1, of its leading axes) of noise: the path at t = 1 - level."""
    return mix(noise, history, 1 - level)


def drop_history(history: A, keep: Any, fill: Any = 0.0) -> A:
    """`history` where `keep` (1 or 0, of its leading axes) and `fill` elsewhere."""
    keep = expand(keep, history)
    return history * keep + fill * (1 - keep)
