"""From motion to what is posed: an avatar as parts to draw, each with the shapes and bones that move it.

Everything here is a pure function of the avatar and the motion; where it is posed and drawn is another's work (`renderer.py` on the
CPU, `engine/runtime/gpu` and kernels/cuda/figure.cu on a device, from the same tables).
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from visavis.engine.avatar import PIVOTS, Avatar
from visavis.engine.body.limbs import Limb
from visavis.engine.body.model import FloatArray, IntArray, rotation_matrix
from visavis.engine.body.rig import arm_bones, arm_parents
from visavis.engine.body.surface import LID_OVERLAP, Seam, Surface
from visavis.engine.motion.channels import (
    ARKIT,
    CLAVICLE_LEFT_SLICE,
    CLAVICLE_RIGHT_SLICE,
    FACE_SLICE,
    GAZE_SLICE,
    HEAD_SLICE,
    INDEX,
    NECK_SLICE,
    SPINE_SLICE,
    TRANSLATION_SLICE,
)
from visavis.engine.video.interior import JAW_UNITS, Layer

Bytes = npt.NDArray[np.uint8]
Deltas = tuple[IntArray, FloatArray]
"""The vertices that a shape moves, and by how much."""

MAX_HEAD = np.radians(32.0)
MAX_GAZE = np.radians(28.0)
MAX_ARM = {"upperArm": 0.35, "forearm": 0.5, "wrist": 0.5, "finger": 0.7}
"""Largest turns in radians of an arm's joints away from the photo: its layer knows only the side that the photo shows."""
MAX_SHIFT = 0.08
"""Largest translation of the head along an axis, in metres."""
LEAST_GAP = 1e-5
"""Metres below which a margin need not give way."""
LIP_OVERLAP = 0.0004
"""Metres by which lips may overlap: where they just meet, both are antialiased against what lies behind, and teeth show between shut lips as dots."""
_BLINKS = tuple(ARKIT.index(f"eyeBlink{side}") for side in ("Left", "Right"))
ROOT, NECK, HEAD, CLAVICLE_LEFT, CLAVICLE_RIGHT, FRAME = range(6)
"""The trunk's bones, first in every figure, and one that stays."""


@dataclass(frozen=True)
class Bone:
    """One bone: it turns by a rotation vector of the motion, at most `limit` radians, about its pivot.

    parent: an earlier bone, -1 for the world; channel: first of the rotation vector (of yaw and pitch for an `eye`, limited one by one);
    shift: its share of the head's translation; axes (3, 3): columns in which the rotation vector is given.
    """

    parent: int
    channel: int
    limit: float
    pivot: FloatArray
    shift: float = 0.0
    eye: bool = False
    axes: FloatArray = field(default_factory=lambda: np.eye(3, dtype=np.float32))


@dataclass(frozen=True, eq=False)
class Part:
    """One mesh: vertices at rest (V, 3), uv (V, 2), triangles (T, 3), labels (T,), attr (V, 3) and texture (H, W, 4), as `kernels.Mesh`
    takes them; `shapes` of it and which of the figure's units drive them (K,); weights (V, J) of the figure's `bones` (J,)."""

    vertices: FloatArray
    uv: FloatArray
    triangles: IntArray
    labels: Bytes
    attr: FloatArray
    texture: Bytes
    edge_flags: Bytes | None
    rest_depth: FloatArray | None
    shapes: list[Deltas]
    units: IntArray
    weights: FloatArray
    bones: IntArray


