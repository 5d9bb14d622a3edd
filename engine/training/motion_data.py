"""What the motion model is trained on: minutes of a person who speaks, listens and idles, with what is heard.

    python -m visavis.engine.training.motion_data --data ../shared/data --encoder runs/motion/encoder/final.pt \
        --bank runs/motion/bank.pkl --out runs/motion/minutes.npz

A minute is laid out as turns: speech (GRID, FACEGOOD and synthetic voices, each in many disguises), pauses, listening,
idling, noise. The speech encoder hears it; the mouth is the film's where there is film, else the encoder's own mean with
lips that meet at p, b and m (so that voices and languages nobody filmed are learned too); the rest of the person is the body
prior, driven by the same speech.
"""

from __future__ import annotations

import argparse
import pickle
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from visavis.engine.audio.mel import MELS_PER_FRAME, N_MELS
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.motion.layout import (
    ARM_CHANNELS,
    ARMS,
    FACE,
    FEATURES,
    LABELS,
    LIFE,
    MOODS,
    STATES,
    gather_life,
)
from visavis.engine.motion.lips import meet
from visavis.engine.motion.speech import MAX_LOOKAHEAD
from visavis.engine.training import prior
from visavis.engine.training.motion_hearing import Experts, load_experts
from visavis.engine.training.speech_mix import Bank
from visavis.engine.training.voices import CLOSED

MINUTE = 1500


@dataclass
class Minutes:
    """Training data of both networks: K minutes of T frames."""

    heard: FloatArray
    """(K, T, FEATURES)."""
    labels: FloatArray
    """(K, T, LABELS): state and mood."""
    face: FloatArray
    """(K, T, len(FACE))."""
    weight: FloatArray
    """(K, T): 1 filmed, less where the mouth is only thought to be so, 0 unknown."""
    life: FloatArray
    """(K, T, len(LIFE))."""
    arms: FloatArray
    """(ARMS values, N_CHANNELS): what the last of the LIFE values stand for."""

    def save(self, path: Path) -> None:
        arrays = {name: value.astype(np.float16) for name, value in vars(self).items()}
        np.savez(path, **arrays | {"arms": self.arms})

    @classmethod
    def load(cls, path: Path) -> Minutes:
        with np.load(path) as made:
            return cls(**{name: made[name].astype(np.float32) for name in made.files})


@dataclass
class Timeline:
    """One minute before anything hears it."""

    mel: FloatArray
    curve: FloatArray
    """(T, N + 5) as in `speech_mix.clip_curve`."""
    state: np.ndarray = field(default_factory=lambda: np.zeros(MINUTE, int))


