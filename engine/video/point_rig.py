"""Points on an avatar's face as functions of the motion: where they lie in the frame, and which way each channel moves them there.

What the fits of an avatar to pictures share (`drive.py` by landmarks, `align.py` by the pixels themselves).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.engine.avatar import PIVOTS, Avatar
from visavis.engine.body.model import rotation_matrix, rotation_vector
from visavis.engine.motion.channels import FACE_SLICE, HEAD_SLICE, TRANSLATION_SLICE

Float64 = npt.NDArray[np.float64]
Floats = npt.NDArray[np.floating[Any]]
NEAREST = 0.05
"""Metres before the camera at which a point still counts as seen."""


@dataclass(frozen=True)
class PointRig:
    """`vertices` (L, 3) and what a unit of each face channel adds to them, `units` (52, L, 3), in world axes (x right, y up, the camera at
    the origin looks along -z), the head's pivot (3,), and the camera's focal length and centre (2,) in frame pixels."""

    vertices: Float64
    units: Float64
    head: Float64
    focal: float
    centre: Float64

    @classmethod
    def on(cls, avatar: Avatar, corners: npt.NDArray[np.integer[Any]], bary: Floats) -> PointRig:
        """Points on the avatar's surface: vertices (L, 3) of triangles and shares (L, 3) of each."""
        surface, camera = avatar.surface, avatar.fit.camera
        shares = np.asarray(bary, np.float64)
        return cls(
            np.einsum("lck,lc->lk", surface.vertices[corners].astype(np.float64), shares),
            np.einsum("ulck,lc->ulk", surface.units[:, corners].astype(np.float64), shares),
            avatar.pivots[PIVOTS.index("head")].astype(np.float64), camera.focal, np.array([camera.cx, camera.cy]),
        )  # fmt: skip

    def world(self, motion: Floats) -> tuple[Float64, Float64]:
        """Points (L, 3) at a motion (N_CHANNELS,), and the head's turn (3, 3)."""
        turn = rotation_matrix(motion[HEAD_SLICE])
        local = self.vertices + np.tensordot(motion[FACE_SLICE], self.units, 1) - self.head
        return local @ turn.T + self.head + motion[TRANSLATION_SLICE], turn

    def pixels(self, world: Float64) -> Float64:
        """Where points (L, 3) lie in the frame (L, 2)."""
        return self.centre + self.focal * world[:, :2] * [1, -1] / np.maximum(-world[:, 2:], NEAREST)

    def project(self, motion: Floats) -> Float64:
        """Where the points lie in the frame (L, 2) at a motion."""
        return self.pixels(self.world(np.asarray(motion, np.float64))[0])

    def derivatives(
        self, motion: Floats, world: Float64, turn: Float64, units: npt.NDArray[np.int64] | None = None
    ) -> Float64:
        """Pixels (K + 6, L, 2) by which points at `world` move for one more of each face unit (all of them, or `units` (K,)), radian of
        the head's turn about x, y, z, and metre of its place."""
        fields = self.units if units is None else self.units[units]
        relative = world - self.head - motion[TRANSLATION_SLICE]
        spins = np.stack([np.cross(np.eye(3)[k], relative) for k in range(3)])
        places = np.broadcast_to(np.eye(3)[:, None], (3, len(world), 3))
        moves = np.concatenate([fields @ turn.T, spins, places])
        depth = np.maximum(-world[:, 2:], NEAREST)
        return (moves[..., :2] + world[:, :2] / depth * moves[..., 2:]) * [1, -1] * (self.focal / depth)


def turned(motion: Float64, spin: Float64) -> None:
    """Turn the head of a motion further, in place, by a rotation vector (3,)."""
    motion[HEAD_SLICE] = rotation_vector(rotation_matrix(spin) @ rotation_matrix(motion[HEAD_SLICE]))
