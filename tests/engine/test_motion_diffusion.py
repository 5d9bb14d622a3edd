"""The motion model: lips follow speech and rest without it, two seeds are two heads, batches are sessions, nothing drifts."""

from __future__ import annotations

import wave
from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
from visavis.engine.audio.pcm import to_mono
from visavis.engine.audio.resample import Resampler
from visavis.engine.errors import MotionError
from visavis.engine.motion import diffusion
from visavis.engine.motion.channels import (
    ARKIT,
    CHANNELS,
    FACE_SLICE,
    GAZE_SLICE,
    HEAD_SLICE,
    INDEX,
    N_CHANNELS,
    NECK_SLICE,
)
from visavis.engine.motion.diffusion import WEIGHTS, Controls, DiffusionMotion, Gate, MotionModel
from visavis.engine.motion.layout import ARMS, FACE, HEAD, LABELS, LIFE, LIFE_INDEX, gather_life, spread_life
from visavis.engine.motion.life import BREATH_LIFT, HEAD_LIMIT, Reflex, Reflexes
from visavis.engine.motion.lips import APERTURE
from visavis.engine.motion.speech import SPEECH_CHANNELS
from visavis.engine.runtime import load
from visavis.engine.timing import FPS, SAMPLE_RATE, SAMPLES_PER_FRAME

SPEECH = Path(__file__).parents[2] / "engine" / "assets" / "speech.wav"
JAW = INDEX["jawOpen"]
LIPS = [
    ARKIT.index(full)
    for name in SPEECH_CHANNELS
    if name != "mouthSmile"  # a mood smiles in silence too
    for full in (name, f"{name}Left", f"{name}Right")
    if full in ARKIT
]
SILENCE = np.zeros((1, SAMPLES_PER_FRAME), np.float32)


@lru_cache
def sample() -> np.ndarray:
    """The shipped speech sample as frames (n, 640)."""
    with wave.open(str(SPEECH)) as file:
        pcm = np.frombuffer(file.readframes(file.getnframes()), np.int16)
        resampler = Resampler(file.getframerate(), SAMPLE_RATE)
    sound = np.concatenate([resampler.push(to_mono(pcm)), resampler.flush()])
    return sound[: len(sound) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME].reshape(-1, SAMPLES_PER_FRAME)


def run(source: DiffusionMotion, frames: np.ndarray) -> np.ndarray:
    """Motion (n, channels) aligned with frames (n, 640)."""
    late = source.lookahead
    ahead = np.concatenate([frames, np.zeros((late, SAMPLES_PER_FRAME), np.float32)])
    return np.stack([source.step(frame[None]) for frame in ahead])[late:]


@lru_cache
def spoken(seed: int = 0, lookahead: int = 2) -> np.ndarray:
    return run(DiffusionMotion(seed, lookahead), sample())


def loud(frames: np.ndarray) -> np.ndarray:
    return 10 * np.log10(np.mean(frames**2, axis=1) + 1e-10) > -45


@pytest.mark.parametrize("lookahead", [0, 1, 2])
def test_lips_move_with_an_unknown_voice_and_rest_in_its_pauses(lookahead: int) -> None:
    frames = sample()
    motion = spoken(0, lookahead)
    assert motion.shape == (len(frames), N_CHANNELS) and np.isfinite(motion).all()
    heard = loud(frames)
    near = np.convolve(heard, np.ones(9), mode="same") > 0  # 160 ms around
    assert (~near).sum() >= 20
    assert np.abs(motion[~near][:, LIPS]).max() < 0.03
    jaw = motion[heard, JAW]
    assert jaw.std() > 0.04 and jaw.max() > 0.15
    envelope = np.log(np.sqrt(np.mean(frames**2, axis=1)) + 1e-3)
    fits = [np.corrcoef(np.roll(motion[:, JAW], -lag), envelope)[0, 1] for lag in range(-4, 5)]
    assert fits[4] > 0.4 and abs(int(np.argmax(fits)) - 4) <= 2


