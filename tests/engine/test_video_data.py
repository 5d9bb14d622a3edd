"""Data of the video network: an avatar driven to meet another picture, shards on disk, rendered pieces."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from visavis.engine.body.detect import FaceTracker
from visavis.engine.body.photo import load_photo
from visavis.engine.motion.channels import HEAD_SLICE, INDEX, zero_motion
from visavis.engine.training.video_data import Job, Shard, main, runs, work
from visavis.engine.training.video_data_atlas import PATCHES
from visavis.engine.training.video_data_drawn import MARGIN, FineRenderer, motions
from visavis.engine.training.video_data_render import (
    KIND,
    Fitting,
    Light,
    PersonMesh,
    Piece,
    components,
)
from visavis.engine.video.crop import CROP
from visavis.engine.video.drive import Driven, find, smooth_faces


@pytest.fixture(scope="module")
def tracker():
    return FaceTracker()


@pytest.fixture(scope="module")
def driven(demo_photo, tracker):
    return Driven(load_photo(demo_photo).rgb, tracker)


def test_the_frame_of_the_photo_is_what_zero_motion_draws(driven, demo_photo):
    framed = driven.frame(load_photo(demo_photo).rgb)
    still = driven.renderer.render(zero_motion())
    assert framed.shape == still.shape
    assert np.abs(framed.astype(int) - still).mean() < 2


def test_landmarks_of_the_photo_give_no_motion(driven, demo_photo, tracker):
    face = find(load_photo(demo_photo).rgb, tracker)
    motion, error = driven.motion_to(face)
    assert error < 0.2
    assert np.abs(motion).max() < 0.03


def test_a_picture_of_the_avatar_is_met_again(driven, tracker):
    wanted = zero_motion()
    wanted[HEAD_SLICE] = [0.06, -0.12, 0.04]
    wanted[INDEX["jawOpen"]] = 0.35
    wanted[INDEX["headTranslation.x"]] = 0.008
    picture = driven.renderer.render(wanted)
    face = find(picture, tracker)
    # the picture is a frame already: its landmarks count in frame pixels
    moved = replace(face, landmarks=((face.landmarks - [*driven._shift, 0]) / driven.zoom).astype(np.float32))
    found, error = driven.motion_to(moved)
    assert error < 2.0
    assert np.abs(found[HEAD_SLICE] - wanted[HEAD_SLICE]).max() < 0.06
    again = driven.renderer.render(found)
    at = driven.crops.transform(found)
    far = driven.renderer.render(zero_motion())
    x0, y0, x1, y1 = at.box(driven.avatar.width, driven.avatar.height)
    cut = np.s_[y0:y1, x0:x1]
    near_error = np.abs(again[cut].astype(int) - picture[cut]).mean()
    assert near_error < 0.5 * np.abs(far[cut].astype(int) - picture[cut]).mean()


def test_a_shard_holds_what_the_network_reads(driven, demo_photo, tmp_path):
    shard = Shard.of(driven, "someone", "clip")
    picture = driven.frame(load_photo(demo_photo).rgb)
    motion = zero_motion()
    shard.add(driven, motion, picture, 0.1, 3)
    motion = motion.copy()
    motion[INDEX["jawOpen"]] = 0.4
    shard.add(driven, motion, picture, 0.2, 4)
    shard.save(tmp_path / "a.npz")
    with np.load(tmp_path / "a.npz") as data:
        for name, shape in (("target", (2, CROP, CROP, 3)), ("warp", (2, CROP, CROP, 3)), ("part", (2, CROP, CROP)),
                            ("coverage", (2, CROP, CROP)), ("position", (2, CROP, CROP, 3)), ("photo", (CROP, CROP, 3)),
                            ("photo_part", (CROP, CROP)), ("photo_position", (CROP, CROP, 3))):  # fmt: skip
            assert data[name].shape == shape and data[name].dtype == np.uint8, name
        assert str(data["speaker"]) == "someone" and data["frame"].tolist() == [3, 4]
        assert np.abs(data["warp"][0].astype(int) - data["target"][0]).mean() < 2
        mouth = np.isin(data["part"], (5, 6, 7)).sum((1, 2))
        assert mouth[1] > mouth[0] + 50  # the open jaw shows the inside
        assert (data["position"][data["part"] == 0] == 0).all()
        assert float(data["scale"]) == pytest.approx(driven.scale)
    assert [p.name for p in tmp_path.iterdir()] == ["a.npz"]


def test_work_goes_on_where_it_stopped(driven, tmp_path):
    made = []

    def make(name, usable=True):
        def do():
            made.append(name)
            if not usable:
                raise ValueError("no face in the photo")
            shard = Shard.of(driven, name, name)
            shard.add(
                driven,
                zero_motion(),
                np.zeros((driven.avatar.height, driven.avatar.width, 3), np.uint8),
                0.0,
                0,
            )
            return shard

        return Job(name, do)

    jobs = [make("a"), make("b", usable=False), make("c")]
    assert work(jobs[:2], tmp_path) == (1, 1)
    (tmp_path / ".part-left.npz").write_bytes(b"half")
    assert work(jobs, tmp_path) == (1, 0)
    assert made == ["a", "b", "c"]
    assert sorted(p.name for p in tmp_path.glob("[!.]*")) == ["a.npz", "c.npz"]
    assert not list(tmp_path.glob(".part-*"))


def test_runs_are_consecutive_and_inside():
    rng = np.random.default_rng(0)
    picked = runs(75, 3, 10, rng)
    assert len(picked) == 30 and min(picked) >= 0 and max(picked) < 75
    for k in range(0, 30, 10):
        assert np.diff(picked[k : k + 10]).tolist() == [1] * 9
    assert len(set(picked)) == 30
    assert runs(20, 3, 10, rng) == list(range(20)) and runs(9, 0, 0, rng) == list(range(9))


def test_smoothing_of_landmarks_has_no_delay(tracker, demo_photo):
    face = find(load_photo(demo_photo).rgb, tracker)
    line = [replace(face, landmarks=face.landmarks + np.float32(k)) for k in range(5)]
    smooth = smooth_faces([*line, None])
    assert np.allclose(smooth[2].landmarks, line[2].landmarks, atol=1e-3)
    assert smooth[5] is None


def test_no_material_is_said_and_not_a_crash(tmp_path, capsys):
    assert main(["grid", "--data", str(tmp_path), "--out", str(tmp_path / "out")]) == 2
    assert "no material" in capsys.readouterr().err


def test_a_fitting_follows_the_base_mesh(tmp_path):
    (tmp_path / "x.mhclo").write_text(
        "# made\nname x\nx_scale 0 1 2.0\ny_scale 0 2 1.0\nz_scale 0 3 1.0\nverts 0\nmaterial none\n"
        "2\n0 1 2 0.5 0.5 0.0 0.1 0.0 0.2\ndelete_verts\n0 - 3\n"
    )
    fitting = Fitting.read(tmp_path / "x.mhclo")
    base = np.array([[0, 0, 0], [2, 0, 0], [0, 1, 0], [0, 0, 1.0]])
    assert np.allclose(fitting.place(base), [[0, 1, 0], [1.1, 0, 0.2]])
    assert np.allclose(fitting.place(3 * base), 3 * fitting.place(base))


def test_connected_pieces_are_told_apart():
    label = components(7, np.array([[0, 1, 2], [2, 3, 1], [4, 5, 6]]))
    assert len(set(label[:4])) == 1 and len(set(label[4:])) == 1 and label[0] != label[4]


def test_light_falls_on_the_side_that_faces_it():
    """A ball before a grey plate: lit from the left, antialiased, nothing outside the box."""
    lat, lon = np.meshgrid(np.linspace(0.05, np.pi - 0.05, 24), np.linspace(0, 2 * np.pi, 48, endpoint=False), indexing="ij")  # fmt: skip
    ball = np.stack([np.sin(lat) * np.sin(lon), np.cos(lat), np.sin(lat) * np.cos(lon)], -1).reshape(-1, 3)
    k = np.arange(24 * 48).reshape(24, 48)
    a, b, c, d = k[:-1], np.roll(k, -1, 1)[:-1], np.roll(k, -1, 1)[1:], k[1:]
    triangles = np.concatenate(
        [np.stack([a, d, c], -1).reshape(-1, 3), np.stack([a, c, b], -1).reshape(-1, 3)]
    )
    piece = Piece(
        np.full(len(triangles), KIND["skin"]), triangles, triangles, np.full((len(ball), 2), 0.5), None
    )
    atlas = np.full((2048, 3584, 4), 255, np.uint8)
    x, y, w, h = PATCHES["skin"]
    atlas[y : y + h, x : x + w, :3] = 150
    mesh = PersonMesh([piece], [len(ball)], atlas)
    light = Light(np.array([-0.8, 0.0, 0.6]), 0.8, 0.3, np.ones(3), 0.0)
    plate = np.full((64, 64, 3), 90, np.uint8)
    points = 0.1 * ball - [0, 0, 1]
    image = mesh.draw(points, (200.0, 32.0, 32.0), plate, light, np.ones(len(ball)))
    assert image[32, 18].mean() > image[32, 46].mean() + 40
    assert (image[:4] == 90).all() and (image[:, 60:] == 90).all()
    dark = mesh.draw(points, (200.0, 32.0, 32.0), plate, light, np.full(len(ball), 0.2))
    assert dark[32, 20].mean() < 0.4 * image[32, 20].mean()
    boxed = mesh.draw(points, (200.0, 32.0, 32.0), plate, light, np.ones(len(ball)), (0, 0, 30, 64))
    assert (boxed[:, :30] == image[:, :30]).all() and (boxed[:, 30:] == 90).all()
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    assert len(np.unique(grey[12:52, 10:16])) > 3


def test_a_finer_picture_is_the_warp_but_for_openings_and_their_margins(driven):
    motion = driven.avatar.neutral_motion()
    openings = np.zeros((driven.avatar.height, driven.avatar.width), np.uint8)
    for jaw, lids in ((0.0, 0.0), (0.5, 1.0)):
        motion[INDEX["jawOpen"]] = jaw
        motion[INDEX["eyeBlinkLeft"]] = motion[INDEX["eyeBlinkRight"]] = lids
        warp = driven.renderer.render(motion)
        openings |= (driven.renderer.target.part >= 2) & (driven.renderer.target.part <= 7)
    made = FineRenderer(driven.avatar).over(warp, motion)
    changed = (made != warp).any(-1)
    assert 0 < changed.mean() < 0.1
    assert not changed[cv2.dilate(openings, np.ones((25, 25), np.uint8)) == 0].any()


def test_a_wide_mouth_is_lighter_inside_than_a_narrow_one(driven):
    fine, share = FineRenderer(driven.avatar), []
    for jaw in (0.2, 0.7):
        motion = driven.avatar.neutral_motion()
        motion[INDEX["jawOpen"]] = jaw
        warp = driven.renderer.render(motion)
        part = driven.renderer.target.part
        inside = cv2.erode((part == fine._tongue).astype(np.uint8), np.ones((3, 3))) > 0
        made = fine.over(warp, motion)
        assert inside.sum() > 5
        share.append(made[inside].mean() / warp[inside].mean())
    assert 0.4 < share[0] < share[1] - 0.05 and share[1] < 1.2


def test_a_drawn_photo_speaks_along_a_tracked_curve(driven):
    rng = np.random.default_rng(0)
    curve = np.zeros((60, 52))
    curve[:, 17] = np.linspace(0.03, 1, 60)
    neutral = driven.avatar.neutral_motion()
    made = motions(curve, neutral, rng)
    steps = np.diff([m[17] - neutral[17] for m in made])
    assert len(made) >= 8 and (steps > 0).all() and np.ptp(steps) < 1e-5
    assert MARGIN > 0 and all(np.isfinite(m).all() for m in made)
