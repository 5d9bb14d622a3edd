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
from visavis.kernels import Mesh, Target

Float64 = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
SIZE = 2048  # of the skin in the atlas; the other textures lie to its right
ATLAS = (2048, 3584)
PATCHES = {  # name: x, y, width, height in the atlas
    "skin": (0, 0, 2048, 2048), "eyes": (2048, 0, 1024, 1024), "hair": (2048, 1024, 1024, 1024),
    "cloth": (3072, 0, 512, 512), "brows": (3072, 512, 512, 512), "lashes": (3072, 1024, 512, 512),
    "teeth": (3072, 1536, 128, 128), "gums": (3200, 1536, 128, 128), "tongue": (3328, 1536, 128, 128),
}  # fmt: skip
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


# --- the atlas


def person_atlas(
    data: Path,
    skin: Path,
    hair: Path | None,
    rng: np.random.Generator,
    brow_rows: Float64,
    lash_uv: list[Float64],
) -> Bytes:
    """The texture (2048, 3584, 4) of one person.

    data: the folder of body assets; brow_rows, lash_uv: texture coordinates of brows (n, 2) and of each row of lashes (n, 2).
    """
    atlas = np.zeros((*ATLAS, 4), np.uint8)
    atlas[..., 3] = 255

    def put(name: str, image: npt.NDArray[np.floating]) -> None:
        x, y, w, h = PATCHES[name]
        atlas[y : y + h, x : x + w, : image.shape[-1]] = np.clip(image, 0, 255)

    small = cv2.imread(str(skin), cv2.IMREAD_COLOR)[..., ::-1]
    big = cv2.resize(small, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC).astype(np.float32)
    put("skin", _skin_detail(big, rng))
    eyes = cv2.cvtColor(
        cv2.imread(str(data / "eyes/brown_eye.png"), cv2.IMREAD_UNCHANGED), cv2.COLOR_BGRA2RGBA
    )
    put("eyes", _iris(eyes.astype(np.float32), rng))
    tone = np.array(
        [[35, 25, 20], [70, 48, 33], [110, 75, 45], [160, 125, 80], [130, 70, 40], [150, 148, 145]]
    )
    hair_colour = tone[rng.integers(len(tone))] * rng.uniform(0.7, 1.25)
    if hair is not None:
        picture = cv2.imread(str(hair), cv2.IMREAD_UNCHANGED).astype(np.float32)
        picture = cv2.resize(picture, (1024, 1024), interpolation=cv2.INTER_CUBIC)
        grey = picture[..., :3].mean(-1)
        seen = picture[..., 3] > 200
        level = grey / max(float(grey[seen].mean()), 5.0)
        colour = hair_colour * np.clip(level, 0.2, 2.5)[..., None]
        put("hair", np.dstack([colour, np.clip(1.1 * picture[..., 3] - 10, 0, 255)]))
    base, side = rng.uniform(20, 235, 3), 512
    weave = rng.normal(0, 3, (side, side, 1)) + cv2.resize(rng.normal(0, 12, (9, 9)), (side, side), interpolation=cv2.INTER_CUBIC)[..., None]  # fmt: skip
    cloth = base + weave
    if rng.random() < 0.4:
        stripe = np.sin(np.arange(side) * rng.uniform(0.1, 0.6)) > 0
        other = rng.uniform(20, 235, 3)
        cloth = np.where(stripe[:, None, None] if rng.random() < 0.5 else stripe[None, :, None], cloth, other + weave)  # fmt: skip
    y, x = np.mgrid[:side, :side] / side
    neckline = 0.16 + rng.uniform(0.2, 1.6) * np.clip(0.22 - np.abs(x - 0.5), 0, None) * rng.uniform(0.5, 1)
    alpha = np.clip((y - neckline) * side / 2, 0, 1) * 255
    put("cloth", np.dstack([cloth, alpha]))
    put("brows", _strokes(brow_rows, hair_colour * 0.6, rng, count=int(rng.integers(250, 700)), lashes=False))
    lashes = [
        _strokes(row, np.array([18.0, 14, 12]), rng, count=int(rng.integers(18, 50)), lashes=True)
        for row in lash_uv
    ]
    put("lashes", max(lashes, key=lambda a: a[..., 3].sum()) if len(lashes) == 1 else _merge(lashes))
    enamel = np.array([250, 243, 226]) * rng.uniform(0.9, 1.02) * (1 + rng.normal(0, 0.02, 3))
    flesh = np.array([196, 110, 108]) * rng.uniform(0.65, 1.05)
    for name, colour, grain in (
        ("teeth", enamel, 3),
        ("gums", flesh, 6),
        ("tongue", flesh * [1, 0.95, 0.95], 9),
    ):
        noise = cv2.GaussianBlur(rng.normal(0, grain, (128, 128, 1)), (0, 0), 1.2)[..., None] * 2
        put(name, np.broadcast_to(colour, (128, 128, 3)) + noise)
    return atlas


