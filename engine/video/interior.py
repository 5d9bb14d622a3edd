"""What lies behind the face's openings (and lids before them), and the eyeballs among it.

Eyes are the photo's own pixels, completed under the lids (the iris radially, the white by inpainting), on a sphere that turns. The mouth
is in `visavis.engine.video.mouth`.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import cv2
import numpy as np
import numpy.typing as npt
from visavis.engine.body.fit import IRIS, Fit, Float64
from visavis.engine.body.meet import FittedHead
from visavis.engine.body.model import FloatArray, IntArray, load_body
from visavis.engine.body.surface import Seam, Surface
from visavis.engine.body.triangulate import grid_triangles

Bytes = npt.NDArray[np.uint8]
JAW_UNITS = ("jawForward", "jawLeft", "jawOpen", "jawRight")


@dataclass(frozen=True)
class Layer:
    """One drawable behind the face, or before it where it says `front`, in the surface's world axes.

    vertices (V, 3), uv (V, 2) pixels of texture (Ht, Wt, 4) straight RGBA, triangles (T, 3); part: its label;
    jaw (4, V, 3): displacement by JAW_UNITS at 1; gaze (V,): share of the eyeball's turn (0 outside eyes); centre (3,): the eyeball's centre;
    side: "", "Left" or "Right"; units (52, V, 3): displacement by the face's units, or none of it (0, 0, 3).
    """

    name: str
    side: str
    part: int
    vertices: FloatArray
    uv: FloatArray
    triangles: IntArray
    texture: Bytes
    jaw: FloatArray
    gaze: FloatArray
    centre: FloatArray
    units: FloatArray = field(default_factory=lambda: np.zeros((0, 0, 3), np.float32))
    front: bool = False


def opening_polygon(seam: Seam, px: Float64) -> Float64:
    """Outline (n, 2) of an opening from its vertices' pixels (V, 2): the upper margin, then the lower one back."""
    return np.concatenate([px[seam.upper], px[seam.lower][-2:0:-1]])


def fill_polygon(polygon: Float64, shape: tuple[int, int]) -> npt.NDArray[np.float32]:
    """Antialiased coverage (H, W) in 0..1 of a polygon in pixels."""
    mask = np.zeros((shape[0] * 4, shape[1] * 4), np.uint8)
    cv2.fillPoly(mask, [np.round(polygon * 4 - 0.5).astype(np.int32)], 255)
    small = cv2.resize(mask, (shape[1], shape[0]), interpolation=cv2.INTER_AREA)
    return np.asarray(small, np.float32) / np.float32(255)


