"""Capture a film of one person as an avatar of its own and the motion that lies on it.

`body.track` tells how anybody moved, for any avatar to repeat. This is the closer fit for one: the avatar is enrolled from the first frame with a
face, and its own surface is laid on every other frame, by landmarks and then by the pixels about the mouth (`align.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from visavis.engine.avatar import Avatar
from visavis.engine.body.detect import Face, FaceTracker
from visavis.engine.body.track import resample
from visavis.engine.errors import VideoError
from visavis.engine.footage import read_frames
from visavis.engine.motion.channels import N_CHANNELS, MotionClip
from visavis.engine.video.drive import Driven, smooth_faces

Bytes = npt.NDArray[np.uint8]
GOOD_ERROR, BAD_ERROR = 0.010, 0.020
"""Landmark distance in heights of the face up to which a frame counts as measured well, and from which on not at all."""


@dataclass(frozen=True)
class Capture:
    """A captured film: the avatar, driven by its own first frame, that frame's number, the motion of T frames at their own rate, and the
    faces (None where none was found)."""

    driven: Driven
    start: int
    clip: MotionClip
    faces: list[Face | None]

    @property
    def avatar(self) -> Avatar:
        """The avatar of the first frame with a face."""
        return self.driven.avatar


def find_faces(frames: Iterable[Bytes], tracker: FaceTracker) -> list[Face | None]:
    """The face in each frame, followed from the one before where it can be."""
    faces: list[Face | None] = []
    face: Face | None = None
    for frame in frames:
        face = (tracker.track(frame, face) if face is not None else None) or tracker.detect(frame)
        faces.append(face)
    return faces


def follow_face(frames: Iterable[Bytes], tracker: FaceTracker, name: str = "the video") -> list[Face | None]:
    """The face in each frame of a film, with the detector's jitter taken off (None: not found). VideoError where no frame shows one."""
    faces = smooth_faces(find_faces(frames, tracker))
    if not any(face is not None for face in faces):
        raise VideoError(f"no face found in any of the {len(faces)} frames of {name}", "no_face")
    return faces


def capture_frames(
    frames: Callable[[], Iterable[Bytes]],
    rate: float,
    *,
    tracker: FaceTracker | None = None,
    size: int = 512,
    progress: Callable[[str, float], None] | None = None,
    name: str = "the video",
) -> Capture:
    """Capture `frames()`, a film of (H, W, 3) pictures that can be gone through twice; memory does not grow with its length.

    `size`: longer side of the avatar in pixels. Frames without a face are bridged and marked by a confidence of 0. VideoError when no face is
    in any frame.
    """
    report = progress or (lambda what, share: None)
    tracker = tracker or FaceTracker()
    report("looking for the face", 0.0)
    faces = follow_face(frames(), tracker, name)
    seen = np.flatnonzero([face is not None for face in faces])
    driven: Driven | None = None
    found = np.zeros((len(seen), N_CHANNELS), np.float32)
    confidence = np.zeros(len(faces), np.float32)
    motion = None
    at = 0
    for k, (frame, face) in enumerate(zip(frames(), faces, strict=True)):
        if face is None:
            motion = None
            continue
        if driven is None:
            driven = Driven(frame, tracker, size=size)
            face_px = float(np.ptp(driven.rest[:468, 1]))
        motion, error = driven.motion_to(face, motion)
        found[at] = driven.aligned(driven.frame(frame), motion)
        confidence[k] = np.clip((BAD_ERROR - error / face_px) / (BAD_ERROR - GOOD_ERROR), 0, 1)
        at += 1
        report("fitting the avatar", k / len(faces))
    assert driven is not None
    times = np.arange(len(faces))
    full = np.stack([np.interp(times, seen, found[:, c]) for c in range(N_CHANNELS)], 1).astype(np.float32)
    report("done", 1.0)
    return Capture(driven, int(seen[0]), MotionClip(full, rate, confidence), faces)


def capture(
    video: Path,
    *,
    size: int = 512,
    fps: float | None = 25.0,
    progress: Callable[[str, float], None] | None = None,
) -> Capture:
    """Capture a video file, its motion resampled to `fps` (None keeps the video's own rate); VideoError when it cannot be read."""
    rate = next((rate for _, rate in read_frames(video)), 25.0)
    done = capture_frames(
        lambda: (frame for frame, _ in read_frames(video)),
        rate,
        size=size,
        progress=progress,
        name=str(video),
    )
    if fps is None or abs(rate - fps) <= 0.01:
        return done
    assert done.clip.confidence is not None
    motion, confidence = resample(done.clip.motion, done.clip.confidence, rate, fps)
    return Capture(done.driven, done.start, MotionClip(motion, fps, confidence), done.faces)
