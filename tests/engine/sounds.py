"""Sounds that several tests use."""

from __future__ import annotations

import numpy as np

SAMPLE_RATE = 16_000


def sentence(seconds: float = 1.0, rate: int = SAMPLE_RATE) -> np.ndarray:
    """Something that the detector takes for a voice: a gliding harmonic tone with two formants and
    syllables."""
    time = np.arange(int(seconds * rate)) / rate
    phase = 2 * np.pi * np.cumsum(120 + 20 * np.sin(2 * np.pi * 2 * time)) / rate
    sound = np.zeros_like(time)
    for k in range(1, 25):
        weight = (
            np.exp(-(((k * 120 - 600) / 300) ** 2)) + 0.5 * np.exp(-(((k * 120 - 1700) / 400) ** 2)) + 0.02
        )
        sound += weight * np.sin(k * phase)
    sound *= 0.5 + 0.5 * np.sin(2 * np.pi * 4 * time)
    return (0.3 * sound / np.abs(sound).max()).astype(np.float32)
