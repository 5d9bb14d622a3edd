"""A person whom the photo's border cuts off: nothing is seen to end there when head and body move."""

from __future__ import annotations

import io
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from visavis.engine.avatar import Avatar
from visavis.engine.body.detect import find_face
from visavis.engine.body.fit import FLIP
from visavis.engine.body.surface import BEYOND
from visavis.engine.body.triangulate import delaunay, folded_in, grid_over, patches
from visavis.engine.enroll import enroll
from visavis.engine.motion.channels import HEAD_SLICE, SPINE_SLICE, zero_motion
from visavis.engine.video.figure import FRAME, Figure
from visavis.engine.video.renderer import Renderer


@pytest.fixture(scope="module")
def cut(photo_as_framed: np.ndarray) -> Avatar:
    """The demo person in a photo whose left border goes through her hair beside the face, and whose upper one through its top."""
    marks = find_face(photo_as_framed).landmarks[:468, :2]
    low, high = marks.min(0), marks.max(0)
    tall = high[1] - low[1]
    x, y = (int(v) for v in low - np.array([0.12, 0.12]) * tall)
    buffer = io.BytesIO()
    Image.fromarray(photo_as_framed[y:, x : x + int(1.9 * tall)]).save(buffer, "png")
    return enroll(buffer.getvalue())


def pixels(avatar: Avatar) -> np.ndarray:
    """Where the surface's vertices are seen at rest (V, 2)."""
    return avatar.fit.camera.project(avatar.surface.vertices.astype(np.float64) @ FLIP.T)


def test_beyond_the_border_the_surface_shows_the_photo_mirrored(cut):
    surface, size = cut.surface, np.array([cut.width, cut.height])
    around = np.arange(len(surface.vertices)) >= len(surface.face_of)
    px = pixels(cut)
    outside = ((px < -1) | (px > size + 1)).any(1) & around
    assert outside.sum() > 50
    inside = np.clip(px, 0, size)
    np.testing.assert_allclose(surface.uv[outside], (inside - (px - inside))[outside], atol=0.05)
    spacing = size.max() / 44
    assert px[around, 0].min() < -(BEYOND - 1.1) * spacing, "as far as heads go"


def test_no_triangle_of_the_surroundings_lies_across_a_border(cut):
    px, triangles = pixels(cut), cut.surface.triangles
    x, y = np.clip(cut.surface.uv[triangles].mean(1), 0, [cut.width - 1, cut.height - 1]).astype(int).T
    around = (triangles >= len(cut.surface.face_of)).all(1) & (cut.texture[y, x, 3] > 128)
    around &= ((px > -30) & (px < [cut.width + 30, cut.height + 30]))[triangles].all((1, 2))
    assert around.sum() > 500
    for axis, border in ((0, 0), (1, 0), (0, cut.width), (1, cut.height)):
        away = px[triangles[around], axis] - border
        assert (np.minimum(away.max(1), -away.min(1)) < 0.05).all()


@given(
    st.integers(64, 400),
    st.integers(64, 400),
    st.floats(9, 25),
    st.floats(1, 5),
)
def test_a_grid_over_a_frame_is_its_own_mirror(width, height, spacing, steps):
    pad = min(steps * spacing, min(width, height) / 2)
    points = grid_over(width, height, spacing, pad)
    folded = folded_in(points, width, height)
    assert (folded >= -1e-6).all() and (folded <= [width, height]).all()
    known = {tuple(p) for p in np.round(points, 3)}
    assert {tuple(p) for p in np.round(folded, 3)} <= known
    assert len(known) == len(points)
    near = points[:, 0] < pad - 1e-3
    mirrored = points[near & (points[:, 0] > 1e-3)] * [-1, 1]
    assert {tuple(p) for p in np.round(mirrored, 3)} <= known


def test_triangles_of_the_grid_end_at_the_border():
    points = grid_over(200, 120, 12.0, 40.0)
    triangles = delaunay(points.astype(np.float32))
    for axis, border in ((0, 0), (1, 0), (0, 200), (1, 120)):
        away = points[triangles, axis] - border
        assert (np.minimum(away.max(1), -away.min(1)) < 0.01).all()


def test_what_a_border_cuts_is_held_there(cut):
    px, frame = pixels(cut), cut.surface.weights[:, 4]
    around = np.arange(len(px)) >= len(cut.surface.face_of)
    row = np.clip(px[:, 1], 0, cut.height - 1).astype(int)
    at_border = around & (px[:, 0] <= 0.5) & (cut.texture[row, 0, 3] > 250)
    assert at_border.sum() > 10 and (frame[at_border] > 0.95).all()
    assert not frame[: len(cut.surface.face_of)].any(), "the face is free"
    above = around & (np.abs(px[:, 0] - cut.width / 2) < 0.15 * cut.width) & (px[:, 1] < 0.2 * cut.height)
    assert above.any() and not frame[above].any(), "so is what the upper border cuts"


def turned(avatar: Avatar, angle: float) -> np.ndarray:
    """Its picture with the head turned and the body leaning aside, all away from the left border."""
    motion = zero_motion()
    motion[HEAD_SLICE.start + 1], motion[SPINE_SLICE.start + 2] = angle, -0.25 * angle
    return Renderer(avatar).render(motion).astype(float)


def test_a_turn_changes_little_at_the_border(cut):
    still, turn = turned(cut, 0.0), turned(cut, 0.12)
    free = replace(cut, surface=replace(cut.surface, weights=cut.surface.weights[:, :4]))
    rows = cut.texture[:, 0, 3] > 250
    strip = np.s_[rows, :6]
    assert np.abs(turn - still).max(-1)[:, cut.width // 2 - 40 : cut.width // 2 + 40].mean() > 5, "it moves"
    held, loose = (np.abs(x[strip] - still[strip]).mean() for x in (turn, turned(free, 0.12)))
    assert held < 0.5 * loose


def test_avatars_without_a_frame_s_weights_are_drawn_as_before(avatar):
    """Files made before there were any have four columns."""
    weights = avatar.surface.weights.copy()
    weights[:, 4] = 0
    with_none = replace(avatar, surface=replace(avatar.surface, weights=weights))
    old = replace(avatar, surface=replace(avatar.surface, weights=weights[:, :4]))
    np.testing.assert_array_equal(turned(with_none, 0.1), turned(old, 0.1))


def test_the_frame_does_not_move(avatar):
    rng = np.random.default_rng(3)
    figure = Figure.of(avatar)
    for _ in range(5):
        motion = rng.normal(0, 0.3, len(zero_motion())).astype(np.float32)
        moved = figure.transforms(motion)[FRAME]
        still = figure.transforms(zero_motion())[FRAME]
        np.testing.assert_allclose(moved, still, atol=1e-7)


def ring(width: float, height: float) -> tuple[np.ndarray, np.ndarray]:
    """A sheet of 40 x 40 with a hole of this size in its middle: triangles and points; the hole's corners come first."""
    hole = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * [width / 2, height / 2]
    outer = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * 100.0
    triangles = [
        t for k in range(4) for t in ((k, 4 + k, 4 + (k + 1) % 4), (k, 4 + (k + 1) % 4, (k + 1) % 4))
    ]
    return np.array(triangles, np.int32), np.concatenate([hole, outer])


@pytest.mark.parametrize(("width", "height", "closed"), [(10, 10, True), (4, 90, True), (60, 60, False)])
def test_narrow_holes_beside_the_face_are_closed(width, height, closed):
    triangles, points = ring(width, height)
    assert (len(patches(triangles, points, 25.0, [], np.arange(4))) > 0) is closed