@dataclass(frozen=True, eq=False)
class Figure:
    """An avatar's parts, back to front, and what moves them.

    Units are the face coefficients within `lowest` and `highest` (52,), then how far each margin vertex gives way: `gap` (n,) plus
    the face times `gap_units` (52, n), where that is more than nothing.
    """

    parts: list[Part]
    bones: list[Bone]
    lowest: FloatArray
    highest: FloatArray
    gap: FloatArray
    gap_units: FloatArray
    camera: tuple[float, float, float, float]
    """fx, fy, cx, cy."""
    surface: int
    """Which of the parts is the portrait."""

    @classmethod
    def of(cls, avatar: Avatar) -> Figure:
        """Of an avatar."""
        surface, own = avatar.surface, avatar.fit.expression.astype(np.float32)
        highest = np.maximum(1 - own, 0.5).astype(np.float32)
        highest[list(_BLINKS)] = 1.0  # a blink of 1 shuts the eye whatever the photo's lids
        upright = rotation_matrix(avatar.fit.rotation)[:, 1].astype(np.float32)
        bones = _trunk(avatar)
        parts = [_layer_part(layer, bones) for layer in avatar.layers if not layer.front]
        portrait = len(parts)
        parts.append(_surface_part(surface, upright, np.ascontiguousarray(avatar.texture)))
        parts += [_layer_part(layer, bones) for layer in avatar.layers if layer.front]
        carriers: dict[str, list[int]] = {}
        for limb in avatar.limbs:
            if limb.side not in carriers:
                carriers[limb.side] = _arm(limb, bones)
            parts.append(_limb_part(limb, carriers[limb.side]))
        gaps = [_gaps(seam, surface, upright) for seam in surface.seams]
        camera = avatar.fit.camera
        return cls(
            parts, bones, -own - np.float32(0.15), highest,
            np.concatenate([np.zeros(0), *(gap for gap, _ in gaps)]).astype(np.float32),
            np.concatenate([np.zeros((len(ARKIT), 0)), *(units for _, units in gaps)], 1).astype(np.float32),
            (camera.focal, camera.focal, camera.cx, camera.cy), portrait,
        )  # fmt: skip

    def __post_init__(self) -> None:
        table = self.bones
        set_ = object.__setattr__
        set_(self, "_channels", np.array([b.channel for b in table])[:, None] + np.arange(3))
        set_(self, "_limits", np.array([b.limit for b in table]))
        set_(self, "_eyes", np.array([b.eye for b in table]))
        set_(self, "_pivots", np.stack([b.pivot for b in table]).astype(np.float32))
        set_(self, "_axes", np.stack([b.axes for b in table]).astype(np.float32))
        set_(self, "_shifts", np.array([b.shift for b in table], np.float32)[:, None])

    _channels: IntArray = field(init=False, repr=False)
    _limits: npt.NDArray[np.float64] = field(init=False, repr=False)
    _eyes: npt.NDArray[np.bool_] = field(init=False, repr=False)
    _pivots: FloatArray = field(init=False, repr=False)
    _axes: FloatArray = field(init=False, repr=False)
    _shifts: FloatArray = field(init=False, repr=False)

    def units(self, motion: FloatArray) -> FloatArray:
        """What drives the shapes for a motion (N_CHANNELS,) of finite numbers: (52 + n,)."""
        face = np.clip(motion[FACE_SLICE], self.lowest, self.highest)
        gaps = self.gap + face @ self.gap_units
        return np.concatenate([face, np.where(gaps > LEAST_GAP, gaps, 0)]).astype(np.float32)

    def transforms(self, motion: FloatArray) -> FloatArray:
        """Rigid transforms (B, 3, 4) of all bones in camera axes (x right, y down, z forward)."""
        turns = motion[self._channels].astype(np.float64)
        limits = self._limits
        eyes = self._eyes
        if eyes.any():
            yaw, pitch = (np.clip(turns[eyes, k], -limits[eyes], limits[eyes]) for k in (0, 1))
            turns[eyes] = np.stack([-pitch, yaw, np.zeros_like(yaw)], 1)
        angle = np.linalg.norm(turns, axis=1)
        turns *= np.where(eyes, 1, np.minimum(1, limits / np.maximum(angle, 1e-9)))[:, None]
        turn = (self._axes @ rotation_matrix(turns) @ self._axes.transpose(0, 2, 1)).astype(np.float32)
        out = np.empty((len(self.bones), 3, 4), np.float32)
        out[..., :3] = turn
        out[..., 3] = self._pivots - (turn @ self._pivots[..., None])[..., 0]
        out[..., 3] += self._shifts * np.clip(motion[TRANSLATION_SLICE], -MAX_SHIFT, MAX_SHIFT)
        for k, bone in enumerate(self.bones):
            if bone.parent >= 0:
                above = out[bone.parent]
                own = above[:, :3] @ out[k]
                own[:, 3] += above[:, 3]
                out[k] = own
        return out * _TO_CAMERA


_TO_CAMERA = np.array([1, -1, -1], np.float32)[:, None]


def _trunk(avatar: Avatar) -> list[Bone]:
    pivot = dict(zip(PIVOTS, avatar.pivots.astype(np.float32), strict=True))
    return [
        Bone(-1, SPINE_SLICE.start, 0.35, pivot["spine"]),
        Bone(ROOT, NECK_SLICE.start, MAX_HEAD, pivot["neck"], shift=0.5),
        Bone(NECK, HEAD_SLICE.start, MAX_HEAD, pivot["head"], shift=0.5),
        Bone(ROOT, CLAVICLE_LEFT_SLICE.start, 0.4, pivot["clavicleLeft"]),
        Bone(ROOT, CLAVICLE_RIGHT_SLICE.start, 0.4, pivot["clavicleRight"]),
        Bone(-1, SPINE_SLICE.start, 0.0, pivot["spine"]),
    ]


