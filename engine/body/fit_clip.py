"""Fit the parametric person to the landmarks of a whole clip.

What belongs to the person is known (`person.learn_person`); what remains is movement, which then needs no strong prior: lips reach the true
aperture and closures close. All frames are solved together by Gauss-Newton in bounds, with the pose smoothed over time and the expression
pulled towards its own smoothed course only where the landmarks leave it open.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from visavis.engine.body.fit import (
    FLIP,
    LIDS,
    Camera,
    Fit,
    Float64,
    initial_pose,
    landmark_model,
)
from visavis.engine.body.model import rotation_matrix, rotation_vector
from visavis.engine.body.person import (
    BLINK,
    CORNERS,
    LIP_PAIRS,
    LOOK,
    Person,
    gaze_of,
    landmarks_of,
    look_units,
)
from visavis.engine.motion.channels import ARKIT

Float32 = npt.NDArray[np.float32]

NOISE = 0.008
"""How well single landmarks tell a face's shape, in heights of the face: their own noise is a third of it, but the model's units are not this
person's, and followed to the letter they fight each other."""
GAP_NOISE = 0.0008
"""The same for the distance of two lips or two lids: what the eye reads, and errors go together."""
DEPTH_NOISE = 0.05
GAIN = 2.0
"""Weight of the priors against hundreds of correlated points."""
SYMMETRY = 0.05
"""Standard deviation of the difference of a left and a right unit of the mouth."""
WIDTHS = {
    "mouth": 0.07, "jaw": 0.04, "jawOpen": 0.35, "mouthPucker": 0.2, "mouthFunnel": 0.2, "mouthShrug": 0.05, "mouthLeft": 0.03, "mouthRight": 0.03,
    "cheek": 0.1, "nose": 0.1, "tongueOut": 0.02, "cheekPuff": 0.02, "jawForward": 0.02, "eyeLook": 0.01, "eyeBlink": 0.6, "eye": 0.15, "brow": 0.25,
}  # fmt: skip
"""Standard deviation of units about the landmark network's own guess, by the longest beginning of the name. The network knows by which
units a face moves, not how far: the jaw may go far from its guess, the many units that could open a mouth in its stead may not."""
PIECE = 64
"""Frames solved at once: bounds the memory, not the result."""

_BROWS = np.isin(
    np.arange(478),
    (70, 63, 105, 66, 107, 55, 65, 52, 53, 46, 300, 293, 334, 296, 336, 285, 295, 282, 283, 276),
)
_TWINS = np.array([
    (k, ARKIT.index(name.replace("Left", "Right")))
    for k, name in enumerate(ARKIT) if name.startswith("mouth") and name.endswith("Left") and name != "mouthLeft"
])  # fmt: skip


@dataclass(frozen=True)
class ClipFit:
    """A fitted clip of T frames: `expression` (T, 52) about rest, `rotation` (T, 3), `translation` (T, 3) as in `Fit`, `gaze` (T, 4) in radians
    relative to the head, `error_px` (T,) mean landmark residual."""

    person: Person
    camera: Camera
    expression: Float64
    rotation: Float64
    translation: Float64
    gaze: Float64
    error_px: Float64

    def fit(self, k: int) -> Fit:
        """Frame k as a fit of one picture."""
        return Fit(
            self.person.shape,
            self.expression[k],
            self.rotation[k],
            self.translation[k],
            self.camera,
            float(self.error_px[k]),
        )

    def landmarks_px(self) -> Float64:
        """Where the model has the landmarks in the picture: (T, 478, 2) pixels."""
        local = landmarks_of(self.person, self.expression)
        turn = FLIP @ rotation_matrix(self.rotation)
        return self.camera.project(local @ turn.transpose(0, 2, 1) + self.translation[:, None])


@dataclass
class _State:
    expression: Float64
    turn: Float64
    translation: Float64


@dataclass(frozen=True)
class _Problem:
    """Landmarks of a piece of a clip and everything that does not change between iterations."""

    points: Float64  # (N, 3) neutral of this person
    units: Float64  # (3, N, 52)
    weight: Float64
    landmarks: Float64  # (T, N, 3)
    camera: Camera
    face_px: float
    pairs: npt.NDArray[np.int64]
    low: Float64
    high: Float64
    width: Float64


