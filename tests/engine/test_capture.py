"""Capture: an avatar laid on a film of its own person, by landmarks and then by the pixels."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from visavis.clients import cli
from visavis.engine.avatar import Avatar
from visavis.engine.errors import VideoError
from visavis.engine.motion.channels import INDEX, N_CHANNELS, MotionClip, zero_motion
from visavis.engine.video.align import Alignment
from visavis.engine.video.capture import capture, capture_frames
from visavis.engine.video.point_rig import PointRig
from visavis.engine.video.renderer import Renderer

FRAMES = 12


def talk(k: int) -> np.ndarray:
    motion = zero_motion()
    motion[INDEX["jawOpen"]] = 0.2 - 0.2 * np.cos(2 * np.pi * k / 8)
    motion[INDEX["head.y"]] = 0.01 * k
    motion[INDEX["mouthPucker"]] = 0.3 * (k % 3 == 2)
    return motion


@pytest.fixture(scope="module")
def film(avatar):
    renderer = Renderer(avatar)
    return [renderer.render(talk(k)) for k in range(FRAMES)]


def box(avatar):
    """Lips and skin around."""
    uv = avatar.surface.uv[: len(avatar.surface.face_of)]
    (x0, y0), (x1, y1) = uv.min(0), uv.max(0)
    return np.s_[int(y0 + 0.6 * (y1 - y0)) : int(y1), int(x0 + 0.25 * (x1 - x0)) : int(x1 - 0.25 * (x1 - x0))]


def far(a, b):
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize("off", [{"jawOpen": 0.04, "mouthPucker": -0.1}, {"mouthSmileLeft": 0.08, "mouthSmileRight": 0.08},
                                 {"head.y": 0.008, "mouthLeft": 0.05}])  # fmt: skip
def test_a_mouth_that_lies_beside_is_laid_on_the_picture(avatar, off):
    renderer = Renderer(avatar)
    align = Alignment.of(avatar, renderer.render(zero_motion()))
    wanted = talk(2)
    picture = renderer.render(wanted)
    given = wanted.copy()
    for name, value in off.items():
        given[INDEX[name]] += value
    found = align.refine(picture, given)
    cut = box(avatar)
    before, after = (
        far(renderer.render(given)[cut], picture[cut]),
        far(renderer.render(found)[cut], picture[cut]),
    )
    assert before > 0.5 and after < 0.5 * before


def test_light_that_changes_slowly_does_not_count(avatar):
    renderer = Renderer(avatar)
    align = Alignment.of(avatar, renderer.render(zero_motion()))
    motion = talk(3)
    picture = renderer.render(motion).astype(np.float32)
    ramp = np.linspace(0, 20, picture.shape[1], dtype=np.float32)[None, :, None]
    lit = np.clip(picture * 0.95 + ramp, 0, 255).astype(np.uint8)
    assert np.abs(align.refine(lit, motion) - motion).max() < 0.04


def test_what_is_not_of_the_mouth_stays(avatar):
    renderer = Renderer(avatar)
    align = Alignment.of(avatar, renderer.render(zero_motion()))
    given = talk(1)
    given[INDEX["eyeBlinkLeft"]] = 0.7
    found = align.refine(renderer.render(talk(2)), given)
    assert found[INDEX["eyeBlinkLeft"]] == given[INDEX["eyeBlinkLeft"]]
    assert found.shape == (N_CHANNELS,) and np.isfinite(found).all()


def test_a_photo_of_another_size_is_refused(avatar):
    with pytest.raises(ValueError, match="avatar's frame"):
        Alignment.of(avatar, np.zeros((8, 8, 3), np.uint8))


def test_derivatives_are_differences(avatar):
    rng = np.random.default_rng(1)
    triangles = avatar.surface.triangles[rng.integers(0, 900, 20)].astype(np.int64)
    rig = PointRig.on(avatar, triangles, np.full((20, 3), 1 / 3))
    motion = rng.normal(0, 0.05, N_CHANNELS)
    world, turn = rig.world(motion)
    found = rig.derivatives(motion, world, turn)
    for k, channel in (
        (3, 3),
        (25, 25),
        (52 + 3, INDEX["headTranslation.x"]),
        (52 + 5, INDEX["headTranslation.z"]),
    ):
        more = motion.copy()
        more[channel] += 1e-5
        assert np.allclose((rig.project(more) - rig.project(motion)) / 1e-5, found[k], rtol=1e-2, atol=0.05)


def test_a_film_comes_back_on_its_own_avatar(film):
    done = capture_frames(lambda: film, 25.0)
    assert done.start == 0 and done.clip.motion.shape == (FRAMES, N_CHANNELS)
    assert done.clip.confidence is not None and (done.clip.confidence > 0.5).all()
    renderer, still = done.driven.renderer, done.driven.renderer.render(zero_motion())
    cut = box(done.avatar)
    pictures = [done.driven.frame(frame)[cut] for frame in film]
    met = np.mean([far(renderer.render(m)[cut], p) for m, p in zip(done.clip.motion, pictures, strict=True)])
    unmoved = np.mean([far(still[cut], p) for p in pictures])
    assert met < 0.4 * unmoved


def test_frames_without_a_face_are_bridged(film):
    dark = [np.zeros_like(film[0])] * 2
    done = capture_frames(lambda: dark[:1] + film[:3] + dark + film[4:6], 25.0)
    assert done.start == 1 and [face is None for face in done.faces] == [
        True,
        False,
        False,
        False,
        True,
        True,
        False,
        False,
    ]
    assert done.clip.confidence is not None and (done.clip.confidence[[0, 4, 5]] == 0).all()
    assert np.isfinite(done.clip.motion).all()
    with pytest.raises(VideoError, match="no face found"):
        capture_frames(lambda: dark, 25.0)


@pytest.fixture(scope="module")
def movie(film, tmp_path_factory):
    path = tmp_path_factory.mktemp("capture") / "talk.mp4"
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=50, options={"crf": "16", "preset": "ultrafast"})
        stream.height, stream.width = film[0].shape[:2]
        stream.pix_fmt, stream.time_base = "yuv420p", Fraction(1, 50)
        for frame in film:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(frame, format="rgb24")))
        out.mux(stream.encode(None))
    return path


def test_track_enroll_writes_the_person_and_the_motion(movie, tmp_path, capsys):
    assert (
        cli.main(["track", str(movie), "-o", str(tmp_path / "m.npz"), "--enroll", str(tmp_path / "a.avatar")])
        == 0
    )
    clip, person = MotionClip.load(tmp_path / "m.npz"), Avatar.load(tmp_path / "a.avatar")
    assert clip.fps == 25 and len(clip.motion) == FRAMES // 2 and person.width > 0
    for name in ("a.txt", "no/a.avatar"):
        assert (
            cli.main(["track", str(movie), "-o", str(tmp_path / "m.npz"), "--enroll", str(tmp_path / name)])
            == 2
        )
    assert "Traceback" not in capsys.readouterr().err


def test_a_file_that_is_no_film(tmp_path):
    with pytest.raises(VideoError):
        capture(tmp_path / "none.mp4")
