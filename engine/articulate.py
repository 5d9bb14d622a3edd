"""Learn how one person's mouth goes with speech, from film of it with sound: what `motion/articulation.py` corrects by.

Plain ridge regression: the networks hear the film, and what the lips did beyond what they say is regressed on what they heard. A few seconds at a
time are held out in turn; what these do not confirm is not kept.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from visavis.engine.audio.decode import read_sound
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.body.detect import Face
from visavis.engine.body.person import aperture, mouth_width
from visavis.engine.errors import AudioError
from visavis.engine.footage import Source
from visavis.engine.motion.articulation import INPUTS, LAGS, OWN_SCALE, Articulation, base_of
from visavis.engine.motion.diffusion import MAX_LOOKAHEAD, WEIGHTS, MotionModel
from visavis.engine.timing import FPS, SAMPLES_PER_FRAME

Float64 = npt.NDArray[np.float64]

LEAST_SPEECH = 6.0
"""Seconds of speech: of less nothing is learned."""
STRENGTHS = (8.0, 25.0, 80.0, 250.0)
"""Of the ridge: what was held out chooses, for aperture and width each."""
FADING = 1.4
"""How much stronger it is a frame further back."""
NOISE = 0.1
"""Added to the spread by which an input is scaled: inputs that hardly move say little."""
SILENT_WEIGHT = 0.3
FOLDS = 5
GAIN = 0.03
"""Share of the squared error that must go in what was held out, for aperture and width each."""
LATEST = 6
"""Frames by which sound and picture of a film may be apart."""
LEAST_LIKE = 0.25
"""Correlation of the lips with the networks' below which the sound is not that of this mouth."""
OPENS_FURTHER = 1.2
"""Avatars open so much further than the mean face by which reach is measured."""
REACHES = (0.045, 0.1)


@dataclass(frozen=True, eq=False)
class Lesson:
    """What a film taught: the articulation, None where nothing; `seconds` of speech; correlation of aperture and width with the real lips, in frames held
    out, by the networks alone and with it."""

    articulation: Articulation | None
    seconds: float
    before: tuple[float, float] = (0.0, 0.0)
    after: tuple[float, float] = (0.0, 0.0)
    why: str = ""

    def __str__(self) -> str:
        if self.articulation is None:
            return f"the film taught nothing about how this mouth moves: {self.why}"
        return (
            f"how this mouth moves, from {self.seconds:.0f} s of speech: its aperture follows the real one by {self.after[0]:.2f} (as anybody's: {self.before[0]:.2f}), "
            f"its width by {self.after[1]:.2f} ({self.before[1]:.2f})"
        )


@dataclass(frozen=True, eq=False)
class Lips:
    """Real lips at 25 frames a second: `aperture`, `width` (T,) about rest, in distances between the outer eye corners; `seen` (T,)."""

    aperture: Float64
    width: Float64
    seen: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, faces: Sequence[Face | None], times: Float64) -> Lips:
        """Of a film's faces (T,) at `times` (T,), seconds since the first; frames without one take their neighbours' values."""
        known = np.array([face is not None for face in faces])
        marks = np.stack([face.landmarks for face in faces if face is not None])
        usual = float(np.median(np.diff(times))) if len(times) > 1 else 1 / FPS
        wanted = np.arange(max(1, round((float(times[-1]) + usual) * FPS))) / FPS
        gap, wide = (np.interp(wanted, times[known], of(marks)) for of in (aperture, mouth_width))
        closed = gap <= np.percentile(gap, 12)
        seen = np.interp(wanted, times, known.astype(float)) > 0.99
        return cls(gap - np.median(gap[closed]), wide - np.median(wide[closed]), seen)


@dataclass(eq=False)
class _Recorder:
    """In the place of an articulation: changes nothing and keeps what one would read."""

    reach: float | None = None
    past: list[FloatArray] = field(default_factory=list)

    def added(self, past: FloatArray) -> FloatArray:
        self.past.append(past)
        return np.zeros(2, np.float32)


def learn_articulation(film: Source, faces: Sequence[Face | None], times: Float64) -> Lesson:
    """How the person of a film articulates, from the face in each of its frames, shown at `times` (T,), seconds since the first. Films without sound, or with sound that is not that of
    this mouth, teach nothing."""
    try:
        sound = read_sound(film)
    except AudioError as error:
        return Lesson(None, 0.0, why=str(error))
    lips = Lips.of(faces, times)
    return regress(lips, *listen(sound, len(lips.seen)))


def listen(sound: FloatArray, frames: int, weights: Path = WEIGHTS) -> tuple[Float64, Float64]:
    """What the networks read (T, LAGS, INPUTS) and how far they let the mouth go (T,), of 16 kHz sound."""
    model, recorder = MotionModel([0], weights=weights), _Recorder()
    model.set_articulation(recorder)
    count = frames + MAX_LOOKAHEAD
    padded = np.zeros(count * SAMPLES_PER_FRAME, np.float32)
    padded[: min(len(sound), len(padded))] = sound[: len(padded)]
    gates = []
    for block in padded.reshape(count, 1, SAMPLES_PER_FRAME):
        model.step([block])
        gates.append(model.gate())
    return np.array(recorder.past[MAX_LOOKAHEAD:], np.float64), np.array(gates[MAX_LOOKAHEAD:])


