"""The mesh of one arm over a photo: a fine grid over the arm's pixels, cut between the fingers, with depth and skinning of the fitted body.

At rest every vertex projects to its own texture coordinate, as on the portrait surface (mirrored beyond the photo's borders); turns of its bones then move the photo's pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from visavis.engine.body.arms import ArmFit, hand_points, rest_hand_points
from visavis.engine.body.detect_hands import Hand
from visavis.engine.body.fit import FLIP, Fit
from visavis.engine.body.meet import spread
from visavis.engine.body.model import BodyModel, FloatArray, IntArray, load_body
from visavis.engine.body.rig import arm_bones, skin
from visavis.engine.body.triangulate import folded_in, grid_triangles, smoothstep
from visavis.kernels import Mesh, Target

Float64 = npt.NDArray[np.float64]
Mask = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Segment:
    """A part of the arm that is a layer of its own: `carrier`: what it hangs on (column of `Limb.weights`); `attach`, `leave`: shares of
    its first bone's length over which the layer passes from nothing to all, and over which what lies behind loses it."""

    name: str
    first: int  # its first bone among those of `arm_bones`
    carrier: int
    attach: tuple[float, float]
    leave: tuple[float, float]


BEYOND = 1.0
"""Of the hand's size, how far an arm that the photo's border cuts goes on beyond it, mirrored: raised, it shows no end."""
SEGMENTS = (
    Segment("forearm", 2, 2, (0.0, 0.14), (0.10, 0.26)),
    Segment("upperArm", 1, 0, (0.08, 0.26), (0.22, 0.42)),
)
"""Front to back: the forearm with the hand lies over the upper arm, which lies over the trunk."""


@dataclass(frozen=True)
class PosedArm:
    """The body model's arm where the photo shows it.

    vertices (n, 3) world axes, of the body's vertices `ids` (n,); triangles (T, 3) into them; weights (n, 19) of `arm_bones`;
    along (n, 2): place along forearm and upper arm, 0 = where it begins, 1 = where it ends and beyond; finger (n,): 0 = palm and arm, 1..5 from the thumb;
    facing (n,): cosine to the viewer; px (n, 2).
    """

    side: str
    ids: IntArray
    vertices: Float64
    triangles: IntArray
    weights: Float64
    along: Float64
    finger: IntArray
    facing: Float64
    px: Float64


@dataclass(frozen=True)
class Limb:
    """One arm as a drawable in front of the portrait, in the surface's world axes.

    vertices (V, 3), uv (V, 2) pixels of texture (Ht, Wt, 4) straight RGBA, triangles (T, 3), part (T,), rest (V, 3) on the average person,
    weights (V, 20): the portrait's trunk, then `arm_bones(side)`; axes (19, 3, 3): each bone's rest axes in the photo as columns;
    pivots (19, 3): joints in the photo.
    """

    side: str
    vertices: FloatArray
    uv: FloatArray
    triangles: IntArray
    part: npt.NDArray[np.uint8]
    rest: FloatArray
    weights: FloatArray
    axes: FloatArray
    pivots: FloatArray
    texture: npt.NDArray[np.uint8]


