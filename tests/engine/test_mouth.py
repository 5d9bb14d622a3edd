"""The inside of the mouth: whose teeth it shows, and that nothing shines through its corners."""

from __future__ import annotations

import io
from dataclasses import replace

import cv2
import numpy as np
import pytest
from PIL import Image
from visavis.engine.body.detect import find_face
from visavis.engine.body.fit import LIPS_LOWER_INNER, LIPS_UPPER_INNER
from visavis.engine.body.model import rotation_matrix
from visavis.engine.body.photo import load_photo
from visavis.engine.enroll import enroll
from visavis.engine.motion.channels import INDEX, zero_motion
from visavis.engine.video import lip_line
from visavis.engine.video import mouth as mouth_module
from visavis.engine.video.interior import JAW_UNITS
from visavis.engine.video.renderer import Renderer
from visavis.engine.video.teeth import is_tooth, teeth_colour, teeth_texture


def test_teeth_are_the_bright_and_least_red_of_an_opening():
    inside = np.zeros((40, 80), np.float32)
    inside[8:32, 10:70] = 1
    picture = np.full((40, 80, 3), (170, 90, 85), np.uint8)
    picture[8:20, 10:70] = (225, 215, 195)
    picture[20:32, 10:70] = (40, 20, 18)
    colour = teeth_colour(picture, inside)
    assert colour is not None
    np.testing.assert_allclose(colour, np.array([225, 215, 195]) / 255, atol=0.02)
    assert teeth_colour(picture, np.zeros_like(inside)) is None


def test_a_dark_or_red_opening_shows_no_teeth():
    skin, lips = np.array([0.80, 0.58, 0.46]), np.array([0.74, 0.46, 0.41])
    assert is_tooth(np.array([0.85, 0.74, 0.60]), skin, lips)
    assert not is_tooth(np.array([0.30, 0.26, 0.24]), skin, lips)
    assert not is_tooth(np.array([0.80, 0.50, 0.45]), skin, lips)


def test_teeth_in_coloured_light_are_told_by_the_lips():
    teeth, skin = np.array([0.85, 0.74, 0.60]), np.array([0.80, 0.58, 0.46])
    lips, light = np.array([0.70, 0.40, 0.36]), np.array([1.0, 0.80, 0.80])
    assert is_tooth(teeth * light, skin, lips * light), "no less red than the skin, but than the lips"
    assert not is_tooth(teeth * light, skin, teeth * light)


@pytest.fixture(scope="module")
def dark(demo_photo):
    """The demo's avatar with nothing but dark between her lips."""
    photo = load_photo(demo_photo).rgb.copy()
    marks = find_face(photo).landmarks[[*LIPS_UPPER_INNER, *LIPS_LOWER_INNER[::-1]], :2]
    hull = cv2.convexHull(marks.astype(np.float32)).astype(np.int32)
    cv2.fillConvexPoly(photo, hull, (60, 25, 22))
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "png")
    return enroll(buffer.getvalue())


def test_a_parted_mouth_without_teeth_gets_modelled_ones(dark, avatar):
    assert {"upperTeeth", "lowerTeeth", "photoTeeth"} <= {layer.name for layer in dark.layers}
    smiling = {layer.name for layer in avatar.layers}
    assert "photoTeeth" in smiling and "upperTeeth" not in smiling


def test_the_cavity_reaches_beyond_the_corners_of_a_wide_mouth(avatar):
    surface = avatar.surface
    seam = surface.seam("mouth")
    margin = np.concatenate([seam.upper, seam.lower])
    cavity = next(layer for layer in avatar.layers if layer.name == "cavity")
    for side in ("Left", "Right"):
        wide = (
            surface.vertices
            + 0.9 * surface.units[INDEX[f"mouthStretch{side}"]]
            + 0.5 * surface.units[INDEX["jawOpen"]]
        )
        x, depth = wide[margin, 0], -wide[margin, 2]
        # by the pinhole, the sheet behind must cover what the opening spans
        seen = cavity.vertices[:, 0] / -cavity.vertices[:, 2]
        assert seen.min() < (x / depth).min() and seen.max() > (x / depth).max()


