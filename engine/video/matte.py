"""The person cut out of a photo: a soft matte.

1. Coarse mask: MediaPipe's selfie segmentation on the whole photo and on the head.
2. Alpha in a band around its edge by closed-form matting (`visavis.engine.video.matting`).

Images are RGB uint8 (H, W, 3), mattes float32 (H, W) 0..1.
"""

from __future__ import annotations

import functools
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import openvino as ov
from openvino import opset8
from openvino.frontend import ConversionExtension
from visavis.engine.body.detect import BodyPose, Face
from visavis.engine.body.detect_geometry import Region
from visavis.engine.body.detect_networks import WEIGHTS, Network
from visavis.engine.video.matting import LocalLinear, box_mean, data_term, push_pull, solve

FloatArray = npt.NDArray[np.floating[Any]]
Image = npt.NDArray[np.uint8]

WORKING_SIDE = 640
"""The matte is solved with the photo's longer side reduced to this, then carried up by local linear
models."""


# --- 1. coarse mask
# -------------------------------------------------------------------------------------------


def _transposed_convolution(node: Any) -> list[Any]:
    """MediaPipe's Convolution2DTransposeBias: kernel and stride 2, channels last, weights (out, h, w, in)."""
    x, weights, bias = (node.get_input(k) for k in range(3))
    y = opset8.convolution_backprop_data(
        opset8.transpose(x, [0, 3, 1, 2]),
        opset8.transpose(weights, [3, 0, 1, 2]),
        [2, 2],
        auto_pad="same_upper",
    )
    return [opset8.add(opset8.transpose(y, [0, 2, 3, 1]), bias).output(0)]


@functools.cache
def _selfie_network() -> Network:
    core = ov.Core()
    core.add_extension(ConversionExtension("Convolution2DTransposeBias", _transposed_convolution))
    return Network(core.read_model(WEIGHTS / "selfie_segmentation.tflite"))


def _segment(rgb: Image, region: Region) -> FloatArray:
    """The network's person probability in a region, laid into the whole image, 0 outside; mean with its
    mirror image's."""
    picture = region.crop(rgb, 256, cv2.BORDER_REPLICATE).astype(np.float32) / 255
    network = _selfie_network()
    mask = network(picture[None])[0][0, :, :, 0] + network(picture[None, :, ::-1])[0][0, :, ::-1, 0]
    h, w = rgb.shape[:2]
    return region.paste(mask / 2, h, w)


def coarse_mask(rgb: Image, face: Face, pose: BodyPose | None = None) -> FloatArray:
    """Probability (H, W) that a pixel belongs to the person of `face`: whole photo and head, each seen at the
    network's resolution.

    Other people and objects that do not touch the person are left out; the face itself is always in.
    """
    h, w = rgb.shape[:2]
    mask = _segment(rgb, Region(w / 2, h / 2, float(max(h, w))))
    x, y = (float(v) for v in face.landmarks[:468, :2].mean(0))
    size = face.size
    head = Region(x, y - 0.1 * size, 2.6 * size)
    if head.size < 0.9 * max(h, w):
        # Only the view's middle counts, where there is context on all sides.
        counts = np.zeros((64, 64), np.float32)
        counts[12:44, 10:54] = 1
        blend = head.paste(np.asarray(cv2.GaussianBlur(counts, (0, 0), 4), np.float32), h, w)
        mask += (_segment(rgb, head) - mask) * blend
    hull = cv2.convexHull(face.landmarks[:468, :2].astype(np.int32))
    inside = cv2.fillConvexPoly(np.zeros((h, w), np.uint8), hull, 1).astype(bool)
    if pose is not None and pose.mask is not None and pose.mask[inside].mean() > 0.5:
        if mask[inside].mean() < 0.5:
            mask = pose.mask.copy()  # the network did not see this person
        else:
            # The body's mask is coarse, but has no holes: its inside counts.
            n = max(1, round(0.06 * size))
            sure = cv2.erode((pose.mask > 0.8).astype(np.uint8), np.ones((3, 3), np.uint8), iterations=n)
            mask = np.maximum(mask, cv2.GaussianBlur(sure.astype(np.float32), (0, 0), 0.5 * n))
    mask[inside] = 1
    _, labels = cv2.connectedComponents((mask > 0.3).astype(np.uint8))
    other = (labels > 0) & (labels != labels[inside][0])
    mask[cv2.dilate(other.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)] = 0
    return _fill_holes(mask)


def _fill_holes(mask: FloatArray) -> FloatArray:
    """Holes that do not touch the image's border and are small against the person are closed."""
    _, labels, stats, _ = cv2.connectedComponentsWithStats((mask < 0.5).astype(np.uint8))
    for k in range(1, len(stats)):
        x, y, w, h, area = stats[k]
        at_border = x == 0 or y == 0 or x + w == mask.shape[1] or y + h == mask.shape[0]
        if not at_border and area < 0.01 * (mask > 0.5).sum():
            mask[labels == k] = 1
    return mask


# --- 2. alpha
# -------------------------------------------------------------------------------------------------


