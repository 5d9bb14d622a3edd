"""Tracking: a movie of known motion gives that motion back."""

from __future__ import annotations

from fractions import Fraction

import av
import numpy as np
import pytest
from visavis.engine.body.track import track, track_frames
from visavis.engine.errors import VideoError
from visavis.engine.footage import read_frames
from visavis.engine.motion.channels import INDEX, N_CHANNELS
from visavis.engine.video.renderer import Renderer

FRAMES = 50


@pytest.fixture(scope="module")
def known_motion():
    t = np.arange(FRAMES) / 25
    motion = np.zeros((FRAMES, N_CHANNELS), np.float32)
    motion[:, INDEX["jawOpen"]] = 0.25 - 0.25 * np.cos(2 * np.pi * 2 * t)
    motion[:, INDEX["head.y"]] = 0.18 * np.sin(2 * np.pi * 0.5 * t)
    motion[:, INDEX["head.x"]] = 0.10 * np.sin(2 * np.pi * 0.8 * t)
    blink = np.exp(-(((np.arange(FRAMES) - 25) / 2.0) ** 2))
    motion[:, INDEX["eyeBlinkLeft"]] = motion[:, INDEX["eyeBlinkRight"]] = blink
    gaze = 0.2 * np.sin(2 * np.pi * 0.7 * t)
    motion[:, INDEX["gazeYawLeft"]] = motion[:, INDEX["gazeYawRight"]] = gaze
    return motion


@pytest.fixture(scope="module")
def movie(avatar, known_motion, tmp_path_factory):
    path = tmp_path_factory.mktemp("track") / "talk.mp4"
    renderer = Renderer(avatar)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "16", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = avatar.width, avatar.height, "yuv420p"
        stream.time_base = Fraction(1, 25)
        for motion in known_motion:
            out.mux(stream.encode(av.VideoFrame.from_ndarray(renderer.render(motion), format="rgb24")))
        out.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def tracked(movie):
    return track_frames(read_frames(movie))


@pytest.mark.parametrize(
    "channel, least",
    [("jawOpen", 0.9), ("head.y", 0.97), ("head.x", 0.9), ("eyeBlinkLeft", 0.7), ("gazeYawLeft", 0.85)],
)
def test_known_motion_comes_back(tracked, known_motion, channel, least):
    found, true = tracked.clip.motion[:, INDEX[channel]], known_motion[:, INDEX[channel]]
    assert np.corrcoef(found, true)[0, 1] > least


def test_head_turn_has_the_true_size_and_sign(tracked, known_motion):
    motion = tracked.clip.motion
    found, true = motion[:, INDEX["head.y"]] + motion[:, INDEX["neck.y"]], known_motion[:, INDEX["head.y"]]
    # landmark networks see a turned picture as turned by about a third less than the mesh was
    assert 0.5 < found.std() / true.std() < 1.3
    assert tracked.error_px < 2 and (tracked.clip.confidence == 1).all()


def test_frames_without_a_face_are_bridged(movie):
    frames = list(read_frames(movie))[:14]
    for k in (5, 6):
        frames[k] = (np.zeros_like(frames[k][0]), frames[k][1])
    clip = track_frames(iter(frames)).clip
    assert clip.confidence.tolist() == [1] * 5 + [0] * 2 + [1] * 7
    assert np.isfinite(clip.motion).all()


def test_other_rates_are_resampled(movie):
    frames = [(frame, 50.0) for frame, _ in list(read_frames(movie))[:10]]
    clip = track_frames(iter(frames), fps=25.0).clip
    assert len(clip.motion) == 5 and clip.fps == 25


def test_bad_videos_are_refused(tmp_path, demo_photo):
    with pytest.raises(VideoError, match="no such"):
        track(tmp_path / "none.mp4")
    noise = tmp_path / "noise.mp4"
    noise.write_bytes(bytes(range(256)) * 20)
    with pytest.raises(VideoError, match="cannot be read"):
        track(noise)
    sound = tmp_path / "sound.wav"
    with av.open(str(sound), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=16000, layout="mono")
        silence = av.AudioFrame.from_ndarray(np.zeros((1, 1600), np.int16), "s16", "mono")
        silence.sample_rate = 16000
        out.mux(stream.encode(silence))
    with pytest.raises(VideoError, match="no video"):
        track(sound)
    with pytest.raises(VideoError, match="no face"):
        track_frames(iter([(np.zeros((120, 160, 3), np.uint8), 25.0)] * 3))