def test_a_mouth_that_moves_little_is_driven_further_and_one_that_moves_enough_is_not() -> None:
    slot = diffusion._Slot(0, Gate(0))
    slot.gate.value = 1.0
    face = np.zeros(len(FACE), np.float32)
    face[FACE.index("jawOpen")] = 1.0

    def gain(apart: float, frames: int) -> float:
        opened = face * np.float32(apart / APERTURE[FACE.index("jawOpen")])
        return [diffusion.MotionModel._gain(slot, opened) for _ in range(frames)][-1]

    first = gain(diffusion.REACH_START, 1)
    assert first == pytest.approx(diffusion.REACH / diffusion.REACH_START, abs=1e-4)
    assert gain(0.065, 300) * 0.065 == pytest.approx(diffusion.REACH, abs=1e-3)
    assert gain(0.02, 300) == pytest.approx(diffusion.MOST_GAIN)
    assert gain(0.12, 300) == 1
    reach = slot.reach
    slot.gate.value = 0.5
    gain(0.02, 300)
    assert slot.reach == reach, "what a half open gate lets through says nothing of a voice"
    slot.reach, slot.gate.value = 0.0, 0.0
    assert gain(0.02, 1) == 1


def test_the_mouth_is_closed_within_80_ms_of_the_end_of_speech() -> None:
    frames = sample()
    last = int(np.flatnonzero(loud(frames[:60]))[-1])
    motion = run(
        DiffusionMotion(), np.concatenate([frames[: last + 1], np.zeros((10, SAMPLES_PER_FRAME), np.float32)])
    )
    assert np.abs(motion[last + 3 :, LIPS]).max() < 0.05


@pytest.mark.parametrize("kind", ["silence", "hiss", "hum", "chord"])
def test_lips_rest_and_the_person_lives_without_speech(kind: str) -> None:
    rng = np.random.default_rng(0)
    n = 16 * SAMPLE_RATE
    time = np.arange(n) / SAMPLE_RATE
    sound = {
        "silence": np.zeros(n),
        "hiss": 0.02 * rng.standard_normal(n),
        "hum": 0.1 * np.sin(2 * np.pi * 100 * time) + 0.05 * np.sin(2 * np.pi * 300 * time),
        "chord": 0.05 * sum(np.sin(2 * np.pi * f * k * time) / k for f in (220, 277, 330) for k in (1, 2, 3)),
    }[kind]
    fade = np.minimum(1, np.minimum(time, time[-1] - time) / 0.5)
    motion = run(DiffusionMotion(1), np.asarray(sound * fade, np.float32).reshape(-1, SAMPLES_PER_FRAME))
    # A tone's first moments may be a vowel's: what lasts is told apart within a second.
    assert np.abs(motion[25:, LIPS]).max() < 0.06
    assert motion[:, INDEX["eyeBlinkLeft"]].max() > 0.7, "blinks"
    assert np.degrees(np.ptp(motion[:, INDEX["clavicleLeft.z"]])) > 0.2, "breathes"
    assert np.abs(np.diff(motion[:, GAZE_SLICE], axis=0)).max() > np.radians(0.5), "looks about"


def test_two_seeds_have_the_same_lips_and_different_heads() -> None:
    one, two = spoken(0), spoken(1)
    assert np.corrcoef(one[:, JAW], two[:, JAW])[0, 1] > 0.95
    head = HEAD_SLICE
    assert np.abs(one[:, head] - two[:, head]).max() > np.radians(0.5)
    np.testing.assert_array_equal(one[:60], run(DiffusionMotion(0), sample())[:60])


def test_a_batch_of_sessions_is_each_session() -> None:
    """With masks, a reset and different sounds: block by block, in company or alone, the same motion."""
    frames, rng = sample()[:70], np.random.default_rng(0)
    model = MotionModel([5, 6, 7])
    alone = DiffusionMotion(6)
    at = 0
    for step in range(90):
        moves = step % 3 != 1 and at < len(frames)
        other = frames[rng.integers(len(frames))][None]
        got = model.step([other, frames[at][None] if moves else None, None if step % 4 == 0 else other])
        if moves:
            np.testing.assert_allclose(got[1], alone.step(frames[at][None]), atol=2e-4)
            at += 1
        else:
            assert not got[1].any()
        if step == 40:
            model.reset(0)
            model.hush(2)
    assert at == 60


