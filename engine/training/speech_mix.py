"""Sequences that teach the ear: clips and sentences in many voices, mixed with noise, and what of each frame is known."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from visavis.engine.audio.mel import MELS_PER_FRAME, N_MELS
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.motion.speech import MAX_LOOKAHEAD, SPEECH_CHANNELS, spread
from visavis.engine.training import augment
from visavis.engine.training.data import Clip, MouthRig, Spoken, runs_of
from visavis.engine.training.voices import CLASSES, CLOSED

LENGTH = 100
"""Frames of a training sequence."""


@dataclass
class Mix:
    """Sequences of a batch, and shares of kinds of sequences among them; the rest is GRID's s1."""

    batch: int
    other: float
    facegood: float
    voices: float
    silence: float

    @classmethod
    def of(cls, settings: Any) -> Mix:
        """The fields of that name of a training's settings."""
        return cls(**{field.name: getattr(settings, field.name) for field in fields(cls)})


@dataclass
class Bank:
    """Clips spoken in many voices, ready to be mixed into sequences."""

    mels: list[FloatArray]
    curves: list[FloatArray]
    """(T, C + 5): channels, aperture, width, weight, voiced, class of phoneme (-1 unknown)."""
    groups: dict[str, list[int]]
    noises: list[FloatArray]


def clip_curve(clip: Clip) -> FloatArray:
    """(T, C + 5) of a clip: silent frames aim at rest with a small weight, since sitters part their lips as
    they please."""
    at_rest = clip.silent[:, None]
    openness = np.stack([clip.aperture, clip.width], axis=1)
    weight = np.where(clip.valid, np.where(clip.silent, 0.3, 1.0), 0.0)
    return np.concatenate(
        [
            np.where(at_rest, 0, clip.target),
            np.where(at_rest, 0, openness),
            weight[:, None],
            clip.voiced[:, None],
            np.full((len(weight), 1), -1),
        ],
        axis=1,
    ).astype(np.float32)


