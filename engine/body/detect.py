"""Faces and bodies in a picture: MediaPipe's networks, run by OpenVINO.

Processing before and after the networks is that of MediaPipe's own graphs: letterboxed single-shot
detectors (BlazeFace, Bazarevsky et al. 2019), landmarks on rotated crops (Kartynnik et al., "Real-time Facial
Surface Geometry from Monocular Video on Mobile GPUs", 2019), blendshapes from a subset of the landmarks, and
BlazePose (Bazarevsky et al. 2020).

Images are RGB uint8 (H, W, 3); coordinates are pixels with centres at half-integers. "Left" is the
person's left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from visavis.engine.body import detect_networks
from visavis.engine.body.detect_geometry import (
    Candidates,
    Image,
    Region,
    anchors,
    decode,
    line_angle,
    overlaps,
    region_of_box,
    region_of_points,
    suppress,
)
from visavis.engine.body.detect_topology import BLENDSHAPE_LANDMARKS, BLENDSHAPES, MIRROR
from visavis.engine.errors import PhotoError
from visavis.engine.motion.channels import ARKIT

FloatArray = npt.NDArray[np.floating[Any]]

MIN_FACE = 96
"""Smallest side in pixels of a face that can be enrolled."""
MAX_YAW = np.radians(45)
"""Largest turn of the head in radians that can be enrolled: beyond it, half of the face is unseen."""

_TO_ARKIT = np.array([ARKIT.index(name) if name in ARKIT else -1 for name in BLENDSHAPES])

# Landmarks on the person's right; the differences to their mirror images point to the person's left.
_RIGHT = np.array([33, 133, 127, 234, 61, 58, 172, 54])

_EYE_CORNERS = (33, 263)


@dataclass(frozen=True, eq=False)
class FaceBox:
    """A detected face, in pixels: box and `keypoints` (6, 2): right eye, left eye, nose, mouth, right ear,
    left ear."""

    x: float
    y: float
    w: float
    h: float
    score: float
    keypoints: FloatArray

    @property
    def array(self) -> FloatArray:
        return np.array([self.x, self.y, self.w, self.h], np.float32)


@dataclass(frozen=True, eq=False)
class Face:
    """Landmarks of one face.

    `landmarks` (478, 3) float32: x, y in pixels, z in pixels too, relative to the head's centre, smaller =
    nearer; 468..472 are the right iris, 473..477 the left. `blendshapes` (52,) in the order of `ARKIT`
    (tongueOut is 0). `score` is the probability that the region holds a face.
    """

    landmarks: FloatArray
    score: float
    blendshapes: FloatArray
    box: FaceBox

    @property
    def yaw(self) -> float:
        """Turn of the head in radians, positive to the person's left."""
        v = _leftward(self.landmarks)
        return float(np.arctan2(v[2], np.hypot(v[0], v[1])))

    @property
    def size(self) -> float:
        """Longer side in pixels of the landmarks' bounds."""
        return float(np.ptp(self.landmarks[:468, :2], axis=0).max())


@dataclass(frozen=True, eq=False)
class BodyPose:
    """BlazePose's landmarks (33, 3) in pixels (z relative to the hips), their visibility (33,) 0..1, and the
    mask of the person (H, W) 0..1."""

    landmarks: FloatArray
    visibility: FloatArray
    score: float
    mask: FloatArray | None


def _leftward(landmarks: FloatArray) -> FloatArray:
    return np.asarray((landmarks[MIRROR[_RIGHT]] - landmarks[_RIGHT]).sum(0), np.float32)


def sigmoid(x: FloatArray | float) -> FloatArray:
    """Logistic function."""
    return np.asarray(1 / (1 + np.exp(-np.clip(x, -80, 80))), np.float32)


class SingleShot:
    """A letterboxed single-shot detector on regions of a picture; its input runs from `low` to 1."""

    def __init__(self, name: str, layers: tuple[tuple[int, int], ...], low: float = -1.0) -> None:
        self.low = low
        self.network = detect_networks.load(name)
        self.size = self.network.input_shape[1]
        self.anchors = anchors(self.size, layers)

    def __call__(self, rgb: Image, region: Region, threshold: float) -> Candidates:
        """Candidates, in pixels of `rgb`, in an upright square region; black stands for what lies outside."""
        picture = region.crop(rgb, self.size).astype(np.float32) / (255 / (1 - self.low)) + self.low
        raw, logits = self.network(picture[None])[:2]
        found = decode(raw[0], logits[0, :, 0], self.anchors, self.size, threshold)
        corner = np.array([region.x, region.y], np.float32) - region.size / 2
        boxes = found.boxes * region.size
        boxes[:, :2] += corner
        return Candidates(boxes, found.keypoints * region.size + corner, found.scores)