def regress(lips: Lips, past: Float64, gate: Float64) -> Lesson:
    """From real lips (T frames) and what `listen` says of their sound."""
    late = _lateness(lips.aperture, past[:, 0, -2])
    if late is None:
        return Lesson(None, 0.0, why="its sound does not go with the lips")
    # the lips' frame `late` frames on belongs to the sound's
    count = min(len(past), len(lips.seen)) - abs(late)
    own, theirs = slice(max(0, late), max(0, late) + count), slice(max(0, -late), max(0, -late) + count)
    past, gate, seen = past[theirs], gate[theirs], lips.seen[own]
    real = np.stack([lips.aperture[own], lips.width[own]], 1)
    said = past[:, 0, -2:] / OWN_SCALE
    spoken = (gate > 0.5) & seen
    seconds = float(spoken.sum()) / FPS
    if seconds < LEAST_SPEECH:
        return Lesson(None, seconds, why=f"{seconds:.0f} s of speech are too little")
    weight = np.maximum(gate, SILENT_WEIGHT) * seen
    tries = [_held_out(past, real - said, weight, strength) for strength in STRENGTHS]
    guesses = []
    for predicted in tries:
        guess = said + predicted * gate[:, None]
        guess[:, 0] = np.maximum(guess[:, 0], 0)
        guesses.append(guess)
    plain = ((said - real)[spoken] ** 2).mean(0)
    errors = np.array([((guess - real)[spoken] ** 2).mean(0) for guess in guesses])
    best = errors.argmin(0)
    kept = errors.min(0) < (1 - GAIN) * plain
    after = np.where(kept, np.stack([guesses[k][:, axis] for axis, k in enumerate(best)], 1), said)
    likeness = [_like(guess, real, spoken) for guess in (said, after)]
    if not kept.any():
        return Lesson(None, seconds, likeness[0], likeness[0], "it moves as the networks have it already")
    fits = [_ridge(past, real - said, weight, STRENGTHS[k]) for k in best]
    w = np.stack([fits[axis][0][..., axis] * kept[axis] for axis in (0, 1)], -1)
    b = np.array([fits[axis][1][axis] * kept[axis] for axis in (0, 1)])
    reach = float(np.clip(real[spoken, 0].mean() / OPENS_FURTHER, *REACHES)) if kept[0] else None
    own_way = Articulation(w.astype(np.float32), b.astype(np.float32), reach, base_of(WEIGHTS))
    return Lesson(own_way, seconds, likeness[0], likeness[1])


def _held_out(past: Float64, wanted: Float64, weight: Float64, strength: float) -> Float64:
    """What is said of each frame (T, 2) by a regression that knows neither it nor its neighbours."""
    predicted = np.zeros_like(wanted)
    edges = np.linspace(0, len(past), FOLDS + 1).astype(int)
    for start, stop in itertools.pairwise(edges):
        left = weight.copy()
        left[max(0, start - LAGS) : stop + LAGS] = 0
        w, b = _ridge(past, wanted, left, strength)
        predicted[start:stop] = np.tensordot(past[start:stop], w, 2) + b
    return predicted


def _lateness(real: Float64, said: Float64) -> int | None:
    """By how many frames the picture is behind the sound, where the lips are most like what is heard; None where they are like it nowhere."""
    count = min(len(real), len(said)) - 2 * LATEST
    if count < FPS:
        return None
    mid = said[LATEST : LATEST + count]
    like = [
        _correlation(mid, real[LATEST + late : LATEST + late + count]) for late in range(-LATEST, LATEST + 1)
    ]
    best = int(np.argmax(like))
    return best - LATEST if like[best] >= LEAST_LIKE else None


def _ridge(past: Float64, wanted: Float64, weight: Float64, strength: float) -> tuple[Float64, Float64]:
    """Weights (LAGS, INPUTS, 2) and offset (2,)."""
    x = past.reshape(len(past), -1)
    total = weight.sum()
    mean = weight @ x / total
    spread = np.sqrt(weight @ (x - mean) ** 2 / total) + NOISE
    z = (x - mean) / spread
    middle = weight @ wanted / total
    penalty = strength * np.repeat(FADING ** np.arange(LAGS), INPUTS)
    w = np.linalg.solve(
        (z * weight[:, None]).T @ z + np.diag(penalty), (z * weight[:, None]).T @ (wanted - middle)
    )
    w = w / spread[:, None]
    return w.reshape(LAGS, INPUTS, 2), middle - mean @ w


def _like(guess: Float64, real: Float64, where: npt.NDArray[np.bool_]) -> tuple[float, float]:
    a, w = (_correlation(guess[where, k], real[where, k]) for k in (0, 1))
    return a, w


def _correlation(a: Float64, b: Float64) -> float:
    """0 where one of them does not move."""
    return float(np.corrcoef(a, b)[0, 1]) if np.ptp(a) > 0 and np.ptp(b) > 0 else 0.0
