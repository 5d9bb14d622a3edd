"""Geometry around MediaPipe's networks: rotated regions of interest, crops, anchors, non-maximum suppression.

Follows the published graphs of MediaPipe (Apache-2.0; Lugaresi et al., "MediaPipe: A Framework for Building
Perception Pipelines", 2019; Bazarevsky et al., "BlazeFace", 2019, for anchors and blended suppression). One
deliberate difference: crops put pixel centres at half-integers, so that landmarks carry no bias of half a
pixel of the network's input.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.floating[Any]]
Image = npt.NDArray[np.uint8]


@dataclass(frozen=True)
class Region:
    """A rotated square in the image: centre and side in pixels, `angle` in radians (clockwise on screen)."""

    x: float
    y: float
    size: float
    angle: float = 0.0

    def matrix(self, n: int) -> npt.NDArray[np.float64]:
        """(2, 3) map from crop coordinates (0..n, pixel centres at half-integers) to image coordinates."""
        scale = self.size / n
        c, s = np.cos(self.angle) * scale, np.sin(self.angle) * scale
        half = n / 2
        return np.array([[c, -s, self.x - c * half + s * half], [s, c, self.y - s * half - c * half]])

    def crop(self, rgb: Image, n: int, border: int = cv2.BORDER_CONSTANT) -> Image:
        """The region as an upright (n, n, 3) picture. Strong reductions are averaged, not skipped over."""
        k = max(1, int(np.ceil(self.size / n / 2)))
        if k > 4:
            # Much too large a picture: reduce the part that is seen, then crop from that.
            f = k // 2
            reach = int(self.size * 0.75) + f
            x0, y0 = max(0, int(self.x) - reach), max(0, int(self.y) - reach)
            part = rgb[y0 : max(y0, int(self.y) + reach), x0 : max(x0, int(self.x) + reach)]
            h, w = (max(1, round(length / f)) for length in part.shape[:2])
            if part.size:
                small = np.asarray(cv2.resize(part, (w, h), interpolation=cv2.INTER_AREA), np.uint8)
                fx, fy = part.shape[1] / w, part.shape[0] / h
                return self._warp(small, n, 2, border, np.array([[1 / fx], [1 / fy]]), (x0, y0))
        return self._warp(rgb, n, k, border, np.ones((2, 1)), (0, 0))

    def _warp(
        self, rgb: Image, n: int, k: int, border: int, scale: npt.NDArray[np.float64], corner: tuple[int, int]
    ) -> Image:
        m = self.matrix(n * k)
        m[:, 2] -= corner
        m *= scale
        # To integer indices at pixel centres, as cv2 counts: index = coordinate - 0.5 on both sides.
        m[:, 2] += m[:, :2] @ (0.5, 0.5) - 0.5
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        picture = cv2.warpAffine(rgb, m, (n * k, n * k), flags=flags, borderMode=border)
        if k > 1:
            picture = cv2.resize(picture, (n, n), interpolation=cv2.INTER_AREA)
        return np.asarray(picture, np.uint8)

    def to_image(self, points: FloatArray) -> FloatArray:
        """Points (N, 2 or 3) in units of the region's side (0..1) to image pixels; z is scaled with x."""
        m = self.matrix(1)
        out = points.astype(np.float32, copy=True)
        out[:, :2] = points[:, :2] @ m[:, :2].T + m[:, 2]
        if points.shape[1] > 2:
            out[:, 2] = points[:, 2] * self.size
        return out

    def paste(self, plane: FloatArray, height: int, width: int) -> FloatArray:
        """A float plane (n, n) that covers the region, laid back into an image of the given size, 0
        elsewhere."""
        n = plane.shape[0]
        m = self.matrix(n)
        m[:, 2] += m[:, :2] @ (0.5, 0.5) - 0.5
        out = cv2.warpAffine(
            plane, m, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_CONSTANT
        )
        return np.asarray(out, np.float32)


def line_angle(start: FloatArray, end: FloatArray) -> float:
    """Angle in radians of the line from `start` to `end`, clockwise on screen, 0 = to the right."""
    return float(np.arctan2(end[1] - start[1], end[0] - start[0]))