def test_the_cavity_does_not_look_out_beside_the_chin(avatar):
    cavity = next(layer for layer in avatar.layers if layer.name == "cavity").vertices
    face = avatar.surface.vertices[: len(avatar.surface.face_of)]
    chin = face[:, 1].min()
    low = cavity[cavity[:, 1] < cavity[:, 1].min() + 1e-3]
    jaw = face[(face[:, 1] > chin + 0.005) & (face[:, 1] < chin + 0.02)]
    for seen, edge in ((low[:, 0].max(), jaw[:, 0].max()), (-low[:, 0].min(), -jaw[:, 0].min())):
        assert seen < edge


def test_the_cavity_ends_between_the_lowest_lip_and_the_chin(avatar):
    """Below the chin it would be seen where a matte has holes, in a neck as white as the wall."""
    surface, turn = avatar.surface, rotation_matrix(avatar.fit.rotation)
    cavity = next(layer for layer in avatar.layers if layer.name == "cavity").vertices @ turn
    opened = (surface.vertices + surface.units[INDEX["jawOpen"]])[surface.seam("mouth").lower] @ turn
    chin = (surface.vertices[: len(surface.face_of)] @ turn)[:, 1].min()
    assert chin + 0.002 < cavity[:, 1].min() < opened[:, 1].min() - 0.002


def test_a_dark_gap_between_parted_lips_tells_where_no_teeth_are(dark):
    layers = {layer.name: layer for layer in dark.layers}
    seam = dark.surface.seam("mouth")
    quarter = len(seam.upper) // 4
    lip = np.median(dark.surface.vertices[seam.upper][quarter:-quarter, 1])
    assert layers["upperTeeth"].vertices[:, 1].min() > lip - 0.001, "upper teeth stay above the upper lip"
    assert not layers["photoTeeth"].jaw.any() and not layers["photoTeeth"].units.any()


def test_the_tongue_stays_up_while_the_jaw_falls(avatar):
    layers = {layer.name: layer for layer in avatar.layers}
    opens = JAW_UNITS.index("jawOpen")
    fall = {name: -layers[name].jaw[opens, :, 1] for name in ("tongue", "lowerTeeth", "cavity")}
    assert fall["lowerTeeth"].min() > 0.005, "the front of the jaw goes down by more than half a centimetre"
    height = (layers["tongue"].vertices @ rotation_matrix(avatar.fit.rotation))[:, 1]
    top, floor = height > height.max() - 0.002, height < height.max() - 0.012
    assert 0 < fall["tongue"][top].max() < 0.5 * fall["lowerTeeth"].min()
    assert fall["tongue"][floor].mean() > 1.8 * fall["tongue"][top].mean(), "its floor goes along"
    assert not fall["cavity"].any()


def test_from_below_the_tongue_is_seen_as_from_the_front(demo_photo, monkeypatch):
    """There it would hide behind the lower teeth: it rises towards its root."""
    calls = []
    tongue = mouth_module._tongue
    monkeypatch.setattr(mouth_module, "_tongue", lambda *args: calls.append(args) or tongue(*args))
    enroll(demo_photo)
    (head, mouth, jaw), turn = calls[0], np.eye(3)

    def seen(height: float) -> tuple[np.ndarray, np.ndarray]:
        """Heights (n,) over the lips' line, and tangents (n,) of the angles at which they are seen over it, with the lips at a height over the camera."""
        at = replace(mouth, turn=turn, lips=replace(mouth.lips, rest_y=height))
        points = tongue(head, at, jaw).vertices.astype(np.float64)
        return points[:, 1] - height, points[:, 1] / -points[:, 2] - height / -mouth.lips.front

    level, front = seen(0.0)
    np.testing.assert_allclose(seen(0.08)[1], front, atol=1e-6)
    np.testing.assert_allclose(seen(-0.08)[0], level, atol=1e-6, err_msg="from above it lies as it does")


