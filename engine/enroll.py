"""From a photo to an avatar."""

from __future__ import annotations

import datetime
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from visavis.engine.avatar import PIVOTS, Avatar
from visavis.engine.body.detect import Face, PoseDetector, find_face
from visavis.engine.body.fit import Camera, fit_landmarks
from visavis.engine.body.meet import meet_landmarks
from visavis.engine.body.model import load_body
from visavis.engine.body.photo import load_photo
from visavis.engine.body.surface import build_surface
from visavis.engine.errors import PhotoError
from visavis.engine.video.interior import clear_openings, eye_layer
from visavis.engine.video.matte import person_matte, split_layers
from visavis.engine.video.mouth import mouth_layers

Bytes = npt.NDArray[np.uint8]
FACE_SHARE = 0.36
"""Height of the face in a frame (brow to chin) that the crop aims at, where the photo is large enough to choose."""
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
    rgb, alpha, found = crop_to_person(source.rgb, source.alpha, found, size)
    if alpha is not None:  # a cut-out: its transparent part gets a quiet studio background
        share = alpha[..., None].astype(np.float32) / 255
        rgb = np.round(rgb * share + BACKDROP * (1 - share)).astype(np.uint8)
    height, width = rgb.shape[:2]
    report("fitting the body", 0.2)
    camera = Camera.of(width, height)
    fit = fit_landmarks(found.landmarks, camera, blendshapes=found.blendshapes)
    head = meet_landmarks(fit, found.landmarks)
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
    layers = split_layers(rgb, matte)
    report("building the portrait", 0.9)
    surface = build_surface(fit, head, found.landmarks, layers.alpha)
    behind = [eye_layer(side, rgb, surface, head, fit, found.landmarks) for side in ("Left", "Right")]
    interior = [layer for layer in behind if layer is not None] + mouth_layers(rgb, surface, head, fit)
    body = load_body()
    pivots = np.stack([head.joints[body.bones.index(pivot)] for pivot in PIVOTS]).astype(np.float32)
    metadata = {
        "name": name,
        "photo_sha256": source.sha256,
        "created": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "consent": consent,
        "landmark_error_px": round(head.residual_px, 3),
    }
    report("done", 1.0)
    texture = clear_openings(np.dstack([layers.foreground, layers.alpha]), surface)
    return Avatar(
        np.ascontiguousarray(texture), layers.plate, surface, tuple(interior), pivots, fit, metadata
    )


def crop_to_person(
    rgb: Bytes, alpha: Bytes | None, face: Face, size: int
) -> tuple[Bytes, Bytes | None, Face]:
    """Crop so that the face is large enough and scale so that the longer side is `size`; sides are multiples of 16.

    A small face in a large photo is brought closer; the photo's own shape is kept up to 4:3 or 3:4.
    """
    height, width = rgb.shape[:2]
    marks = face.landmarks
    face_height = float(np.ptp(marks[:468, 1]))
    aspect = float(np.clip(width / height, 3 / 4, 4 / 3))
    crop_height = min(height, width / aspect, max(face_height / FACE_SHARE, 1))
    crop_height = max(crop_height, min(height, face_height * 1.5))
    crop_width = min(width, crop_height * aspect)
    longer = max(crop_width, crop_height)
    out_width, out_height = (
        max(16, round(side / longer * size / 16) * 16) for side in (crop_width, crop_height)
    )
    # one scale for both sides: the crop takes the exact shape of the frame
    scale = max(out_width / crop_width, out_height / crop_height)
    crop_width, crop_height = out_width / scale, out_height / scale
    centre_x = float(marks[:468, 0].min() + marks[:468, 0].max()) / 2
    top = float(marks[:468, 1].min()) - 0.62 * face_height  # room for hair
    x0 = float(np.clip(centre_x - crop_width / 2, 0, width - crop_width))
    y0 = float(np.clip(top, 0, height - crop_height))
    x0, y0 = round(x0), round(y0)
    matrix = np.array(
        [[scale, 0, -x0 * scale + (scale - 1) * 0.5], [0, scale, -y0 * scale + (scale - 1) * 0.5]]
    )

    def resample(image: Bytes) -> Bytes:
        if scale < 1:  # area averaging first: no aliasing when shrinking
            region = image[int(y0) : int(y0) + round(crop_height), int(x0) : int(x0) + round(crop_width)]
            return np.asarray(
                cv2.resize(region, (out_width, out_height), interpolation=cv2.INTER_AREA), np.uint8
            )
        flags, border = cv2.INTER_CUBIC, cv2.BORDER_REPLICATE
        warped = cv2.warpAffine(image, matrix, (out_width, out_height), flags=flags, borderMode=border)
        return np.asarray(warped, np.uint8)

    shift = np.array([x0, y0, 0], np.float32)
    box = replace(
        face.box, x=(face.box.x - x0) * scale, y=(face.box.y - y0) * scale, w=face.box.w * scale, h=face.box.h * scale,
        keypoints=(face.box.keypoints - shift[:2]) * np.float32(scale),
    )  # fmt: skip
    moved = replace(face, landmarks=(face.landmarks - shift) * np.float32(scale), box=box)
    return resample(rgb), None if alpha is None else resample(alpha), moved