def spoken_curve(phones: npt.NDArray[np.int8], speed: float, n: int) -> FloatArray:
    """(n, C + 5) of synthetic speech at `speed`: nothing is known of the face but where it rests."""
    times = (np.arange(n * MELS_PER_FRAME) + 0.5) * speed  # units of 10 ms
    fine = phones[np.minimum(times.astype(int), len(phones) - 1)].reshape(n, MELS_PER_FRAME)
    # The commonest class of the frame, but a closed mouth of 20 ms is a closed mouth.
    counts = np.stack([(fine == k).sum(axis=1) for k in range(len(CLASSES))], axis=1)
    classes = np.where(counts[:, CLOSED] >= 2, CLOSED, counts.argmax(axis=1))
    for start, end in runs_of(fine.ravel() == CLOSED):  # one that lies astride two frames must not be lost
        if not (classes[start // MELS_PER_FRAME : (end - 1) // MELS_PER_FRAME + 1] == CLOSED).any():
            classes[(start + end - 1) // 2 // MELS_PER_FRAME] = CLOSED
    speaks = (
        np.convolve(classes > 0, np.ones(8), mode="full")[5 : n + 5] > 0
    )  # from 5 frames before to 2 after
    curve = np.zeros((n, len(SPEECH_CHANNELS) + 5), np.float32)
    far = np.convolve(classes > 0, np.ones(13), mode="same") == 0
    curve[:, -3] = np.where(far, 0.3, 0)
    curve[:, -2], curve[:, -1] = speaks, classes
    return curve


def build_bank(
    clips: list[Clip],
    spoken: list[Spoken],
    repeats: dict[str, int],
    seed: int,
    phones: dict[str, npt.NDArray[np.int8]] | None = None,
    noises: int = 400,
) -> Bank:
    """Clips and sentences, each in `repeats` voices of its kind (s1, other, facegood, voices, robots); `phones`: those of clips, where they
    are known."""
    rng = np.random.default_rng(seed)
    bank = Bank([], [], {"s1": [], "other": [], "facegood": [], "voices": []}, [])

    def add(group: str, mel: FloatArray, curve: FloatArray) -> None:
        bank.groups[group].append(len(bank.mels))
        bank.mels.append(mel[: len(curve) * MELS_PER_FRAME].astype(np.float16))
        bank.curves.append(curve.astype(np.float16))

    def told(sound: FloatArray, k: int) -> tuple[FloatArray, float, int]:
        voice = augment.Voice() if k == 0 else augment.random_voice(rng)
        mel = augment.log_mel(sound, voice, rng)
        return mel, voice.speed, len(mel) // MELS_PER_FRAME

    for number, clip in enumerate(clips):
        group = clip.speaker if clip.speaker in ("s1", "facegood") else "other"
        curve = clip_curve(clip)
        for k in range(repeats[group]):
            mel, speed, n = told(clip.sound, k)
            moved = augment.resample_curve(curve, speed, n)
            if phones is not None and clip.key in phones:
                moved[:, -1] = spoken_curve(phones[clip.key], speed, n)[:, -1]
            add(group, mel, moved)
        if number % 100 == 0:
            print(f"voices: clip {number} of {len(clips)}", flush=True)
    for sentence in spoken:
        for k in range(repeats["robots" if sentence.robot else "voices"]):
            mel, speed, n = told(sentence.sound, k)
            add("voices", mel, spoken_curve(sentence.phones, speed, n))
    bank.noises = [augment.noise(rng, LENGTH * MELS_PER_FRAME).astype(np.float16) for _ in range(noises)]
    return bank


def make_sequence(bank: Bank, mix: Mix, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Features (4 LENGTH, M) and curves (LENGTH, C + 5) of one training sequence."""
    n_mel = LENGTH * MELS_PER_FRAME
    mel = np.zeros((n_mel, N_MELS), np.float32)
    curve = np.zeros((LENGTH, len(SPEECH_CHANNELS) + 5), np.float32)
    curve[:, -3] = 0.6
    draw = rng.random()
    if draw >= mix.silence:
        bounds = np.cumsum([mix.silence, mix.other, mix.facegood, mix.voices])
        group = ("other", "facegood", "voices", "s1")[int(np.searchsorted(bounds[1:], draw, side="right"))]
        chosen = int(rng.choice(bank.groups[group]))
        spoken, shown = bank.mels[chosen], bank.curves[chosen]
        start, skip = 0, 0
        if len(shown) <= LENGTH:
            start = int(rng.integers(0, LENGTH - len(shown) + 1))
        else:
            skip = int(rng.integers(0, len(shown) - LENGTH + 1))
        n = min(len(shown), LENGTH)
        gain = rng.uniform(-24, 10)
        mel[start * 4 : (start + n) * 4] = np.log1p(
            np.expm1(spoken[skip * 4 : (skip + n) * 4].astype(np.float32)) * np.float32(10 ** (gain / 10))
        )
        curve[start : start + n] = shown[skip : skip + n]
    if rng.random() < 0.75 or draw < mix.silence:
        background = bank.noises[int(rng.integers(len(bank.noises)))].astype(np.float32)
        background = np.roll(background, int(rng.integers(len(background))), axis=0)
        # Relative to the speech where there is some: 0 to 45 dB below it.
        speech_power = np.expm1(mel).mean() + 1e-3
        ratio = rng.uniform(3, 45) if draw >= mix.silence else 0
        wanted = speech_power * 10 ** (-ratio / 10) if ratio else 10 ** rng.uniform(-1, 4.5)
        background_power = np.expm1(background).mean() + 1e-3
        mel = np.log1p(np.expm1(mel) + np.expm1(background) * np.float32(wanted / background_power))
    if rng.random() < 0.3:  # a masked band: no single part of the spectrum may be relied on
        low, wide = int(rng.integers(0, N_MELS - 8)), int(rng.integers(4, 12))
        mel[:, low : low + wide] = 0
    return mel, curve


def batch(bank: Bank, mix: Mix, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor]:
    """Features (B, 4 LENGTH, M), curves (B, LENGTH, C + 5) later by a random look-ahead, which is told as a one-hot (B, 3)."""
    mels, curves = zip(*(make_sequence(bank, mix, rng) for _ in range(mix.batch)), strict=True)
    delays = rng.integers(0, MAX_LOOKAHEAD + 1, mix.batch)
    shifted = np.stack(
        [np.concatenate([np.zeros_like(c[:d]), c[: len(c) - d]]) for c, d in zip(curves, delays, strict=True)]
    )
    for row, late in enumerate(delays.tolist()):  # nothing is known of the frames before the first
        shifted[row, :late, -3] = 0
        shifted[row, :late, -1] = -1
    one_hot = np.eye(MAX_LOOKAHEAD + 1, dtype=np.float32)[delays]
    return torch.from_numpy(np.stack(mels)), torch.from_numpy(shifted), torch.from_numpy(one_hot)


def clip_mel(clip: Clip, lookahead: int) -> Tensor:
    """Features (1, 4 (T + lookahead), M) of a clip of T frames, silence behind."""
    mel = augment.log_mel(clip.sound, augment.Voice(), np.random.default_rng(0))
    n = (len(clip.aperture) + lookahead) * MELS_PER_FRAME
    return torch.from_numpy(np.concatenate([mel, np.zeros((n, N_MELS), np.float32)])[None, :n])


@dataclass
class Scales:
    """Spread of the targets, which brings all losses to one scale, and the rig's read-outs."""

    channel: Tensor
    aperture: Tensor
    width: Tensor
    openness: Tensor
    """(2,): standard deviation of aperture and width."""


def make_scales(bank: Bank, rig: MouthRig) -> Scales:
    filmed = bank.groups["s1"] + bank.groups["other"]
    every = np.concatenate([bank.curves[k].astype(np.float32) for k in filmed])
    n = len(SPEECH_CHANNELS)
    basis = spread(np.eye(n, dtype=np.float32))
    return Scales(
        torch.from_numpy(every[:, :n].std(axis=0).clip(0.02)),
        torch.from_numpy(basis @ rig.aperture),
        torch.from_numpy(basis @ rig.width),
        torch.from_numpy(every[:, n : n + 2].std(axis=0)),
    )
