"""visavis.kernels: the native kernels (rasteriser, pose, colour, sampler, key/value ring) and the thin Python face over them.

Everything here takes and gives numpy arrays, checks shapes and types (`ValueError`), and releases the GIL
while it works.
"""

from __future__ import annotations

from .color import Square, blend, composite, paste, rgb_to_i420
from .features import CropPlace, MelTables, face_crop, log_mel
from .library import available_isas, isa, use_isa
from .pose import PoseRig
from .raster import Mesh, Target
from .ring import kv_ring
from .sampler import noise, sampler_step

__all__ = [
    "CropPlace",
    "MelTables",
    "Mesh",
    "PoseRig",
    "Square",
    "Target",
    "available_isas",
    "blend",
    "composite",
    "face_crop",
    "isa",
    "kv_ring",
    "log_mel",
    "noise",
    "paste",
    "rgb_to_i420",
    "sampler_step",
    "use_isa",
]
