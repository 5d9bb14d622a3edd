"""The figures of `bench quality --stage video` say what they are named for."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest
from visavis.benchmarks import quality_video
from visavis.benchmarks.quality_video_material import Figures, film, synthetic_motion
from visavis.benchmarks.quality_video_metrics import (
    Regions,
    cpbd,
    detail,
    flicker,
    frechet,
    mean_absolute_error,
    psnr,
    ssim,
)
from visavis.engine.body.detect import FaceTracker
from visavis.engine.motion.channels import zero_motion
from visavis.engine.video.renderer import Renderer


def textured(side=128, seed=0):
    noise = np.random.default_rng(seed).normal(0, 60, (side, side, 3)).astype(np.float32)
    return np.clip(128 + 2.5 * cv2.GaussianBlur(noise, (0, 0), 1.5), 0, 255).astype(np.uint8)


def test_errors_count_only_inside_the_mask():
    a = textured()
    b = a.copy()
    b[:64] = 255 - b[:64]
    lower = np.zeros((128, 128), np.float32)
    lower[72:] = 1
    assert mean_absolute_error(a, b, lower) == 0 and psnr(a, b, lower) > 60 and ssim(a, b, lower) > 0.999
    assert mean_absolute_error(a, b, 1 - lower) > 0.05 and ssim(a, b, 1 - lower) < 0.5
    c = np.clip(a.astype(int) + 10, 0, 255).astype(np.uint8)
    flat = np.full((32, 32, 3), 100, np.uint8)
    whole = np.ones((32, 32), np.float32)
    assert mean_absolute_error(flat, flat + 10, whole) == pytest.approx(10 / 255)
    assert psnr(flat, flat + 10, whole) == pytest.approx(20 * np.log10(25.5), abs=1e-3)
    assert ssim(a, c, np.ones((128, 128), np.float32)) > 0.95


def test_blur_costs_sharpness_and_detail(photo_as_framed):
    whole = np.ones(photo_as_framed.shape[:2], np.float32)
    blurred = [cv2.GaussianBlur(photo_as_framed, (0, 0), s) for s in (0.7, 1.5, 3.0)]
    sharp = [cpbd(image) for image in (photo_as_framed, *blurred)]
    fine = [detail(image, whole) for image in (photo_as_framed, *blurred)]
    assert sharp[0] > 0.03 and sharp[0] > 2 * sharp[1] and sharp[3] <= sharp[2] <= sharp[1]
    assert fine[0] > fine[1] > fine[2] > fine[3]
    assert cpbd(np.full((64, 64, 3), 80, np.uint8)) == 0


def test_flicker_is_what_changes_and_changes_back():
    whole = np.ones((128, 128), np.float32)
    a = textured()
    darker, lighter = (np.clip(a.astype(int) + k, 0, 255).astype(np.uint8) for k in (-6, 6))
    assert flicker(darker, a, lighter, whole) < 0.002  # steady change
    assert flicker(a, lighter, a, whole) == pytest.approx(6 / 255, rel=0.05)


def test_frechet_grows_with_the_distance_of_sets():
    rng = np.random.default_rng(1)
    a, b = rng.normal(0, 1, (400, 8)), rng.normal(0, 1, (400, 8))
    near, far = frechet(a, b), frechet(a, b + 1)
    assert 0 <= near < 0.3 and far == pytest.approx(8, rel=0.15)
    assert frechet(a, 2 * b) > 4


def test_regions_lie_where_the_landmarks_are(photo_as_framed):
    face = FaceTracker().detect(photo_as_framed)
    where = Regions.of(face.landmarks, photo_as_framed.shape[:2])
    marks = face.landmarks[:, :2].astype(int)
    for k in (13, 14, 0, 17):
        assert where.lips[marks[k][1], marks[k][0]] == 1
    for k in (468, 473):
        assert where.eyes[marks[k][1], marks[k][0]] == 1 and where.lips[marks[k][1], marks[k][0]] == 0
    assert where.lips.sum() < 0.3 * where.face.sum()
    x0, y0, x1, y1 = where.box
    assert x0 < marks[:468, 0].min() and y1 > marks[:468, 1].max() and x1 > x0 and y1 > y0


def test_a_painter_paints_over_the_warp(avatar):
    class Grey:
        def render(self, frame, motion):
            frame[:8] = 77
            return frame

    renderer = Renderer(avatar)
    plain = next(film(renderer, None, np.stack([zero_motion()])))
    painted = next(film(renderer, Grey(), np.stack([zero_motion()])))
    assert (painted[:8] == 77).all() and (painted[8:] == plain[8:]).all()


def test_synthetic_motion_starts_calm_and_blinks():
    motion = synthetic_motion()
    assert np.abs(motion[0, :3]).max() < 0.05 and motion.max() <= 1.0
    assert motion[:, 8].max() > 0.9 and motion[:, 24].max() > 0.2


def test_rows_hold_means_and_frechet():
    rng = np.random.default_rng(0)
    totals = {"warp": Figures(), "real": Figures()}
    for k in range(20):
        totals["warp"].add("mae_lips", k / 10)
        totals["warp"].summaries.append(rng.normal(1, 1, 4))
        totals["real"].summaries.append(rng.normal(0, 1, 4))
    rows = quality_video.table(totals)
    assert rows["warp"]["mae_lips"] == pytest.approx(0.95) and 2 < rows["warp"]["frechet"] < 8
    json.dumps(rows)


def test_missing_data_is_one_clear_line(tmp_path, capsys):
    assert quality_video.main(["--data", str(tmp_path), "--portraits", "0"]) == 2
    assert "no clips" in capsys.readouterr().err
