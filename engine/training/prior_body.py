"""Head, brows, breath, trunk and hands of the body prior.

Head motion in speech falls into bands: postural shifts below 0.2 Hz, slow (0.2 to 1.8 Hz), ordinary (to 3.7 Hz) and rapid movements (Hadar, Steiner,
Grant & Clifford Rose, 1983), the faster ones only while speaking and going with its energy and stress (Munhall et al., 2004; Graf, Cosatto, Strom
& Huang, 2002); listeners nod in short decaying trains of one to three cycles (Hadar, Steiner & Clifford Rose, 1985; McClave, 2000). Posture changes
at the borders of phrases (Cassell et al., 2001). At rest one breathes 12 to 18 times a minute, in over two fifths of the cycle; speech is
breathed out slowly and breath is taken quickly in its pauses (Winkworth et al., 1995). Beat gestures strike on stressed syllables, a few
hundred milliseconds of preparation before and retraction after (McNeill, "Hand and Mind", 1992; Wagner, Malisz & Kopp, 2014).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from visavis.engine.body.model import load_body
from visavis.engine.body.rig import finger_axes
from visavis.engine.motion.channels import INDEX
from visavis.engine.motion.life import HEAD_LIMIT
from visavis.engine.timing import FPS
from visavis.engine.training.prior_eyes import DEGREE, IDLE, LISTENING, SPEAKING, Float64

POSTURE = np.array([1.6, 2.4, 1.5]) * DEGREE
SLOW = np.array([1.1, 1.5, 0.9]) * DEGREE
ORDINARY = np.array([0.35, 0.30, 0.25]) * DEGREE
"""Standard deviations of pitch, yaw, roll in each band while speaking."""
LIVELINESS = (1.0, 0.5, 0.4)
"""Size of head motion by state; ordinary and rapid movements go with speech alone."""


def band(
    rng: np.random.Generator, n: int, low: float, high: float, columns: int, slope: float = 1.0
) -> Float64:
    """Gaussian noise (n, columns) of unit variance whose amplitude falls as f^-slope between `low` and `high` Hz and fast outside."""
    size = 1 << max(10, (n + 8 * FPS).bit_length())
    f = np.fft.rfftfreq(size, 1 / FPS)
    f[0] = 1e-6
    gain = f**-slope / (1 + (low / f) ** 4) / (1 + (f / high) ** 6)
    gain[0] = 0
    noise = np.fft.irfft(
        np.fft.rfft(rng.standard_normal((size, columns)), axis=0) * gain[:, None], size, axis=0
    )
    unit = np.sqrt(np.sum(np.abs(gain[1:]) ** 2) * 2 / size)
    return noise[4 * FPS : 4 * FPS + n] / unit


def ease(n: int, at: float, seconds: float) -> Float64:
    """0 before frame `at`, 1 from `seconds` later on, in between of minimal jerk (Flash & Hogan, 1985): (n,)."""
    x = np.clip((np.arange(n) - at) / max(1e-6, seconds * FPS), 0, 1)
    return x**3 * (10 - 15 * x + 6 * x**2)


def pulse(n: int, peak: float, rise: float, hold: float, fall: float) -> Float64:
    """Rises to 1 at frame `peak`, holds, falls; times in seconds: (n,)."""
    return ease(n, peak - rise * FPS, rise) - ease(n, peak + hold * FPS, fall)


def follow(values: Float64, up: float, down: float) -> Float64:
    """First-order follower with time constants in seconds for rise and fall."""
    out = np.empty_like(values)
    level = float(values[0]) if len(values) else 0.0
    for k, value in enumerate(values):
        level += (value - level) * min(1.0, 1 / FPS / (up if value > level else down))
        out[k] = level
    return out


def head(
    rng: np.random.Generator,
    state: npt.NDArray[np.int8],
    energy: Float64,
    stresses: npt.NDArray[np.int64],
    borders: npt.NDArray[np.int64],
    gaze: Float64,
    calm: float,
) -> tuple[Float64, Float64, npt.NDArray[np.int64]]:
    """Rotation (T, 3) and translation (T, 3) of the head, and the frames of a listener's nods. `energy` (T,) 0..1 of the speech, `calm` scales all."""
    n = len(state)
    lively = follow(np.asarray(LIVELINESS)[state], 0.4, 0.8)
    speaks = follow((energy > 0.02).astype(float), 0.15, 0.35)
    posture = band(rng, n, 0.02, 0.2, 3) * POSTURE * lively[:, None]
    for at in borders:
        if rng.random() < 0.55:
            shift = rng.normal(0, 1, 3) * POSTURE * 0.9
            back = rng.uniform(2.5, 7)
            posture += (
                (ease(n, at - 6, rng.uniform(0.5, 1.0)) - ease(n, at + back * FPS, rng.uniform(1, 2)))[
                    :, None
                ]
                * shift
                * lively[at]
            )
    drive = 0.45 + 0.8 * follow(energy, 0.1, 0.4)
    rotation = posture + band(rng, n, 0.25, 1.6, 3) * SLOW * (lively * (0.5 + 0.5 * speaks * drive))[:, None]
    rotation += band(rng, n, 1.8, 4.0, 3) * ORDINARY * (speaks * drive)[:, None]
    for at in stresses:
        if rng.random() < 0.5:
            size = float(np.clip(rng.lognormal(np.log(1.9), 0.45), 0.6, 5)) * DEGREE
            late = rng.normal(0.03, 0.05) * FPS
            nod = pulse(n, at + late, rng.uniform(0.16, 0.26), 0.02, rng.uniform(0.24, 0.4))
            rotation[:, 0] += size * nod
            rotation[:, 1:] += (rng.normal(0, 0.35, 2) * size) * nod[:, None]
    nods = []
    t = float(rng.exponential(4.0))
    while t * FPS < n - 1:
        k = int(t * FPS)
        if state[k] == LISTENING:
            nods.append(k)
            rate, cycles = rng.uniform(1.5, 2.6), int(rng.integers(1, 4))
            size = float(np.clip(rng.lognormal(np.log(2.6), 0.4), 1, 6)) * DEGREE
            phase = np.clip((np.arange(n) - k) / FPS * rate, 0, cycles)
            rotation[:, 0] += size * (0.5 - 0.5 * np.cos(2 * np.pi * phase)) * np.exp(-0.45 * phase)
            if rng.random() < 0.3:  # a tilt that stays a while: interest
                tilt = rng.choice([-1, 1]) * rng.uniform(1.5, 4) * DEGREE
                rotation[:, 2] += tilt * pulse(n, k, 0.7, rng.uniform(1.5, 4), 1.0)
        t += 1.6 + float(rng.exponential(5.5))
    # the head goes along with the eyes, later and by less (Freedman, 2008)
    along = np.stack([follow(gaze[:, c], 0.22, 0.22) for c in (0, 1)], 1)
    rotation[:, 1] += 0.25 * along[:, 0]
    rotation[:, 0] -= 0.2 * along[:, 1]
    rotation = HEAD_LIMIT * 1.3 * np.tanh(rotation * calm / (HEAD_LIMIT * 1.3))
    moved = band(rng, n, 0.04, 0.7, 3) * np.array([3.0, 1.2, 3.5]) * 1e-3 * (calm * lively)[:, None]
    return rotation, 0.012 * np.tanh(moved / 0.012), np.array(nods, np.int64)


