"""Arms and hands: found where a picture shows them, fitted to a known pose, moved by their own channels and by nothing else.

`assets/raised_hands.jpg` is a drawing of the body model (`visavis.engine.training.draw_person`, seed 103, CC0) whose pose is known.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from pictures import astronaut
from visavis.engine.avatar import Avatar
from visavis.engine.body.arms import fit_arm, hand_points
from visavis.engine.body.detect import find_face
from visavis.engine.body.detect_hands import Hand, find_hands
from visavis.engine.body.fit import Camera, fit_landmarks
from visavis.engine.body.framing import frame_of_person
from visavis.engine.body.model import load_body, rotation_matrix
from visavis.engine.body.photo import load_photo
from visavis.engine.body.rig import (
    FINGERS,
    SIDES,
    arm_bones,
    arm_parents,
    chain_transforms,
    finger_axes,
    parent_of,
)
from visavis.engine.enroll import enroll
from visavis.engine.motion.channels import INDEX, zero_motion
from visavis.engine.video.figure import MAX_ARM
from visavis.engine.video.renderer import Renderer

PHOTO = Path(__file__).parent / "assets" / "raised_hands.jpg"


@pytest.fixture(scope="module")
def picture() -> np.ndarray:
    return load_photo(PHOTO).rgb


@pytest.fixture(scope="module")
def truth() -> dict[str, np.ndarray]:
    with np.load(PHOTO.with_suffix(".npz")) as data:
        return dict(data)


@pytest.fixture(scope="module")
def seen(picture):
    face = find_face(picture)
    hands, pose = find_hands(picture, face)
    return face, {hand.side: hand for hand in hands}, pose


@pytest.fixture(scope="module")
def person() -> Avatar:
    return enroll(PHOTO)


@pytest.fixture(scope="module")
def renderer(person) -> Renderer:
    return Renderer(person)


@pytest.fixture(scope="module")
def still(renderer) -> np.ndarray:
    return renderer.render(zero_motion())


def turned(bone: str, vector: np.ndarray) -> np.ndarray:
    motion = zero_motion()
    motion[INDEX[f"{bone}.x"] :][:3] = vector
    return motion


def region(person: Avatar, side: str, bones: range) -> np.ndarray:
    """Pixels (H, W) of an arm's layers that follow these bones of `arm_bones`, with a margin."""
    mask = np.zeros((person.height, person.width), np.uint8)
    camera = person.fit.camera
    for limb in person.limbs:
        if limb.side == side:
            own = limb.weights[:, [b + 1 for b in bones]].sum(1) > 0.05
            x = limb.vertices[own, 0] / -limb.vertices[own, 2] * camera.focal + camera.cx
            y = limb.vertices[own, 1] / limb.vertices[own, 2] * camera.focal + camera.cy
            inside = (x > 0) & (y > 0) & (x < person.width) & (y < person.height)
            mask[y[inside].astype(int), x[inside].astype(int)] = 1
    return cv2.dilate(mask, np.ones((61, 61), np.uint8)) > 0


def test_rest_pose_and_rigid_fingers():
    body = load_body()
    for side in SIDES:
        names = arm_bones(side)
        joints = body.joints[[body.bones.index(b) for b in names]].astype(np.float64)
        root = np.eye(3, 4)
        assert all(parent_of(n) in (*names, "spine") for n in names)
        still_ = chain_transforms(joints, arm_parents(side), rotation_matrix(np.zeros((19, 3))), root)
        assert np.abs(still_ - root).max() < 1e-12
        turns = np.zeros((19, 3))
        turns[3] = (0.3, -0.2, 0.5)
        moved = chain_transforms(joints, arm_parents(side), rotation_matrix(turns), root)
        assert np.abs(moved[:3] - root).max() < 1e-12 and np.abs(moved[3:] - moved[3]).max() < 1e-12
        assert np.allclose(moved[3, :, :3] @ joints[3] + moved[3, :, 3], joints[3])


