"""The body model, its fit to landmarks, and the portrait surface."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from visavis.engine.avatar import Avatar
from visavis.engine.body.fit import FLIP, Camera, Fit, fit_landmarks, rescale
from visavis.engine.body.model import load_body, rotation_matrix, rotation_vector
from visavis.engine.body.seams import boundary_loops, openings
from visavis.engine.body.surface import LID_OVERLAP, margins_gap
from visavis.engine.motion.channels import ARKIT


def drawn_landmarks(shape, expression, rotation, translation, camera):
    """Landmarks of a known person in a known pose, with MediaPipe's depth convention."""
    body = load_body()
    points = body.at_landmarks(
        (body.vertices + np.tensordot(shape, body.shape, 1) + np.tensordot(expression, body.units, 1)).astype(
            np.float32
        )
    )
    fit = Fit(shape, expression, rotation, translation, camera, 0.0)
    placed = fit.to_camera(points)
    pixels = camera.project(placed)
    depth = (placed[:, 2] - placed[:468, 2].mean()) * camera.focal / placed[:, 2].mean()
    return np.concatenate([pixels, depth[:, None]], 1).astype(np.float32)


@pytest.fixture(scope="module")
def camera():
    return Camera.of(512, 512)


def test_rotation_round_trip():
    for vector in ([0.1, -0.2, 0.3], [0, 0, 0], [1.2, 0.4, -0.9]):
        assert np.allclose(rotation_vector(rotation_matrix(vector)), vector, atol=1e-9)


@given(st.lists(st.floats(-2, 2), min_size=3, max_size=3))
def test_rotation_matrices_are_rotations(vector):
    m = rotation_matrix(vector)
    assert np.allclose(m @ m.T, np.eye(3), atol=1e-9)
    assert np.isclose(np.linalg.det(m), 1)


def test_units_move_the_right_parts():
    body = load_body()
    marks = body.at_landmarks(body.units)
    jaw = marks[ARKIT.index("jawOpen")]
    assert jaw[152, 1] < -0.005 and abs(jaw[10]).max() < 0.002  # the chin falls, the forehead stays
    blink = marks[ARKIT.index("eyeBlinkLeft")]
    assert blink[386, 1] < -0.004 and abs(blink[159]).max() < 0.001  # the left upper lid only
    smile = marks[ARKIT.index("mouthSmileLeft")]
    assert smile[291, 1] > 0.002 and smile[291, 1] > 4 * abs(smile[61, 1])


def test_openings_are_closed_loops_with_shared_corners():
    for opening in openings():
        for chain in (opening.upper, opening.lower):
            assert chain.parameter[0] == 0 and np.isclose(chain.parameter[-1], 1)
            assert (np.diff(chain.parameter) > 0).all() and (np.diff(chain.landmark_parameter) > 0).all()
        assert opening.upper.vertices[0] == opening.lower.vertices[0]
        assert opening.upper.vertices[-1] == opening.lower.vertices[-1]
        body = load_body()
        assert (
            body.vertices[opening.upper.vertices, 1].mean() > body.vertices[opening.lower.vertices, 1].mean()
        )


def test_boundary_loops_of_a_strip():
    loops = boundary_loops(np.array([[0, 1, 2], [1, 3, 2], [2, 3, 4]]))
    assert len(loops) == 1 and set(loops[0]) == {0, 1, 2, 3, 4}


@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10_000))
def test_fit_recovers_pose_and_landmarks(seed, camera):
    rng = np.random.default_rng(seed)
    shape = np.zeros(60)
    shape[:15] = rng.normal(0, 0.7, 15)
    expression = np.zeros(52)
    expression[ARKIT.index("jawOpen")] = rng.uniform(0, 0.5)
    expression[ARKIT.index("mouthSmileLeft")] = expression[ARKIT.index("mouthSmileRight")] = rng.uniform(
        0, 0.6
    )
    rotation = rng.uniform(-0.35, 0.35, 3)
    translation = np.array([rng.uniform(-0.05, 0.05), rng.uniform(-0.05, 0.05), rng.uniform(0.9, 1.5)])
    landmarks = drawn_landmarks(shape, expression, rotation, translation, camera)
    fit = fit_landmarks(landmarks, camera)
    assert fit.error < 0.6
    error = rotation_matrix(fit.rotation) @ rotation_matrix(rotation).T
    assert np.degrees(np.linalg.norm(rotation_vector(error))) < 4
    assert abs(fit.expression[ARKIT.index("jawOpen")] - expression[ARKIT.index("jawOpen")]) < 0.15


