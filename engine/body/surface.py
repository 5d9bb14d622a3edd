"""The portrait surface: the fitted face and everything around it that the photo shows, as one connected mesh over the photo.

The face is the body model's own surface, displaced so that it meets the landmarks. Around it a planar grid is triangulated against the face's
rim and given depth, skinning weights and a share of the rim's movements, so that hair, neck, shoulders and clothes follow without cracks.
At rest every vertex projects to its own texture coordinate: zero motion gives back the photo. Beyond its borders the surface shows it mirrored.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from visavis.engine.body.fit import FACE_OVAL, FLIP, Fit, Float64
from visavis.engine.body.lids import share_the_way
from visavis.engine.body.meet import FittedHead
from visavis.engine.body.model import BodyModel, FloatArray, IntArray, load_body, rotation_matrix
from visavis.engine.body.seams import Chain, Opening, boundary_loops, openings
from visavis.engine.body.triangulate import (
    along_margin,
    delaunay,
    fan,
    folded_in,
    grid_around,
    grid_over,
    largest_piece,
    patches,
    peel_spikes,
    relax,
    smoothstep,
)
from visavis.engine.motion.channels import ARKIT

BONES = ("neck", "head", "clavicleLeft", "clavicleRight", "frame")
"""Bones of the portrait besides the root (spine); weights are nested: head is part of neck. The frame does not move."""
SEAL = ("jawOpen", "mouthUpperUpLeft", "mouthUpperUpRight", "mouthLowerDownLeft", "mouthLowerDownRight", "mouthFunnel",
        "mouthStretchLeft", "mouthStretchRight", "mouthRollLower", "mouthRollUpper", "mouthShrugLower", "mouthShrugUpper")  # fmt: skip
"""Units that part the lips: taken back to bring a smiling photo's mouth to rest."""
SOFTEN = ("mouthSmileLeft", "mouthSmileRight", "mouthDimpleLeft", "mouthDimpleRight")
"""Units of the photo's smile that rest takes back in part."""
ROUNDNESS = 2.8
"""Exponent of how far the lower lip's margin goes with the jaw, over the distance from its middle: 2 is a parabola, more is leveller."""
LID_OVERLAP, LID_BEFORE = 0.0010, 0.0014
"""Metres by which a shut upper lid reaches over the lower one, and by which it lies before it: so far that the rasteriser takes the two for two
surfaces and smooths the upper one's edge."""
LID_CORNER = 0.04
"""Share of a lid's length at either corner over which both come about."""
BEYOND = 5
"""Steps of the grid by which the surface goes on beyond the photo's borders."""
HELD = 0.22
"""Of the face's height, how far from a border that cuts through the person hair, ears and clothes are held by the frame: of what lies beyond there is only a
mirror's image, in which an ear or a collar is seen twice. The upper border holds nothing: hair may be seen twice, but bent it looks broken."""


@dataclass(frozen=True)
class Seam:
    """One opening on the portrait surface, for keeping its margins from passing through each other.

    upper, lower (n,), (m,): vertices; parameter_* their arc length 0..1; near (k,): vertices that follow; spread_* (k, n), (k, m): by how much;
    share: how much of a correction the upper margin takes.
    """

    name: str
    upper: IntArray
    lower: IntArray
    parameter_upper: FloatArray
    parameter_lower: FloatArray
    near: IntArray
    spread_upper: FloatArray
    spread_lower: FloatArray
    share: float


@dataclass(frozen=True)
class Surface:
    """World axes: x to the image's right, y up, z to the viewer, origin at the camera, metres.

    vertices (V, 3), uv (V, 2) photo pixels (mirrored in the border beyond it), triangles (T, 3), part (T,), edge_flags (T,), units (52, V, 3), weights (V, 5) of BONES,
    rest (V, 3): position on the average person (canonical coordinates, what a network sees), seams, rest_motion (52,): coefficients that
    bring the photo's face to a neutral, closed mouth; residual_px: mean distance of mesh to landmarks after the smooth residual.
    """

    vertices: FloatArray
    uv: FloatArray
    triangles: IntArray
    part: npt.NDArray[np.uint8]
    edge_flags: npt.NDArray[np.uint8]
    units: FloatArray
    weights: FloatArray
    rest: FloatArray
    seams: tuple[Seam, ...]
    rest_motion: FloatArray
    residual_px: float
    face_of: IntArray  # body vertex of each face vertex (first F vertices)

    def seam(self, name: str) -> Seam | None:
        """The seam called `name` ("mouth", "eyeLeft", "eyeRight"); None where the photo's surface has no such opening."""
        return next((seam for seam in self.seams if seam.name == name), None)


