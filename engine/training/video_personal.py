"""Learn one person's mouth from a film: the shipped video network trained on a little, on that film alone.

An avatar of the film's best frame is driven to meet the other frames (`video/capture.py`), and the network learns on its own rollouts, as in the
last stage of its training, to make the real frames of them. At first the end of the film is held out: it says how far to go, and whether it was worth
anything at all; then all of the film teaches. Biases and norms stay (they are not among what `video/personal.py` puts into the networks' files).
"""

from __future__ import annotations

import copy
import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn
from visavis.engine.body.detect import FaceTracker
from visavis.engine.errors import VideoError
from visavis.engine.film import Film
from visavis.engine.footage import Footage, Source, film_name
from visavis.engine.motion.channels import FloatArray
from visavis.engine.runtime.network import has_bf16
from visavis.engine.training import loop
from visavis.engine.training.video import Options, load, rollout_step, validate
from visavis.engine.training.video_data import MAX_ERROR, Shard, runs
from visavis.engine.training.video_export import export
from visavis.engine.training.video_loader import ONE_FILM, Batch, Loader, runs_of
from visavis.engine.training.video_model import VideoNet
from visavis.engine.video.drive import Driven
from visavis.engine.video.generator import LIVE_STEPS, WEIGHTS
from visavis.engine.video.personal import PersonalWeights, learned

RUN = 10
"""Consecutive frames of a piece of film."""
PIECES = 48
"""Pieces taken of a film, spread over it: what they hold in memory is 350 MB."""
HELD_OUT = 0.2
"""Share of a film's pieces, its last ones, that judge."""
LEAST_FRAMES = 50
"""Two seconds: less teaches nothing."""
STEPS, EVERY = 100, 20
"""Steps at most, and steps between two looks at what was held out."""
FURTHER = 2
"""How many times as many steps as were best then are gone on all of the film: a fifth more film is worth 1.4 points of the warp's error, and more steps
than were best have done no harm."""
RATE = 1e-3
SMALL = 256
"""Parameters with fewer numbers stay."""


@dataclass(frozen=True)
class Lesson:
    """What came of it: the weights, None where the film taught nothing; error about the mouth (0..1) in the held out frames of the warp alone, of the
    shipped network and of one that learned from the others. The weights are of one that learned from all."""

    weights: PersonalWeights | None
    warp: float
    shipped: float
    own: float
    frames: int

    def __str__(self) -> str:
        figures = f"error about the mouth {self.warp:.4f} by the warp alone, {self.shipped:.4f} by the shared network"
        if self.weights is None:
            return (
                f"{self.frames} frames taught nothing about this mouth ({figures}): the shared network stays"
            )
        return f"learned from {self.frames} frames: {figures}, {self.own:.4f} by this person's own"