def _problem(landmarks: npt.NDArray[np.floating], person: Person, camera: Camera) -> _Problem:
    model = landmark_model()
    # lips, lids, brows and the oval count; of the cheeks' and forehead's many points, which move together, every other is enough
    keep = np.flatnonzero((model.weight > 0) & ((model.weight != 1) | (np.arange(478) % 2 == 0) | _BROWS))
    index = {int(v): k for k, v in enumerate(keep)}
    units = model.units[:, keep].copy()
    for side, scale in zip(("Left", "Right"), person.blink, strict=True):
        units[BLINK[side]] *= scale
    pairs = [*LIP_PAIRS, CORNERS]
    for side in ("Left", "Right"):
        pairs += list(zip(LIDS[side][0][2:-2], LIDS[side][1][2:-2], strict=True))
    points = model.mean + np.tensordot(person.shape, model.shape, 1) + person.offset
    low = np.full(52, -0.12)  # rest may hold a trace of a smile that speech undoes
    for name in (
        "jawOpen",
        "mouthClose",
        "mouthPucker",
        "mouthFunnel",
        "eyeBlinkLeft",
        "eyeBlinkRight",
        "tongueOut",
    ):
        low[ARKIT.index(name)] = 0.0
    width = np.array([WIDTHS[max((w for w in WIDTHS if name.startswith(w)), key=len)] for name in ARKIT])
    return _Problem(
        points[keep], np.ascontiguousarray(units.transpose(2, 1, 0)), model.weight[keep],
        np.asarray(landmarks, np.float64)[:, keep], camera, float(np.median(np.ptp(landmarks[:, :468, 1], axis=1))),
        np.array([[index[a], index[b]] for a, b in pairs]), low, np.ones(52), width,
    )  # fmt: skip


def _step(problem: _Problem, state: _State, prior: Float64, pose_free: bool) -> Float64:
    """One Gauss-Newton step in place on all frames of the piece; the mean residual in pixels (T,) before it."""
    frames, count = problem.landmarks.shape[:2]
    focal = problem.camera.focal
    rot = FLIP @ state.turn  # (T, 3, 3)
    local = problem.points + (problem.units @ state.expression.T).transpose(2, 1, 0)  # (T, N, 3)
    turned = local @ rot.transpose(0, 2, 1)
    points = turned + state.translation[:, None]
    x, y, z = np.moveaxis(points, -1, 0)
    seen = np.stack([x, y], -1) / z[..., None] * focal + [problem.camera.cx, problem.camera.cy]
    residual = seen - problem.landmarks[..., :2]
    distance = np.linalg.norm(residual, axis=-1)
    noise, gap = NOISE * problem.face_px, GAP_NOISE * problem.face_px
    robust = np.sqrt(problem.weight) / (1 + (distance / (4 * noise)) ** 2) / noise  # Geman-McClure
    n_pose = 6 if pose_free else 0
    d = np.zeros((frames, 3, count, n_pose + 52), np.float32)  # derivative of points in camera axes
    if pose_free:
        tx, ty, tz = np.moveaxis(turned, -1, 0)
        d[:, 0, :, 1], d[:, 0, :, 2] = tz, -ty
        d[:, 1, :, 0], d[:, 1, :, 2] = -tz, tx
        d[:, 2, :, 0], d[:, 2, :, 1] = ty, -tx
        for axis in range(3):
            d[:, axis, :, 3 + axis] = 1
    d[..., n_pose:] = (rot.astype(np.float32) @ problem.units.reshape(3, -1).astype(np.float32)).reshape(
        frames, 3, count, 52
    )
    scale = (focal / z).astype(np.float32)[..., None]
    ju = scale * (d[:, 0] - (x / z).astype(np.float32)[..., None] * d[:, 2])
    jv = scale * (d[:, 1] - (y / z).astype(np.float32)[..., None] * d[:, 2])
    a, b = problem.pairs.T
    w = robust.astype(np.float32)[..., None]
    rows = [ju * w, jv * w, (ju[:, a] - ju[:, b]) / np.float32(gap), (jv[:, a] - jv[:, b]) / np.float32(gap)]
    between = (residual[:, a] - residual[:, b]) / gap
    values = [residual[..., 0] * robust, residual[..., 1] * robust, between[..., 0], between[..., 1]]
    if pose_free:  # MediaPipe's relative depth tells little, but tells which way the head turns
        pixel = focal / z.mean(1)
        root = np.sqrt(problem.weight) / (DEPTH_NOISE * problem.face_px)
        jz = d[:, 2] - d[:, 2].mean(1, keepdims=True)
        rows.append(jz * (pixel[:, None] * root).astype(np.float32)[..., None])
        depth = problem.landmarks[..., 2]
        values.append(
            (pixel[:, None] * (z - z.mean(1, keepdims=True)) - (depth - depth.mean(1, keepdims=True))) * root
        )
    j = np.concatenate(rows, 1)
    r = np.concatenate(values, 1).astype(np.float32)
    hessian = (j.transpose(0, 2, 1) @ j).astype(np.float64)
    gradient = (j.transpose(0, 2, 1) @ r[..., None])[..., 0].astype(np.float64)
    face = np.arange(n_pose, n_pose + 52)
    hessian[:, face, face] += GAIN / problem.width**2
    gradient[:, face] += GAIN * (state.expression - prior) / problem.width**2
    left, right = _TWINS.T
    tie = GAIN / SYMMETRY**2
    hessian[:, n_pose + left, n_pose + left] += tie
    hessian[:, n_pose + right, n_pose + right] += tie
    hessian[:, n_pose + left, n_pose + right] -= tie
    hessian[:, n_pose + right, n_pose + left] -= tie
    uneven = tie * (state.expression[:, left] - state.expression[:, right])
    gradient[:, n_pose + left] += uneven
    gradient[:, n_pose + right] -= uneven
    everything = np.arange(n_pose + 52)
    hessian[:, everything, everything] *= 1 + 1e-5
    delta = _bounded_step(
        hessian, gradient, n_pose, problem.low - state.expression, problem.high - state.expression
    )
    if pose_free:
        state.turn = FLIP @ rotation_matrix(delta[:, :3]) @ FLIP @ state.turn
        state.translation = state.translation + delta[:, 3:6]
    state.expression = np.clip(state.expression + delta[:, n_pose:], problem.low, problem.high)
    return distance.mean(1)


