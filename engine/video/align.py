"""Lay an avatar's mouth on a picture pixel by pixel: the last step of fitting an avatar to a film of its own person.

Landmarks tell where a mouth is to a pixel or two, and a warp that lies a pixel off is wrong wherever the skin has detail. Here the photo's own
colours at a few thousand points of lips and skin around are compared with the picture where the motion puts them, and the motion of mouth, jaw,
cheeks, nose and head is moved until they agree (direct alignment after Lucas and Kanade, 1981: Gauss-Newton, coarse to fine, robust). Light
that changes slowly over the face does not count. How far the lips are parted stays near what the landmarks say: the skin does not show it.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt
from visavis.engine.avatar import Avatar
from visavis.engine.body.fit import LIPS_OUTER
from visavis.engine.body.model import FloatArray, load_body, rotation_matrix, rotation_vector
from visavis.engine.body.person import LIP_PAIRS
from visavis.engine.body.sampling import sampled
from visavis.engine.motion.channels import ARKIT, FACE_SLICE, HEAD_SLICE, TRANSLATION_SLICE
from visavis.engine.video.point_rig import Float64, PointRig, turned

Bytes = npt.NDArray[np.uint8]
SPACING = 2.0
"""Pixels between points."""
REACH = 0.16
"""How far around the lips skin counts, in heights of the face."""
MOVED = ("mouth", "jaw", "cheek", "nose")
"""Beginnings of the names of the face units that may move."""
LEVELS = (3.0, 1.2)
"""Widths in pixels of the Gaussians under which pictures are compared, coarse to fine."""
ITERATIONS = 3
NOISE = 6.0
"""Standard deviation of a colour (0..255) that was put in the right place."""
REDUNDANCY = 30.0
"""So many numbers (points times colours) tell as much as one: neighbours err together."""
UNIT_PRIOR, TURN_PRIOR, PLACE_PRIOR = 0.1, 0.01, 0.001
"""Standard deviations from the motion given: of units, of the head's turn in radians and of its place in metres."""
PARTING_PX = 2.0
"""Standard deviation of the lips' parting from the landmarks'."""
LEAST_FACING = 0.25


def _known_landmarks(avatar: Avatar) -> tuple[npt.NDArray[np.int64], FloatArray]:
    """Surface vertices (478, 3) of MediaPipe's landmarks, -1 where the surface has not got them, and shares (478, 3)."""
    body, surface = load_body(), avatar.surface
    local = np.full(len(body.vertices), -1)
    local[surface.face_of] = np.arange(len(surface.face_of))
    return local[body.triangles[body.landmark_triangle]], body.landmark_bary


def _points(avatar: Avatar) -> tuple[npt.NDArray[np.int64], Float64]:
    """Points on lips and skin around, spread evenly in the photo: vertices (S, 3) and shares (S, 3)."""
    surface = avatar.surface
    uv, vertices, faces = surface.uv.astype(np.float64), surface.vertices, len(surface.face_of)
    face = np.isin(surface.part, [load_body().part_id(name) for name in ("skin", "lips")])
    triangles = surface.triangles[face].astype(np.int64)
    corners, bary = _known_landmarks(avatar)
    lips = corners[list(LIPS_OUTER)]
    outline = cv2.convexHull(np.einsum("lck,lc->lk", uv[lips], bary[list(LIPS_OUTER)]).astype(np.float32))
    reach = REACH * float(np.ptp(uv[:faces, 1]))
    near = np.array(
        [cv2.pointPolygonTest(outline, (float(x), float(y)), True) > -reach for x, y in uv[triangles].mean(1)]
    )
    p = vertices[triangles].astype(np.float64)
    normal, view = np.cross(p[:, 1] - p[:, 0], p[:, 2] - p[:, 0]), -p.mean(1)
    facing = (normal * view).sum(1)
    facing /= np.linalg.norm(normal, axis=1) * np.linalg.norm(view, axis=1) + 1e-18
    a, b = uv[triangles[:, 1]] - uv[triangles[:, 0]], uv[triangles[:, 2]] - uv[triangles[:, 0]]
    area = 0.5 * np.abs(a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0])
    kept = (
        near & (facing > LEAST_FACING) & (area > 0.3)
    )  # rolled-in rims show in one picture and not in the next
    triangles, area = triangles[kept], area[kept]
    of = np.repeat(np.arange(len(triangles)), np.maximum(1, np.rint(area / SPACING**2)).astype(int))
    at = np.random.default_rng(0).random((len(of), 2))
    at = np.where(at.sum(1, keepdims=True) > 1, 1 - at, at)
    return triangles[of], np.column_stack([1 - at.sum(1), at])


def _blurred(picture: Bytes, sigma: float) -> FloatArray:
    return np.asarray(cv2.GaussianBlur(picture.astype(np.float32), (0, 0), sigma), np.float32)


