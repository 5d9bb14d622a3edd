"""Train the network from speech to the face, and export it.

    python -m visavis.engine.training.speech --data ../shared/data --landmarks runs/landmarks.npz --out
    runs/speech python -m visavis.engine.training.speech ... --resume          # go on from the last
    checkpoint python -m visavis.engine.training.speech ... --export engine/weights

Convolutions over the last 12 features (130 ms) and a gated recurrent layer. Look-ahead is a condition: in
training each sequence gets a random delay of 0 to 2 frames between what is heard and what is answered, told
to the network as a one-hot.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from visavis.engine.audio.mel import MELS_PER_FRAME, N_MELS
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.motion.speech import CONTEXT, MAX_LOOKAHEAD, SPEECH_CHANNELS, spread
from visavis.engine.training import augment
from visavis.engine.training.data import (
    HELD_OUT,
    Clip,
    MouthRig,
    Spoken,
    load_facegood,
    load_grid,
    load_voices,
    runs_of,
)
from visavis.engine.training.voices import CLASSES, CLOSED, LEAST_APERTURE

BODY = Path(__file__).parent.parent / "weights" / "body.npz"
LENGTH = 100
"""Frames of a training sequence."""


@dataclass
class Settings:
    """All that shapes a run; saved with its checkpoint."""

    steps: int = 6000
    batch: int = 24
    rate: float = 1.5e-3
    width: int = 256
    dropout: float = 0.3
    variants: int = 16
    """Voices that each s1 clip is spoken in; clips of other speakers get ten times as many."""
    other: float = 0.3
    """Share of sequences from speakers other than s1."""
    facegood: float = 0.0
    """Share of sequences from FACEGOOD."""
    voices: float = 0.0
    """Share of sequences of synthetic speech."""
    phone_weight: float = 0.3
    closure_weight: float = 6.0
    """Weight of lips meeting at p, b, m in synthetic speech."""
    parting_weight: float = 1.0
    """Weight of lips parting at its vowels."""
    silence: float = 0.08
    """Share of sequences without any speech."""
    aperture_weight: float = 1.5
    motion_weight: float = 0.5
    seed: int = 0
    start: str = ""
    """Begin with the weights of this final.pt."""
    train_clips: int = field(default=0)
    """Use only so many s1 clips (0 = all); for experiments."""


class SpeechNet(nn.Module):
    """Log-mel features of video frames -> speech channels and whether somebody speaks.

    Shapes: B sequences, T frames, M = N_MELS, C = len(SPEECH_CHANNELS).
    """

    def __init__(self, width: int = 256, dropout: float = 0.3) -> None:
        super().__init__()
        self.width = width
        self.conv1 = nn.Conv2d(1, 32, (4, 9), stride=(2, 4), padding=(0, 4))
        self.conv2 = nn.Conv2d(32, 64, (5, 3), stride=(2, 2), padding=(0, 1))
        self.join = nn.Linear(64 * N_MELS // 8 + MAX_LOOKAHEAD + 1, width)
        self.norm = nn.LayerNorm(width)
        self.dropout = nn.Dropout(dropout)
        self.gru = nn.GRU(width, width, batch_first=True)
        self.mixer = nn.Linear(2 * width, width)
        self.face = nn.Linear(width, len(SPEECH_CHANNELS))
        self.voice = nn.Linear(width, 1)
        self.phone = nn.Linear(width, len(CLASSES))  # for training only
        self.register_buffer("gain", torch.ones(len(SPEECH_CHANNELS)))

    def encode(self, mel_BNM: Tensor, delay_BD: Tensor) -> Tensor:
        """Features (B, CONTEXT + 4 T, M) -> (B, T, width); frame t sees features up to 4 t + 3."""
        x = (mel_BNM[:, None] - 4.0) / 3.0
        x = F.relu(self.conv1(x))
        x = F.relu(self.conv2(x))
        x = x.permute(0, 2, 1, 3).flatten(2)
        delay = delay_BD[:, None].expand(-1, x.shape[1], -1)
        return self.norm(F.relu(self.join(torch.cat([self.dropout(x), delay], dim=2))))

    def decode(self, encoded: Tensor, recurrent: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """-> channels (B, T, C), voice logit (B, T), logits of phoneme classes (B, T, K)."""
        x = F.relu(self.mixer(self.dropout(torch.cat([encoded, recurrent], dim=2))))
        return self.face(self.dropout(x)), self.voice(x)[..., 0], self.phone(x)

    def forward(self, mel_BNM: Tensor, delay_BD: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """A whole sequence after silence."""
        context = mel_BNM.new_zeros(len(mel_BNM), CONTEXT, mel_BNM.shape[2])
        encoded = self.encode(torch.cat([context, mel_BNM], dim=1), delay_BD)
        return self.decode(encoded, self.gru(encoded)[0])


class Step(nn.Module):
    """One video frame with its state going in and out: what is exported."""

    def __init__(self, net: SpeechNet) -> None:
        super().__init__()
        self.net = net

    def _cell(self, x: Tensor, h: Tensor) -> Tensor:
        gru, width = self.net.gru, self.net.width
        gates_x = F.linear(x, gru.weight_ih_l0, gru.bias_ih_l0)
        gates_h = F.linear(h, gru.weight_hh_l0, gru.bias_hh_l0)
        reset = torch.sigmoid(gates_x[:, :width] + gates_h[:, :width])
        update = torch.sigmoid(gates_x[:, width : 2 * width] + gates_h[:, width : 2 * width])
        new = torch.tanh(gates_x[:, 2 * width :] + reset * gates_h[:, 2 * width :])
        return new + update * (h - new)

    def forward(self, mel: Tensor, context: Tensor, hidden: Tensor, delay: Tensor) -> tuple[Tensor, ...]:
        """mel (B, 4, M), context (B, CONTEXT, M), hidden (1, B, width), delay (B, 3) one-hot ->
        face (B, C), voice (B, 1) probability, next_context, next_hidden."""
        heard = torch.cat([context, mel], dim=1)
        encoded = self.net.encode(heard, delay)[:, 0]
        recurrent = self._cell(encoded, hidden[0])
        face, voice, _ = self.net.decode(encoded[:, None], recurrent[:, None])
        return face[:, 0] * self.net.gain, torch.sigmoid(voice), heard[:, MELS_PER_FRAME:], recurrent[None]


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


def build_bank(clips: list[Clip], spoken: list[Spoken], settings: Settings) -> Bank:
    rng = np.random.default_rng(settings.seed + 1)
    bank = Bank([], [], {"s1": [], "other": [], "facegood": [], "voices": []}, [])

    def add(group: str, mel: FloatArray, curve: FloatArray) -> None:
        bank.groups[group].append(len(bank.mels))
        bank.mels.append(mel[: len(curve) * MELS_PER_FRAME].astype(np.float16))
        bank.curves.append(curve.astype(np.float16))

    repeats = {"s1": 1.0, "other": 10.0, "facegood": 0.75, "voices": 0.5}
    for number, clip in enumerate(clips):
        group = clip.speaker if clip.speaker in ("s1", "facegood") else "other"
        curve = clip_curve(clip)
        for k in range(max(1, round(settings.variants * repeats[group]))):
            voice = augment.Voice() if k == 0 else augment.random_voice(rng)
            mel = augment.log_mel(clip.sound, voice, rng)
            n = len(mel) // MELS_PER_FRAME
            moved = augment.resample_curve(curve, voice.speed, n)
            add(group, mel, moved)
        if number % 100 == 0:
            print(f"voices: clip {number} of {len(clips)}", flush=True)
    for sentence in spoken:
        for k in range(max(1, round(settings.variants * repeats["voices"]))):
            voice = augment.Voice() if k == 0 else augment.random_voice(rng)
            mel = augment.log_mel(sentence.sound, voice, rng)
            n = len(mel) // MELS_PER_FRAME
            add("voices", mel, spoken_curve(sentence.phones, voice.speed, n))
    bank.noises = [augment.noise(rng, LENGTH * MELS_PER_FRAME).astype(np.float16) for _ in range(400)]
    return bank


def make_sequence(bank: Bank, settings: Settings, rng: np.random.Generator) -> tuple[FloatArray, FloatArray]:
    """Features (4 LENGTH, M) and curves (LENGTH, C + 5) of one training sequence."""
    n_mel = LENGTH * MELS_PER_FRAME
    mel = np.zeros((n_mel, N_MELS), np.float32)
    curve = np.zeros((LENGTH, len(SPEECH_CHANNELS) + 5), np.float32)
    curve[:, -3] = 0.6
    draw = rng.random()
    if draw >= settings.silence:
        bounds = np.cumsum([settings.silence, settings.other, settings.facegood, settings.voices])
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
    if rng.random() < 0.75 or draw < settings.silence:
        background = bank.noises[int(rng.integers(len(bank.noises)))].astype(np.float32)
        background = np.roll(background, int(rng.integers(len(background))), axis=0)
        # Relative to the speech where there is some: 0 to 45 dB below it.
        speech_power = np.expm1(mel).mean() + 1e-3
        ratio = rng.uniform(3, 45) if draw >= settings.silence else 0
        wanted = speech_power * 10 ** (-ratio / 10) if ratio else 10 ** rng.uniform(-1, 4.5)
        background_power = np.expm1(background).mean() + 1e-3
        mel = np.log1p(np.expm1(mel) + np.expm1(background) * np.float32(wanted / background_power))
    if rng.random() < 0.3:  # a masked band: no single part of the spectrum may be relied on
        low, wide = int(rng.integers(0, N_MELS - 8)), int(rng.integers(4, 12))
        mel[:, low : low + wide] = 0
    return mel, curve


def batch(bank: Bank, settings: Settings, rng: np.random.Generator) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    mels, curves = zip(*(make_sequence(bank, settings, rng) for _ in range(settings.batch)), strict=True)
    delays = rng.integers(0, MAX_LOOKAHEAD + 1, settings.batch)
    shifted = np.stack(
        [np.concatenate([np.zeros_like(c[:d]), c[: len(c) - d]]) for c, d in zip(curves, delays, strict=True)]
    )
    one_hot = np.eye(MAX_LOOKAHEAD + 1, dtype=np.float32)[delays]
    mel = torch.from_numpy(np.stack(mels))
    return mel, torch.from_numpy(shifted), torch.from_numpy(one_hot), torch.from_numpy(delays)


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


def loss_of(
    net: SpeechNet, mel: Tensor, curve: Tensor, delay: Tensor, scales: Scales, settings: Settings
) -> Tensor:
    n = len(SPEECH_CHANNELS)
    face, voice, phone = net(mel, delay)
    weight, voiced = curve[..., n + 2], curve[..., n + 3]
    openness = torch.stack([face @ scales.aperture, face @ scales.width], dim=-1) / scales.openness
    wanted = curve[..., n : n + 2] / scales.openness
    error = (face - curve[..., :n]) / scales.channel
    channel = (F.smooth_l1_loss(error, torch.zeros_like(error), reduction="none").mean(-1) * weight).mean()
    gap = (openness - wanted) ** 2
    opening = ((gap[..., 0] + 0.5 * gap[..., 1]) * weight).mean()
    both = weight[:, 1:] * weight[:, :-1]
    step = (torch.diff(openness, dim=1) - torch.diff(wanted, dim=1)) ** 2
    motion = ((step[..., 0] + 0.5 * step[..., 1]) * both).mean()
    known = curve[..., n + 4] >= 0
    told = (weight > 0) | known
    speaks = F.binary_cross_entropy_with_logits(voice, (voiced > 0.5).float(), weight=told.float())
    loss = channel + settings.aperture_weight * opening + settings.motion_weight * motion + 0.3 * speaks
    loss = loss + 0.02 * torch.relu(-face / scales.channel).mean()
    if known.any():
        classes = curve[..., n + 4][known].long()
        loss = loss + settings.phone_weight * known.float().mean() * F.cross_entropy(phone[known], classes)
        # Lips meet at p, b and m; a vowel parts them at least so far (half of what is usual: a bound, no
        # target).
        aperture = openness[..., 0]
        lowest = torch.from_numpy(LEAST_APERTURE)[curve[..., n + 4].clamp(min=0).long()] / scales.openness[0]
        closed = curve[..., n + 4] == CLOSED
        meet = torch.relu(aperture - 0.01 / scales.openness[0]) ** 2 * closed
        part = torch.relu(lowest - aperture) ** 2 * known
        loss = loss + (settings.closure_weight * meet + settings.parting_weight * part).mean()
    return loss


def predict(net: SpeechNet, clips: list[Clip], lookahead: int) -> tuple[list[FloatArray], list[FloatArray]]:
    """Faces (T, C) and voice probabilities (T,) of each clip, aligned with it, gain applied."""
    net.eval()
    delay = torch.eye(MAX_LOOKAHEAD + 1)[[lookahead]]
    faces, voices = [], []
    with torch.no_grad():
        for clip in clips:
            mel = augment.log_mel(clip.sound, augment.Voice(), np.random.default_rng(0))
            n = len(clip.aperture)
            mel = np.concatenate([mel, np.zeros(((n + lookahead) * MELS_PER_FRAME, N_MELS), np.float32)])
            face, voice, _ = net(torch.from_numpy(mel[None, : (n + lookahead) * MELS_PER_FRAME]), delay)
            faces.append((face[0, lookahead:] * net.gain).numpy())
            voices.append(torch.sigmoid(voice[0, lookahead:]).numpy())
    net.train()
    return faces, voices


def _correlation(a: FloatArray, b: FloatArray) -> float:
    return float(np.corrcoef(a, b)[0, 1]) if a.std() > 1e-9 and b.std() > 1e-9 else 0.0


def measure(net: SpeechNet, clips: list[Clip], rig: MouthRig, lookahead: int) -> dict[str, float]:
    """Aperture and width against the real video: mean over clips of the correlation, lag, spread ratio,
    silence."""
    faces, voices = predict(net, clips, lookahead)
    rows = []
    for clip, face, voice in zip(clips, faces, voices, strict=True):
        full = spread(np.clip(face, 0, 1))
        aperture, width = full @ rig.aperture, full @ rig.width
        lags = [
            _correlation(
                aperture[max(0, -k) : len(aperture) - max(0, k)],
                clip.aperture[max(0, k) : len(aperture) - max(0, -k)],
            )
            for k in range(-3, 4)
        ]
        silence = float(np.abs(aperture[clip.silent]).mean()) if clip.silent.any() else 0.0
        spread_ratio = float(aperture.std() / clip.aperture.std())
        heard = float(((voice > 0.5) == clip.voiced).mean())
        lag = int(np.argmax(lags)) - 3
        rows.append((lags[3], _correlation(width, clip.width), lag, spread_ratio, silence, heard))
    table = np.array(rows)
    return {
        "aperture": round(float(table[:, 0].mean()), 4),
        "width": round(float(table[:, 1].mean()), 4),
        "lag": float(np.median(table[:, 2])),
        "spread": round(float(table[:, 3].mean()), 3),
        "silence": round(float(table[:, 4].mean()), 4),
        "voice": round(float(table[:, 5].mean()), 3),
    }


def calibrate(net: SpeechNet, clips: list[Clip]) -> None:
    """Set the gain of each channel so that its spread is the real one's: a mean over what could be is
    smaller than what is."""
    net.gain.fill_(1)
    faces, _ = predict(net, clips, MAX_LOOKAHEAD)
    said = np.concatenate(faces)
    real = np.concatenate([clip.target for clip in clips])
    speech = np.concatenate([clip.voiced for clip in clips])
    ratio = real[speech].std(axis=0) / (said[speech].std(axis=0) + 1e-4)
    # A channel that the sound hardly tells is not to be blown up to noise.
    net.gain.copy_(torch.from_numpy(np.clip(ratio, 1.0, 1.6)))


def average(ema: SpeechNet, net: SpeechNet, keep: float) -> None:
    with torch.no_grad():
        for mine, theirs in zip(ema.parameters(), net.parameters(), strict=True):
            mine.lerp_(theirs, 1 - keep)


def train(
    data: Path, landmarks: Path, voices: Path | None, out: Path, settings: Settings, resume: bool, body: Path
) -> SpeechNet:
    """Run or go on with a training; `out` gets checkpoint.pt, log.jsonl and the prepared data."""
    out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    rig = MouthRig.load(body)
    clips = load_grid(data, landmarks, rig)
    trained, held = split(clips, data)
    if settings.train_clips:
        others = [c for c in trained if c.speaker != "s1"]
        trained = others + [c for c in trained if c.speaker == "s1"][: settings.train_clips]
    facegood = load_facegood(data, rig) if settings.facegood else []
    spoken = load_voices(voices) if voices and settings.voices else []
    if settings.voices and not spoken:
        raise SystemExit("--voices wants a file made by engine.training.voices: give it with --spoken")
    bank = build_bank(trained + facegood, spoken, settings)
    scales = make_scales(bank, rig)
    net, ema = SpeechNet(settings.width, settings.dropout), SpeechNet(settings.width, settings.dropout)
    ema.load_state_dict(net.state_dict())
    optimiser = torch.optim.AdamW(net.parameters(), lr=settings.rate, weight_decay=0.02)
    if settings.start:
        saved = torch.load(settings.start, weights_only=True)["ema"]
        for each in (net, ema):
            each.load_state_dict(saved, strict=False)
            each.gain.fill_(1)
    first, checkpoint = 0, out / "checkpoint.pt"
    if resume and checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        net.load_state_dict(saved["net"])
        ema.load_state_dict(saved["ema"])
        optimiser.load_state_dict(saved["optimiser"])
        first = saved["step"]
    rng = np.random.default_rng(settings.seed + 2 + first)
    started = time.time()
    running, counted = 0.0, 0
    for step in range(first, settings.steps):
        progress = step / settings.steps
        rate = (
            settings.rate
            * min(1, (step + 1) / 200)
            * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * progress)))
        )
        for group in optimiser.param_groups:
            group["lr"] = rate
        mel, curve, delay, delays = batch(bank, settings, rng)
        for row, late in enumerate(delays.tolist()):  # nothing is known of the frames before the first
            curve[row, :late, -3] = 0
            curve[row, :late, -1] = -1
        loss = loss_of(net, mel, curve, delay, scales, settings)
        optimiser.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        average(ema, net, min(0.998, (step + 1) / (step + 20)))
        running += loss.item()
        counted += 1
        if step % 250 == 249 or step + 1 == settings.steps:
            row = {
                "step": step + 1,
                "loss": round(running / counted, 4),
                "seconds": round(time.time() - started),
            }
            row |= {f"val_{k}": v for k, v in measure(ema, held, rig, MAX_LOOKAHEAD).items()}
            row["train_aperture"] = measure(ema, trained[:20], rig, MAX_LOOKAHEAD)["aperture"]
            running, counted = 0.0, 0
            print(json.dumps(row), flush=True)
            with open(out / "log.jsonl", "a") as file:
                file.write(json.dumps(row) + "\n")
            state = {
                "net": net.state_dict(), "ema": ema.state_dict(), "optimiser": optimiser.state_dict(),
                "step": step + 1, "settings": asdict(settings),
            }  # fmt: skip
            torch.save(state, checkpoint.with_suffix(".part"))
            checkpoint.with_suffix(".part").replace(checkpoint)
    calibrate(ema, [c for c in trained if c.speaker != "s1"] + held_back(clips, data))
    for lookahead in range(MAX_LOOKAHEAD + 1):
        print(
            json.dumps({"lookahead": lookahead, "calibrated": True} | measure(ema, held, rig, lookahead)),
            flush=True,
        )
    torch.save({"ema": ema.state_dict(), "settings": asdict(settings)}, out / "final.pt")
    return ema


def split(clips: list[Clip], data: Path) -> tuple[list[Clip], list[Clip]]:
    """Training clips (grid/train) and clips of speakers that no training sees."""
    in_train = {f"{p.parent.name}/{p.stem}" for p in (data / "grid" / "train").glob("*/*.mkv")}
    trained = [c for c in clips if c.key in in_train and c.speaker not in HELD_OUT]
    return trained, [c for c in clips if c.speaker in HELD_OUT]


def held_back(clips: list[Clip], data: Path) -> list[Clip]:
    """Clips of known speakers that were not trained on (grid/val/s1)."""
    names = {f"{p.parent.name}/{p.stem}" for p in (data / "grid" / "val").glob("*/*.mkv")}
    return [c for c in clips if c.key in names and c.speaker not in HELD_OUT]


def export(net: SpeechNet, folder: Path) -> None:
    """Write speech.onnx (one step, batch axis free) and speech.safetensors."""
    from safetensors.torch import save_file

    net.eval()
    step = Step(net)
    batch_size = 2
    example = (
        torch.zeros(batch_size, MELS_PER_FRAME, N_MELS), torch.zeros(batch_size, CONTEXT, N_MELS),
        torch.zeros(1, batch_size, net.width), torch.eye(MAX_LOOKAHEAD + 1)[[2, 2]],
    )  # fmt: skip
    free = torch.export.Dim("batch", min=1, max=256)
    torch.onnx.export(
        step,
        example,
        str(folder / "speech.onnx"),
        dynamo=True,
        external_data=False,
        opset_version=18,
        verbose=False,
        input_names=["mel", "context", "hidden", "delay"],
        output_names=["face", "voice", "next_context", "next_hidden"],
        dynamic_shapes={"mel": {0: free}, "context": {0: free}, "hidden": {1: free}, "delay": {0: free}},
    )
    strip_traces(folder / "speech.onnx")
    save_file({k: v.contiguous() for k, v in net.state_dict().items()}, folder / "speech.safetensors")


def strip_traces(path: Path) -> None:
    """Drop what the exporter notes of the machine that exported: stack traces, file paths."""
    import onnx

    model = onnx.load(path)
    for entry in (model, model.graph, *model.graph.node, *model.graph.value_info, *model.graph.initializer):
        entry.ClearField("metadata_props")
        entry.ClearField("doc_string")
    onnx.save(model, path)


def describe(folder: Path) -> dict[str, str]:
    """What identifies an export: commit and sha256 of the ONNX file."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False
    ).stdout.strip()
    return {"commit": commit, "sha256": hashlib.sha256((folder / "speech.onnx").read_bytes()).hexdigest()}


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds grid/")
    parser.add_argument(
        "--landmarks", type=Path, default=Path("runs/landmarks.npz"), help="made by engine.training.landmarks"
    )
    parser.add_argument(
        "--body", type=Path, default=BODY, help="the baked body, whose face units the lips are read through"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/speech"))
    parser.add_argument("--spoken", type=Path, help="synthetic speech, made by engine.training.voices")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in --out")
    parser.add_argument(
        "--amplitude",
        type=float,
        default=1.0,
        help="at export: all channels times this",
    )
    parser.add_argument(
        "--export", type=Path, help="folder to write speech.onnx and speech.safetensors to, from --out"
    )
    for name, value in asdict(Settings()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    args = parser.parse_args(arguments)
    settings = Settings(**{name: getattr(args, name) for name in asdict(Settings())})
    if args.export:
        finished = args.out / "final.pt"
        saved = torch.load(finished if finished.exists() else args.out / "checkpoint.pt", weights_only=True)
        net = SpeechNet(saved["settings"]["width"], 0.0)
        net.load_state_dict(saved["ema"])
        net.gain.mul_(args.amplitude)
        export(net, args.export)
        print(json.dumps(describe(args.export)))
        return
    train(args.data, args.landmarks, args.spoken, args.out, settings, args.resume, args.body)


if __name__ == "__main__":
    sys.exit(main())
