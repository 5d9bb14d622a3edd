"""Motion and avatar to frame: pose the portrait surface and what lies behind it, and draw them over the background plate."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from visavis.engine.avatar import PIVOTS, Avatar
from visavis.engine.body.limbs import Limb
from visavis.engine.body.model import FloatArray, IntArray, rotation_matrix
from visavis.engine.body.rig import arm_bones, arm_parents
from visavis.engine.body.surface import Seam, Surface
from visavis.engine.motion.channels import (
    ARKIT,
    CLAVICLE_LEFT_SLICE,
    CLAVICLE_RIGHT_SLICE,
    FACE_SLICE,
    GAZE_SLICE,
    HEAD_SLICE,
    INDEX,
    N_CHANNELS,
    NECK_SLICE,
    SPINE_SLICE,
    TRANSLATION_SLICE,
)
from visavis.engine.video.interior import JAW_UNITS
from visavis.kernels import Mesh, PoseRig, Target

_BLINKS = tuple(ARKIT.index(f"eyeBlink{side}") for side in ("Left", "Right"))
_JAW = tuple(ARKIT.index(name) for name in JAW_UNITS)
MAX_HEAD = np.radians(32.0)
MAX_GAZE = np.radians(28.0)
MAX_ARM = {"upperArm": 0.35, "forearm": 0.5, "wrist": 0.5, "finger": 0.7}
"""Largest turns in radians of an arm's joints away from the photo: its layer knows only the side that the photo shows."""


@dataclass(frozen=True)
class _Pose:
    """Rigid transforms (3, 4) in world axes of the root and of each bone."""

    root: FloatArray
    neck: FloatArray
    head: FloatArray
    clavicle_left: FloatArray
    clavicle_right: FloatArray


def _about(
    rotation: npt.NDArray[np.floating],
    pivot: FloatArray,
    parent: FloatArray,
    shift: npt.NDArray[np.floating] | float = 0.0,
) -> FloatArray:
    """`parent` after turning by `rotation` (rotation vector) about `pivot` and moving by `shift`: (3, 4)."""
    turn = rotation_matrix(rotation).astype(np.float32)
    move = pivot - turn @ pivot + np.asarray(shift, np.float32)
    return np.concatenate([parent[:, :3] @ turn, (parent[:, :3] @ move + parent[:, 3])[:, None]], 1).astype(
        np.float32
    )


def _limited(vector: FloatArray, most: float) -> FloatArray:
    angle = float(np.linalg.norm(vector))
    return vector if angle <= most else vector * np.float32(most / angle)