def test_positive_bends_curl_towards_the_palm():
    """In both hands a bend brings the fingertips nearer to the wrist, and the hands mirror each other."""
    body = load_body()
    for side in SIDES:
        names = arm_bones(side)
        joints = body.joints[[body.bones.index(b) for b in names]].astype(np.float64)
        span = []
        for amount in (-0.3, 0.0, 0.6):
            turns = np.zeros((19, 3))
            for f, finger in enumerate(FINGERS):
                for k in (1, 2, 3):
                    turns[3 + 3 * f + k] = amount * finger_axes(side)[f"{finger}{k}{side}"][0]
            posed = chain_transforms(joints, arm_parents(side), rotation_matrix(turns), np.eye(3, 4))
            points = hand_points(side, np.zeros(60), posed)
            span.append(np.linalg.norm(points[[8, 12, 16, 20]] - points[0], axis=1))
        assert (span[2] < span[1] - 0.005).all() and (span[0] > span[1] - 0.005).all()
    left, right = finger_axes("Left")["index2Left"], finger_axes("Right")["index2Right"]
    assert np.abs(left[0] * (1, -1, -1) - right[0]).max() < 0.02


def test_hands_are_found_where_they_are(seen, truth):
    _, hands, _ = seen
    assert set(hands) == {"Left", "Right"}
    for side, hand in hands.items():
        away = np.linalg.norm(hand.landmarks[:, :2] - truth[f"landmarks{side}"], axis=1)
        assert away.mean() < 0.2 * hand.size and hand.score > 0.8


def test_sides_swap_in_the_mirror(picture, seen):
    mirrored = np.ascontiguousarray(picture[:, ::-1])
    hands, _ = find_hands(mirrored, find_face(mirrored))
    for hand in hands:
        other = seen[1]["Right" if hand.side == "Left" else "Left"]
        x = picture.shape[1] - hand.landmarks[:, 0].mean()
        assert abs(x - other.landmarks[:, 0].mean()) < 0.3 * other.size
    assert len(hands) == 2


def test_no_hands_where_none_are(avatar):
    assert find_hands(astronaut(), find_face(astronaut()))[0] == []
    assert avatar.limbs == () and avatar.metadata["hands"] == {}
    renderer = Renderer(avatar)
    still = renderer.render(zero_motion())
    waved = renderer.render(turned("wristLeft", np.array([0.3, 0, 0])))
    assert (still == waved).all()


def test_the_fit_finds_the_pose(picture, seen, truth):
    face, hands, pose = seen
    fit = fit_landmarks(
        face.landmarks, Camera.of(picture.shape[1], picture.shape[0]), blendshapes=face.blendshapes
    )
    for side, hand in hands.items():
        arm = fit_arm(fit, hand, pose, float(np.ptp(face.landmarks[:468, 1])))
        assert arm.error_px < 0.08 * hand.size
        real, found = truth[f"transforms{side}"][:, :, :3], arm.transforms[:, :, :3]
        found = found / np.cbrt(np.linalg.det(found))[:, None, None]
        cosine = (np.einsum("jab,jab->j", real, found) - 1) / 2
        angle = np.degrees(np.arccos(np.clip(cosine, -1, 1)))
        # upper arm, forearm, wrist; then the fingers' mean
        assert (angle[1:4] < 30).all() and angle[4:].mean() < 40
        # at rest the error is far larger: the fit has found something
        rest = np.degrees(np.arccos(np.clip((np.einsum("jab,ab->j", real, np.eye(3)) - 1) / 2, -1, 1)))
        assert angle[2] < 0.4 * rest[2]


def test_the_frame_holds_the_hands(picture, seen):
    face, hands, _ = seen
    low, tall = picture.shape[1], picture.shape[0]
    frame = frame_of_person((low, tall), face, 512, list(hands.values()))
    assert all(frame.holds(frame.hand(hand)) for hand in hands.values())
    assert frame.width % 16 == frame.height % 16 == 0 and max(frame.width, frame.height) == 512
    small = replace(face, landmarks=face.landmarks * 0.4 + [0.3 * low, 0.1 * tall, 0])
    alone = frame_of_person((low, tall), small, 512)
    assert alone.scale > frame_of_person((low, tall), small, 512, list(hands.values())).scale


def test_zero_motion_gives_back_the_photo(picture, person, still):
    face = find_face(picture)
    frame = frame_of_person((picture.shape[1], picture.shape[0]), face, 512, find_hands(picture, face)[0])
    error = ((still.astype(float) - frame.image(picture)) ** 2).mean()
    assert 10 * np.log10(255**2 / error) > 38
    assert {limb.side for limb in person.limbs} == {"Left", "Right"}


