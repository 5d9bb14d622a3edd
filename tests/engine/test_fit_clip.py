"""Fitting whole clips: landmarks of a known head in known motion give the motion back, at its true size."""

from __future__ import annotations

import json
import shutil
from fractions import Fraction

import av
import numpy as np
import pytest
from visavis.engine.body.fit import FLIP, IRIS, Camera, landmark_model
from visavis.engine.body.fit_clip import fit_clip
from visavis.engine.body.model import rotation_matrix
from visavis.engine.body.person import BLINK, aperture, eye_openness, learn_person, mouth_width, rest_frames
from visavis.engine.motion.channels import ARKIT, INDEX, N_CHANNELS, MotionClip
from visavis.engine.training import tracks
from visavis.engine.video.renderer import Renderer

CAMERA = Camera.of(360, 288)
N = 90


@pytest.fixture(scope="module")
def talker():
    """Expression (N, 52), rotation (N, 3), landmarks (N, 478, 3) of a head that is not the model's own, and a landmark network's guesses, which
    undershoot as the real one's do."""
    rng = np.random.default_rng(3)
    model = landmark_model()
    t = np.arange(N) / 25
    expression = np.zeros((N, 52))
    expression[:, ARKIT.index("jawOpen")] = np.maximum(0, 0.22 + 0.2 * np.sin(2 * np.pi * 2.3 * t)) * (
        t > 0.6
    )
    expression[40:42, ARKIT.index("jawOpen")] = 0  # a closure of two frames
    expression[:, ARKIT.index("mouthPucker")] = 0.3 * np.maximum(0, np.sin(2 * np.pi * 0.9 * t)) * (t > 0.6)
    for side, k in BLINK.items():
        expression[:, k] = np.exp(-(((np.arange(N) - 60) / 2.0) ** 2)) * (1.0 if side == "Left" else 0.97)
    rotation = np.stack(
        [0.08 * np.sin(2 * np.pi * 0.5 * t), 0.12 * np.sin(2 * np.pi * 0.31 * t), 0.03 * np.sin(t)], 1
    )
    shape = rng.normal(0, 0.6, len(model.shape))
    known = model.weight > 0
    own = np.zeros((478, 3))
    own[known] = rng.normal(0, 0.0004, (int(known.sum()), 3)) * [1, 1, 0]
    local = model.mean + np.tensordot(shape, model.shape, 1) + own + np.tensordot(expression, model.units, 1)
    place = np.array([0.01, 0.02, 0.9]) + 0.004 * np.stack([np.sin(t), np.cos(t), 0 * t], 1)
    points = local @ (FLIP @ rotation_matrix(rotation)).transpose(0, 2, 1) + place[:, None]
    pixels = CAMERA.project(points)
    depth = (points[..., 2] - points[..., 2].mean(1, keepdims=True)) * CAMERA.focal / 0.9
    landmarks = np.concatenate([pixels + rng.normal(0, 0.06, pixels.shape), depth[..., None]], 2)
    for side in IRIS:  # irises stay in the middle of the eye
        ends = {"Left": (263, 362), "Right": (33, 133)}[side]
        landmarks[:, list(IRIS[side])] = landmarks[:, list(ends)].mean(1, keepdims=True)
    guess = np.clip(0.6 * expression, 0, 1)
    return expression, rotation, landmarks.astype(np.float32), guess


@pytest.fixture(scope="module")
def fitted(talker):
    _, _, landmarks, guess = talker
    return fit_clip(landmarks, guess, CAMERA, learn_person(landmarks, guess, CAMERA))


def test_lips_have_their_true_size_and_close(talker, fitted):
    expression, _, landmarks, _ = talker
    made = fitted.landmarks_px()
    for read in (aperture, mouth_width):
        real, model = read(landmarks), read(made)
        assert np.corrcoef(real, model)[0, 1] > 0.97
        assert 0.93 < model.std() / real.std() < 1.07
    assert 0.95 < aperture(made).std() / aperture(landmarks).std() < 1.05
    gap = aperture(made)
    assert gap[40:42].max() < 0.02 < gap[[37, 44]].min()  # not smoothed away
    jaw = fitted.expression[:, ARKIT.index("jawOpen")]
    assert np.corrcoef(jaw, expression[:, ARKIT.index("jawOpen")])[0, 1] > 0.97


