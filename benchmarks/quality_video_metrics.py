"""How near a picture is to another, and how sharp, steady and like the person: the figures of `bench quality --stage video`.

Pictures are RGB uint8 (H, W, 3), regions are float32 masks (H, W) in 0..1.
"""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from visavis.engine.body.fit import FACE_OVAL, LIDS, LIPS_OUTER

Bytes = npt.NDArray[np.uint8]
Mask = npt.NDArray[np.float32]
FloatArray = npt.NDArray[np.floating[Any]]
LIP_MARGIN = 0.04
"""The lip region is the outer lip contour widened by this share of the face's height."""
DLIB_POINTS = (263, 362, 33, 133, 2)
"""MediaPipe's landmarks for dlib's five: outer and inner corner of the left eye, of the right eye, base of the nose."""


@dataclass(frozen=True)
class Regions:
    """Where to look in one frame, from landmarks (478, 2) in pixels."""

    lips: Mask
    eyes: Mask
    face: Mask
    box: tuple[int, int, int, int]

    @classmethod
    def of(cls, landmarks: FloatArray, shape: tuple[int, int]) -> Regions:
        """Lips and eyes widened, the face's oval, and the box (x0, y0, x1, y1) around the face."""
        marks = landmarks[:, :2].astype(np.float32)
        height = float(np.ptp(marks[:468, 1]))

        def region(points: tuple[int, ...], margin: float) -> Mask:
            mask = np.zeros(shape, np.uint8)
            cv2.fillPoly(
                mask, [np.round(cv2.convexHull(marks[list(points)]) * 8).astype(np.int32)], 255, shift=3
            )
            reach = round(margin * height)
            if reach > 0:
                disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * reach + 1,) * 2)
                mask = np.asarray(cv2.dilate(mask, disc), np.uint8)
            return mask.astype(np.float32) / np.float32(255)

        eyes = np.maximum(*(region(LIDS[side][0] + LIDS[side][1], 0.03) for side in ("Left", "Right")))
        lips, face = region(LIPS_OUTER, LIP_MARGIN), region(FACE_OVAL, 0.02)
        low, high = marks[:468].min(0) - 0.06 * height, marks[:468].max(0) + 0.06 * height
        x0, y0 = np.maximum(low, 0).astype(int)
        x1, y1 = np.minimum(high, [shape[1], shape[0]]).astype(int)
        return cls(lips, eyes, face, (int(x0), int(y0), int(x1), int(y1)))


def mean_absolute_error(a: Bytes, b: Bytes, mask: Mask) -> float:
    """Mean absolute difference over the mask, in 0..1."""
    difference = np.abs(a.astype(np.float32) - b).mean(-1) / 255
    return float((difference * mask).sum() / max(float(mask.sum()), 1e-6))


def psnr(a: Bytes, b: Bytes, mask: Mask) -> float:
    """Peak signal to noise ratio over the mask in dB."""
    square = ((a.astype(np.float32) - b) ** 2).mean(-1)
    error = float((square * mask).sum() / max(float(mask.sum()), 1e-6))
    return float(10 * np.log10(255.0**2 / max(error, 1e-2)))


def ssim(a: Bytes, b: Bytes, mask: Mask) -> float:
    """Structural similarity of luma over the mask (Wang et al., 2004: Gaussian window of 1.5 pixels)."""
    x, y = (cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32) for image in (a, b))

    def blur(image: FloatArray) -> FloatArray:
        return np.asarray(cv2.GaussianBlur(image, (11, 11), 1.5))

    mx, my = blur(x), blur(y)
    vx, vy, cov = blur(x * x) - mx * mx, blur(y * y) - my * my, blur(x * y) - mx * my
    c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
    index = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return float((index * mask).sum() / max(float(mask.sum()), 1e-6))