def pose_arm(fit: Fit, arm: ArmFit, hand: Hand) -> PosedArm:
    """The posed arm with a smooth residual that carries it onto the hand's landmarks."""
    body = load_body()
    names = arm_bones(arm.side)
    columns = [body.bones.index(b) for b in names]
    own = body.weights[:, columns].sum(1) > 0.5
    limb_part = np.isin(body.part, [body.part_id("arms"), body.part_id("hands")]) & own[body.triangles].all(1)
    ids, inverse = np.unique(body.triangles[limb_part], return_inverse=True)
    triangles = inverse.reshape(-1, 3).astype(np.int32)
    shaped = (body.vertices + np.tensordot(fit.shape, body.shape, 1))[ids]
    weights = body.weights[ids][:, columns].astype(np.float64)
    weights[:, 0] += 1 - weights.sum(1)  # what hangs on the trunk moves with the clavicle
    world = skin(shaped, weights, arm.transforms)
    points = hand_points(arm.side, fit.shape, arm.transforms)
    wanted = np.zeros_like(points)
    off = hand.landmarks[:, :2] - fit.camera.project(points @ FLIP.T)
    wanted[:, :2] = off * (-points[:, 2:] / fit.camera.focal) * [1, -1]
    world += spread(rest_hand_points(arm.side, fit.shape)[0], wanted, shaped, 0.02, 0.05)
    joints = (body.joints + np.tensordot(fit.shape, body.shape_joints, 1))[columns]
    along = np.empty((len(ids), 2))
    for k, segment in enumerate(SEGMENTS):
        start, bone = joints[segment.first], joints[segment.first + 1] - joints[segment.first]
        beyond = weights[:, segment.first + 1 :].sum(1) > 0.5
        before = weights[:, : segment.first].sum(1) > 0.5
        along[:, k] = np.where(beyond, 1, np.clip((shaped - start) @ bone / (bone @ bone), 0, 1))
        along[before & (along[:, k] < 0.5), k] = 0
    per_finger = weights[:, 4:].reshape(-1, 5, 3).sum(2)
    finger = np.where(per_finger.max(1) > 0.5, per_finger.argmax(1) + 1, 0).astype(np.int32)
    normal = np.zeros_like(world)
    a, b, c = (world[triangles[:, k]] for k in range(3))
    for k in range(3):
        np.add.at(normal, triangles[:, k], np.cross(b - a, c - a))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-15
    facing = (normal * -world).sum(1) / np.linalg.norm(world, axis=1)
    return PosedArm(
        arm.side, ids.astype(np.int32), world, triangles, weights, along, finger, facing, fit.camera.project(world @ FLIP.T)
    )  # fmt: skip


def drawn(
    px: Float64, depth: Float64, triangles: IntArray, labels: IntArray, values: Float64, size: tuple[int, int]
) -> tuple[Mask, npt.NDArray[np.uint8], Mask]:
    """Triangles drawn over a frame of (width, height): coverage (H, W) 0..1, label (H, W) with 0 = nothing, and the vertices' `values`
    (n, 3) at each pixel (H, W, 3)."""
    n = int(px.shape[0])
    white = np.full((1, 1, 4), 255, np.uint8)
    mesh = Mesh(
        triangles, np.full((n, 2), 0.5, np.float32), labels.astype(np.uint8), values.astype(np.float32), white
    )
    target = Target(*size)
    target.begin(np.zeros((size[1], size[0], 3), np.uint8))
    target.draw(mesh, np.column_stack([px, depth]).astype(np.float32), filter="bilinear")
    return target.coverage.astype(np.float32) / np.float32(255), target.part.copy(), target.position.copy()


@dataclass(frozen=True, eq=False)
class ArmMaps:
    """A segment of an arm seen in a frame (H, W): cover 0..1, its silhouette; and, at each pixel that of the nearest point of it: finger
    (0 = palm and arm, 1..5 from the thumb), along 0..1 (place along its first bone), distal 0..1 (beyond a finger's first joint), depth in
    metres; seen (n,): which vertices are its own and not hidden behind others."""

    segment: Segment
    cover: Mask
    finger: npt.NDArray[np.uint8]
    along: Mask
    distal: Mask
    depth: Mask
    seen: npt.NDArray[np.bool_]


