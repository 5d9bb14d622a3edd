"""Lip margins are smooth curves, part to a round opening, and carry no dark line on them."""

from __future__ import annotations

import io
import itertools

import cv2
import numpy as np
import pytest
from PIL import Image
from visavis.engine import enroll as enrolment
from visavis.engine.avatar import Avatar
from visavis.engine.body.margins import midpoints, smooth_margins
from visavis.engine.body.model import rotation_matrix
from visavis.engine.enroll import enroll
from visavis.engine.motion.channels import ARKIT, zero_motion
from visavis.engine.video.lip_line import contact_line
from visavis.engine.video.renderer import Renderer


def mouth(avatar: Avatar):
    return avatar.surface.seam("mouth")


def opened(avatar: Avatar, amount: float):
    """Pixels of the lower margin with the jaw opened."""
    surface = avatar.surface
    posed = surface.vertices + amount * surface.units[ARKIT.index("jawOpen")]
    return avatar.fit.camera.project(posed[mouth(avatar).lower] * [1, -1, -1])


@pytest.fixture(scope="module")
def coarse(demo_photo):
    """The demo's avatar without the vertices in between."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(enrolment, "smooth_margins", lambda surface, camera: surface)
        return enroll(demo_photo)


def test_midpoints_lie_on_the_curve_through_the_points():
    t = np.arange(9.0)[:, None]
    curve = np.concatenate([t**3 - 4 * t, 2 * t**2], 1)
    between = t[:-1] + 0.5
    expected = np.concatenate([between**3 - 4 * between, 2 * between**2], 1)
    np.testing.assert_allclose(midpoints(curve)[1:-1], expected[1:-1], atol=1e-9)
    line = np.stack([t[:, 0], 3 * t[:, 0] + 1], 1)
    np.testing.assert_allclose(midpoints(line), line[:-1] + [0.5, 1.5], atol=1e-12)


def test_margins_have_more_vertices_and_what_was_there_stays(avatar, coarse):
    fine, old = avatar.surface, coarse.surface
    n = len(old.vertices)
    assert len(mouth(avatar).lower) == 4 * (len(mouth(coarse).lower) - 1) + 1
    np.testing.assert_array_equal(fine.vertices[:n], old.vertices)
    np.testing.assert_array_equal(mouth(avatar).upper[::4], mouth(coarse).upper)
    for name in ("vertices", "uv", "weights", "rest"):
        assert len(getattr(fine, name)) == fine.units.shape[1] == len(fine.vertices)
    assert len(fine.triangles) == len(fine.part) == len(fine.edge_flags)
    projected = avatar.fit.camera.project(fine.vertices[n:] * [1, -1, -1])
    np.testing.assert_allclose(projected, fine.uv[n:], atol=0.02)


def test_no_area_is_lost_or_drawn_twice(avatar, coarse):
    def area(person: Avatar):
        p = person.surface.uv[person.surface.triangles].astype(float)
        a, b = p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]
        return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]

    changed = np.abs(area(avatar).sum() - area(coarse).sum())
    opening = np.ptp(coarse.surface.uv[mouth(coarse).lower], axis=0).prod()
    assert changed < 0.2 * opening, "the curve differs from the straight lines by slivers"


def test_margin_edges_are_flagged_and_inner_ones_are_not(avatar):
    surface, seam = avatar.surface, mouth(avatar)
    for chain in (seam.upper, seam.lower):
        follows = {frozenset(map(int, pair)) for pair in itertools.pairwise(chain)}
        flagged = set()
        for triangle, flag in zip(surface.triangles, surface.edge_flags, strict=True):
            for k in range(3):
                edge = frozenset((int(triangle[k]), int(triangle[(k + 1) % 3])))
                if edge in follows and flag >> k & 1:
                    flagged.add(edge)
        assert flagged == follows


def test_a_new_margin_vertex_takes_its_own_correction_alone(avatar, coarse):
    seam, old = mouth(avatar), mouth(coarse)
    assert seam.spread_upper.shape == (len(seam.near), len(seam.upper))
    for chain, spread in ((seam.upper, seam.spread_upper), (seam.lower, seam.spread_lower)):
        for column in (1, 2, 3):
            moved = seam.near[spread[:, column] != 0]
            assert moved.tolist() == [chain[column]]
    np.testing.assert_array_equal(seam.spread_upper[: len(old.near), ::4], old.spread_upper)


def test_the_opened_margin_bends_less_sharply(avatar, coarse):
    def sharpest(points):
        step = np.diff(points, axis=0)
        step = step[np.linalg.norm(step, axis=1) > 0.2]
        turn = np.abs(np.diff(np.unwrap(np.arctan2(step[:, 1], step[:, 0]))))
        return np.degrees(turn[2:-2].max())

    assert sharpest(opened(avatar, 0.8)) < 0.6 * sharpest(opened(coarse, 0.8))


def test_the_jaw_parts_the_lips_to_a_round_opening(avatar):
    surface, seam = avatar.surface, mouth(avatar)
    up = rotation_matrix(avatar.fit.rotation)[:, 1]
    fall = -(surface.units[ARKIT.index("jawOpen")][seam.lower] @ up)
    x = surface.uv[seam.lower, 0]
    across = 2 * (x - x[0]) / (x[-1] - x[0]) - 1
    beside = fall - np.interp(across, [-1, 1], [fall[0], fall[-1]])
    order = np.argsort(across)
    half = np.interp([-0.5, 0.5], across[order], beside[order]) / beside.max()
    assert (half > 0.78).all(), "half way to the corners it falls by four fifths of what the middle does"


def test_an_opening_that_is_not_there_changes_nothing(avatar):
    assert smooth_margins(avatar.surface, avatar.fit.camera, name="beak") is avatar.surface


@pytest.fixture(scope="module")
def shut(avatar):
    """A photo of the demo with shut lips and a dark line where they touch, and the same without the line."""
    plain = Renderer(avatar).render(avatar.neutral_motion())
    surface = avatar.surface
    posed = surface.vertices + np.tensordot(surface.rest_motion, surface.units, 1)
    line = avatar.fit.camera.project(posed[mouth(avatar).lower] * [1, -1, -1])
    lined = plain.copy()
    cv2.polylines(lined, [np.round(line[8:-8]).astype(np.int32)], False, (45, 18, 16), 2, cv2.LINE_AA)

    def person(picture):
        buffer = io.BytesIO()
        Image.fromarray(picture).save(buffer, "png")
        return enroll(buffer.getvalue())

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(enrolment, "contact_line", lambda photo, surface: None)
        edged = person(lined)
    return person(lined), person(plain), edged


def test_the_line_where_lips_touch_is_a_layer_of_its_own(shut):
    person, plain, edged = shut
    assert "lipLine" in {layer.name for layer in person.layers}
    assert "lipLine" not in {layer.name for layer in plain.layers}
    still, before = (Renderer(one).render(zero_motion()).astype(float) for one in (person, edged))
    assert 10 * np.log10(255**2 / ((still - before) ** 2).mean()) > 45, "at rest it is seen as before"


def test_parted_lips_do_not_carry_the_line(shut):
    person, _, edged = shut
    dark = []
    for one in (person, edged):
        seam, texture = mouth(one), one.texture
        middle = (
            slice(len(seam.upper) // 4, -len(seam.upper) // 4),
            slice(len(seam.lower) // 4, -len(seam.lower) // 4),
        )
        px = np.concatenate([one.surface.uv[seam.upper[middle[0]]], one.surface.uv[seam.lower[middle[1]]]])
        at = np.round(px - 0.5).astype(int)
        margin = texture[at[:, 1], at[:, 0]].astype(float)
        dark.append(((margin[:, :3].mean(1) < 100) & (margin[:, 3] > 128)).mean())
    assert dark[0] < 0.1 < 0.3 < dark[1]


def test_the_line_stays_while_lips_touch_and_sinks_as_they_part(shut):
    person, _, _ = shut
    layer = next(layer for layer in person.layers if layer.name == "lipLine")
    surface, seam = person.surface, mouth(person)
    up = rotation_matrix(person.fit.rotation)[:, 1]
    middle = len(layer.vertices) // 2  # of the middle column
    upper, lower = seam.upper[len(seam.upper) // 2], seam.lower[len(seam.lower) // 2]
    for name in ("jawOpen", "mouthUpperUpLeft", "mouthLeft"):
        k = ARKIT.index(name)
        parted = float((surface.units[k, upper] - surface.units[k, lower]) @ up)
        line = float((layer.units[k, middle] - surface.units[k, upper]) @ up)
        assert line == pytest.approx(-2 * parted, abs=0.002)


def test_parted_lips_have_no_contact_line(avatar, demo_photo):
    photo = np.asarray(Image.open(demo_photo).convert("RGB"))
    assert contact_line(photo, avatar.surface) is None