def face_triangles(body: BodyModel) -> IntArray:
    """Skin triangles inside MediaPipe's face oval seen from the front, slightly widened: (n, 3) body vertex indices."""
    marks = body.at_landmarks(body.vertices)
    oval = marks[list(FACE_OVAL), :2]
    centre = oval.mean(0)
    polygon = ((oval - centre) * 1.03 + centre).astype(np.float32) * 1000
    skin = body.triangles[body.part == body.part_id("skin")]
    centroid = body.vertices[skin].mean(1)
    inside = np.array(
        [
            cv2.pointPolygonTest(polygon, (float(x) * 1000, float(y) * 1000), False) >= 0
            for x, y, _ in centroid
        ]
    )
    return skin[inside & (centroid[:, 2] > -0.06)]


def build_surface(
    fit: Fit,
    head: FittedHead,
    landmarks: FloatArray,
    alpha: npt.NDArray[np.uint8],
    *,
    strip: float | None = None,
) -> Surface:
    """The portrait surface over a photo with soft person matte `alpha` (H, W); `strip`: what lids take along where it shows no skin that
    they could unfold (`lid_room.folded_away`)."""
    body = load_body()
    height, width = alpha.shape
    focal, cx, cy = fit.camera.focal, fit.camera.cx, fit.camera.cy

    # The face: front-facing, connected, with openings only at mouth and eyes.
    face = face_triangles(body)
    p = head.vertices[face]
    normal = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0])
    view = -p.mean(1)
    facing = (normal * view).sum(1) / (np.linalg.norm(normal, axis=1) * np.linalg.norm(view, axis=1) + 1e-18)
    margin_vertices = np.concatenate(
        [np.concatenate([o.upper.vertices, o.lower.vertices]) for o in openings()]
    )
    # the rolled-in rims of lips and lids face away from any camera and must stay
    centroid = body.vertices[face].mean(1)
    at_margin = ((centroid[:, None] - body.vertices[margin_vertices][None]) ** 2).sum(-1).min(1) < 0.010**2
    # and so must the underside of the nose
    nose = (np.abs(centroid[:, 0]) < 0.024) & (np.abs(centroid[:, 1] + 0.035) < 0.02) & (facing > -0.6)
    face = largest_piece(face[(facing > 0.3) | at_margin | nose])
    face = peel_spikes(face, margin_vertices)
    loops = boundary_loops(face)
    margin_sets = [set(np.concatenate([o.upper.vertices, o.lower.vertices]).tolist()) for o in openings()]
    rim, fans = loops[0], []
    for loop in loops[1:]:
        if not along_margin(set(loop), margin_sets, len(loop)):
            fans += fan(loop)
    face = np.concatenate([face, np.array(fans, np.int32).reshape(-1, 3)])
    face_ids, inverse = np.unique(face, return_inverse=True)
    face = inverse.reshape(-1, 3).astype(np.int32)
    local = {int(v): k for k, v in enumerate(face_ids)}
    rim_local = np.array([local[v] for v in rim], np.int32)
    face_world = head.vertices[face_ids]
    face_px = fit.camera.project(face_world @ FLIP.T)
    n_face = len(face_ids)

    # The grid around it, over whatever the matte shows.
    face_height = float(np.ptp(landmarks[:468, 1]))
    spacing = max(width, height) / 44
    polygon = face_px[rim_local].astype(np.float32)
    outer_px = _points_around(alpha, polygon, spacing)
    all_px = np.concatenate([polygon, outer_px]).astype(np.float32)
    mesh = delaunay(all_px)
    middle_px = all_px[mesh].mean(1)
    outside = np.array([cv2.pointPolygonTest(polygon, (float(x), float(y)), False) < 0 for x, y in middle_px])
    # A rim edge that the triangulation lacks is straddled by triangles: those with an edge's middle outside stay,
    # overlapping the face by a hair, so that no crack opens along the rim.
    for k in range(3):
        between = (all_px[mesh[:, k]] + all_px[mesh[:, k - 1]]) / 2
        outside |= np.array(
            [cv2.pointPolygonTest(polygon, (float(x), float(y)), True) < -0.02 for x, y in between]
        )
    mesh = mesh[outside]
    longest = np.max(
        [np.linalg.norm(all_px[mesh[:, k]] - all_px[mesh[:, k - 1]], axis=1) for k in range(3)], 0
    )
    mesh = mesh[longest < 4 * spacing]
    a, b, c = (all_px[mesh[:, k]] for k in range(3))
    area = (b - a)[:, 0] * (c - a)[:, 1] - (b - a)[:, 1] * (c - a)[:, 0]
    mesh[area > 0] = mesh[area > 0][:, [0, 2, 1]]  # counter-clockwise as seen with y up, like the face
    to_all = np.concatenate([rim_local, np.arange(len(outer_px)) + n_face]).astype(np.int32)
    ring_mesh = to_all[mesh]
    n_all = n_face + len(outer_px)
    triangles = np.concatenate([face, ring_mesh]).astype(np.int32)
    uv_all = np.concatenate([face_px, outer_px])
    triangles = np.concatenate([triangles, patches(triangles, uv_all, 2.5 * spacing, margin_sets, face_ids)])
    uv = np.concatenate([face_px, outer_px]).astype(np.float64)

    # Skinning weights along the neck.
    bone = {
        name: head.joints[body.bones.index(name)]
        for name in ("neck", "head", "clavicleLeft", "clavicleRight")
    }
    chin_y = float(landmarks[152, 1])
    neck_px = fit.camera.project(bone["neck"] @ FLIP.T)
    neck_y = max(float(neck_px[1]), chin_y + 0.22 * face_height)
    t = (uv[:, 1] - chin_y) / (neck_y - chin_y)
    smooth = smoothstep
    on_face = np.arange(n_all) < n_face
    centre_x = float(neck_px[0])
    face_x = float(landmarks[:468, 0].mean())
    axis = face_x + (centre_x - face_x) * np.clip(t, 0, 1)
    # beside the neck lie shoulders and collars, beside the head lies hair: towards the chin's height only what is near follows
    beside = smooth(0.62, 1.05, np.abs(uv[:, 0] - axis) / face_height) * smooth(-0.75, -0.1, t)
    head_weight = np.where(on_face, 1.0, (1 - smooth(-0.25, 0.75, t)) * (1 - beside))
    neck_weight = np.where(on_face, 1.0, (1 - smooth(0.1, 1.15, t)) * (1 - beside))
    head_weight = relax(head_weight, triangles, on_face, head_weight, 1.5, 12)
    neck_weight = np.maximum(relax(neck_weight, triangles, on_face, neck_weight, 1.5, 12), head_weight)
    shoulder = (
        smooth(0.25, 0.9, np.abs(uv[:, 0] - centre_x) / face_height) * (1 - neck_weight) * smooth(0.2, 0.9, t)
    )
    fade = 1 - smooth(1.4, 3.2, t)
    left = shoulder * (uv[:, 0] > centre_x) * fade
    right = shoulder * (uv[:, 0] <= centre_x) * fade
    free = np.where(on_face, 1.0, smooth(0, HELD * face_height, _from_cut(alpha, uv)))
    weights = np.stack([*(free * share for share in (neck_weight, head_weight, left, right)), 1 - free], 1)

    # Depth: the rim's, bending back to the ears' plane in the head, to the chest's front below.
    back = float(bone["head"][2]) + 0.01
    chest = float(bone["neck"][2]) + 0.045
    far = back * head_weight + chest * (1 - head_weight)
    rim_z = face_world[:, 2]
    far = (
        far + 0.35 * (float(np.median(rim_z[rim_local])) - far) * head_weight
    )  # a shallower relief tears and smears less
    z0 = np.concatenate([rim_z, far[n_face:]])
    z = relax(z0, triangles, on_face, far, (spacing / (0.4 * face_height)) ** 2 * 2, 300)
    world = np.zeros((n_all, 3))
    world[:, 2] = z
    world[:, 0] = (uv[:, 0] - cx) / focal * -z
    world[:, 1] = -(uv[:, 1] - cy) / focal * -z
    world[:n_face] = face_world

    # Face units, carried outwards from the rim.
    units = np.zeros((52, n_all, 3))
    units[:, :n_face] = head.units[:, face_ids]
    d = np.linalg.norm(outer_px[:, None].astype(np.float64) - polygon[None].astype(np.float64), axis=2)
    near = np.exp(-((d - d.min(1, keepdims=True)) / (0.06 * face_height)))
    near /= near.sum(1, keepdims=True)
    fall = 1 - smooth(0.0, 0.42, d.min(1) / face_height)
    units[:, n_face:] = np.einsum("or,urk->uok", near * fall[:, None], units[:, rim_local])

    seams = tuple(
        _seam(o, local, head, body) for o in openings() if set(o.upper.vertices.tolist()) <= set(local)
    )
    for seam in seams:
        if seam.name == "mouth":
            _round_opening(units, world, seam, rotation_matrix(fit.rotation))
    rest_motion = _close_openings(units, world, seams, fit, head)
    for seam in seams:
        if seam.name.startswith("eye"):
            side = seam.name.removeprefix("eye")
            k = ARKIT.index(f"eyeBlink{side}")
            units[k, :n_face] = share_the_way(
                side, units[k, :n_face], uv[:n_face], seam.upper, landmarks, strip=strip
            )

    # a person whom the frame cuts off goes on beyond it as in a mirror: turned or shifted, hair and clothes show no end
    uv[n_face:] = folded_in(uv[n_face:], width, height)
    rest = np.zeros((n_all, 3))
    rest[:n_face] = body.vertices[face_ids]
    mean_turn = np.linalg.inv(rotation_matrix(fit.rotation))
    rest[n_face:] = (world[n_face:] - bone["head"]) @ mean_turn.T + body.joints[body.bones.index("head")]

    part = np.full(len(triangles), body.part_id("torso"), np.uint8)
    part[: len(face)] = body.part_id("skin")
    middle = head_weight[triangles].mean(1)
    ringed = np.arange(len(triangles)) >= len(face)
    part[ringed & (middle > 0.9)] = body.part_id("scalp")
    part[ringed & (middle <= 0.9) & (neck_weight[triangles].mean(1) > 0.35)] = body.part_id("neck")
    lips = _lip_triangles(face, face_ids, body)
    part[: len(face)][lips] = body.part_id("lips")
    return Surface(
        world.astype(np.float32), uv.astype(np.float32), triangles, part, _flag_margins(triangles, len(face), seams, rim_local), units.astype(np.float32),
        weights.astype(np.float32), rest.astype(np.float32), seams, rest_motion, head.residual_px, face_ids.astype(np.int32),
    )  # fmt: skip


