"""Upper and lower teeth of a photo are told apart: one row stays with the skull, the other goes with the jaw."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image
from visavis.engine.body.detect import find_face
from visavis.engine.body.fit import LIPS_LOWER_INNER, LIPS_UPPER_INNER
from visavis.engine.body.photo import load_photo
from visavis.engine.enroll import enroll
from visavis.engine.motion.channels import zero_motion
from visavis.engine.video.interior import JAW_UNITS
from visavis.engine.video.renderer import Renderer
from visavis.engine.video.tooth_rows import part_rows

ENAMEL, GAP, TONGUE, LIP = (225, 212, 190), (45, 22, 20), (190, 95, 90), (180, 100, 95)


def smile(*, gap_at: int = 22, below: tuple[int, int, int] = ENAMEL, gap: int = 3):
    """A mouth (44, 110, 3) of 12 upper teeth with something below them, and its opening: rows 10 to 32."""
    picture = np.full((44, 110, 3), LIP, np.uint8)
    inside = np.zeros((44, 110), np.float32)
    inside[10:32, 8:102] = 1
    picture[10:32, 8:102] = GAP
    picture[11:gap_at, 12:98] = ENAMEL
    picture[gap_at + gap : 32, 20:90] = below
    for x in range(19, 98, 7):  # the notches between them
        picture[11:gap_at, x] = (np.array(ENAMEL) * 0.8).astype(np.uint8)
        picture[gap_at - 2 : gap_at, x - 1 : x + 2] = GAP
    return cv2.GaussianBlur(picture, (0, 0), 0.6), inside


def test_two_rows_are_parted_at_the_gap():
    rows = part_rows(*smile())
    assert rows.upper[12:20, 15:95].min() > 0.7 and rows.upper[26:31, 25:85].max() < 0.1
    assert rows.lower[27:31, 25:85].min() > 0.8 and rows.lower[12:21].max() < 0.05
    assert rows.lower_edge == pytest.approx(24, abs=2)
    assert rows.lower_light == pytest.approx(1, abs=0.1)


def test_the_notches_between_teeth_are_the_gaps():
    rows = part_rows(*smile())
    notches, beside = rows.upper[21, [26, 40, 54, 68]], rows.upper[20, [23, 37, 51, 65]]
    assert (notches < beside - 0.1).all()


@pytest.mark.parametrize("below", [TONGUE, LIP, GAP])
def test_tongue_lip_and_dark_are_no_lower_row(below):
    rows = part_rows(*smile(below=below))
    assert rows.lower_edge is None and not rows.lower.any()
    assert rows.upper[12:20, 15:95].min() > 0.7
    assert rows.upper[27:31, 25:85].max() < 0.1, "what lies below them does not stay with the teeth"


def test_teeth_that_the_lip_meets_are_whole():
    picture, inside = smile(gap_at=32, gap=0)
    rows = part_rows(picture, inside)
    assert rows.lower_edge is None
    assert rows.upper[12:30, 15:95].min() > 0.7


def test_rows_that_touch_are_parted_where_their_neighbours_are():
    picture, inside = smile()
    picture[22:25, 48:54] = picture[20, 50]  # a tooth without a gap below it
    rows = part_rows(picture, inside)
    assert rows.upper[28:31, 48:54].max() < 0.2 and rows.lower[28:31, 48:54].min() > 0.7


def test_rows_that_touch_are_parted_as_far_as_the_opening_is_as_tall():
    picture, inside = smile()
    faint = (0.9 * picture[18, 60]).astype(np.uint8)
    picture[20:25, 50:] = np.where(
        inside[20:25, 50:, None] > 0, faint, picture[20:25, 50:]
    )  # bright between the rows of the right half
    rows = part_rows(picture, inside)
    assert rows.upper[12:20, 15:90].min() > 0.7
    assert rows.upper[28:31, 55:85].max() < 0.2 and rows.lower[28:31, 55:85].min() > 0.7


def touching(line: float):
    """A mouth whose lower row touches the upper one in the middle, where a line as bright as `line` of the teeth parts them, and lip meets it elsewhere."""
    picture, inside = smile()
    lip = (np.array(LIP) * 0.9).astype(np.uint8)
    picture[25:32, 8:40], picture[25:32, 70:102] = lip, lip
    inside[27:32, 8:40], inside[27:32, 70:102] = 0, 0
    picture[20:32, 40:70] = ENAMEL
    picture[23, 40:70] = (np.array(ENAMEL) * line).astype(np.uint8)
    return picture, inside


def test_a_lower_row_that_touches_between_gaps_is_parted():
    rows = part_rows(*touching(0.7))
    assert rows.lower_edge == pytest.approx(23, abs=2)
    assert rows.lower[27:31, 44:66].min() > 0.7 and rows.upper[27:31, 44:66].max() < 0.2


def test_a_long_tooth_is_not_taken_for_two():
    rows = part_rows(*touching(1.0))
    assert rows.lower_edge is None and rows.upper[12:30, 44:66].min() > 0.7


def test_a_few_pixels_are_all_upper_row():
    inside = np.zeros((12, 40), np.float32)
    inside[5:7, 10:14] = 1
    rows = part_rows(np.full((12, 40, 3), 120, np.uint8), inside)
    assert rows.upper.min() == 1 and not rows.lower.any() and rows.lower_edge is None


def test_the_lower_row_of_a_photo_goes_with_the_jaw(demo_photo, avatar):
    photo = load_photo(demo_photo).rgb.copy()
    marks = find_face(photo).landmarks
    upper, lower = marks[list(LIPS_UPPER_INNER), :2], marks[list(LIPS_LOWER_INNER), :2]
    # the demo's own teeth in two rows
    low = lower + [0, 8]
    hull = np.concatenate([upper, low[::-1]])
    cv2.fillPoly(photo, [np.round(hull).astype(np.int32)], ENAMEL)
    line = np.round(0.45 * upper + 0.55 * low).astype(np.int32)
    cv2.polylines(photo, [line], False, GAP, 2)
    buffer = io.BytesIO()
    Image.fromarray(photo).save(buffer, "png")
    person = enroll(buffer.getvalue())
    layers = {layer.name: layer for layer in person.layers}
    assert "photoLowerTeeth" in layers and "photoLowerTeeth" not in {layer.name for layer in avatar.layers}
    opens = JAW_UNITS.index("jawOpen")
    np.testing.assert_allclose(
        layers["photoLowerTeeth"].jaw[opens, 0], layers["lowerTeeth"].jaw[opens, 0], atol=1e-6
    )
    assert not layers["photoTeeth"].jaw.any() and not layers["photoTeeth"].units.any()
    order = [layer.name for layer in person.layers]
    assert order.index("lowerTeeth") < order.index("photoLowerTeeth") < order.index("photoTeeth")
    # at rest they are seen as the photo has them
    frame = Renderer(person).render(zero_motion())
    found = find_face(frame).landmarks
    at = np.round(found[list(LIPS_UPPER_INNER), :2][5] + [0, 2]).astype(int)
    assert frame[at[1], at[0]].mean() > 150
