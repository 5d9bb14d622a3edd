"""Hands of one person in a picture: MediaPipe's palm detector and hand landmarks, run by OpenVINO.

Processing is that of MediaPipe's own graphs (Zhang et al., "MediaPipe Hands: On-device Real-time Hand Tracking", 2020): a single-shot palm
detector, landmarks on a crop turned so that the hand points up, the crop taken again from the landmarks. Palms are sought in the whole
picture and around the wrists of the body pose; a hand counts only where the pose has a wrist, which also says whose and which hand it is.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from visavis.engine.body import detect_networks
from visavis.engine.body.detect import BodyPose, Face, PoseDetector, SingleShot, whole_picture
from visavis.engine.body.detect_geometry import (
    Candidates,
    Image,
    Region,
    line_angle,
    region_of_points,
    suppress,
)

FloatArray = npt.NDArray[np.floating[Any]]

SIDES = ("Left", "Right")
WRIST, MIDDLE_MCP = 0, 9
_POSE = {"Left": (11, 13, 15, 17, 19), "Right": (12, 14, 16, 18, 20)}  # shoulder, elbow, wrist, pinky, index
_STEADY = (0, 1, 2, 3, 5, 6, 9, 10, 13, 14, 17, 18)  # landmarks that the crop is taken from: no fingertips
_JITTER = ((0.0, 0.0, 1.0, 0.0), (0.03, 0.02, 1.06, 0.1), (-0.03, 0.02, 1.06, -0.1), (0.0, -0.03, 0.94, 0.0))


@dataclass(frozen=True, eq=False)
class Hand:
    """One hand: `side` is the person's; `landmarks` (21, 3) pixels, z relative to the wrist in pixels, smaller = nearer; `score` 0..1
    that it is a hand; `arm` (3, 2) pixels: shoulder, elbow and wrist of the body pose, `arm_seen` (3,) their visibility 0..1."""

    side: str
    landmarks: FloatArray
    score: float
    arm: FloatArray
    arm_seen: FloatArray

    @property
    def size(self) -> float:
        """Wrist to knuckle of the middle finger in pixels, in space (the landmarks' own depth counts)."""
        return float(np.linalg.norm(self.landmarks[MIDDLE_MCP] - self.landmarks[WRIST]))

    def moved(self, scale: float, shift: npt.ArrayLike) -> Hand:
        """The same hand in a picture cropped and scaled: pixel' = (pixel - shift) * scale."""
        offset = np.asarray(shift, np.float32)
        flat = (self.landmarks - np.append(offset, 0)) * scale
        return replace(
            self, landmarks=flat.astype(np.float32), arm=((self.arm - offset) * scale).astype(np.float32)
        )


class HandDetector:
    """Finds the hands of the person whose face and pose are known."""

    THRESHOLD = 0.6

    def __init__(self) -> None:
        self._palm = SingleShot("palm_detection_full", ((8, 2), (16, 6)), low=0.0)
        self._network = detect_networks.load("hand_landmark_lite")

    def detect(self, rgb: Image, face: Face, pose: BodyPose | None) -> list[Hand]:
        """The person's hands that are seen, at most one a side; empty when the pose is not that of `face`."""
        if pose is None or not _same_person(face, pose):
            return []
        h, w = rgb.shape[:2]
        parts = [self._palm(rgb, whole_picture(rgb), 0.4)]
        for side in SIDES:
            x, y, size = _around_wrist(pose, side, face.size)
            if -0.2 * size < x < w + 0.2 * size and -0.2 * size < y < h + 0.2 * size:
                parts.append(self._palm(rgb, Region(x, y, size), 0.4))
        hands = []
        for region in _palm_regions(suppress(Candidates.join(parts))):
            hand = self._hand(rgb, region, face, pose)
            if hand is not None:
                hands.append(hand)
        best: dict[str, Hand] = {}
        for hand in sorted(hands, key=lambda found: found.score):
            best[hand.side] = hand
        return [best[side] for side in SIDES if side in best]

    def _hand(self, rgb: Image, region: Region, face: Face, pose: BodyPose) -> Hand | None:
        for _ in range(2):
            found = self._landmarks(rgb, region)
            if found is None:
                return None
            region = _region_of_hand(found[0])
        # several crops and their mirror images, as for the face
        crops = [
            self._landmarks(rgb, Region(region.x + dx * region.size, region.y + dy * region.size, region.size * scale, region.angle + turn), mirror)
            for dx, dy, scale, turn in _JITTER for mirror in (False, True)
        ]  # fmt: skip
        seen = [c for c in crops if c is not None]
        if len(seen) < len(crops) / 2:
            return None
        landmarks = np.stack([points for points, _ in seen]).mean(0).astype(np.float32)
        score = float(np.mean([s for _, s in seen]))
        h, w = rgb.shape[:2]
        inside = ((landmarks[:, :2] > -2) & (landmarks[:, :2] < [w + 2, h + 2])).all(1)
        size = float(np.linalg.norm(landmarks[MIDDLE_MCP] - landmarks[WRIST]))
        if inside.mean() < 0.75 or not 0.2 * face.size < size < 1.6 * face.size:
            return None  # mostly outside the picture, or of another person's scale
        wrists = {s: pose.landmarks[list(_POSE[s][2:])] for s in SIDES}
        away = {
            s: min(float(np.linalg.norm(p[0, :2] - landmarks[WRIST, :2])),
                   float(np.linalg.norm(p[1:, :2].mean(0) - landmarks[[5, 17], :2].mean(0))))
            for s, p in wrists.items()
        }  # fmt: skip
        side = min(away, key=away.__getitem__)
        if away[side] > 0.9 * size:
            return None
        joints = list(_POSE[side][:3])
        return Hand(side, landmarks, score, pose.landmarks[joints, :2].astype(np.float32), pose.visibility[joints].astype(np.float32))  # fmt: skip

    def _landmarks(self, rgb: Image, region: Region, mirror: bool = False) -> tuple[FloatArray, float] | None:
        if not np.isfinite(region.size) or region.size < 8:
            return None
        picture = region.crop(rgb, 224, cv2.BORDER_REPLICATE)
        if mirror:
            picture = picture[:, ::-1]
        raw, flag = self._network(picture[None].astype(np.float32) / 255)[:2]
        score = float(flag.ravel()[0])
        if score < self.THRESHOLD:
            return None
        points = raw.reshape(21, 3) / 224
        if mirror:
            points = points * (-1, 1, 1) + (1, 0, 0)
        return region.to_image(points.astype(np.float32)), score


def _same_person(face: Face, pose: BodyPose) -> bool:
    nose = pose.landmarks[0, :2]
    middle = face.landmarks[:468, :2].mean(0)
    return bool(np.linalg.norm(nose - middle) < 0.6 * face.size)


def _around_wrist(pose: BodyPose, side: str, face_size: float) -> tuple[float, float, float]:
    """Centre and side of a square that holds the hand at a pose's wrist."""
    _, _, wrist, pinky, index = _POSE[side]
    centre = (pose.landmarks[wrist, :2] + pose.landmarks[[pinky, index], :2].sum(0)) / 3
    return float(centre[0]), float(centre[1]), 2.6 * face_size


def _palm_regions(found: Candidates) -> list[Region]:
    """Crops for the landmark network from palms, most certain first, as MediaPipe's graph takes them."""
    regions = []
    for k in np.argsort(-found.scores):
        x, y, w, h = (float(v) for v in found.boxes[k])
        angle = line_angle(found.keypoints[k, 0], found.keypoints[k, 2]) + np.pi / 2
        side = max(w, h)
        regions.append(_shifted(Region(x + w / 2, y + h / 2, 2.6 * side, angle), -0.5 * side))
    return regions


def _region_of_hand(landmarks: FloatArray) -> Region:
    """The crop of the next look, from the landmarks of the last."""
    knuckles = (landmarks[5, :2] + landmarks[13, :2]) / 2
    angle = line_angle(landmarks[0], (knuckles + landmarks[9, :2]) / 2) + np.pi / 2
    c, s = np.cos(-angle), np.sin(-angle)
    turn = np.array([[c, -s], [s, c]], np.float32)
    upright = landmarks[list(_STEADY), :2] @ turn.T
    region = region_of_points(upright, 0.0, 2.0)
    x, y = np.array([region.x, region.y]) @ turn
    return _shifted(Region(float(x), float(y), region.size, float(angle)), -0.1 * region.size / 2)


def _shifted(region: Region, along: float) -> Region:
    """`region` moved by `along` pixels in its own downward direction."""
    return Region(
        region.x - along * float(np.sin(region.angle)), region.y + along * float(np.cos(region.angle)), region.size, region.angle
    )  # fmt: skip


def find_hands(rgb: Image, face: Face) -> tuple[list[Hand], BodyPose | None]:
    """The hands that are seen of the person of `face`, and that person's body pose, in the pixels of `rgb` (H, W, 3)."""
    h, w = rgb.shape[:2]
    x, y = (float(v) for v in face.landmarks[:468, :2].mean(0))
    # the pose network takes the most prominent person: show it this one
    left, right = max(0, int(x - 4 * face.size)), min(w, int(x + 4 * face.size))
    top, bottom = max(0, int(y - 2.5 * face.size)), min(h, int(y + 6 * face.size))
    pose = PoseDetector().detect(np.ascontiguousarray(rgb[top:bottom, left:right]))
    if pose is None:
        return [], None
    pose = replace(pose, landmarks=pose.landmarks + np.array([left, top, 0], np.float32), mask=None)
    return HandDetector().detect(rgb, face, pose), pose
