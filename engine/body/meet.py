"""From a fit to a head that meets the photo: a smooth residual carries the body onto the landmarks, its lips and lids onto the photo's."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from visavis.engine.body.fit import FLIP, Fit, Float64
from visavis.engine.body.model import FloatArray, load_body, rotation_matrix
from visavis.engine.body.seams import Chain, openings


@dataclass(frozen=True)
class FittedHead:
    """The body model in world axes after the fit and the smooth residual: vertices (Vb, 3), joints (J, 3), units (52, Vb, 3)."""

    vertices: Float64
    joints: Float64
    units: Float64
    up: Float64
    residual_px: float


def _kernel(a: Float64, b: Float64, sigma: float) -> Float64:
    squared = (a**2).sum(1)[:, None] + (b**2).sum(1)[None] - 2 * a @ b.T
    return np.exp(-np.sqrt(np.maximum(squared, 0)) / sigma)


def spread(at: Float64, values: Float64, to: Float64, sigma: float, ridge: float = 1e-3) -> Float64:
    """Radial interpolation of `values` (n, 3) known `at` (n, 3) `to` other points, fading to zero away from them."""
    gram = _kernel(at, at, sigma)
    gram[np.diag_indices_from(gram)] += ridge
    return _kernel(to, at, sigma) @ np.linalg.solve(gram, values)


def _smooth_chain(values: Float64, rounds: int = 2) -> Float64:
    out = values.copy()
    for _ in range(rounds):
        out[1:-1] = 0.25 * out[:-2] + 0.5 * out[1:-1] + 0.25 * out[2:]
    return out


def _margin_targets(chain: Chain, landmarks: Float64) -> Float64:
    """Where the photo shows the vertices of a margin: (n, 2) pixels."""
    marks = landmarks[list(chain.landmarks), :2]
    return _smooth_chain(
        np.stack([np.interp(chain.parameter, chain.landmark_parameter, marks[:, k]) for k in range(2)], 1)
    )


def meet_landmarks(fit: Fit, landmarks: FloatArray, *, closed_gap: float = 0.035) -> FittedHead:
    """Displace the fitted body smoothly so that it meets the landmarks (478, 3) and its lip and lid margins the photo's.

    Lips nearer than `closed_gap` of the mouth's width are taken as closed.
    """
    body = load_body()
    marks = landmarks.astype(np.float64)
    shaped = body.vertices + np.tensordot(fit.shape, body.shape, 1)
    joints = body.joints + np.tensordot(fit.shape, body.shape_joints, 1)
    posed = shaped + np.tensordot(fit.expression, body.units, 1)
    turn = rotation_matrix(fit.rotation)
    world = (fit.to_camera(posed)) @ FLIP.T
    known = body.landmark_known.copy()
    known[468:] = False
    rest = body.vertices.astype(np.float64)
    head = body.part_vertices("skin")

    def to_pixels(points: Float64) -> Float64:
        return fit.camera.project(points @ FLIP.T)

    def displacement(points: Float64, target: Float64) -> Float64:
        wanted = np.zeros_like(points)
        wanted[:, :2] = (target - to_pixels(points)) * (-points[:, 2:] / fit.camera.focal) * [1, -1]
        return wanted

    for _ in range(2):
        at = body.at_landmarks(world.astype(np.float32)).astype(np.float64)[known]
        source = body.at_landmarks(body.vertices).astype(np.float64)[known]
        world[head] += spread(source, displacement(at, marks[known, :2]), rest[head], 0.03, 0.02)
    for opening in openings():
        upper, lower = (_margin_targets(c, marks) for c in (opening.upper, opening.lower))
        if opening.name == "mouth":
            width = float(np.linalg.norm(upper[-1] - upper[0]))
            span = np.linspace(0, 1, 41)
            both = [
                np.stack([np.interp(span, c.parameter, t[:, k]) for k in range(2)], 1)
                for c, t in ((opening.upper, upper), (opening.lower, lower))
            ]
            gap = float((both[1] - both[0])[10:31, 1].mean())
            if gap < closed_gap * width:
                middle = (both[0] + both[1]) / 2
                upper, lower = (
                    np.stack([np.interp(c.parameter, span, middle[:, k]) for k in range(2)], 1)
                    for c in (opening.upper, opening.lower)
                )
        ids = np.concatenate([opening.upper.vertices, opening.lower.vertices[1:-1]])
        target = np.concatenate([upper, lower[1:-1]])
        target[0] = (upper[0] + lower[0]) / 2
        target[len(upper) - 1] = (upper[-1] + lower[-1]) / 2
        world[head] += spread(rest[ids], displacement(world[ids], target), rest[head], 0.004, 1e-4)
    at = body.at_landmarks(world.astype(np.float32)).astype(np.float64)
    error = np.linalg.norm(to_pixels(at) - marks[:, :2], axis=1)[known]
    rotate = FLIP @ FLIP @ turn  # model to world is the head's rotation alone
    units = body.units.astype(np.float64) @ rotate.T
    world_joints = fit.to_camera(joints) @ FLIP.T
    return FittedHead(world, world_joints, units, rotate @ np.array([0.0, 1.0, 0.0]), float(error.mean()))
