"""From a photo to an avatar."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from pathlib import Path

import numpy as np
from visavis.engine.avatar import PIVOTS, Avatar
from visavis.engine.body.arms import ArmFit, fit_arm
from visavis.engine.body.detect import Face, PoseDetector, find_face
from visavis.engine.body.detect_hands import Hand, find_hands
from visavis.engine.body.fit import Camera, fit_landmarks
from visavis.engine.body.framing import Bytes, frame_of_person
from visavis.engine.body.lid_room import folded_away
from visavis.engine.body.margins import smooth_margins
from visavis.engine.body.meet import meet_landmarks
from visavis.engine.body.model import load_body
from visavis.engine.body.photo import load_photo
from visavis.engine.body.surface import build_surface
from visavis.engine.errors import PhotoError
from visavis.engine.video.interior import clear_openings, eye_layer
from visavis.engine.video.layers import split_layers
from visavis.engine.video.lid_skin import lid_layer
from visavis.engine.video.limb_layers import part_limbs
from visavis.engine.video.lip_line import contact_layer, contact_line, dark_rim
from visavis.engine.video.matte import person_matte
from visavis.engine.video.mouth import mouth_layers
from visavis.engine.video.tones import Tones, face_of

SIZES = (256, 1024)
BACKDROP = np.array([226, 228, 230], np.float32)


def enroll(
    photo: Path | str | bytes,
    *,
    face: int | None = None,
    size: int = 512,
    consent: str = "",
    name: str = "",
    progress: Callable[[str, float], None] | None = None,
) -> Avatar:
    """Make an avatar of one person.

    photo: a picture file or its bytes; face: which face, counted from the left from 1, when there are several; size: the longer side of
    the frames in pixels (256 to 1024, a multiple of 16); consent: a statement that the person agrees, kept in the avatar;
    progress: called with (what is being done, share done 0..1).
    Raises PhotoError with one clear message when the photo cannot be used.
    """
    if not SIZES[0] <= size <= SIZES[1] or size % 16:
        raise PhotoError(f"size {size} is not usable: a multiple of 16 from {SIZES[0]} to {SIZES[1]}", "size")
    report = progress or (lambda what, share: None)
    report("reading the photo", 0.0)
    source = load_photo(photo)
    report("finding the face", 0.08)
    found = find_face(source.rgb, face)
    hands, body_pose = find_hands(source.rgb, found)
    frame = frame_of_person((source.rgb.shape[1], source.rgb.shape[0]), found, size, hands)
    rgb, found = frame.image(source.rgb), frame.face(found)
    alpha = None if source.alpha is None else frame.image(source.alpha)
    if alpha is not None:  # a cut-out: its transparent part gets a quiet studio background
        share = alpha[..., None].astype(np.float32) / 255
        rgb = np.round(rgb * share + BACKDROP * (1 - share)).astype(np.uint8)
    height, width = rgb.shape[:2]
    report("fitting the body", 0.2)
    camera = Camera.of(width, height)
    fit = fit_landmarks(found.landmarks, camera, blendshapes=found.blendshapes)
    head = meet_landmarks(fit, found.landmarks)
    arms: list[tuple[Hand, ArmFit]] = []
    for hand in map(frame.hand, hands):
        if body_pose is not None and frame.holds(hand):
            arms.append(
                (hand, fit_arm(fit, hand, frame.pose(body_pose), float(np.ptp(found.landmarks[:468, 1]))))
            )
    report("cutting out the person", 0.35)
    matte = (
        person_matte(rgb, found, PoseDetector().detect(rgb))
        if alpha is None
        else alpha.astype(np.float32) / 255
    )
    report("filling the background", 0.7)
    matte = np.clip(
        (matte - 0.03) / 0.94, 0, 1
    )  # a breath of alpha far from the person would drag ghosts along
    parted = part_limbs(rgb, split_layers(rgb, matte), fit, head, arms)
    layers = parted.layers
    report("building the portrait", 0.9)
    strip = folded_away(rgb, found.landmarks)
    surface = smooth_margins(build_surface(fit, head, found.landmarks, layers.alpha, strip=strip), camera)
    behind = [eye_layer(side, rgb, surface, head, fit, found.landmarks) for side in ("Left", "Right")]
    rim = dark_rim(rgb, surface)
    mouth = mouth_layers(rgb, surface, head, fit, rim)
    tones = Tones.of(face_of(rgb, surface))
    if tones is not None:
        mouth = [tones.layer(layer) for layer in mouth]
    interior = [layer for layer in behind if layer is not None] + mouth
    contact = contact_line(rgb, surface)
    if contact is not None:
        interior.append(contact_layer(rgb, surface, fit, contact))
    if strip is not None:
        lids = [lid_layer(side, rgb, surface, fit, strip) for side in ("Left", "Right")]
        interior += [lid for lid in lids if lid is not None]
    body = load_body()
    pivots = np.stack([head.joints[body.bones.index(pivot)] for pivot in PIVOTS]).astype(np.float32)
    metadata = {
        "name": name,
        "photo_sha256": source.sha256,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "consent": consent,
        "landmark_error_px": round(head.residual_px, 3),
        "hands": {arm.side: {"landmark_error_px": round(arm.error_px, 2)} for _, arm in arms},
    }
    report("done", 1.0)
    texture = clear_openings(np.dstack([layers.foreground, layers.alpha]), surface)
    if any(layer.name == "photoTeeth" for layer in interior):  # which shows it at rest
        texture[..., 3] = np.round(texture[..., 3] * (1 - rim))
    if contact is not None:
        texture[..., 3] = np.round(texture[..., 3] * (1 - contact.cover))
    return Avatar(
        np.ascontiguousarray(texture),
        layers.plate,
        surface,
        tuple(interior),
        pivots,
        fit,
        metadata,
        parted.limbs,
    )


def crop_to_person(
    rgb: Bytes, alpha: Bytes | None, face: Face, size: int
) -> tuple[Bytes, Bytes | None, Face]:
    """Picture, alpha and face as `enroll` frames a person whose hands are not seen."""
    frame = frame_of_person((rgb.shape[1], rgb.shape[0]), face, size)
    return frame.image(rgb), None if alpha is None else frame.image(alpha), frame.face(face)
