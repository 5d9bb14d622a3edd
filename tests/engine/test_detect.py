"""Faces, landmarks and bodies on the demo photo, against figures of MediaPipe's own run of the same
networks."""

from __future__ import annotations

import hashlib

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import astronaut, bust, canvas
from visavis.engine.body import detect
from visavis.engine.body.detect import (
    BLENDSHAPES,
    Face,
    FaceDetector,
    FaceTracker,
    PoseDetector,
    find_face,
    find_faces,
)
from visavis.engine.body.detect_geometry import Candidates, Region, anchors, decode, suppress
from visavis.engine.body.detect_topology import BLENDSHAPE_LANDMARKS, MIRROR
from visavis.engine.errors import PhotoError
from visavis.engine.motion.channels import ARKIT
from visavis.engine.training.fetch_mediapipe import SOURCES, WEIGHTS

# Measured with mediapipe 0.10.21 (FaceLandmarker, Pose) on this photo: landmark -> x, y, z in pixels.
REFERENCE = {
    1: (223.5, 131.1, -22.9),
    10: (226.0, 72.2, -11.9),
    33: (195.3, 100.6, 4.2),
    61: (202.3, 139.2, 7.6),
    152: (221.4, 177.4, 9.6),
    234: (180.9, 109.9, 41.1),
    263: (255.3, 103.8, 3.5),
    291: (244.5, 140.6, 7.1),
    454: (269.8, 114.4, 39.8),
    468: (203.5, 101.1, 0.1),
    473: (246.0, 103.5, -0.1),
}


@pytest.fixture(scope="module")
def tracker() -> FaceTracker:
    return FaceTracker()


@pytest.fixture(scope="module")
def face(tracker: FaceTracker) -> Face:
    found = tracker.detect(astronaut())
    assert found is not None
    return found


def coefficient(face: Face, name: str) -> float:
    return float(face.blendshapes[ARKIT.index(name)])


def test_landmarks_are_those_of_mediapipe(face: Face) -> None:
    assert face.landmarks.shape == (478, 3) and face.landmarks.dtype == np.float32
    error = np.abs(face.landmarks[list(REFERENCE)] - list(REFERENCE.values()))
    assert error[:, :2].mean() < 0.8 and error[:, :2].max() < 2.5
    assert error[:, 2].max() < 4
    assert face.score > 0.9
    assert 100 < face.size < 130
    assert abs(np.degrees(face.yaw)) < 5


def test_blendshapes_see_the_smile(face: Face) -> None:
    assert face.blendshapes.shape == (52,)
    assert min(coefficient(face, f"mouthSmile{side}") for side in ("Left", "Right")) > 0.5
    assert coefficient(face, "jawOpen") < 0.2 and coefficient(face, "mouthPucker") < 0.1
    assert coefficient(face, "tongueOut") == 0
    assert face.blendshapes.min() >= 0 and face.blendshapes.max() <= 1


def test_names_and_orders_are_complete() -> None:
    assert len(BLENDSHAPES) == 52 and set(ARKIT) - set(BLENDSHAPES) == {"tongueOut"}
    assert len(set(BLENDSHAPE_LANDMARKS.tolist())) == 146
    assert (MIRROR[MIRROR] == np.arange(478)).all() and MIRROR[33] == 263


@pytest.mark.parametrize(("scale", "dx", "dy"), [(1, 37, 21), (2, 0, 0), (3.3, 50, 10), (0.7, 5, 5)])
def test_landmarks_follow_the_picture(
    tracker: FaceTracker, face: Face, scale: float, dx: int, dy: int
) -> None:
    picture = cv2.resize(astronaut(), None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    h, w = picture.shape[:2]
    found = tracker.detect(canvas(h + dy, w + dx, (picture, dx, dy)))
    assert found is not None
    error = (found.landmarks[:, :2] - (dx, dy)) / scale - face.landmarks[:, :2]
    assert np.abs(error).mean() < 1 and np.abs(error).max() < 5


def test_mirror_image_mirrors_everything(tracker: FaceTracker, face: Face) -> None:
    found = tracker.detect(np.ascontiguousarray(astronaut()[:, ::-1]))
    assert found is not None
    back = found.landmarks[MIRROR, :2] * (-1, 1) + (512, 0)
    assert np.abs(back - face.landmarks[:, :2]).mean() < 1
    for name in ("browOuterUp", "mouthSmile", "eyeLookOut"):
        assert coefficient(found, f"{name}Left") == pytest.approx(coefficient(face, f"{name}Right"), abs=0.16)


def test_tracking_follows_and_gives_up(tracker: FaceTracker, face: Face) -> None:
    moved = np.roll(astronaut(), (4, 7), (0, 1))
    found = tracker.track(moved, face)
    assert found is not None
    assert np.abs(found.landmarks[:, :2] - (7, 4) - face.landmarks[:, :2]).mean() < 0.7
    assert tracker.track(np.zeros_like(moved), face) is None


def test_precise_landmarks_agree_between_sizes() -> None:
    small, large = (find_face(bust(size)) for size in (256, 1024))
    assert np.abs(small.landmarks[:, :2] * 4 - large.landmarks[:, :2]).mean() < 3  # 0.6 % of the face
    assert np.abs(small.blendshapes - large.blendshapes).max() < 0.15


def test_yaw_is_positive_to_the_left(face: Face) -> None:
    for degrees in (-60, -20, 20, 50):
        turned = turn(face, degrees)
        assert np.degrees(turned.yaw) == pytest.approx(degrees, abs=5)


def turn(face: Face, degrees: float) -> Face:
    """The face turned to the person's left about the vertical axis (z grows away from the camera)."""
    angle = np.radians(degrees)
    c, s = np.cos(angle), np.sin(angle)
    centre = face.landmarks.mean(0)
    turned = (face.landmarks - centre) @ np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) + centre
    return Face(turned.astype(np.float32), face.score, face.blendshapes, face.box)


