"""The values that the motion model generates, and how they become the channels of a frame.

Two vectors, one for each of its networks: the mouth (`FACE`) and everything else that lives (`LIFE`). Left and right of the
brows, lids and shoulders are one value; head and neck share one rotation; gaze is in the room, so that eyes hold their
target while the head moves.
"""

from __future__ import annotations

import numpy as np
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.motion.channels import (
    ARKIT,
    CHANNELS,
    GAZE_SLICE,
    HEAD_SLICE,
    INDEX,
    N_CHANNELS,
    NECK_SLICE,
)
from visavis.engine.motion.life import NECK_SHARE
from visavis.engine.motion.speech import SPEECH_CHANNELS

FACE: tuple[str, ...] = SPEECH_CHANNELS
_SIDED = ("eyeBlink", "browOuterUp", "browDown", "eyeSquint", "eyeWide", "cheekSquint", "mouthSmile")
LIFE: tuple[str, ...] = (
    *_SIDED, "browInnerUp", "gazeYaw", "gazePitch",
    "head.x", "head.y", "head.z", "headTranslation.x", "headTranslation.y", "headTranslation.z",
    "spine.x", "spine.y", "spine.z", "shouldersUp", "shouldersForward", *(f"arms{k}" for k in range(8)),
)  # fmt: skip
LIFE_INDEX = {name: k for k, name in enumerate(LIFE)}
ARMS = slice(LIFE_INDEX["arms0"], len(LIFE))
"""Principal components of arms, wrists and fingers; the network's file knows what they stand for."""
HEAD = slice(LIFE_INDEX["head.x"], LIFE_INDEX["head.x"] + 3)
GAZE = slice(LIFE_INDEX["gazeYaw"], LIFE_INDEX["gazeYaw"] + 2)
TRANSLATION = slice(LIFE_INDEX["headTranslation.x"], LIFE_INDEX["headTranslation.x"] + 3)
STATES: tuple[str, ...] = ("speaking", "listening", "idle")
MOODS: tuple[str, ...] = ("neutral", "warm", "serious")
LABELS = len(STATES) + len(MOODS)
"""One-hot state, then one-hot mood; all zero: not told."""
PHONES = 19
"""Classes of phonemes that the speech encoder tells apart (`engine/training/voices.py`)."""
PROSODY = 4
FEATURES = len(FACE) + PHONES + 1 + PROSODY + 1
"""What is heard of a frame: mean mouth, phonemes, voice, prosody, level."""
_DEGREE = float(np.pi / 180)
EYE_LIMIT = np.array([0.35, 0.3])
"""How far eyes turn in the head, yaw and pitch, radians."""


def life_matrix() -> FloatArray:
    """How LIFE values spread to channels (len(LIFE), N_CHANNELS); eyes turn besides, see `spread_life`."""
    matrix = np.zeros((len(LIFE), N_CHANNELS), np.float32)
    for name in _SIDED:
        matrix[LIFE_INDEX[name], [INDEX[f"{name}Left"], INDEX[f"{name}Right"]]] = 1
    for name in (
        "browInnerUp",
        *(f"{part}.{axis}" for part in ("headTranslation", "spine") for axis in "xyz"),
    ):
        matrix[LIFE_INDEX[name], INDEX[name]] = 1
    for axis in "xyz":
        matrix[LIFE_INDEX[f"head.{axis}"], INDEX[f"head.{axis}"]] = 1 - NECK_SHARE
        matrix[LIFE_INDEX[f"head.{axis}"], INDEX[f"neck.{axis}"]] = NECK_SHARE
    for row, axis in (("shouldersUp", "z"), ("shouldersForward", "y")):
        matrix[LIFE_INDEX[row], INDEX[f"clavicleLeft.{axis}"]] = 1
        matrix[LIFE_INDEX[row], INDEX[f"clavicleRight.{axis}"]] = -1
    return matrix


_LIFE_MATRIX = life_matrix()


def spread_life(life: FloatArray) -> FloatArray:
    """LIFE values (..., len(LIFE)) -> motion (..., N_CHANNELS), mouth at rest but for the smile, arms at rest."""
    motion = (life @ _LIFE_MATRIX).astype(np.float32)
    yaw = np.clip(life[..., GAZE.start] - life[..., HEAD.start + 1], -EYE_LIMIT[0], EYE_LIMIT[0])
    pitch = np.clip(life[..., GAZE.start + 1] + life[..., HEAD.start], -EYE_LIMIT[1], EYE_LIMIT[1])
    motion[..., GAZE_SLICE] = np.stack([yaw, pitch, yaw, pitch], axis=-1)
    down, up = np.maximum(0, -pitch) / (30 * _DEGREE), np.maximum(0, pitch) / (25 * _DEGREE)
    left, right = np.maximum(0, yaw) / (35 * _DEGREE), np.maximum(0, -yaw) / (35 * _DEGREE)
    for side, outward, inward in (("Left", left, right), ("Right", right, left)):
        motion[..., INDEX[f"eyeLookDown{side}"]] = down
        motion[..., INDEX[f"eyeLookUp{side}"]] = up
        motion[..., INDEX[f"eyeLookOut{side}"]] = outward
        motion[..., INDEX[f"eyeLookIn{side}"]] = inward
    return motion


ARM_CHANNELS = [
    k for k, name in enumerate(CHANNELS) if k >= HEAD_SLICE.start and not _LIFE_MATRIX[:, k].any()
]
"""Body channels that only the ARMS values move."""


def gather_life(motion: FloatArray) -> FloatArray:
    """Motion (..., N_CHANNELS) -> LIFE values: the inverse of `spread_life` where there is one, means of two sides; arms 0."""
    life = motion @ np.linalg.pinv(_LIFE_MATRIX).astype(np.float32)
    rotation = motion[..., HEAD_SLICE] + motion[..., NECK_SLICE]
    life[..., HEAD] = rotation
    eyes = (motion[..., GAZE_SLICE][..., :2] + motion[..., GAZE_SLICE][..., 2:]) / 2
    life[..., GAZE.start] = eyes[..., 0] + rotation[..., 1]
    life[..., GAZE.start + 1] = eyes[..., 1] - rotation[..., 0]
    return life.astype(np.float32)


def face_rows() -> list[int]:
    """Index in ARKit of one side of each FACE value."""
    return [ARKIT.index(name if name in ARKIT else name + "Left") for name in FACE]