def runs(values: Float64, window: int) -> Float64:
    """The odd `window` of values about each (n,), as (n, window); the ends go on as they are."""
    return np.lib.stride_tricks.sliding_window_view(np.pad(values, window // 2, mode="edge"), window)


def eye_layer(
    side: str, photo: Bytes, surface: Surface, head: FittedHead, fit: Fit, landmarks: FloatArray
) -> Layer | None:
    """The eyeball of one side, or None when its opening is not on the surface."""
    seam = surface.seam(f"eye{side}")
    if seam is None:
        return None
    body = load_body()
    px = surface.uv.astype(np.float64)
    polygon = opening_polygon(seam, px)
    low, high = polygon.min(0), polygon.max(0)
    width = float(high[0] - low[0])
    centre_px = (low + high) / 2
    half = np.array([0.72 * width, 0.55 * width])
    x0, y0 = np.floor(centre_px - half - 2).astype(int)
    x1, y1 = np.ceil(centre_px + half + 2).astype(int)
    size = (int(y1 - y0), int(x1 - x0))
    rows, columns = (
        np.clip(np.arange(y0, y1), 0, photo.shape[0] - 1),
        np.clip(np.arange(x0, x1), 0, photo.shape[1] - 1),
    )
    crop = photo[np.ix_(rows, columns)].copy()
    local = polygon - [x0, y0]
    iris = landmarks[list(IRIS[side]), :2].astype(np.float64) - [x0, y0]
    pupil = iris[0]
    radius = max(float(np.linalg.norm(iris[1:] - pupil, axis=1).mean()), 0.16 * width)
    texture = _complete_eye(crop, local, pupil, radius, size)

    # A patch of the sphere, its grid in photo pixels.
    ids = body.part_vertices(f"eye{side}")
    ball = head.vertices[ids].mean(0)
    sphere = 0.5 * float(np.ptp(head.vertices[ids], axis=0).max())
    # the fit of the body leaves the ball a little off the photo's eye: centre it behind the opening
    lid_z = float(surface.vertices[np.concatenate([seam.upper, seam.lower]), 2].max())
    focal = fit.camera.focal
    z_front = min(float(ball[2]) + sphere, lid_z - 0.0005)
    centre = np.array([
        (centre_px[0] - fit.camera.cx) / focal * -(z_front - sphere),
        -(centre_px[1] - fit.camera.cy) / focal * -(z_front - sphere),
        z_front - sphere,
    ])  # fmt: skip
    nx, ny = 17, 13
    gx, gy = np.meshgrid(np.linspace(centre_px[0] - half[0], centre_px[0] + half[0], nx),
                         np.linspace(centre_px[1] - half[1], centre_px[1] + half[1], ny))  # fmt: skip
    grid = np.stack([gx.ravel(), gy.ravel()], 1)
    scale = -z_front / focal
    away = np.linalg.norm(grid - centre_px, axis=1) * scale
    z = centre[2] + np.sqrt(np.maximum(sphere**2 - np.minimum(away, 0.85 * sphere) ** 2, 0))
    vertices = np.stack(
        [(grid[:, 0] - fit.camera.cx) / focal * -z, -(grid[:, 1] - fit.camera.cy) / focal * -z, z], 1
    )
    r = np.linalg.norm(grid - (pupil + [x0, y0]), axis=1) / radius
    t = np.clip((r - 1.2) / 1.6, 0, 1)
    gaze = 1 - 0.75 * t * t * (3 - 2 * t)
    return Layer(
        f"eye{side}", side, body.part_id(f"eye{side}"), vertices.astype(np.float32), (grid - [x0, y0]).astype(np.float32),
        grid_triangles(ny, nx), texture, np.zeros((4, len(grid), 3), np.float32), gaze.astype(np.float32), centre.astype(np.float32),
    )  # fmt: skip


def _complete_eye(
    crop: Bytes, polygon: Float64, pupil: Float64, radius: float, size: tuple[int, int]
) -> Bytes:
    """RGBA of the whole eye: the photo inside the opening, completed iris and white outside."""
    opening = fill_polygon(polygon, size)
    height = float(np.ptp(polygon[:, 1]))
    safe = cv2.erode(opening, np.ones((3, 3)), iterations=max(1, round(0.08 * height))) > 0.9
    yy, xx = np.mgrid[: size[0], : size[1]] + 0.5
    distance = np.hypot(xx - pupil[0], yy - pupil[1])
    disc = distance < radius * 1.08
    white = safe & ~(distance < radius * 1.2)
    smooth = cv2.bilateralFilter(crop, 5, 30, 2)
    if white.sum() > 12:
        seed = np.where(white[..., None], smooth, 0).astype(np.uint8)
        filled = cv2.inpaint(seed, (~white).astype(np.uint8), 5, cv2.INPAINT_TELEA)
        filled = cv2.GaussianBlur(filled, (0, 0), max(1.0, 0.05 * size[1]))
    else:
        inside = opening > 0.5
        tone = np.percentile(crop[inside], 85, axis=0) if inside.any() else np.array([200.0] * 3)
        filled = np.broadcast_to(tone, crop.shape).astype(np.uint8)
    # the white of a real eye lies in the lids' shade: darker away from the opening
    out = filled.astype(np.float32) * 0.96
    # radial profile of the iris from what the lids leave visible
    bins = np.clip((distance / radius * 8).astype(int), 0, 9)
    seen = safe & (bins < 9)
    profile = np.zeros((10, 3), np.float32)
    known = np.zeros(10, bool)
    for k in range(10):
        pick = seen & (bins == k)
        if pick.sum() >= 3:
            profile[k], known[k] = np.median(crop[pick].astype(np.float32), 0), True
    if known.any():
        steps = np.arange(10)
        profile = np.stack([np.interp(steps, steps[known], profile[known, c]) for c in range(3)], 1).astype(
            np.float32
        )
        at = np.clip(distance / radius * 8 - 0.5, 0, 8)
        ring = np.stack([np.interp(at, steps, profile[:, c]) for c in range(3)], -1)
        edge = np.clip((radius * 1.08 - distance) / max(1.0, 0.18 * radius), 0, 1)[..., None]
        out = np.where(disc[..., None], ring * edge + out * (1 - edge), out)
    soft = cv2.dilate(opening, np.ones((3, 3)))[..., None]
    keep = np.clip(soft, 0, 1)
    out = crop * keep + out * (1 - keep)
    return np.dstack([np.clip(out, 0, 255), np.full(size, 255.0)]).astype(np.uint8)


def clear_openings(texture: Bytes, surface: Surface) -> Bytes:
    """The person's layer with lids and lips carried on into the openings: what shows at a margin that has moved is skin, not a
    line of teeth or of the white of the eye. (H, W, 4) to the same."""
    mask = np.zeros(texture.shape[:2], np.float32)
    for seam in surface.seams:
        polygon = opening_polygon(seam, surface.uv.astype(np.float64))
        if float(np.ptp(polygon[:, 1])) > 2:
            mask = np.maximum(mask, fill_polygon(polygon, (texture.shape[0], texture.shape[1])))
    hole = (mask > 0.25).astype(np.uint8)
    if not hole.any():
        return texture
    filled = cv2.inpaint(np.ascontiguousarray(texture[..., :3]), hole, 3, cv2.INPAINT_TELEA)
    out = texture.copy()
    out[..., :3] = np.where(hole[..., None] > 0, filled, texture[..., :3])
    return out
