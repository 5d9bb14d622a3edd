"""Fit the parametric person to the landmarks of one picture.

Robust Gauss-Newton on pose, shape and expression under a perspective camera, with Gaussian priors on shape and expression (the classic
morphable-model fit of Blanz and Vetter, 1999, on landmarks), all in numpy.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from visavis.engine.body.model import FloatArray, load_body, rotation_matrix
from visavis.engine.motion.channels import ARKIT

Float64 = npt.NDArray[np.float64]

FACE_OVAL = (
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
)  # fmt: skip
LIPS_UPPER_INNER = (78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308)
LIPS_LOWER_INNER = (78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308)
LIPS_OUTER = (61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146)
LIDS = {
    # upper and lower margin of each eye, outer corner first
    "Right": ((33, 246, 161, 160, 159, 158, 157, 173, 133), (33, 7, 163, 144, 145, 153, 154, 155, 133)),
    "Left": ((263, 466, 388, 387, 386, 385, 384, 398, 362), (263, 249, 390, 373, 374, 380, 381, 382, 362)),
}
IRIS = {"Right": (468, 469, 470, 471, 472), "Left": (473, 474, 475, 476, 477)}  # centre first

FLIP = np.diag([1.0, -1.0, -1.0])
"""Model axes (y up, z to the viewer) to camera axes (y down, z away)."""
FOCAL = 2.2
"""Focal length as a multiple of the picture's longer side: a portrait lens."""


@dataclass(frozen=True)
class Camera:
    """A pinhole: focal length and principal point in pixels."""

    focal: float
    cx: float
    cy: float

    @classmethod
    def of(cls, width: int, height: int) -> Camera:
        """The camera assumed for a photo of that size."""
        return cls(FOCAL * max(width, height), width / 2, height / 2)

    def project(self, points: npt.NDArray[np.floating]) -> Float64:
        """Camera-space points (..., 3) to pixels (..., 2)."""
        z = points[..., 2:]
        return points[..., :2] / z * self.focal + [self.cx, self.cy]


@dataclass(frozen=True)
class Fit:
    """One fitted picture. Model point p lies at `FLIP @ (rotation @ p) + translation` in camera space.

    shape (S,), expression (52,) in 0..1, rotation (3,) rotation vector of the head, translation (3,) metres, camera;
    error: mean landmark residual in pixels, before any smooth residual.
    """

    shape: Float64
    expression: Float64
    rotation: Float64
    translation: Float64
    camera: Camera
    error: float

    def to_camera(self, points: npt.NDArray[np.floating]) -> Float64:
        """Model-space points (..., 3) to camera space."""
        return points @ (FLIP @ rotation_matrix(self.rotation)).T + self.translation


@dataclass(frozen=True)
class LandmarkModel:
    """The body model read at the 478 landmarks: mean (478, 3), shape (S, 478, 3), units (52, 478, 3), weight (478,), 0 where unused."""

    mean: Float64
    shape: Float64
    units: Float64
    weight: Float64


@lru_cache(maxsize=1)
def landmark_model() -> LandmarkModel:
    """Read once."""
    body = load_body()
    weight = np.ones(478)
    weight[list(FACE_OVAL)] = 0.5  # the contour slides over the cheek when the head turns
    for lids in LIDS.values():
        for k in (*lids[0], *lids[1]):
            weight[k] = 2.0
    for k in (*LIPS_UPPER_INNER, *LIPS_LOWER_INNER, *LIPS_OUTER):
        weight[k] = 2.0
    weight[468:] = 0.0  # the iris is gaze, not shape
    weight[~body.landmark_known] = 0.0
    return LandmarkModel(
        body.at_landmarks(body.vertices).astype(np.float64),
        body.at_landmarks(body.shape).astype(np.float64),
        body.at_landmarks(body.units).astype(np.float64),
        weight,
    )


# Units that a single picture cannot tell from the pose of the eyes or from shape: held at the prior.
_UNSEEN = ("tongueOut", "cheekPuff", "jawForward")


def initial_pose(landmarks: FloatArray, camera: Camera, points: Float64) -> tuple[Float64, Float64]:
    """Rotation vector and translation from landmarks with MediaPipe's relative depth, by similarity alignment (Umeyama, 1991)."""
    from visavis.engine.body.model import rotation_vector

    keep = landmark_model().weight > 0
    target = landmarks[keep].astype(np.float64)
    source = points[keep] @ FLIP.T
    a, b = source - source.mean(0), target - target.mean(0)
    u, s, vt = np.linalg.svd(b.T @ a)
    sign = np.diag([1, 1, np.sign(np.linalg.det(u @ vt))])
    turn = u @ sign @ vt
    scale = float((s * np.diag(sign)).sum() / (a**2).sum())
    depth = camera.focal / scale
    centre = (target[:, :2].mean(0) - [camera.cx, camera.cy]) / camera.focal * depth
    translation = np.array([*centre, depth]) - turn @ source.mean(0)
    return rotation_vector(FLIP @ turn @ FLIP), translation


