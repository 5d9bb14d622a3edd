"""Matte and layers: the solver on mixtures that are known, the whole on the demo photo."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from pictures import astronaut, bust
from visavis.engine.body.detect import PoseDetector, find_face
from visavis.engine.video.layers import Layers, fill_background, split_layers
from visavis.engine.video.matte import _alpha, coarse_mask, person_matte
from visavis.engine.video.matting import LocalLinear, push_pull


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    return float(10 * np.log10(255**2 / max(((a.astype(float) - b) ** 2).mean(), 1e-9)))


@pytest.fixture(scope="module")
def matte() -> np.ndarray:
    return person_matte(astronaut(), find_face(astronaut()), PoseDetector().detect(astronaut()))


@pytest.fixture(scope="module")
def layers(matte: np.ndarray) -> Layers:
    return split_layers(astronaut(), matte)


def test_matte_of_the_demo_photo(matte: np.ndarray) -> None:
    assert matte.shape == (512, 512) and matte.dtype == np.float32
    assert matte.min() >= 0 and matte.max() <= 1
    assert matte[80:165, 200:248].min() > 0.99  # face
    assert matte[250:500, 100:280].mean() > 0.98  # body
    assert matte[:60, :150].max() < 0.02 and matte[:150, 330:].max() < 0.02  # flag, shuttle
    hair = matte[20:120, 150:310]
    assert 0.02 < ((hair > 0.05) & (hair < 0.95)).mean() < 0.3  # soft, but no fog


def test_layers_give_the_photo_back(layers: Layers) -> None:
    assert psnr(layers.composite(), astronaut()) > 42
    for plane in (layers.foreground, layers.plate):
        assert plane.shape == (512, 512, 3) and plane.dtype == np.uint8
    # next to the silhouette the plate is smooth instead: an outline would stay behind when the person moves
    outside = cv2.dilate((layers.alpha > 0).astype(np.uint8), np.ones((9, 9), np.uint8)) == 0
    assert np.abs(layers.plate[outside].astype(int) - astronaut()[outside]).max() <= 1
    solid = layers.alpha == 255
    assert (layers.foreground[solid] == astronaut()[solid]).all()


def test_plate_has_no_person_in_it(layers: Layers) -> None:
    """Behind the head there is nothing of hair, skin or the orange suit: greys, as around it."""
    behind = layers.plate[30:170, 160:300].astype(int)
    assert (behind.max(-1) - behind.min(-1)).mean() < 20
    assert behind.min() > 120
    # Moving the person aside uncovers background of about the colour that was beside it.
    beside = astronaut()[60:140, 120:150].reshape(-1, 3).mean(0)
    uncovered = layers.plate[60:140, 160:180].reshape(-1, 3).mean(0)
    assert np.abs(beside - uncovered).max() < 15


def test_person_on_another_background(layers: Layers) -> None:
    """Hair keeps no light rim of the old background: on black, the soft band is as dark as hair is."""
    alpha = layers.alpha[..., None] / 255
    band = (layers.alpha[20:110, 150:310] > 60) & (layers.alpha[20:110, 150:310] < 200)
    colours = layers.foreground[20:110, 150:310][band]
    assert band.sum() > 100
    assert colours.mean() < astronaut()[20:60, 120:150].mean() - 30
    assert (layers.foreground * alpha).max() <= 255


def test_size_of_the_photo_does_not_matter() -> None:
    small, large = bust(384), bust(1100)
    mattes = [person_matte(picture, find_face(picture)) for picture in (small, large)]
    reduced = cv2.resize(mattes[1], (384, 384), interpolation=cv2.INTER_AREA)
    assert np.abs(reduced - mattes[0]).mean() < 0.02


def test_mask_keeps_to_one_person() -> None:
    other = bust(250)
    picture = np.concatenate([bust(250), np.full((250, 60, 3), 190, np.uint8), other], 1)
    mask = coarse_mask(picture, find_face(picture, 1))
    assert mask[60:150, 80:170].mean() > 0.9
    assert mask[:, 330:].max() < 0.1


# --- parts
# --------------------------------------------------------------------------------------------------------


def known_mixture() -> tuple[np.ndarray, np.ndarray]:
    """A textured dark disc with frayed edge on a bright gradient: picture (float) and its true alpha."""
    rng = np.random.default_rng(3)
    y, x = np.mgrid[0:200, 0:200].astype(np.float32)
    ray = np.arctan2(y - 100, x - 100)
    fray = 3 * np.sin(40 * ray) + 2 * np.sin(23 * ray + 1)
    alpha = np.clip((62 + fray - np.hypot(x - 100, y - 100)) / 6, 0, 1)
    texture = cv2.GaussianBlur(rng.random((200, 200, 1)).astype(np.float32), (0, 0), 1.5)[..., None]
    front = np.array([0.35, 0.2, 0.1]) + 0.3 * (texture - 0.5)
    back = np.dstack([0.6 + x / 800, 0.7 + y / 1000, 0.8 - x / 1000])
    picture = alpha[..., None] * front + (1 - alpha[..., None]) * back
    return picture.astype(np.float32), alpha.astype(np.float32)


def test_alpha_of_a_known_mixture() -> None:
    picture, alpha = known_mixture()
    coarse = cv2.GaussianBlur((alpha > 0.5).astype(np.float32), (0, 0), 2)
    angle = np.linspace(0, 6.28, 40)
    landmarks = np.stack([100 + 40 * np.cos(angle), 100 + 40 * np.sin(angle)], 1).astype(np.float32)
    found, _ = _alpha(picture, coarse, landmarks)
    band = (alpha > 0.02) & (alpha < 0.98)
    assert np.abs(found - alpha)[band].mean() < 0.06
    assert np.abs(found - alpha).mean() < 0.01
    assert np.abs(found - alpha)[band].mean() < 0.5 * np.abs(coarse - alpha)[band].mean()


def test_laplacian_is_symmetric_and_blind_to_colour_lines() -> None:
    rng = np.random.default_rng(0)
    image = cv2.GaussianBlur(rng.random((24, 30, 3)).astype(np.float32), (0, 0), 1)
    model = LocalLinear(image, 1, 1e-7)
    line = image @ np.array([0.3, -0.7, 0.5], np.float32) + 0.1
    assert np.abs(model.laplacian(line)).max() < 1e-3
    a, b = np.zeros((2, 24, 30), np.float32)
    a[5:19, 5:25], b[5:19, 5:25] = rng.random((2, 14, 20))
    forward, backward = (a * model.laplacian(b)).sum(), (b * model.laplacian(a)).sum()
    assert forward == pytest.approx(backward, rel=1e-2, abs=0.05)
    assert (a * model.laplacian(a)).sum() > 0


def test_push_pull_continues_smoothly() -> None:
    y, x = np.mgrid[0:90, 0:120].astype(np.float32)
    image = np.dstack([x / 120, y / 90, np.full_like(x, 0.4)]).astype(np.float32)
    weight = np.ones((90, 120), np.float32)
    weight[30:60, 40:80] = 0
    spoiled = image.copy()
    spoiled[weight == 0] = (9, -9, 5)
    filled = push_pull(spoiled, weight)
    assert np.array_equal(filled[weight == 1], image[weight == 1])
    assert np.abs(filled - image).max() < 0.15
    assert np.allclose(filled[..., 2], 0.4, atol=1e-4)


def test_background_behind_a_bright_person() -> None:
    y, x = np.mgrid[0:160, 0:200].astype(np.float32)
    background = np.dstack([0.3 + x / 1000, 0.4 + y / 1000, np.full_like(x, 0.5)])
    alpha = np.clip((40 - np.hypot(x - 100, y - 90)) / 3, 0, 1)
    picture = background * (1 - alpha[..., None]) + np.array([1.0, 0.1, 0.0]) * alpha[..., None]
    filled = fill_background(picture.astype(np.float32), alpha.astype(np.float32))
    assert np.abs(filled - background).max() < 0.08
    layers = split_layers((picture * 255).round().astype(np.uint8), alpha.astype(np.float32))
    assert psnr(layers.composite(), picture * 255) > 42
    band = (alpha > 0.3) & (alpha < 0.9)
    assert np.abs(layers.foreground[band] / 255 - (1.0, 0.1, 0.0)).mean() < 0.08


@pytest.mark.parametrize("value", [0.0, 1.0, 0.5])
def test_uniform_mattes(value: float) -> None:
    picture = cv2.resize(astronaut(), (64, 48), interpolation=cv2.INTER_AREA)
    layers = split_layers(picture, np.full((48, 64), value, np.float32))
    assert psnr(layers.composite(), picture) > 42
