"""Train the motion model's two networks as many-step teachers; `visavis train motion`.

    python -m visavis.engine.training.motion --part face --minutes runs/motion/minutes.npz --out runs/motion/face
    python -m visavis.engine.training.motion --part life --minutes runs/motion/minutes.npz --out runs/motion/life --resume

Flow matching with x-prediction, per frame given the past: the transformer reads a history corrupted by noise, in half of the
steps the model's own samples instead of the truth (what it will live on), and what is heard, dropped in a tenth of the
sequences (guidance). A loss on differences between frames keeps motion alive. Face and life have separate weights.
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from visavis.engine import diffusion
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.motion.layout import FACE, FEATURES, GAZE, LABELS, LIFE, LIFE_INDEX, PHONES, PROSODY
from visavis.engine.training.loop import Pace, Parts, Training, add_settings, chosen_settings
from visavis.engine.training.motion_data import Minutes
from visavis.engine.training.motion_nets import MotionNet, Shape

DRAWS = 2
"""Noise draws a frame: the head is cheap, the transformer is not."""


@dataclass
class Settings:
    """All that shapes a run; saved with its checkpoint."""

    part: str = "face"
    steps: int = 2000
    batch: int = 12
    length: int = 120
    rate: float = 1.5e-3
    width: int = 128
    layers: int = 3
    window: int = 25
    head: int = 192
    drop_heard: float = 0.1
    own_history: float = 0.5
    """Share of steps, after the first quarter, whose history is the model's own."""
    history_noise: float = 0.5
    """Most noise mixed into the history."""
    difference_weight: float = 1.0
    time_mean: float = -0.4
    anchor: float = 0.3
    """How far film pulls the mouth away from the encoder's mean (0 to 1): film is nearly all of one man, and a network given all
    of it speaks with his lips."""
    momentum: int = 0
    """1: what is generated is what the last two frames do not foretell linearly; the transformer reads the last move as well. A stable
    prediction cannot wander off however long it runs, and noise enters as a push, not as a jump."""
    start: str = ""
    """Begin with the weights of this final.pt."""
    seed: int = 0
    every: int = 100
    """Steps between lines of the log and checkpoints."""


def make_net(settings: Settings) -> MotionNet:
    values = len(FACE) if settings.part == "face" else len(LIFE)
    return MotionNet(
        Shape(
            values,
            FEATURES + 1,
            LABELS,
            settings.width,
            settings.layers,
            4,
            settings.window,
            settings.head,
            momentum=bool(settings.momentum),
        )
    )


@dataclass
class Batch:
    """What the head is to generate, x (B, T, D); what is read of the frames before; what is heard (last feature: 1 = heard);
    labels; weight."""

    x: Tensor
    past: Tensor
    heard: Tensor
    labels: Tensor
    weight: Tensor


class Sequences:
    """Random stretches of minutes."""

    def __init__(self, minutes: Minutes, part: str, net: MotionNet, fit: bool, anchor: float) -> None:
        self.minutes = minutes
        self.values = minutes.life
        if part == "face":
            mean = np.clip(minutes.heard[..., : len(FACE)], 0, 1)
            filmed = (minutes.weight > 0.9)[..., None]
            self.values = np.where(filmed, mean + anchor * (minutes.face - mean), minutes.face)
        self.weight = minutes.weight if part == "face" else np.ones_like(minutes.weight)
        if fit:
            flat = torch.from_numpy(self.values.reshape(-1, self.values.shape[-1]))
            net.centre.copy_(flat.mean(0))
            net.spread.copy_(flat.std(0).clamp(min=0.01 if part == "face" else 5e-4))
            net.stride.copy_(net.spread)
            if net.shape.momentum:
                foretell(net, self.values)
            if part == "life":
                net.hears[: len(FACE) + PHONES] = 0  # bodies follow voice and level; phonemes are for lips
                net.hears[-1 - 1 - PROSODY : -1 - 1] = 0
                net.tells[GAZE] = net.tells[LIFE_INDEX["eyeBlink"]] = 0
        self.net = net

    def draw(self, settings: Settings, rng: np.random.Generator) -> Batch:
        k, n = self.values.shape[:2]
        rows = rng.integers(0, k, settings.batch)
        starts = rng.integers(0, n - settings.length - 1, settings.batch)
        at = starts[:, None] + np.arange(settings.length + 2)
        x = torch.from_numpy(self.values[rows[:, None], at])
        at, before = at[:, 2:], x[:, 1:-1]
        heard = self.minutes.heard[rows[:, None], at].copy()
        labels = self.minutes.labels[rows[:, None], at].copy()
        told = (rng.random(settings.batch) >= settings.drop_heard)[:, None, None].astype(np.float32)
        labels *= (rng.random(settings.batch) >= 0.05)[:, None, None]
        heard = np.concatenate([heard, np.ones_like(heard[..., :1])], -1) * told
        weight = self.weight[rows[:, None], at]
        moved = self.net.move(before, x[:, :-2])
        made, past = self.net.generated(x[:, 2:], before, moved), self.net.past(before, moved)
        told_of = (torch.from_numpy(a.astype(np.float32)) for a in (heard, labels, weight))
        return Batch(made, past, *told_of)


