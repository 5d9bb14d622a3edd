"""Eyes of the body prior: where a person looks, and when they blink.

Gaze is a chain of fixations joined by saccades. At the other's face, fixations move between eyes and mouth by a degree or two; glances away are
longer saccades. People look at the other less while speaking than while listening (Argyle & Cook, "Gaze and Mutual Gaze", 1976: about 40 and
75 % of the time at conversational distance; before a camera more), look away as they begin to speak and back as they end (Kendon, 1967).
A saccade of d degrees lasts about 21 ms + 2.2 ms d and peaks by the main sequence (Carpenter, "Movements of the Eyes", 1988; Bahill, Clark & Stark,
1975). Blinks come 10 to 26 a minute, more while speaking (Bentivoglio et al., 1997), at pauses of speech (Nakano & Kitazawa, 2010) and with large
gaze shifts (Evinger et al., 1994), with a refractory time and closing faster than opening (Evinger, Manning & Sibony, 1991).
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from visavis.engine.motion.life import blink_curve
from visavis.engine.timing import FPS

Float64 = npt.NDArray[np.float64]
DEGREE = float(np.pi / 180)
SPEAKING, LISTENING, IDLE = 0, 1, 2
AT_FACE = (0.72, 0.88, 0.68)
"""Share of time spent looking at the other, by state."""
BLINKS_A_MINUTE = (19.0, 15.0, 14.0)
REFRACTORY = 0.7


def gaze_targets(
    rng: np.random.Generator,
    state: npt.NDArray[np.int8],
    begins: npt.NDArray[np.int64],
    ends: npt.NDArray[np.int64],
) -> tuple[Float64, npt.NDArray[np.int64]]:
    """(yaw, pitch) of gaze in the room (T, 2), radians, 0 = the viewer, and the frames in which saccades over 6 degrees start.

    `begins`, `ends`: frames in which speech begins and ends.
    """
    n = len(state)
    out = np.zeros((n, 2))
    shifts: list[int] = []
    here = np.zeros(2)
    away = False
    starts, stops = set(begins.tolist()), set(ends.tolist())
    wait = rng.uniform(0.3, 1.5)
    focus = rng.normal(0, 0.6, 2) * DEGREE  # nobody looks exactly into the lens
    k = 0
    while k < n:
        now = int(state[k])
        averse = k in starts and not away and rng.random() < 0.4
        returns = k in stops and away and rng.random() < 0.8
        if wait <= 0 or averse or returns:
            share = AT_FACE[now]
            # time at the face comes in several fixations, away in one or two
            if returns:
                away = False
            elif averse:
                away = True
            elif away:
                away = rng.random() < 0.25
            else:
                away = rng.random() < (1 - share) / share * 0.95
            if away:
                if now == IDLE:
                    target = rng.normal([0, -2], [9, 4]) * DEGREE
                else:  # thinking: aside and up or down
                    target = (
                        np.array([rng.choice([-1, 1]) * rng.uniform(4, 13), rng.normal(-1, 4.5)]) * DEGREE
                    )
                wait = float(np.clip(rng.lognormal(np.log(0.75), 0.45), 0.25, 2.5))
            else:
                target = focus + rng.normal(0, [1.1, 0.9]) * DEGREE
                wait = float(np.clip(rng.lognormal(np.log(0.9), 0.6), 0.3, 4.0))
            target = np.clip(target, np.array([-16, -10]) * DEGREE, np.array([16, 9]) * DEGREE)
            size = float(np.linalg.norm(target - here)) / DEGREE
            if size > 6:
                shifts.append(k)
            # the saccade within its frames: the share of the way at each frame's middle
            lasts, begun = 0.021 + 0.0022 * size, rng.uniform(0, 1 / FPS)
            for step in range(3):
                if k + step < n:
                    done = np.clip(((step + 0.5) / FPS - begun) / lasts, 0, 1)
                    out[k + step] = here + (target - here) * (done * done * (3 - 2 * done))
            here = target
            k = k + 3
            wait -= 3 / FPS
            continue
        out[k] = here
        wait -= 1 / FPS
        k += 1
    drift = np.cumsum(rng.normal(0, 0.03, (n, 2)), 0) * DEGREE  # fixations are never still
    drift -= np.stack([np.convolve(np.pad(d, 12, "edge"), np.ones(25) / 25, "valid") for d in drift.T], 1)
    return out + drift, np.array(shifts, np.int64)


def blinks(
    rng: np.random.Generator,
    state: npt.NDArray[np.int8],
    ends: npt.NDArray[np.int64],
    shifts: npt.NDArray[np.int64],
) -> Float64:
    """How far the lids are closed (T,), 0 to 1. `ends`: frames in which speech ends; `shifts`: large gaze shifts start."""
    n = len(state)
    # a person's own rate; what pauses and shifts add is taken from the spontaneous ones
    own = float(np.clip(rng.lognormal(0, 0.15), 0.78, 1.2))
    calls = {int(k): 0.35 for k in ends} | {int(k): 0.3 for k in shifts}
    called = 0.33 * len(calls) * FPS * 60 / max(n, 1)
    out = np.zeros(n)
    since, wait = 10.0, float(rng.uniform(0.3, 3))
    for k in range(n):
        due = wait <= 0 or (k in calls and rng.random() < calls[k])
        if due and since > REFRACTORY:
            start = float(rng.uniform(0, 1 / FPS))
            full = rng.random() > 0.08
            depth, pace = (1.0 if full else rng.uniform(0.5, 0.85)), float(rng.uniform(0.9, 1.35))
            held = float(rng.uniform(0, 0.03))  # lids stay shut a little longer in some
            for step in range(12):
                if k + step < n:
                    t = step / FPS - start
                    shown = t if t < 0.095 * pace else max(0.095 * pace, t - held)
                    out[k + step] = max(out[k + step], depth * blink_curve(max(0.0, shown), pace))
            spontaneous = max(7.0, BLINKS_A_MINUTE[int(state[k])] * own - called)
            mean = 60 / spontaneous
            wait = REFRACTORY + float(rng.gamma(2.0, max(0.3, mean - REFRACTORY) / 2))
            if rng.random() < 0.05:
                wait = REFRACTORY + 0.02  # one after the other
            since = 0.0
        wait -= 1 / FPS
        since += 1 / FPS
    return out