def arm_maps(arm: PosedArm, segment: Segment, size: tuple[int, int]) -> ArmMaps | None:
    """A segment of the arm in a frame of (width, height); None when nothing of it is inside."""
    along = arm.along[:, SEGMENTS.index(segment)]
    own = along > 0 if segment.first == 2 else arm.along[:, 0] < 0.15
    triangles = arm.triangles[own[arm.triangles].all(1)]
    depth = -arm.vertices[:, 2]
    finger = np.array([np.bincount(row, minlength=6).argmax() for row in arm.finger[triangles]], np.int32)
    distal = arm.weights[:, 4:].reshape(-1, 5, 3)[:, :, 1:].sum((1, 2))
    values = np.stack([along, distal, depth], 1)
    cover, label, position = drawn(arm.px, depth, triangles, finger + 1, values, size)
    if (label > 0).sum() < 50:
        return None
    _, nearest = cv2.distanceTransformWithLabels(
        (label == 0).astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_5, labelType=cv2.DIST_LABEL_PIXEL
    )
    rows, columns = np.nonzero(label > 0)
    at = np.zeros((2, int(nearest.max()) + 1), np.intp)
    at[:, nearest[rows, columns]] = rows, columns
    where = at[0][nearest], at[1][nearest]
    values = position[where]
    column, row = (np.clip(arm.px[:, k].astype(int), 0, n - 1) for k, n in enumerate(size))
    behind = cv2.dilate(np.where(label > 0, position[..., 2], 0), np.ones((3, 3)))
    inside = ((arm.px >= 0) & (arm.px < size)).all(1)
    seen = own & (arm.facing > 0.05) & (~inside | (depth < behind[row, column] + 0.004))
    smooth = cv2.medianBlur((label[where] - 1).astype(np.uint8), 5)
    along_map, distal_map, depth_map = (np.ascontiguousarray(values[..., k]) for k in range(3))
    return ArmMaps(segment, cover, smooth, along_map, distal_map, depth_map, seen)


def limb_mesh(
    arm: PosedArm, fit_arm: ArmFit, fit: Fit, hand: Hand, alpha: npt.NDArray[np.uint8], maps: ArmMaps
) -> tuple[Limb, tuple[int, int, int, int]] | None:
    """The mesh over a layer's alpha (H, W), without its texture, and the box (x0, y0, x1, y1) of the frame that the texture is to be;
    None when nothing of the arm is in the frame."""
    body = load_body()
    height, width = alpha.shape
    rows, columns = np.nonzero(alpha > 1)
    if not len(rows):
        return None
    spacing = float(np.clip(0.05 * hand.size, 2.5, 8))
    x0, y0 = max(0, int(columns.min()) - 2), max(0, int(rows.min()) - 2)
    x1, y1 = min(width, int(columns.max()) + 3), min(height, int(rows.max()) + 3)
    reach = BEYOND * hand.size
    cut = [(alpha[:, 0], alpha[:, -1]), (alpha[0], alpha[-1])]
    gx, gy = (
        _lines(low, high, n, spacing, *(reach * bool((edge > 128).any()) for edge in edges))
        for low, high, n, edges in zip((x0, y0), (x1, y1), (width, height), cut, strict=True)
    )
    points = np.stack(np.meshgrid(gx, gy), -1).reshape(-1, 2)
    triangles = grid_triangles(len(gy), len(gx))
    shown = cv2.dilate((alpha > 1).astype(np.uint8), np.ones((2 * int(spacing) + 1,) * 2, np.uint8))

    def read(image: npt.NDArray[Any], at: Float64) -> npt.NDArray[Any]:
        col, row = (np.clip(at[:, k].astype(int), 0, n - 1) for k, n in ((0, width), (1, height)))
        return np.asarray(image[row, col])

    middle = points[triangles].mean(1)
    keep = read(shown, middle) > 0
    triangles, group = triangles[keep], read(maps.finger, middle[keep]).astype(np.int32)
    points = _snapped(points, triangles, group, maps.finger, 0.6 * spacing)
    opaque = read(cv2.erode(alpha, np.ones((2 * int(spacing) + 3,) * 2)), points[triangles].mean(1)) > 250
    triangles, owner, code = _cut(triangles, group, read(maps.distal, points) > 0.5, opaque)
    uv, hidden = points[owner], code >= _BEHIND
    near, share = _nearest(arm, uv, code % _BEHIND, maps.seen)
    weights = np.einsum("vk,vkj->vj", share, arm.weights[near])
    rest = np.einsum("vk,vkj->vj", share, body.vertices[arm.ids[near]].astype(np.float64))
    depth = -np.einsum("vk,vk->v", share, arm.vertices[near, 2])
    deepest = cv2.dilate(maps.depth, np.ones((2 * int(spacing) + 1,) * 2))
    depth = np.where(hidden, np.maximum(depth, read(deepest, uv)) + 0.004, depth)
    camera = fit.camera
    world = np.stack(
        [
            (uv[:, 0] - camera.cx) / camera.focal * depth,
            -(uv[:, 1] - camera.cy) / camera.focal * depth,
            -depth,
        ],
        1,
    )
    stay = read(carrier_share(maps), uv).astype(np.float64)
    full = np.concatenate([np.zeros((len(uv), 1)), (1 - stay[:, None]) * weights], 1)
    full[:, maps.segment.carrier] += stay
    hands = weights[:, 3:].sum(1) > 0.5
    part = np.where(hands[triangles].sum(1) >= 2, body.part_id("hands"), body.part_id("arms")).astype(
        np.uint8
    )
    turn = fit_arm.transforms[:, :, :3]
    axes = turn / np.cbrt(np.linalg.det(turn))[:, None, None]
    joints = (body.joints + np.tensordot(fit.shape, body.shape_joints, 1))[
        [body.bones.index(b) for b in arm_bones(arm.side)]
    ]
    pivots = np.einsum("jab,jb->ja", turn, joints) + fit_arm.transforms[:, :, 3]
    uv = folded_in(uv, width, height)
    limb = Limb(
        arm.side, world.astype(np.float32), (uv - [x0, y0]).astype(np.float32), triangles, part, rest.astype(np.float32),
        full.astype(np.float32), axes.astype(np.float32), pivots.astype(np.float32), np.zeros((1, 1, 4), np.uint8),
    )  # fmt: skip
    return limb, (x0, y0, x1, y1)