def _points_around(
    alpha: npt.NDArray[np.uint8], polygon: npt.NDArray[np.float32], spacing: float
) -> npt.NDArray[np.float32]:
    """Points (n, 2) about `spacing` apart over what the matte shows around the face's rim `polygon` (k, 2), and beyond the borders."""
    height, width = alpha.shape
    size = np.array([width, height])
    coarse = grid_over(width, height, spacing, BEYOND * spacing)
    # a finer ring hugging the rim carries the chin's movement into the neck; the border has points of its own
    fine = grid_around(polygon, spacing * 0.5, spacing)
    fine = fine[np.minimum(fine, size - fine).min(1) > 0.35 * spacing]
    points = np.concatenate([coarse, fine])
    on_border = ((np.abs(points) < 1e-6) | (np.abs(points - size) < 1e-6)).any(1)
    near = on_border | (np.arange(len(points)) >= len(coarse))
    away = -np.array([cv2.pointPolygonTest(polygon, (float(x), float(y)), True) for x, y in points])
    # on the border a step more is shown, or triangles would lie across it where the person ends
    reach, reach_on_border = (
        cv2.dilate((alpha > 2).astype(np.uint8), np.ones((int(steps * spacing) | 1,) * 2, np.uint8)) > 0
        for steps in (2.4, 4.4)
    )
    x, y = np.clip(points, 0, size - 1).astype(int).T
    shown = np.where(on_border, reach_on_border[y, x], reach[y, x])
    return points[shown & (away > np.where(near, 0.4, 1.35) * spacing)].astype(np.float32)