def _merge(layers: list[npt.NDArray[np.float64]]) -> npt.NDArray[np.float64]:
    out = layers[0].copy()
    for layer in layers[1:]:
        out[..., 3] = np.maximum(out[..., 3], layer[..., 3])
    return out


def _skin_detail(skin: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """The skin with pores, blotches and a few moles that its 512 pixels cannot hold."""
    out = skin * (rng.uniform(0.9, 1.15) * (1 + rng.normal(0, 0.03, 3))).astype(np.float32)
    x0, y0, x1, y1 = 1250, 330, 2040, 1760  # the head in the skin's layout
    head = out[y0:y1, x0:x1]
    for sigma, strength in ((0.8, 0.022), (2.0, 0.018), (6.0, 0.015)):
        noise = cv2.GaussianBlur(rng.standard_normal(head.shape[:2], np.float32), (0, 0), sigma)
        head *= 1 + np.float32(rng.uniform(0.3, 1.2) * strength / noise.std()) * noise[..., None]
    freckles = rng.random() < 0.3
    x0, y0, x1, y1 = 1500, 700, 2000, 1350  # around the face
    for _ in range(int(rng.integers(120, 400)) if freckles else int(rng.integers(0, 14))):
        centre = (int(rng.integers(x0, x1)), int(rng.integers(y0, y1)))
        radius = int(rng.integers(1, 4 if freckles else 6))
        spot = np.zeros((41, 41), np.float32)
        cv2.circle(spot, (20, 20), radius, 1.0, -1)
        spot = cv2.GaussianBlur(spot, (0, 0), 0.5 + radius / 4)[..., None]
        region = out[centre[1] - 20 : centre[1] + 21, centre[0] - 20 : centre[0] + 21]
        if region.shape[:2] == (41, 41):
            region *= 1 - spot * np.array([0.25, 0.38, 0.42]) * rng.uniform(0.3, 1.0)
    return out


def _iris(eyes: npt.NDArray[np.float32], rng: np.random.Generator) -> npt.NDArray[np.float32]:
    """The eye texture with an iris of another colour."""
    hsv = cv2.cvtColor(eyes[..., :3] / 255, cv2.COLOR_RGB2HSV)
    iris = np.clip((hsv[..., 1] - 0.45) / 0.2, 0, 1)[..., None]
    grey = eyes[..., :3].max(-1, keepdims=True)
    colours = np.array(
        [[95, 60, 35], [60, 40, 25], [75, 105, 135], [90, 110, 75], [110, 120, 125], [120, 85, 45]]
    )
    tint = colours[rng.integers(len(colours))] * rng.uniform(0.8, 1.3)
    out = eyes.copy()
    out[..., :3] = eyes[..., :3] * (1 - iris) + iris * grey / 90 * tint
    out[..., :3] *= 1 - 0.1 * rng.random()
    return out


def _strokes(
    uv: Float64, colour: Float64, rng: np.random.Generator, *, count: int, lashes: bool
) -> npt.NDArray[np.float64]:
    """Hairs (512, 512, 4) scattered over texture coordinates `uv` (n, 2): brows lie along their row, lashes stand across it."""
    alpha = np.zeros((1024, 1024), np.uint8)
    px = np.stack([uv[:, 0], 1 - uv[:, 1]], 1) * 1024
    for _ in range(count):
        a, b = px[rng.integers(len(px), size=2)]
        if not lashes and np.linalg.norm(a - b) > 200:
            b = a
        start = a + rng.normal(0, 6, 2) if lashes else (a + b) / 2 + rng.normal(0, 14, 2)
        if lashes:
            length, angle = rng.uniform(60, 120), rng.normal(np.pi / 2, 0.25)
        else:
            length, angle = rng.uniform(40, 90), rng.normal(0.5 if start[0] < 512 else -0.5, 0.35)
        end = start + length * np.array([np.cos(angle), -np.sin(angle)])
        cv2.line(alpha, tuple(np.round(start * 8).astype(int).tolist()), tuple(np.round(end * 8).astype(int).tolist()), 255, 3, cv2.LINE_AA, 3)  # fmt: skip
    small = cv2.resize(alpha, (512, 512), interpolation=cv2.INTER_AREA).astype(np.float64)
    return np.dstack([np.broadcast_to(colour, (512, 512, 3)), 0.9 * small])


def turned(points: Float64, weight: Float64, vector: Float64, pivot: Float64) -> Float64:
    """Points (n, 3) turned about `pivot` by a rotation vector, each by its weight (n,)."""
    moved = (points - pivot) @ rotation_matrix(vector).T + pivot
    return points + weight[:, None] * (moved - points)
