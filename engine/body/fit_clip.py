"""Fit the parametric person to the landmarks of a whole clip: what of a face is the person, and what is movement.

A morphable model never meets a face exactly. In a single picture the difference is spread over pose, shape and expression; in a clip most of it
stays the same and belongs to the person: how these lips close, how far these eyes are open. `learn_person` measures it at rest (lips
together, eyes open) as an offset a landmark, so that rest is expression 0 and what remains is movement, which then needs no strong prior: lips
reach the true aperture and closures close. All frames are solved together by Gauss-Newton in bounds, with the pose smoothed over time and the
expression pulled towards its own smoothed course only where the landmarks leave it open.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from visavis.engine.body.fit import (
    FLIP,
    IRIS,
    LIDS,
    LIPS_LOWER_INNER,
    LIPS_UPPER_INNER,
    Camera,
    Fit,
    Float64,
    fit_landmarks,
    initial_pose,
    landmark_model,
)
from visavis.engine.body.model import load_body, rotation_matrix, rotation_vector
from visavis.engine.motion.channels import ARKIT

Float32 = npt.NDArray[np.float32]

LIP_PAIRS = ((13, 14), (82, 87), (312, 317), (81, 178), (311, 402))
CORNERS = (61, 291)
BLINK = {side: ARKIT.index(f"eyeBlink{side}") for side in ("Left", "Right")}
_LOOK = {
    side: [ARKIT.index(f"eyeLook{way}{side}") for way in ("Down", "Up", "Out", "In")]
    for side in ("Left", "Right")
}

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

_TWINS = np.array([
    (k, ARKIT.index(name.replace("Left", "Right")))
    for k, name in enumerate(ARKIT) if name.startswith("mouth") and name.endswith("Left") and name != "mouthLeft"
])  # fmt: skip


@dataclass(frozen=True)
class Person:
    """What stays the same of one person: `shape` (60,), `offset` (478, 3) of the landmarks in model axes and metres, `blink` (2,) how much further
    than the model's the left and right upper lid travels, `rest` (52,) the landmark network's coefficients at rest, `gaze` (4,) of the irises
    when the eyes rest."""

    shape: Float64
    offset: Float64
    blink: Float64
    rest: Float64
    gaze: Float64


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


@lru_cache(maxsize=1)
def _eyes() -> dict[str, tuple[Float64, Float64, float]]:
    """Of each eyeball: centre (3,), its shift with each shape component (S, 3), radius."""
    body = load_body()
    out = {}
    for side in ("Left", "Right"):
        ids = body.part_vertices(f"eye{side}")
        vertices = body.vertices[ids].astype(np.float64)
        shift = body.shape[:, ids].astype(np.float64).mean(1)
        out[side] = (vertices.mean(0), shift, 0.5 * float(np.ptp(vertices, axis=0).max()))
    return out


def aperture(landmarks: npt.NDArray[np.floating]) -> Float64:
    """Gap between the lips (T,) of landmarks (T, 478, 2 or 3), in distances between the outer eye corners."""
    p = np.asarray(landmarks, np.float64)[..., :2]
    gap = np.mean([np.linalg.norm(p[:, a] - p[:, b], axis=1) for a, b in LIP_PAIRS[:3]], axis=0)
    return gap / np.linalg.norm(p[:, 33] - p[:, 263], axis=1)


def mouth_width(landmarks: npt.NDArray[np.floating]) -> Float64:
    """Distance of the mouth's corners (T,) in the same unit."""
    p = np.asarray(landmarks, np.float64)[..., :2]
    return np.linalg.norm(p[:, CORNERS[0]] - p[:, CORNERS[1]], axis=1) / np.linalg.norm(
        p[:, 33] - p[:, 263], axis=1
    )


def eye_openness(landmarks: npt.NDArray[np.floating]) -> Float64:
    """Gap between the lids over the eye's width (T, 2): left, right."""
    p = np.asarray(landmarks, np.float64)[..., :2]
    out = []
    for side in ("Left", "Right"):
        upper, lower = (np.array(chain[2:-2]) for chain in LIDS[side])
        gap = np.linalg.norm(p[:, upper] - p[:, lower], axis=2).mean(1)
        out.append(gap / np.linalg.norm(p[:, LIDS[side][0][0]] - p[:, LIDS[side][0][-1]], axis=1))
    return np.stack(out, 1)