class Renderer:
    """Draws one avatar. Keeps nothing between frames: the same motion always gives the same picture.

    `threads`: cores used for drawing. After `render`, `target` holds coverage, part mask and position map of the frame.
    """

    def __init__(self, avatar: Avatar, *, threads: int = 1) -> None:
        self.avatar = avatar
        self.threads = threads
        self.target = Target(avatar.width, avatar.height)
        surface = avatar.surface
        camera = avatar.fit.camera
        self._camera = (camera.focal, camera.cx, camera.cy)
        self._mesh = Mesh(
            surface.triangles, surface.uv, surface.part, surface.rest, np.ascontiguousarray(avatar.texture), surface.edge_flags,
            rest_depth=np.ascontiguousarray(-surface.vertices[:, 2]),
        )  # fmt: skip
        self._layers = [
            (layer, Mesh(layer.triangles, layer.uv, np.full(len(layer.triangles), max(layer.part, 1), np.uint8), layer.vertices, layer.texture))
            for layer in avatar.layers
        ]  # fmt: skip
        self._limbs = [_PosedLimb.of(limb) for limb in avatar.limbs]
        neck, head, left, right = surface.weights.T
        # root, neck without head, head, clavicles: each vertex's shares add up to 1
        shares = np.stack([1 - neck - left - right, neck - head, head, left, right], 1).astype(np.float32)
        upright = rotation_matrix(avatar.fit.rotation)[:, 1].astype(np.float32)
        self._margins = [_Margins.of(seam, surface, upright) for seam in surface.seams]
        shapes = [_sparse(unit) for unit in surface.units]
        for seam in surface.seams:
            shapes += [(seam.near, column[:, None] * upright) for column in seam.spread_upper.T]
            shapes += [(seam.near, -column[:, None] * upright) for column in seam.spread_lower.T]
        self._rig = PoseRig(surface.vertices, shapes, shares)
        own = avatar.fit.expression.astype(np.float32)
        self._lowest = -own - 0.15
        self._highest = np.maximum(1 - own, 0.5).astype(np.float32)
        for k in _BLINKS:  # a blink of 1 shuts the eye whatever the photo's lids
            self._highest[k] = 1.0

    def render(self, motion: FloatArray) -> npt.NDArray[np.uint8]:
        """The frame (H, W, 3) RGB for one motion vector (N_CHANNELS,); the array is the caller's to keep."""
        if np.shape(motion) != (N_CHANNELS,):
            raise ValueError(f"motion has shape {np.shape(motion)}, expected ({N_CHANNELS},)")
        motion = np.nan_to_num(np.asarray(motion, np.float32))
        face = np.clip(motion[FACE_SLICE], self._lowest, self._highest)
        shapes = np.concatenate([face, *(margins.corrections(face) for margins in self._margins)])
        pose = self._pose(motion)
        bones = np.stack([pose.root, pose.neck, pose.head, pose.clavicle_left, pose.clavicle_right])
        focal, cx, cy = self._camera
        moved = self._rig.pose(shapes.astype(np.float32), _to_camera(bones), (focal, focal, cx, cy))
        target = self.target
        target.begin(self.avatar.plate)
        gaze = motion[GAZE_SLICE]
        for layer, mesh in self._layers:
            placed = layer.vertices
            if layer.side:
                yaw, pitch = np.clip(gaze[:2] if layer.side == "Left" else gaze[2:], -MAX_GAZE, MAX_GAZE)
                placed = _turned(layer.vertices, layer.centre, layer.gaze, yaw, pitch)
            elif layer.jaw.any():
                placed = placed + np.tensordot(face[list(_JAW)], layer.jaw, 1)
            target.draw(mesh, self._project(placed @ pose.head[:, :3].T + pose.head[:, 3]), threads=1)
        target.draw(self._mesh, moved, threads=self.threads)
        joints = {}  # of an arm's layers, once a side
        for limb in self._limbs:
            if limb.side not in joints:
                clavicle = pose.clavicle_left if limb.side == "Left" else pose.clavicle_right
                joints[limb.side] = _to_camera(limb.transforms(motion, pose.root, clavicle))
            placed = limb.rig.pose(_NO_SHAPES, joints[limb.side], (focal, focal, cx, cy))
            target.draw(limb.mesh, placed, threads=self.threads)
        return target.rgb.copy()

    def _pose(self, motion: FloatArray) -> _Pose:
        pivot = dict(zip(PIVOTS, self.avatar.pivots, strict=True))
        still = np.eye(3, 4, dtype=np.float32)
        root = _about(_limited(motion[SPINE_SLICE], 0.35), pivot["spine"], still)
        translation = np.clip(motion[TRANSLATION_SLICE], -0.08, 0.08)
        neck = _about(_limited(motion[NECK_SLICE], MAX_HEAD), pivot["neck"], root, 0.5 * translation)
        head = _about(_limited(motion[HEAD_SLICE], MAX_HEAD), pivot["head"], neck, 0.5 * translation)
        left = _about(_limited(motion[CLAVICLE_LEFT_SLICE], 0.4), pivot["clavicleLeft"], root)
        right = _about(_limited(motion[CLAVICLE_RIGHT_SLICE], 0.4), pivot["clavicleRight"], root)
        return _Pose(root, neck, head, left, right)

    def _project(self, world: FloatArray) -> FloatArray:
        focal, cx, cy = self._camera
        out = np.empty((len(world), 3), np.float32)
        depth = np.maximum(-world[:, 2], 0.05)
        out[:, 0] = cx + focal * world[:, 0] / depth
        out[:, 1] = cy - focal * world[:, 1] / depth
        out[:, 2] = depth
        return out


_NO_SHAPES = np.zeros(0, np.float32)