def whole_picture(rgb: Image, scale: float = 1.0) -> Region:
    """The upright square around a picture."""
    h, w = rgb.shape[:2]
    return Region(w / 2, h / 2, max(h, w) * scale)


def _face_boxes(found: Candidates) -> list[FaceBox]:
    return [
        FaceBox(float(b[0]), float(b[1]), float(b[2]), float(b[3]), float(score), keypoints)
        for b, keypoints, score in zip(found.boxes, found.keypoints, found.scores, strict=True)
    ]


class FaceDetector:
    """Finds faces of any size: BlazeFace short range on the whole picture and on a reduced one (close-ups
    that leave the frame), full range on the whole and on overlapping tiles of halving size (small faces in
    large pictures). Faces under about a third of the largest one's size are not sought."""

    TILE = 640
    """Tiles are halved until they are at most this large: a face of 96 px is then at least 29 px large in the
    network's input."""

    def __init__(self) -> None:
        self._near = SingleShot("face_detector", ((8, 2), (16, 6)))
        self._far = SingleShot("face_detection_full_range_sparse", ((4, 1),))

    def detect(self, rgb: Image, threshold: float = 0.5) -> list[FaceBox]:
        """Faces in `rgb` (H, W, 3), most certain first."""
        h, w = rgb.shape[:2]
        parts = [
            self._near(rgb, whole_picture(rgb), threshold),
            self._near(rgb, whole_picture(rgb, 1.8), threshold),
        ]
        side = float(max(h, w))
        while True:
            for y in _centres(h, side):
                parts += [self._far(rgb, Region(x, y, side), max(threshold, 0.6)) for x in _centres(w, side)]
            found = suppress(Candidates.join(parts), inside=0.6)
            # The next level finds faces of about a twentieth to a tenth of `side`.
            largest = float(found.boxes[:, 2:].max()) if len(found) else 0.0
            if side <= self.TILE or largest > side / 4:
                return _face_boxes(found)
            side /= 2


def _centres(length: int, side: float) -> list[float]:
    """Centres of the tiles that cover `length` with at least a third of overlap."""
    if length <= side:
        return [length / 2]
    n = int(np.ceil((length - side) / (side * 2 / 3))) + 1
    return [float(c) for c in np.linspace(side / 2, length - side / 2, n)]