def rest_frames(landmarks: npt.NDArray[np.floating], most: int = 24) -> npt.NDArray[np.int64]:
    """Frames in which the lips are as closed as they get and the eyes open, spread over the clip(s)."""
    gap, eyes = aperture(landmarks), eye_openness(landmarks).mean(1)
    closed = gap <= np.percentile(gap, 15)
    open_eyes = eyes >= 0.9 * np.percentile(eyes, 60)
    good = np.flatnonzero(closed & open_eyes)
    if len(good) < 3:
        good = np.argsort(gap + 0.3 * np.maximum(0, np.percentile(eyes, 60) - eyes))[:3]
    return np.unique(good[np.linspace(0, len(good) - 1, min(most, len(good))).astype(int)])


def learn_person(
    landmarks: npt.NDArray[np.floating], blendshapes: npt.NDArray[np.floating], camera: Camera
) -> Person:
    """The person from landmarks (T, 478, 3) and coefficients (T, 52) of one clip or of several laid end to end."""
    model = landmark_model()
    rest = rest_frames(landmarks)
    few = rest[np.linspace(0, len(rest) - 1, min(5, len(rest))).astype(int)]
    fits = [fit_landmarks(landmarks[k], camera, blendshapes=blendshapes[k]) for k in few]
    shape = np.median([fit.shape for fit in fits], axis=0)
    held = np.median([fit.expression for fit in fits], axis=0)
    neutral = model.mean + np.tensordot(shape, model.shape, 1)
    posed = neutral + np.tensordot(held, model.units, 1)
    offsets, gazes = [], []
    for k in rest:
        start = Fit(shape, held, *initial_pose(landmarks[k], camera, posed), camera, 0.0)
        one = fit_landmarks(
            landmarks[k], camera, blendshapes=blendshapes[k], start=start, fix_shape=True, iterations=4
        )
        offsets.append(_local_residual(landmarks[k], one, neutral))
        gazes.append(_gaze(landmarks[k, :, :2], one.rotation, one.translation, shape, camera))
    offset = np.median(offsets, axis=0)
    _shut_lips(offset, np.asarray(landmarks, np.float64), rest)
    met = neutral + offset
    blink = []
    for side in ("Left", "Right"):
        upper, lower = (np.array(chain[2:-2]) for chain in LIDS[side])
        unit = model.units[BLINK[side]]
        travel = (unit[lower, 1] - unit[upper, 1]).mean()
        blink.append(float(np.clip((met[upper, 1] - met[lower, 1]).mean() / max(travel, 1e-4), 0.3, 2.0)))
    return Person(
        shape, offset, np.array(blink), np.median(np.asarray(blendshapes)[rest], 0), np.median(gazes, 0)
    )


def _shut_lips(offset: Float64, landmarks: Float64, rest: npt.NDArray[np.int64]) -> None:
    """Take from the offsets what the inner lips are apart at rest beyond the clip's closed moments, half from each lip: coefficients cannot
    close lips further than rest, so rest must be closed."""
    p = landmarks[..., :2]
    unit = np.linalg.norm(landmark_model().mean[33] - landmark_model().mean[263])
    scale = unit / np.linalg.norm(p[:, 33] - p[:, 263], axis=1)
    for upper, lower in zip(LIPS_UPPER_INNER[1:-1], LIPS_LOWER_INNER[1:-1], strict=True):
        gap = (p[:, lower, 1] - p[:, upper, 1]) * scale
        spare = max(0.0, float(np.median(gap[rest]) - np.percentile(gap, 3)))
        offset[upper, 1] -= spare / 2
        offset[lower, 1] += spare / 2


def _local_residual(landmarks: npt.NDArray[np.floating], fit: Fit, neutral: Float64) -> Float64:
    """How far the landmarks lie from the neutral model, parallel to the picture, in model axes (478, 3)."""
    points = fit.to_camera(neutral)
    away = np.zeros_like(points)
    away[:, :2] = (landmarks[:, :2] - fit.camera.project(points)) * points[:, 2:] / fit.camera.focal
    return away @ (FLIP @ rotation_matrix(fit.rotation))


