"""Fit the body to every frame of a video: motion as residuals against the first frame in which the face is seen.

First everything is observed (face landmarks a frame, the body's a few times a second), then the whole clip is fitted at once (`fit_clip`): no
frame depends on where the one before it went wrong. Frames without a face are bridged and marked by a confidence of 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from visavis.engine.body.detect import Face, FaceTracker, PoseDetector
from visavis.engine.body.fit import FLIP, Camera, Fit, Float64
from visavis.engine.body.fit_clip import ClipFit, fit_clip, smooth
from visavis.engine.body.model import FloatArray, load_body, rotation_matrix, rotation_vector
from visavis.engine.body.person import Person, learn_person
from visavis.engine.errors import VideoError
from visavis.engine.footage import read_frames
from visavis.engine.motion.channels import (
    FACE_SLICE,
    GAZE_SLICE,
    HEAD_SLICE,
    INDEX,
    N_CHANNELS,
    NECK_SLICE,
    TRANSLATION_SLICE,
    MotionClip,
)

Bytes = npt.NDArray[np.uint8]
SMOOTH_BODY = 5.0
BODY_EVERY = 6
"""Shoulders are slow and their network is not: it sees every sixth frame."""
NECK_SHARE = 0.4
"""How much of the head's rotation the neck takes, as in `motion.life`."""
GOOD_ERROR, BAD_ERROR = 0.010, 0.020
"""Residual in heights of the face up to which a frame counts as measured well, and from which on not at all."""


@dataclass(frozen=True)
class Observed:
    """What the networks saw in T frames of (height, width) at `fps`: `landmarks` (T, 478, 3), NaN where no face was found, `blendshapes` (T, 52),
    `score` (T,), 0 without a face, `shoulders` (n, 2, 2) pixels of the left and right one in frames `shoulder_frames` (n,)."""

    landmarks: FloatArray
    blendshapes: FloatArray
    score: FloatArray
    shoulders: FloatArray
    shoulder_frames: npt.NDArray[np.int64]
    size: tuple[int, int]
    fps: float

    @property
    def seen(self) -> npt.NDArray[np.int64]:
        """Frames with a face."""
        return np.flatnonzero(self.score > 0)

    @property
    def camera(self) -> Camera:
        """The camera assumed."""
        return Camera.of(self.size[1], self.size[0])


@dataclass(frozen=True)
class Track:
    """A tracked video: `clip`, the fits (None where no face was found), the mean landmark residual in pixels, and the fit of the frames
    with a face, numbered by `seen`."""

    clip: MotionClip
    fits: list[Fit | None]
    error_px: float
    fit: ClipFit
    seen: npt.NDArray[np.int64]


def track(
    video: Path, progress: Callable[[str, float], None] | None = None, *, fps: float | None = 25.0
) -> MotionClip:
    """Motion (T, N_CHANNELS) of a video, resampled to `fps` (None keeps the video's own rate)."""
    return track_frames(read_frames(video), progress, fps=fps, name=str(video)).clip


def track_frames(
    frames: Iterable[tuple[Bytes, float]],
    progress: Callable[[str, float], None] | None = None,
    *,
    fps: float | None = 25.0,
    name: str = "the video",
) -> Track:
    """The same over decoded frames, with the fits kept. The person is learned from these frames alone."""
    report = progress or (lambda what, share: None)
    observed = Observer().observe(frames, report, name=name)
    report("fitting the body", 0.8)
    seen = observed.seen
    person = learn_person(observed.landmarks[seen], observed.blendshapes[seen], observed.camera)
    done = fit_observed(observed, person, fps=fps)
    report("done", 1.0)
    return done


class Observer:
    """The networks, loaded once for any number of videos."""

    def __init__(self) -> None:
        self._face, self._body = FaceTracker(), PoseDetector()

    def observe(
        self,
        frames: Iterable[tuple[Bytes, float]],
        progress: Callable[[str, float], None] | None = None,
        *,
        name: str = "the video",
    ) -> Observed:
        """Landmarks of all frames; VideoError when there are none or no face is in any."""
        faces: list[Face | None] = []
        shoulders: list[FloatArray] = []
        at: list[int] = []
        face: Face | None = None
        rate, size = 25.0, (0, 0)
        for k, (rgb, rate) in enumerate(frames):  # noqa: B007
            size = (rgb.shape[0], rgb.shape[1])
            found = self._face.track(rgb, face) if face is not None else None
            face = found if found is not None else self._face.detect(rgb)
            faces.append(face)
            if k % BODY_EVERY == 0:
                pose = self._body.detect(rgb)
                if pose is not None and min(pose.visibility[11], pose.visibility[12]) > 0.6:
                    shoulders.append(pose.landmarks[[11, 12], :2].astype(np.float32))
                    at.append(k)
            if progress is not None:
                progress("reading the video", 0.8 * (1 - 1 / (1 + k / 100)))
        if not faces:
            raise VideoError(f"{name} holds no frames")
        if not any(faces):
            raise VideoError(f"no face found in any of the {len(faces)} frames of {name}")
        nothing, blank = np.full((478, 3), np.nan, np.float32), np.zeros(52, np.float32)
        return Observed(
            np.stack([nothing if f is None else f.landmarks for f in faces]).astype(np.float32),
            np.stack([blank if f is None else f.blendshapes for f in faces]).astype(np.float32),
            np.array([0 if f is None else f.score for f in faces], np.float32),
            np.array(shoulders, np.float32).reshape(-1, 2, 2), np.array(at, np.int64), size, rate,
        )  # fmt: skip