def person_matte(rgb: Image, face: Face, pose: BodyPose | None = None) -> FloatArray:
    """Soft alpha (H, W) 0..1 of the person of `face`, hair included."""
    h, w = rgb.shape[:2]
    mask = coarse_mask(rgb, face, pose)
    scale = min(1.0, WORKING_SIDE / max(h, w))
    size = (max(1, round(w * scale)), max(1, round(h * scale)))
    small = cv2.resize(rgb, size, interpolation=cv2.INTER_AREA).astype(np.float32) / 255
    coarse = np.asarray(cv2.resize(mask, size, interpolation=cv2.INTER_AREA), np.float32)
    landmarks = face.landmarks[:468, :2] * scale
    alpha, model = _alpha(small, coarse, landmarks)
    if scale < 1:
        # Colours of the full photo through the local linear models of the reduced one (He and Sun, "Fast
        # Guided Filter", 2015).
        lines = cv2.resize(box_mean(model.fit(alpha), model.r), (w, h), interpolation=cv2.INTER_LINEAR)
        full = rgb.astype(np.float32) / 255
        fine = np.einsum("ijk,ijk->ij", lines[..., :3], full) + lines[..., 3]
        rough = cv2.resize(alpha, (w, h), interpolation=cv2.INTER_LINEAR)
        band = (rough > 0.01) & (rough < 0.99)
        alpha = np.where(band, fine, rough).astype(np.float32)
    # The last percent on either side is noise of the solution: make it exact.
    return np.clip((alpha - 0.02) / 0.96, 0, 1).astype(np.float32)


def _alpha(image: FloatArray, mask: FloatArray, landmarks: FloatArray) -> tuple[FloatArray, LocalLinear]:
    size = float(np.ptp(landmarks, axis=0).max())
    hair = _hair_zone(mask.shape, landmarks, size)
    sure_in, sure_out = _trimap(mask, hair, landmarks, size)
    sure_out &= ~_strands(image, mask, landmarks, size, ~sure_out)
    free = ~(sure_in | sure_out)
    model = LocalLinear(image, 1, 2e-5)
    target, weight = data_term(image, mask, hair, sure_in, sure_out)
    start = np.where(sure_in, 1, np.where(sure_out, 0, target)).astype(np.float32)
    return np.clip(solve(model, start, target, weight, free), 0, 1), model


def _hair_zone(shape: tuple[int, ...], landmarks: FloatArray, size: float) -> FloatArray:
    """(H, W): 1 around the head, falling to 0 below the chin."""
    x, y = np.meshgrid(np.arange(shape[1], dtype=np.float32), np.arange(shape[0], dtype=np.float32))
    cx, cy = landmarks.mean(0)
    hair = np.clip(1.5 - np.hypot(x - cx, y - cy) / (1.2 * size), 0, 1)
    return np.asarray(hair * np.clip(1 - (y - landmarks[:, 1].max()) / (0.5 * size), 0, 1), np.float32)


def _trimap(
    mask: FloatArray, hair: FloatArray, landmarks: FloatArray, size: float
) -> tuple[npt.NDArray[np.bool_], npt.NDArray[np.bool_]]:
    """Pixels that are surely the person's, surely not: a band around the mask's edge is left open, wide where
    hair may be, narrow at clothes."""
    inner = cv2.distanceTransform((mask > 0.6).astype(np.uint8), cv2.DIST_L2, 5)
    outer = cv2.distanceTransform((mask < 0.3).astype(np.uint8), cv2.DIST_L2, 5)
    h, w = mask.shape
    wide_out, wide_in = 2 + size * (0.02 + 0.07 * hair), 2 + size * (0.015 + 0.05 * hair)
    sure_in = inner > wide_in
    hull = cv2.convexHull(landmarks.astype(np.int32))
    face = cv2.fillConvexPoly(np.zeros((h, w), np.uint8), hull, 1)
    sure_in |= cv2.erode(face, np.ones((3, 3), np.uint8), iterations=max(1, int(size * 0.03))).astype(bool)
    return sure_in, (outer > wide_out) & ~sure_in


def _strands(
    image: FloatArray,
    mask: FloatArray,
    landmarks: FloatArray,
    size: float,
    near: npt.NDArray[np.bool_],
) -> npt.NDArray[np.bool_]:
    """Pixels (H, W) outside the band `near` the mask that stand out from a calm background and hang together
    with the band: strands of hair that the network has not seen."""
    distance = cv2.distanceTransform((~near).astype(np.uint8), cv2.DIST_L2, 5)
    h, w = mask.shape
    x, y = np.meshgrid(np.arange(w, dtype=np.float32), np.arange(h, dtype=np.float32))
    cx, cy = landmarks.mean(0)
    around = (distance > 0) & (distance < 0.35 * size) & (np.hypot(x - cx, y - cy) < 2.2 * size)
    far = ((distance > 0.05 * size) & ~around).astype(np.float32)
    if far.sum() < 0.02 * far.size:
        far = (distance > 0.2 * size).astype(np.float32)
    # Mean and variance of the background, carried in from further out.
    mean, square = (cv2.GaussianBlur(push_pull(x, far), (0, 0), 0.1 * size) for x in (image, image**2))
    variance = np.maximum(square - mean**2, 0).sum(-1)
    fine = cv2.GaussianBlur(image, (0, 0), 1.0)
    stands_out = ((fine - mean) ** 2).sum(-1) > 9 * variance + 0.01
    calm = variance < 0.01
    candidates = (around & stands_out & calm) | near
    _, labels = cv2.connectedComponents(candidates.astype(np.uint8))
    keep = np.isin(labels, np.unique(labels[near])) & candidates & ~near
    return cv2.dilate(keep.astype(np.uint8), np.ones((5, 5), np.uint8)).astype(bool)