def _from_cut(alpha: npt.NDArray[np.uint8], px: Float64) -> Float64:
    """How far points (n, 2) are, in pixels, from where a border cuts through the person, the upper one left out."""
    height, width = alpha.shape
    whole = np.ones((height, width), np.uint8)
    for border in (np.s_[:, 0], np.s_[:, -1], np.s_[-1]):
        whole[border] = alpha[border] < 128
    if whole.all():
        return np.full(len(px), np.inf)
    away = cv2.distanceTransform(whole, cv2.DIST_L2, 5)
    x, y = np.clip(px, 0, [width - 1, height - 1]).astype(int).T
    return np.asarray(away[y, x], np.float64)


def _flag_margins(
    triangles: IntArray, n_face: int, seams: tuple[Seam, ...], rim: IntArray
) -> npt.NDArray[np.uint8]:
    """Bit k of a triangle's flag: its edge k lies on a lip or lid margin (an edge of one triangle only), or on the face's rim.

    The rim's edges are drawn a pixel over the grid around it: no hairline can open between the two triangulations.
    """
    margin = np.zeros(int(triangles.max()) + 1, bool)
    for seam in seams:
        margin[seam.upper] = margin[seam.lower] = True
    edges = np.stack([triangles, np.roll(triangles, -1, 1)], -1)  # (T, 3, 2): edge k is (v_k, v_k+1)
    flat = np.sort(edges.reshape(-1, 2), 1)
    _, inverse, count = np.unique(flat, axis=0, return_inverse=True, return_counts=True)
    single = (count[inverse.ravel()] == 1).reshape(-1, 3) & margin[edges].all(-1)
    following = dict(zip(rim.tolist(), np.roll(rim, -1).tolist(), strict=True))
    next_on_rim = np.full(len(margin), -1)
    next_on_rim[list(following)] = list(following.values())
    single[:n_face] |= next_on_rim[edges[:n_face, :, 0]] == edges[:n_face, :, 1]
    return (single * [1, 2, 4]).sum(1).astype(np.uint8)