def test_a_slot_that_is_reset_is_as_new() -> None:
    frames = sample()[:40]
    model = MotionModel([1, 2])
    for frame in frames:
        model.step([frame[None], frame[None]])
    model.reset(1, seed=9)
    fresh = DiffusionMotion(9)
    for frame in frames:
        np.testing.assert_allclose(
            model.step([frame[None], frame[None]])[1], fresh.step(frame[None]), atol=2e-4
        )


def test_several_frames_or_none_are_heard_in_a_step() -> None:
    frames = sample()[:40]
    source = DiffusionMotion(0)
    first = source.step(frames[:3])  # a session skips what came before speech
    assert first.shape == (N_CHANNELS,)
    for frame in frames[3:30]:
        spoken_now = source.step(frame[None])
    assert np.abs(spoken_now[LIPS]).max() > 0.05
    none = np.zeros((0, SAMPLES_PER_FRAME), np.float32)
    held = [source.step(none) for _ in range(4)]
    assert np.abs(held[-1][LIPS]).max() < 0.02, "without sound the mouth comes to rest"
    assert np.isfinite(held).all()


def test_barge_in_stops_the_mouth() -> None:
    frames = sample()
    source = DiffusionMotion(0)
    start = int(np.argmax(spoken()[:, JAW]))
    for frame in frames[: start + 3]:
        before = source.step(frame[None])
    assert before[JAW] > 0.1
    source.hush()
    after = np.stack([source.step(SILENCE) for _ in range(3)])
    assert after[0, JAW] < 0.25 * before[JAW] and np.abs(after[2, LIPS]).max() < 0.02
    assert np.abs(after[0, HEAD_SLICE] - before[HEAD_SLICE]).max() < np.radians(2), "the head goes on"


def test_a_barge_in_told_twice_is_one() -> None:
    """Two interruptions in one frame do not release the mouth twice: it would open as it stops."""
    frames = sample()
    once, twice = DiffusionMotion(0), DiffusionMotion(0)
    start = int(np.argmax(spoken()[:, JAW]))
    for source in (once, twice):
        for frame in frames[: start + 3]:
            source.step(frame[None])
        source.hush()
    twice.hush()
    for _ in range(3):
        np.testing.assert_array_equal(twice.step(SILENCE), once.step(SILENCE))


def head_of(motion: np.ndarray) -> np.ndarray:
    return motion[:, HEAD_SLICE] + motion[:, NECK_SLICE]


