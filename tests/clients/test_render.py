"""`visavis render` with the real engine: exact length, the sound unchanged, the same seed the same movie."""

from __future__ import annotations

from pathlib import Path

import av
import numpy as np
import pytest
import visavis.engine
from test_cli import write_wav
from visavis.clients import cli
from visavis.clients import render as rendering
from visavis.engine.avatar import Avatar
from visavis.engine.motion.channels import INDEX, N_CHANNELS, MotionClip

PHOTO = Path(visavis.engine.__path__[0]) / "assets" / "astronaut.png"


@pytest.fixture(scope="module")
def avatar(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("avatar") / "demo.avatar"
    assert (
        cli.main(
            [
                "enroll",
                str(PHOTO),
                "-o",
                str(path),
                "--size",
                "256",
                "--consent",
                "public domain",
                "--name",
                "Demo",
            ]
        )
        == 0
    )
    return path


def read(path):
    with av.open(str(path)) as movie:
        images = [frame.to_ndarray(format="rgb24") for frame in movie.decode(video=0)]
    with av.open(str(path)) as movie:
        sound = [frame.to_ndarray()[0] for frame in movie.decode(audio=0)] if movie.streams.audio else []
    return np.stack(images), np.concatenate(sound) if sound else None


def test_the_avatar_keeps_what_it_was_told(avatar):
    loaded = Avatar.load(avatar)
    assert loaded.metadata["consent"] == "public domain" and loaded.metadata["name"] == "Demo"
    assert max(loaded.width, loaded.height) == 256


def test_speech_becomes_a_movie_of_its_length(avatar, tmp_path):
    rate = 22050
    pcm = (7000 * np.sin(2 * np.pi * 330 * np.arange(int(1.37 * rate)) / rate)).astype("<i2")
    speech = write_wav(tmp_path / "s.wav", pcm, rate)
    for name in ("a", "b"):
        assert (
            cli.main(["render", str(avatar), str(speech), "-o", str(tmp_path / f"{name}.mp4"), "--seed", "5"])
            == 0
        )
    assert {p.name for p in tmp_path.iterdir()} == {"s.wav", "a.mp4", "b.mp4"}
    images, sound = read(tmp_path / "a.mp4")
    assert len(images) == np.ceil(1.37 * 25)
    assert np.array_equal(images, read(tmp_path / "b.mp4")[0]), "the same seed, the same movie"
    played = sound[: int(1.37 * 48000)].astype(float)
    spectrum = np.abs(np.fft.rfft(played * np.hanning(len(played))))
    assert abs(np.argmax(spectrum) * 48000 / len(played) - 330) < 2
    assert images.std(axis=0).max() > 5, "nothing moves"


def test_the_manner_shows_in_the_movie(avatar, tmp_path, monkeypatch):
    speech = write_wav(tmp_path / "s.wav")
    smiles, frames_of = {}, rendering.speech_frames

    def watched(*args, **options):
        def watch(motion):
            smiles.setdefault(name, []).append(motion[INDEX["mouthSmileLeft"]])

        return frames_of(*args, watch=watch, **options)

    monkeypatch.setattr(rendering, "speech_frames", watched)
    for name, options in (
        ("plain", []),
        ("warm", ["--mood", "warm"]),
        ("dull", ["--mood", "warm", "--expressiveness", "0", "--head-motion", "0.5"]),
    ):
        out = tmp_path / f"{name}.mp4"
        command = ["render", str(avatar), str(speech), "-o", str(out), "--no-generator", *options]
        assert cli.main(command) == 0
    last = {name: float(np.mean(smile[-5:])) for name, smile in smiles.items()}
    assert last["warm"] > last["plain"] + 0.05 and last["warm"] > last["dull"] + 0.05, last


def test_a_motion_file_is_played_at_its_own_rate(avatar, tmp_path):
    motion = np.zeros((12, N_CHANNELS), np.float32)
    motion[:, INDEX["jawOpen"]] = np.linspace(0, 0.8, 12)
    MotionClip(motion, 30.0).save(tmp_path / "m.npz")
    out = tmp_path / "o.mp4"
    assert cli.main(["render", str(avatar), "--motion", str(tmp_path / "m.npz"), "-o", str(out)]) == 0
    with av.open(str(out)) as movie:
        assert float(movie.streams.video[0].average_rate) == 30.0 and not movie.streams.audio
    images, _ = read(out)
    assert len(images) == 12
    assert np.abs(images[0].astype(int) - images[-1]).max() > 40, "the jaw does not move"


def test_an_empty_recording_is_refused(avatar, tmp_path, capsys):
    speech = write_wav(tmp_path / "s.wav", np.zeros(0, "<i2"))
    assert cli.main(["render", str(avatar), str(speech), "-o", str(tmp_path / "o.mp4")]) == 2
    assert "0 s long" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [speech]
