"""Motion files."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from visavis.engine.errors import MotionError
from visavis.engine.motion.channels import ARKIT, CHANNELS, INDEX, N_CHANNELS, MotionClip


def test_channels_are_unique_and_complete():
    assert len(set(CHANNELS)) == len(CHANNELS) == N_CHANNELS
    assert len(ARKIT) == 52 and list(ARKIT) == sorted(ARKIT)


def test_round_trip_and_matching_by_name(tmp_path):
    rng = np.random.default_rng(0)
    clip = MotionClip(rng.normal(size=(9, N_CHANNELS)).astype(np.float32), 25.0, np.ones(9, np.float32))
    clip.save(tmp_path / "m.npz")
    again = MotionClip.load(tmp_path / "m.npz")
    assert (again.motion == clip.motion).all() and again.fps == 25 and (again.confidence == 1).all()
    np.savez(
        tmp_path / "few.npz",
        motion=np.ones((4, 2), np.float32),
        channels=np.array(["head.y", "jawOpen"]),
        fps=30.0,
    )
    few = MotionClip.load(tmp_path / "few.npz")
    assert few.fps == 30 and few.motion.sum() == 8 and (few.motion[:, INDEX["jawOpen"]] == 1).all()


@pytest.mark.parametrize(
    "content",
    [
        {"motion": np.zeros((3, 2)), "channels": np.array(["jawOpen"]), "fps": 25.0},
        {"motion": np.zeros((3, 1)), "channels": np.array(["nonsense"]), "fps": 25.0},
        {"motion": np.full((3, 1), np.nan), "channels": np.array(["jawOpen"]), "fps": 25.0},
        {"motion": np.zeros((0, 1)), "channels": np.array(["jawOpen"]), "fps": 25.0},
        {"motion": np.zeros((3, 1)), "channels": np.array(["jawOpen"]), "fps": 0.0},
        {"motion": np.zeros((3, 1)), "channels": np.array(["jawOpen"])},
        {"motion": np.array([{}], object), "channels": np.array(["jawOpen"]), "fps": 25.0},
    ],
)
def test_broken_files_are_refused(tmp_path, content):
    np.savez(tmp_path / "bad.npz", **content)
    with pytest.raises(MotionError):
        MotionClip.load(tmp_path / "bad.npz")


@given(st.binary(max_size=300))
def test_noise_is_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "noise.npz"
    path.write_bytes(content)
    with pytest.raises(MotionError):
        MotionClip.load(path)
