"""Distil a motion teacher to a student of at most 4 steps, one pass each; `visavis distill motion`.

    python -m visavis.engine.training.motion_distil --teacher runs/motion/face/final.pt --minutes runs/motion/minutes.npz \
        --guidance 1.5 --out runs/motion/face_student

The student learns steps of 1/4, 1/2 and 1. A step of 1/4 is to land where the teacher's guided flow does in several small
ones; longer steps where two of the student's own half as long do (shortcut models). Histories are in half of all batches the
student's own samples (on-policy), always a little noisy.
"""

from __future__ import annotations

import argparse
import copy
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from visavis.engine import diffusion
from visavis.engine.training.loop import Pace, Parts, Training, add_settings, chosen_settings
from visavis.engine.training.motion import Batch, Sequences, load_net, with_own
from visavis.engine.training.motion import Settings as TeacherSettings
from visavis.engine.training.motion_data import Minutes
from visavis.engine.training.motion_nets import MotionNet

FINEST = 4


@dataclass
class Settings:
    """All that shapes a distillation; saved with the student."""

    steps: int = 400
    rate: float = 5e-4
    guidance: float = 1.0
    substeps: int = 2
    """Teacher's steps in one of the student's finest."""
    own_history: float = 0.5
    seed: int = 0
    every: int = 50
    """Steps between lines of the log and checkpoints."""


def student_samples(net: MotionNet, batch: Batch, steps: int = FINEST) -> Tensor:
    """The student's samples (B, T, D) given the true past."""
    with torch.no_grad():
        context = net(batch.past, batch.heard, batch.labels)
        size = torch.full((*batch.x.shape[:2], 1), 1 / steps)
        return diffusion.euler(
            lambda x_t, t: net.head(x_t, torch.full_like(size, t), size, context),
            torch.randn_like(batch.x),
            diffusion.schedule(steps),
        )


def teacher_target(
    teacher: MotionNet, contexts: tuple[Tensor, Tensor | None], x_t: Tensor, t: Tensor, settings: Settings
) -> Tensor:
    """The prediction at (x_t, t) with which one step of 1 / FINEST lands where the guided teacher does."""
    given, free = contexts
    zero, part = torch.zeros_like(t), 1 / FINEST / settings.substeps
    x, now = x_t, t
    for _ in range(settings.substeps):
        x_hat = teacher.head(x, now, zero, given)
        if free is not None:
            x_hat = diffusion.guidance_target(x_hat, teacher.head(x, now, zero, free), settings.guidance)
        x = x + part * diffusion.velocity_of_x(x_hat, x, now, least=part)
        now = now + part
    return diffusion.x_of_velocity((x - x_t) * FINEST, x_t, t)


def loss_of(
    student: MotionNet,
    average: MotionNet,
    teacher: MotionNet,
    batch: Batch,
    settings: Settings,
    noise_level: float,
) -> Tensor:
    """Huber distance to the target of one step size, drawn for the batch."""
    past = batch.past
    if torch.rand(()) < settings.own_history:
        past = with_own(past, student_samples(average, batch))
    level = noise_level * torch.rand(len(past), 1) ** 2
    past = diffusion.noisy_history(past, torch.randn_like(past), level)
    steps = int(2 ** torch.randint(0, 3, ())) if torch.rand(()) < 0.5 else FINEST
    b, n, _ = batch.x.shape
    t = (torch.randint(0, steps, (b, 1, 1)) / steps).expand(b, n, 1)
    noise = torch.randn_like(batch.x)
    x_t = diffusion.mix(noise, batch.x, t)
    size = torch.full_like(t, 1 / steps)
    with torch.no_grad():
        if steps == FINEST:
            given = teacher(past, batch.heard, batch.labels)
            free = None
            if settings.guidance != 1:
                free = teacher(past, torch.zeros_like(batch.heard), batch.labels)
            target = teacher_target(teacher, (given, free), x_t, t, settings)
        else:
            context = average(past, batch.heard, batch.labels)
            target = diffusion.shortcut_target(
                lambda x, now, length: average.head(x, now, length, context), x_t, t, size
            )
    x_hat = student.head(x_t, t, size, student(past, batch.heard, batch.labels))
    distance = diffusion.huber(x_hat, target, 0.1).mean(-1)
    return (distance * batch.weight).sum() / batch.weight.sum()


def distil(
    teacher: MotionNet,
    shape: TeacherSettings,
    minutes: Minutes,
    out: Path,
    settings: Settings,
    arms: Tensor,
    resume: bool = False,
) -> MotionNet:
    """`out` gets checkpoint.pt, log.jsonl and final.pt (marked as sized: it is told how long its steps are)."""
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    student, average = copy.deepcopy(teacher).train(), copy.deepcopy(teacher)
    sequences = Sequences(minutes, shape.part, student, False, shape.anchor)
    optimiser = torch.optim.AdamW(student.parameters(), lr=settings.rate, weight_decay=0.0)
    pace = Pace(settings.steps, settings.rate, warm_up=30, every=settings.every, keep=0.99, lag=10)
    training = Training(student, average, optimiser, pace, out, shape, settings.seed + 11)
    if resume:
        training.resume()

    def step(number: int, rng: np.random.Generator) -> tuple[Tensor, Parts]:
        batch = sequences.draw(shape, rng)
        return loss_of(student, average, teacher, batch, settings, shape.history_noise), {}

    training.run(step)
    training.finish(distillation=asdict(settings), sized=True, arms=arms)
    return average


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        prog="visavis distill motion",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--teacher", type=Path, required=True, help="final.pt of `visavis train motion`")
    parser.add_argument("--minutes", type=Path, default=Path("runs/motion/minutes.npz"))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    add_settings(parser, Settings())
    args = parser.parse_args(arguments)
    settings = chosen_settings(args, Settings, Settings())
    teacher, shape = load_net(args.teacher)
    arms = torch.load(args.teacher, weights_only=True)["arms"]
    distil(teacher, shape, Minutes.load(args.minutes), args.out, settings, arms, args.resume)


if __name__ == "__main__":
    sys.exit(main())