# --- which face
# ---------------------------------------------------------------------------------------------------


def test_two_faces_must_be_chosen_from() -> None:
    left, right = bust(260), np.ascontiguousarray(bust(300)[:, ::-1])
    picture = canvas(320, 640, (left, 10, 20), (right, 320, 10))
    with pytest.raises(PhotoError, match="--face N") as caught:
        find_face(picture)
    assert caught.value.code == "several_faces"
    first, second = find_face(picture, 1), find_face(picture, 2)
    assert first.landmarks[:, 0].max() < 300 < second.landmarks[:, 0].min()
    for index in (0, 3, -1):
        with pytest.raises(PhotoError, match="holds 2 faces"):
            find_face(picture, index)


def test_group_picture() -> None:
    picture = np.vstack([np.hstack([bust(200)] * 4)] * 3)
    faces = find_faces(picture)
    assert len(faces) == 12
    centres = [f.box.x + f.box.w / 2 for f in faces]
    assert centres == sorted(centres)


def test_small_faces_in_the_background_do_not_count() -> None:
    picture = canvas(700, 900, (bust(600), 20, 50), (bust(120), 720, 80))
    face = find_face(picture)
    assert face.box.x + face.box.w / 2 < 600


def test_face_in_a_large_picture() -> None:
    picture = canvas(2400, 3200, (bust(240), 2500, 1700))
    face = find_face(picture)
    assert 96 < face.size < 160
    assert 2500 < face.landmarks[:, 0].mean() < 2740


def test_close_up() -> None:
    y, x = slice(65, 165), slice(180, 270)
    picture = cv2.resize(astronaut()[y, x], None, fx=8, fy=8, interpolation=cv2.INTER_CUBIC)
    assert find_face(picture).size > 600


@pytest.mark.parametrize(
    ("picture", "code"),
    [
        (np.zeros((300, 300, 3), np.uint8), "no_face"),
        (np.random.default_rng(1).integers(0, 255, (400, 500, 3), dtype=np.uint8), "no_face"),
        (np.zeros((1, 30_000, 3), np.uint8), "no_face"),
        (np.zeros((1, 1, 3), np.uint8), "no_face"),
        (cv2.resize(astronaut(), (256, 256), interpolation=cv2.INTER_AREA), "face_too_small"),
    ],
)
def test_refusals(picture: np.ndarray, code: str) -> None:
    with pytest.raises(PhotoError) as caught:
        find_face(picture)
    assert caught.value.code == code


def test_profile_is_refused(face: Face, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect, "find_faces", lambda rgb: [turn(face, 55)])
    monkeypatch.setattr(FaceTracker, "locate_precisely", lambda self, rgb, found: found)
    with pytest.raises(PhotoError, match=r"turned by 5\d degrees") as caught:
        find_face(astronaut())
    assert caught.value.code == "profile"
    monkeypatch.setattr(detect, "find_faces", lambda rgb: [turn(face, 35)])
    assert find_face(astronaut()).yaw > 0.5


# --- body
# ---------------------------------------------------------------------------------------------------------


