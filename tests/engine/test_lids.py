"""Lids that shut: the skin up to the brow shares the way, and the margins still meet."""

from __future__ import annotations

import json

import numpy as np
import pytest
from visavis.engine import enroll as enroll_module
from visavis.engine.avatar import Avatar
from visavis.engine.body import lids as lids_module
from visavis.engine.body import surface as surface_module
from visavis.engine.body.fit import LIDS
from visavis.engine.body.lid_room import STRIP, STRIPS, folded_away
from visavis.engine.body.lids import BROW_EDGE, share_the_way
from visavis.engine.body.surface import margins_gap
from visavis.engine.enroll import enroll
from visavis.engine.motion.channels import ARKIT, INDEX, zero_motion
from visavis.engine.video.renderer import Renderer

SIDES = ("Left", "Right")


def seam_of(avatar: Avatar, side: str):
    return avatar.surface.seam(f"eye{side}")


def stretch(avatar: Avatar, side: str) -> float:
    """How much taller the most stretched triangles above an eye become when it shuts, the tallest twentieth of their area left out."""
    surface, seam = avatar.surface, seam_of(avatar, side)
    blink = surface.units[ARKIT.index(f"eyeBlink{side}")]
    rest, shut = surface.vertices, surface.vertices + blink
    margin = rest[seam.upper]
    width = float(np.ptp(margin[:, 0]))
    middle = rest[surface.triangles].mean(1)
    above = (
        (np.abs(middle[:, 0] - margin[:, 0].mean()) < 0.3 * width)
        & (middle[:, 1] > np.interp(middle[:, 0], *margin[np.argsort(margin[:, 0])][:, :2].T))
        & (middle[:, 1] < margin[:, 1].max() + 0.6 * width)
    )
    a, b, c = (surface.triangles[above][:, k] for k in range(3))

    def area(points: np.ndarray) -> np.ndarray:
        p, q = points[b] - points[a], points[c] - points[a]
        return np.abs(p[:, 0] * q[:, 1] - p[:, 1] * q[:, 0])

    ratio, weight = area(shut) / np.maximum(area(rest), 1e-12), area(shut)
    order = np.argsort(ratio)
    return float(ratio[order][np.searchsorted(np.cumsum(weight[order]), 0.95 * weight.sum())])


@pytest.mark.parametrize("side", SIDES)
def test_no_strip_of_skin_is_stretched_far(avatar, demo_photo, monkeypatch, side):
    monkeypatch.setattr(surface_module, "share_the_way", lambda side, unit, *args, **kwargs: unit)
    before = enroll(demo_photo)
    assert stretch(avatar, side) < 0.75 * stretch(before, side)
    assert stretch(avatar, side) < 3.5


@pytest.mark.parametrize("side", SIDES)
def test_the_lids_still_meet(avatar, side):
    surface, seam = avatar.surface, seam_of(avatar, side)
    shut = (surface.vertices + surface.units[ARKIT.index(f"eyeBlink{side}")]).astype(np.float64)
    to_lower, _ = margins_gap(seam, shut)
    opened, _ = margins_gap(seam, surface.vertices.astype(np.float64))
    assert np.abs(to_lower[3:-3, 1]).max() < 0.0025 < 0.5 * np.abs(opened[3:-3, 1]).max()


def test_what_is_not_lid_stays():
    """A margin at height 0 from x = 0 to 10, the brow at 10 above it: picture rows go down."""
    marks = np.zeros((478, 3), np.float32)
    for k, mark in enumerate((276, 283, 282, 295, 285)):
        marks[mark, :2] = (12 - 3.5 * k, -10)
    uv = np.array(
        [[0, 0], [5, 0], [10, 0], [5, -3], [5, -6.55], [5, -9.9], [5, 4], [-3, -5], [5, -20]], float
    )
    unit = np.zeros((9, 3))
    unit[:6] = (0, -4, 1)
    unit[6:] = (0, 7, 7)
    out = share_the_way("Left", unit, uv, np.array([0, 1, 2]), marks)
    np.testing.assert_array_equal(out[[0, 1, 2, 6, 7, 8]], unit[[0, 1, 2, 6, 7, 8]])
    np.testing.assert_allclose(out[3], unit[1])  # lashes
    np.testing.assert_allclose(out[4], 0.5 * unit[1], atol=0.02)
    np.testing.assert_allclose(out[5], 0)


def steepest(strip: float | None, height: float) -> float:
    """How much more a piece of skin goes down than its neighbour a tenth of a pixel aside, at a height over a lid of 10 pixels whose margin falls by 4
    between the corner, which stays, and a quarter of a pixel beside it."""
    marks = np.zeros((478, 3), np.float32)
    for k, mark in enumerate((276, 283, 282, 295, 285)):
        marks[mark, :2] = (12 - 3.5 * k, -10)
    margin = np.array([[0, 0], [0.25, 0], [9.75, 0], [10, 0]], float)
    skin = np.stack([np.linspace(-4, 14, 181), np.full(181, -height)], 1)
    unit = np.zeros((len(margin) + len(skin), 3))
    unit[1:3, 1] = -4
    out = share_the_way("Left", unit, np.concatenate([margin, skin]), np.arange(4), marks, strip=strip)
    assert out[len(margin) :, 1].min() < -3, "its middle goes along"
    return float(np.abs(np.diff(out[len(margin) :, 1])).max())


@pytest.mark.parametrize("strip", (None, 0.5))
def test_skin_above_a_lid_s_corner_does_not_break(strip, monkeypatch):
    assert steepest(strip, 3) < 0.5
    assert steepest(strip, 0.1) > 1, "the margin itself goes where the lower one is"
    monkeypatch.setattr(lids_module, "SPREAD", 0.0)
    assert steepest(strip, 3) > 1


