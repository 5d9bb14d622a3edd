"""The bones of the body model: who hangs on whom, forward kinematics, skinning.

A bone's rotation is given in the axes of the model at rest (x to the person's left, y up, z out of the face) and is carried along by its
parents: the same rotation bends a finger the same way wherever the hand is.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np
import numpy.typing as npt
from visavis.engine.body.model import load_body

Float64 = npt.NDArray[np.float64]

FINGERS = ("thumb", "index", "middle", "ring", "little")
SIDES = ("Left", "Right")


def arm_bones(side: str) -> tuple[str, ...]:
    """The bones of one arm, parents first: clavicle, upper arm, forearm, wrist, three a finger from the thumb on."""
    return (
        *(f"{name}{side}" for name in ("clavicle", "upperArm", "forearm", "wrist")),
        *(f"{finger}{k}{side}" for finger in FINGERS for k in (1, 2, 3)),
    )


def parent_of(bone: str) -> str | None:
    """The bone that carries `bone`; None for the spine."""
    side = next((s for s in SIDES if bone.endswith(s)), "")
    name = bone.removesuffix(side)
    chain = {"neck": "spine", "head": "neck", "clavicle": "spine", "upperArm": "clavicle", "forearm": "upperArm", "wrist": "forearm"}  # fmt: skip
    if name == "spine":
        return None
    if name in chain:
        return chain[name] if chain[name] == "spine" or not side else chain[name] + side
    finger, k = name[:-1], int(name[-1])
    return f"wrist{side}" if k == 1 else f"{finger}{k - 1}{side}"


@lru_cache(maxsize=2)
def arm_parents(side: str) -> tuple[int, ...]:
    """For each of `arm_bones`, the place of its parent among them; -1 for the clavicle, which hangs on the trunk."""
    bones = arm_bones(side)
    return tuple(bones.index(p) if (p := parent_of(b)) in bones else -1 for b in bones)


def chain_transforms(
    joints: Float64, parents: tuple[int, ...], turns: Float64, root: Float64, scales: Float64 | None = None
) -> Float64:
    """Rest-to-posed transforms (..., J, 3, 4) of a chain of bones.

    joints (J, 3) at rest; parents (J,), each before its children, -1 = hangs on `root`; turns (..., J, 3, 3) rotations in rest axes;
    root (..., 3, 4) rest-to-posed of what carries the chain; scales (..., J): size of a bone against its parent's, 1 by default.
    """
    out = np.empty((*turns.shape[:-2], 3, 4))
    for k, parent in enumerate(parents):
        above = root if parent < 0 else out[..., parent, :, :]
        local = turns[..., k, :, :]
        if scales is not None:
            local = local * scales[..., k, None, None]
        offset = joints[k] - local @ joints[k]
        out[..., k, :, :3] = above[..., :3] @ local
        out[..., k, :, 3] = (above[..., :3] @ offset[..., None])[..., 0] + above[..., 3]
    return out


def skin(points: Float64, weights: Float64, transforms: Float64) -> Float64:
    """Linear blend skinning: points (V, 3), weights (V, J) with rows that sum to 1, transforms (J, 3, 4) -> (V, 3)."""
    blended = np.einsum("vj,jab->vab", weights, transforms)
    return np.asarray(np.einsum("vab,vb->va", blended[..., :3], points) + blended[..., 3])


@lru_cache(maxsize=2)
def finger_axes(side: str) -> dict[str, Float64]:
    """For each finger bone and the wrist of one side, unit vectors (3, 3) in rest axes as rows: the axis about which positive turns
    curl it towards the palm, the axis of spreading (positive = away from the palm's side of the thumb for fingers), the bone's own direction."""
    body = load_body()
    at = {b: body.joints[body.bones.index(b)].astype(np.float64) for b in arm_bones(side)}
    across = at[f"index1{side}"] - at[f"little1{side}"]
    along = (at[f"index1{side}"] + at[f"little1{side}"]) / 2 - at[f"wrist{side}"]
    # out of the back of the hand: the thumb's side lies to opposite hands of the direction of the fingers
    normal = np.cross(along, across) * (-1 if side == "Left" else 1)
    normal /= np.linalg.norm(normal)
    axes = {}
    for finger in FINGERS:
        points = [at[f"{finger}{k}{side}"] for k in (1, 2, 3)] + [
            finger_tip(side, finger, body.vertices.astype(np.float64))
        ]
        if finger == "thumb":
            flex = np.cross(points[1] - points[0], points[3] - points[2])
        else:
            flex = np.cross(normal, points[3] - points[0])
        flex /= np.linalg.norm(flex)
        for k in (1, 2, 3):
            own = points[k] - points[k - 1]
            own /= np.linalg.norm(own)
            bend = flex - (flex @ own) * own
            bend /= np.linalg.norm(bend)
            axes[f"{finger}{k}{side}"] = np.stack([bend, np.cross(own, bend), own])
    own = along / np.linalg.norm(along)
    bend = np.cross(normal, own)
    bend /= np.linalg.norm(bend)
    axes[f"wrist{side}"] = np.stack([bend, np.cross(own, bend), own])
    return axes


def finger_tip(side: str, finger: str, vertices: Float64) -> Float64:
    """The tip of a finger (3,) on a mesh of the body (V, 3) at rest."""
    return np.asarray(vertices[_tip_vertices(side, finger)].mean(0))


@lru_cache(maxsize=10)
def _tip_vertices(side: str, finger: str) -> npt.NDArray[np.intp]:
    body = load_body()
    last = body.bones.index(f"{finger}3{side}")
    ids = np.nonzero(body.weights[:, last] > 0.5)[0]
    along = body.joints[last] - body.joints[last - 1]
    reach = (body.vertices[ids] - body.joints[last]) @ (along / np.linalg.norm(along))
    return ids[np.argsort(-reach)[:12]]
