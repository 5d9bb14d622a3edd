"""Fit of the arms and hands of the body model to the landmarks of a hand and of the body pose.

Robust Gauss-Newton on the rotations of clavicle, upper arm, forearm, wrist and fingers under Gaussian priors on each joint's own axes
(as in "Keep it SMPL", Bogo et al., 2016, with joint-wise priors), from several starts since an elbow's depth is ambiguous in a picture.
Jacobians are differences: all perturbed poses are evaluated in one batch.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from visavis.engine.body.detect import BodyPose
from visavis.engine.body.detect_hands import Hand
from visavis.engine.body.fit import FLIP, Camera, Fit
from visavis.engine.body.model import load_body, rotation_matrix
from visavis.engine.body.rig import FINGERS, arm_bones, arm_parents, chain_transforms, finger_axes, finger_tip

Float64 = npt.NDArray[np.float64]

N_BONES = 19
_CLAVICLE, _UPPER, _FORE, _WRIST, _FIRST_FINGER = 0, 1, 2, 3, 4
_PALM = (0, 1, 5, 9, 13, 17)
# What the network marks, against the rig's joints, in millimetres along `offset_axes`:
# `visavis.engine.training.hand_landmarks` finds it on drawings of known poses.
_OFFSETS = np.array([
    (0.6, 12.0, 3.5), (20.9, 2.2, -1.7), (9.4, 8.9, 3.5), (7.2, -2.1, 4.4), (2.6, -2.1, 2.0),
    (6.7, 6.4, 4.2), (5.3, -1.3, -0.2), (3.3, 0.0, -0.2), (1.4, -1.3, 1.3),
    (12.0, 12.6, 4.5), (3.7, -0.7, 2.3), (2.9, -2.2, 1.4), (2.2, -0.8, 0.5),
    (10.9, 9.9, -0.2), (4.6, 1.9, -0.2), (3.5, 1.8, 0.3), (3.3, -0.6, 2.7),
    (8.2, 4.4, -0.4), (3.6, 0.8, -1.1), (1.4, 3.2, -1.1), (0.2, 1.1, 0.9),
])  # fmt: skip


@dataclass(frozen=True)
class ArmFit:
    """One fitted arm: `side`; `turns` (19, 3) rotation vectors of `arm_bones` in rest axes; `transforms` (19, 3, 4) rest to world;
    `trunk` (3, 4) the same of what carries it; `error_px`: mean distance of the hand's landmarks."""

    side: str
    turns: Float64
    transforms: Float64
    trunk: Float64
    error_px: float


def rest_hand_points(side: str, shape: Float64) -> tuple[Float64, Float64]:
    """MediaPipe's 21 hand landmarks on the body at rest (21, 3), and their shares (21, 19) of the bones of `arm_bones`."""
    body = load_body()
    names = arm_bones(side)
    joints = body.joints + np.tensordot(shape, body.shape_joints, 1)
    vertices = body.vertices + np.tensordot(shape, body.shape, 1)
    at = {b: joints[body.bones.index(b)] for b in names}
    points, shares = np.zeros((21, 3)), np.zeros((21, len(names)))
    points[0], shares[0, _WRIST] = at[f"wrist{side}"], 1
    for f, finger in enumerate(FINGERS):
        j = [at[f"{finger}{k}{side}"] for k in (1, 2, 3)]
        tip = finger_tip(side, finger, vertices)
        if finger == "thumb":
            row = [j[0], j[1], j[2], j[2] + 0.85 * (tip - j[2])]
        else:  # the rig's first joint lies where the finger leaves the palm, the landmark at the knuckle
            row = [j[0] - 0.75 * (j[1] - j[0]), j[1], j[2], j[2] + 0.8 * (tip - j[2])]
        points[1 + 4 * f : 5 + 4 * f] = row
        shares[1 + 4 * f, _WRIST] = 1
        for k in range(3):
            shares[2 + 4 * f + k, _FIRST_FINGER + 3 * f + k] = 1
    for k, bone in enumerate(shares.argmax(1)):
        points[k] += offset_axes(side, names[bone]).T @ _OFFSETS[k] * 1e-3
    return points, shares


