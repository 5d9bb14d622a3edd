"""`bench quality --stage drift` tells a film that drifts from one that does not."""

from __future__ import annotations

import json

import cv2
import numpy as np
from visavis.benchmarks import quality_drift
from visavis.benchmarks.quality_drift import PAUSE_S, Trace, measure, speech_blocks
from visavis.benchmarks.quality_video_metrics import Regions


def test_speech_and_pauses_fill_the_time_exactly():
    pcm = np.arange(1, 1601, dtype=np.int16)
    heard = np.concatenate(list(speech_blocks(pcm, 1600, 9.5)))
    assert len(heard) == round(9.5 * 1600)
    period = len(pcm) + round(PAUSE_S * 1600)
    assert (heard[: len(pcm)] == pcm).all() and not heard[len(pcm) : period].any()
    assert (heard[period : period + len(pcm)] == pcm).all()


def test_drift_is_the_change_from_first_to_last():
    steady, moving = Trace(), Trace()
    for k in range(200):
        noise = 0.01 * (-1) ** k
        steady.add(k / 25, {"colour_face": noise})
        moving.add(k / 25, {"colour_face": noise + 0.001 * k})
    assert abs(steady.drift()["colour_face"]) < 1e-9
    assert abs(moving.drift()["colour_face"] - 0.18) < 1e-6
    assert moving.spread()["colour_face"] > 10 * steady.spread()["colour_face"]


def test_what_the_network_adds_is_measured_against_the_warp():
    rng = np.random.default_rng(0)
    warp = np.clip(
        128 + cv2.GaussianBlur(rng.normal(0, 90, (96, 96, 3)).astype(np.float32), (0, 0), 1.2), 0, 255
    )
    warp = warp.astype(np.uint8)
    mask = np.zeros((96, 96), np.float32)
    mask[30:60, 30:60] = 1
    where = Regions(mask, mask, np.ones((96, 96), np.float32), (0, 0, 96, 96))
    same = measure(warp, warp, where)
    assert same["colour_lips"] == 0 and abs(same["detail_lips"] - 1) < 1e-6
    redder = warp.copy()
    redder[30:60, 30:60, 0] += 20
    changed = measure(redder, warp, where)
    assert abs(changed["red_lips"] - 20 / 255) < 0.005 and 0 < changed["colour_face"] < changed["colour_lips"]
    soft = np.asarray(cv2.GaussianBlur(warp, (0, 0), 2.0), np.uint8)
    assert measure(soft, warp, where)["detail_lips"] < 0.7


def test_the_command_runs_the_product(capsys, tmp_path):
    assert quality_drift.main(["--minutes", "0.03", "--steps", "1"]) == 0
    out = json.loads(capsys.readouterr().out.strip().splitlines()[-1])
    assert out["frames_measured"] == 3 and out["steps"] == 1
    assert abs(out["drift"]["colour_face"]) < 0.05
