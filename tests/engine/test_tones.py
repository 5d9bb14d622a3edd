"""Black and white photos stay so: what is modelled, and what the video network paints, takes the photo's own tones."""

from __future__ import annotations

import io

import cv2
import numpy as np
import pytest
from PIL import Image
from visavis.engine.body.model import load_body
from visavis.engine.body.photo import load_photo
from visavis.engine.enroll import enroll
from visavis.engine.motion.channels import INDEX, zero_motion
from visavis.engine.video.crop import MOUTH
from visavis.engine.video.generator import Generator
from visavis.engine.video.renderer import Renderer
from visavis.engine.video.tones import Tones

MODELLED = [load_body().part_id(name) for name in ("tongue", "lowerTeeth", "upperTeeth")]
SEPIA = np.array([1.08, 0.98, 0.80])


def encoded(picture: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "JPEG", quality=92)
    return out.getvalue()


def grey_of(photo: np.ndarray) -> np.ndarray:
    return np.repeat(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)[..., None], 3, 2)


@pytest.mark.parametrize("tint", [np.ones(3), SEPIA])
def test_a_mouth_takes_the_tones_of_its_photo(demo_photo, tint):
    grey = grey_of(load_photo(demo_photo).rgb)
    person = enroll(encoded(np.clip(grey * tint, 0, 255).astype(np.uint8)))
    renderer = Renderer(person)
    generator = Generator(renderer, steps=1, area=MOUTH)
    motion = zero_motion()
    motion[INDEX["jawOpen"]] = 0.6
    for frame in (renderer.render(motion).copy(), generator.render(renderer.render(motion).copy(), motion)):
        inside = frame[np.isin(renderer.target.part, MODELLED)].astype(float)
        inside = inside[
            (inside.mean(-1) > 40) & (inside.mean(-1) < 200)
        ]  # in the dark and in the light a tint is cut
        assert len(inside) > 100
        assert np.abs(inside / inside.mean(-1, keepdims=True) - tint / tint.mean()).max() < 0.1


def test_a_photo_in_colour_has_none(demo_photo, avatar):
    photo = load_photo(demo_photo).rgb
    assert Tones.of(photo) is None
    assert Tones.of(np.zeros((0, 0, 3), np.uint8)) is None
    tones = Tones.of(grey_of(photo))
    assert tones is not None
    np.testing.assert_array_equal(tones.toned(grey_of(photo)), grey_of(photo))
    assert any(
        np.ptp(layer.texture[..., :3].astype(int), axis=-1).max() > 40
        for layer in avatar.layers
        if layer.name == "tongue"
    )