def fit_observed(observed: Observed, person: Person, *, fps: float | None = 25.0) -> Track:
    """Fit a known person to what was observed."""
    seen = observed.seen
    fit = fit_clip(observed.landmarks[seen], observed.blendshapes[seen], observed.camera, person)
    motion, confidence = _to_motion(observed, fit, seen)
    rate = observed.fps
    if fps is not None and abs(rate - fps) > 0.01:
        motion, confidence = resample(motion, confidence, rate, fps)
        rate = fps
    fits: list[Fit | None] = [None] * len(observed.score)
    for n, k in enumerate(seen):
        fits[k] = fit.fit(n)
    return Track(MotionClip(motion, rate, confidence), fits, float(fit.error_px.mean()), fit, seen)


def _to_motion(
    observed: Observed, fit: ClipFit, seen: npt.NDArray[np.int64]
) -> tuple[FloatArray, FloatArray]:
    body = load_body()
    head, neck = (
        body.joints[k] + np.tensordot(fit.person.shape, body.shape_joints[:, k], 1)
        for k in (body.bones.index("head"), body.bones.index("neck"))
    )
    turns = rotation_matrix(fit.rotation)
    raw = np.zeros((len(seen), N_CHANNELS))
    raw[:, FACE_SLICE] = fit.expression - fit.expression[0]
    raw[:, GAZE_SLICE] = fit.gaze - fit.gaze[0]
    first = turns[0]
    for n, turn in enumerate(turns):
        rotation = rotation_vector(turn @ first.T)
        raw[n, HEAD_SLICE], raw[n, NECK_SLICE] = (1 - NECK_SHARE) * rotation, NECK_SHARE * rotation
        # what the bent neck already moves the head by is not translation
        bent = (rotation_matrix(NECK_SHARE * rotation) - np.eye(3)) @ (first @ (head - neck))
        moved = turn @ head - first @ head + FLIP @ (fit.translation[n] - fit.translation[0])
        raw[n, TRANSLATION_SLICE] = moved - bent
    times = np.arange(len(observed.score))
    full = np.stack([np.interp(times, seen, raw[:, c]) for c in range(N_CHANNELS)], 1)
    if len(observed.shoulder_frames) >= 4:
        _add_shoulders(full, observed.shoulder_frames, observed.shoulders.astype(np.float64))
    height = np.ptp(observed.landmarks[seen][:, :468, 1], axis=1)
    confidence = np.zeros(len(times), np.float32)
    confidence[seen] = np.clip((BAD_ERROR - fit.error_px / height) / (BAD_ERROR - GOOD_ERROR), 0, 1)
    return full.astype(np.float32), confidence


def _add_shoulders(full: Float64, at: npt.NDArray[np.int64], points: Float64) -> None:
    """Lean of the trunk and lift of each shoulder from points (n, 2 shoulders, 2): their tilt and height against the shoulders' width."""
    width = float(np.median(np.linalg.norm(points[:, 0] - points[:, 1], axis=1)))
    times = np.arange(len(full))
    height = np.stack([np.interp(times, at, points[:, side, 1]) for side in (0, 1)], 1)
    height = smooth(height, SMOOTH_BODY)
    lift = -(height - height[:1]) / width  # up is positive, in shoulder widths
    lean = (lift[:, 0] - lift[:, 1]) / 2
    full[:, INDEX["spine.z"]] = np.arctan(lean * 2)
    common = (lift[:, 0] + lift[:, 1]) / 2
    full[:, INDEX["clavicleLeft.z"]] = 2 * common
    full[:, INDEX["clavicleRight.z"]] = -2 * common


def resample(
    motion: FloatArray, confidence: FloatArray, rate: float, fps: float
) -> tuple[FloatArray, FloatArray]:
    """Motion (T, C) and confidence (T,) at another frame rate, interpolated."""
    length = max(1, round(len(motion) / rate * fps))
    times = np.arange(length) / fps * rate
    grid = np.arange(len(motion))
    out = np.stack([np.interp(times, grid, motion[:, c]) for c in range(motion.shape[1])], 1)
    return out.astype(np.float32), np.interp(times, grid, confidence).astype(np.float32)
