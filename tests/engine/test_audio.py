"""Audio on its way in: streams equal wholes, rates and shapes are checked, features stand where they
should."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sounds import sentence
from visavis.engine.audio.mel import FLOOR, HOP, N_MELS, LogMel, mel_filters
from visavis.engine.audio.pcm import check_rate, to_int16, to_mono
from visavis.engine.audio.resample import Resampler
from visavis.engine.audio.vad import VoiceActivity
from visavis.engine.errors import AudioError
from visavis.engine.timing import SAMPLE_RATE, SAMPLES_PER_FRAME

RATES = [8000, 11025, 16000, 22050, 24000, 32000, 44100, 48000, 8001]


def chunks(rng: np.random.Generator, sound: np.ndarray, largest: int) -> list[np.ndarray]:
    cuts = np.cumsum(rng.integers(0, largest, 2 + 2 * len(sound) // largest))
    return np.split(sound, cuts[cuts < len(sound)])


@given(seed=st.integers(0, 2**32 - 1), rate=st.sampled_from(RATES), out=st.sampled_from([16_000, 48_000]))
@settings(max_examples=40, deadline=None)
def test_resampler_in_blocks_is_resampler_at_once(seed: int, rate: int, out: int) -> None:
    rng = np.random.default_rng(seed)
    sound = rng.standard_normal(int(rng.integers(1, 6000))).astype(np.float32)
    whole = Resampler(rate, out)
    expected = np.concatenate([whole.push(sound), whole.flush()])
    stream = Resampler(rate, out)
    got = np.concatenate([*(stream.push(block) for block in chunks(rng, sound, 700)), stream.flush()])
    assert len(expected) == -(-len(sound) * out // rate)
    np.testing.assert_array_equal(got, expected)


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("out", [16_000, 48_000])
def test_resampler_keeps_time_and_shape(rate: int, out: int) -> None:
    def signal(at: int) -> np.ndarray:
        time = np.arange(at) / at
        return (0.5 * np.sin(2 * np.pi * 440 * time) + 0.2 * np.sin(2 * np.pi * 2900 * time)).astype(
            np.float32
        )

    resampler = Resampler(rate, out)
    got = np.concatenate([resampler.push(signal(rate)), resampler.flush()])
    np.testing.assert_allclose(got[300:-300], signal(out)[300:-300], atol=2e-4)


@pytest.mark.parametrize("rate", RATES)
def test_resampler_waits_at_most_three_milliseconds(rate: int) -> None:
    resampler = Resampler(rate, 16_000)
    got = resampler.push(np.zeros(rate, np.float32))
    assert 16_000 - len(got) <= 48


def test_resampler_removes_what_would_alias() -> None:
    time = np.arange(48_000) / 48_000
    resampler = Resampler(48_000, 16_000)
    got = resampler.push(np.sin(2 * np.pi * 9500 * time).astype(np.float32))
    assert np.abs(got[200:]).max() < 1e-3


@given(seed=st.integers(0, 2**32 - 1))
@settings(max_examples=25, deadline=None)
def test_mel_in_blocks_is_mel_at_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    sound = (rng.standard_normal(int(rng.integers(1, 8000))) * 0.1).astype(np.float32)
    expected = LogMel().push(sound)
    stream = LogMel()
    got = np.concatenate([stream.push(block) for block in chunks(rng, sound, 900)])
    assert got.shape == (len(sound) // HOP, N_MELS)
    np.testing.assert_allclose(got, expected, atol=1e-4)


def test_mel_hears_a_tone_in_its_band_and_a_frame_is_complete_with_its_sound() -> None:
    mel = LogMel()
    time = np.arange(SAMPLES_PER_FRAME) / SAMPLE_RATE
    got = [mel.push(np.sin(2 * np.pi * 1000 * (time + k * 0.04)).astype(np.float32)) for k in range(5)]
    assert all(block.shape == (4, N_MELS) for block in got)
    centres = mel_filters().argmax(axis=0) * SAMPLE_RATE / 512
    assert abs(centres[got[-1][-1].argmax()] - 1000) < 40
    assert got[-1][-1].max() == pytest.approx(np.log(1 / FLOOR), abs=0.6)
    assert LogMel().push(np.zeros(640, np.float32)).max() == 0


def test_mel_reset_forgets() -> None:
    rng = np.random.default_rng(0)
    sound = rng.standard_normal(640).astype(np.float32)
    mel = LogMel()
    first = mel.push(sound)
    mel.reset()
    np.testing.assert_array_equal(mel.push(sound), first)


def test_pcm_forms() -> None:
    whole = np.array([0, 16384, -32768], np.int16)
    np.testing.assert_allclose(to_mono(whole), [0, 0.5, -1])
    np.testing.assert_array_equal(to_int16(to_mono(whole)), whole)
    stereo = np.stack([whole, np.zeros_like(whole)], axis=1)
    np.testing.assert_allclose(to_mono(stereo), [0, 0.25, -0.5])
    assert to_mono(np.array([2.0, -3.0], np.float32)).tolist() == [1, -1]


@pytest.mark.parametrize(
    "bad",
    [
        [0.0, 1.0],
        np.zeros(8, np.float64),
        np.zeros(8, np.int32),
        np.zeros((8, 3), np.float32),
        np.zeros((2, 2, 2), np.int16),
        np.array(0.5, np.float32),
        np.array([0.0, np.nan], np.float32),
        np.array([np.inf], np.float32),
    ],
)
def test_what_is_no_sound_is_refused(bad: object) -> None:
    with pytest.raises(AudioError):
        to_mono(bad)  # type: ignore[arg-type]


@pytest.mark.parametrize("rate", [0, -16000, 7999, 48001, 96000, 16000.0, True, "16000", None])
def test_odd_rates_are_refused(rate: object) -> None:
    with pytest.raises(AudioError, match="sample rate"):
        check_rate(rate)  # type: ignore[arg-type]


def test_voice_activity_hears_a_voice_and_lets_go() -> None:
    vad = VoiceActivity(hangover=3)
    frames = sentence(1.0).reshape(-1, SAMPLES_PER_FRAME)
    assert np.mean([vad.push(frame) for frame in frames][3:]) > 0.8
    silence = [vad.push(np.zeros(SAMPLES_PER_FRAME, np.float32)) for _ in range(10)]
    assert not any(silence[5:])
    assert not VoiceActivity().push(np.zeros(SAMPLES_PER_FRAME, np.float32))
    with pytest.raises(ValueError, match="640"):
        vad.push(np.zeros(100, np.float32))
