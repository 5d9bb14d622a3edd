"""A photo in layers: colours free of background, and the background filled behind.

The background is mirrored at the silhouette, passing into a smooth fill further in; foreground colours follow from the compositing
equation, given alpha and what lies behind. Images are RGB uint8 (H, W, 3), mattes float32 (H, W) 0..1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from visavis.engine.body.detect_geometry import Image
from visavis.engine.video.matting import push_pull

FloatArray = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True, eq=False)
class Layers:
    """A photo in two layers: `foreground` (H, W, 3) colours without background, `alpha` (H, W) uint8
    straight, `plate` (H, W, 3) the background filled behind the person."""

    foreground: Image
    alpha: Image
    plate: Image

    def composite(self) -> Image:
        """The layers put together again: (H, W, 3)."""
        a = self.alpha[..., None].astype(np.float32) / 255
        return np.round(self.foreground * a + self.plate * (1 - a)).astype(np.uint8)


def split_layers(rgb: Image, alpha: FloatArray, behind: FloatArray | None = None) -> Layers:
    """Foreground colours, alpha and background plate of a photo; together they give the photo back.

    `behind` (H, W, 3) 0..1: what lies behind the foreground, where that is known better than by filling the background.

    Given the plate, the foreground's colour follows from the compositing equation. Where no colour can
    explain a pixel in front of the filled background, alpha is raised if it was high or the misfit is small
    at the silhouette (halos of sharpening, strands that the matte lost), else the plate keeps the pixel.
    """
    image = rgb.astype(np.float32) / 255
    alpha = np.clip(alpha, 0, 1).astype(np.float32)
    plate = fill_background(image, alpha) if behind is None else behind
    # The least alpha for which a colour in 0..1 exists.
    room = np.where(image > plate, 1 - plate, plate)
    least = np.clip((np.abs(image - plate) / np.maximum(room, 1e-3)).max(-1), 0, 1)
    margin = _margin(alpha.shape)
    near = cv2.dilate((alpha > 0.4).astype(np.float32), disc(margin))
    near = cv2.GaussianBlur(near, (0, 0), 0.5 * margin)
    small = np.clip(least - 0.02, 0, 1) * np.clip((0.4 - least) / 0.15, 0, 1) * near
    large = least * np.clip((alpha - 0.25) / 0.25, 0, 1)
    alpha = np.maximum(alpha, np.maximum(small, large))
    alpha8 = np.round(alpha * 255).astype(np.uint8)
    a = alpha8[..., None].astype(np.float32) / 255
    # Exact, but noise where alpha is nearly 0: there the colours of the inside are continued.
    exact = np.clip((image - (1 - a) * plate) / np.maximum(a, 1e-3), 0, 1)
    inside = push_pull(image, (alpha > 0.95).astype(np.float32))
    trust = a**2 / (a**2 + 0.05**2)
    foreground = np.where(a >= 1, image, trust * exact + (1 - trust) * inside)
    foreground8 = np.round(foreground * 255)
    missing = image - a * foreground8 / 255 - (1 - a) * plate
    # The plate takes over what is missing, at the silhouette only its slow part: an outline left there would
    # stay behind when the person moves.
    missing = missing * np.clip(1.2 - 2 * a, 0, 1) / np.maximum(1 - a, 0.1)
    rim = cv2.GaussianBlur(cv2.dilate((alpha8 > 1).astype(np.float32), disc(1)), (0, 0), 1.0)[..., None]
    rim = np.clip(1.5 * rim, 0, 1)
    plate = plate + (1 - rim) * missing + rim * cv2.GaussianBlur(missing, (0, 0), 2.0 * margin)
    plate8 = np.round(np.clip(plate, 0, 1) * 255).astype(np.uint8)
    return Layers(foreground8.astype(np.uint8), alpha8, plate8)


def _margin(shape: tuple[int, ...]) -> int:
    """Width in pixels of what touches the silhouette without being in the matte: lens blur, halos of
    sharpening."""
    return max(2, round(0.008 * max(shape)))


def disc(radius: int) -> Image:
    return np.asarray(cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * radius + 1,) * 2), np.uint8)


def fill_background(image: FloatArray, alpha: FloatArray) -> FloatArray:
    """The background (H, W, 3) float, continued behind the person.

    Close to the silhouette the background is mirrored at it, which keeps texture and grain; further in it
    passes into a smooth continuation. Colours are taken only from where no hair or shadow of the person can
    be.
    """
    h, w = alpha.shape
    margin = _margin(alpha.shape)
    touched = cv2.dilate((alpha > 0.02).astype(np.uint8), disc(margin))
    safe = (touched == 0).astype(np.float32)
    if not safe.any():
        return image.copy()
    smooth = cv2.GaussianBlur(push_pull(image, safe), (0, 0), 0.01 * max(h, w))
    depth, labels = cv2.distanceTransformWithLabels(
        touched, cv2.DIST_L2, cv2.DIST_MASK_PRECISE, labelType=cv2.DIST_LABEL_PIXEL
    )
    y, x = np.mgrid[0:h, 0:w].astype(np.float32)
    at = np.zeros(int(labels.max()) + 1, np.int64)
    outside = touched == 0
    at[labels[outside]] = np.flatnonzero(outside.ravel())
    nearest = at[labels]
    # Mirror point; the field is smoothed with growing depth so that it does not break along the silhouette's
    # axes.
    field = np.dstack([nearest % w - x, nearest // w - y]).astype(np.float32)
    soft = cv2.GaussianBlur(field, (0, 0), 0.01 * max(h, w))
    blend = np.clip(depth / (0.03 * max(h, w)), 0, 1)[..., None]
    field = field * (1 - blend) + soft * blend
    map_x, map_y = x + 2 * field[..., 0], y + 2 * field[..., 1]
    mirrored = cv2.remap(image, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    valid = cv2.remap(safe, map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    valid = np.clip(valid * 2 - 1, 0, 1) * np.clip(1.5 - depth / (0.06 * max(h, w)), 0, 1)
    filled = smooth + valid[..., None] * (mirrored - smooth)
    # From photo to fill within the margin, where the matte says that there is no person.
    keep = np.where(alpha > 0, 0, np.clip(1 - depth / margin, 0, 1)).astype(np.float32)
    keep = np.minimum(keep, cv2.GaussianBlur(keep, (0, 0), 1))[..., None]
    return np.asarray(filled + (image - filled) * keep, np.float32)