def test_minutes_change_nothing() -> None:
    """Five minutes, each of the same speech, pauses and silence: the head stays about the photo's pose, breath, eyes and lips go on as
    they began. (An hour: `visavis bench quality --stage motion --minutes 60`; an hour of noise alone: test_motion_training.py.)"""
    frames = sample()
    turn = np.concatenate([frames, np.zeros((60, SAMPLES_PER_FRAME), np.float32)])
    minute = np.zeros((60 * FPS, SAMPLES_PER_FRAME), np.float32)
    minute[: 40 * FPS] = np.concatenate([turn] * (1 + 40 * FPS // len(turn)))[: 40 * FPS]
    source = DiffusionMotion(3)
    minutes = [np.stack([source.step(frame[None]) for frame in minute]) for _ in range(5)]
    for motion in minutes:
        head = np.degrees(head_of(motion))
        assert (np.abs(head) <= np.degrees(HEAD_LIMIT) + 0.1).all()
        assert np.linalg.norm(head.mean(0)) < 5 and 0.5 < head.std(0).mean() < 5
        assert 0.05 < np.degrees(motion[:, INDEX["clavicleLeft.z"]].std()) < 1.5
        assert 1 < np.degrees(motion[:, GAZE_SLICE].std(0).mean()) < 8
        assert motion[40 * FPS + 10 :, JAW].max() < 0.02
    lids = np.concatenate(minutes)[:, INDEX["eyeBlinkLeft"]]
    assert 10 <= ((lids[1:] > 0.5) & (lids[:-1] <= 0.5)).sum() / 5 <= 25
    jaws = [motion[:, JAW].std() for motion in minutes]
    assert max(jaws) / min(jaws) < 1.1
    # State has the size that it had.
    assert all(a.shape[0] == 1 for net in source.model._nets.values() for a in net.state.arrays.values())


def test_controls_show() -> None:
    quiet = np.zeros((250, SAMPLES_PER_FRAME), np.float32)

    def live(controls: Controls) -> np.ndarray:
        source = DiffusionMotion(2)
        source.controls = controls
        return run(source, quiet)

    plain, warm = live(Controls()), live(Controls(mood="warm", listening=True))
    assert warm[:, INDEX["mouthSmileLeft"]].mean() > plain[:, INDEX["mouthSmileLeft"]].mean() + 0.05
    still = live(Controls(head_motion=0.0))
    assert np.abs(head_of(still)).max() < 1e-6 < np.abs(head_of(plain)).max()
    aside = live(Controls(gaze=(0.3, 0.0)))
    shift = aside[25:, GAZE_SLICE][:, 0].mean() - plain[25:, GAZE_SLICE][:, 0].mean()
    turned = head_of(aside)[25:, 1].mean() - head_of(plain)[25:, 1].mean()
    assert shift > 0.1 and turned > 0.03
    dull = live(Controls(expressiveness=0.0, mood="warm"))
    assert np.abs(dull[:, INDEX["mouthSmileLeft"]]).max() < 1e-6


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"expressiveness": 3.0}, "expressiveness is 3.0, expected 0 to 2"),
        ({"head_motion": float("nan")}, "head_motion is nan"),
        ({"mood": "furious"}, "mood is 'furious', expected one of neutral, warm, serious"),
        ({"gaze": (0.1,)}, "expected yaw and pitch"),
    ],
)
def test_controls_that_make_no_sense_are_refused(values: dict, message: str) -> None:
    with pytest.raises(MotionError, match=message):
        Controls(**values)


def test_sound_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="640 samples, not 639"):
        DiffusionMotion().step(np.zeros((1, 639), np.float32))
    with pytest.raises(ValueError, match="sound for 1 slots, but there are 2"):
        MotionModel([0, 1]).step([SILENCE])
    with pytest.raises(ValueError, match="lookahead is 3"):
        DiffusionMotion(lookahead=3)


def test_the_gate_opens_at_once_and_closes_within_two_frames() -> None:
    gate = Gate(lookahead=0)
    values = []
    for voice, active in ((0.9, True), (0.9, True), (0.9, False), (0.9, False), (0.1, True)):
        gate.step(voice, active)
        values.append(gate.value)
    assert values == [1.0, 1.0, 0.5, 0.0, 0.0]
    assert gate.rest == 2


def lived(seconds: int, speaking: bool, listening: bool, seed: int = 2) -> list[Reflex]:
    reflexes = Reflexes(seed)
    return [reflexes.step(speaking, listening) for _ in range(seconds * FPS)]


def test_a_listener_nods_and_nobody_else() -> None:
    for speaking, listening in ((False, False), (True, True), (True, False)):
        assert not any(reflex.nod for reflex in lived(60, speaking, listening))
    nods = np.degrees([reflex.nod for reflex in lived(300, False, True)])
    assert nods.min() >= 0 and 1 < nods.max() <= 5, "down and back"
    assert np.abs(np.diff(nods)).max() < 1.5, "no jerk: 38 degrees a second at most"
    begins = int(((nods[1:] > 0.05) & (nods[:-1] <= 0.05)).sum())
    assert 300 / 12 < begins < 300 / 1.5


