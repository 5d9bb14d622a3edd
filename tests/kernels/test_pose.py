"""Posing against plain numpy."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from visavis import kernels
from visavis.kernels import PoseRig

CAMERA = (900.0, 950.0, 250.0, 260.0)


def pose_reference(rest, basis, weights, coefficients, joints) -> tuple[np.ndarray, np.ndarray]:  # type: ignore[no-untyped-def]
    v = rest.astype(np.float64) + np.tensordot(coefficients.astype(np.float64), basis.astype(np.float64), 1)
    moved = np.einsum("jab,vb->vja", joints.astype(np.float64), np.concatenate([v, np.ones((len(v), 1))], 1))
    p = (weights.astype(np.float64)[..., None] * moved).sum(1)
    fx, fy, cx, cy = CAMERA
    return np.stack([fx * p[:, 0] / p[:, 2] + cx, fy * p[:, 1] / p[:, 2] + cy, p[:, 2]], 1), p


def random_rig(
    rng: np.random.Generator, v: int, k: int, j: int, dtype: type, sparse: bool
) -> tuple[np.ndarray, ...]:
    rest = rng.uniform(-0.2, 0.2, (v, 3)).astype(np.float32)
    basis = (rng.standard_normal((k, v, 3)) * 0.01).astype(dtype)
    if sparse:
        basis[rng.random((k, v)) < 0.95] = 0
    weights = rng.random((v, j)) * (rng.random((v, j)) < 0.5)
    weights[:, 0] += 0.1
    weights /= weights.sum(1, keepdims=True)
    joints = np.tile(np.eye(3, 4), (j, 1, 1)) + rng.normal(0, 0.05, (j, 3, 4))
    joints[:, 2, 3] += 1.5
    coefficients = rng.standard_normal(k) * (rng.random(k) < 0.7)
    return rest, basis, weights.astype(np.float32), coefficients.astype(np.float32), joints.astype(np.float32)


@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    st.integers(0, 2**32 - 1),
    st.integers(1, 100),
    st.integers(0, 20),
    st.integers(1, 70),
    st.sampled_from([np.float32, np.float16]),
    st.booleans(),
)
def test_pose_matches_numpy(seed: int, v: int, k: int, j: int, dtype: type, sparse: bool) -> None:
    rest, basis, weights, coefficients, joints = random_rig(
        np.random.default_rng(seed), v, k, j, dtype, sparse
    )
    rig = PoseRig(rest, basis, weights)
    space = np.empty((v, 3), np.float32)
    expected, expected_space = pose_reference(rest, basis, weights, coefficients, joints)
    results = []
    for name in kernels.available_isas():
        kernels.use_isa(name)
        results.append(rig.pose(coefficients, joints, CAMERA, camera_space=space))
    kernels.use_isa()
    for screen in results:
        np.testing.assert_array_equal(screen, results[0])
    np.testing.assert_allclose(results[0], expected, rtol=1e-5, atol=2e-3)
    np.testing.assert_allclose(space, expected_space, rtol=1e-5, atol=1e-5)


def test_sparse_and_dense_bases_are_the_same() -> None:
    rest, basis, weights, coefficients, joints = random_rig(
        np.random.default_rng(0), 50, 7, 3, np.float16, True
    )
    pairs = [(np.flatnonzero(b.any(1)), b[b.any(1)]) for b in basis]
    dense, sparse = PoseRig(rest, basis, weights), PoseRig(rest, pairs, weights)
    assert dense.bytes_read == sparse.bytes_read
    np.testing.assert_array_equal(
        dense.pose(coefficients, joints, CAMERA), sparse.pose(coefficients, joints, CAMERA)
    )


def test_every_float16_survives() -> None:
    every = np.arange(65536, dtype=np.uint16).view(np.float16)
    every = every[np.isfinite(every)]
    every = np.resize(every, (1, len(every) // 3 + 1, 3))
    n = every.shape[1]
    rig = PoseRig(np.zeros((n, 3), np.float32), every, np.ones((n, 1), np.float32))
    joint = np.eye(3, 4, dtype=np.float32)[None]
    space = np.empty((n, 3), np.float32)
    for name in kernels.available_isas():
        kernels.use_isa(name)
        rig.pose(np.ones(1, np.float32), joint, CAMERA, camera_space=space)
        np.testing.assert_array_equal(space, every[0].astype(np.float32))
    kernels.use_isa()


def test_wrong_input_is_one_clear_error() -> None:
    rest, basis, weights, coefficients, joints = random_rig(
        np.random.default_rng(0), 9, 4, 3, np.float32, False
    )
    with pytest.raises(ValueError, match="basis: expected shape"):
        PoseRig(rest, basis[:, :8], weights)
    with pytest.raises(ValueError, match="skin_weights"):
        PoseRig(rest, basis, weights[:8])
    with pytest.raises(ValueError, match=r"indices must lie in 0\.\.8"):
        PoseRig(rest, [(np.array([9]), np.zeros((1, 3), np.float32))], weights)
    with pytest.raises(ValueError, match="expected deltas of shape"):
        PoseRig(rest, [(np.array([1]), np.zeros((2, 3), np.float32))], weights)
    with pytest.raises(ValueError, match="basis: must be finite"):
        PoseRig(rest, basis * np.float32(np.nan), weights)
    rig = PoseRig(rest, basis, weights)
    with pytest.raises(ValueError, match="coefficients"):
        rig.pose(coefficients[:3], joints, CAMERA)
    with pytest.raises(ValueError, match="joints"):
        rig.pose(coefficients, joints[:, :, :3], CAMERA)
    with pytest.raises(ValueError, match="camera"):
        rig.pose(coefficients, joints, (1.0, 2.0, 3.0))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="out: must be C-contiguous"):
        rig.pose(coefficients, joints, CAMERA, np.empty((18, 3), np.float32)[::2])