def _bounded_step(hessian: Float64, gradient: Float64, start: int, low: Float64, high: Float64) -> Float64:
    """Solve H d = -g for each frame; what leaves its bounds (from parameter `start` on) is held there and the rest solved again."""
    n = hessian.shape[-1]
    held = np.zeros(gradient.shape, bool)
    delta = np.zeros_like(gradient)
    diagonal = np.arange(n)
    for _ in range(3):
        free = ~held
        system = hessian * (free[:, :, None] & free[:, None, :])
        system[:, diagonal, diagonal] += held
        fixed = np.where(held, delta, 0.0)
        right = -(gradient + (hessian @ fixed[..., None])[..., 0])
        right = np.where(held, fixed, right)
        delta = np.asarray(np.linalg.solve(system, right[..., None])[..., 0], np.float64)
        wild = (delta[:, start:] < low - 1e-9) | (delta[:, start:] > high + 1e-9)
        if not wild.any():
            break
        delta[:, start:] = np.clip(delta[:, start:], low, high)
        held[:, start:] |= wild
    return delta


def smooth(curves: Float64, sigma: float) -> Float64:
    """Gaussian over time (T, C), zero phase, ends held."""
    reach = max(1, round(3 * sigma))
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    padded = np.concatenate([curves[:1].repeat(reach, 0), curves, curves[-1:].repeat(reach, 0)])
    return np.stack([np.convolve(padded[:, c], kernel, "valid") for c in range(curves.shape[1])], 1)


