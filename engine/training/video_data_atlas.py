"""The texture of one rendered person: skin with fine detail, iris, hair, brows, lashes, shirt, teeth, gums and tongue in one atlas."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

Float64 = npt.NDArray[np.float64]
Bytes = npt.NDArray[np.uint8]
SIZE = 2048  # of the skin in the atlas; the other textures lie to its right
ATLAS = (2048, 3584)
PATCHES = {  # name: x, y, width, height in the atlas
    "skin": (0, 0, 2048, 2048), "eyes": (2048, 0, 1024, 1024), "hair": (2048, 1024, 1024, 1024),
    "cloth": (3072, 0, 512, 512), "brows": (3072, 512, 512, 512), "lashes": (3072, 1024, 512, 512),
    "teeth": (3072, 1536, 128, 128), "gums": (3200, 1536, 128, 128), "tongue": (3328, 1536, 128, 128),
}  # fmt: skip


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