def _seam(opening: Opening, local: dict[int, int], head: FittedHead, body: BodyModel) -> Seam:
    upper, lower, name = opening.upper, opening.lower, opening.name
    rest = body.vertices.astype(np.float64)
    face_ids = np.array(sorted(local, key=local.__getitem__))
    sigma = 0.005 if name == "mouth" else 0.0045
    everything = np.concatenate([upper.vertices, lower.vertices])
    away = np.sqrt(((rest[face_ids][:, None] - rest[everything][None]) ** 2).sum(-1)).min(1)
    near = face_ids[away < 3.0 * sigma]
    # the two sides must not drag each other: a vertex follows the margin on its own side, told by the opening movement
    open_unit = "jawOpen" if name == "mouth" else f"eyeBlink{name.removeprefix('eye')}"
    move = body.units[ARKIT.index(open_unit)][:, 1]
    split = 0.5 * (move[upper.vertices[2:-2]].mean() + move[lower.vertices[2:-2]].mean())
    upper_moves_more = abs(move[upper.vertices[2:-2]].mean()) > abs(move[lower.vertices[2:-2]].mean())
    is_upper = (np.abs(move[near]) > abs(split)) == upper_moves_more
    middle = (rest[upper.vertices][:, 1].mean() + rest[lower.vertices][:, 1].mean()) / 2
    is_upper = np.where(np.abs(rest[near][:, 1] - middle) > 0.004, rest[near][:, 1] > middle, is_upper)
    is_upper[np.isin(near, upper.vertices)] = True
    is_upper[np.isin(near, lower.vertices)] = False

    def weights(chain: Chain, side: npt.NDArray[np.bool_]) -> FloatArray:
        d = np.sqrt(((rest[near][:, None] - rest[chain.vertices][None]) ** 2).sum(-1))
        w = np.exp(-((d - d.min(1, keepdims=True)) / 0.0015))
        w /= w.sum(1, keepdims=True)
        fall = np.exp(-((d.min(1) / sigma) ** 2))
        out = w * (fall * side)[:, None]
        for k, vertex in enumerate(chain.vertices):  # a margin vertex takes exactly its own correction
            row = np.nonzero(near == vertex)[0]
            out[row] = 0
            out[row, k] = 1
        return out.astype(np.float32)

    ids = np.array([local[int(v)] for v in near], np.int32)
    return Seam(
        name,
        np.array([local[int(v)] for v in upper.vertices], np.int32),
        np.array([local[int(v)] for v in lower.vertices], np.int32),
        upper.parameter,
        lower.parameter,
        ids,
        weights(upper, is_upper),
        weights(lower, ~is_upper),
        0.5 if name == "mouth" else 0.85,
    )


