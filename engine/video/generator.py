"""Stage 2 in a live call: the warped photo becomes the frame.

The network sees a square around the face (`crop.py`), or of it the part about the mouth, paints what the photo cannot know and says itself where (its
blend mask); all other pixels stay the warp's. The mouth alone costs a fifth of the whole square, and what the whole brings besides, at the eyes, no figure
shows (see the card): on a CPU it is the mouth. It remembers the last frames (a ring of keys and values, the last picture) with the photo as the attention
sink, so its memory and cost do not grow. One noise for the whole session: what is invented stays the same from frame to frame.
"""

from __future__ import annotations

import itertools
import logging
import os
import time
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
from visavis.engine.diffusion import schedule
from visavis.engine.motion.channels import FloatArray, zero_motion
from visavis.engine.runtime import load
from visavis.engine.video.crop import CROP, MOUTH, WHOLE, Area, FaceCrop, cut, paste
from visavis.engine.video.personal import folder
from visavis.engine.video.renderer import Renderer, nowhere
from visavis.engine.video.tones import Tones
from visavis.kernels import Target

log = logging.getLogger(__name__)

Bytes = npt.NDArray[np.uint8]
WEIGHTS = Path(__file__).parent.parent / "weights"
NETWORKS = ("video_photo", "video_frame", "video_step")
MAX_STEPS = 8
DEFAULT_STEPS = 2
LIVE_STEPS = 1
"""Sampler steps of a live frame: one is as near to the real frames as two (0.0386 and 0.0385 about the lips, see the card) and 3 ms
cheaper."""
BUDGET_S = 0.016
"""What a frame of the generator may cost, measured alone, to be tried in a live call; the server takes it out of calls whose frames
come late all the same."""
EASY_S = 0.007
"""What it may cost on one thread for a call not to take two: encoder, sockets, browser and other sessions share the cores, and of two threads each waits
for the other. At 4 ms on one thread two calls with the network ran on two cores; on two threads each one of them had to do without it at times."""


def files(area: Area = WHOLE, weights: Path = WEIGHTS) -> list[Path]:
    """The networks' files for an area of the crop."""
    suffix = "" if area == WHOLE else f"_{area.name}"
    return [weights / f"{name}{suffix}.onnx" for name in NETWORKS]


def available(weights: Path = WEIGHTS) -> bool:
    """Are the networks there?"""
    return all(path.is_file() for area in (WHOLE, MOUTH) for path in files(area, weights))


@dataclass(frozen=True)
class Conditions:
    """What the network sees of one posed frame: bytes (1, H, W, 3) and (1, H, W) of an area of the crop."""

    warp: Bytes
    part: Bytes
    coverage: Bytes
    position: Bytes

    @classmethod
    def cut(cls, face: FaceCrop, target: Target, motion: FloatArray, area: Area = WHOLE) -> Conditions:
        """From a drawn target and the motion that it shows."""
        seen = cut(target, face.transform(motion), area)
        warp, coverage, part, position = (array[None] for array in seen)
        return cls(warp, part, coverage, position)


@dataclass
class GeneratorState:
    """What the network remembers of one session."""

    previous: FloatArray | None
    """(1, 3, H, W): the last picture, 0..1; None before the first."""
    ring: FloatArray
    """(1, layers, window, cells, 2 width): keys and values of the last frames, oldest first."""
    noise: FloatArray
    """(1, 3, H, W): where the path of every frame begins."""