def _layer_part(layer: Layer, bones: list[Bone]) -> Part:
    """An eye, which turns in the head, a lid, or what lies in the mouth, which jaw and lips move. An eye adds its bone."""
    weights, carried = np.ones((len(layer.vertices), 1), np.float32), [HEAD]
    if layer.side:
        channel = GAZE_SLICE.start + (0 if layer.side == "Left" else 2)
        carried.append(len(bones))
        bones.append(Bone(HEAD, channel, MAX_GAZE, layer.centre.astype(np.float32), eye=True))
        weights = np.stack([1 - layer.gaze, layer.gaze], 1).astype(np.float32)
    jaw = layer.jaw if layer.jaw.any() and not layer.side else layer.jaw[:0]
    moving = [k for k in range(len(layer.units)) if np.abs(layer.units[k]).max() > 1e-7]
    return Part(
        layer.vertices, layer.uv, layer.triangles, np.full(len(layer.triangles), max(layer.part, 1), np.uint8), layer.vertices,
        layer.texture, None, None, [_sparse(unit) for unit in (*jaw, *layer.units[moving])],
        np.array([*(ARKIT.index(name) for name in JAW_UNITS[: len(jaw)]), *moving], np.int32), weights, np.array(carried, np.int32),
    )  # fmt: skip


def _surface_part(surface: Surface, upright: FloatArray, texture: Bytes) -> Part:
    neck, head, left, right, *frame = surface.weights.T
    still = frame[0] if frame else np.zeros_like(neck)  # avatars made before there was one
    # root, neck without head, head, clavicles, frame: each vertex's shares add up to 1
    shares = np.stack([1 - neck - left - right - still, neck - head, head, left, right, still], 1)
    shapes = [_sparse(unit) for unit in surface.units]
    for seam in surface.seams:
        for spread in (seam.spread_upper, -seam.spread_lower):
            shapes += [(seam.near[column != 0], column[column != 0, None] * upright) for column in spread.T]
    return Part(
        surface.vertices, surface.uv, surface.triangles, surface.part, surface.rest, texture, surface.edge_flags,
        np.ascontiguousarray(-surface.vertices[:, 2]), shapes, np.arange(len(shapes), dtype=np.int32),
        shares.astype(np.float32), np.arange(6, dtype=np.int32),
    )  # fmt: skip


def _arm(limb: Limb, bones: list[Bone]) -> list[int]:
    """Adds the bones of one arm after the clavicle; which bones its layers' weights are of."""
    names, parents = arm_bones(limb.side), arm_parents(limb.side)
    carried = [CLAVICLE_LEFT if limb.side == "Left" else CLAVICLE_RIGHT]
    for k, name in enumerate(names[1:], 1):
        limit = MAX_ARM.get(name.removesuffix(limb.side), MAX_ARM["finger"])
        axes = limb.axes[k].astype(np.float32)
        bones.append(
            Bone(carried[parents[k]], INDEX[f"{name}.x"], limit, limb.pivots[k].astype(np.float32), axes=axes)
        )
        carried.append(len(bones) - 1)
    return [ROOT, *carried]


def _limb_part(limb: Limb, bones: list[int]) -> Part:
    return Part(
        limb.vertices, limb.uv, limb.triangles, limb.part, limb.rest, np.ascontiguousarray(limb.texture), None,
        np.ascontiguousarray(-limb.vertices[:, 2]), [], np.zeros(0, np.int32), limb.weights, np.array(bones, np.int32),
    )  # fmt: skip


def _sparse(field: FloatArray) -> Deltas:
    """A displacement field (V, 3) as the vertices that it moves and their displacements."""
    moved = np.nonzero(np.abs(field).max(1) > 1e-7)[0].astype(np.int32)
    return moved, field[moved]


def _gaps(seam: Seam, surface: Surface, up: FloatArray) -> tuple[FloatArray, FloatArray]:
    """How far upper, then lower margin vertices must give way along `up` for them not to pass each other by more than shut ones overlap: metres at rest
    (n + m,), and what each face unit adds (52, n + m). Heights on the other margin are interpolated, which is linear in them."""
    heights = np.concatenate([(surface.vertices @ up)[None], surface.units @ up]).astype(np.float64)
    upper, lower = heights[:, seam.upper], heights[:, seam.lower]
    over = np.stack([np.interp(seam.parameter_upper, seam.parameter_lower, row) for row in lower]) - upper
    under = lower - np.stack([np.interp(seam.parameter_lower, seam.parameter_upper, row) for row in upper])
    overlap = LIP_OVERLAP if seam.name == "mouth" else LID_OVERLAP
    over[0] -= overlap
    under[0] -= overlap
    both = np.concatenate([seam.share * over, (1 - seam.share) * under], 1)
    return both[0], both[1:]
