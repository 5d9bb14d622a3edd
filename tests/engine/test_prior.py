"""The body prior: bounded, seeded, alive, and in step with speech."""

from __future__ import annotations

import numpy as np
import pytest
from visavis.engine.motion.channels import GAZE_SLICE, HEAD_SLICE, INDEX, N_CHANNELS, NECK_SLICE
from visavis.engine.timing import FPS, SAMPLES_PER_FRAME
from visavis.engine.training.prior import Cues, from_cues, runs, sample, statistics
from visavis.engine.training.prior_body import band
from visavis.engine.training.prior_eyes import DEGREE

MINUTE = 60 * FPS


def cues(n: int, period: int = 15) -> tuple[Cues, np.ndarray]:
    """A level with a syllable that stands out each `period` frames, in phrases of four seconds with pauses; and where the stresses are."""
    t = np.arange(n)
    speaking = t % 125 < 100
    level = -32 + 4 * np.cos(2 * np.pi * t / 5) + 9 * np.exp(-(((t % period) - 7) ** 2) / 4)
    return Cues(np.where(speaking, level, -90).astype(np.float32), speaking), t[(t % period == 7) & speaking]


@pytest.fixture(scope="module", params=[0, 1, 2], ids=["speaking", "listening", "idle"])
def lived(request):
    n = 4 * MINUTE
    heard, _ = cues(n)
    if request.param:
        heard = Cues(np.full(n, -90, np.float32), np.zeros(n, bool))
    state = np.full(n, request.param, np.int8)
    return request.param, [from_cues(np.random.default_rng([7, s]), heard, state) for s in range(3)]


def test_every_state_lives_within_bounds(lived):
    state, motions = lived
    for motion in motions:
        assert motion.shape == (4 * MINUTE, N_CHANNELS) and np.isfinite(motion).all()
        head = motion[:, HEAD_SLICE] + motion[:, NECK_SLICE]
        assert np.abs(head).max() < 14 * DEGREE and 0.4 * DEGREE < head.std() < 5 * DEGREE
        assert np.abs(motion[:, GAZE_SLICE]).max() <= 0.36
        assert motion[:, :52].min() >= 0 and motion[:, :52].max() <= 1
        assert motion[:, INDEX["jawOpen"]].max() == 0
    rate = np.mean([statistics(m)["blinks_a_minute"] for m in motions])
    assert 10 <= rate <= 25
    assert np.mean([statistics(m)["blink_peak"] for m in motions]) > 0.93
    lungs = motions[0][:, INDEX["clavicleLeft.z"]]
    power = np.abs(np.fft.rfft(lungs - lungs.mean())) ** 2
    f = np.fft.rfftfreq(len(lungs), 1 / FPS)
    if state:  # at rest 12 to 18 breaths a minute
        assert 0.17 < f[(f > 0.1) & (f < 1)][power[(f > 0.1) & (f < 1)].argmax()] < 0.32


def test_a_listener_nods_and_looks_more_than_an_idler():
    n = 4 * MINUTE
    silent = Cues(np.full(n, -90, np.float32), np.zeros(n, bool))
    motions, idle = (
        [from_cues(np.random.default_rng([7, s]), silent, np.full(n, state, np.int8)) for s in range(3)]
        for state in (1, 2)
    )
    listen, alone = ([statistics(m) for m in ms] for ms in (motions, idle))
    key = "head_1.8-3.7Hz_deg"
    assert np.mean([s[key] for s in listen]) > 1.5 * np.mean([s[key] for s in alone])
    away = [
        np.mean(np.abs(m[:, GAZE_SLICE.start] + m[:, HEAD_SLICE.start + 1] / 0.6) > 3.5 * DEGREE)
        for m in (*motions, *idle)
    ]
    assert np.mean(away[:3]) < np.mean(away[3:])


def test_stresses_are_found_and_heads_and_hands_go_with_them():
    n = 6 * MINUTE
    heard, true = cues(n)
    found = heard.stresses()
    assert np.mean([np.abs(found - k).min() <= 1 for k in true]) > 0.9
    state = np.zeros(n, np.int8)
    motions = [from_cues(np.random.default_rng(s), heard, state) for s in range(4)]
    around = np.arange(-7, 8)
    inner = found[(found > 20) & (found < n - 20)]
    pitch = np.mean([m[inner[:, None] + around, HEAD_SLICE.start] for m in motions], (0, 1))
    assert abs(int(around[pitch.argmax()])) <= 3 and np.ptp(pitch) > 0.2 * DEGREE
    beat = np.mean([np.abs(np.diff(m[:, INDEX["forearmRight.x"]])).mean() for m in motions])
    still = from_cues(np.random.default_rng(0), Cues(np.full(n, -90, np.float32), np.zeros(n, bool)), state)
    assert beat > 5 * np.abs(np.diff(still[:, INDEX["forearmRight.x"]])).mean()
    assert still[:, INDEX["index1Right.z"]].std() > 0  # hands at rest are not frozen


def test_the_seed_decides_and_moods_differ():
    n = 20 * FPS
    speech = np.random.default_rng(0).standard_normal(n * SAMPLES_PER_FRAME).astype(np.float32) * 0.05
    state = np.zeros(n, np.int8)
    one, again, other = (sample(np.random.default_rng(s), speech, state) for s in (1, 1, 2))
    assert np.array_equal(one, again)
    assert np.corrcoef(one[:, HEAD_SLICE.start + 1], other[:, HEAD_SLICE.start + 1])[0, 1] < 0.9
    smile = [
        sample(np.random.default_rng(1), speech, state, mood)[:, INDEX["mouthSmileLeft"]].mean()
        for mood in (0, 1, 2)
    ]
    assert smile[1] > 0.15 > smile[0] >= smile[2]


def test_saccades_are_over_within_three_frames(lived):
    _, motions = lived
    gaze = motions[0][:, GAZE_SLICE.start] + motions[0][:, HEAD_SLICE.start + 1] / 0.6  # in the room
    for start, end in runs(np.abs(np.diff(gaze)) > 1.5 * DEGREE):
        assert end - start <= 3


def test_noise_has_the_spectrum_it_was_asked_for():
    noise = band(np.random.default_rng(0), 20_000, 0.25, 1.6, 3)
    assert np.allclose(noise.std(0), 1, atol=0.1)
    power, f = np.abs(np.fft.rfft(noise, axis=0)) ** 2, np.fft.rfftfreq(20_000, 1 / FPS)
    assert power[(f > 0.15) & (f < 2.2)].sum() > 0.85 * power.sum()


def test_wrong_lengths_and_moods_are_refused():
    with pytest.raises(ValueError, match="samples"):
        sample(np.random.default_rng(0), np.zeros(641, np.float32), np.zeros(1, np.int8))
    with pytest.raises(ValueError, match="mood"):
        sample(np.random.default_rng(0), np.zeros(640, np.float32), np.zeros(1, np.int8), mood=3)