def test_with_a_strip_only_lashes_go_along():
    marks = np.zeros((478, 3), np.float32)
    for k, mark in enumerate((276, 283, 282, 295, 285)):
        marks[mark, :2] = (12 - 3.5 * k, -10)
    uv = np.array([[0, 0], [5, 0], [10, 0], [5, -0.7], [5, -0.9], [5, -6]], float)
    unit = np.zeros((6, 3))
    unit[:] = (0, -4, 1)
    out = share_the_way("Left", unit, uv, np.array([0, 1, 2]), marks, strip=0.08)
    np.testing.assert_array_equal(out[:3], unit[:3])
    np.testing.assert_allclose(out[3], unit[1])
    np.testing.assert_array_equal(out[4:], 0)


def brows(colour: int, height: float, lashes: float = 0.0):
    """A face in grey with two eyes of 40 by 12 pixels, brows of a colour down to `height` of theirs above them and `lashes` (in widths) at their margins."""
    photo = np.full((200, 240, 3), 190, np.uint8)
    marks = np.zeros((478, 3), np.float32)
    for side, x0 in (("Right", 40), ("Left", 160)):
        share = np.linspace(0, 1, 9)
        for lids, sign in zip(LIDS[side], (-1, 1), strict=True):
            arc = 100 + sign * 6 * np.sin(np.pi * np.clip(share * 1.0, 0, 1)) ** 0.2
            marks[list(lids), 0] = x0 + 40 * (share if side == "Right" else 1 - share)
            marks[list(lids), 1] = arc
        edge = 94 - height * 12
        marks[list(BROW_EDGE[side]), 0] = x0 + 40 * np.linspace(0, 1, 5)[:: 1 if side == "Right" else -1]
        marks[list(BROW_EDGE[side]), 1] = edge
        photo[int(edge) - 10 : 92, x0 : x0 + 40] = colour
        photo[94 - round(lashes * 40) : 94, x0 : x0 + 40] = 40
    return photo, marks


def test_lids_are_folded_away_under_low_dark_brows_only():
    assert folded_away(*brows(70, 1.1)) == pytest.approx(STRIP)
    assert folded_away(*brows(70, 2.6)) is None
    assert folded_away(*brows(180, 1.1)) is None


def test_lashes_end_where_the_skin_is_bright_again():
    photo, marks = brows(180, 1.1, lashes=0.1)
    photo[70:86, 40:80], photo[70:86, 160:200] = 60, 60  # hair, above a little skin
    strip = folded_away(photo, marks)
    assert strip is not None and 0.09 < strip < STRIPS[1]


@pytest.mark.parametrize(("beyond", "found"), [(8, True), (0, False)])
def test_the_rim_of_glasses_is_no_lid_and_a_crease_is(beyond, found):
    """A dark line 8 pixels above the eyes: a rim goes on beyond their corners."""
    photo, marks = brows(180, 2.0)
    photo[60:92] = 190
    for x0 in (40, 160):
        photo[84:87, x0 - beyond : x0 + 40 + beyond] = 60
    assert (folded_away(photo, marks) is not None) == found


@pytest.fixture(scope="module")
def hooded(demo_photo):
    """The demo person as if with brows too low for lids."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(enroll_module, "folded_away", lambda photo, landmarks: STRIP)
        return enroll(demo_photo)


def test_a_lid_comes_out_from_under_what_stays(hooded, avatar, tmp_path):
    assert [layer.name for layer in hooded.layers if layer.front] == ["lidLeft", "lidRight"]
    hooded.save(tmp_path / "hooded.avatar")
    person, usual = Renderer(Avatar.load(tmp_path / "hooded.avatar")), Renderer(avatar)
    rest = person.render(zero_motion()).copy()
    assert np.abs(rest.astype(int) - usual.render(zero_motion())).max() <= 1, (
        "nothing of it shows while the eyes are open"
    )
    motion = zero_motion()
    motion[[INDEX["eyeBlinkLeft"], INDEX["eyeBlinkRight"]]] = 1
    shut, pulled = person.render(motion).copy(), usual.render(motion).copy()
    for side in SIDES:
        eye = hooded.surface.seam(f"eye{side}")
        upper, lower = (hooded.surface.uv[margin] for margin in (eye.upper, eye.lower))
        middle = np.round((upper[len(upper) // 2] + lower[len(lower) // 2]) / 2).astype(int)
        width = float(np.ptp(upper[:, 0]))
        skin = rest[int(lower[:, 1].max() + 0.2 * width), middle[0]].astype(int)
        assert np.abs(shut[middle[1], middle[0]] - skin).max() < 60, "skin covers the eye"
        above = np.s_[int(upper[:, 1].min() - 0.5 * width) : int(upper[:, 1].min() - 0.2 * width),
                      int(upper[:, 0].min()) : int(upper[:, 0].max())]  # fmt: skip
        assert (
            np.abs(shut[above].astype(int) - rest[above]).mean()
            < 0.2 * np.abs(pulled[above].astype(int) - rest[above]).mean()
        )


def test_avatars_of_before_lids_are_read(avatar, tmp_path):
    """Their header does not say which layers are in front."""
    from safetensors import safe_open
    from safetensors.numpy import save_file

    avatar.save(tmp_path / "new.avatar")
    with safe_open(tmp_path / "new.avatar", "np") as file:
        header = json.loads(file.metadata()["visavis"])
        arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    for layer in header["layers"]:
        del layer["front"]
    save_file(arrays, tmp_path / "old.avatar", {"visavis": json.dumps(header)})
    assert not any(layer.front for layer in Avatar.load(tmp_path / "old.avatar").layers)
