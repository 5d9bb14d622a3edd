"""Stage 1: the mouth follows speech and rests without it; the rest of the person lives, within bounds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from visavis.engine.audio.pcm import to_mono
from visavis.engine.audio.resample import Resampler
from visavis.engine.motion.channels import (
    ARKIT,
    FACE_SLICE,
    GAZE_SLICE,
    HEAD_SLICE,
    INDEX,
    N_CHANNELS,
    NECK_SLICE,
    TRANSLATION_SLICE,
)
from visavis.engine.motion.director import MotionDirector
from visavis.engine.motion.life import HEAD_LIMIT, Life, SpeechCue, blink_curve
from visavis.engine.motion.speech import SPEECH_CHANNELS, SpeechToFace, spread
from visavis.engine.runtime import NetworkError, load
from visavis.engine.timing import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

SPEECH = Path(__file__).parents[2] / "engine" / "assets" / "speech.wav"
JAW = ARKIT.index("jawOpen")
MOUTH = [k for k, name in enumerate(ARKIT) if name.startswith(("mouth", "jaw"))]


def sample() -> np.ndarray:
    """The shipped speech sample as frames (n, 640)."""
    import wave

    with wave.open(str(SPEECH)) as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        resampler = Resampler(file.getframerate(), SAMPLE_RATE)
    sound = np.concatenate([resampler.push(to_mono(pcm)), resampler.flush()])
    return sound[: len(sound) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME].reshape(-1, SAMPLES_PER_FRAME)


def speak(frames: np.ndarray, lookahead: int = 2) -> np.ndarray:
    """Faces (n, 52) aligned with frames (n, 640)."""
    network = SpeechToFace(lookahead)
    ahead = np.concatenate([frames, np.zeros((lookahead, SAMPLES_PER_FRAME), np.float32)])
    return np.stack([network.push(frame) for frame in ahead])[lookahead:]


def loud(frames: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.mean(frames**2, axis=1) + 1e-10) > -45


@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_lips_move_with_an_unknown_voice_and_rest_in_its_pauses(lookahead: int) -> None:
    frames = sample()
    face = speak(frames, lookahead)
    assert np.isfinite(face).all()
    spoken = loud(frames)
    near = np.convolve(spoken, np.ones(9), mode="same") > 0  # 160 ms around
    assert (~near).sum() >= 20, "the sample has pauses"
    assert np.abs(face[~near][:, MOUTH]).max() < 0.03
    jaw = face[spoken, JAW]
    assert jaw.std() > 0.04 and jaw.max() > 0.15
    envelope = np.log(np.sqrt(np.mean(frames**2, axis=1)) + 1e-3)
    fits = [np.corrcoef(np.roll(face[:, JAW], -lag), envelope)[0, 1] for lag in range(-4, 5)]
    assert fits[4] > 0.4
    assert abs(int(np.argmax(fits)) - 4) <= 2


def test_the_mouth_is_closed_within_80_ms_of_the_end_of_speech() -> None:
    frames = sample()
    last = int(np.flatnonzero(loud(frames[:60]))[-1])
    cut = frames[: last + 1].copy()
    face = speak(np.concatenate([cut, np.zeros((10, SAMPLES_PER_FRAME), np.float32)]))
    assert np.abs(face[last + 3 :, MOUTH]).max() < 0.05


@pytest.mark.parametrize("kind", ["silence", "hiss", "hum", "chord"])
def test_the_mouth_stays_shut_without_speech(kind: str) -> None:
    rng = np.random.default_rng(0)
    n = 8 * SAMPLE_RATE
    time = np.arange(n) / SAMPLE_RATE
    sound = {
        "silence": np.zeros(n),
        "hiss": 0.02 * rng.standard_normal(n),
        "hum": 0.1 * np.sin(2 * np.pi * 100 * time) + 0.05 * np.sin(2 * np.pi * 300 * time),
        "chord": 0.05 * sum(np.sin(2 * np.pi * f * k * time) / k for f in (220, 277, 330) for k in (1, 2, 3)),
    }[kind]
    fade = np.minimum(1, np.minimum(time, time[-1] - time) / 0.5)
    face = speak(np.asarray(sound * fade, np.float32).reshape(-1, SAMPLES_PER_FRAME))
    # A tone's first moments may be a vowel's: what lasts is told apart within a second.
    assert np.abs(face[25:, MOUTH]).max() < 0.06


def test_reset_forgets_everything() -> None:
    frames = sample()[:40]
    network = SpeechToFace()
    first = [network.push(frame) for frame in frames]
    network.reset()
    np.testing.assert_array_equal(first, [network.push(frame) for frame in frames])


def test_what_was_long_ago_is_forgotten() -> None:
    """Minute after minute of speech leaves no trace: after two seconds of silence the network is as new."""
    frames = sample()
    quiet = np.zeros((50, SAMPLES_PER_FRAME), np.float32)
    fresh, old = SpeechToFace(), SpeechToFace()
    for block in np.concatenate([np.tile(frames, (6, 1)), quiet]):
        old.push(block)
    for block in quiet:
        fresh.push(block)
    first = np.stack([fresh.push(block) for block in frames])
    later = np.stack([old.push(block) for block in frames])
    np.testing.assert_allclose(later, first, atol=0.04)


def test_two_streams_do_not_touch_each_other() -> None:
    frames = sample()[:40]
    alone, together, other = SpeechToFace(), SpeechToFace(), SpeechToFace()
    expected = [alone.push(frame) for frame in frames]
    got = []
    for k, frame in enumerate(frames):
        got.append(together.push(frame))
        other.push(frames[-k])
    np.testing.assert_array_equal(got, expected)


def test_network_of_a_batch_is_the_network_of_each() -> None:
    network = load(Path(SPEECH).parents[1] / "weights" / "speech.onnx")
    rng = np.random.default_rng(0)
    width = network.inputs["hidden"][-1]
    inputs = {
        "mel": rng.uniform(0, 8, (3, 4, 80)).astype(np.float32),
        "context": rng.uniform(0, 8, (3, 8, 80)).astype(np.float32),
        "hidden": rng.uniform(-1, 1, (1, 3, width)).astype(np.float32),
        "delay": np.eye(3, dtype=np.float32),
    }
    whole = network(inputs)
    one = network({name: value[:, 1:2] if name == "hidden" else value[1:2] for name, value in inputs.items()})
    np.testing.assert_allclose(whole["face"][1:2], one["face"], atol=1e-4)
    np.testing.assert_allclose(whole["next_hidden"][:, 1:2], one["next_hidden"], atol=1e-4)
    np.testing.assert_array_equal(whole["next_context"][:, :4], inputs["context"][:, 4:])


def test_missing_and_broken_networks_are_named(tmp_path: Path) -> None:
    with pytest.raises(NetworkError, match="no network file at"):
        load(tmp_path / "none.onnx")
    broken = tmp_path / "broken.onnx"
    broken.write_bytes(b"not a network")
    with pytest.raises(NetworkError, match=r"broken\.onnx"):
        load(broken)


def test_spread_moves_both_sides_alike() -> None:
    rng = np.random.default_rng(0)
    full = spread(rng.uniform(0, 1, (5, len(SPEECH_CHANNELS))).astype(np.float32))
    assert full.shape == (5, 52)
    left, right = ARKIT.index("mouthSmileLeft"), ARKIT.index("mouthSmileRight")
    np.testing.assert_array_equal(full[:, left], full[:, right])
    assert not full[:, ARKIT.index("eyeBlinkLeft")].any()


def live(seed: int, seconds: float, cues: list[SpeechCue] | None = None) -> np.ndarray:
    life = Life(seed)
    n = int(seconds * FPS)
    return np.stack([life.step(cues[k % len(cues)] if cues else SpeechCue()) for k in range(n)])


def talk() -> list[SpeechCue]:
    """Three seconds of syllables, one of pause."""
    rng = np.random.default_rng(0)
    levels = -25 + 8 * np.sin(np.arange(75) * 2 * np.pi * 4 / FPS) + rng.normal(0, 3, 75)
    return [SpeechCue(float(level), True) for level in levels] + [SpeechCue()] * 25


def starts(lids: np.ndarray) -> np.ndarray:
    return np.flatnonzero((lids[1:] > 0.5) & (lids[:-1] <= 0.5))


@pytest.mark.parametrize("speaking", [False, True])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_blinks_are_as_many_and_as_long_as_a_persons(speaking: bool, seed: int) -> None:
    motion = live(seed, 300, talk() if speaking else None)
    lids = motion[:, INDEX["eyeBlinkLeft"]]
    begun = starts(lids)
    assert np.abs(lids - motion[:, INDEX["eyeBlinkRight"]]).max() < 0.12, "both lids as one"
    assert 10 <= len(begun) / 5 <= 25
    for start in begun[begun + 12 < len(lids)]:
        closed = (lids[start - 2 : start + 12] > 0.1).sum() / FPS
        assert 0.08 <= closed <= 0.32
    assert np.diff(begun).min() / FPS > 0.6
    assert np.diff(begun).std() / FPS > 0.8, "not a metronome"


def test_lids_close_faster_than_they_open() -> None:
    times = np.arange(0, 0.4, 0.001)
    curve = np.array([blink_curve(t) for t in times])
    top = np.flatnonzero(curve == 1.0)
    closing, opening = times[top[0]], times[np.flatnonzero(curve > 0.01)[-1]] - times[top[-1]]
    assert curve.max() == 1 and curve[-1] == 0 and closing < 0.6 * opening


@pytest.mark.parametrize("seed", range(4))
def test_life_is_smooth_bounded_and_does_not_drift(seed: int) -> None:
    motion = live(seed, 1200, talk())
    head = motion[:, HEAD_SLICE] + motion[:, NECK_SLICE]
    assert (np.abs(head) <= HEAD_LIMIT + 0.01).all()
    assert np.abs(np.diff(head, axis=0)).max() < np.radians(1.2)
    assert 0.5 < np.degrees(head[:, 1].std()) < 5
    assert np.abs(motion[:, TRANSLATION_SLICE]).max() <= 0.0061
    early, late = head[: 300 * FPS], head[-300 * FPS :]
    assert np.degrees(np.abs(early.mean(axis=0) - late.mean(axis=0))).max() < 1.5
    assert (early.std(axis=0) / late.std(axis=0) > 0.6).all() and (
        early.std(axis=0) / late.std(axis=0) < 1.6
    ).all()
    assert motion[:, FACE_SLICE].min() >= 0 and motion[:, FACE_SLICE].max() <= 1
    assert not motion[:, MOUTH].any(), "life leaves the mouth alone"
    neck_share = motion[:, NECK_SLICE][:, 1].std() / head[:, 1].std()
    assert 0.2 < neck_share < 0.6


def test_eyes_rest_on_the_viewer_and_hold_it_while_the_head_moves() -> None:
    motion = live(0, 600)
    head = motion[:, HEAD_SLICE] + motion[:, NECK_SLICE]
    in_the_room = np.degrees(motion[:, GAZE_SLICE][:, 0] + head[:, 1])
    assert (np.abs(in_the_room) < 3).mean() > 0.6
    assert np.abs(in_the_room).max() > 5, "and looks away at times"
    speed = np.abs(np.diff(in_the_room))
    assert (speed < 0.2).mean() > 0.75, "fixations"
    assert (speed > 3).sum() > 20, "saccades"
    pitch = motion[:, GAZE_SLICE][:, 1]
    down = motion[:, INDEX["eyeLookDownLeft"]]
    assert np.corrcoef(-pitch[pitch < 0], down[pitch < 0])[0, 1] > 0.99


def test_chest_and_shoulders_breathe() -> None:
    motion = live(3, 300)
    lift = motion[:, INDEX["clavicleLeft.z"]]
    np.testing.assert_allclose(lift, -motion[:, INDEX["clavicleRight.z"]])
    spectrum = np.abs(np.fft.rfft(lift - lift.mean()))
    peak = np.fft.rfftfreq(len(lift), 1 / FPS)[spectrum.argmax()]
    assert 0.18 <= peak <= 0.32
    assert 0.3 < np.degrees(np.ptp(lift)) < 3


def test_a_speaking_head_is_livelier_and_settles_in_a_pause() -> None:
    speaking, idle = live(1, 300, talk()), live(1, 300)

    def energy(motion: np.ndarray) -> float:
        return float(np.abs(np.diff(motion[:, HEAD_SLICE] + motion[:, NECK_SLICE], axis=0)).mean())

    assert energy(speaking) > 1.4 * energy(idle)
    assert speaking[:, INDEX["browInnerUp"]].max() > 0.1
    assert not idle[:, INDEX["browInnerUp"]].any()


def test_same_seed_same_life_other_seed_another() -> None:
    np.testing.assert_array_equal(live(5, 20), live(5, 20))
    assert np.abs(live(5, 20) - live(6, 20)).max() > 0.01


def direct(seed: int, frames: np.ndarray) -> np.ndarray:
    director = MotionDirector(seed)
    return np.stack([director.step(frame[None]) for frame in frames])


def test_two_seeds_give_the_same_lips_and_different_heads() -> None:
    frames = sample()[:150]
    one, two = direct(1, frames), direct(2, frames)
    assert one.shape == (150, N_CHANNELS) and one.dtype == np.float32
    assert np.corrcoef(one[:, INDEX["jawOpen"]], two[:, INDEX["jawOpen"]])[0, 1] > 0.99
    assert np.abs(one[:, HEAD_SLICE] - two[:, HEAD_SLICE]).max() > 0.01
    np.testing.assert_array_equal(one, direct(1, frames))


def test_director_skips_ahead_and_lives_without_sound() -> None:
    frames = sample()
    start = int(np.flatnonzero(loud(frames))[0])
    voice = frames[start : start + 30]
    director = MotionDirector(0)
    first = director.step(voice[:3])  # the look-ahead at once: this is already the first frame of speech
    steady = [director.step(frame[None]) for frame in voice[3:]]
    jaw = np.array([motion[INDEX["jawOpen"]] for motion in (first, *steady)])
    np.testing.assert_allclose(jaw, speak(voice)[: len(jaw), JAW].clip(0, 1), atol=1e-5)
    held = [director.step(np.zeros((0, SAMPLES_PER_FRAME), np.float32)) for _ in range(6)]
    assert abs(held[-1][INDEX["jawOpen"]]) < 0.01


def test_hush_stops_the_mouth() -> None:
    frames = sample()
    director = MotionDirector(0)
    opened = 0.0
    for frame in frames:
        opened = float(director.step(frame[None])[INDEX["jawOpen"]])
        if opened > 0.2:
            break
    assert opened > 0.2
    director.hush()
    quiet = [
        float(director.step(np.zeros((1, SAMPLES_PER_FRAME), np.float32))[INDEX["jawOpen"]]) for _ in range(4)
    ]
    assert quiet[0] < 0.3 * opened and quiet[1] < 0.06 * opened and abs(quiet[3]) < 0.01