def offset_axes(side: str, bone: str) -> Float64:
    """Unit vectors (3, 3) as rows in rest axes: towards the palm, along the bone, sideways; mirrored between the two hands."""
    bend, _, own = finger_axes(side)[bone]
    palmward = np.cross(bend, own)
    return np.stack([palmward, own, np.cross(palmward, own) * (1 if side == "Left" else -1)])


def hand_points(side: str, shape: Float64, transforms: Float64) -> Float64:
    """The hand's landmarks (..., 21, 3) in world axes under rest-to-posed `transforms` (..., 19, 3, 4)."""
    points, shares = rest_hand_points(side, shape)
    blended = np.einsum("vj,...jab->...vab", shares, transforms)
    return np.asarray(np.einsum("...vab,vb->...va", blended[..., :3], points) + blended[..., 3])


def fit_arm(fit: Fit, hand: Hand, pose: BodyPose, face_px: float) -> ArmFit:
    """The arm of `hand` on the body of `fit`; all in the pixels of the fit's camera. `face_px`: height of the face."""
    body = load_body()
    ids = [body.bones.index(b) for b in arm_bones(hand.side)]
    joints = body.joints + np.tensordot(fit.shape, body.shape_joints, 1)
    trunk = _fit_trunk(fit, joints, pose, face_px)
    problem = _Problem.of(hand, fit, joints[ids], trunk, face_px)
    palm = np.isin(np.arange(21), _PALM)
    starts = problem.starts()
    coarse = [problem.solve(start, palm, free=problem.coarse, iterations=7) for start in starts]
    coarse.sort(key=lambda found: found[1])
    best = min(
        (problem.solve(found[0], np.ones(21, bool), free=problem.all, iterations=14) for found in coarse[:2]),
        key=lambda found: found[1],
    )
    turns, transforms = problem.posed(best[0])
    points = problem.camera.project(hand_points(hand.side, fit.shape, transforms) @ FLIP.T)
    error = float(np.linalg.norm(points - hand.landmarks[:, :2], axis=1).mean())
    return ArmFit(hand.side, turns, transforms, trunk, error)


def _head_transform(fit: Fit) -> Float64:
    """Rest to world (3, 4) of the head, whose pose the face was fitted with."""
    return np.concatenate([FLIP @ FLIP @ rotation_matrix(fit.rotation), (FLIP @ fit.translation)[:, None]], 1)


def _fit_trunk(fit: Fit, joints: Float64, pose: BodyPose, face_px: float) -> Float64:
    """Rest to world (3, 4) of the trunk: the head's, turned about the base of the neck and sized so that the shoulders meet the pose's."""
    body = load_body()
    head = _head_transform(fit)
    neck = joints[body.bones.index("neck")]
    shoulders = joints[[body.bones.index("upperArmLeft"), body.bones.index("upperArmRight")]]
    marks = pose.landmarks[[11, 12]].astype(np.float64)
    sigma_px = 0.10 * face_px / np.sqrt(np.clip(pose.visibility[[11, 12]].astype(np.float64), 0.05, 1))
    prior = np.array([0.25, 0.25, 0.2, 0.12])
    upright = -rotation_vector_of(head[:, :3]) * [0.5, 0.6, 1.0]  # trunks turn less than heads

    def placed(p: Float64) -> Float64:
        local = rotation_matrix(p[:3]) * np.exp(p[3])
        move = neck - local @ neck
        return np.concatenate([head[:, :3] @ local, (head[:, :3] @ move + head[:, 3])[:, None]], 1)

    def residuals(p: Float64) -> Float64:
        world = shoulders @ placed(p)[:, :3].T + placed(p)[:, 3]
        px = fit.camera.project(world @ FLIP.T)
        away = (px - marks[:, :2]) / sigma_px[:, None]
        centre = np.append(upright, 0.0)
        # of the two shoulders' distances from the camera, the pose knows which is nearer
        depth = (
            -(world[0, 2] - world[1, 2]) * fit.camera.focal / -world[:, 2].mean()
            - (marks[0, 2] - marks[1, 2])
        ) / (0.6 * face_px)
        return np.concatenate([away.ravel(), [depth], (p - centre) / prior])

    p = np.append(upright, 0.0)
    for _ in range(8):
        r = residuals(p)
        jacobian = np.stack([(residuals(p + step) - r) / 1e-4 for step in 1e-4 * np.eye(4)], 1)
        p = p - np.linalg.solve(jacobian.T @ jacobian, jacobian.T @ r)
    return placed(p)