def test_a_nod_that_has_begun_is_finished() -> None:
    reflexes = Reflexes(4)
    while not reflexes.step(False, True).nod:
        pass
    rest = [reflexes.step(True, True).nod for _ in range(3 * FPS)]
    assert max(rest) > 0.01 and not any(rest[-FPS:])


def test_shoulders_rise_with_every_breath_at_rest_and_slowly_fall_in_speech() -> None:
    lifts = np.array([reflex.breath for reflex in lived(300, False, False)])
    spectrum = np.abs(np.fft.rfft(lifts - lifts.mean()))
    assert 0.19 <= np.fft.rfftfreq(len(lifts), 1 / FPS)[spectrum.argmax()] <= 0.3
    assert 0.5 < np.degrees(np.ptp(lifts)) < 1.8 and 0.2 < np.degrees(lifts.std()) < 0.5
    reflexes = Reflexes(2)
    for _ in range(2 * FPS):
        reflexes.step(False, False)
    spoken = np.array([reflexes.step(True, False).breath for _ in range(3 * FPS)])
    assert np.all(np.diff(spoken[FPS // 2 :]) <= 0)
    taken = np.array([reflexes.step(False, False).breath for _ in range(FPS)])
    assert taken.max() > spoken[-1] + 0.5 * BREATH_LIFT, "a quick breath where speech pauses"


def test_life_values_and_channels_say_the_same() -> None:
    rng = np.random.default_rng(0)
    life = rng.uniform(0, 0.05, (20, len(LIFE))).astype(np.float32)
    life[:, ARMS] = 0
    motion = spread_life(life)
    np.testing.assert_allclose(gather_life(motion), life, atol=1e-6)
    np.testing.assert_allclose(head_of(motion), life[:, HEAD], atol=1e-6)
    assert not motion[:, FACE_SLICE][:, [ARKIT.index("jawOpen")]].any()
    # Eyes hold their target while the head moves.
    turned = life.copy()
    turned[:, LIFE_INDEX["head.y"]] += 0.1
    np.testing.assert_allclose(
        spread_life(turned)[:, GAZE_SLICE][:, 0], motion[:, GAZE_SLICE][:, 0] - 0.1, atol=1e-6
    )


def attend_all_at_once(
    weights: dict[str, np.ndarray], part: str, past: np.ndarray, heard: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """The transformer over whole sequences of normalised pasts (T, values), written again in numpy: contexts (T, width)."""

    def linear(name: str, x: np.ndarray) -> np.ndarray:
        return x @ weights[f"{part}.{name}.weight"].T + weights[f"{part}.{name}.bias"]

    def norm(name: str, x: np.ndarray) -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
        return scaled * weights[f"{part}.{name}.weight"] + weights[f"{part}.{name}.bias"]

    told = np.concatenate([heard, np.ones_like(heard[:, :1])], -1) * weights[f"{part}.hears"]
    x = linear("enter", np.concatenate([past, told, labels], -1))
    age = np.arange(len(x))[:, None] - np.arange(len(x))
    for k in range(sum(name.startswith(f"{part}.layers.") and name.endswith(".bias_HW") for name in weights)):
        table, sink = weights[f"{part}.layers.{k}.bias_HW"], weights[f"{part}.layers.{k}.sink_HE"]
        heads, window = table.shape
        q, key, value = (
            v.reshape(len(x), heads, -1).transpose(1, 0, 2)
            for v in np.split(linear(f"layers.{k}.qkv", norm(f"layers.{k}.norm1", x)), 3, -1)
        )
        scores = q @ key.transpose(0, 2, 1) / np.sqrt(q.shape[-1]) + table[:, age.clip(0, window - 1)]
        scores = np.where((age >= 0) & (age < window), scores, -np.inf)
        rest = (q * sink[0][:, None]).sum(-1, keepdims=True) / np.sqrt(q.shape[-1])
        scores = np.exp(np.concatenate([rest, scores], -1))
        share = scores / scores.sum(-1, keepdims=True)
        mixed = share[..., 1:] @ value + share[..., :1] * sink[1][:, None]
        x = x + linear(f"layers.{k}.out", mixed.transpose(1, 0, 2).reshape(len(x), -1))
        up = linear(f"layers.{k}.up", norm(f"layers.{k}.norm2", x))
        x = x + linear(
            f"layers.{k}.down", 0.5 * up * (1 + np.tanh(np.sqrt(2 / np.pi) * (up + 0.044715 * up**3)))
        )
    return norm("norm", x)


@pytest.mark.parametrize("part", ["face", "life"])
def test_frame_by_frame_with_a_ring_is_all_frames_at_once(part: str) -> None:
    """More frames than the ring holds, each fed what the file gave before: the last layer's keys and the motion agree
    with a transformer over the whole sequence, computed here."""
    from safetensors.numpy import load_file

    weights = load_file(WEIGHTS / "motion.safetensors")
    network = load(WEIGHTS / f"motion_{part}.onnx")
    rng = np.random.default_rng(0)
    values = len(FACE if part == "face" else LIFE)
    window = network.inputs["keys"][3]
    n = window + 20
    heard = rng.uniform(0, 1, (n, network.inputs["heard"][1])).astype(np.float32)
    labels = np.eye(LABELS, dtype=np.float32)[rng.integers(0, LABELS, n)]
    keys = np.zeros((1, *network.inputs["keys"][1:]), np.float32)
    rings = {"keys": keys, "values": keys.copy()}
    past, moved, read, written = np.zeros((1, values), np.float32), np.zeros((1, values), np.float32), [], []
    for k in range(n):
        place = (past - weights[f"{part}.centre"]) / weights[f"{part}.spread"]
        # With momentum the last move is read as well, but for the values that something else moves.
        momentum = weights[f"{part}.enter.weight"].shape[1] > place.shape[1] + heard.shape[1] + 1 + LABELS
        read.append(np.concatenate([place[0], moved[0] * weights[f"{part}.tells"]]) if momentum else place[0])
        out = network(
            {
                "heard": heard[k : k + 1], "labels": labels[k : k + 1], "past": past, "moved": moved, **rings,
                "noise": rng.standard_normal((1, values)).astype(np.float32) * 0.3,
                "index": np.array([k % window]), "filled": np.array([min(k, window - 1)]),
            }
        )  # fmt: skip
        rings = {"keys": out["next_keys"], "values": out["next_values"]}
        written.append(rings["keys"][0, -1, :, k % window].ravel())
        past, moved = out["motion"], out["next_moved"]
    whole = last_keys(weights, part, np.stack(read), heard, labels)
    np.testing.assert_allclose(whole, np.stack(written), atol=2e-3)


def last_keys(
    weights: dict[str, np.ndarray], part: str, past: np.ndarray, heard: np.ndarray, labels: np.ndarray
) -> np.ndarray:
    """Keys (T, width) of the last layer, which depend on all frames through the layers before it."""
    layers = sum(name.startswith(f"{part}.layers.") and name.endswith(".bias_HW") for name in weights)
    last = layers - 1
    shorter = {
        name: value for name, value in weights.items() if not name.startswith(f"{part}.layers.{last}.")
    }
    shorter[f"{part}.norm.weight"] = weights[f"{part}.layers.{last}.norm1.weight"]
    shorter[f"{part}.norm.bias"] = weights[f"{part}.layers.{last}.norm1.bias"]
    normed = attend_all_at_once(shorter, part, past, heard, labels)
    width = normed.shape[1]
    return (
        normed @ weights[f"{part}.layers.{last}.qkv.weight"].T[:, width : 2 * width]
        + weights[f"{part}.layers.{last}.qkv.bias"][width : 2 * width]
    )


def test_channels_that_arms_move_are_arms() -> None:
    from visavis.engine.motion.layout import ARM_CHANNELS

    assert {CHANNELS[k].split("Left")[0].split("Right")[0].rstrip("123") for k in ARM_CHANNELS} >= {
        "upperArm",
        "forearm",
        "wrist",
    }
    assert not any(CHANNELS[k].startswith(("head", "neck", "spine")) for k in ARM_CHANNELS)
