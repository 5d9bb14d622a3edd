"""Flat pieces of a photo or of a model that lie behind the lips, and how they go with them."""

from __future__ import annotations

import numpy as np
from visavis.engine.body.fit import Fit, Float64
from visavis.engine.body.model import IntArray, load_body
from visavis.engine.body.surface import Seam, Surface
from visavis.engine.video.interior import Bytes, Layer


def sheet(
    turn: Float64,
    name: str,
    points: Float64,
    uv: Float64,
    triangles: IntArray,
    texture: Bytes,
    jaw: Float64,
    part: str,
    units: Float64 | None = None,
) -> Layer:
    """A layer of the mouth from points (V, 3) in the head's own axes; `jaw` (4, 3) or (4, V, 3) by JAW_UNITS, `units` (52, V, 3) by the face's: in world axes."""
    jaw_field = np.broadcast_to(jaw[:, None, :] if jaw.ndim == 2 else jaw, (4, len(points), 3))
    return Layer(
        name, "", load_body().part_id(part), (points @ turn.T).astype(np.float32), uv.astype(np.float32), triangles, texture,
        np.ascontiguousarray(jaw_field, np.float32), np.zeros(len(points), np.float32), np.zeros(3, np.float32),
        np.zeros((0, 0, 3), np.float32) if units is None else units.astype(np.float32),
    )  # fmt: skip


def on_plane(px: Float64, fit: Fit, plane: float, turn: Float64) -> Float64:
    """Points (n, 3) in the camera's axes that a photo shows at px (n, 2), on the plane z = `plane` of the head's own axes."""
    camera = fit.camera
    ray = np.stack(
        [(px[:, 0] - camera.cx) / camera.focal, -(px[:, 1] - camera.cy) / camera.focal, -np.ones(len(px))], 1
    )
    return np.asarray(ray * (plane / (ray @ turn[:, 2]))[:, None])


def lips_at(surface: Surface, seam: Seam, x: Float64) -> tuple[Float64, Float64]:
    """What the face's units do to the upper and to the lower lip's margin (52, n, 3) at the photo's columns x (n,) in pixels."""

    def along(margin: IntArray) -> Float64:
        px = surface.uv[margin, 0].astype(np.float64)
        order = np.argsort(px)
        moved = surface.units[:, margin[order]].astype(np.float64)
        right = np.clip(np.searchsorted(px[order], x), 1, len(margin) - 1)
        low, high = px[order][right - 1], px[order][right]
        share = np.clip((x - low) / np.maximum(high - low, 1e-9), 0, 1)[:, None]
        return np.asarray(moved[:, right - 1] * (1 - share) + moved[:, right] * share)

    return along(seam.upper), along(seam.lower)