def _lines(low: float, high: float, size: int, spacing: float, before: float, after: float) -> Float64:
    """Places of a grid over `low` to `high` of 0..size, and on the borders and `before` and `after` beyond them where that is more than 0."""
    lines = np.arange(low - 0.5 * spacing, high + spacing, spacing)
    if before > 0:
        beyond = np.arange(np.ceil(before / spacing), -1, -1) * -spacing
        lines = np.concatenate([beyond, lines[lines > 0.25 * spacing]])
    if after > 0:
        beyond = size + np.arange(np.ceil(after / spacing) + 1) * spacing
        lines = np.concatenate([lines[lines < size - 0.25 * spacing], beyond])
    return lines


def _snapped(
    points: Float64, triangles: IntArray, group: IntArray, finger: npt.NDArray[np.uint8], reach: float
) -> Float64:
    """Grid points (V, 2) with those between fingers moved onto the border of the fingers' map, so that cuts run smoothly."""
    low, high = np.full(len(points), 99), np.full(len(points), -1)
    for k in range(3):
        np.minimum.at(low, triangles[:, k], group)
        np.maximum.at(high, triangles[:, k], group)
    mixed = np.nonzero((low != high) & (high >= 0))[0]
    border = [
        np.argwhere(finger[:, 1:] != finger[:, :-1])[:, ::-1] + [1.0, 0.5],
        np.argwhere(finger[1:] != finger[:-1])[:, ::-1] + [0.5, 1.0],
    ]
    line = np.concatenate(border)
    if not len(mixed) or not len(line):
        return points
    d = ((points[mixed, None] - line[None]) ** 2).sum(-1)
    near = d.argmin(1)
    close = d[np.arange(len(mixed)), near] < reach**2
    out = points.copy()
    out[mixed[close]] = line[near[close]]

    def area(p: Float64) -> Float64:
        a, b, c = (p[triangles[:, k]] for k in range(3))
        return np.asarray((b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0])

    before = area(points)
    for _ in range(4):  # a triangle that turned over or nearly vanished gets its corners back
        bad = area(out) / before < 0.1
        if not bad.any():
            break
        out[triangles[bad]] = points[triangles[bad]]
    return out