def test_the_tongue_fades_where_it_turns_away(avatar):
    tongue = next(layer for layer in avatar.layers if layer.name == "tongue")
    height, width = tongue.texture.shape[:2]
    assert tongue.uv.min() >= 0 and (tongue.uv <= [width, height]).all()
    alpha = tongue.texture[..., 3]
    assert (np.diff(alpha.astype(int), axis=1) >= 0).all() and alpha[0, 0] < 8 and alpha[0, -1] > 247
    seen = tongue.uv[:, 0] / width
    assert (seen < 0.05).any() and (seen > 0.95).any()


def test_the_tongue_s_front_stands_in_shade_and_its_middle_is_a_groove(avatar):
    tongue = next(layer for layer in avatar.layers if layer.name == "tongue")
    points = tongue.vertices @ rotation_matrix(avatar.fit.rotation)
    light = tongue.uv[:, 1] / tongue.texture.shape[0]
    top = tongue.uv[:, 0] > 0.9 * tongue.texture.shape[1]
    behind, beside = points[:, 2].max() - points[:, 2], np.abs(points[:, 0] - np.median(points[:, 0]))
    over = points[:, 1] > points[:, 1].max() - 0.0148
    tip = top & (behind < 0.002) & over & (beside < 0.006)
    back = top & (behind > 0.007) & (behind < 0.008) & over & (beside < 0.006)
    assert light[tip].mean() < 1.06 * light[back].mean(), "it hardly grows brighter towards its tip"
    for place in (tip, back):
        middle, near = light[place & (beside < 0.001)], light[place & (beside > 0.002)]
        assert middle.mean() < 0.95 * near.mean()


def test_a_dark_line_below_the_teeth_does_not_edge_the_lip(demo_photo, monkeypatch):
    photo = load_photo(demo_photo).rgb.copy()
    marks = find_face(photo).landmarks[list(LIPS_LOWER_INNER), :2]
    cv2.polylines(photo, [np.round(marks[2:-2] + [0, 1]).astype(np.int32)], False, (25, 12, 10), 3)
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "png")
    without = enroll(buffer.getvalue())
    with monkeypatch.context() as patch:
        patch.setattr(lip_line, "RIM_DARKER", 0.0)
        edged = enroll(buffer.getvalue())
    still = [Renderer(person).render(zero_motion()).astype(float) for person in (without, edged)]
    error = ((still[0] - still[1]) ** 2).mean()
    assert 10 * np.log10(255**2 / max(error, 1e-9)) > 45, "at rest it is seen as before"
    seam = without.surface.seam("mouth")
    quarter = len(seam.lower) // 4
    px = np.round(without.surface.uv[seam.lower][quarter:-quarter] + [0, 1]).astype(int)
    black = []
    for person in (without, edged):
        margin = person.texture[px[:, 1], px[:, 0]].astype(float)
        black.append(((margin[:, :3].mean(1) < 90) & (margin[:, 3] > 128)).mean())
    assert black[0] < 0.25 < 0.6 < black[1], "the lip does not carry the line along"


def test_the_row_of_a_smile_is_lit_as_smiles_are():
    """Measured in portraits: half way to the corner of the mouth teeth are hardly darker than in the middle."""
    enamel, light = np.array([0.8, 0.7, 0.6]), np.ones(3)
    in_smile = teeth_texture(False, enamel, light, smiling=True)
    in_shade = teeth_texture(False, enamel, light, smiling=False)
    row = slice(12, 28)
    profile = [np.median(t[row, 246:266, :3]) for t in (in_smile, in_shade)]
    half = [np.median(t[row, 140:170, :3]) for t in (in_smile, in_shade)]
    assert profile[0] > 0.8 * 255 * 0.7 and half[0] > 0.8 * profile[0]
    assert half[1] < 0.8 * profile[1]
