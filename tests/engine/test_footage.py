"""A film's file: known by its content, measured before it is decoded, and never more than a VideoError whatever is in it."""

from __future__ import annotations

import contextlib
import itertools

import cv2
import numpy as np
import pytest
from films import film_of, sound_only
from hypothesis import given, settings
from hypothesis import strategies as st
from visavis.engine import footage
from visavis.engine.audio.decode import read_sound
from visavis.engine.errors import AudioError, VideoError
from visavis.engine.footage import HEAD, SUFFIXES, Footage, film_format, read_frames

KINDS = ("mp4", "webm", "mov", "avi", "mpegts", "mpeg")


def shades(frames: int, kind: str) -> bytes:
    return film_of((np.full((96, 128, 3), 40 + 6 * k, np.uint8) for k in range(frames)), kind)


FILMS = {kind: shades(30, kind) for kind in KINDS} | {"sound": sound_only()}


@pytest.mark.parametrize(
    ("kind", "reader"), [*zip(KINDS, ("mov", "matroska", "mov", "avi", "mpegts", "mpeg"), strict=True)]
)
def test_a_film_is_known_by_its_content_and_read_from_memory(kind, reader, tmp_path):
    assert film_format(FILMS[kind][:HEAD]) == reader
    said = Footage.of(FILMS[kind])
    assert (said.frames, said.width, said.height) == (30, 128, 96)
    slack = 0.045 if kind == "mpeg" else 0.002  # its stamps are where a packet's first frame begins
    assert said.seconds == pytest.approx(1.2, abs=slack) and len(said.times) == 30
    assert np.allclose(said.times, np.arange(30) / 25, atol=slack)
    frames = [frame for frame, _ in read_frames(FILMS[kind])]
    assert len(frames) == 30
    (tmp_path / "film").write_bytes(FILMS[kind])  # a file is read whatever its name is
    assert all((a == b).all() for a, (b, _) in zip(frames, read_frames(tmp_path / "film"), strict=True))


def test_what_is_no_film_is_not_opened_at_all():
    still = np.zeros((40, 40, 3), np.uint8)
    pictures = [cv2.imencode(f".{kind}", still)[1].tobytes() for kind in ("png", "jpg", "webp", "bmp")]
    # and lists and addresses, which ffmpeg would follow
    lists = [
        b"#EXTM3U\nfile:///etc/passwd",
        b"ffconcat version 1.0\nfile /etc/passwd",
        b"G" + b"x" * 600,
        b"",
    ]
    for content in (*pictures, b"\0\0\0\x1cftypavif" + bytes(99), *lists):
        assert film_format(content[:HEAD]) is None
        for look in (Footage.of, lambda content: next(read_frames(content))):
            with pytest.raises(VideoError) as error:
                look(content)
            assert error.value.code == "not_a_film"
        with pytest.raises(AudioError):
            read_sound(content)
    assert {".mp4", ".webm", ".mov"} < SUFFIXES


def test_a_film_without_pictures_is_none():
    for look in (Footage.of, lambda content: next(read_frames(content))):
        with pytest.raises(VideoError, match="no video") as error:
            look(FILMS["sound"])
        assert error.value.code == "not_a_film"
    assert len(read_sound(FILMS["sound"])) == pytest.approx(16000 * 60 * 1024 / 48000, rel=0.05)


def test_frames_are_no_larger_than_photos_may_be(monkeypatch):
    monkeypatch.setattr(footage, "MAX_PIXELS", 128 * 96 - 1)
    with pytest.raises(VideoError, match="cannot be read"):
        next(read_frames(FILMS["mp4"]))


@settings(max_examples=60, deadline=None)
@given(
    kind=st.sampled_from(sorted(FILMS)),
    seed=st.integers(0, 2**31),
    flips=st.integers(0, 30),
    where=st.sampled_from(["head", "tail", "all"]),
    keep=st.floats(0.05, 1.0),
)
def test_damage_is_an_error_of_the_film_or_none(kind, seed, flips, where, keep):
    broken, rng = bytearray(FILMS[kind]), np.random.default_rng(seed)
    low, high = {"head": (12, 700), "tail": (len(broken) - 900, len(broken)), "all": (12, len(broken))}[where]
    for at in rng.integers(max(12, low), high, flips):
        broken[min(at, len(broken) - 1)] = rng.integers(256)
    content = bytes(broken[: max(12, int(len(broken) * keep))])
    for look in (Footage.of, lambda film: list(itertools.islice(read_frames(film), 40)), read_sound):
        with contextlib.suppress(VideoError, AudioError):
            look(content)
