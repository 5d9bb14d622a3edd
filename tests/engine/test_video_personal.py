"""Learning one person's mouth: what trains, what stays, and that a film is learned from end to end."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("torch", reason="training needs the extra: pip install 'visavis[train]'")

import torch
from visavis.clients.media import MovieWriter
from visavis.engine.avatar import Avatar
from visavis.engine.errors import VideoError
from visavis.engine.motion.channels import INDEX
from visavis.engine.training.video_loader import Loader
from visavis.engine.training.video_personal import SMALL, learn, shards_of, shipped_net, teach, trainable
from visavis.engine.video.generator import WEIGHTS
from visavis.engine.video.personal import folder
from visavis.engine.video.renderer import Renderer
from visavis.kernels import rgb_to_i420

FRAMES = 60


def talk(avatar: Avatar, k: int) -> np.ndarray:
    motion = avatar.neutral_motion()
    motion[INDEX["jawOpen"]] += 0.25 - 0.25 * np.cos(2 * np.pi * k / 12)
    motion[INDEX["mouthFunnel"]] += 0.2 * (k % 7 == 3)
    motion[INDEX["head.y"]] = 0.02 * np.sin(k / 9)
    return motion


def film_of(avatar: Avatar, path: Path, frames: int = FRAMES) -> Path:
    """The demo person speaking, with a green mouth inside: nothing that the shared network could know."""
    renderer = Renderer(avatar)
    with MovieWriter(path, 512, 512, fps=25, sound=False) as movie:
        for k in range(frames):
            picture = renderer.render(talk(avatar, k)).copy()
            picture[np.isin(renderer.target.part, (5, 6, 7))] = (60, 190, 60)
            movie.add_i420(rgb_to_i420(picture))
    return path


@pytest.fixture(scope="module")
def film(avatar: Avatar, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return film_of(avatar, tmp_path_factory.mktemp("learn") / "talk.mp4")


def test_a_film_becomes_pieces_in_its_order(film: Path) -> None:
    shards = shards_of([film])
    assert 4 <= len(shards) <= FRAMES // 10
    for shard in shards:
        numbers = [int(k) for k in shard.arrays["frame"]]
        assert numbers == sorted(numbers) and len(numbers) <= 10
        assert shard.arrays["warp"][0].shape == (256, 256, 3)


def test_the_mouth_is_learned_and_the_rest_of_the_network_stays(film: Path, tmp_path: Path) -> None:
    torch.manual_seed(0)
    (tmp_path / "film").mkdir()
    for k, shard in enumerate(shards_of([film])):
        shard.save(tmp_path / "film" / f"{k}.npz")
    lessons = Loader(tmp_path, {"film": 1.0}, clips=4, frames=3)
    judge = Loader(tmp_path, {"film": 1.0}, clips=4, frames=3, seed=1, augment=False)
    net, start = shipped_net(), shipped_net()
    best, before, after = teach(net, lessons, [judge.batch(0.0)], steps=40, rate=8e-4)
    assert best in (20, 40) and after["mouth_1"] < 0.8 * before["mouth_1"]
    moved = {
        name
        for (name, a), b in zip(start.named_parameters(), net.parameters(), strict=True)
        if (a != b).any()
    }
    sizes = {name: p.numel() for name, p in start.named_parameters()}
    assert moved and all(name.startswith(("frame.", "step.")) and sizes[name] >= SMALL for name in moved)


def test_what_teaches_nothing_changes_nothing(film: Path, tmp_path: Path) -> None:
    (tmp_path / "film").mkdir()
    for k, shard in enumerate(shards_of([film])[:2]):
        shard.arrays["target"] = shard.arrays["warp"]  # the warp is right already
        shard.save(tmp_path / "film" / f"{k}.npz")
    lessons = Loader(tmp_path, {"film": 1.0}, clips=2, frames=3)
    batch = lessons.batch(0.0)
    net = shipped_net()
    with torch.no_grad():  # a network that is perfect here cannot get better
        net.step.leave.weight.zero_()
        net.step.leave.bias.zero_()
        net.step.leave.bias[48:] = -60.0
    best, before, after = teach(net, lessons, [batch], steps=2)
    assert best == 0 and before["mouth_1"] == 0.0 and after == before


def test_only_large_parameters_of_frame_and_step_are_trained() -> None:
    net = shipped_net()
    chosen = {id(p) for p in trainable(net)}
    for name, parameter in net.named_parameters():
        wanted = not name.startswith("photo.") and parameter.numel() >= SMALL
        assert (id(parameter) in chosen) == wanted == parameter.requires_grad


def test_a_person_is_learned_from_a_film_end_to_end(
    film: Path, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    said: list[str] = []
    place = tmp_path_factory.mktemp("learning")
    monkeypatch.setattr(tempfile, "tempdir", str(place))
    # as it comes over the wire: its content, with no file of its own
    lesson = learn(film.read_bytes(), steps=20, progress=lambda what, share: said.append(what))
    assert list(place.iterdir()) == []
    assert lesson.frames >= 40 and lesson.weights is not None and lesson.own < lesson.shipped
    assert "learned from" in str(lesson)
    made = folder(lesson.weights, WEIGHTS)
    assert (
        made != WEIGHTS
        and (made / "video_frame.onnx").read_bytes() != (WEIGHTS / "video_frame.onnx").read_bytes()
    )
    assert {"fitting the film", "learning the mouth", "done"} <= set(said)


def test_a_glimpse_is_too_short(avatar: Avatar, tmp_path: Path) -> None:
    with pytest.raises(VideoError, match="at least are needed"):
        learn(film_of(avatar, tmp_path / "short.mp4", 20))