def fit_landmarks(
    landmarks: FloatArray,
    camera: Camera,
    *,
    blendshapes: FloatArray | None = None,
    start: Fit | None = None,
    fix_shape: bool = False,
    iterations: int = 12,
    smooth: float = 0.0,
) -> Fit:
    """Fit to landmarks (478, 3) in pixels (z: MediaPipe's relative depth, in pixels as well).

    `blendshapes` (52,) centres the expression prior; `start` continues from an earlier fit (the same person's shape in a video: `fix_shape`);
    `smooth` > 0 pulls pose and expression towards `start`, in units of one landmark's weight.
    """
    model = landmark_model()
    n_shape = len(model.shape)
    shape = np.zeros(n_shape) if start is None else start.shape.copy()
    prior = np.zeros(52) if blendshapes is None else np.clip(np.asarray(blendshapes, np.float64), 0, 1) * 0.8
    expression = prior.copy() if start is None else start.expression.copy()
    if start is None:
        rotation, translation = initial_pose(landmarks, camera, model.mean)
    else:
        rotation, translation = start.rotation.copy(), start.translation.copy()
    turn = rotation_matrix(rotation)
    face_px = float(np.ptp(landmarks[:468, 1]))
    sigma = 0.006 * face_px  # landmark noise
    depth_sigma = 0.05 * face_px
    unit_sigma = np.full(52, 0.22)
    for name in _UNSEEN:
        unit_sigma[ARKIT.index(name)] = 0.02
    root = np.sqrt(model.weight)
    free_shape = 0 if fix_shape else n_shape
    error = 0.0
    for step in range(iterations + 1):
        local = model.mean + np.tensordot(shape, model.shape, 1) + np.tensordot(expression, model.units, 1)
        rot = FLIP @ turn
        turned = local @ rot.T
        points = turned + translation
        residual = camera.project(points) - landmarks[:, :2]
        distance = np.linalg.norm(residual, axis=1)
        keep = model.weight > 0
        error = float(distance[keep].mean())
        if step == iterations:
            break
        # Geman-McClure-like robust weights
        robust = root / (1 + (distance / (4 * sigma)) ** 2)
        n = len(points)
        z = points[:, 2]
        d_project = np.zeros((n, 2, 3))
        d_project[:, 0, 0] = d_project[:, 1, 1] = camera.focal / z
        d_project[:, 0, 2] = -camera.focal * points[:, 0] / z**2
        d_project[:, 1, 2] = -camera.focal * points[:, 1] / z**2
        # depth row: z in pixels against MediaPipe's, both about their means
        pixel = camera.focal / float(z.mean())
        d_rot = -_skew(turned)  # left perturbation in camera axes
        blocks = [d_rot, np.broadcast_to(np.eye(3), (n, 3, 3)), _rotated(model.units, rot)]
        if free_shape:
            blocks.append(_rotated(model.shape, rot))
        d_points = np.concatenate(blocks, 2)  # (n, 3, P)
        j = (d_project @ d_points) * (robust / sigma)[:, None, None]
        r = residual * (robust / sigma)[:, None]
        jz = pixel * d_points[:, 2, :]
        rz = pixel * (z - z.mean()) - (landmarks[:, 2] - landmarks[:468, 2].mean())
        jz = (jz - jz.mean(0)) * (root / depth_sigma)[:, None]
        rz = rz * root / depth_sigma
        jacobian = np.concatenate([j.reshape(-1, j.shape[-1]), jz])
        residuals = np.concatenate([r.reshape(-1), rz])
        hessian = jacobian.T @ jacobian
        gradient = jacobian.T @ residuals
        # priors; the data term counts a hundred-odd strongly correlated points, so the priors are scaled to it
        gain = 3.0
        hessian[np.arange(6, 58), np.arange(6, 58)] += gain / unit_sigma**2
        gradient[6:58] += gain * (expression - prior) / unit_sigma**2
        if free_shape:
            hessian[np.arange(58, 58 + n_shape), np.arange(58, 58 + n_shape)] += gain
            gradient[58:] += gain * shape
        if smooth > 0 and start is not None:
            k = smooth * len(points)
            hessian[np.arange(6, 58), np.arange(6, 58)] += k
            gradient[6:58] += k * (expression - start.expression)
        hessian[np.diag_indices_from(hessian)] += 1e-6 * np.trace(hessian) / len(hessian)
        # bounded units: solve, then re-solve with those that leave 0..1 held at their bound
        delta = np.zeros(len(gradient))
        free = np.ones(len(gradient), bool)
        for _ in range(3):
            delta[free] = -np.linalg.solve(
                hessian[np.ix_(free, free)], (gradient + hessian[:, ~free] @ delta[~free])[free]
            )
            proposed = expression + delta[6:58]
            bad = (proposed < 0) | (proposed > 1)
            if not bad.any():
                break
            delta[6:58] = np.clip(proposed, 0, 1) - expression
            free[6:58] &= ~bad
        # R_cam' = exp(d) R_cam with R_cam = FLIP R
        turn = FLIP @ rotation_matrix(delta[:3]) @ FLIP @ turn
        translation = translation + delta[3:6]
        expression = np.clip(expression + delta[6:58], 0, 1)
        if free_shape:
            shape = np.clip(shape + delta[58:], -3.5, 3.5)
    from visavis.engine.body.model import rotation_vector

    return Fit(shape, expression, rotation_vector(turn), translation, camera, error)


def _rotated(fields: Float64, rot: Float64) -> Float64:
    """Fields (K, N, 3) turned by `rot` (3, 3), as (N, 3, K)."""
    return (fields @ rot.T).transpose(1, 2, 0)


def _skew(v: Float64) -> Float64:
    zero = np.zeros(len(v))
    x, y, z = v.T
    return np.stack([np.stack([zero, -z, y], 1), np.stack([z, zero, -x], 1), np.stack([-y, x, zero], 1)], 1)


def rescale(fit: Fit, scale: float, dx: float, dy: float) -> Fit:
    """The same fit in a picture cropped and scaled: pixel' = pixel * scale + (dx, dy)."""
    camera = fit.camera
    return replace(
        fit,
        camera=Camera(camera.focal * scale, camera.cx * scale + dx, camera.cy * scale + dy),
        error=fit.error * scale,
    )