def test_body(face: Face) -> None:
    pose = PoseDetector().detect(astronaut())
    assert pose is not None and pose.mask is not None
    assert pose.landmarks.shape == (33, 3) and pose.visibility.shape == (33,)
    nose, left, right = pose.landmarks[[0, 11, 12], :2]
    assert np.hypot(*(nose - face.landmarks[1, :2])) < 20
    assert left[0] > nose[0] > right[0] and min(left[1], right[1]) > face.landmarks[152, 1]
    assert pose.visibility[[0, 11, 12]].min() > 0.8
    assert pose.mask.shape == (512, 512)
    assert pose.mask[300, 200] > 0.9 and pose.mask[100, 450] < 0.1
    assert PoseDetector().detect(np.zeros((200, 300, 3), np.uint8)) is None


# --- geometry
# -----------------------------------------------------------------------------------------------------


@settings(max_examples=40, deadline=None)
@given(
    x=st.floats(80, 220),
    y=st.floats(80, 220),
    size=st.floats(60, 900),
    angle=st.floats(-3.1, 3.1),
    u=st.floats(0.3, 0.7),
    v=st.floats(0.3, 0.7),
)
def test_crop_and_back(x: float, y: float, size: float, angle: float, u: float, v: float) -> None:
    """A blob drawn at a point of the region is found at that point of the crop."""
    region = Region(x, y, size, angle)
    px, py = region.to_image(np.array([[u, v]], np.float32))[0]
    ys, xs = np.mgrid[0:300, 0:300] + 0.5
    sigma = max(2.0, size / 64)
    blob = np.exp(-((xs - px) ** 2 + (ys - py) ** 2) / (2 * sigma**2)) * 255
    if not (3 * sigma < px < 300 - 3 * sigma and 3 * sigma < py < 300 - 3 * sigma):
        return
    crop = region.crop(np.repeat(blob[..., None], 3, 2).round().astype(np.uint8), 128)[..., 0].astype(float)
    rows, columns = np.mgrid[0:128, 0:128] + 0.5
    found = np.array([(columns * crop).sum(), (rows * crop).sum()]) / crop.sum() / 128
    assert np.abs(found - (u, v)).max() < 0.01


def test_large_pictures_are_averaged_not_skipped() -> None:
    stripes = np.zeros((2000, 2000, 3), np.uint8)
    stripes[:, ::2] = 200
    crop = Region(1000, 1000, 1900).crop(stripes, 64)
    assert abs(crop[8:-8, 8:-8].mean() - 100) < 2 and crop[8:-8, 8:-8].std() < 6


def test_anchors_and_decoding() -> None:
    centres = anchors(128, ((8, 2), (16, 6)))
    assert (
        centres.shape == (896, 2) and np.allclose(centres[0], 0.5 / 16) and np.allclose(centres[-1], 7.5 / 8)
    )
    raw = np.zeros((896, 16), np.float32)
    raw[5] = [12.8, 0, 25.6, 12.8, *([6.4, -6.4] * 6)]
    logits = np.full(896, -1e9, np.float32)
    logits[5] = 3
    found = decode(raw, logits, centres, 128, 0.5)
    assert len(found) == 1
    x, y = centres[5]
    assert np.allclose(found.boxes[0], [x + 0.1 - 0.1, y - 0.05, 0.2, 0.1], atol=1e-6)
    assert np.allclose(found.keypoints[0], [[x + 0.05, y - 0.05]] * 6, atol=1e-6)


def test_suppression_blends_groups() -> None:
    boxes = np.array([[0, 0, 10, 10], [2, 0, 10, 10], [50, 50, 10, 10], [52, 52, 3, 3]], np.float32)
    scores = np.array([0.9, 0.3, 0.8, 0.7], np.float32)
    found = suppress(Candidates(boxes, np.zeros((4, 6, 2), np.float32), scores), inside=0.6)
    assert len(found) == 2
    assert np.allclose(found.boxes[0], [0.5, 0, 10, 10]) and np.allclose(found.boxes[1], boxes[2])
    none = Candidates(np.zeros((0, 4), np.float32), np.zeros((0, 6, 2), np.float32), np.zeros(0, np.float32))
    assert len(suppress(none)) == 0


def test_detector_gives_keypoints() -> None:
    box = max(FaceDetector().detect(astronaut()), key=lambda b: b.score)
    right_eye, left_eye, nose, mouth = box.keypoints[:4]
    assert right_eye[0] < nose[0] < left_eye[0] and right_eye[1] < nose[1] < mouth[1]
    assert box.x < nose[0] < box.x + box.w and box.y < nose[1] < box.y + box.h


def test_networks_are_the_published_files() -> None:
    for name, (_, _, _, digest) in SOURCES.items():
        assert hashlib.sha256((WEIGHTS / name).read_bytes()).hexdigest() == digest, name
    assert {path.name for path in WEIGHTS.glob("*.tflite")} == set(SOURCES)
