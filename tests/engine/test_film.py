"""A film as the material of an avatar: which frame becomes the photo, and what is refused."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np
import pytest
from visavis.clients import cli
from visavis.clients.media import MovieWriter
from visavis.engine.avatar import Avatar
from visavis.engine.body.detect import FaceTracker, find_face
from visavis.engine.enroll import crop_to_person
from visavis.engine.errors import VideoError
from visavis.engine.film import Film, calmest, check_film, enroll_film
from visavis.engine.footage import is_film, read_frames
from visavis.engine.motion.channels import INDEX, zero_motion
from visavis.engine.video.renderer import Renderer
from visavis.kernels import rgb_to_i420

CALM = 5
"""The one frame of the film with a shut mouth, open eyes and a face to the viewer."""


def pose(avatar: Avatar, k: int) -> np.ndarray:
    motion = avatar.neutral_motion()
    if k != CALM:
        motion[INDEX["jawOpen"]] = 0.3 + 0.05 * (k % 3)
        motion[INDEX["head.y"]] = 0.12 if k % 2 else 0.0
        if k % 4 == 0:
            motion[INDEX["eyeBlinkLeft"]] = motion[INDEX["eyeBlinkRight"]] = 0.9
    return motion


@pytest.fixture(scope="module")
def film(avatar, tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("film") / "talk.mp4"
    renderer = Renderer(avatar)
    with MovieWriter(path, 512, 512, fps=25, sound=False) as movie:
        for k in range(10):
            movie.add_i420(rgb_to_i420(renderer.render(pose(avatar, k))))
    return path


def turned(path: Path, out: Path) -> Path:
    """The film as a telephone writes it that was held upright: pixels lie on their side, and the header says so."""
    data = bytearray(path.read_bytes())
    at = data.index(b"tkhd") + 4
    assert data[at] == 0  # version
    matrix = at + 4 + 4 * 5 + 8 + 8
    struct.pack_into(">9i", data, matrix, 0, 65536, 0, -65536, 0, 0, 512 << 16, 0, 1 << 30)
    out.write_bytes(data)
    return out


def test_the_calmest_frame_becomes_the_photo(avatar, film):
    read = Film.read(film)
    assert np.allclose(read.times, np.arange(10) / 25)
    assert len(read.faces) == 10 and all(face is not None for face in read.faces)
    assert calmest(read.faces)[0] == CALM
    frames = [frame for frame, _ in read_frames(film)]
    photo = read.photo()
    assert (photo == frames[CALM]).all()


def test_of_calm_frames_the_sharpest_is_taken(avatar, tmp_path):
    import cv2

    path = tmp_path / "film.mp4"
    still = Renderer(avatar).render(avatar.neutral_motion())
    with MovieWriter(path, 512, 512, fps=25, sound=False) as movie:
        for blur in (3.0, 3.0, 0.0, 3.0):
            picture = cv2.GaussianBlur(still, (0, 0), blur) if blur else still
            movie.add_i420(rgb_to_i420(np.ascontiguousarray(picture)))
    photo = Film.read(path).photo()
    assert np.abs(photo.astype(int) - still).mean() < 3


def test_a_film_becomes_an_avatar_by_the_command_too(film, tmp_path, capsys):
    out = tmp_path / "me.avatar"
    assert cli.main(["enroll", str(film), "-o", str(out), "--name", "Me"]) == 0
    loaded = Avatar.load(out)
    assert loaded.metadata["name"] == "Me" and loaded.personal is None
    assert (loaded.width, loaded.height) == (512, 512)
    # the photo's mouth is shut: next to nothing is left to be taken back
    assert abs(loaded.neutral_motion()[INDEX["jawOpen"]]) < 0.06
    assert cli.main(["enroll", str(film), "-o", str(out), "--face", "1"]) == 2
    assert "--face goes with a photo" in capsys.readouterr().err


def test_a_film_held_upright_is_read_upright(film, tmp_path):
    upright = [frame for frame, _ in read_frames(film)]
    lying = [frame for frame, _ in read_frames(turned(film, tmp_path / "phone.mp4"))]
    assert len(lying) == len(upright)
    assert (lying[0] == np.rot90(upright[0], -1)).all()


def test_what_is_no_film_of_a_face_is_refused(tmp_path, capsys):
    empty = tmp_path / "sky.mp4"
    with MovieWriter(empty, 256, 256, fps=25, sound=False) as movie:
        for _ in range(5):
            movie.add_i420(rgb_to_i420(np.full((256, 256, 3), (90, 140, 220), np.uint8)))
    for look in (Film.read, check_film, enroll_film):
        with pytest.raises(VideoError, match="no face"):
            look(empty)
    text = tmp_path / "text.mp4"
    text.write_text("no film")
    with pytest.raises(VideoError, match="cannot be read"):
        check_film(text)
    assert cli.main(["enroll", str(empty), "-o", str(tmp_path / "a.avatar")]) == 2
    assert cli.main(["serve", "--avatar", str(text)]) == 2
    assert "cannot be read as a video" in capsys.readouterr().err
    assert is_film(Path("A.MOV")) and not is_film(Path("a.jpg"))


def test_learning_needs_a_film(demo_photo, tmp_path, capsys):
    assert cli.main(["enroll", str(demo_photo), "-o", str(tmp_path / "a.avatar"), "--learn"]) == 2
    assert "needs a film" in capsys.readouterr().err
    assert not (tmp_path / "a.avatar").exists()


def test_frames_are_given_by_number(film):
    read = Film(film, [None] * 10, np.arange(10) / 25)
    got = list(read.frames([7, 2]))
    assert [k for k, _ in got] == [2, 7]
    everything = [frame for frame, _ in read_frames(film)]
    assert all((frame == everything[k]).all() for k, frame in got)
    assert list(read.frames([])) == []


def test_the_detector_is_not_made_twice(film, monkeypatch):
    tracker = FaceTracker()
    monkeypatch.setattr("visavis.engine.film.FaceTracker", None)  # a second one could not be made
    assert len(Film.read(film, tracker).faces) == 10


def test_zero_motion_of_the_films_avatar_is_its_frame(avatar, film):
    frames = [frame for frame, _ in read_frames(film)]
    made = enroll_film(film)
    shown = Renderer(made).render(zero_motion())
    framed, _, _ = crop_to_person(frames[CALM], None, find_face(frames[CALM]), 512)
    assert np.abs(shown.astype(int) - framed).mean() < 2
