"""What speaks in the motion benchmark: motion sources driven as a session drives them, and baselines that give a mouth alone."""

from __future__ import annotations

import importlib
import json
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.errors import MotionError
from visavis.engine.motion.channels import FACE_SLICE
from visavis.engine.motion.director import MotionDirector, MotionSource
from visavis.engine.session import Session, render_offline
from visavis.engine.timing import SAMPLES_PER_FRAME

HEADAUDIO = "@met4citizen/headaudio@0.1.0"
VISEME_PP = 5
"""The place of p, b and m among HeadAudio's visemes; its values reach 0.75."""
Factory = Callable[[int], MotionSource]


class _NoPicture:
    """A renderer for sessions whose motion alone matters."""

    def render(self, motion: FloatArray) -> npt.NDArray[np.uint8]:
        return np.zeros((1, 1, 3), np.uint8)


def spoken(source: MotionSource, sound: FloatArray) -> FloatArray:
    """Motion (T, N_CHANNELS) of a recording (samples at 16 kHz), frame k for samples 640 k on, through a session."""
    frames = render_offline(None, sound.astype(np.float32), 16_000, renderer=_NoPicture(), source=source)
    return np.stack([frame.motion for frame in frames])


def idle(source: MotionSource, frames: int) -> FloatArray:
    """Motion (frames, N_CHANNELS) of a session in which nobody speaks."""
    with Session(None, renderer=_NoPicture(), source=source) as session:
        return np.stack([frame.motion for frame in session.frames(frames)])


@dataclass(frozen=True)
class Mouth:
    """The read-out of a face: linear in the 52 coefficients, in distances between the outer eye corners."""

    aperture: FloatArray
    width: FloatArray

    def read(self, motion: FloatArray) -> FloatArray:
        """Aperture (lips cannot pass through each other) and width of motion (T, N_CHANNELS): (T, 2)."""
        face = motion[:, FACE_SLICE]
        return np.stack([np.maximum(0, face @ self.aperture), face @ self.width], 1)


@dataclass(frozen=True)
class Baseline:
    """Features of a recording and the linear map from them to aperture and width that fits real mouths best; no features, no opening."""

    features: Callable[[list[FloatArray]], list[FloatArray]]
    weights: FloatArray
    shut: int | None = None
    """A feature that says itself that lips are shut, at 0.7."""

    @classmethod
    def fit(
        cls,
        features: Callable[[list[FloatArray]], list[FloatArray]],
        sounds: list[FloatArray],
        mouths: list[FloatArray],
    ) -> Baseline:
        """Ridge regression on recordings and their real mouths (T, 2)."""
        rows, targets = [], []
        for x, mouth in zip(features(sounds), mouths, strict=True):
            n = min(len(x), len(mouth))
            known = np.isfinite(mouth[:n]).all(1)
            rows.append(x[:n][known])
            targets.append(mouth[:n][known])
        a, b = np.concatenate(rows), np.concatenate(targets)
        return cls(features, np.linalg.solve(a.T @ a + 1e-3 * np.eye(a.shape[1]), a.T @ b).astype(np.float32))

    def __call__(self, sounds: list[FloatArray]) -> list[FloatArray]:
        """Aperture and width (T, 2) of each recording."""
        made = []
        for x in self.features(sounds):
            mouth = x @ self.weights
            mouth[:, 0] = np.maximum(0, mouth[:, 0])
            if self.shut is not None:
                mouth[:, 0] *= 1 - np.clip(x[:, self.shut] / 0.7, 0, 1)
            made.append(mouth.astype(np.float32))
        return made


def log_energy(sounds: list[FloatArray]) -> list[FloatArray]:
    """Level of each frame (T, 1) in dB above the recording's own quiet, at most 40."""
    out = []
    for sound in sounds:
        blocks = sound[: len(sound) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME].reshape(-1, SAMPLES_PER_FRAME)
        level = 10 * np.log10(np.square(blocks).mean(1) + 1e-10)
        out.append(np.clip(level - np.percentile(level, 10), 0, 40)[:, None].astype(np.float32))
    return out