def cpbd(image: Bytes) -> float:
    """Sharpness 0..1: share of edges too narrow to be seen as blurred (Narvekar and Karam, 2011)."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    height, width = grey.shape
    # vertical edges, thinned along the row
    gradient = cv2.Sobel(grey, cv2.CV_32F, 1, 0, ksize=3)
    strength = np.abs(gradient)
    threshold = max(2.0 * float(np.sqrt((strength**2).mean())), 8.0)
    peak = strength > threshold
    peak[:, 1:-1] &= (strength[:, 1:-1] >= strength[:, :-2]) & (strength[:, 1:-1] > strength[:, 2:])
    peak[:, [0, -1]] = False
    rows, columns = np.nonzero(peak)
    if not len(rows):
        return 0.0
    sign = np.sign(gradient[rows, columns])
    # walk to the extrema on both sides of each edge
    span = np.zeros(len(rows))
    for direction in (-1, 1):
        at, going = columns.copy(), np.ones(len(rows), bool)
        for _ in range(16):
            following = np.clip(at + direction, 0, width - 1)
            rise = (grey[rows, following] - grey[rows, at]) * sign * direction
            going &= (rise > 0) & (following != at)
            at = np.where(going, following, at)
            span += going
            if not going.any():
                break
    side = 64
    block = (rows // side) * (width // side + 1) + columns // side
    pixels = np.arange(height)[:, None] // side * (width // side + 1) + np.arange(width)[None] // side
    count = int(pixels.max()) + 1
    high, low = np.zeros(count), np.full(count, 255.0)
    np.maximum.at(high, pixels.ravel(), grey.ravel())
    np.minimum.at(low, pixels.ravel(), grey.ravel())
    noticeable = np.where(high - low <= 50, 5.0, 3.0)[block]
    edges = np.bincount(block, minlength=count) > 0.002 * side * side
    kept = edges[block]
    if not kept.any():
        return 0.0
    blur = 1 - np.exp(-((span / noticeable) ** 3.6))
    return float((blur[kept] <= 0.63).mean())


def detail(image: Bytes, mask: Mask) -> float:
    """Energy of the finest details over the mask: mean absolute difference to a slight blur."""
    grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY).astype(np.float32)
    fine = np.abs(grey - cv2.GaussianBlur(grey, (0, 0), 1.2))
    return float((fine * mask).sum() / max(float(mask.sum()), 1e-6))


def flicker(before: Bytes, now: Bytes, after: Bytes, mask: Mask) -> float:
    """What changes and changes back within three frames: mean absolute second difference over the mask, in 0..1."""
    bend = now.astype(np.float32) - 0.5 * (before.astype(np.float32) + after)
    return float((np.abs(bend).mean(-1) * mask).sum() / max(float(mask.sum()), 1e-6) / 255)


class Identity:
    """Face descriptors of dlib's ResNet (128 numbers; below 0.6 apart = the same person)."""

    def __init__(self) -> None:
        """ImportError when `dlib-bin` or `face-recognition-models` is missing (extra `bench`)."""
        import dlib

        spec = importlib.util.find_spec("face_recognition_models")
        if spec is None or spec.origin is None:
            raise ImportError("face-recognition-models is not installed")
        self._dlib = dlib
        file = Path(spec.origin).parent / "models" / "dlib_face_recognition_resnet_model_v1.dat"
        self._net = dlib.face_recognition_model_v1(str(file))

    def describe(self, image: Bytes, landmarks: FloatArray) -> FloatArray:
        """Descriptor (128,) of the face with landmarks (478, 2)."""
        dlib = self._dlib
        marks = landmarks[:, :2]
        box = [round(float(v)) for v in (*marks[:468].min(0), *marks[:468].max(0))]
        points = [dlib.point(round(float(x)), round(float(y))) for x, y in marks[list(DLIB_POINTS)]]
        shape = dlib.full_object_detection(dlib.rectangle(*box), points)
        return np.array(self._net.compute_face_descriptor(np.ascontiguousarray(image), shape))


class FeatureDistance:
    """Distance in the features of the tiny autoencoder `taef2`'s encoder; needs torch (extra `train`)."""

    def __init__(self, weights: Path) -> None:
        """ImportError without torch, FileNotFoundError without the weights."""
        import torch
        from visavis.engine.training.video_losses import Features

        if not weights.is_file():
            raise FileNotFoundError(weights)
        self._torch = torch
        self._net = Features(weights)

    def maps(self, image: Bytes) -> list[Any]:
        """Features of a picture at full, half and quarter size."""
        torch = self._torch
        with torch.no_grad():
            x = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
            return list(self._net(x))

    def distance(self, made: list[Any], real: list[Any], mask: Mask) -> float:
        """Mean absolute difference over the mask, each stage over the real one's own mean size."""
        torch = self._torch
        m = torch.from_numpy(mask)[None, None]
        total = 0.0
        for a, b in zip(made, real, strict=True):
            share = torch.nn.functional.interpolate(m, size=a.shape[-2:], mode="area")
            spread = float(b.abs().mean()) + 1e-3
            total += (
                float(((a - b).abs().mean(1, keepdim=True) * share).sum() / share.sum().clamp(min=1e-6))
                / spread
            )
        return total / len(made)

    def summary(self, maps: list[Any]) -> FloatArray:
        """Mean and spread of the coarsest features over the picture (128,): for the Frechet distance of sets of frames."""
        last = maps[-1][0].flatten(1)
        return np.concatenate([last.mean(1).numpy(), last.std(1).numpy()])


def frechet(a: FloatArray, b: FloatArray) -> float:
    """Frechet distance of two sets of features (N, D), (M, D) as Gaussians (Heusel et al., 2017), with shrunk covariances."""
    mean = a.mean(0) - b.mean(0)

    def covariance(x: FloatArray) -> FloatArray:
        own = np.cov(x.T)
        share = min(1.0, x.shape[1] / max(len(x), 1) * 0.1)
        return np.asarray((1 - share) * own + share * np.eye(len(own)) * np.trace(own) / len(own))

    ca, cb = covariance(a), covariance(b)
    values, vectors = np.linalg.eigh(ca)
    root = (vectors * np.sqrt(np.maximum(values, 0))) @ vectors.T
    middle = np.linalg.eigvalsh(root @ cb @ root)
    return float(mean @ mean + np.trace(ca) + np.trace(cb) - 2 * np.sqrt(np.maximum(middle, 0)).sum())