@dataclass(frozen=True)
class _PosedLimb:
    """An arm ready for drawing; channels (18,): first channel of each bone after the clavicle; most (18,): how far each may turn."""

    side: str
    mesh: Mesh
    rig: PoseRig
    axes: FloatArray
    pivots: FloatArray
    channels: IntArray
    most: FloatArray

    @classmethod
    def of(cls, limb: Limb) -> _PosedLimb:
        names = arm_bones(limb.side)[1:]
        mesh = Mesh(
            limb.triangles, limb.uv, limb.part, limb.rest, np.ascontiguousarray(limb.texture),
            rest_depth=np.ascontiguousarray(-limb.vertices[:, 2]),
        )  # fmt: skip
        most = [MAX_ARM.get(name.removesuffix(limb.side), MAX_ARM["finger"]) for name in names]
        channels = np.array([INDEX[f"{name}.x"] for name in names], np.int32)
        rig = PoseRig(limb.vertices, [], limb.weights)
        return cls(limb.side, mesh, rig, limb.axes, limb.pivots, channels, np.array(most, np.float32))

    def transforms(self, motion: FloatArray, root: FloatArray, clavicle: FloatArray) -> FloatArray:
        """Rigid transforms (20, 3, 4) in world axes of the trunk, the clavicle and the bones of the arm."""
        turns = motion[self.channels[:, None] + np.arange(3)]
        angle = np.linalg.norm(turns, axis=1)
        turns = turns * np.minimum(1, self.most / np.maximum(angle, 1e-9))[:, None]
        axes = self.axes[1:]
        world = (axes @ rotation_matrix(turns) @ axes.transpose(0, 2, 1)).astype(np.float32)
        moves = self.pivots[1:] - np.einsum("jab,jb->ja", world, self.pivots[1:])
        out = np.empty((2 + len(turns), 3, 4), np.float32)
        out[0], out[1] = root, clavicle
        for k, parent in enumerate(arm_parents(self.side)[1:]):
            above = out[parent + 1]
            np.matmul(above[:, :3], world[k], out=out[k + 2, :, :3])
            out[k + 2, :, 3] = above[:, :3] @ moves[k] + above[:, 3]
        return out


def _turned(
    vertices: FloatArray, centre: FloatArray, share: FloatArray, yaw: float, pitch: float
) -> FloatArray:
    """Eye patch vertices after turning the ball by yaw (to the person's left) and pitch (up), each vertex by its share."""
    if not yaw and not pitch:
        return vertices
    turn = rotation_matrix([-pitch, yaw, 0.0]).astype(np.float32)
    relative = vertices - centre
    return vertices + share[:, None] * (relative @ turn.T - relative)


def _to_camera(bones: FloatArray) -> FloatArray:
    """Transforms (J, 3, 4) in world axes to the same ending in camera axes (x right, y down, z forward)."""
    return np.ascontiguousarray(np.array([1, -1, -1], np.float32)[:, None] * bones)


def _sparse(field: FloatArray) -> tuple[IntArray, FloatArray]:
    """A displacement field (V, 3) as the vertices that it moves and their displacements."""
    moved = np.nonzero(np.abs(field).max(1) > 1e-7)[0].astype(np.int32)
    return moved, field[moved]


@dataclass(frozen=True)
class _Margins:
    """Keeps the margins of one opening from passing through each other, along the head's own up axis.

    Heights of upper (n,) and lower (m,) margin at rest, and what each face unit adds to them (52, n), (52, m).
    """

    seam: Seam
    upper: FloatArray
    lower: FloatArray
    upper_units: FloatArray
    lower_units: FloatArray

    @classmethod
    def of(cls, seam: Seam, surface: Surface, up: FloatArray) -> _Margins:
        """The margins of `seam`, measured along `up`."""
        height, units = surface.vertices @ up, surface.units @ up
        return cls(seam, height[seam.upper], height[seam.lower], units[:, seam.upper], units[:, seam.lower])

    def corrections(self, face: FloatArray) -> FloatArray:
        """How far each margin vertex must give way (n + m,) in metres: upper ones up, lower ones down."""
        seam = self.seam
        upper, lower = self.upper + face @ self.upper_units, self.lower + face @ self.lower_units
        over = np.interp(seam.parameter_upper, seam.parameter_lower, lower) - upper
        under = lower - np.interp(seam.parameter_lower, seam.parameter_upper, upper)
        both = np.concatenate([seam.share * over, (1 - seam.share) * under])
        return np.where(both > 1e-5, both, 0).astype(np.float32)