_BEHIND = 8
"""Added to a group's number: copies of the pixels around it that move with it behind its neighbours, so that no gap opens between them."""


def _cut(
    triangles: IntArray, group: IntArray, distal: npt.NDArray[np.bool_], opaque: npt.NDArray[np.bool_]
) -> tuple[IntArray, IntArray, IntArray]:
    """Part fingers from each other, and beyond their first joint from the palm: a vertex gets a copy for each finger that uses it, but where
    the palm uses it too it joins them unless it is `distal` (V,). Each group also gets the two rings of `opaque` (T,) triangles around it, behind.
    Triangles (T, 3) anew, and for each new vertex the old one and its group's code."""
    n = len(distal)
    joined = np.zeros(n, bool)
    joined[triangles[group == 0]] = True
    joined &= ~distal
    parts = [np.where(joined[triangles], 0, group[:, None]) * n + triangles]
    for g in np.unique(group) if len(np.unique(group)) > 1 else ():
        ring = group == g
        for _ in range(2):
            near = np.zeros(n, bool)
            near[triangles[ring]] = True
            ring = ring | near[triangles].any(1)
        ring &= (group != g) & opaque
        parts.append((g + _BEHIND) * n + triangles[ring])
    used, inverse = np.unique(np.concatenate(parts), return_inverse=True)
    return inverse.reshape(-1, 3).astype(np.int32), (used % n).astype(np.int32), (used // n).astype(np.int32)


def _nearest(
    arm: PosedArm, uv: Float64, group: IntArray, seen: npt.NDArray[np.bool_], k: int = 6
) -> tuple[IntArray, Float64]:
    """For each point (V, 2) the k nearest `seen` (n,) vertices of the arm that go with its finger, and their shares (V, k)."""
    near = np.zeros((len(uv), k), np.int32)
    share = np.zeros((len(uv), k))
    for g in np.unique(group):
        own = arm.finger == g
        fit = own if g == 0 or (own & seen).sum() >= k else own | (arm.finger == 0)
        use = np.nonzero(fit & seen)[0] if (fit & seen).sum() >= k else np.nonzero(fit)[0]
        mine = np.nonzero(group == g)[0]
        d = ((uv[mine, None] - arm.px[use][None]) ** 2).sum(-1)
        best = np.argpartition(d, k - 1, axis=1)[:, :k]
        w = 1 / (np.take_along_axis(d, best, 1) + 1.0)
        near[mine], share[mine] = use[best], w / w.sum(1, keepdims=True)
    return near, share


def carrier_share(maps: ArmMaps) -> Mask:
    """How far a segment's pixels (H, W) stay with what carries it."""
    return np.asarray(1 - smoothstep(*maps.segment.attach, maps.along.astype(np.float64)), np.float32)


def body_without_arms(fit: Fit, head: Float64, trunk: Float64, size: tuple[int, int]) -> Mask:
    """Coverage (H, W) of head, neck and trunk of the fitted body in a frame of (width, height): head (V, 3) the body's vertices with the
    head's pose, trunk (3, 4) rest to world of the trunk."""
    body: BodyModel = load_body()
    part = np.isin(body.part, [body.part_id(p) for p in ("skin", "neck", "torso")])
    shaped = body.vertices + np.tensordot(fit.shape, body.shape, 1)
    lower = shaped @ trunk[:, :3].T + trunk[:, 3]
    share = body.weights[:, body.bones.index("head")].astype(np.float64)[:, None]
    world = head * share + lower * (1 - share)
    px = fit.camera.project(world @ FLIP.T)
    depth = np.maximum(-world[:, 2], 0.05)
    return drawn(px, depth, body.triangles[part], np.ones(int(part.sum()), np.int32), world, size)[0]
