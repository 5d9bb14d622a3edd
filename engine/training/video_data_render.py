"""Rendered people: the MakeHuman base mesh with skin, eyes, teeth, tongue, brows, lashes, hair and a shirt, as one shaded picture.

Everything lies in one texture atlas and is drawn as one depth-buffered group by our rasteriser; normals come out as its position map, so that
diffuse light, speculars and the dark of the mouth are computed a pixel. Pictures are drawn at twice their size and averaged.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from visavis.engine.body.model import rotation_matrix
from visavis.engine.training.bake_body import load_obj
from visavis.engine.training.video_data_atlas import PATCHES
from visavis.kernels import Mesh, Target

Float64 = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
KINDS = (
    "background",
    "skin",
    "eyes",
    "teeth",
    "gums",
    "tongue",
    "brows",
    "lashes",
    "hair",
    "cloth",
    "cavity",
)
KIND = {name: k for k, name in enumerate(KINDS)}


@dataclass(frozen=True)
class Fitting:
    """A MakeHuman asset bound to the base mesh: each vertex is a mean of three base vertices plus an offset scaled by three distances."""

    corners: npt.NDArray[np.int64]
    weights: Float64
    offsets: Float64
    scales: tuple[tuple[int, int, float], ...]

    @classmethod
    def read(cls, path: Path) -> Fitting:
        """Parse a `.mhclo` file."""
        scales: dict[str, tuple[int, int, float]] = {}
        rows: list[list[float]] = []
        reading = False
        for line in path.read_text().splitlines():
            words = line.split()
            if not words or words[0].startswith("#"):
                continue
            if words[0] in ("x_scale", "y_scale", "z_scale"):
                scales[words[0][0]] = (int(words[1]), int(words[2]), float(words[3]))
            elif words[0] == "verts":
                reading = True
            elif reading and words[0].lstrip("-").isdigit():
                values = [float(w) for w in words]
                if len(values) == 1:
                    values = [values[0]] * 3 + [1, 0, 0, 0, 0, 0]
                rows.append((values + [0, 0, 0])[:9])
            elif rows:  # a list of vertices to delete may follow
                break
        table = np.array(rows)
        return cls(
            table[:, :3].astype(int),
            table[:, 3:6],
            table[:, 6:9],
            tuple(scales.get(axis, (0, 1, 1.0)) for axis in "xyz"),
        )

    def place(self, base: Float64) -> Float64:
        """Vertices (n, 3) on a base mesh (N, 3)."""
        size = [abs(base[a, axis] - base[b, axis]) / over for axis, (a, b, over) in enumerate(self.scales)]
        return np.einsum("nc,nck->nk", self.weights, base[self.corners]) + self.offsets * size


@dataclass(frozen=True)
class Piece:
    """One asset: its faces as triangles with texture coordinates (0..1, v upwards), and a part of the atlas for each triangle."""

    kind: npt.NDArray[np.int64]
    triangles: npt.NDArray[np.int64]
    uv: npt.NDArray[np.int64]
    uv_points: Float64
    fitting: Fitting | None

    @classmethod
    def read(cls, path: Path, kind: str) -> Piece:
        """`path`.obj and `path`.mhclo."""
        _, texture, quads, texture_quads, _ = load_obj(path.with_suffix(".obj"))
        fitting = Fitting.read(path.with_suffix(".mhclo"))
        triangles, uv = _split(quads), _split(texture_quads)
        return cls(np.full(len(triangles), KIND[kind]), triangles, uv, texture, fitting)


def _split(quads: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    return np.concatenate([quads[:, [0, 1, 2]], quads[:, [0, 2, 3]]])


def components(count: int, triangles: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """A label for each of `count` vertices: connected pieces of a mesh."""
    label = np.arange(count)
    while True:
        low = label[triangles].min(1)
        before = label.copy()
        for k in range(3):
            np.minimum.at(label, triangles[:, k], low)
        label = label[label]
        if (label == before).all():
            return label


def teeth_piece(path: Path) -> Piece:
    """Teeth and gums: the largest connected piece is the gums."""
    piece = Piece.read(path, "teeth")
    label = components(int(piece.triangles.max()) + 1, piece.triangles)
    gums = np.bincount(label).argmax()
    kind = np.where(label[piece.triangles[:, 0]] == gums, KIND["gums"], KIND["teeth"])
    return Piece(kind, piece.triangles, piece.uv, piece.uv_points, piece.fitting)


@dataclass
class Light:
    """Light on a person: key direction and strength, fill, colour, gloss of the skin."""

    key: Float64
    strength: float
    fill: float
    colour: Float64
    gloss: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Light:
        """A random studio, window or office."""
        key = np.array([rng.normal(0, 0.6), abs(rng.normal(0.45, 0.3)), 1.0])
        warm = rng.normal(0, 0.06)
        return cls(
            key / np.linalg.norm(key), rng.uniform(0.3, 0.65), rng.uniform(0.4, 0.65),
            np.array([1 + warm, 1.0, 1 - warm]), rng.uniform(0.05, 0.3),
        )  # fmt: skip


class PersonMesh:
    """One person's drawable: pieces over a base mesh, one atlas.

    `pieces` are placed on the base mesh in order; the first one is the skin, whose vertices are the base mesh's own.
    """

    def __init__(self, pieces: list[Piece], counts: list[int], atlas: Bytes) -> None:
        self.starts = np.concatenate([[0], np.cumsum(counts)])
        self.source_triangles = np.concatenate(
            [piece.triangles + start for piece, start in zip(pieces, self.starts, strict=False)]
        )
        kind = np.concatenate([piece.kind for piece in pieces])
        vertex, uv, triangles, used = [], [], [], 0
        for piece, start in zip(pieces, self.starts, strict=False):
            keys = np.stack(
                [piece.triangles + start, piece.uv, np.broadcast_to(piece.kind[:, None], piece.uv.shape)], -1
            )
            unique, inverse = np.unique(keys.reshape(-1, 3), axis=0, return_inverse=True)
            vertex.append(unique[:, 0])
            uv.append(_in_atlas(piece.uv_points[unique[:, 1]], unique[:, 2]))
            triangles.append(inverse.reshape(-1, 3) + used)
            used += len(unique)
        self.vertex = np.concatenate(vertex)
        self._uv = np.concatenate(uv).astype(np.float32)
        self._triangles = np.concatenate(triangles).astype(np.int32)
        self.kind = kind
        self.vertex_kind = np.zeros(int(self.starts[-1]), np.int64)
        self.vertex_kind[self.source_triangles.ravel()] = np.repeat(kind, 3)
        self._atlas = atlas

    def normals(self, points: Float64) -> Float64:
        """Vertex normals (N, 3) of all pieces."""
        t = self.source_triangles
        face = np.cross(points[t[:, 1]] - points[t[:, 0]], points[t[:, 2]] - points[t[:, 0]])
        flat = np.zeros_like(points)
        for k in range(3):
            for axis in range(3):
                flat[:, axis] += np.bincount(t[:, k], face[:, axis], len(points))
        return flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-12)

    def draw(
        self,
        points: Float64,
        camera: tuple[float, float, float],
        plate: Bytes,
        light: Light,
        dark: Float64,
        box: tuple[int, int, int, int] | None = None,
    ) -> Bytes:
        """The picture (H, W, 3): points (N, 3) in world axes (y up, the camera at the origin looks along -z), camera (focal, cx, cy) for
        the plate (H, W, 3); dark (N,): what ambient occlusion leaves of the light, 0..1; box (x0, y0, x1, y1): draw there alone."""
        height, width = plate.shape[:2]
        focal, cx, cy = (2 * v for v in camera)
        normal = self.normals(points)[self.vertex].astype(np.float32)
        mesh = Mesh(self._triangles, self._uv, self.kind.astype(np.uint8), normal, self._atlas)
        depth = np.maximum(-points[:, 2], 0.05)
        screen = np.stack([cx + focal * points[:, 0] / depth, cy - focal * points[:, 1] / depth, depth], 1)
        target = Target(2 * width, 2 * height)
        target.begin(np.zeros((2 * height, 2 * width, 3), np.uint8))
        target.draw(
            mesh, screen[self.vertex].astype(np.float32), filter="bilinear", brightness=dark[self.vertex].astype(np.float32)
        )  # fmt: skip
        return _lit(target, plate, light, box or (0, 0, width, height))


_GLOSS = {"skin": (1.0, 18), "eyes": (0.9, 120), "teeth": (0.35, 40), "gums": (0.3, 40), "tongue": (0.15, 25), "hair": (0.1, 20)}  # fmt: skip


def _lit(target: Target, plate: Bytes, light: Light, box: tuple[int, int, int, int]) -> Bytes:
    """Light on what was drawn, inside `box` (x0, y0, x1, y1 in the plate's pixels); outside it the plate stays."""
    x0, y0, x1, y1 = box
    cut = np.s_[2 * y0 : 2 * y1, 2 * x0 : 2 * x1]
    part, cover = target.part[cut], target.coverage[cut]
    seen = part > 0
    n = target.position[cut][seen]
    n /= np.linalg.norm(n, axis=-1, keepdims=True) + np.float32(1e-6)
    kind = part[seen]
    lambert = n @ light.key.astype(np.float32)
    soft = np.where(kind == KIND["skin"], np.float32(0.25), np.float32(0.1))  # light bleeds around in skin
    diffuse = np.maximum((lambert + soft) / (1 + soft), 0)
    sky = np.float32(0.75) + np.float32(0.25) * n[..., 1] + np.float32(0.15) * n[..., 2]
    half = light.key + [0, 0, 1]
    shine = n @ (half / np.linalg.norm(half)).astype(np.float32)
    gloss, power = np.zeros(len(KINDS), np.float32), np.full(len(KINDS), 12, np.float32)
    for name, (value, exponent) in _GLOSS.items():
        gloss[KIND[name]], power[KIND[name]] = value * (light.gloss if name == "skin" else 1), exponent
    highlight = gloss[kind] * np.exp(power[kind] * np.minimum(shine - 1, 0))  # cos^n for small angles
    albedo = target.rgb[cut].astype(np.float32)
    own = albedo[seen]
    level = np.float32(light.fill) * sky + np.float32(light.strength) * diffuse
    visible = np.minimum(own.max(-1) * np.float32(1.5 / 255), 1)
    albedo[seen] = (
        own * (level[:, None] * light.colour.astype(np.float32)) + (highlight * visible * 255)[:, None]
    )
    rest = 1 - cover.astype(np.float32) / 255
    behind = cv2.resize(plate[y0:y1, x0:x1], (2 * (x1 - x0), 2 * (y1 - y0)), interpolation=cv2.INTER_LINEAR)
    albedo += rest[..., None] * behind
    small = cv2.resize(albedo, (x1 - x0, y1 - y0), interpolation=cv2.INTER_AREA)
    # a shoulder instead of a clip: bright skin keeps its drawing
    over = np.maximum(small - 200, 0)
    small = np.minimum(small, 200) + 55 * (1 - np.exp(-over / 55))
    out = plate.copy()
    out[y0:y1, x0:x1] = np.clip(np.rint(small), 0, 255)
    return out


def _in_atlas(uv: Float64, kind: npt.NDArray[np.int64]) -> Float64:
    out = np.zeros_like(uv)
    for k, name in enumerate(KINDS):
        patch = PATCHES.get("skin" if name == "cavity" else name)
        if patch is None:
            continue
        at = kind == k
        x, y, w, h = patch
        out[at, 0] = x + np.clip(uv[at, 0] * w, 0.5, w - 0.5)
        out[at, 1] = y + np.clip((1 - uv[at, 1]) * h, 0.5, h - 0.5)
    return out


def turned(points: Float64, weight: Float64, vector: Float64, pivot: Float64) -> Float64:
    """Points (n, 3) turned about `pivot` by a rotation vector, each by its weight (n,)."""
    moved = (points - pivot) @ rotation_matrix(vector).T + pivot
    return points + weight[:, None] * (moved - points)