def foretell(net: MotionNet, values: FloatArray) -> None:
    """Set the linear prediction of each value (Yule-Walker of order two), and the scales of what it leaves
    over and of moves, from values (K, T, D)."""
    x = (torch.from_numpy(values) - net.centre).double()
    power = (x * x).mean((0, 1)).clamp(min=1e-12)
    one, two = ((x[:, lag:] * x[:, :-lag]).mean((0, 1)) / power for lag in (1, 2))
    one = one.clamp(0, 1 - 1e-7)
    # Bounded, and the first made to fit the second: inside the triangle in which such a prediction is stable.
    second = ((two - one**2) / (1 - one**2)).clamp(-0.9, 0)
    first = one.clamp(max=0.9995) * (1 - second)
    net.persistence.copy_(torch.stack([first, second]))
    net.pace.copy_((x[:, 1:] - x[:, :-1]).std((0, 1)).clamp(min=1e-6))
    left = x[:, 2:] - first * x[:, 1:-1] - second * x[:, :-2]
    net.stride.copy_(left.std((0, 1)).clamp(min=1e-7))


def own_samples(net: MotionNet, batch: Batch, steps: int = 2) -> Tensor:
    """The model's samples (B, T, D) given the true past."""
    with torch.no_grad():
        context = net(batch.past, batch.heard, batch.labels)
        size = torch.zeros(*batch.x.shape[:2], 1)

        def predict(x_t: Tensor, t: float) -> Tensor:
            return net.head(x_t, torch.full_like(size, t), size, context)

        return diffusion.euler(predict, torch.randn_like(batch.x), diffusion.schedule(steps))


def corrupted(net: MotionNet, batch: Batch, settings: Settings, own: bool) -> Tensor:
    """The history that the transformer reads."""
    past = batch.past
    if own:
        made = own_samples(net, batch)
        past = with_own(past, made)
    level = settings.history_noise * torch.rand(len(past), 1) ** 2
    return diffusion.noisy_history(past, torch.randn_like(past), level)


def with_own(past: Tensor, made: Tensor) -> Tensor:
    """The past with the model's own generations in the place of the true ones (of networks without momentum, where both are values at
    unit scale; with it the past stays true)."""
    return torch.cat([past[:, :1], made[:, :-1]], 1) if past.shape == made.shape else past


def loss_of(net: MotionNet, batch: Batch, settings: Settings, own: bool) -> tuple[Tensor, Tensor]:
    """Flow-matching loss and that of differences."""
    context = net(corrupted(net, batch, settings, own), batch.heard, batch.labels)
    draws, (b, n, _) = DRAWS, batch.x.shape
    x = batch.x.expand(draws, -1, -1, -1).reshape(draws * b, n, -1)
    context = context.expand(draws, -1, -1, -1).reshape(draws * b, n, -1)
    weight = batch.weight.repeat(draws, 1)
    # One time for a sequence, so that differences between frames compare like with like.
    t = diffusion.logit_normal(torch.randn(draws * b, 1), settings.time_mean, 1.2).expand(-1, n)
    noise = torch.randn_like(x)
    x_hat = net.head(diffusion.mix(noise, x, t), t[..., None], torch.zeros_like(t)[..., None], context)
    flow = diffusion.huber(x_hat, x, 0.3).mean(-1)
    # The weight of velocities, bounded: errors near the data count more.
    worth = 1 / (1 - t).clamp(min=0.25)
    main = (flow * worth * weight).sum() / weight.sum()
    pairs = weight[:, 1:] * weight[:, :-1]
    step = diffusion.temporal_difference(x_hat) - diffusion.temporal_difference(x)
    difference = ((step**2 + 0.01).sqrt().mean(-1) * pairs).sum() / pairs.sum()
    return main, difference


