"""Fit the body to every frame of a video: motion as residuals against the first frame in which the face is seen.

Shape is estimated once, from frames spread over the clip; pose, expression and gaze a frame, each started from the frame before; the curves
are smoothed without delay. Frames without a face are bridged and marked by a confidence of 0.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt
from visavis.engine.body.detect import Face, FaceTracker, PoseDetector
from visavis.engine.body.fit import FLIP, IRIS, Camera, Fit, Float64, fit_landmarks
from visavis.engine.body.model import FloatArray, load_body, rotation_matrix, rotation_vector
from visavis.engine.errors import VideoError
from visavis.engine.motion.channels import (
    FACE_SLICE,
    GAZE_SLICE,
    HEAD_SLICE,
    INDEX,
    N_CHANNELS,
    TRANSLATION_SLICE,
    MotionClip,
)

Bytes = npt.NDArray[np.uint8]
SMOOTH_FACE = 0.6
"""Width in frames of the Gaussian over expression and gaze: a closure of the lips lasts two frames and must survive."""
SMOOTH_POSE = 1.5
SMOOTH_BODY = 5.0


@dataclass(frozen=True)
class Track:
    """A tracked video: `clip`, the fits (None where no face was found) and the mean landmark residual in pixels."""

    clip: MotionClip
    fits: list[Fit | None]
    error_px: float


def read_frames(path: Path) -> Iterator[tuple[Bytes, float]]:
    """Frames (H, W, 3) RGB of a video and the stream's frame rate; VideoError when it cannot be read."""
    import av

    if not Path(path).is_file():
        raise VideoError(f"no such video file: {path}")
    try:
        with av.open(str(path)) as container:
            if not container.streams.video:
                raise VideoError(f"{path} holds no video stream")
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            rate = float(stream.average_rate or stream.guessed_rate or 25)
            for frame in container.decode(stream):
                yield np.asarray(frame.to_ndarray(format="rgb24"), np.uint8), rate
    except VideoError:
        raise
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise VideoError(f"{path} cannot be read as a video ({error})") from None


def track(
    video: Path, progress: Callable[[str, float], None] | None = None, *, fps: float | None = 25.0
) -> MotionClip:
    """Motion (T, N_CHANNELS) of a video, resampled to `fps` (None keeps the video's own rate)."""
    return track_frames(read_frames(video), progress, fps=fps, name=str(video)).clip


def track_frames(
    frames: Iterator[tuple[Bytes, float]],
    progress: Callable[[str, float], None] | None = None,
    *,
    fps: float | None = 25.0,
    name: str = "the video",
) -> Track:
    """The same over decoded frames, with the fits kept."""
    report = progress or (lambda what, share: None)
    tracker, poser = FaceTracker(), PoseDetector()
    faces: list[Face | None] = []
    shoulders: list[Float64 | None] = []
    face: Face | None = None
    rate, size = 25.0, (0, 0)
    for k, (rgb, rate) in enumerate(frames):  # noqa: B007
        size = rgb.shape[:2]
        found = tracker.track(rgb, face) if face is not None else None
        face = found if found is not None else tracker.detect(rgb)
        faces.append(face)
        if k % 3 == 0:
            pose = poser.detect(rgb)
            good = pose is not None and min(pose.visibility[11], pose.visibility[12]) > 0.6
            shoulders.append(
                pose.landmarks[[11, 12], :2].astype(np.float64) if pose is not None and good else None
            )
        report("reading the video", 0.5 * (1 - 1 / (1 + k / 100)))
    if not faces:
        raise VideoError(f"{name} holds no frames")
    seen = [k for k, f in enumerate(faces) if f is not None]
    if not seen:
        raise VideoError(f"no face found in any of the {len(faces)} frames of {name}")
    camera = Camera.of(size[1], size[0])
    shape = _shared_shape([faces[k] for k in seen], camera)
    fits: list[Fit | None] = [None] * len(faces)
    previous: Fit | None = None
    for n, k in enumerate(seen):
        one = faces[k]
        assert one is not None
        start = previous
        if start is None:
            start = replace(fit_landmarks(one.landmarks, camera, blendshapes=one.blendshapes), shape=shape)
        previous = fit_landmarks(
            one.landmarks, camera, blendshapes=one.blendshapes, start=start, fix_shape=True,
            iterations=6 if n == 0 else 3,
        )  # fmt: skip
        fits[k] = previous
        report("fitting the body", 0.5 + 0.5 * (n + 1) / len(seen))
    motion, confidence = _to_motion(fits, faces, shoulders, seen)
    if fps is not None and abs(rate - fps) > 0.01:
        motion, confidence = _resample(motion, confidence, rate, fps)
        rate = fps
    error = float(np.mean([fit.error for fit in fits if fit is not None]))
    return Track(MotionClip(motion, rate, confidence), fits, error)


