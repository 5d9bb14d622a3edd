"""What stays the same of one person in a clip: shape, and how the landmarks of this face differ from the model's at rest.

A morphable model never meets a face exactly. In a single picture the difference is spread over pose, shape and expression; in a clip most of it
stays the same and belongs to the person: how these lips close, how far these eyes are open. `learn_person` measures it at rest (lips
together, eyes open) as an offset a landmark, so that rest is expression 0 and what remains is movement.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from visavis.engine.body.fit import (
    FLIP,
    IRIS,
    LIDS,
    LIPS_LOWER_INNER,
    LIPS_UPPER_INNER,
    Camera,
    Fit,
    Float64,
    fit_landmarks,
    initial_pose,
    landmark_model,
)
from visavis.engine.body.model import load_body, rotation_matrix
from visavis.engine.motion.channels import ARKIT

LIP_PAIRS = ((13, 14), (82, 87), (312, 317), (81, 178), (311, 402))
CORNERS = (61, 291)
BLINK = {side: ARKIT.index(f"eyeBlink{side}") for side in ("Left", "Right")}
LOOK = {
    side: [ARKIT.index(f"eyeLook{way}{side}") for way in ("Down", "Up", "Out", "In")]
    for side in ("Left", "Right")
}


@dataclass(frozen=True)
class Person:
    """What stays the same of one person: `shape` (60,), `offset` (478, 3) of the landmarks in model axes and metres, `blink` (2,) how much further
    than the model's the left and right upper lid travels, `rest` (52,) the landmark network's coefficients at rest, `gaze` (4,) of the irises
    when the eyes rest."""

    shape: Float64
    offset: Float64
    blink: Float64
    rest: Float64
    gaze: Float64


def aperture(landmarks: npt.NDArray[np.floating]) -> Float64:
    """Gap between the lips (T,) of landmarks (T, 478, 2 or 3), in distances between the outer eye corners."""
    p = np.asarray(landmarks, np.float64)[..., :2]
    gap = np.mean([np.linalg.norm(p[:, a] - p[:, b], axis=1) for a, b in LIP_PAIRS[:3]], axis=0)
    return gap / np.linalg.norm(p[:, 33] - p[:, 263], axis=1)


def mouth_width(landmarks: npt.NDArray[np.floating]) -> Float64:
    """Distance of the mouth's corners (T,) in the same unit."""
    p = np.asarray(landmarks, np.float64)[..., :2]
    return np.linalg.norm(p[:, CORNERS[0]] - p[:, CORNERS[1]], axis=1) / np.linalg.norm(
        p[:, 33] - p[:, 263], axis=1
    )


def eye_openness(landmarks: npt.NDArray[np.floating]) -> Float64:
    """Gap between the lids over the eye's width (T, 2): left, right."""
    p = np.asarray(landmarks, np.float64)[..., :2]
    out = []
    for side in ("Left", "Right"):
        upper, lower = (np.array(chain[2:-2]) for chain in LIDS[side])
        gap = np.linalg.norm(p[:, upper] - p[:, lower], axis=2).mean(1)
        out.append(gap / np.linalg.norm(p[:, LIDS[side][0][0]] - p[:, LIDS[side][0][-1]], axis=1))
    return np.stack(out, 1)


def rest_frames(landmarks: npt.NDArray[np.floating], most: int = 24) -> npt.NDArray[np.int64]:
    """Frames in which the lips are as closed as they get and the eyes open, spread over the clip(s)."""
    gap, eyes = aperture(landmarks), eye_openness(landmarks).mean(1)
    closed = gap <= np.percentile(gap, 15)
    open_eyes = eyes >= 0.9 * np.percentile(eyes, 60)
    good = np.flatnonzero(closed & open_eyes)
    if len(good) < 3:
        good = np.argsort(gap + 0.3 * np.maximum(0, np.percentile(eyes, 60) - eyes))[:3]
    return np.unique(good[np.linspace(0, len(good) - 1, min(most, len(good))).astype(int)])


def learn_person(
    landmarks: npt.NDArray[np.floating], blendshapes: npt.NDArray[np.floating], camera: Camera
) -> Person:
    """The person from landmarks (T, 478, 3) and coefficients (T, 52) of one clip or of several laid end to end."""
    model = landmark_model()
    rest = rest_frames(landmarks)
    few = rest[np.linspace(0, len(rest) - 1, min(5, len(rest))).astype(int)]
    fits = [fit_landmarks(landmarks[k], camera, blendshapes=blendshapes[k]) for k in few]
    shape = np.median([fit.shape for fit in fits], axis=0)
    held = np.median([fit.expression for fit in fits], axis=0)
    neutral = model.mean + np.tensordot(shape, model.shape, 1)
    posed = neutral + np.tensordot(held, model.units, 1)
    offsets, gazes = [], []
    for k in rest:
        start = Fit(shape, held, *initial_pose(landmarks[k], camera, posed), camera, 0.0)
        one = fit_landmarks(
            landmarks[k], camera, blendshapes=blendshapes[k], start=start, fix_shape=True, iterations=4
        )
        offsets.append(_local_residual(landmarks[k], one, neutral))
        gazes.append(gaze_of(landmarks[k, :, :2], one.rotation, one.translation, shape, camera))
    offset = np.median(offsets, axis=0)
    _shut_lips(offset, np.asarray(landmarks, np.float64), rest)
    met = neutral + offset
    blink = []
    for side in ("Left", "Right"):
        upper, lower = (np.array(chain[2:-2]) for chain in LIDS[side])
        unit = model.units[BLINK[side]]
        travel = (unit[lower, 1] - unit[upper, 1]).mean()
        blink.append(float(np.clip((met[upper, 1] - met[lower, 1]).mean() / max(travel, 1e-4), 0.3, 2.0)))
    return Person(
        shape, offset, np.array(blink), np.median(np.asarray(blendshapes)[rest], 0), np.median(gazes, 0)
    )


