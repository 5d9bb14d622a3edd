"""What a mouth is trained and judged by: losses against film, bounds where phonemes alone are known, correlation with real lips.

Axes: B sequences, T frames, C = len(SPEECH_CHANNELS); curves are those of `speech_mix.clip_curve`, (B, T, C + 5).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.motion.speech import SPEECH_CHANNELS
from visavis.engine.training.speech_mix import Scales
from visavis.engine.training.voices import CLOSED, LEAST_APERTURE

C = len(SPEECH_CHANNELS)


@dataclass
class FilmLoss:
    """Against film: single channels, openings, their change from frame to frame; the cost of negative channels, which no face makes; openings
    made and wanted (B, T, 2: aperture, width) in standard deviations."""

    channel: Tensor
    opening: Tensor
    motion: Tensor
    negative: Tensor
    made_BT2: Tensor
    wanted_BT2: Tensor


def film_loss(face_BTC: Tensor, curve: Tensor, scales: Scales) -> FilmLoss:
    """Errors in standard deviations, weighted by the curve's weights."""
    weight = curve[..., C + 2]
    made = torch.stack([face_BTC @ scales.aperture, face_BTC @ scales.width], dim=-1) / scales.openness
    wanted = curve[..., C : C + 2] / scales.openness
    error = (face_BTC - curve[..., :C]) / scales.channel
    channel = (F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none").mean(-1) * weight).mean()
    gap = (made - wanted) ** 2
    opening = ((gap[..., 0] + 0.5 * gap[..., 1]) * weight).mean()
    both = weight[:, 1:] * weight[:, :-1]
    step = (torch.diff(made, dim=1) - torch.diff(wanted, dim=1)) ** 2
    motion = ((step[..., 0] + 0.5 * step[..., 1]) * both).mean()
    return FilmLoss(channel, opening, motion, torch.relu(-face_BTC / scales.channel).mean(), made, wanted)


def voice_loss(voice_BT: Tensor, curve: Tensor) -> Tensor:
    """Does somebody speak? Logits, wherever anything is known of the frame."""
    told = (curve[..., C + 2] > 0) | (curve[..., C + 4] >= 0)
    return F.binary_cross_entropy_with_logits(
        voice_BT, (curve[..., C + 3] > 0.5).float(), weight=told.float()
    )


def lip_bounds(
    aperture_BT: Tensor, classes_BT: Tensor, where_BT: Tensor, scales: Scales
) -> tuple[Tensor, Tensor]:
    """What phonemes ask of lips that nobody filmed, each (B, T), where `where_BT`: that they meet at p, b and m, and that vowels part them at
    least so far (half of what is usual: a bound, no target). Apertures in standard deviations."""
    lowest = torch.from_numpy(LEAST_APERTURE)[classes_BT.clamp(min=0)] / scales.openness[0]
    closed = (classes_BT == CLOSED) & where_BT
    meet = torch.relu(aperture_BT - 0.01 / scales.openness[0]) ** 2 * closed
    return meet, torch.relu(lowest - aperture_BT) ** 2 * where_BT


def correlation(a: FloatArray, b: FloatArray) -> float:
    """Pearson's, 0 where one does not move."""
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-9 and b.std() > 1e-9 else 0.0
