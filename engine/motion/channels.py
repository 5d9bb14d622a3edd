"""Motion: the named channels of one frame, and curves of them on disk.

One frame is a float32 vector of `N_CHANNELS` values, residuals against the pose that the photo was fitted with:
zero motion gives back the photo. Face coefficients are ARKit's (0 to 1 where the photo's own expression is neutral;
negative values undo what the photo shows). Rotations are rotation vectors in radians about x (to the person's left), y (up),
z (out of the face, towards the viewer); translation is in metres in the same axes. Gaze is (yaw, pitch) an eye in radians: positive yaw
turns the eye to the person's left, positive pitch upwards. Positive head rotation x tilts the face downwards (nod), positive y
turns it to the person's left, positive z tilts the crown of the head to the person's right.
Rotations of upper arms, forearms, wrists and fingers are in the axes of the body at rest and carried along by their bone, so that the same
value bends a finger the same way however the photo holds the hand; `visavis.engine.body.rig.finger_axes` gives the axes that curl it.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.engine.errors import MotionError
from visavis.engine.timing import FPS

FloatArray = npt.NDArray[np.float32]

ARKIT: tuple[str, ...] = (
    "browDownLeft", "browDownRight", "browInnerUp", "browOuterUpLeft", "browOuterUpRight",
    "cheekPuff", "cheekSquintLeft", "cheekSquintRight",
    "eyeBlinkLeft", "eyeBlinkRight", "eyeLookDownLeft", "eyeLookDownRight", "eyeLookInLeft", "eyeLookInRight",
    "eyeLookOutLeft", "eyeLookOutRight", "eyeLookUpLeft", "eyeLookUpRight",
    "eyeSquintLeft", "eyeSquintRight", "eyeWideLeft", "eyeWideRight",
    "jawForward", "jawLeft", "jawOpen", "jawRight",
    "mouthClose", "mouthDimpleLeft", "mouthDimpleRight", "mouthFrownLeft", "mouthFrownRight", "mouthFunnel",
    "mouthLeft", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthPressLeft", "mouthPressRight", "mouthPucker",
    "mouthRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper",
    "mouthSmileLeft", "mouthSmileRight", "mouthStretchLeft", "mouthStretchRight",
    "mouthUpperUpLeft", "mouthUpperUpRight", "noseSneerLeft", "noseSneerRight", "tongueOut",
)  # fmt: skip
"""The 52 ARKit face coefficients, in alphabetical order. "Left" is the person's left."""

GAZE = ("gazeYawLeft", "gazePitchLeft", "gazeYawRight", "gazePitchRight")


def _xyz(*joints: str) -> tuple[str, ...]:
    return tuple(f"{joint}.{axis}" for joint in joints for axis in "xyz")


_FINGERS = ("thumb", "index", "middle", "ring", "little")
_SIDES = ("Left", "Right")
BODY: tuple[str, ...] = _xyz(
    "head",
    "neck",
    "headTranslation",
    "spine",
    *(f"clavicle{s}" for s in _SIDES),
    *(f"upperArm{s}" for s in _SIDES),
    *(f"forearm{s}" for s in _SIDES),
    *(f"wrist{s}" for s in _SIDES),
    *(f"{finger}{k}{s}" for s in _SIDES for finger in _FINGERS for k in (1, 2, 3)),
)

CHANNELS: tuple[str, ...] = ARKIT + GAZE + BODY
N_CHANNELS = len(CHANNELS)
INDEX: dict[str, int] = {name: k for k, name in enumerate(CHANNELS)}


def _span(first: str, n: int) -> slice:
    return slice(INDEX[first], INDEX[first] + n)


FACE_SLICE = slice(0, len(ARKIT))
GAZE_SLICE = _span("gazeYawLeft", 4)
HEAD_SLICE = _span("head.x", 3)
NECK_SLICE = _span("neck.x", 3)
TRANSLATION_SLICE = _span("headTranslation.x", 3)
SPINE_SLICE = _span("spine.x", 3)
CLAVICLE_LEFT_SLICE = _span("clavicleLeft.x", 3)
CLAVICLE_RIGHT_SLICE = _span("clavicleRight.x", 3)


def zero_motion() -> FloatArray:
    """The photo's own pose: (N_CHANNELS,) of zeros."""
    return np.zeros(N_CHANNELS, np.float32)


@dataclass
class MotionClip:
    """A curve of motion: `motion` (T, N_CHANNELS) float32 at `fps` frames a second.

    `confidence` (T,) is 1 where a frame was measured well, 0 where it was filled in (tracks of video).
    """

    motion: FloatArray
    fps: float = float(FPS)
    confidence: FloatArray | None = field(default=None)

    def save(self, path: str | Path) -> None:
        """Write `.npz` with `motion`, `channels`, `fps` (and `confidence`)."""
        extra: dict[str, Any] = {}
        if self.confidence is not None:
            extra["confidence"] = self.confidence.astype(np.float32)
        with open(path, "wb") as file:
            np.savez_compressed(
                file,
                motion=self.motion.astype(np.float32),
                channels=np.array(CHANNELS),
                fps=np.float32(self.fps),
                **extra,
            )

    @classmethod
    def load(cls, path: str | Path) -> MotionClip:
        """Read a `.npz` written by `save` or by another program: channels are matched by name, missing ones are 0.

        Raises MotionError for a file that is no motion file, has a wrong shape, unknown channels or values that are not finite.
        """
        try:
            with np.load(path, allow_pickle=False) as data:
                motion = np.asarray(data["motion"], np.float32)
                names = [str(name) for name in data["channels"]]
                fps = float(data["fps"])
                confidence = np.asarray(data["confidence"], np.float32) if "confidence" in data else None
        except FileNotFoundError:
            raise MotionError(f"no such motion file: {path}") from None
        except Exception as error:
            raise MotionError(
                f"{path} is not a motion file (.npz with motion, channels, fps): {error}"
            ) from None
        if motion.ndim != 2 or motion.shape[1] != len(names) or not len(motion):
            raise MotionError(
                f"{path}: motion has shape {motion.shape}, expected (T >= 1, {len(names)} channels)"
            )
        unknown = [name for name in names if name not in INDEX]
        if unknown:
            raise MotionError(
                f"{path}: unknown channels {', '.join(unknown[:4])}; see visavis.engine.motion.channels"
            )
        if not np.isfinite(motion).all():
            raise MotionError(f"{path}: motion holds values that are not finite")
        if not (np.isfinite(fps) and 0 < fps <= 1000):
            raise MotionError(f"{path}: fps is {fps}, expected a number above 0")
        full = np.zeros((len(motion), N_CHANNELS), np.float32)
        full[:, [INDEX[name] for name in names]] = motion
        return cls(full, fps, confidence)