def _shared_shape(faces: list[Face | None], camera: Camera) -> Float64:
    picks = [faces[k] for k in np.unique(np.linspace(0, len(faces) - 1, 8).astype(int))]
    fits = [fit_landmarks(f.landmarks, camera, blendshapes=f.blendshapes) for f in picks if f is not None]
    return np.median([fit.shape for fit in fits], axis=0)


def gaze_of(face: Face, fit: Fit) -> Float64:
    """(yaw, pitch) of the left and right eye in radians relative to the head, from where the irises are on the fitted eyeballs."""
    body = load_body()
    turn = rotation_matrix(fit.rotation)
    out = []
    for side in ("Left", "Right"):
        ids = body.part_vertices(f"eye{side}")
        local = body.vertices[ids] + np.tensordot(fit.shape, body.shape[:, ids], 1)
        centre = fit.to_camera(local.mean(0)) @ FLIP.T
        radius = 0.5 * float(np.ptp(local, axis=0).max())
        iris = face.landmarks[IRIS[side][0], :2]
        depth = -centre[2] - radius
        at = np.array(
            [
                (iris[0] - fit.camera.cx) / fit.camera.focal * depth,
                -(iris[1] - fit.camera.cy) / fit.camera.focal * depth,
                -depth,
            ]
        )
        toward = turn.T @ (at - centre)
        out += [np.arctan2(toward[0], radius), np.arctan2(toward[1], radius)]
    return np.array(out)


def _to_motion(
    fits: list[Fit | None], faces: list[Face | None], shoulders: list[Float64 | None], seen: list[int]
) -> tuple[FloatArray, FloatArray]:
    first = fits[seen[0]]
    assert first is not None
    base = rotation_matrix(first.rotation)
    body = load_body()
    head = body.joints[body.bones.index("head")] + np.tensordot(
        first.shape, body.shape_joints[:, body.bones.index("head")], 1
    )
    raw = np.zeros((len(seen), N_CHANNELS))
    for n, k in enumerate(seen):
        fit, face = fits[k], faces[k]
        assert fit is not None and face is not None
        raw[n, FACE_SLICE] = fit.expression - first.expression
        raw[n, GAZE_SLICE] = gaze_of(face, fit)
        raw[n, HEAD_SLICE] = rotation_vector(rotation_matrix(fit.rotation) @ base.T)
        raw[n, TRANSLATION_SLICE] = FLIP @ (fit.to_camera(head) - first.to_camera(head))
    raw[:, GAZE_SLICE] -= raw[0, GAZE_SLICE]
    times = np.arange(len(fits))
    full = np.stack([np.interp(times, seen, raw[:, c]) for c in range(N_CHANNELS)], 1)
    known = [(3 * k, s) for k, s in enumerate(shoulders) if s is not None]
    if len(known) >= 4:
        _add_shoulders(full, known)
    out = np.concatenate([
        _smooth(full[:, : HEAD_SLICE.start], SMOOTH_FACE),
        _smooth(full[:, HEAD_SLICE.start :], SMOOTH_POSE),
    ], 1)  # fmt: skip
    confidence = np.isin(times, seen).astype(np.float32)
    return out.astype(np.float32), confidence


def _add_shoulders(full: Float64, known: list[tuple[int, Float64]]) -> None:
    """Lean of the trunk and lift of each shoulder from the shoulder points' tilt and height against the shoulders' width."""
    at = [k for k, _ in known]
    points = np.stack([s for _, s in known])  # (n, 2 shoulders, 2): left, right
    width = float(np.median(np.linalg.norm(points[:, 0] - points[:, 1], axis=1)))
    times = np.arange(len(full))
    height = np.stack([np.interp(times, at, points[:, side, 1]) for side in (0, 1)], 1)
    height = _smooth(height, SMOOTH_BODY)
    lift = -(height - height[:1]) / width  # up is positive, in shoulder widths
    lean = (lift[:, 0] - lift[:, 1]) / 2
    full[:, INDEX["spine.z"]] = np.arctan(lean * 2)
    common = (lift[:, 0] + lift[:, 1]) / 2
    full[:, INDEX["clavicleLeft.z"]] = 2 * common
    full[:, INDEX["clavicleRight.z"]] = -2 * common


def _smooth(curves: Float64, sigma: float) -> Float64:
    """Gaussian over time (T, C), zero phase, ends held."""
    reach = max(1, round(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    padded = np.concatenate([curves[:1].repeat(reach, 0), curves, curves[-1:].repeat(reach, 0)])
    return np.stack([np.convolve(padded[:, c], kernel, "valid") for c in range(curves.shape[1])], 1)


def _resample(
    motion: FloatArray, confidence: FloatArray, rate: float, fps: float
) -> tuple[FloatArray, FloatArray]:
    length = max(1, round(len(motion) / rate * fps))
    times = np.arange(length) / fps * rate
    grid = np.arange(len(motion))
    out = np.stack([np.interp(times, grid, motion[:, c]) for c in range(motion.shape[1])], 1)
    return out.astype(np.float32), np.interp(times, grid, confidence).astype(np.float32)
