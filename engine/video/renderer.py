"""Motion and avatar to frame on the CPU: pose the portrait surface and what lies behind it, and draw them over the background plate."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
from visavis.engine.avatar import Avatar
from visavis.engine.body.model import FloatArray
from visavis.engine.motion.channels import N_CHANNELS
from visavis.engine.video.figure import Figure, Part
from visavis.kernels import Mesh, PoseRig, Target

Places = Callable[[FloatArray], tuple[int, int, int, int] | None]
"""From a motion to the pixels x0, y0, x1, y1 of its frame; None: all."""


def nowhere(motion: FloatArray) -> tuple[int, int, int, int]:
    """No pixels at all."""
    return 0, 0, 0, 0


def mesh_of(part: Part) -> Mesh:
    """A part as the rasteriser takes it."""
    return Mesh(
        part.triangles, part.uv, part.labels, part.attr, part.texture, part.edge_flags, rest_depth=part.rest_depth
    )  # fmt: skip


class Renderer:
    """Draws one avatar. Keeps nothing between frames: the same motion always gives the same picture.

    `threads`: cores used for drawing. After `render`, `target` holds coverage, part mask and position map of the frame, the last one where
    `positions` says (None: everywhere).
    """

    def __init__(self, avatar: Avatar, *, threads: int = 1) -> None:
        self.avatar = avatar
        self.threads = threads
        self.positions: Places | None = None
        self.target = Target(avatar.width, avatar.height)
        self._figure = Figure.of(avatar)
        self._drawn = [
            (part, mesh_of(part), PoseRig(part.vertices, part.shapes, part.weights))
            for part in self._figure.parts
        ]

    def render(self, motion: FloatArray) -> npt.NDArray[np.uint8]:
        """The frame (H, W, 3) RGB for one motion vector (N_CHANNELS,); the array is the caller's to keep."""
        if np.shape(motion) != (N_CHANNELS,):
            raise ValueError(f"motion has shape {np.shape(motion)}, expected ({N_CHANNELS},)")
        motion = np.nan_to_num(np.asarray(motion, np.float32))
        figure, target = self._figure, self.target
        units, bones = figure.units(motion), figure.transforms(motion)
        target.begin(self.avatar.plate, None if self.positions is None else self.positions(motion))
        for part, mesh, rig in self._drawn:
            target.draw(
                mesh, rig.pose(units[part.units], bones[part.bones], figure.camera), threads=self.threads
            )
        return target.rgb.copy()
