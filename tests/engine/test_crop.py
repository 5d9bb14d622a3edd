import numpy as np
import pytest
from visavis.engine.motion.channels import HEAD_SLICE, INDEX, zero_motion
from visavis.engine.video.crop import (
    CROP,
    POSITION_HIGH,
    POSITION_LOW,
    CropTransform,
    FaceCrop,
    crop,
    paste,
    quantised_position,
)


def picture(height=300, width=320, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


@pytest.mark.parametrize(
    "transform",
    [CropTransform(1.07, -33.3, -20.8), CropTransform(0.5, 10, 60), CropTransform(2.3, -200, -300)],
)
def test_pasting_with_mask_zero_changes_no_bit(transform):
    frame = picture()
    before = frame.copy()
    seen = crop(frame, transform)
    out = paste(frame, seen, seen[..., ::-1], np.zeros((CROP, CROP), np.float32), transform)
    assert out is frame
    assert (frame == before).all()


def test_whole_translations_are_exact_both_ways():
    frame = picture(360, 400)
    transform = CropTransform(1.0, -40.0, -30.0)
    piece = crop(frame, transform)
    assert (piece == frame[30 : 30 + CROP, 40 : 40 + CROP]).all()
    assert (crop(frame, transform, nearest=True) == piece).all()
    blank = np.zeros_like(frame)
    paste(blank, crop(blank, transform), piece, np.ones((CROP, CROP)), transform)
    inner = slice(30, -30)
    assert (blank[30 : 30 + CROP, 40 : 40 + CROP][inner, inner] == piece[inner, inner]).all()
    assert not blank[:30].any() and not blank[:, :40].any() and not blank[:, 40 + CROP :].any()


def test_crop_over_the_frame_border_repeats_it_and_pastes_what_is_inside():
    frame = picture()
    transform = CropTransform(1.0, 50.0, -100.0)
    piece = crop(frame, transform)
    assert (piece[:, :50] == piece[:, 50:51]).all()
    paste(frame, piece, np.full((CROP, CROP, 3), 7, np.uint8), np.ones((CROP, CROP), np.float32), transform)
    assert (frame[150:200, :150] == 7).all()
    far = CropTransform(1.0, -9999.0, 0.0)
    before = frame.copy()
    assert (paste(frame, piece, piece, np.ones((CROP, CROP), np.float32), far) == before).all()


@pytest.mark.parametrize("scale", [0.62, 1.3])
def test_a_smooth_picture_survives_crop_and_paste_in_place(scale):
    y, x = np.mgrid[:400, :420]
    smooth = np.stack([x / 2, y / 2, (x + y) / 4], -1).astype(np.uint8)
    transform = CropTransform(scale, -31.7, -43.2)
    frame = smooth.copy()
    seen = crop(frame, transform)
    paste(frame, seen, seen, np.ones((CROP, CROP), np.float32), transform)
    assert (frame == smooth).all()
    paste(frame, seen, seen + np.uint8(9), np.ones((CROP, CROP), np.float32), transform)
    inner = np.s_[100:180, 100:180]
    assert np.abs(frame[inner].astype(int) - smooth[inner] - 9).max() <= 1


def test_border_is_feathered():
    frame = np.zeros((CROP, CROP, 3), np.uint8)
    paste(
        frame,
        frame.copy(),
        np.full((CROP, CROP, 3), 255, np.uint8),
        np.ones((CROP, CROP), np.float32),
        CropTransform(1.0, 0.0, 0.0),
    )
    row = frame[CROP // 2, :, 0].astype(int)
    assert row[0] <= 4 and row[CROP // 2] == 255
    assert np.abs(np.diff(row)).max() < 26


def test_shrinking_does_not_alias():
    checker = np.zeros((600, 600), np.uint8)
    checker[::2, ::2] = checker[1::2, 1::2] = 255
    out = crop(checker, CropTransform(0.45, 0.0, 0.0)).astype(float)
    assert out[20:-20, 20:-20].std() < 8
    assert crop(checker.astype(np.float32), CropTransform(0.45, 0.0, 0.0)).dtype == np.float32


def test_points_agree_with_pixels():
    frame = np.zeros((300, 300), np.float32)
    frame[140, 151] = 1
    transform = CropTransform(1.5, -100.25, -80.5)
    out = crop(frame, transform)
    y, x = np.mgrid[:CROP, :CROP] + 0.5
    at = np.array([(out * x).sum(), (out * y).sum()]) / out.sum()
    assert np.abs(at - transform.points([151.5, 140.5])).max() < 0.05


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="expected"):
        small = np.zeros((8, 8, 3), np.uint8)
        paste(picture(), small, small, np.zeros((8, 8), np.float32), CropTransform(1, 0, 0))


def test_positions_quantise_over_the_box_and_keep_zero_for_nothing():
    position = np.zeros((CROP, CROP, 3), np.float32)
    position[0, :4] = POSITION_LOW, POSITION_HIGH, (POSITION_LOW + POSITION_HIGH) / 2, POSITION_HIGH * 9
    part = np.ones((CROP, CROP), np.uint8)
    part[0, 3] = 0
    out = quantised_position(position, part)[0]
    assert out[0].tolist() == [1, 1, 1] and out[1].tolist() == [255] * 3
    assert np.abs(out[2].astype(int) - 128).max() <= 1 and not out[3].any()


def test_the_crop_holds_the_face_and_follows_the_head(avatar):
    faces = FaceCrop(avatar)
    still = faces.transform(zero_motion())
    surface = avatar.surface
    from visavis.engine.body.model import load_body

    body = load_body()
    skin = surface.uv[: len(surface.face_of)]
    inside = still.points(skin)
    assert (inside > 2).mean() > 0.98 and (inside < CROP - 2).mean() > 0.98
    chin = np.argmin(body.vertices[surface.face_of][:, 1])
    assert 0.5 * CROP < inside[chin, 1] < 0.97 * CROP
    moved = zero_motion()
    moved[INDEX["headTranslation.x"]] = 0.02
    shifted = faces.transform(moved)
    focal, depth = avatar.fit.camera.focal, -surface.vertices[: len(skin), 2].mean()
    expected = -0.02 * focal / depth * still.scale
    assert shifted.x0 - still.x0 == pytest.approx(expected, rel=0.12)
    turned = zero_motion()
    turned[HEAD_SLICE] = [0, 0.3, 0]
    assert faces.transform(turned).x0 != still.x0
    assert faces.transform(turned).scale == still.scale == faces.scale
