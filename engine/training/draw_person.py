"""Draw the body model as a person with raised hands: pictures whose pose is known exactly, for testing the fit of arms and hands.

    python -m visavis.engine.training.draw_person --data ../shared/data --out runs/people --count 20
    python -m visavis.engine.training.draw_person --data ../shared/data --out tests/engine/assets --count 1 --seed 3

Skins are MakeHuman's (CC0), drawn by the product's own rasteriser under a soft light, with a painted shirt and hair. Beside each picture
lies a `.npz` with the truth: `landmarks` (21, 2) pixels a hand, `turns` (J, 3) rotation vectors and `bones`, shape and camera.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image
from visavis.engine.body.arms import hand_points
from visavis.engine.body.fit import FLIP, Camera
from visavis.engine.body.model import BodyModel, load_body, rotation_matrix
from visavis.engine.body.rig import (
    FINGERS,
    SIDES,
    arm_bones,
    arm_parents,
    chain_transforms,
    finger_axes,
    skin,
)
from visavis.kernels import Mesh, Target

Float64 = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
SHIRTS = ((52, 70, 110), (120, 45, 50), (70, 90, 75), (150, 140, 125), (40, 40, 45))
HAIR = ((60, 42, 30), (30, 24, 20), (120, 88, 55))


def random_turns(rng: np.random.Generator, side: str) -> Float64:
    """Rotation vectors (19, 3) of an arm that holds its hand up beside or before the chest."""
    body = load_body()
    at = {b: body.joints[body.bones.index(b)].astype(np.float64) for b in arm_bones(side)}
    axes = finger_axes(side)
    turns = np.zeros((19, 3))
    sign = 1.0 if side == "Left" else -1.0
    upper = at[f"forearm{side}"] - at[f"upperArm{side}"]
    fore = at[f"wrist{side}"] - at[f"forearm{side}"]
    bend = np.cross(upper, fore)
    bend /= np.linalg.norm(bend)
    # upper arm: a little to the trunk or away, a little forward; the forearm up to the shoulder or across
    turns[1] = [-rng.uniform(0.0, 0.5), sign * rng.uniform(-0.5, 0.3), -sign * rng.uniform(0.1, 0.6)]
    turns[2] = bend * rng.uniform(1.1, 1.9)
    own = fore / np.linalg.norm(fore)
    turns[2] += own * rng.uniform(-0.5, 0.5)
    wrist = axes[f"wrist{side}"]
    turns[3] = (
        wrist[0] * rng.normal(-0.1, 0.25) + wrist[1] * rng.normal(0, 0.12) + wrist[2] * rng.normal(0, 0.15)
    )
    curl = rng.uniform(-0.15, 0.7)
    for f, finger in enumerate(FINGERS):
        for k in (1, 2, 3):
            own_axes = axes[f"{finger}{k}{side}"]
            amount = (
                rng.normal(0, 0.12)
                if finger == "thumb"
                else curl * rng.uniform(0.6, 1.3) + rng.normal(0, 0.06)
            )
            turns[4 + 3 * f + k - 1] = own_axes[0] * amount + (
                own_axes[1] * rng.normal(0, 0.06) if k == 1 else 0
            )
    return turns


def pose_person(
    body: BodyModel, shape: Float64, root: Float64, turns: dict[str, Float64]
) -> tuple[Float64, dict[str, Float64]]:
    """Vertices (V, 3) in world axes and, a side, the transforms (19, 3, 4) of its arm."""
    vertices = body.vertices + np.tensordot(shape, body.shape, 1)
    joints = body.joints + np.tensordot(shape, body.shape_joints, 1)
    transforms = np.tile(root, (len(body.bones), 1, 1))
    arms = {}
    for side in SIDES:
        ids = [body.bones.index(b) for b in arm_bones(side)]
        arms[side] = chain_transforms(joints[ids], arm_parents(side), rotation_matrix(turns[side]), root)
        transforms[ids] = arms[side]
    weights = body.weights.astype(np.float64)
    weights[:, body.bones.index("head")] += 1 - weights.sum(1)
    return skin(vertices, weights, transforms), arms


def draw(
    body: BodyModel,
    world: Float64,
    camera: Camera,
    size: tuple[int, int],
    texture: Bytes,
    rng: np.random.Generator,
) -> Bytes:
    """The picture (H, W, 3) of a posed body (V, 3) under a soft key light."""
    width, height = size
    over = 2
    corners = body.triangles.reshape(-1)
    points = world[corners]
    normal = np.zeros_like(world)
    a, b, c = (world[body.triangles[:, k]] for k in range(3))
    for k in range(3):
        np.add.at(normal, body.triangles[:, k], np.cross(b - a, c - a))
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12
    cloth = body.part_vertices("torso")
    for _ in range(12):  # cloth shows less relief than skin
        mean = np.zeros_like(normal)
        for k in range(3):
            np.add.at(mean, body.triangles[:, k], normal[body.triangles].sum(1))
        normal[cloth] = (mean / (np.linalg.norm(mean, axis=1, keepdims=True) + 1e-12))[cloth]
    key = np.array([rng.uniform(-0.6, 0.6), 0.5, 0.8])
    light = 0.42 + 0.62 * np.clip(normal @ (key / np.linalg.norm(key)), 0, 1)
    part = np.maximum(body.part, 1)
    shown = ~np.isin(body.part, [body.part_id(p) for p in ("upperTeeth", "lowerTeeth", "tongue")])
    pixels = np.empty((len(points), 3), np.float32)
    pixels[:, :2] = camera.project(points @ FLIP.T) * over
    pixels[:, 2] = -points[:, 2]
    uv = body.uv.reshape(-1, 2) * [texture.shape[1], -texture.shape[0]] + [0, texture.shape[0]]
    rgba = np.dstack([texture, np.full(texture.shape[:2], 255, np.uint8)])
    triangles = np.arange(len(corners), dtype=np.int32).reshape(-1, 3)[shown]
    mesh = Mesh(
        triangles, uv.astype(np.float32), part[shown], body.vertices[corners], np.ascontiguousarray(rgba)
    )
    target = Target(width * over, height * over)
    target.begin(_backdrop(width * over, height * over, rng))
    target.draw(mesh, pixels, brightness=light[corners].astype(np.float32), cull=True)
    picture = target.rgb.astype(np.float32)
    plain = np.full((1, 1, 4), 255, np.uint8)
    plain[..., :3] = 150
    white = Mesh(
        triangles, np.full((len(corners), 2), 0.5, np.float32), part[shown], body.vertices[corners], plain
    )
    light_map = Target(width * over, height * over)
    light_map.begin(np.zeros((height * over, width * over, 3), np.uint8))
    light_map.draw(white, pixels, brightness=light[corners].astype(np.float32), cull=True)
    _paint(picture, target, light_map.rgb[..., :1].astype(np.float32) / np.float32(150), body, rng)
    small = np.asarray(cv2.resize(picture, size, interpolation=cv2.INTER_AREA), np.float64)
    small += rng.normal(0, 1.5, small.shape)
    return np.clip(np.round(small), 0, 255).astype(np.uint8)


def _backdrop(width: int, height: int, rng: np.random.Generator) -> Bytes:
    coarse = rng.uniform(90, 190, (5, 6, 3)) * 0.25 + rng.uniform(110, 200, 3) * 0.75
    return np.clip(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), 0, 255).astype(
        np.uint8
    )


def _paint(
    picture: npt.NDArray[np.float32],
    target: Target,
    light: npt.NDArray[np.float32],
    body: BodyModel,
    rng: np.random.Generator,
) -> None:
    """Eyes, hair and a shirt, in place, by part and by position on the body at rest, under `light` (H, W, 1)."""
    rest, part = target.position, target.part
    for side in ("Left", "Right"):
        eye = part == body.part_id(f"eye{side}")
        middle = body.vertices[body.part_vertices(f"eye{side}")].mean(0)
        r = np.hypot(rest[..., 0] - middle[0], rest[..., 1] - middle[1])[eye]
        iris = np.where(r[:, None] < 0.0062, [[88, 60, 38]], [[222, 216, 210]])
        picture[eye] = np.where(r[:, None] < 0.0026, [[12, 10, 10]], iris)
    colour = np.array(SHIRTS[rng.integers(len(SHIRTS))], np.float32)
    shoulder = body.joints[body.bones.index("upperArmLeft")]
    cloth = np.isin(part, [body.part_id("torso"), body.part_id("arms")]) & (rest[..., 1] < shoulder[1] + 0.06)
    cloth &= (part != body.part_id("arms")) | (
        rest[..., 1] > body.joints[body.bones.index("wristLeft")][1] + rng.uniform(0.02, 0.12)
    )
    weave = 1 + 0.08 * np.sin(rest[..., :1] * 1400) * np.sin(rest[..., 1:2] * 1400)
    picture[cloth] = (colour * weave * light * 1.3)[cloth]
    head = part == body.part_id("skin")
    hair = head & (
        rest[..., 1]
        > 0.062 + 0.1 * np.minimum(rest[..., 2] + 0.02, 0) + 6 * rest[..., 0] ** 2 * (rest[..., 2] > 0)
    )
    hair |= head & (rest[..., 2] < -0.075) & (rest[..., 1] > -0.05)
    strands = 0.8 + 0.35 * np.sin(rest[..., :1] * 900 + 3 * np.sin(rest[..., 1:2] * 90))
    picture[hair] = (np.array(HAIR[rng.integers(len(HAIR))], np.float32) * strands * light * 1.3)[hair]


def person(seed: int, skins: list[Path], size: tuple[int, int] = (512, 640)) -> tuple[Bytes, dict[str, Any]]:
    """Picture (H, W, 3) and truth of one random person with one or both hands up."""
    rng = np.random.default_rng(seed)
    body = load_body()
    texture = np.asarray(Image.open(skins[int(rng.integers(len(skins)))]).convert("RGB"), np.uint8)
    shape = rng.normal(0, 0.5, len(body.shape))
    camera = Camera.of(*size)
    turns, raised = {}, []
    one = rng.uniform() < 0.5
    chosen = SIDES[int(rng.integers(2))]
    for side in SIDES:
        turns[side] = random_turns(rng, side)
        if one and side != chosen:
            turns[side] = np.zeros((19, 3))
            turns[side][1, 2] = -0.55 if side == "Left" else 0.55
        else:
            raised.append(side)
    head = rotation_matrix([rng.normal(0, 0.06), rng.normal(0, 0.12), rng.normal(0, 0.04)])
    depth = camera.focal * 0.62 / size[1]
    root = np.concatenate([head, np.array([[rng.normal(0, 0.02)], [0.16], [-depth]])], 1)
    world, arms = pose_person(body, shape, root, turns)
    picture = draw(body, world, camera, size, np.ascontiguousarray(texture), rng)
    truth: dict[str, Any] = {
        "shape": shape,
        "root": root,
        "camera": [camera.focal, camera.cx, camera.cy],
        "raised": raised,
    }
    for side in raised:
        truth[f"turns{side}"] = turns[side]
        truth[f"transforms{side}"] = arms[side]
        truth[f"landmarks{side}"] = camera.project(hand_points(side, shape, arms[side]) @ FLIP.T)
    return picture, truth


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="data folder that holds body/skins")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--count", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    skins = sorted((args.data / "body/skins").glob("*.png"))
    args.out.mkdir(parents=True, exist_ok=True)
    for seed in range(args.seed, args.seed + args.count):
        picture, truth = person(seed, skins)
        cv2.imwrite(str(args.out / f"hands{seed}.png"), picture[..., ::-1])
        np.savez_compressed(args.out / f"hands{seed}.npz", **truth)


if __name__ == "__main__":
    main()