def margins_gap(seam: Seam, points: Float64) -> tuple[Float64, Float64]:
    """The other margin's position minus one's own at equal arc length, for upper (n, 3) and lower (m, 3)."""
    upper, lower = points[seam.upper], points[seam.lower]
    to_lower = (
        np.stack([np.interp(seam.parameter_upper, seam.parameter_lower, lower[:, k]) for k in range(3)], 1)
        - upper
    )
    to_upper = (
        np.stack([np.interp(seam.parameter_lower, seam.parameter_upper, upper[:, k]) for k in range(3)], 1)
        - lower
    )
    return to_lower, to_upper


def _from_corners(seam: Seam) -> FloatArray:
    """1 along the upper margin (n,), falling to 0 at the corners, which both lids share."""
    return np.clip(np.minimum(seam.parameter_upper, 1 - seam.parameter_upper) / LID_CORNER, 0, 1)


def _close_openings(
    units: Float64, world: Float64, seams: tuple[Seam, ...], fit: Fit, head: FittedHead
) -> FloatArray:
    """Correct the units in place so that a blink shuts this person's eyes and rest shuts this person's lips; return the rest coefficients."""
    rest = np.zeros(52)
    for name in SEAL:
        rest[ARKIT.index(name)] = -fit.expression[ARKIT.index(name)]
    for name in SOFTEN:
        rest[ARKIT.index(name)] = -0.5 * fit.expression[ARKIT.index(name)]
    for seam in seams:
        if seam.name == "mouth":
            if np.abs(rest).sum() < 0.05:
                rest[ARKIT.index("jawOpen")] = -0.02
            posed = world + np.tensordot(rest, units, 1)
        else:
            k = ARKIT.index(f"eyeBlink{seam.name.removeprefix('eye')}")
            posed = world + units[k]
        to_lower, to_upper = margins_gap(seam, posed)
        move = np.zeros_like(world)
        if seam.name != "mouth":
            # the upper lid comes to lie before the lower one's wet edge, which would show as a row of bright dots
            over = np.array([0, 0, LID_BEFORE]) - LID_OVERLAP * head.up
            move[seam.near] = seam.spread_upper @ (to_lower + _from_corners(seam)[:, None] * over)
            units[k] += move
        else:
            move[seam.near] = seam.spread_upper @ (0.5 * to_lower) + seam.spread_lower @ (0.5 * to_upper)
            strength = np.array([rest[ARKIT.index(name)] for name in SEAL])
            if (strength**2).sum() > 1e-3:
                for name, value in zip(SEAL, strength, strict=True):
                    units[ARKIT.index(name)] += move * value / (strength**2).sum()
    return rest.astype(np.float32)


def _round_opening(units: Float64, world: Float64, seam: Seam, turn: Float64) -> None:
    """Let the jaw's unit open the lower margin in place to a round curve. The model's own is nearly straight from the middle to the corners, and lips that
    the photo shows shut would part to a V; films show the middle half of it all but level."""
    k = ARKIT.index("jawOpen")
    x = (world[seam.lower] @ turn)[:, 0]
    across = np.clip((x - x[0]) / (x[-1] - x[0]), 0, 1)
    moved = units[k, seam.lower]
    own = moved - moved[0] - across[:, None] * (moved[-1] - moved[0])  # beside what the corners do
    length = np.linalg.norm(own, axis=1, keepdims=True)
    level = 1 - np.abs(2 * across - 1) ** ROUNDNESS
    wanted = own / np.maximum(length, 1e-9) * length.max() * level[:, None]
    units[k, seam.near] += seam.spread_lower @ (wanted - own)


def _lip_triangles(face: IntArray, face_ids: IntArray, body: BodyModel) -> npt.NDArray[np.bool_]:
    from visavis.engine.body.fit import LIPS_OUTER

    marks = body.at_landmarks(body.vertices)
    outer = (marks[list(LIPS_OUTER), :2] * 1000).astype(np.float32)
    centroid = body.vertices[face_ids][face].mean(1)
    inside = [
        abs(x) < 0.05
        and -0.1 < y < -0.03
        and cv2.pointPolygonTest(outer, (float(x) * 1000, float(y) * 1000), False) >= 0
        for x, y, _ in centroid
    ]
    return np.array(inside)
