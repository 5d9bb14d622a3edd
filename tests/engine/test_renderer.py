"""The picture: zero motion is the photo, and each channel moves what it names and nothing else."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import pytest
from visavis.engine.avatar import Avatar
from visavis.engine.motion.channels import INDEX, N_CHANNELS, zero_motion
from visavis.engine.video.renderer import Renderer


@pytest.fixture(scope="module")
def renderer(avatar: Avatar) -> Renderer:
    return Renderer(avatar)


def moved(base=None, **channels):
    motion = zero_motion() if base is None else base.copy()
    for name, value in channels.items():
        motion[INDEX[name.replace("_", ".")]] += value
    return motion


def box(avatar, name):
    """Bounds of an opening in the photo: x0, y0, x1, y1."""
    seam = avatar.surface.seam(name)
    points = avatar.surface.uv[np.concatenate([seam.upper, seam.lower])]
    return (*points.min(0), *points.max(0))


def change(a, b, bounds, grow=4):
    x0, y0, x1, y1 = (round(v) for v in bounds)
    cut = np.s_[y0 - grow : y1 + grow, x0 - grow : x1 + grow]
    return np.abs(a[cut].astype(int) - b[cut]).mean()


def test_zero_motion_gives_back_the_photo(renderer, photo_as_framed):
    frame = renderer.render(zero_motion())
    error = ((frame.astype(float) - photo_as_framed) ** 2).mean()
    assert 10 * np.log10(255**2 / error) > 38


def test_same_motion_same_picture_and_threads_do_not_matter(avatar, renderer):
    motion = moved(jawOpen=0.3, head_y=0.1)
    first = renderer.render(motion)
    renderer.render(moved(jawOpen=0.9))
    assert (renderer.render(motion) == first).all()
    assert (Renderer(avatar, threads=2).render(motion) == first).all()


def test_channels_move_what_they_name(avatar, renderer):
    still = renderer.render(zero_motion())
    mouth, left, right = (box(avatar, name) for name in ("mouth", "eyeLeft", "eyeRight"))
    jaw = renderer.render(moved(jawOpen=0.4))
    assert change(jaw, still, mouth) > 8 and change(jaw, still, left) < 1
    wink = renderer.render(moved(eyeBlinkLeft=1))
    assert change(wink, still, left) > 8 and change(wink, still, right) < 1 and change(wink, still, mouth) < 1
    gaze = renderer.render(moved(gazeYawLeft=0.3, gazeYawRight=0.3))
    assert change(gaze, still, left, 0) > 4 and change(gaze, still, mouth) < 0.5


def test_gaze_and_head_turn_to_the_named_side(avatar, renderer):
    """Positive yaw is the person's left: the right side of the picture."""
    eye = box(avatar, "eyeLeft")
    x0, y0, x1, y1 = (round(v) for v in eye)

    def darkest(frame):
        patch = cv2.GaussianBlur(frame[y0:y1, x0:x1].astype(np.float32).mean(2), (0, 0), 2)
        weight = np.maximum(np.percentile(patch, 25) - patch, 0)
        return float((weight * np.arange(x1 - x0)).sum() / weight.sum())

    turned = [darkest(renderer.render(moved(gazeYawLeft=v, gazeYawRight=v))) for v in (-0.25, 0, 0.25)]
    assert turned[0] < turned[1] - 0.5 and turned[1] + 0.5 < turned[2]
    nose = []
    for v in (-0.25, 0.25):
        renderer.render(moved(head_y=v))
        position = renderer.target.position  # canonical coordinates of what is shown at each pixel
        skin = renderer.target.part == 1
        z = np.where(skin, position[..., 2], -1)
        nose.append(np.unravel_index(z.argmax(), z.shape)[1])
    assert nose[1] - nose[0] > 10


def test_closed_mouth_hides_the_teeth(avatar):
    """The photo's own teeth painted green: seen as the photo shows them, gone when the lips are shut."""
    layers = []
    for layer in avatar.layers:
        if layer.name == "photoTeeth":
            green = layer.texture.copy()
            green[..., :3] = (0, 255, 0)
            layer = replace(layer, texture=green)
        layers.append(layer)
    renderer = Renderer(replace(avatar, layers=type(avatar.layers)(layers)))

    def green_pixels(motion):
        image = renderer.render(motion).astype(int)
        return int(((image[..., 1] > 200) & (image[..., 0] < 90) & (image[..., 2] < 90)).sum())

    open_pixels, closed_pixels = green_pixels(zero_motion()), green_pixels(avatar.neutral_motion())
    assert open_pixels > 100 and closed_pixels < 0.06 * open_pixels


@pytest.mark.parametrize("pose", [{"head_y": 0.35}, {"head_y": -0.35}, {"head_x": 0.25}, {"head_z": -0.25},
                                  {"head_y": 0.2, "jawOpen": 0.6, "eyeBlinkLeft": 1, "browInnerUp": 1}])  # fmt: skip
def test_no_cracks(avatar, pose):
    """An opaque green person over a magenta plate: no magenta inside her outline, at any pose."""
    texture, plate = np.zeros_like(avatar.texture), np.zeros_like(avatar.plate)
    texture[...] = (0, 255, 0, 255)
    plate[...] = (255, 0, 255)
    filled = Renderer(replace(avatar, texture=texture, plate=plate, layers=()))
    frame = filled.render(moved(**pose))
    hole = (frame[..., 0] > 40).astype(np.uint8)
    _, _, stats, _ = cv2.connectedComponentsWithStats(hole, connectivity=8)
    # what is left open are the three openings and the surroundings, all larger than a crack
    assert all(area >= 12 for *_, area in stats[1:])


def test_wild_motion_is_survived(renderer):
    rng = np.random.default_rng(0)
    for scale in (1, 30, 1e6):
        frame = renderer.render((rng.normal(0, scale, N_CHANNELS)).astype(np.float32))
        assert frame.shape == (512, 512, 3)
    broken = zero_motion()
    broken[5] = np.nan
    renderer.render(broken)
    with pytest.raises(ValueError, match="shape"):
        renderer.render(np.zeros(7, np.float32))