def brows(
    rng: np.random.Generator,
    n: int,
    stresses: npt.NDArray[np.int64],
    begins: npt.NDArray[np.int64],
    nods: npt.NDArray[np.int64],
) -> Float64:
    """Raised brows (T,), 0..1: at stresses, as a turn begins, with some of a listener's nods."""
    out = np.maximum(0, band(rng, n, 0.03, 0.3, 1)[:, 0]) * 0.035
    for frames, chance, low, high in (
        (stresses, 0.28, 0.12, 0.4),
        (begins, 0.3, 0.1, 0.3),
        (nods, 0.3, 0.12, 0.4),
    ):
        for at in frames:
            if rng.random() < chance:
                size = rng.uniform(low, high)
                out += size * pulse(
                    n,
                    at + rng.normal(0, 1.5),
                    rng.uniform(0.16, 0.3),
                    rng.uniform(0, 0.4),
                    rng.uniform(0.3, 0.6),
                )
    return np.minimum(out, 0.7)


def breath(rng: np.random.Generator, energy: Float64, borders: npt.NDArray[np.int64]) -> Float64:
    """How full the lungs are (T,), about 0..1: by a clock at rest, by the phrases in speech."""
    n = len(energy)
    out = np.empty(n)
    fill, inhaling = float(rng.uniform(0.3, 0.9)), False
    rate, pauses = float(rng.uniform(0.2, 0.29)), set(borders.tolist())
    depth, quick = 0.7, False
    talks = energy > 0.02
    for k in range(n):
        if talks[k]:
            quick = inhaling = False
            fill -= 0.16 / FPS * (0.6 + fill)  # speech spends air slowly
        elif inhaling:
            fill += (1.9 if quick else rate / 0.4 * depth) / FPS
            if fill >= (1.0 if quick else depth):
                inhaling = False
        else:
            fill -= rate / 0.6 * depth / FPS
            wanted = k in pauses
            if wanted or fill <= 0:
                inhaling, quick = True, wanted
                depth = float(rng.uniform(0.6, 0.85))
                rate = float(np.clip(rate + rng.normal(0, 0.012), 0.19, 0.3))
        fill = float(np.clip(fill, 0, 1.1))
        out[k] = fill
    kernel = np.hanning(15)
    return np.convolve(np.pad(out, 7, "edge"), kernel / kernel.sum(), "valid")