def _gaze(
    landmarks: npt.NDArray[np.floating],
    rotation: Float64,
    translation: Float64,
    shape: Float64,
    camera: Camera,
) -> Float64:
    """(yaw, pitch) of the left and right eye in radians relative to the head, from where the irises are on the eyeballs."""
    turn = rotation_matrix(rotation)
    out = []
    for side in ("Left", "Right"):
        centre, shift, radius = _eyes()[side]
        centre = FLIP @ (FLIP @ turn @ (centre + shape @ shift) + translation)
        iris = landmarks[IRIS[side][0]]
        depth = -centre[2] - radius
        at = np.array(
            [
                (iris[0] - camera.cx) / camera.focal * depth,
                -(iris[1] - camera.cy) / camera.focal * depth,
                -depth,
            ]
        )
        toward = turn.T @ (at - centre)
        out += [
            np.arcsin(np.clip(toward[0] / radius, -0.9, 0.9)),
            np.arcsin(np.clip(toward[1] / radius, -0.9, 0.9)),
        ]
    return np.array(out)


def landmarks_of(person: Person, expression: Float64) -> Float64:
    """The landmarks (T, 478, 3) of the person's head, held still, in model axes and metres, at `expression` (T, 52) about rest."""
    model = landmark_model()
    units = model.units.copy()
    for side, scale in zip(("Left", "Right"), person.blink, strict=True):
        units[BLINK[side]] *= scale
    points = model.mean + np.tensordot(person.shape, model.shape, 1) + person.offset
    return points + np.tensordot(expression, units, 1)


def look_units(gaze: Float64) -> Float64:
    """The eyeLook coefficients (..., 52) that go with gaze (..., 4), as `motion.life` moves the lids."""
    out = np.zeros((*gaze.shape[:-1], 52))
    for k, side in enumerate(("Left", "Right")):
        yaw, pitch = gaze[..., 2 * k], gaze[..., 2 * k + 1]
        outward = yaw if side == "Left" else -yaw
        for at, value in zip(
            _LOOK[side], (-pitch / np.radians(30), pitch / np.radians(25), outward / np.radians(35), -outward / np.radians(35)),
            strict=True,
        ):  # fmt: skip
            out[..., at] = np.clip(value, 0, 1)
    return out


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
    keep = np.flatnonzero(model.weight > 0)
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
        delta = np.linalg.solve(system, right[..., None])[..., 0]
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
    landmarks = np.asarray(landmarks, np.float64)
    frames = len(landmarks)
    guess = 0.8 * np.clip(np.asarray(blendshapes, np.float64) - person.rest, -0.1, 1)
    model = landmark_model()
    points = model.mean + np.tensordot(person.shape, model.shape, 1) + person.offset
    pose = [initial_pose(one, camera, points) for one in landmarks]
    state = _State(
        np.zeros((frames, 52)), rotation_matrix([p[0] for p in pose]), np.array([p[1] for p in pose])
    )
    pieces = [slice(k, min(k + PIECE, frames)) for k in range(0, frames, PIECE)]
    problems = [_problem(landmarks[piece], person, camera) for piece in pieces]
    error = np.zeros(frames)
    closed = np.zeros((frames, 2), bool)

    def solve(prior: Float64, pose_free: bool, times: int) -> None:
        for piece, problem in zip(pieces, problems, strict=True):
            own = _State(state.expression[piece], state.turn[piece], state.translation[piece])
            for _ in range(times):
                error[piece] = _step(problem, own, prior[piece], pose_free)
            state.expression[piece], state.turn[piece] = own.expression, own.turn
            state.translation[piece] = own.translation

    looks = np.concatenate([_LOOK["Left"], _LOOK["Right"]])
    guess[:, looks] = 0
    state.expression = np.clip(guess, 0, 1)
    solve(guess, True, 3)
    rotation = np.array([rotation_vector(turn) for turn in state.turn])
    rotation, state.translation = smooth(rotation, pose_sigma), smooth(state.translation, pose_sigma)
    state.turn = rotation_matrix(rotation)
    closed = state.expression[:, [BLINK["Left"], BLINK["Right"]]] > 0.45
    gaze = _clip_gaze(landmarks, rotation, state.translation, person, camera, closed.any(1))
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
            _gaze(one[:, :2], r, t, person.shape, camera)
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
