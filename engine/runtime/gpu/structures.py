"""The structures that the CUDA kernels read, field by field as in kernels/cuda/*.cu."""

from __future__ import annotations

import ctypes

_P, _I, _F = ctypes.c_void_p, ctypes.c_int, ctypes.c_float


def _fields(kind: type, *names: str) -> list[tuple[str, type]]:
    return [(name, kind) for name in names]


class PoseSlot(ctypes.Structure):
    """VvPoseSlot of pose.cu."""

    _fields_ = [
        *_fields(_P, "rest", "basis", "weights", "coefficients", "joints", "screen"),
        *_fields(_F, "fx", "fy", "cx", "cy"),
    ]


class RasterSlot(ctypes.Structure):
    """VvRasterSlot of raster.cu."""

    _fields_ = [
        *_fields(_P, "triangles", "uv", "attr", "part", "edges", "kind", "rest_depth", "shade", "texture"),
        *_fields(_P, "vertices", "brightness", "plate", "rgb", "coverage", "labels", "position", "scratch"),
        *_fields(_I, "n_triangles", "tex_width", "tex_height"),
        *_fields(_F, "uv_margin"),
    ]


class MelTables(ctypes.Structure):
    """VvMelTables of log_mel.cu."""

    _fields_ = [
        *_fields(_P, "window", "cosine", "sine", "first", "bin", "weights"),
        *_fields(_F, "scale", "floor"),
    ]


PERSPECTIVE, BICUBIC, CULL, BEGIN = 1, 2, 4, 8
"""Flags of vvc_raster."""


class StateTensor(ctypes.Structure):
    """VvStateTensor of states.cu; `source` is its `from`."""

    _fields_ = [*_fields(_P, "source", "to", "action"), *_fields(_I, "outer", "row_bytes")]


LEAVE, CARRY, CLEAR = 0, 1, 2
"""Actions of states.cu."""


class MotionCue(ctypes.Structure):
    """VvMotionCue of motion.cu."""

    _fields_ = [
        *_fields(_I, "flags", "mood"),
        *_fields(_F, "expressiveness", "head_motion"),
        *_fields(_F * 2, "gaze", "looks"),
        *_fields(_F, "lids", "nod", "breath", "unused"),
    ]


MOVES, HEARS, VOICED, HUSH, LISTENING, GIVEN, TAKEN = 1, 2, 4, 8, 16, 32, 64
"""Flags of MotionCue."""
COEFFICIENT, BROW, HEAD, TRANSLATION, RAISED = 1, 2, 4, 8, 16
"""Kinds of life values in motion.cu."""


class MotionState(ctypes.Structure):
    """VvMotionState of motion.cu."""

    _fields_ = [
        *_fields(_F, "gate"),
        *_fields(_I, "rest", "pause"),
        *_fields(_F, "reach"),
        *_fields(_F * 4, "gaze"),
        *_fields(_F * 32, "mood"),
        *_fields(_F * 16, "released", "mouth"),
    ]


class Motion(ctypes.Structure):
    """VvMotion of motion.cu."""

    _fields_ = [
        *_fields(_P, "cues", "states", "features", "quiet", "heard", "labels", "past_face", "past_life"),
        *_fields(_P, "face", "life", "arms", "given", "sides", "neutral", "motion", "gates"),
        *_fields(_P, "articulations", "aims", "past_inputs"),
        *_fields(_P * 2, "index", "filled"),
        *_fields(_P, "frames"),
        *_fields(_P * 4, "actions"),
        *_fields(
            _P,
            "moods",
            "life_matrix",
            "face_matrix",
            "aperture",
            "width",
            "parts",
            "widens",
            "kinds",
            "eye_places",
        ),
        *_fields(_F * 3, "head_limit"),
        *_fields(_F * 2, "eye_limit"),
        *_fields(_I * 2, "window"),
        *_fields(
            _I,
            "n_features",
            "n_face",
            "n_life",
            "n_labels",
            "n_channels",
            "n_coefficients",
            "voice",
            "closed",
        ),
        *_fields(_I, "turn", "forget", "head", "gaze_place", "lids_place", "breath_place"),
        *_fields(
            _F,
            "share",
            "translation",
            "amplitude",
            "touch",
            "raise_",
            "reach_start",
            "reach_pace",
            "most_gain",
            "voice_from",
            "voice_over",
            "closed_from",
            "closed_over",
        ),
        *_fields(_I, "n_lags", "n_inputs", "pucker"),
        *_fields(_F, "own_scale"),
        *_fields(_F * 2, "most"),
    ]


class Bone(ctypes.Structure):
    """VvBone of figure.cu."""

    _fields_ = [
        *_fields(_I, "parent", "channel", "eye"),
        *_fields(_F, "limit", "shift"),
        *_fields(_F * 3, "pivot"),
        *_fields(_F * 9, "axes"),
        *_fields(_F * 3, "unused"),
    ]


class FigurePart(ctypes.Structure):
    """VvFigurePart of figure.cu."""

    _fields_ = [
        *_fields(_P, "coefficients", "joints", "shapes", "bones"),
        *_fields(_I, "n_shapes", "n_bones"),
    ]


class FigureSlot(ctypes.Structure):
    """VvFigureSlot of figure.cu."""

    _fields_ = [
        *_fields(_P, "bones", "parts", "lowest", "highest", "gap", "gap_units"),
        *_fields(_I, "n_bones", "n_parts", "n_gaps", "head"),
        *_fields(_F * 3, "point"),
        *_fields(_F, "focal", "cx", "cy", "scale"),
        *_fields(_I, "by"),
    ]


class PastePlanSlot(ctypes.Structure):
    """VvPastePlanSlot of paste_plan.cu."""

    _fields_ = _fields(_P, "colour", "under", "blend", "plan", "tones")


class CompositeSlot(ctypes.Structure):
    """VvCompositeSlot of composite.cu."""

    _fields_ = _fields(_P, "rgb", "plan", "placement", "out")


class CropPlace(ctypes.Structure):
    """VvCropPlace of face_crop.cu and figure.cu."""

    _fields_ = [
        *_fields(_F, "scale", "x0", "y0"),
        *_fields(_I, "by", "left", "top", "columns", "rows"),
    ]


class FaceCrop(ctypes.Structure):
    """VvFaceCrop of face_crop.cu."""

    _fields_ = [
        *_fields(_P, "rgb", "coverage", "labels", "position", "place", "mask", "fresh"),
        *_fields(_P, "warp", "seen", "part", "rest", "previous"),
        *_fields(_F * 3, "factor", "offset"),
        *_fields(_I, "width", "height", "side"),
    ]