class FaceTracker:
    """478 landmarks and blendshapes of one face: found anew (`detect`) or followed from the frame before
    (`track`)."""

    THRESHOLD = 0.5

    def __init__(self) -> None:
        self._network = detect_networks.load("face_landmarks_detector", (1, 256, 256, 3))
        self._blendshapes = detect_networks.load("face_blendshapes")
        self._detector = SingleShot("face_detector", ((8, 2), (16, 6)))
        self._thorough: FaceDetector | None = None

    def detect(self, rgb: Image) -> Face | None:
        """The largest face of the picture, or None. Tries the fast detector first, then `FaceDetector`."""
        boxes: list[FaceBox] | None = _face_boxes(suppress(self._detector(rgb, whole_picture(rgb), 0.5)))
        for attempt in (boxes, None):
            if attempt is None:
                self._thorough = self._thorough or FaceDetector()
                attempt = self._thorough.detect(rgb)
            for box in sorted(attempt, key=lambda b: -b.w * b.h):
                face = self.locate(rgb, box)
                if face is not None:
                    return face
        return None

    def locate(self, rgb: Image, box: FaceBox, refine: int = 1) -> Face | None:
        """Landmarks of the face in `box`; None when the network sees no face there.

        `refine` times the crop is taken again from the landmarks found, as MediaPipe does from a video's
        second frame on: landmarks are more exact than the detector's box.
        """
        angle = line_angle(box.keypoints[0], box.keypoints[1])
        found = self._landmarks(rgb, region_of_box(box.x, box.y, box.w, box.h, angle, 1.5))
        for _ in range(refine):
            if found is None:
                break
            found = self._landmarks(rgb, _region_of_face(found[0]))
        return None if found is None else self._face(*found)

    def track(self, rgb: Image, previous: Face) -> Face | None:
        """Landmarks in the next frame of a video, sought where `previous` was; None when the face is lost."""
        found = self._landmarks(rgb, _region_of_face(previous.landmarks))
        return None if found is None else self._face(*found)

    def locate_precisely(self, rgb: Image, face: Face) -> Face:
        """The mean over nine crops (shifted, scaled, turned) and their mirror images, for stills: one crop of
        the same face differs from another by about a fifth of a percent of the face's size."""
        base = _region_of_face(face.landmarks)
        landmarks, scores = [], []
        for dx, dy, scale, turn in _JITTER:
            region = Region(
                base.x + dx * base.size, base.y + dy * base.size, base.size * scale, base.angle + float(turn)
            )
            for mirror in (False, True):
                found = self._landmarks(rgb, region, mirror)
                if found is not None:
                    landmarks.append(found[0])
                    scores.append(found[1])
        if not landmarks:
            return face
        return self._face(np.mean(landmarks, axis=0, dtype=np.float32), float(np.mean(scores)))

    def _landmarks(self, rgb: Image, region: Region, mirror: bool = False) -> tuple[FloatArray, float] | None:
        if not np.isfinite(region.size) or region.size < 4:
            return None
        picture = region.crop(rgb, 256, cv2.BORDER_REPLICATE)
        if mirror:
            picture = picture[:, ::-1]
        raw, flag = self._network(picture[None].astype(np.float32) / 255)[:2]
        score = float(sigmoid(flag).ravel()[0])
        if score < self.THRESHOLD:
            return None
        points = raw.reshape(478, 3) / 256
        if mirror:
            points = points[MIRROR] * (-1, 1, 1) + (1, 0, 0)
        return region.to_image(points.astype(np.float32)), score

    def _face(self, landmarks: FloatArray, score: float) -> Face:
        raw = self._blendshapes(landmarks[None, BLENDSHAPE_LANDMARKS, :2])[0].ravel()
        values = np.zeros(len(ARKIT), np.float32)
        known = _TO_ARKIT >= 0
        values[_TO_ARKIT[known]] = np.clip(raw[known], 0, 1)
        return Face(landmarks, score, values, _box_of(landmarks, score))


_JITTER = (
    (0.0, 0.0, 1.0, 0.0),
    (0.02, 0.01, 1.04, 0.05),
    (-0.02, 0.01, 1.04, -0.05),
    (0.02, -0.02, 0.96, -0.05),
    (-0.02, -0.02, 0.96, 0.05),
    (0.0, 0.03, 1.0, 0.1),
    (0.0, 0.03, 1.0, -0.1),
    (0.03, 0.0, 1.08, 0.0),
    (-0.03, 0.0, 1.08, 0.0),
)


def _region_of_face(landmarks: FloatArray) -> Region:
    angle = line_angle(landmarks[_EYE_CORNERS[0]], landmarks[_EYE_CORNERS[1]])
    return region_of_points(landmarks[:468, :2], angle, 1.5)


def _box_of(landmarks: FloatArray, score: float) -> FaceBox:
    low, high = landmarks[:468, :2].min(0), landmarks[:468, :2].max(0)
    parts = ([33, 133], [263, 362], [1], [13, 14], [234], [454])
    keypoints = np.stack([landmarks[part, :2].mean(0) for part in parts])
    (x, y), (w, h) = low, high - low
    return FaceBox(float(x), float(y), float(w), float(h), score, keypoints.astype(np.float32))


class PoseDetector:
    """BlazePose (full): the most prominent body of a picture."""

    THRESHOLD = 0.5

    def __init__(self) -> None:
        self._detector = SingleShot("pose_detection", ((8, 2), (16, 2), (32, 6)))
        self._network = detect_networks.load("pose_landmark_full")

    def detect(self, rgb: Image) -> BodyPose | None:
        """The body's landmarks and mask, or None where no body is found."""
        found = suppress(self._detector(rgb, whole_picture(rgb), 0.5))
        for k in np.argsort(-found.scores):
            hip, crown = found.keypoints[k, 0], found.keypoints[k, 1]
            size = 2 * float(np.hypot(*(crown - hip))) * 1.25
            angle = line_angle(hip, crown) + np.pi / 2
            pose = self._pose(rgb, Region(float(hip[0]), float(hip[1]), size, angle))
            if pose is not None:
                return pose
        return None

    def _pose(self, rgb: Image, region: Region) -> BodyPose | None:
        picture = region.crop(rgb, 256, cv2.BORDER_REPLICATE).astype(np.float32) / 255
        raw, flag, mask, heatmap = self._network(picture[None])[:4]
        score = float(flag.ravel()[0])
        if score < self.THRESHOLD:
            return None
        values = raw.reshape(39, 5)
        points = values[:, :3] / 256
        points[:, :2] = _refine(points[:, :2], heatmap[0])
        h, w = rgb.shape[:2]
        return BodyPose(
            region.to_image(points[:33]),
            sigmoid(values[:33, 3]),
            score,
            region.paste(sigmoid(mask[0, :, :, 0]), h, w),
        )


