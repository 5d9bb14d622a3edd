"""Lids that shut: the skin up to the brow shares the way, and the margins still meet."""

from __future__ import annotations

import numpy as np
import pytest
from visavis.engine.avatar import Avatar
from visavis.engine.body import surface as surface_module
from visavis.engine.body.lids import share_the_way
from visavis.engine.body.surface import margins_gap
from visavis.engine.enroll import enroll
from visavis.engine.motion.channels import ARKIT

SIDES = ("Left", "Right")


def seam_of(avatar: Avatar, side: str):
    return avatar.surface.seam(f"eye{side}")


def stretch(avatar: Avatar, side: str) -> float:
    """How much taller the most stretched triangles above an eye become when it shuts, the tallest twentieth of their area left out."""
    surface, seam = avatar.surface, seam_of(avatar, side)
    blink = surface.units[ARKIT.index(f"eyeBlink{side}")]
    rest, shut = surface.vertices, surface.vertices + blink
    margin = rest[seam.upper]
    width = float(np.ptp(margin[:, 0]))
    middle = rest[surface.triangles].mean(1)
    above = (
        (np.abs(middle[:, 0] - margin[:, 0].mean()) < 0.3 * width)
        & (middle[:, 1] > np.interp(middle[:, 0], *margin[np.argsort(margin[:, 0])][:, :2].T))
        & (middle[:, 1] < margin[:, 1].max() + 0.6 * width)
    )
    a, b, c = (surface.triangles[above][:, k] for k in range(3))

    def area(points: np.ndarray) -> np.ndarray:
        p, q = points[b] - points[a], points[c] - points[a]
        return np.abs(p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0])

    ratio, weight = area(shut) / np.maximum(area(rest), 1e-12), area(shut)
    order = np.argsort(ratio)
    return float(ratio[order][np.searchsorted(np.cumsum(weight[order]), 0.95 * weight.sum())])


@pytest.mark.parametrize("side", SIDES)
def test_no_strip_of_skin_is_stretched_far(avatar, demo_photo, monkeypatch, side):
    monkeypatch.setattr(surface_module, "share_the_way", lambda side, unit, uv, upper, landmarks: unit)
    before = enroll(demo_photo)
    assert stretch(avatar, side) < 0.75 * stretch(before, side)
    assert stretch(avatar, side) < 3.5


@pytest.mark.parametrize("side", SIDES)
def test_the_lids_still_meet(avatar, side):
    surface, seam = avatar.surface, seam_of(avatar, side)
    shut = (surface.vertices + surface.units[ARKIT.index(f"eyeBlink{side}")]).astype(np.float64)
    to_lower, _ = margins_gap(seam, shut)
    opened, _ = margins_gap(seam, surface.vertices.astype(np.float64))
    assert np.abs(to_lower[3:-3, 1]).max() < 0.0025 < 0.5 * np.abs(opened[3:-3, 1]).max()


def test_what_is_not_lid_stays():
    """A margin at height 0 from x = 0 to 10, the brow at 10 above it: picture rows go down."""
    marks = np.zeros((478, 3), np.float32)
    for k, mark in enumerate((276, 283, 282, 295, 285)):
        marks[mark, :2] = (12 - 3.5 * k, -10)
    uv = np.array(
        [[0, 0], [5, 0], [10, 0], [5, -3], [5, -6.55], [5, -9.9], [5, 4], [-3, -5], [5, -20]], float
    )
    unit = np.zeros((9, 3))
    unit[1] = (0, -4, 1)
    unit[3:6] = (0, -4, 1)
    unit[6:] = (0, 7, 7)
    out = share_the_way("Left", unit, uv, np.array([0, 1, 2]), marks)
    np.testing.assert_array_equal(out[[0, 1, 2, 6, 7, 8]], unit[[0, 1, 2, 6, 7, 8]])
    np.testing.assert_allclose(out[3], unit[1])  # lashes
    np.testing.assert_allclose(out[4], 0.5 * unit[1], atol=0.02)
    np.testing.assert_allclose(out[5], 0)