class Generator:
    """The video network of one session: completes what `warp` has drawn. Not for two threads at once."""

    def __init__(
        self,
        warp: Renderer,
        *,
        steps: int = DEFAULT_STEPS,
        seed: int = 0,
        threads: int | None = None,
        area: Area = WHOLE,
        weights: Path = WEIGHTS,
    ) -> None:
        """`steps` sampler steps a frame, 1 to MAX_STEPS; `threads` CPU threads (None: two where there are two); `area` of the crop: WHOLE, as a
        GPU has it, or MOUTH, all else stays the warp's."""
        if not 1 <= steps <= MAX_STEPS:
            raise ValueError(f"steps is {steps}, expected 1 to {MAX_STEPS}")
        threads = threads or default_threads()
        self.steps, self.seed, self.area = steps, seed, area
        self._warp = warp
        self._face = FaceCrop(warp.avatar)
        photo_net, self._frame, self._step = (
            load(path, threads, batch=1, fast=True) for path in files(area, weights)
        )
        self._tones = Tones.of_avatar(warp.avatar)
        self._feather = area.feather()
        self._colour, self._under = (np.zeros((CROP, CROP, 3), np.uint8) for _ in range(2))
        self._mask = np.zeros((CROP, CROP), np.float32)
        warp.render(zero_motion())
        photo = self.conditions(zero_motion())
        self._sink = photo_net({"photo": photo.warp, "part": photo.part, "position": photo.position})["sink"]
        self._on = np.ones(1, np.float32)
        self.state = self._fresh()

    def _fresh(self) -> GeneratorState:
        noise = np.random.default_rng([self.seed, 2]).standard_normal((1, 3, CROP, CROP), np.float32)
        noise = np.ascontiguousarray(noise[:, :, *self.area.cut])
        window = self._frame.inputs["ring"][2]
        return GeneratorState(None, np.repeat(self._sink[:, :, None], window, 2), noise)

    def reset(self) -> None:
        """Forget all frames: the next one is the first."""
        self.state = self._fresh()

    def conditions(self, motion: FloatArray) -> Conditions:
        """What the network sees of the frame that the warp's renderer drew last, for `motion`."""
        return Conditions.cut(self._face, self._warp.target, motion, self.area)

    def looks_at(self, motion: FloatArray) -> tuple[int, int, int, int]:
        """The frame's pixels x0, y0, x1, y1 whose positions it reads."""
        target, where = self._warp.target, self._face.transform(motion)
        x0, y0, x1, y1 = where.box(target.width, target.height, self.area)
        return x0 - 1, y0 - 1, x1 + 1, y1 + 1  # the nearest pixels, by places rounded a little

    def paint(self, conditions: Conditions) -> tuple[Bytes, FloatArray]:
        """One frame of the area: colour (H, W, 3) and blend mask (H, W) in 0..1; the state moves on."""
        state = self.state
        previous: FloatArray = (
            np.multiply(conditions.warp.transpose(0, 3, 1, 2), np.float32(1 / 255))
            if state.previous is None
            else state.previous
        )
        seen = self._frame(
            {
                "warp": conditions.warp, "part": conditions.part, "coverage": conditions.coverage,
                "position": conditions.position, "previous": previous, "sink": self._sink, "ring": state.ring,
                "active": self._on,
            }
        )  # fmt: skip
        noisy, made = state.noise, {}
        for now, then in itertools.pairwise(schedule(self.steps)):
            made = self._step(
                {
                    "features": seen["features"], "picture": seen["picture"], "noisy": noisy,
                    "t": np.array([now], np.float32), "next_t": np.array([then], np.float32),
                    "previous": previous, "active": self._on,
                }
            )  # fmt: skip
            noisy = made["next_noisy"]
        state.ring, state.previous = seen["next_ring"], made["next_previous"]
        return np.asarray(made["colour"][0], np.uint8), made["mask"][0]

    def render(self, frame: Bytes, motion: FloatArray) -> Bytes:
        """Paint over `frame` (H, W, 3), which the warp's renderer has just drawn for `motion`, in place; returns it."""
        seen = self.conditions(motion)
        colour, mask = self.paint(seen)
        if self._tones is not None:
            colour = self._tones.toned(colour)
        under = seen.warp[0]
        if self.area != WHOLE:
            self._colour[self.area.cut], self._under[self.area.cut] = colour, under
            np.multiply(mask, self._feather, out=self._mask[self.area.cut])
            colour, under, mask = self._colour, self._under, self._mask
        return paste(frame, under, colour, mask, self._face.transform(motion))


def default_threads() -> int:
    """Threads for the generator: two where there are two cores."""
    return min(2, os.cpu_count() or 1)


def generator_for(warp: Renderer, *, steps: int | None = None, seed: int = 0) -> Generator | None:
    """The generator of a session, on the mouth and with the person's own weights where the avatar has some, or None for the warp alone; `warp` no longer
    tells positions where it does not look.

    `steps` None: as many as this machine can do in real time, found by trying; 0: none.
    """
    threads = None
    if steps is None:
        steps, threads = live_plan()
    if not steps:
        warp.positions = nowhere
        return None
    weights = folder(warp.avatar.personal, WEIGHTS)
    generator = Generator(warp, steps=steps, seed=seed, threads=threads, area=MOUTH, weights=weights)
    warp.positions = generator.looks_at
    return generator


def costs(
    threads: int, area: Area = MOUTH, weights: Path = WEIGHTS, *, rounds: int = 8
) -> tuple[float, float]:
    """Seconds that one frame's features and one sampler step take here: the least of a few runs, since a server's start, when this is
    measured, is busy with other things."""
    taken = []
    for path in files(area, weights)[1:]:
        network = load(path, threads, batch=1, fast=True)
        feed = {
            key: np.zeros([1, *shape[1:]], np.uint8 if key in _BYTES else np.float32)
            for key, shape in network.inputs.items()
        }
        network(feed)
        times = []
        for _ in range(rounds):
            began = time.perf_counter()
            network(feed)
            times.append(time.perf_counter() - began)
        taken.append(min(times))
    return taken[0], taken[1]


_BYTES = frozenset({"warp", "part", "coverage", "position", "photo"})
_costs: dict[int, tuple[float, float]] = {}


def affordable_steps(threads: int, budget_s: float = BUDGET_S) -> int:
    """Steps a frame, 0 to LIVE_STEPS, that this machine can do on the mouth within the budget; measured once a process."""
    if threads not in _costs:
        _costs[threads] = costs(threads)
    frame, step = _costs[threads]
    return int(np.clip((budget_s - frame) // max(step, 1e-6), 0, LIVE_STEPS))


@lru_cache(maxsize=1)
def live_plan() -> tuple[int, int]:
    """Steps a frame and threads of a live call's generator on this machine, found by trying: one thread where that is easy, else all that it may have.
    0 steps: too slow, the warp alone."""
    threads = default_threads()
    if not available():
        return 0, threads
    steps = affordable_steps(1, EASY_S)
    threads = 1 if steps == LIVE_STEPS else threads
    steps = affordable_steps(threads)
    frame, step = _costs[threads]
    log.info(
        "video network: %s (%.1f ms a frame and %.1f ms a step on %d threads, %.0f ms allowed)",
        f"{steps} sampler step(s) a frame" if steps else "too slow here for live calls, the warp alone",
        frame * 1e3, step * 1e3, threads, BUDGET_S * 1e3,
    )  # fmt: skip
    return steps, threads