def rotation_vector_of(matrix: Float64) -> Float64:
    """Rotation vector (3,) of a rotation (3, 3)."""
    from visavis.engine.body.model import rotation_vector

    return rotation_vector(matrix)


@dataclass(frozen=True)
class _Problem:
    """What a pose of one arm is judged by. Parameters: (19, 3) rotations along each joint's own axes, log sizes of arm and hand.

    basis (19, 3, 3): rows are a joint's axes (bend, across, along); mean, sigma (59,): priors.
    """

    hand: Hand
    camera: Camera
    joints: Float64
    trunk: Float64
    basis: Float64
    mean: Float64
    sigma: Float64
    rest: Float64
    shares: Float64
    face_px: float

    @classmethod
    def of(cls, hand: Hand, fit: Fit, joints: Float64, trunk: Float64, face_px: float) -> _Problem:
        side = hand.side
        axes = finger_axes(side)
        basis = np.empty((N_BONES, 3, 3))
        upper, fore = joints[_FORE] - joints[_UPPER], joints[_WRIST] - joints[_FORE]
        upper, fore = upper / np.linalg.norm(upper), fore / np.linalg.norm(fore)
        bend = np.cross(upper, fore)
        bend /= np.linalg.norm(bend)
        basis[_CLAVICLE] = np.eye(3)
        basis[_UPPER] = np.stack([bend, np.cross(upper, bend), upper])
        basis[_FORE] = np.stack([bend, np.cross(fore, bend), fore])
        basis[_WRIST] = axes[f"wrist{side}"]
        mean, sigma = np.zeros((N_BONES, 3)), np.zeros((N_BONES, 3))
        sigma[_CLAVICLE] = 0.12
        sigma[_UPPER] = (1.2, 1.2, 0.8)
        mean[_FORE], sigma[_FORE] = (0.7, 0.0, 0.0), (0.9, 0.06, 0.8)
        sigma[_WRIST] = (0.5, 0.3, 0.3)
        for f, finger in enumerate(FINGERS):
            for k in range(3):
                row = _FIRST_FINGER + 3 * f + k
                basis[row] = axes[f"{finger}{k + 1}{side}"]
                if finger == "thumb":
                    sigma[row] = (0.35, 0.35, 0.2) if k == 0 else (0.45, 0.12, 0.08)
                else:
                    mean[row, 0] = 0.2
                    sigma[row] = (0.6, 0.16, 0.08) if k == 0 else (0.6, 0.05, 0.04)
        rest, shares = rest_hand_points(side, fit.shape)
        return cls(
            hand, fit.camera, joints, trunk, basis, np.append(mean, [0, 0]), np.append(sigma, [0.10, 0.08]), rest, shares, face_px
        )  # fmt: skip

    @property
    def all(self) -> npt.NDArray[np.bool_]:
        """All parameters are free."""
        return np.ones(len(self.mean), bool)

    @property
    def coarse(self) -> npt.NDArray[np.bool_]:
        """All but the fingers' parameters are free."""
        free = self.all
        free[3 * _FIRST_FINGER : 3 * N_BONES] = False
        return free

    def starts(self) -> list[Float64]:
        """Arms hanging, held forward and out, with several bends and twists of the elbow, as parameters (59,)."""
        out = []
        sign = 1.0 if self.hand.side == "Left" else -1.0
        for raise_, swing in ((0.0, -0.5), (-0.5, -0.3), (-0.3, 0.3)):
            world = np.array([raise_, 0.0, sign * swing])
            for bend in (0.6, 1.7):
                for twist in (-0.7, 0.7):
                    p = self.mean.copy()
                    p[3 * _UPPER : 3 * _UPPER + 3] = self.basis[_UPPER] @ world
                    p[3 * _FORE : 3 * _FORE + 3] = (bend, 0.0, twist)
                    out.append(p)
        return out

    def posed(self, p: Float64) -> tuple[Float64, Float64]:
        """Rotation vectors (..., 19, 3) and transforms (..., 19, 3, 4) of parameters (..., 59)."""
        local = p[..., : 3 * N_BONES].reshape(*p.shape[:-1], N_BONES, 3)
        turns = np.einsum("...jk,jkl->...jl", local, self.basis)
        scales = np.ones((*p.shape[:-1], N_BONES))
        scales[..., _UPPER], scales[..., _WRIST] = np.exp(p[..., -2]), np.exp(p[..., -1])
        matrices = rotation_matrix(turns)
        return turns, chain_transforms(self.joints, arm_parents(self.hand.side), matrices, self.trunk, scales)

    def residuals(self, p: Float64, use: npt.NDArray[np.bool_]) -> Float64:
        """(B, R) for parameters (B, 59): hand in the picture, hand in depth, elbow and shoulder in the picture; then the priors."""
        _, transforms = self.posed(p)
        blended = np.einsum("vj,bjac->bvac", self.shares, transforms)
        points = np.einsum("bvac,vc->bva", blended[..., :3], self.rest) + blended[..., 3]
        marks, size = self.hand.landmarks.astype(np.float64), max(self.hand.size, 0.25 * self.face_px)
        away = (self.camera.project(points @ FLIP.T) - marks[:, :2]) / (0.045 * size)
        per_metre = self.camera.focal / np.maximum(-points[..., 2], 0.05)
        depth = (-(points[..., 2] - points[:, :1, 2]) * per_metre - (marks[:, 2] - marks[0, 2])) / (
            0.22 * size
        )
        where = np.stack([
            np.einsum("bac,c->ba", transforms[:, k, :, :3], self.joints[k]) + transforms[:, k, :, 3] for k in (_UPPER, _FORE)
        ], 1)  # fmt: skip
        sigma = 0.12 * self.face_px / np.sqrt(np.clip(self.hand.arm_seen[:2].astype(np.float64), 0.02, 1))
        arm = (self.camera.project(where @ FLIP.T) - self.hand.arm[:2]) / sigma[:, None]
        weight = use.astype(np.float64)
        prior = (p - self.mean) / self.sigma
        return np.concatenate(
            [(away * weight[:, None]).reshape(len(p), -1), depth * weight, arm.reshape(len(p), -1), prior], 1
        )

    def solve(
        self, start: Float64, use: npt.NDArray[np.bool_], *, free: npt.NDArray[np.bool_], iterations: int
    ) -> tuple[Float64, float]:
        """Parameters and cost after damped Gauss-Newton from `start`."""
        p, step = start.copy(), 1e-4
        which = np.nonzero(free)[0]
        damping = 1e-2
        r = self.residuals(p[None], use)[0]
        cost = _cost(r, len(p))
        for _ in range(iterations):
            tries = np.tile(p, (len(which), 1))
            tries[np.arange(len(which)), which] += step
            jacobian = ((self.residuals(tries, use) - r) / step).T
            robust = _robust(r, len(p))
            hessian = jacobian.T @ (jacobian * robust[:, None])
            gradient = jacobian.T @ (robust * r)
            hessian[np.diag_indices_from(hessian)] *= 1 + damping
            delta = np.linalg.solve(hessian, -gradient)
            delta *= min(1.0, 0.7 / max(float(np.abs(delta).max()), 1e-9))
            proposed = p.copy()
            proposed[which] += delta
            new = self.residuals(proposed[None], use)[0]
            new_cost = _cost(new, len(p))
            if new_cost < cost:
                done = cost - new_cost < 1e-4 * cost
                p, r, cost, damping = proposed, new, new_cost, damping * 0.3
                if done:
                    break
            else:
                damping *= 8
        return p, cost


def _robust(r: Float64, n_prior: int) -> Float64:
    """Geman-McClure weights of the data's residuals; priors count fully."""
    weight = 1 / (1 + (r / 4) ** 2) ** 2
    weight[-n_prior:] = 1
    return weight


def _cost(r: Float64, n_prior: int) -> float:
    data, prior = r[:-n_prior], r[-n_prior:]
    return float((data**2 / (1 + (data / 4) ** 2)).sum() + (prior**2).sum())