def headaudio_folder(install: Path | None) -> Path | None:
    """Where the package lies under `install`, or None; `node` must be there as well."""
    folder = None if install is None else install / "node_modules" / "@met4citizen" / "headaudio"
    return folder if folder is not None and folder.is_dir() and shutil.which("node") else None


def install_headaudio(into: Path) -> None:
    """Fetch the peer from the npm registry into a folder of its own; MotionError when that does not work."""
    into.mkdir(parents=True, exist_ok=True)
    command = ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(into), HEADAUDIO]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise MotionError(f"{HEADAUDIO} was not installed: {error}") from None
    if done.returncode:
        raise MotionError(f"{HEADAUDIO} was not installed: {done.stderr.strip()[-300:]}")


def headaudio(folder: Path, lookahead: int, sounds: Iterable[FloatArray]) -> list[FloatArray]:
    """Values (T, 15) of the visemes that HeadAudio sees in each recording; `lookahead` frames earlier than it says, as ours (its manual has the
    sound delayed by 50 to 100 ms for that). A second of room noise goes first: its detector gates by level."""
    script = Path(__file__).with_name("quality_headaudio.mjs")
    with tempfile.TemporaryDirectory() as scratch:
        lines, lengths = [], []
        for k, sound in enumerate(sounds):
            path = Path(scratch) / f"{k}.f32"
            padded = np.concatenate([sound, np.zeros(lookahead * SAMPLES_PER_FRAME, np.float32)])
            padded.astype("<f4").tofile(path)
            lines.append(json.dumps({"file": str(path)}))
            lengths.append(-(-len(sound) // SAMPLES_PER_FRAME))
        done = subprocess.run(
            ["node", str(script), str(folder)],
            input="\n".join(lines) + "\n",
            capture_output=True,
            text=True,
            timeout=600,
        )
        if done.returncode:
            raise MotionError(f"HeadAudio did not run: {done.stderr.strip()[-300:]}")
    out = []
    for line, length in zip(done.stdout.splitlines(), lengths, strict=True):
        values = np.array(json.loads(line)["values"], np.float32)[lookahead:]
        out.append(np.pad(values, ((0, max(0, length - len(values))), (0, 0)), "edge")[:length])
    return out


def find_sources(
    lookahead: int, teacher: Path | None, extra: list[str]
) -> tuple[dict[str, Factory], dict[str, str]]:
    """Motion sources by name, each a function of a seed; and of those that are missing, why.

    `teacher`: a folder with the teacher's networks; `extra`: NAME=module:callable, the callable taking seed and lookahead.
    """
    found: dict[str, Factory] = {}
    missing: dict[str, str] = {}

    def diffusion(**options: Any) -> Factory:
        from visavis.engine.motion.diffusion import DiffusionMotion

        return lambda seed: DiffusionMotion(seed, lookahead, **options)

    wanted: list[tuple[str, dict[str, Any]]] = [("student", {})]
    if teacher is not None:
        wanted.append(("teacher", {"weights": teacher}))
    for name, options in wanted:
        try:
            factory = diffusion(**options)
            factory(0)
            found[name] = factory
        except Exception as error:  # not built yet, or weights that are not there
            missing[name] = f"{type(error).__name__}: {str(error).splitlines()[0][:120]}"
    found["first"] = lambda seed: MotionDirector(seed, lookahead)
    for given in extra:
        name, _, target = given.partition("=")
        module, _, attribute = target.partition(":")
        if not (name and module and attribute):
            raise MotionError(f"--source {given!r}: expected NAME=module:callable")
        made: Any = getattr(importlib.import_module(module), attribute)
        found[name] = lambda seed, made=made: made(seed=seed, lookahead=lookahead)  # type: ignore[misc]
    return found, missing