@dataclass(frozen=True, eq=False)
class Alignment:
    """An avatar's points, and what the photo shows there at each of the LEVELS."""

    rig: PointRig
    parting: PointRig
    colours: tuple[Float64, ...]
    units: npt.NDArray[np.int64]
    lowest: Float64
    highest: Float64

    @classmethod
    def of(cls, avatar: Avatar, photo: Bytes) -> Alignment:
        """`photo` (H, W, 3): the avatar's photo in its own frame."""
        if photo.shape[:2] != (avatar.height, avatar.width):
            raise ValueError(
                f"photo is {photo.shape[:2]}, the avatar's frame {(avatar.height, avatar.width)}"
            )
        corners, shares = _points(avatar)
        uv = np.einsum("sck,sc->sk", avatar.surface.uv[corners].astype(np.float64), shares)
        marks, bary = _known_landmarks(avatar)
        pairs = np.array([p for p in LIP_PAIRS if (marks[list(p)] >= 0).all()]).T.ravel()
        own = avatar.fit.expression.astype(np.float64)
        units = np.array([k for k, name in enumerate(ARKIT) if name.startswith(MOVED)])
        return cls(
            PointRig.on(avatar, corners, shares), PointRig.on(avatar, marks[pairs], bary[pairs]),
            tuple(sampled(_blurred(photo, sigma), uv) for sigma in LEVELS), units,
            (-own - 0.15)[units], np.maximum(1 - own, 0.5)[units],
        )  # fmt: skip

    def refine(self, picture: Bytes, motion: FloatArray) -> FloatArray:
        """The motion (N_CHANNELS,) near `motion` that lays the mouth on `picture` (H, W, 3), a frame of the avatar's own size."""
        given = np.asarray(motion, np.float64)
        x = given.copy()
        for sigma, colours in zip(LEVELS, self.colours, strict=True):
            image = _blurred(picture, sigma)
            slopes = tuple(
                np.asarray(cv2.Scharr(image, cv2.CV_32F, *axis) / 32, np.float32) for axis in ((1, 0), (0, 1))
            )
            for _ in range(ITERATIONS):
                self._step(x, given, image, slopes, colours)
        return x.astype(np.float32)

    def _step(
        self,
        x: Float64,
        given: Float64,
        image: FloatArray,
        slopes: tuple[FloatArray, ...],
        colours: Float64,
    ) -> None:
        """One Gauss-Newton step of `x`, in place."""
        count = len(self.units)
        world, turn = self.rig.world(x)
        px = self.rig.pixels(world)
        moves = self.rig.derivatives(x, world, turn, self.units)
        jacobian = moves[..., :1] * sampled(slopes[0], px) + moves[..., 1:] * sampled(slopes[1], px)
        residual = sampled(image, px) - colours
        off = np.abs(residual - np.median(residual, 0)).mean(1)
        weight = 1 / (1 + (off / (3 * NOISE)) ** 2) ** 2
        # light: what is a plane over the mouth, for each colour, is taken out of everything
        plane = np.column_stack([np.ones(len(px)), (px - px.mean(0)) / np.ptp(px, axis=0)])
        weighted = plane * weight[:, None]
        fitted = np.linalg.solve(weighted.T @ plane, weighted.T)
        residual = residual - plane @ (fitted @ residual)
        jacobian = jacobian - plane @ (fitted @ jacobian)
        rows = (jacobian * np.sqrt(weight)[:, None]).reshape(len(jacobian), -1)
        values = (residual * np.sqrt(weight)[:, None]).ravel()
        noise = NOISE**2 * REDUNDANCY
        hessian, gradient = rows @ rows.T / noise, rows @ values / noise
        self._keep_parting(x, given, hessian, gradient)
        prior = np.repeat([1 / UNIT_PRIOR**2, 1 / TURN_PRIOR**2, 1 / PLACE_PRIOR**2], [count, 3, 3])
        away = rotation_matrix(x[HEAD_SLICE]) @ rotation_matrix(given[HEAD_SLICE]).T
        gradient += prior * np.concatenate(
            [(x - given)[FACE_SLICE][self.units], rotation_vector(away), (x - given)[TRANSLATION_SLICE]]
        )
        step = -np.linalg.solve(hessian + np.diag(prior), gradient)
        face = x[FACE_SLICE]
        face[self.units] = np.clip(face[self.units] + step[:count], self.lowest, self.highest)
        turned(x, step[count : count + 3])
        x[TRANSLATION_SLICE] += step[count + 3 :]

    def _keep_parting(self, x: Float64, given: Float64, hessian: Float64, gradient: Float64) -> None:
        """Add the distances of the lips' margins, as `given` has them, to the normal equations."""
        world, turn = self.parting.world(x)
        moves = self.parting.derivatives(x, world, turn, self.units)
        half = len(self.parting.vertices) // 2
        rows = (moves[:, :half] - moves[:, half:]).reshape(len(moves), -1) / PARTING_PX
        changed = self.parting.pixels(world) - self.parting.project(given)
        values = (changed[:half] - changed[half:]).ravel() / PARTING_PX
        hessian += rows @ rows.T
        gradient += rows @ values