def shards_of(
    films: Sequence[Source],
    *,
    size: int = 512,
    tracker: FaceTracker | None = None,
    progress: Callable[[float], None] = lambda share: None,
) -> list[Shard]:
    """Pieces of films of one person, each film's driven by an avatar of its own best frame: a shard a piece, in time order.

    VideoError where a film cannot be read or shows no face.
    """
    tracker = tracker or FaceTracker()
    made: list[Shard] = []
    each = max(1, PIECES // len(films))
    for number, source in enumerate(films):
        made += _pieces(
            source, str(number), each, size, tracker,
            lambda share, number=number: progress((number + share) / len(films)),  # type: ignore[misc]
        )  # fmt: skip
    return made


def _pieces(
    source: Source, name: str, count: int, size: int, tracker: FaceTracker, progress: Callable[[float], None]
) -> list[Shard]:
    """`count` pieces of a film, RUN frames each, that an avatar of its best frame met well."""
    stated = Footage.of(source).frames
    film = Film.read(source, tracker, progress=lambda done: progress(0.4 * min(1.0, done / stated)))
    driven = Driven(film.photo(), tracker, size=size)
    length = len(film.faces)
    numbers = runs(length, min(count, length // RUN), RUN, np.random.default_rng(0))
    most_px = MAX_ERROR * float(np.ptp(driven.rest[:468, 1]))
    made: list[Shard] = []
    motion: FloatArray | None = None
    previous = start = -2
    for k, frame in film.frames(numbers):
        progress(0.4 + 0.6 * k / length)
        face = film.faces[k]
        if face is None:
            continue
        follows = k == previous + 1
        if not follows or not made or k - start >= RUN:
            made.append(Shard.of(driven, "person", f"{name}-{k}"))
            start = k
        previous = k
        motion, error = driven.motion_to(face, motion if follows else None)
        if error <= most_px:
            picture = driven.frame(frame)
            made[-1].add(driven, driven.aligned(picture, motion), picture, error, k)
    progress(1.0)
    return [shard for shard in made if len(shard) >= 3]


def shipped_net(weights: Path = WEIGHTS) -> VideoNet:
    """The networks as they are shipped."""
    return load(weights / "video.safetensors")


def trainable(net: VideoNet) -> list[nn.Parameter]:
    """What learns: the large parameters of the networks of the frame and of the step; all others are frozen."""
    net.requires_grad_(False)
    chosen = [p for part in (net.frame, net.step) for p in part.parameters() if p.numel() >= SMALL]
    for parameter in chosen:
        parameter.requires_grad_(True)
    return chosen


def teach(
    net: VideoNet,
    lessons: Loader,
    judged: list[Batch],
    *,
    steps: int = STEPS,
    rate: float = RATE,
    bf16: bool = False,
    progress: Callable[[float], None] = lambda share: None,
) -> tuple[int, dict[str, float], dict[str, float]]:
    """Train `net` on and look at what was held out; returns after how many steps it was best there (0: as it came in), and the figures of `validate`
    before and then."""
    before = figures = validate(net, judged, (1,))
    best = 0
    for step, average in enumerate(practise(net, lessons, steps, rate, bf16), 1):
        progress(step / steps)
        if step % EVERY == 0 or step == steps:
            now = validate(average, judged, (1,))
            if now["mouth_1"] < figures["mouth_1"]:
                best, figures = step, now
    return best, before, figures


def practise(net: VideoNet, lessons: Loader, steps: int, rate: float, bf16: bool) -> Iterator[VideoNet]:
    """Train `net` on, `steps` steps of its own rollouts; gives the average of its weights after each."""
    options = Options("rollout", Path(), steps, lessons.clips, lessons.frames, rate, 0.0, 0.0, LIVE_STEPS)
    average = copy.deepcopy(net).requires_grad_(False)
    chosen = trainable(net)
    optimizer = torch.optim.AdamW(chosen, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    for step in range(steps):
        loop.set_rate(optimizer, loop.learning_rate(step, rate, steps, warm_up=10))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            loss, _ = rollout_step(net, lessons.batch(0.0), None, options)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(chosen, 1.0)
        optimizer.step()
        loop.average(average, net, step, most=0.95)
        yield average


def learn(
    film: Source | Sequence[Source],
    *,
    size: int = 512,
    steps: int = STEPS,
    threads: int = 1,
    weights: Path = WEIGHTS,
    progress: Callable[[str, float], None] = lambda what, share: None,
) -> Lesson:
    """A person's own weights from a film of it, or from several.

    `threads`: more than the machine has free cores make it many times slower, not faster. VideoError where the film cannot be read, shows no face or is too short.
    """
    films = [film] if isinstance(film, Path | bytes) else list(film)
    progress("fitting the film", 0.0)
    shards = shards_of(films, size=size, progress=lambda share: progress("fitting the film", 0.4 * share))
    count = sum(len(shard) for shard in shards)
    if count < LEAST_FRAMES:
        raise VideoError(
            f"{film_name(films[0])}: the face can be followed in {count} frames only; {LEAST_FRAMES} at least are needed to learn from",
            "too_short",
        )
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    held = max(1, round(HELD_OUT * len(shards)))
    sets = {
        name: [run for shard in part for run in runs_of(shard.stacked(), 1)]
        for name, part in (("film", shards[:-held]), ("held", shards[-held:]))
    }
    del shards
    lessons = Loader(sets, {"film": 1.0}, clips=8, frames=6, variety=ONE_FILM)
    every = Loader(
        sets,
        {name: float(len(runs)) for name, runs in sets.items()},
        clips=8,
        frames=6,
        seed=1,
        variety=ONE_FILM,
    )
    judge = Loader(sets, {"held": 1.0}, clips=8, frames=6, seed=5, augment=False)
    bf16 = has_bf16()
    best, before, after = teach(
        shipped_net(weights), lessons, [judge.batch(0.0) for _ in range(4)], steps=steps, bf16=bf16,
        progress=lambda share: progress("learning the mouth", 0.4 + 0.2 * share),
    )  # fmt: skip
    own = None
    if best:
        average = net = shipped_net(weights)
        for step, now in enumerate(practise(net, every, FURTHER * best, RATE, bf16), 1):
            average = now
            progress("learning the mouth", 0.6 + 0.35 * step / (FURTHER * best))
        progress("writing the network", 0.96)
        with tempfile.TemporaryDirectory(prefix="visavis-learn-") as place, warnings.catch_warnings():
            warnings.simplefilter("ignore")  # the exporter's own, of no use to whoever enrols
            export(average.half().float(), Path(place))
            own = learned(Path(place), weights)
    progress("done", 1.0)
    return Lesson(own, before["warp"], before["mouth_1"], after["mouth_1"], count)