def rollout(
    net: MotionNet, heard: FloatArray, labels: FloatArray, *, steps: int, seed: int = 0,
    temperature: float = 1.0, guidance: float = 1.0, sized: bool = False, start: FloatArray | None = None,
) -> FloatArray:  # fmt: skip
    """Live on its own frames: heard (B, T, FEATURES), labels (B, T, LABELS) -> values (B, T, D). `sized` tells the head how
    long its steps are (a distilled student)."""
    b, n = heard.shape[:2]
    shape = net.shape
    generator = torch.Generator().manual_seed(seed)
    told = torch.from_numpy(np.concatenate([heard, np.ones_like(heard[..., :1])], -1).astype(np.float32))
    tags = torch.from_numpy(labels.astype(np.float32))
    ways = 1 if guidance == 1 else 2
    rings = torch.zeros(2, ways * b, shape.layers, shape.heads, shape.window, shape.width // shape.heads)
    place = torch.zeros(b, shape.values) if start is None else torch.from_numpy(start)
    moved = torch.zeros(b, shape.values)
    times, out = diffusion.schedule(steps), []
    with torch.no_grad():
        for k in range(n):
            h, p, g = told[:, k], net.past(place, moved), tags[:, k]
            if ways == 2:
                h, p, g = torch.cat([h, torch.zeros_like(h)]), torch.cat([p, p]), torch.cat([g, g])
            at = torch.full((ways * b,), k % shape.window)
            filled = torch.full((ways * b,), min(k, shape.window - 1))
            context, keys, values = net.step(p, h, g, rings[0], rings[1], at, filled)
            rings = torch.stack([keys, values])
            size = torch.full((b, 1), 1 / steps if sized else 0.0)

            def predict(x_t: Tensor, t: float, context: Tensor = context, size: Tensor = size) -> Tensor:
                now = torch.full((b, 1), t)
                given = net.head(x_t, now, size, context[:b])
                if ways == 1:
                    return given
                return diffusion.guided(given, net.head(x_t, now, size, context[b:]), guidance)

            noise = temperature * torch.randn(b, shape.values, generator=generator)
            now_shown = net.shown(diffusion.euler(predict, noise, times), place, moved)
            place, moved = now_shown, net.move(now_shown, place)
            out.append(place)
        return torch.stack(out, 1).numpy()


def train(minutes: Minutes, out: Path, settings: Settings, resume: bool) -> MotionNet:
    """Run or go on with a training; `out` gets checkpoint.pt, log.jsonl, final.pt."""
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    net, ema = make_net(settings), make_net(settings)
    if settings.start:
        net.load_state_dict(torch.load(settings.start, weights_only=True)["ema"])
    optimiser = torch.optim.AdamW(net.parameters(), lr=settings.rate, weight_decay=0.01)
    pace = Pace(settings.steps, settings.rate, warm_up=100, every=settings.every, keep=0.995)
    training = Training(net, ema, optimiser, pace, out, settings, settings.seed + 7)
    going_on = resume and training.resume()
    sequences = Sequences(minutes, settings.part, net, not (going_on or settings.start), settings.anchor)
    if not going_on:
        ema.load_state_dict(net.state_dict())

    def step(number: int, rng: np.random.Generator) -> tuple[Tensor, Parts]:
        own = number > settings.steps // 4 and rng.random() < settings.own_history
        flow, difference = loss_of(net, sequences.draw(settings, rng), settings, own)
        parts = {"flow": flow.item(), "difference": difference.item()}
        return flow + settings.difference_weight * difference, parts

    training.run(step)
    training.finish(arms=torch.from_numpy(minutes.arms))
    return ema


def load_net(path: Path) -> tuple[MotionNet, Settings]:
    """A network from final.pt or checkpoint.pt."""
    saved = torch.load(path, weights_only=True)
    settings = Settings(**{k: v for k, v in saved["settings"].items() if k in Settings.__annotations__})
    net = make_net(settings)
    net.load_state_dict(saved["ema"])
    return net.eval(), settings


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="visavis train motion", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=Path, default=Path("runs/motion/minutes.npz"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    add_settings(parser, Settings())
    args = parser.parse_args(arguments)
    settings = chosen_settings(args, Settings, Settings())
    if settings.part not in ("face", "life"):
        parser.error(f"--part is {settings.part!r}, expected face or life")
    train(Minutes.load(args.minutes), args.out, settings, args.resume)


if __name__ == "__main__":
    sys.exit(main())
