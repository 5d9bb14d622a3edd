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
    """VvStateTensor of commit.cu."""

    _fields_ = [*_fields(_P, "after", "before"), *_fields(_I, "outer", "row_bytes")]


class CompositeSlot(ctypes.Structure):
    """VvCompositeSlot of composite.cu."""

    _fields_ = _fields(_P, "rgb", "colour", "blend", "placement", "out")


class CropPlace(ctypes.Structure):
    """VvCropPlace of face_crop.cu."""

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
