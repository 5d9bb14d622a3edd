"""The rasteriser again, slowly and plainly, in float64 numpy: what kernels/src/raster.cpp must agree with.

Coverage is decided on the same 1/256-pixel grid (that is the contract); values are computed exactly and rounded to 8 bits where
the kernel keeps 8 bits.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SAME_SURFACE = 5e-4
SAME_RAMP = 2e-2


@dataclass
class Scene:
    """One mesh and one pose of it."""

    triangles: NDArray[np.int32]
    uv: NDArray[np.float32]
    part: NDArray[np.uint8]
    attr: NDArray[np.float32]
    texture: NDArray[np.uint8]
    edge_flags: NDArray[np.uint8]
    vertices: NDArray[np.float32]
    perspective: bool = True
    filter: str = "bicubic"
    cull: bool = False
    rest_depth: NDArray[np.float32] | None = None
    brightness: NDArray[np.float32] | None = None


@dataclass
class Fragment:
    depth: float  # 1/z
    color: NDArray[np.int64]  # premultiplied RGBA
    part: int
    ramp: bool
    attr: NDArray[np.float64]

    @property
    def alpha(self) -> int:
        return int(self.color[3])

    @property
    def is_ramp(self) -> bool:
        return self.ramp and self.alpha < 255


@dataclass
class Frame:
    rgb: NDArray[np.uint8]
    coverage: NDArray[np.uint8] = field(init=False)
    part: NDArray[np.uint8] = field(init=False)
    position: NDArray[np.float32] = field(init=False)

    def __post_init__(self) -> None:
        h, w = self.rgb.shape[:2]
        self.rgb = self.rgb.copy()
        self.coverage = np.zeros((h, w), np.uint8)
        self.part = np.zeros((h, w), np.uint8)
        self.position = np.zeros((h, w, 3), np.float32)


def catmull_rom(f: NDArray[np.float64]) -> NDArray[np.float64]:
    """Weights (..., 4) of the texels at -1, 0, 1, 2 for the fractions f (...)."""
    return np.stack(
        [
            -0.5 * f + f**2 - 0.5 * f**3,
            1 - 2.5 * f**2 + 1.5 * f**3,
            0.5 * f + 2 * f**2 - 1.5 * f**3,
            -0.5 * f**2 + 0.5 * f**3,
        ],
        -1,
    )


def fetch(texture: NDArray[np.uint8], u: NDArray, v: NDArray, filter: str) -> NDArray[np.float64]:
    """Premultiplied RGBA (..., 4) in 0..255 at texel positions u, v (...), which are kept to 1/256 texel."""
    t = texture.astype(np.float64)
    t[..., :3] *= t[..., 3:] / 255
    iu, iv = (np.floor((c - 0.5) * 256 + 0.5).astype(np.int64) for c in (u, v))
    fu, fv = (iu & 255) / 256, (iv & 255) / 256
    if filter == "bicubic":
        wu, wv = catmull_rom(fu), catmull_rom(fv)
    else:
        wu, wv = (np.stack([0 * f, 1 - f, f, 0 * f], -1) for f in (fu, fv))
    total = np.zeros((*np.shape(u), 4))
    for a in range(4):
        for b in range(4):
            row = np.clip((iv >> 8) + a - 1, 0, t.shape[0] - 1)
            column = np.clip((iu >> 8) + b - 1, 0, t.shape[1] - 1)
            total += (wv[..., a] * wu[..., b])[..., None] * t[row, column]
    alpha = np.clip(total[..., 3:], 0, 255)
    return np.concatenate([np.clip(total[..., :3], 0, alpha), alpha], -1)


def over(top: NDArray, bottom: NDArray) -> NDArray[np.int64]:
    return np.minimum(255, top + (bottom * (255 - top[3]) + 127) // 255).astype(np.int64)


def merge(top: Fragment, bottom: Fragment) -> Fragment:
    keep = top if top.alpha >= 128 or bottom.alpha < 128 else bottom
    return Fragment(top.depth, over(top.color, bottom.color), keep.part, False, keep.attr)


def near(a: float, b: float, tolerance: float) -> bool:
    return abs(a - b) <= tolerance * max(a, b)


def meet(new: Fragment, old: Fragment) -> str:
    if new.is_ramp and old.is_ramp:
        if near(new.depth, old.depth, SAME_RAMP):
            return "replace" if new.alpha > old.alpha else "drop"
    elif new.is_ramp != old.is_ramp and near(new.depth, old.depth, SAME_SURFACE):
        return "drop" if new.is_ramp else "replace"
    return "both"


def insert(stack: list[Fragment], new: Fragment) -> None:
    """Into at most two layers, nearest first."""
    if new.alpha < 2:
        return
    for level, old in enumerate(stack):
        decision = meet(new, old)
        if decision == "drop":
            return
        if decision == "replace":
            stack[level] = new
            break
        if new.depth > old.depth:
            stack.insert(level, new)
            break
        if old.alpha == 255:
            return
    else:
        stack.append(new)
    for level, layer in enumerate(stack):
        if layer.alpha == 255:
            del stack[level + 1 :]
            break
    if len(stack) > 2:
        stack[1:] = [merge(stack[1], stack[2])]


def draw(frame: Frame, s: Scene) -> None:
    height, width = frame.coverage.shape
    stacks: dict[tuple[int, int], list[Fragment]] = {}
    ys, xs = np.mgrid[0:height, 0:width]
    for t, corners in enumerate(s.triangles):
        xyz = s.vertices[corners].astype(np.float64)
        if not np.isfinite(xyz).all() or (xyz[:, 2] <= 0).any() or (np.abs(xyz[:, :2]) >= 16384).any():
            continue
        fixed = np.floor(xyz[:, :2] * 256 + 0.5).astype(np.int64)
        e1, e2 = fixed[1] - fixed[0], fixed[2] - fixed[0]
        area = e1[0] * e2[1] - e2[0] * e1[1]
        if area == 0 or (s.cull and area > 0):
            continue
        sign = 1 if area > 0 else -1

        outside = []
        for k in range(3):
            a, b = fixed[k], fixed[(k + 1) % 3]
            if sign < 0:
                a, b = b, a
            step_x, step_y = a[1] - b[1], b[0] - a[0]
            e = step_y * (ys * 256 + 128 - a[1]) + step_x * (xs * 256 + 128 - a[0])
            top_left = step_x > 0 or (step_x == 0 and step_y > 0)
            outside.append(e < 0 if top_left else e <= 0)
        inside = ~(outside[0] | outside[1] | outside[2])
        hits = [(inside, np.ones((height, width)), False)]
        for k in range(3):
            if s.edge_flags[t] >> k & 1:
                a, b = xyz[k, :2], xyz[(k + 1) % 3, :2]
                e = b - a
                along = np.clip(((xs + 0.5 - a[0]) * e[0] + (ys + 0.5 - a[1]) * e[1]) / (e @ e), 0, 1)
                gap = np.hypot(xs + 0.5 - a[0] - along * e[0], ys + 0.5 - a[1] - along * e[1])
                hits.append((outside[k] & (gap < 1), 1 - gap, True))

        # value = origin + numerator / denominator, each linear on the screen; kept within the triangle's own range.
        z = xyz[:, 2]
        basis = np.linalg.inv(np.stack([xyz[1, :2] - xyz[0, :2], xyz[2, :2] - xyz[0, :2]], 1))
        local = (np.stack([xs, ys], -1) + 0.5 - xyz[0, :2]) @ basis.T  # barycentric 1 and 2

        def linear(values: NDArray, weights: NDArray, local: NDArray = local) -> NDArray:
            d = (values - values[0]) * weights
            return local[..., 0] * d[1] + local[..., 1] * d[2]

        def within(x: NDArray, values: NDArray) -> NDArray:
            return np.clip(x, values.min(), values.max())

        one = np.ones(3)
        inverse = 1 / z
        depth = within(inverse[0] + linear(inverse, one), inverse)
        q = one
        if s.perspective:
            q = inverse if s.rest_depth is None else s.rest_depth[corners].astype(np.float64) * inverse
        denominator = within(q[0] + linear(q, one), q)
        position = []
        for c in range(2):
            values = s.uv[corners, c].astype(np.float64)
            limit = s.texture.shape[1 - c]
            w = values[0] + linear(values, q) / denominator
            position.append(
                np.clip(w, np.clip(values.min() - 2, 0, limit), np.clip(values.max() + 2, 0, limit))
            )
        weights = inverse if s.perspective else one
        attr = np.stack(
            [
                within(v[0] + linear(v, weights) / (depth if s.perspective else 1), v)
                for v in s.attr[corners].astype(np.float64).T
            ],
            -1,
        )
        color = np.round(fetch(s.texture, *position, s.filter))
        if s.brightness is not None:
            b = s.brightness[corners].astype(np.float64)
            light = np.floor(within(b[0] + linear(b, one), b) * 256 + 0.5) / 256
            color[..., :3] = np.minimum(np.round(color[..., :3] * light[..., None]), color[..., 3:])

        for mask, cover, ramp in hits:
            for y, x in zip(*np.nonzero(mask), strict=True):
                c = color[y, x]
                if ramp:
                    c = np.round(c * np.floor(cover[y, x] * 255 + 0.5) / 255)
                fragment = Fragment(depth[y, x], c.astype(np.int64), int(s.part[t]), ramp, attr[y, x])
                insert(stacks.setdefault((y, x), []), fragment)

    for (y, x), stack in stacks.items():
        for layer in reversed(stack):
            below = np.array([*frame.rgb[y, x], frame.coverage[y, x]], np.int64)
            c = over(layer.color, below)
            frame.rgb[y, x], frame.coverage[y, x] = c[:3], c[3]
        for layer in stack:
            if layer.alpha >= 128:
                frame.part[y, x] = layer.part
                frame.position[y, x] = layer.attr
                break
