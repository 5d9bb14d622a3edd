"""The openings of the face: lip and eyelid margins of the body's surface as matched upper and lower chains.

They are found once on the model's topology: each opening is a boundary loop of the outer skin, split at the two corners that
the landmarks name. Chains run from the first corner to the second and are parametrised by arc length, 0 to 1.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt
from visavis.engine.body.fit import LIDS, LIPS_LOWER_INNER, LIPS_UPPER_INNER
from visavis.engine.body.model import FloatArray, IntArray, load_body


@dataclass(frozen=True)
class Chain:
    """One margin: body vertices in order (n,), their arc-length parameter (n,), the landmarks along it and their parameters."""

    vertices: IntArray
    parameter: FloatArray
    landmarks: tuple[int, ...]
    landmark_parameter: FloatArray


@dataclass(frozen=True)
class Opening:
    """An opening of the face with its upper and lower margin; both chains begin and end at the shared corners."""

    name: str
    upper: Chain
    lower: Chain


def boundary_loops(triangles: npt.NDArray[np.integer]) -> list[list[int]]:
    """Closed loops of vertices along edges that belong to one triangle only, longest first."""
    count: dict[tuple[int, int], int] = defaultdict(int)
    direction: dict[tuple[int, int], tuple[int, int]] = {}
    for a, b, c in triangles.tolist():
        for u, v in ((a, b), (b, c), (c, a)):
            key = (u, v) if u < v else (v, u)
            count[key] += 1
            direction[key] = (u, v)
    following: dict[int, list[int]] = defaultdict(list)
    for key, n in count.items():
        if n == 1:
            u, v = direction[key]
            following[u].append(v)
    loops = []
    while following:
        start = next(iter(following))
        loop, here = [start], start
        while True:
            ahead = following[here]
            nxt = ahead.pop()
            if not ahead:
                del following[here]
            if nxt == start or nxt not in following:
                break
            loop.append(nxt)
            here = nxt
        loops.append(loop)
    return sorted(loops, key=len, reverse=True)


def _chain(path: list[int], landmarks: tuple[int, ...]) -> Chain:
    body = load_body()
    points = body.vertices[path]
    length = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    parameter = (length / length[-1]).astype(np.float32)
    marks = body.at_landmarks(body.vertices)[list(landmarks)]
    dense = np.linspace(0, 1, 400)
    curve = np.stack([np.interp(dense, parameter, points[:, k]) for k in range(3)], 1)
    nearest = dense[np.argmin(((marks[:, None] - curve[None]) ** 2).sum(-1), 1)]
    nearest[0], nearest[-1] = 0, 1
    # strictly increasing, so that the landmarks can be interpolated along the chain
    nearest = np.maximum.accumulate(nearest + np.arange(len(nearest)) * 1e-4)
    return Chain(np.array(path, np.int32), parameter, landmarks, (nearest / nearest[-1]).astype(np.float32))


@lru_cache(maxsize=1)
def openings() -> tuple[Opening, ...]:
    """The mouth, the left and the right eye."""
    body = load_body()
    skin = body.triangles[body.part == body.part_id("skin")]
    loops = [np.array(loop) for loop in boundary_loops(skin)]
    marks = body.at_landmarks(body.vertices)
    wanted = {
        "mouth": (LIPS_UPPER_INNER, LIPS_LOWER_INNER),
        "eyeLeft": LIDS["Left"],
        "eyeRight": LIDS["Right"],
    }
    found = []
    for name, (upper, lower) in wanted.items():
        centre = marks[list(upper + lower)].mean(0)
        loop = min(loops, key=lambda ids: float(np.linalg.norm(body.vertices[ids].mean(0) - centre)))
        ends = [int(np.argmin(((body.vertices[loop] - marks[k]) ** 2).sum(1))) for k in (upper[0], upper[-1])]
        if name == "mouth":  # the corners of the lips are the loop's extremes
            ends = [int(np.argmin(body.vertices[loop][:, 0])), int(np.argmax(body.vertices[loop][:, 0]))]
        ring = np.roll(loop, -ends[0]).tolist()
        k = ring.index(int(loop[ends[1]]))
        one, other = ring[: k + 1], [ring[0], *ring[:k - 1:-1]]  # fmt: skip
        if body.vertices[one][:, 1].mean() < body.vertices[other][:, 1].mean():
            one, other = other, one
        found.append(Opening(name, _chain(one, upper), _chain(other, lower)))
    return tuple(found)