def lay_out(bank: Bank, rng: np.random.Generator, frames: int = MINUTE) -> Timeline:
    """Turns of speech with pauses between sentences; listening and idle stretches; a background at times."""
    mel = np.zeros((frames * MELS_PER_FRAME, N_MELS), np.float32)
    curve = np.zeros((frames, len(FACE) + 5), np.float32)
    curve[:, -3] = 0.5
    state = np.full(frames, STATES.index("idle"))
    at = int(rng.integers(0, 40))
    while at < frames - 60:
        kind = rng.random()
        if kind < 0.48:  # a turn of speech
            group = str(rng.choice(["s1", "other", "facegood", "voices"], p=[0.28, 0.24, 0.06, 0.42]))
            gain = np.float32(10 ** (rng.uniform(-20, 8) / 10))
            for _ in range(int(rng.integers(1, 6))):
                item = int(rng.choice(bank.groups[group]))
                shown, heard = bank.curves[item].astype(np.float32), bank.mels[item].astype(np.float32)
                n = min(len(shown), len(heard) // MELS_PER_FRAME, frames - at)
                mel[at * 4 : (at + n) * 4] = np.log1p(np.expm1(heard[: n * 4]) * gain)
                curve[at : at + n] = shown[:n]
                state[at : at + n] = STATES.index("speaking")
                gap = int(rng.integers(0, 16))
                state[at + n : at + n + gap] = STATES.index("speaking")
                at += n + gap
                if at >= frames - 60:
                    break
        else:
            n = int(rng.integers(60, 350))
            state[at : at + n] = STATES.index("listening" if kind < 0.78 else "idle")
            at += n
    if rng.random() < 0.7 and bank.noises:
        noise = np.concatenate(
            [bank.noises[int(rng.integers(len(bank.noises)))] for _ in range(-(-frames // 100))]
        )
        noise = noise[: len(mel)].astype(np.float32)
        level = np.expm1(mel).mean() * 10 ** (-rng.uniform(8, 45) / 10)
        mel = np.log1p(np.expm1(mel) + np.expm1(noise) * np.float32(level / (np.expm1(noise).mean() + 1e-3)))
    return Timeline(mel, curve, state)


def levels(mel: FloatArray) -> FloatArray:
    """Level of each frame in dB, as the feature and the life cues use it."""
    power = np.expm1(mel.reshape(-1, MELS_PER_FRAME, N_MELS)).sum(-1).mean(-1)
    return (10 * np.log10(power + 1e-3)).astype(np.float32)


def live(line: Timeline, mood: int, rng: np.random.Generator) -> FloatArray:
    """The body prior along a timeline: motion (T, N_CHANNELS)."""
    speaking = (line.curve[:, -2] > 0.5) & (line.state == STATES.index("speaking"))
    return prior.from_cues(rng, prior.Cues(levels(line.mel) - 60, speaking), line.state, mood)


def arm_basis(motion: FloatArray) -> FloatArray:
    """What the ARMS values stand for, (values, N_CHANNELS): principal components of motion (..., N_CHANNELS) in the channels
    that no other value moves."""
    arms = motion[..., ARM_CHANNELS].reshape(-1, len(ARM_CHANNELS))
    _, strength, axes = np.linalg.svd(arms[::7] - arms.mean(0), full_matrices=False)
    count = ARMS.stop - ARMS.start
    basis = np.zeros((count, motion.shape[-1]), np.float32)
    basis[:, ARM_CHANNELS] = axes[:count]
    kept = (strength[:count] ** 2).sum() / (strength**2).sum()
    print(f"arms: {count} components hold {kept:.1%} of the variance")
    return basis


def shut(face: FloatArray, closed: np.ndarray) -> FloatArray:
    """Mouths (T, N) with lips that meet where `closed`, eased over the frames beside."""
    return meet(
        face, np.maximum.reduce([closed * 1.0, 0.45 * np.roll(closed, 1), 0.45 * np.roll(closed, -1)])
    )


def hear(encoder: Experts, mels: FloatArray, lookahead: int) -> FloatArray:
    """What the encoder tells of minutes of features (K, 4 T, M): (K, T, FEATURES) aligned with them."""
    k, n = len(mels), mels.shape[1] // MELS_PER_FRAME
    padded = np.concatenate([mels, np.zeros((k, lookahead * MELS_PER_FRAME, N_MELS), np.float32)], 1)
    delay = torch.eye(MAX_LOOKAHEAD + 1)[[lookahead] * k]
    with torch.no_grad():
        told = encoder(torch.from_numpy(padded), delay)
        voice = torch.sigmoid(told.voice_BT)[..., None]
        features = torch.cat([told.mouth_BTN, torch.softmax(told.phone_BTK, -1), voice, told.prosody_BTP], -1)
    features = features[:, lookahead:].numpy()
    level = np.stack([levels(mel) for mel in mels])[..., None]
    return np.concatenate([features, level / 30 - 1], -1)[:, :n]


def build(bank: Bank, encoder: Experts, count: int, seed: int = 0) -> Minutes:
    """`count` minutes of training data."""
    rng = np.random.default_rng(seed)
    encoder.eval()
    parts: list[tuple[FloatArray, ...]] = []
    n = len(FACE)
    for start in tqdm(range(0, count, 6), desc="minutes", unit="batch"):
        size = min(6, count - start)
        lines = [lay_out(bank, rng) for _ in range(size)]
        heard = hear(encoder, np.stack([line.mel for line in lines]), start // 6 % 3)
        best = heard if start // 6 % 3 == 2 else hear(encoder, np.stack([line.mel for line in lines]), 2)
        labels = np.zeros((size, MINUTE, LABELS), np.float32)
        faces, weights, lives = [], [], []
        for row, line in enumerate(lines):
            mood = int(rng.choice(len(MOODS), p=[0.5, 0.25, 0.25]))
            labels[row, np.arange(MINUTE), line.state] = 1
            labels[row, :, len(STATES) + mood] = 1
            curve = line.curve
            thought = np.clip(best[row, :, :n], 0, 1)
            filmed = curve[:, n + 2] > 0.9
            speaks = curve[:, n + 3] > 0.5
            thought = shut(thought, (curve[:, n + 4] == CLOSED) & ~filmed)
            thought *= speaks[:, None]
            faces.append(np.where((curve[:, n + 2] > 0)[:, None], curve[:, :n], thought))
            weights.append(np.where(curve[:, n + 2] > 0, curve[:, n + 2], 0.6))
            lives.append(live(line, mood, rng))
        parts.append((heard, labels, np.stack(faces), np.stack(weights), np.stack(lives)))
    heard, labels, face, weight, motion = (np.concatenate(part) for part in zip(*parts, strict=True))
    basis = arm_basis(motion)
    life = gather_life(motion)
    life[..., ARMS] = motion @ basis.T
    return Minutes(heard, labels, face, weight, life, basis)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--encoder", type=Path, default=Path("runs/motion/encoder/final.pt"))
    parser.add_argument("--first", type=Path, default=Path("runs/speech/final.pt"), help="of training.speech")
    parser.add_argument("--bank", type=Path, default=Path("runs/motion/bank.pkl"))
    parser.add_argument("--out", type=Path, default=Path("runs/motion/minutes.npz"))
    parser.add_argument("--minutes", type=int, default=120)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    bank = pickle.loads(args.bank.read_bytes())[0]
    made = build(bank, load_experts(args.encoder, args.first), args.minutes, args.seed)
    assert made.heard.shape[-1] == FEATURES and made.life.shape[-1] == len(LIFE)
    made.save(args.out)


if __name__ == "__main__":
    main()
