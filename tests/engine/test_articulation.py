"""A person's own articulation: learned where a film tells it, left alone where it does not, and applied to that person only."""

from __future__ import annotations

import dataclasses
import logging
import wave
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_motion_diffusion import LIPS, SILENCE, SPEECH, run, sample
from visavis.clients.render import render_speech
from visavis.engine.articulate import Lips, learn_articulation, listen, regress
from visavis.engine.avatar import Avatar
from visavis.engine.batch import Batch
from visavis.engine.body.detect import FaceTracker
from visavis.engine.errors import AvatarError
from visavis.engine.film import enroll_film
from visavis.engine.motion.articulation import (
    INPUTS,
    LAGS,
    MOST,
    OWN_SCALE,
    Articulation,
    base_of,
    corrected,
    usable,
)
from visavis.engine.motion.channels import FACE_SLICE, INDEX
from visavis.engine.motion.diffusion import WEIGHTS, Controls, DiffusionMotion, MotionModel
from visavis.engine.motion.layout import FACE
from visavis.engine.motion.lips import APERTURE, WIDTH
from visavis.engine.session import Session
from visavis.engine.video.renderer import Renderer


@pytest.fixture(scope="module")
def heard() -> tuple[np.ndarray, np.ndarray]:
    """Three times the shipped speech, as the networks hear it."""
    sound = np.concatenate([sample().ravel()] * 3)
    return listen(sound, len(sound) // 640)


def lips_of(heard: tuple[np.ndarray, np.ndarray], further: float, wider: float) -> Lips:
    """Lips that open `further` than the networks say, and are `wider` at what is heard as the first vowel class."""
    past, gate = heard
    said = past[:, 0, -2:] / OWN_SCALE
    phone = past[:, 0, len(FACE) + 4]
    noise = np.random.default_rng(0).normal(0, 0.004, (len(past), 2))
    return Lips(
        further * said[:, 0] + noise[:, 0],
        said[:, 1] + wider * phone * gate + noise[:, 1],
        np.ones(len(past), bool),
    )


def some(weight: float = 0.0, offset: float = 0.0, base: str | None = None) -> Articulation:
    weights = np.zeros((LAGS, INPUTS, 2), np.float32)
    weights[0, -2, 0] = weight / OWN_SCALE
    return Articulation(weights, np.array([offset, 0], np.float32), None, base or base_of(WEIGHTS))


faces = st.lists(st.floats(0, 1, width=32), min_size=len(FACE), max_size=len(FACE)).map(
    lambda values: np.array(values, np.float32)
)


@settings(max_examples=100, deadline=None)
@given(face=faces, more=st.floats(-0.12, 0.12), wider=st.floats(-0.1, 0.1))
def test_a_corrected_mouth_stays_one(face, more, wider):
    out = corrected(face, np.array([more, wider], np.float32))
    assert out.shape == face.shape and out.min() >= 0 and out.max() <= 1
    np.testing.assert_allclose(corrected(face, np.zeros(2, np.float32)), face, atol=1e-6)


@pytest.mark.parametrize("more", [-0.05, 0.02, 0.06, 0.1])
@pytest.mark.parametrize("opening", [0.0, 0.1, 0.3])
def test_the_aperture_becomes_what_is_asked_for(opening, more):
    face = np.zeros(len(FACE), np.float32)
    face[FACE.index("jawOpen")] = opening
    before = float(face @ APERTURE)
    after = float(corrected(face, np.array([more, 0], np.float32)) @ APERTURE)
    assert after == pytest.approx(max(0.0, before + more), abs=0.004)


@pytest.mark.parametrize("name", ["mouthPucker", "mouthStretch"])
@pytest.mark.parametrize("wider", [-0.04, 0.04])
def test_the_width_becomes_what_is_asked_for(name, wider):
    face = np.zeros(len(FACE), np.float32)
    face[FACE.index(name)] = 0.3
    after = corrected(face, np.array([0, wider], np.float32))
    assert float((after - face) @ WIDTH) == pytest.approx(wider, abs=0.004)


def test_what_a_mouth_does_of_its_own_is_learned_and_done(heard):
    lesson = regress(lips_of(heard, 1.5, 0.06), *heard)
    assert lesson.articulation is not None and lesson.articulation.reach is not None
    assert lesson.after[1] > lesson.before[1] + 0.02 and "how this mouth moves" in str(lesson)
    plain, own = (
        run(DiffusionMotion(0, articulation=who), sample())[:, FACE_SLICE]
        for who in (None, lesson.articulation)
    )
    said = heard[0][: len(own), 0, -2] / OWN_SCALE
    from visavis.engine.training.data import BODY, MouthRig

    aperture = MouthRig.load(BODY).aperture
    spoken = said > 0.02
    assert (own @ aperture)[spoken].mean() > 1.1 * said[spoken].mean()
    assert np.corrcoef(own @ aperture, plain @ aperture)[0, 1] > 0.9


def test_picture_and_sound_may_be_apart(heard):
    lips = lips_of(heard, 1.5, 0.06)
    late = Lips(*(np.roll(values, 4) for values in (lips.aperture, lips.width, lips.seen)))
    own, same = regress(late, *heard), regress(lips, *heard)
    assert own.articulation is not None and same.articulation is not None
    assert own.after[1] == pytest.approx(same.after[1], abs=0.05)


@pytest.mark.parametrize("case", ["another sound", "too little", "nothing of its own"])
def test_what_a_film_does_not_tell_is_not_learned(heard, case):
    past, gate = heard
    lips = lips_of(heard, 1.0 if case == "nothing of its own" else 1.5, 0.0)
    if case == "another sound":
        other = np.abs(np.random.default_rng(3).normal(0, 0.05, (2, len(past))))
        lips = Lips(*other, lips.seen)
    if case == "too little":
        lips = dataclasses.replace(lips, seen=np.arange(len(past)) < 100)
    lesson = regress(lips, past, gate)
    assert lesson.articulation is None and lesson.why in str(lesson) and lesson.why


def test_a_film_without_sound_teaches_nothing(tmp_path):
    assert "cannot be read" in learn_articulation(tmp_path / "no.mp4", [None], np.zeros(1)).why


def test_lips_are_timed_by_the_frames_that_a_film_really_has(avatar):
    """Webcams leave frames out: what is seen later belongs where it was seen."""
    renderer, tracker, faces = Renderer(avatar), FaceTracker(), []
    for jaw in (0.0, 0.6):
        motion = avatar.neutral_motion()
        motion[INDEX["jawOpen"]] += jaw
        faces.append(tracker.detect(renderer.render(motion).copy()))
    shut, wide = faces
    times = np.arange(0, 12, 1 / 30)
    opened = 0.5 - 0.5 * np.cos(2 * np.pi * times / 1.5)
    all_faces = [
        dataclasses.replace(
            shut, landmarks=shut.landmarks + np.float32(s) * (wide.landmarks - shut.landmarks)
        )
        for s in opened
    ]
    whole = Lips.of(all_faces, times)
    assert len(whole.aperture) == 300 and np.ptp(whole.aperture) > 0.1
    kept = np.sort(np.random.default_rng(0).permutation(len(times))[: len(times) * 3 // 4])
    kept[0], kept[-1] = 0, len(times) - 1
    left = Lips.of([all_faces[k] for k in kept], times[kept])
    assert len(left.aperture) == pytest.approx(300, abs=2)
    count = min(len(left.aperture), 300)
    assert np.corrcoef(left.aperture[:count], whole.aperture[:count])[0, 1] > 0.995


def test_a_mouth_rests_in_silence_whatever_was_learned():
    source = DiffusionMotion(0, articulation=some(weight=1.0, offset=0.1))
    motion = np.stack([source.step(SILENCE) for _ in range(60)])
    assert np.abs(motion[:, FACE_SLICE][:, LIPS]).max() < 0.03


def test_another_persons_slot_does_not_notice(avatar):
    own = dataclasses.replace(avatar, articulation=some(weight=0.6))
    batch = Batch(2, lookahead=2)
    both = [batch.open(person, seed=5, generator_steps=0) for person in (own, avatar)]
    alone = Session(avatar, seed=5, generator_steps=0)
    for session in (*both, alone):
        session.push_audio(sample().ravel()[:32000], 16000)
    moved = []
    for _ in range(50):
        frames = batch.tick()
        expected = alone.step()
        assert not isinstance(frames[both[1]], BaseException)
        np.testing.assert_allclose(frames[both[1]].motion, expected.motion, atol=1e-5)
        moved.append(float(np.abs(frames[both[0]].motion - expected.motion).max()))
    batch.close()
    alone.close()
    assert max(moved) > 0.05
    assert batch._model._slots[0].articulation is not None


def test_a_slot_forgets_the_person_before():
    model = MotionModel([1])
    model.set_articulation(some(weight=1.0))
    model.reset(0, 2)
    assert model._slots[0].articulation is None


def test_it_goes_into_the_file_and_back(avatar, tmp_path, caplog):
    made = some(weight=0.3)
    dataclasses.replace(avatar, articulation=made).save(tmp_path / "a.avatar")
    again = Avatar.load(tmp_path / "a.avatar").articulation
    assert again is not None and again.base == made.base
    np.testing.assert_array_equal(again.weights, made.weights)
    assert usable(again, WEIGHTS) is again
    with caplog.at_level(logging.WARNING):
        assert usable(some(base="another"), WEIGHTS) is None
    assert "enrol the film again" in caplog.text
    assert np.abs(some(weight=9.0).added(np.ones((LAGS, INPUTS), np.float32))).max() <= MOST.max()


def test_a_damaged_one_is_refused(avatar, tmp_path, monkeypatch):
    wrong = some()
    object.__setattr__(wrong, "weights", np.full((LAGS, INPUTS, 2), np.nan, np.float32))
    dataclasses.replace(avatar, articulation=wrong).save(tmp_path / "a.avatar")
    with pytest.raises(AvatarError, match="not finite"):
        Avatar.load(tmp_path / "a.avatar")


def test_a_film_with_sound_teaches_its_avatar(avatar, tmp_path):
    """The demo person speaks, a third further open than the networks have it; enrolled from that film it does so too."""
    with wave.open(str(SPEECH)) as file:
        parameters, frames = file.getparams(), file.readframes(file.getnframes())
    speech = tmp_path / "speech.wav"
    times = -(-12 * parameters.framerate // parameters.nframes)
    with wave.open(str(speech), "wb") as file:
        file.setparams(parameters)
        file.writeframes(frames * times)
    film = tmp_path / "film.mp4"
    render_speech(
        avatar, speech, film, seed=0, progress=lambda done, total: None, generator_steps=0, controls=Controls(expressiveness=2.0),
    )  # fmt: skip
    made = enroll_film(film)
    assert made.articulation is not None, made.metadata["articulation"]
    assert "s of speech" in made.metadata["articulation"]
    assert Path(film).is_file()
