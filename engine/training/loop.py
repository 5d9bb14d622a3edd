"""What every training has in common: learning rate, averaged weights, checkpoints, log.

A checkpoint holds all that the next step depends on (weights, their average, the optimiser, the states of both random generators), so a run
that was interrupted and resumed ends with the same bits as one that was not. Steps after the last checkpoint are taken again.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor, nn

Parts = dict[str, float]
StepLoss = Callable[[int, np.random.Generator], tuple[Tensor, Parts]]
"""Of a step's number and the generator that draws its data: the loss, and what of it is to be logged."""
S = TypeVar("S")


def learning_rate(step: int, peak: float, steps: int, warm_up: int) -> float:
    """Linear up to `peak` over `warm_up` steps, and half a cosine down to 2 % of it at `steps`."""
    return peak * min(1, (step + 1) / warm_up) * (0.02 + 0.49 * (1 + math.cos(math.pi * step / steps)))


def set_rate(optimiser: torch.optim.Optimizer, rate: float) -> None:
    """One rate for all parameters."""
    for group in optimiser.param_groups:
        group["lr"] = rate


def average(ema: nn.Module, net: nn.Module, step: int, most: float, lag: int = 20) -> None:
    """Move averaged weights towards the net's after the step numbered `step`: a plain mean at first, later an exponential one that keeps
    `most` of what it was."""
    keep = min(most, (step + 1) / (step + lag))
    with torch.no_grad():
        for mine, theirs in zip(ema.parameters(), net.parameters(), strict=True):
            mine.lerp_(theirs, 1 - keep)


def save_whole(path: Path, parts: dict[str, Any]) -> None:
    """Write a file that is either the old one or the new one, whenever the machine stops."""
    partial = path.with_suffix(".part")
    torch.save(parts, partial)
    partial.replace(path)


def log_row(path: Path, row: dict[str, Any]) -> None:
    """A line of JSON on the terminal and at the end of `path`."""
    line = json.dumps(row)
    print(line, flush=True)
    with path.open("a") as file:
        file.write(line + "\n")


def add_settings(parser: argparse.ArgumentParser, defaults: Any) -> None:
    """An option for each field of a dataclass of numbers and strings."""
    for name, value in asdict(defaults).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)


def chosen_settings(args: argparse.Namespace, kind: Callable[..., S], defaults: Any) -> S:
    """The dataclass that `add_settings` asked for."""
    return kind(**{name: getattr(args, name) for name in asdict(defaults)})


@dataclass(frozen=True)
class Pace:
    """How a run goes on: steps in all, the peak of the learning rate and the steps until it is reached, steps between checkpoints, and the most
    that averaged weights keep of themselves (`average`)."""

    steps: int
    rate: float
    warm_up: int
    every: int
    keep: float
    lag: int = 20


class Training:
    """One run: `out` gets checkpoint.pt and log.jsonl as it goes, final.pt at its end. `settings`: a dataclass, saved with the weights."""

    def __init__(
        self, net: nn.Module, ema: nn.Module, optimiser: torch.optim.Optimizer, pace: Pace, out: Path, settings: Any, seed: int,
    ) -> None:  # fmt: skip
        self.net, self.ema, self.optimiser = net, ema, optimiser
        self.pace, self.out, self.settings, self.seed = pace, out, asdict(settings), seed
        self.rng = np.random.default_rng(seed)
        self.step, self.seconds = 0, 0.0
        out.mkdir(parents=True, exist_ok=True)
        self._checkpoint, self._log = out / "checkpoint.pt", out / "log.jsonl"

    def resume(self) -> bool:
        """Go on from the checkpoint, if there is one. One without random states (made before they were kept) goes on with other draws."""
        if not self._checkpoint.exists():
            return False
        saved = torch.load(self._checkpoint, weights_only=True)
        self.net.load_state_dict(saved["net"])
        self.ema.load_state_dict(saved["ema"])
        self.optimiser.load_state_dict(saved["optimiser"])
        self.step, self.seconds = saved["step"], saved.get("seconds", 0.0)
        if "drawn" in saved:
            self.rng.bit_generator.state = json.loads(saved["drawn"])
            torch.set_rng_state(saved["torch"])
        else:
            self.rng = np.random.default_rng(self.seed + self.step)
        return True

    def run(self, loss_of: StepLoss, measure: Callable[[], dict[str, Any]] | None = None) -> None:
        """All steps that are left. `measure` gives the figures of a line of the log beside the mean of the loss and of its parts; it must leave
        the random generators alone."""
        started, sums, counted = time.time() - self.seconds, dict[str, float](), 0
        self._begin_log()
        while self.step < self.pace.steps:
            set_rate(
                self.optimiser,
                learning_rate(self.step, self.pace.rate, self.pace.steps, self.pace.warm_up),
            )
            loss, parts = loss_of(self.step, self.rng)
            if not math.isfinite(loss.item()):
                raise RuntimeError(f"the loss is {loss.item()} at step {self.step}")
            self.optimiser.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
            self.optimiser.step()
            average(self.ema, self.net, self.step, self.pace.keep, self.pace.lag)
            self.step += 1
            for name, value in ({"loss": loss.item()} | parts).items():
                sums[name] = sums.get(name, 0.0) + value
            counted += 1
            if self.step % self.pace.every == 0 or self.step == self.pace.steps:
                self.seconds = time.time() - started
                row: dict[str, Any] = {"step": self.step, "seconds": round(self.seconds)}
                row |= {name: round(value / counted, 4) for name, value in sums.items()}
                log_row(self._log, row | (measure() if measure else {}))
                self._save()
                sums, counted = {}, 0

    def finish(self, **more: Any) -> None:
        """Write final.pt: averaged weights, settings and `more`."""
        save_whole(self.out / "final.pt", {"ema": self.ema.state_dict(), "settings": self.settings, **more})

    def _save(self) -> None:
        state = {
            "net": self.net.state_dict(), "ema": self.ema.state_dict(), "optimiser": self.optimiser.state_dict(),
            "step": self.step, "seconds": self.seconds, "settings": self.settings,
            "drawn": json.dumps(self.rng.bit_generator.state), "torch": torch.get_rng_state(),
        }  # fmt: skip
        save_whole(self._checkpoint, state)

    def _begin_log(self) -> None:
        """Keep the lines up to the step that the run goes on from."""
        if self._log.exists():
            lines = [
                line for line in self._log.read_text().splitlines() if json.loads(line)["step"] <= self.step
            ]
            self._log.write_text("".join(line + "\n" for line in lines))