def fit_clip(
    landmarks: npt.NDArray[np.floating],
    blendshapes: npt.NDArray[np.floating],
    camera: Camera,
    person: Person,
    *,
    pose_sigma: float = 1.2,
    face_sigma: float = 1.2,
) -> ClipFit:
    """Fit `person` to consecutive frames: landmarks (T, 478, 3) in pixels, coefficients (T, 52).

    `pose_sigma` and `face_sigma` are widths in frames of the Gaussians by which the pose is smoothed, and towards which the expression is
    pulled where the landmarks do not tell it.
    """
    marks: Float64 = np.asarray(landmarks, np.float64)
    frames = len(marks)
    guess = 0.8 * np.clip(np.asarray(blendshapes, np.float64) - person.rest, -0.1, 1)
    model = landmark_model()
    points = model.mean + np.tensordot(person.shape, model.shape, 1) + person.offset
    pose = [initial_pose(one, camera, points) for one in marks]
    state = _State(
        np.zeros((frames, 52)), rotation_matrix([p[0] for p in pose]), np.array([p[1] for p in pose])
    )
    pieces = [slice(k, min(k + PIECE, frames)) for k in range(0, frames, PIECE)]
    problems = [_problem(marks[piece], person, camera) for piece in pieces]
    error = np.zeros(frames)

    def solve(prior: Float64, pose_free: bool, times: int) -> None:
        for piece, problem in zip(pieces, problems, strict=True):
            own = _State(state.expression[piece], state.turn[piece], state.translation[piece])
            for _ in range(times):
                error[piece] = _step(problem, own, prior[piece], pose_free)
            state.expression[piece], state.turn[piece] = own.expression, own.turn
            state.translation[piece] = own.translation

    looks = np.concatenate([LOOK["Left"], LOOK["Right"]])
    guess[:, looks] = 0
    state.expression = np.clip(guess, 0, 1)
    solve(guess, True, 3)
    rotation: Float64 = smooth(
        np.array([rotation_vector(turn) for turn in state.turn], np.float64), pose_sigma
    )
    state.translation = smooth(state.translation, pose_sigma)
    state.turn = rotation_matrix(rotation)
    closed = np.maximum(state.expression[:, BLINK["Left"]], state.expression[:, BLINK["Right"]]) > 0.45
    gaze = _clip_gaze(marks, rotation, state.translation, person, camera, closed)
    looked = look_units(gaze - person.gaze)
    guess[:, looks] = state.expression[:, looks] = looked[:, looks]
    solve(guess, False, 2)
    target = 0.5 * guess + 0.5 * smooth(state.expression, face_sigma)
    target[:, looks] = looked[:, looks]
    for k in BLINK.values():  # lids are quick and the landmarks tell them
        target[:, k] = state.expression[:, k]
    solve(target, False, 2)
    expression = _finish_blinks(state.expression)
    return ClipFit(person, camera, expression, rotation, state.translation, gaze, error)


def _clip_gaze(
    landmarks: Float64,
    rotation: Float64,
    translation: Float64,
    person: Person,
    camera: Camera,
    closed: npt.NDArray[np.bool_],
) -> Float64:
    """Gaze (T, 4) with blinks bridged: behind a closed lid the landmark network guesses."""
    gaze = np.array(
        [
            gaze_of(one[:, :2], r, t, person.shape, camera)
            for one, r, t in zip(landmarks, rotation, translation, strict=True)
        ]
    )
    # both eyes look at one point far away: their pitch is one, their yaw differs by a constant
    shared = (gaze.reshape(-1, 2, 2) - person.gaze.reshape(2, 2)).mean(1)
    hidden = closed.copy()
    for shift in (1, 2):
        hidden[shift:] |= closed[:-shift]
        hidden[:-shift] |= closed[shift:]
    if hidden.any() and not hidden.all():
        times, known = np.arange(len(gaze)), np.flatnonzero(~hidden)
        shared = np.stack([np.interp(times, known, shared[known, c]) for c in range(2)], 1)
    return np.tile(smooth(shared, 0.6), 2) + person.gaze


def _finish_blinks(expression: Float64) -> Float64:
    """Blinks that all but close are brought to 1: the landmark network leaves a slit, and 25 frames a second miss the moment."""
    out = expression.copy()
    pair = out[:, [BLINK["Left"], BLINK["Right"]]].mean(1)
    shut = pair > 0.3
    edges = np.flatnonzero(np.diff(np.concatenate([[0], shut.astype(int), [0]])))
    for start, end in edges.reshape(-1, 2):
        peak = pair[start:end].max()
        if peak > 0.6:
            low, high = max(0, start - 1), min(len(out), end + 1)
            for k in BLINK.values():
                top = out[low:high, k].max()
                if top > 0.5:
                    out[low:high, k] = np.minimum(out[low:high, k] / top, 1)
    return out