def test_fit_survives_wild_landmarks(camera):
    landmarks = drawn_landmarks(np.zeros(60), np.zeros(52), np.zeros(3), np.array([0, 0, 1.2]), camera)
    clean = fit_landmarks(landmarks, camera)
    spoilt = landmarks.copy()
    spoilt[50:56, :2] += 60
    robust = fit_landmarks(spoilt, camera)
    assert np.allclose(clean.rotation, robust.rotation, atol=0.06)


def test_rescale_follows_the_crop(camera):
    landmarks = drawn_landmarks(
        np.zeros(60), np.zeros(52), np.array([0.1, 0.2, 0]), np.array([0, 0, 1.2]), camera
    )
    fit = fit_landmarks(landmarks, camera)
    moved = rescale(fit, 2.0, -30, 12)
    points = load_body().vertices[:100]
    a = fit.camera.project(fit.to_camera(points)) * 2 + [-30, 12]
    assert np.allclose(moved.camera.project(moved.to_camera(points)), a)


def test_surface_meets_the_photo(avatar: Avatar):
    surface, camera = avatar.surface, avatar.fit.camera
    assert surface.residual_px < 1.5
    world = surface.vertices.astype(np.float64)
    px = camera.project(world @ FLIP.T)
    shown = ((px > 0) & (px < [avatar.width, avatar.height])).all(1)
    assert shown.mean() > 0.7
    assert np.abs(px - surface.uv)[shown].max() < 0.02  # at rest a vertex stands on its own pixel
    assert np.isfinite(surface.units).all()
    shares = np.stack(
        [surface.weights[:, 0] - surface.weights[:, 1], surface.weights[:, 1], *surface.weights[:, 2:].T]
    )
    assert (shares > -1e-5).all() and (shares.sum(0) < 1 + 1e-5).all()
    assert {seam.name for seam in surface.seams} == {"mouth", "eyeLeft", "eyeRight"}


def test_surface_is_one_sheet_with_three_openings(avatar: Avatar):
    """Every edge of the face belongs to two triangles, but for the rim and the three openings."""
    triangles = avatar.surface.triangles
    inside = np.isin(avatar.surface.part, [1, 2])
    loops = boundary_loops(triangles[inside])
    assert len(loops) == 4
    assert len(np.unique(triangles)) == len(avatar.surface.vertices) or np.unique(triangles).max() < len(
        avatar.surface.vertices
    )


def test_a_blink_of_one_shuts_the_eyes_and_rest_shuts_the_mouth(avatar: Avatar):
    surface = avatar.surface
    up = rotation_matrix(avatar.fit.rotation)[:, 1]
    for seam in surface.seams:
        motion = np.zeros(52, np.float32)
        if seam.name == "mouth":
            motion = surface.rest_motion
        else:
            motion[ARKIT.index(f"eyeBlink{seam.name.removeprefix('eye')}")] = 1
        points = surface.vertices + np.tensordot(motion, surface.units, 1)
        before = margins_gap(seam, surface.vertices.astype(np.float64))[0] @ -up
        after = margins_gap(seam, points.astype(np.float64))[0] @ -up
        assert before[3:-3].mean() > 0.002  # open in the photo
        assert after[3:-3].max() < 0.0006
        if seam.name != "mouth":  # over each other, so that the lower lid's wet edge is hidden
            np.testing.assert_allclose(after[3:-3], -LID_OVERLAP, atol=0.0003)
            # so far before it that its edge is smoothed there: two surfaces by the rasteriser's kSameSurface, 5e-4 of the distance
            nearer = -margins_gap(seam, points.astype(np.float64))[0][:, 2]
            assert (nearer[3:-3] > 1.6 * 5e-4 * -points[seam.upper, 2][3:-3]).all()