@pytest.mark.parametrize("side", SIDES)
def test_each_joint_moves_its_own_part(person, renderer, still, side):
    names = arm_bones(side)
    other = "Right" if side == "Left" else "Left"
    fore = next(limb for limb in reversed(person.limbs) if limb.side == side and limb.weights[:, 4].sum() > 1)
    shown = (
        fore.weights[:, 8:].reshape(-1, 4, 3).sum((0, 2))
    )  # of the four fingers the one of which most is seen
    finger = f"{FINGERS[1 + int(shown.argmax())]}1{side}"
    for bone, vector in (
        (f"forearm{side}", np.array([0, 0.05, 0.02])),
        (f"wrist{side}", 0.2 * finger_axes(side)[f"wrist{side}"][0]),
        (finger, 0.4 * finger_axes(side)[finger][0]),
    ):
        frame = renderer.render(turned(bone, vector))
        change = np.abs(frame.astype(int) - still).max(2)
        first = names.index(bone)
        own = region(person, side, range(first, 19) if bone != finger else range(first, first + 3))
        assert change[own].mean() > 0.2
        assert change[~own].max() <= 2
        assert change[region(person, other, range(4, 19)) & ~own].mean() < 0.3


def test_limits(renderer):
    axis = finger_axes("Left")["wristLeft"][0]
    most = renderer.render(turned("wristLeft", axis * MAX_ARM["wrist"]))
    beyond = renderer.render(turned("wristLeft", axis * 40))
    assert np.abs(most.astype(int) - beyond).max() <= 1


def test_no_tears_in_a_hand(person):
    """Hands of one opaque colour stay in one piece when fingers, wrist and forearm move."""
    green = tuple(
        replace(
            limb,
            texture=np.where(limb.texture[..., 3:] > 8, (0, 255, 0, 255), (0, 0, 0, 0)).astype(np.uint8),
        )
        for limb in person.limbs
    )
    plate = np.full_like(person.plate, 255) * np.array([1, 0, 1], np.uint8)
    bare = Renderer(
        replace(person, limbs=green, plate=plate, texture=np.zeros_like(person.texture), layers=())
    )

    def holes(motion):
        """Pixels of small holes in what is drawn."""
        frame = bare.render(motion)
        hole = (frame[..., 0] > 60).astype(np.uint8)
        _, _, stats, _ = cv2.connectedComponentsWithStats(hole, connectivity=4)
        return sum(int(area) for *_, area in stats[1:] if area < 40)

    before = holes(zero_motion())
    for bone, axis, angle in (
        ("forearmLeft", (0, 1, 0), 0.2),
        ("wristRight", (0, 1, 0), 0.25),
        ("wristLeft", (1, 0, 0), -0.25),
    ):
        assert holes(turned(bone, np.array(axis) * angle)) <= before + 40
    curl = zero_motion()
    for finger in FINGERS[1:]:
        for k in (1, 2, 3):
            curl[INDEX[f"{finger}{k}Left.x"] :][:3] = 0.15 * finger_axes("Left")[f"{finger}{k}Left"][0]
    assert holes(curl) <= before + 40


@pytest.mark.parametrize(
    ("bone", "vector"), [("upperArmRight", (-0.3, 0, 0)), ("upperArmLeft", (0, -0.3, 0))]
)
def test_an_arm_that_the_border_cuts_shows_no_end_when_it_rises(person, renderer, bone, vector):
    body = load_body()
    arm = [body.part_id("arms"), body.part_id("hands")]

    def at_the_bottom(motion: np.ndarray) -> int:
        renderer.render(motion)
        return int(np.isin(renderer.target.part[-2], arm).sum())

    still = at_the_bottom(zero_motion())
    assert still > 50
    assert at_the_bottom(turned(bone, np.array(vector))) > 0.9 * still


def test_saved_hands_come_back(person, renderer, still, tmp_path):
    person.save(tmp_path / "a.avatar")
    again = Avatar.load(tmp_path / "a.avatar")
    assert [limb.side for limb in again.limbs] == [limb.side for limb in person.limbs]
    motion = turned("forearmLeft", np.array([0, 0.2, 0]))
    assert np.abs(Renderer(again).render(motion).astype(int) - renderer.render(motion)).max() <= 1
    assert again.metadata["hands"].keys() == {"Left", "Right"}


def test_a_hand_moves_with_its_crop():
    hand = Hand(
        "Left",
        np.arange(63, dtype=np.float32).reshape(21, 3),
        1.0,
        np.ones((3, 2), np.float32),
        np.ones(3, np.float32),
    )
    moved = hand.moved(2.0, (1.0, 2.0))
    assert np.allclose(moved.landmarks[:, :2], (hand.landmarks[:, :2] - (1, 2)) * 2)
    assert np.allclose(moved.landmarks[:, 2], hand.landmarks[:, 2] * 2) and moved.size == pytest.approx(
        2 * hand.size
    )