def test_rest_is_zero_and_a_blink_is_one(fitted):
    rest = fitted.expression[2:10]
    assert np.abs(rest[:, [ARKIT.index(n) for n in ("jawOpen", "mouthPucker", "eyeBlinkLeft")]]).max() < 0.05
    for k in BLINK.values():
        assert fitted.expression[58:63, k].max() > 0.97 and fitted.expression[:50, k].max() < 0.15


def test_the_head_turns_as_it_did(talker, fitted):
    _, rotation, _, _ = talker
    turned = fitted.rotation - fitted.rotation[0]
    true = rotation - rotation[0]
    for k in (0, 1):
        assert np.corrcoef(turned[:, k], true[:, k])[0, 1] > 0.98
        assert 0.9 < turned[:, k].std() / true[:, k].std() < 1.1
    assert fitted.error_px.mean() < 0.5 and np.isfinite(fitted.gaze).all()


def test_long_clips_are_fitted_in_pieces_without_a_seam(talker, fitted):
    jumps = np.abs(np.diff(fitted.expression[:, ARKIT.index("browInnerUp")]))
    assert jumps[63] < 0.05  # the border of the first piece


def test_read_outs_of_landmarks(talker):
    expression, _, landmarks, _ = talker
    lids = eye_openness(landmarks)
    assert lids[60].max() < 0.5 * lids[0].min()
    chosen = rest_frames(landmarks)
    assert expression[chosen][:, ARKIT.index("jawOpen")].max() < 0.05 and not {59, 60, 61} & set(
        chosen.tolist()
    )


def test_tracks_are_made_once_and_hold_what_they_say(avatar, tmp_path, capsys, monkeypatch):
    folder = tmp_path / "data/grid/val/s26"
    folder.mkdir(parents=True)
    renderer, motion = Renderer(avatar), np.zeros(N_CHANNELS, np.float32)
    with av.open(str(tmp_path / "a.mkv"), "w") as out:
        stream = out.add_stream("libx264", rate=25, options={"crf": "16", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = avatar.width, avatar.height, "yuv420p"
        stream.time_base = Fraction(1, 25)
        for k in range(16):
            motion[INDEX["jawOpen"]] = 0.3 * (k % 8 > 3)
            out.mux(stream.encode(av.VideoFrame.from_ndarray(renderer.render(motion), format="rgb24")))
        out.mux(stream.encode(None))
    for name in ("bbaf2n", "lwae8p"):
        shutil.copy(tmp_path / "a.mkv", folder / f"{name}.mkv")
    command = ["--data", str(tmp_path / "data"), "--out", str(tmp_path / "tracks"), "--jobs", "0"]
    assert tracks.main(command) == 0
    path = tmp_path / "tracks/val/s26/bbaf2n.npz"
    made = path.stat().st_mtime_ns
    clip, fit = MotionClip.load(path), tracks.load_fit(path)
    assert clip.motion.shape == (16, N_CHANNELS) and (clip.confidence > 0.9).all()
    assert fit.expression.shape == (16, 52) and fit.error_px.mean() < 2
    real = np.load(path)["aperture"]
    assert np.corrcoef(real, aperture(fit.landmarks_px()))[0, 1] > 0.98
    report = json.loads((tmp_path / "tracks/report.json").read_text())
    assert report["val/s26"]["clips"] == 2 and 0.9 < report["val/s26"]["aperture_ratio"] < 1.1
    path.with_name("lwae8p.npz").unlink()
    monkeypatch.setattr(tracks, "read_frames", None)  # landmarks are kept: no film is read again
    assert tracks.main(command) == 0
    assert path.stat().st_mtime_ns == made and path.with_name("lwae8p.npz").exists()
    assert "aperture_ratio" in capsys.readouterr().out