def trunk(
    rng: np.random.Generator, state: npt.NDArray[np.int8], lungs: Float64, motion: Float64, calm: float
) -> None:
    """Spine, shoulders and what the neck gives back of the breath, added to `motion` (T, N_CHANNELS)."""
    n = len(state)
    lively = follow(np.asarray(LIVELINESS)[state], 0.6, 1.2)
    sway = band(rng, n, 0.02, 0.35, 3) * np.array([0.7, 0.8, 0.6]) * DEGREE * (calm * lively)[:, None]
    lean = (
        follow((state == LISTENING) * rng.uniform(0.5, 2.0), 1.2, 1.5) * DEGREE
    )  # towards whom one listens to
    spine = INDEX["spine.x"]
    motion[:, spine : spine + 3] += sway
    motion[:, spine] += lean - 0.45 * DEGREE * lungs
    motion[:, INDEX["neck.x"]] += 0.35 * DEGREE * lungs - 0.6 * lean
    lift = 1.1 * DEGREE * lungs
    t = float(rng.exponential(40))
    while t * FPS < n:  # a shrug, or shoulders settling
        k = int(t * FPS)
        lift = lift + rng.uniform(0.8, 2.6) * DEGREE * calm * (0.4 if state[k] == IDLE else 1) * pulse(
            n, k, rng.uniform(0.25, 0.5), rng.uniform(0.1, 0.6), rng.uniform(0.4, 0.8)
        )
        t += 8 + float(rng.exponential(40))
    forward = band(rng, n, 0.02, 0.4, 1)[:, 0] * 0.5 * DEGREE * calm * lively
    motion[:, INDEX["clavicleLeft.z"]] += lift
    motion[:, INDEX["clavicleRight.z"]] -= lift
    motion[:, INDEX["clavicleLeft.y"]] -= forward
    motion[:, INDEX["clavicleRight.y"]] += forward


def hands(
    rng: np.random.Generator,
    state: npt.NDArray[np.int8],
    stresses: npt.NDArray[np.int64],
    motion: Float64,
    calm: float,
) -> None:
    """Beat gestures at stresses and the small life of resting hands, added to `motion`.

    A beat lifts the forearm (turn about x), cocks the wrist against it and opens the fingers a little; then all fall back. Gestures come
    in phrases of several beats, by one hand or both, with rests between.
    """
    body = load_body()
    n = len(state)
    talk = follow((state == SPEAKING).astype(float), 0.3, 0.5)
    until, sides, raised = -1.0, ("Right",), 0.0
    lifts = {"Left": np.zeros(n), "Right": np.zeros(n)}
    strikes = {"Left": np.zeros(n), "Right": np.zeros(n)}
    for at in stresses:
        if at > until:
            if rng.random() > 0.45:
                continue
            until = at + rng.uniform(0.8, 3.5) * FPS
            sides = (("Left", "Right"), ("Right",), ("Left",))[int(rng.choice(3, p=[0.45, 0.35, 0.2]))]
            raised = rng.uniform(4, 11) * DEGREE
            for side in sides:
                held = (until - at) / FPS
                lifts[side] += raised * pulse(n, at - 2, rng.uniform(0.35, 0.6), held, rng.uniform(0.5, 0.9))
        for side in sides:
            size = rng.uniform(0.35, 1.0) * raised
            strikes[side] += size * (
                pulse(n, at - 0.12 * FPS, 0.2, 0.0, 0.13) - 0.6 * pulse(n, at + 0.04 * FPS, 0.12, 0.03, 0.3)
            )
    drift = band(rng, n, 0.02, 0.3, 10) * DEGREE * calm
    for k, side in enumerate(("Left", "Right")):
        sign = 1.0 if side == "Left" else -1.0
        lift, strike = lifts[side] * calm * talk, strikes[side] * calm * talk
        motion[:, INDEX[f"upperArm{side}.x"]] -= 0.25 * lift + 0.15 * strike
        motion[:, INDEX[f"upperArm{side}.z"]] += sign * (0.2 * lift + 0.3 * drift[:, 5 * k])
        elbow, wrist = (body.joints[body.bones.index(f"{name}{side}")] for name in ("forearm", "wrist"))
        hinge = np.cross(wrist - elbow, [0, 0, 1])  # turning about it brings the hand forwards and up
        hinge = hinge / np.linalg.norm(hinge)
        at = INDEX[f"forearm{side}.x"]
        motion[:, at : at + 3] += np.outer(lift + strike, hinge)
        axes = finger_axes(side)
        at = INDEX[f"wrist{side}.x"]
        bend = 0.8 * drift[:, 5 * k + 1] + 0.3 * lift + 0.7 * strike
        motion[:, at : at + 3] += np.outer(bend, axes[f"wrist{side}"][0])
        motion[:, INDEX[f"wrist{side}.z"]] += 0.5 * drift[:, 5 * k + 2]
        opened = lift + 0.5 * np.abs(strike)
        for j, finger in enumerate(("thumb", "index", "middle", "ring", "little")):
            own = 1.2 * drift[:, 5 * k + 3 + j % 2] * (1 + 0.2 * j)
            share = 0.5 if finger == "thumb" else 1.0
            for joint, part in ((1, 1.0), (2, 0.8), (3, 0.5)):
                at = INDEX[f"{finger}{joint}{side}.x"]
                curl = share * part * (own - 0.5 * opened)
                motion[:, at : at + 3] += np.outer(curl, axes[f"{finger}{joint}{side}"][0])