def _shut_lips(offset: Float64, landmarks: Float64, rest: npt.NDArray[np.int64]) -> None:
    """Take from the offsets what the inner lips are apart at rest beyond the clip's closed moments, half from each lip: coefficients cannot
    close lips further than rest, so rest must be closed."""
    p = landmarks[..., :2]
    unit = np.linalg.norm(landmark_model().mean[33] - landmark_model().mean[263])
    scale = unit / np.linalg.norm(p[:, 33] - p[:, 263], axis=1)
    for upper, lower in zip(LIPS_UPPER_INNER[1:-1], LIPS_LOWER_INNER[1:-1], strict=True):
        gap = (p[:, lower, 1] - p[:, upper, 1]) * scale
        spare = max(0.0, float(np.median(gap[rest]) - np.percentile(gap, 3)))
        offset[upper, 1] -= spare / 2
        offset[lower, 1] += spare / 2


def _local_residual(landmarks: npt.NDArray[np.floating], fit: Fit, neutral: Float64) -> Float64:
    """How far the landmarks lie from the neutral model, parallel to the picture, in model axes (478, 3)."""
    points = fit.to_camera(neutral)
    away = np.zeros_like(points)
    away[:, :2] = (landmarks[:, :2] - fit.camera.project(points)) * points[:, 2:] / fit.camera.focal
    return away @ (FLIP @ rotation_matrix(fit.rotation))


def landmarks_of(person: Person, expression: Float64) -> Float64:
    """The landmarks (T, 478, 3) of the person's head, held still, in model axes and metres, at `expression` (T, 52) about rest."""
    model = landmark_model()
    units = model.units.copy()
    for side, scale in zip(("Left", "Right"), person.blink, strict=True):
        units[BLINK[side]] *= scale
    points = model.mean + np.tensordot(person.shape, model.shape, 1) + person.offset
    return points + np.tensordot(expression, units, 1)


@lru_cache(maxsize=1)
def _eyes() -> dict[str, tuple[Float64, Float64, float]]:
    """Of each eyeball: centre (3,), its shift with each shape component (S, 3), radius."""
    body = load_body()
    out = {}
    for side in ("Left", "Right"):
        ids = body.part_vertices(f"eye{side}")
        vertices = body.vertices[ids].astype(np.float64)
        shift = body.shape[:, ids].astype(np.float64).mean(1)
        out[side] = (vertices.mean(0), shift, 0.5 * float(np.ptp(vertices, axis=0).max()))
    return out


def gaze_of(
    landmarks: npt.NDArray[np.floating],
    rotation: Float64,
    translation: Float64,
    shape: Float64,
    camera: Camera,
) -> Float64:
    """(yaw, pitch) of the left and right eye in radians relative to the head, from where the irises are on the eyeballs."""
    turn = rotation_matrix(rotation)
    out = []
    for side in ("Left", "Right"):
        centre, shift, radius = _eyes()[side]
        centre = FLIP @ (FLIP @ turn @ (centre + shape @ shift) + translation)
        iris = landmarks[IRIS[side][0]]
        depth = -centre[2] - radius
        at = np.array(
            [
                (iris[0] - camera.cx) / camera.focal * depth,
                -(iris[1] - camera.cy) / camera.focal * depth,
                -depth,
            ]
        )
        toward = turn.T @ (at - centre)
        out += [
            np.arcsin(np.clip(toward[0] / radius, -0.9, 0.9)),
            np.arcsin(np.clip(toward[1] / radius, -0.9, 0.9)),
        ]
    return np.array(out)


def look_units(gaze: Float64) -> Float64:
    """The eyeLook coefficients (..., 52) that go with gaze (..., 4), as `motion.life` moves the lids."""
    out = np.zeros((*gaze.shape[:-1], 52))
    for k, side in enumerate(("Left", "Right")):
        yaw, pitch = gaze[..., 2 * k], gaze[..., 2 * k + 1]
        outward = yaw if side == "Left" else -yaw
        for at, value in zip(
            LOOK[side], (-pitch / np.radians(30), pitch / np.radians(25), outward / np.radians(35), -outward / np.radians(35)),
            strict=True,
        ):  # fmt: skip
            out[..., at] = np.clip(value, 0, 1)
    return out