def _refine(points: FloatArray, heatmap: FloatArray, kernel: int = 7, confidence: float = 0.5) -> FloatArray:
    """Landmarks (N, 2) 0..1, moved to the centre of mass of their heatmaps (h, w, N) nearby where those are
    confident."""
    h, w, _ = heatmap.shape
    out = points.copy()
    for k, (x, y) in enumerate(points):
        col, row = int(x * w), int(y * h)
        if not (0 <= col < w and 0 <= row < h):
            continue
        r0, r1 = max(0, row - kernel // 2), min(h, row + kernel // 2 + 1)
        c0, c1 = max(0, col - kernel // 2), min(w, col + kernel // 2 + 1)
        p = sigmoid(heatmap[r0:r1, c0:c1, k])
        if p.max() >= confidence:
            rows, cols = np.mgrid[r0:r1, c0:c1]
            out[k] = (cols * p).sum() / p.sum() / w, (rows * p).sum() / p.sum() / h
    return out


def find_faces(rgb: Image) -> list[Face]:
    """All faces of a picture from left to right, without duplicates and what the landmark network rejects."""
    tracker = FaceTracker()
    faces: list[Face] = []
    for box in sorted(FaceDetector().detect(rgb), key=lambda b: -b.score):
        face = tracker.locate(rgb, box)
        if face is None:
            continue
        if faces:
            boxes = np.stack([f.box.array for f in faces])
            if overlaps(face.box.array, boxes)[1].max() > 0.5:
                continue
        faces.append(face)
    return sorted(faces, key=lambda f: f.box.x + f.box.w / 2)


def find_face(rgb: Image, index: int | None = None) -> Face:
    """The face to enrol: the only one, or number `index` counted from the left, from 1.

    Raises PhotoError with code no_face, several_faces, face_too_small (under 96 px) or profile (turned beyond
    45 degrees). Without `index`, faces much smaller than the largest (a crowd behind, a picture on the wall)
    do not count.
    """
    faces = find_faces(rgb)
    h, w = rgb.shape[:2]
    if not faces:
        raise PhotoError(
            f"no face found in this picture of {w}x{h} pixels: use one in which the face is visible and lit",
            "no_face",
        )
    if index is not None:
        if not 1 <= index <= len(faces):
            count = "1 face" if len(faces) == 1 else f"{len(faces)} faces"
            raise PhotoError(f"face {index} was asked for, but the picture holds {count}", "no_face")
        face = faces[index - 1]
    else:
        largest = max(f.size for f in faces)
        prominent = [f for f in faces if f.size >= 0.4 * largest]
        if len(prominent) > 1:
            places = ", ".join(
                f"{k} at ({f.box.x + f.box.w / 2:.0f}, {f.box.y + f.box.h / 2:.0f})"
                for k, f in enumerate(faces, 1)
                if f.size >= 0.4 * largest
            )
            raise PhotoError(
                f"the picture holds {len(prominent)} faces: choose one with --face N,"
                f" numbered left to right ({places})",
                "several_faces",
            )
        face = prominent[0]
    if face.size < MIN_FACE:
        raise PhotoError(
            f"the face is {face.size:.0f} pixels large; at least {MIN_FACE} are needed:"
            " use a larger photo or a closer crop",
            "face_too_small",
        )
    face = FaceTracker().locate_precisely(rgb, face)
    if abs(face.yaw) > MAX_YAW:
        raise PhotoError(
            f"the face is turned by {np.degrees(abs(face.yaw)):.0f} degrees; at most"
            f" {np.degrees(MAX_YAW):.0f} work: use a photo in which the person faces the camera",
            "profile",
        )
    return face