def region_of_box(x: float, y: float, w: float, h: float, angle: float, expand: float) -> Region:
    """Square region around the centre of a box, `expand` times its longer side."""
    return Region(x + w / 2, y + h / 2, max(w, h) * expand, angle)


def region_of_points(points: FloatArray, angle: float, expand: float) -> Region:
    """Square region around the axis-aligned bounds of points (N, 2), as MediaPipe tracks from landmarks."""
    low, high = points.min(0), points.max(0)
    return region_of_box(low[0], low[1], high[0] - low[0], high[1] - low[1], angle, expand)


def anchors(size: int, layers: tuple[tuple[int, int], ...]) -> FloatArray:
    """Anchor centres (N, 2), 0..1, of a single-shot detector: `layers` lists (stride, anchors a cell)."""
    grids = []
    for stride, count in layers:
        n = -(-size // stride)
        y, x = np.mgrid[0:n, 0:n]
        centres = (np.stack([x, y], -1).reshape(-1, 2) + 0.5) / n
        grids.append(np.repeat(centres, count, 0))
    return np.concatenate(grids).astype(np.float32)


@dataclass(frozen=True)
class Candidates:
    """Detections before suppression: `boxes` (N, 4) x, y, w, h; `keypoints` (N, K, 2); `scores` (N,)."""

    boxes: FloatArray
    keypoints: FloatArray
    scores: FloatArray

    def __len__(self) -> int:
        return len(self.scores)

    @staticmethod
    def join(parts: list[Candidates]) -> Candidates:
        return Candidates(
            np.concatenate([p.boxes for p in parts]),
            np.concatenate([p.keypoints for p in parts]),
            np.concatenate([p.scores for p in parts]),
        )


def decode(
    raw: FloatArray, logits: FloatArray, centres: FloatArray, size: int, threshold: float
) -> Candidates:
    """Regressors (N, 4 + 2K) and logits (N,) of a detector with unit anchors to candidates in 0..1 units of
    its input."""
    scores = 1 / (1 + np.exp(-np.clip(logits, -80, 80)))
    keep = np.flatnonzero(scores >= threshold)
    values = raw[keep] / size
    centre, wh = values[:, :2] + centres[keep], values[:, 2:4]
    keypoints = values[:, 4:].reshape(len(keep), (raw.shape[1] - 4) // 2, 2) + centres[keep, None]
    boxes = np.concatenate([centre - wh / 2, wh], 1)
    f32 = np.float32
    return Candidates(boxes.astype(f32), keypoints.astype(f32), scores[keep].astype(f32))


def overlaps(box: FloatArray, boxes: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Intersection over union, and intersection over the smaller area, of one box with boxes (N, 4)."""
    low = np.maximum(box[:2], boxes[:, :2])
    high = np.minimum(box[:2] + box[2:], boxes[:, :2] + boxes[:, 2:])
    inter = np.clip(high - low, 0, None).prod(1)
    area, areas = box[2:].prod(), boxes[:, 2:].prod(1)
    tiny = 1e-9
    return inter / (area + areas - inter + tiny), inter / (np.minimum(area, areas) + tiny)


def suppress(found: Candidates, iou: float = 0.3, inside: float = 1.1) -> Candidates:
    """BlazeFace's blended suppression: each group of overlapping candidates becomes their score-weighted
    mean.

    Candidates that overlap a stronger one by more than `inside` of the smaller area are dropped without
    voting: parts of a face cut by the border of a tile, for one.
    """
    order = list(np.argsort(-found.scores))
    boxes, keypoints, scores = [], [], []
    while order:
        best = order[0]
        union, smaller = overlaps(found.boxes[best], found.boxes[order])
        group = [k for k, o in zip(order, union, strict=True) if o > iou] or [best]
        gone = {k for k, o, s in zip(order, union, smaller, strict=True) if o > iou or s > inside} | {best}
        weight = found.scores[group] / found.scores[group].sum()
        boxes.append((found.boxes[group] * weight[:, None]).sum(0))
        keypoints.append((found.keypoints[group] * weight[:, None, None]).sum(0))
        scores.append(found.scores[best])
        order = [k for k in order if k not in gone]
    if not boxes:
        return found
    return Candidates(
        np.array(boxes, np.float32), np.array(keypoints, np.float32), np.array(scores, np.float32)
    )
