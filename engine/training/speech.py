"""Train the network from speech to the face, and export it.

    python -m visavis.engine.training.speech --data ../shared/data --landmarks runs/landmarks.npz --out runs/speech
    python -m visavis.engine.training.speech ... --resume  # go on from the last checkpoint
    python -m visavis.engine.training.speech ... --export engine/weights

In training each sequence gets a random delay of 0 to 2 frames between what is heard and what is answered, told to the network
(`speech_net`) as a one-hot.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.motion.speech import MAX_LOOKAHEAD, spread
from visavis.engine.training.data import (
    BODY,
    Clip,
    MouthRig,
    held_back,
    load_facegood,
    load_grid,
    load_voices,
    split,
)
from visavis.engine.training.loop import Pace, Parts, Training, add_settings, chosen_settings
from visavis.engine.training.speech_export import describe, export
from visavis.engine.training.speech_losses import C, correlation, film_loss, lip_bounds, voice_loss
from visavis.engine.training.speech_mix import Bank, Mix, Scales, batch, build_bank, clip_mel, make_scales
from visavis.engine.training.speech_net import SpeechNet


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
    train_clips: int = 0
    """Use only so many s1 clips (0 = all); for experiments."""
    every: int = 250
    """Steps between lines of the log and checkpoints."""


def loss_of(
    net: SpeechNet, mel: Tensor, curve: Tensor, delay: Tensor, scales: Scales, settings: Settings
) -> Tensor:
    """Curves are those of `speech_mix.clip_curve`, (B, T, C + 5)."""
    face, voice, phone = net(mel, delay)
    film = film_loss(face, curve, scales)
    classes = curve[..., C + 4].long()
    known = classes >= 0
    loss = film.channel + settings.aperture_weight * film.opening + settings.motion_weight * film.motion
    loss = loss + 0.3 * voice_loss(voice, curve) + 0.02 * film.negative
    if known.any():
        phones = F.cross_entropy(phone[known], classes[known])
        loss = loss + settings.phone_weight * known.float().mean() * phones
        meet, part = lip_bounds(film.made_BT2[..., 0], classes, known, scales)
        loss = loss + (settings.closure_weight * meet + settings.parting_weight * part).mean()
    return loss


def predict(net: SpeechNet, clips: list[Clip], lookahead: int) -> tuple[list[FloatArray], list[FloatArray]]:
    """Faces (T, C) and voice probabilities (T,) of each clip, aligned with it, gain applied."""
    net.eval()
    delay = torch.eye(MAX_LOOKAHEAD + 1)[[lookahead]]
    faces, voices = [], []
    with torch.no_grad():
        for clip in clips:
            face, voice, _ = net(clip_mel(clip, lookahead), delay)
            faces.append((face[0, lookahead:] * net.gain).numpy())
            voices.append(torch.sigmoid(voice[0, lookahead:]).numpy())
    net.train()
    return faces, voices


def measure(net: SpeechNet, clips: list[Clip], rig: MouthRig, lookahead: int) -> dict[str, float]:
    """Aperture and width against the real video: mean over clips of the correlation, lag, spread ratio,
    silence."""
    faces, voices = predict(net, clips, lookahead)
    rows = []
    for clip, face, voice in zip(clips, faces, voices, strict=True):
        full = spread(np.clip(face, 0, 1))
        aperture, width = full @ rig.aperture, full @ rig.width
        lags = [
            correlation(
                aperture[max(0, -k) : len(aperture) - max(0, k)],
                clip.aperture[max(0, k) : len(aperture) - max(0, -k)],
            )
            for k in range(-3, 4)
        ]
        silence = float(np.abs(aperture[clip.silent]).mean()) if clip.silent.any() else 0.0
        spread_ratio = float(aperture.std() / clip.aperture.std())
        heard = float(((voice > 0.5) == clip.voiced).mean())
        lag = int(np.argmax(lags)) - 3
        rows.append((lags[3], correlation(width, clip.width), lag, spread_ratio, silence, heard))
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


@dataclass
class Material:
    """What a training needs, loaded: sequences and their scales, clips that are measured."""

    bank: Bank
    scales: Scales
    trained: list[Clip]
    held: list[Clip]
    kept_back: list[Clip]
    """Of known speakers, not trained on."""
    rig: MouthRig


def prepare(data: Path, landmarks: Path, voices: Path | None, settings: Settings, body: Path) -> Material:
    """Load and mix."""
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
    shares = {"s1": 1.0, "other": 10.0, "facegood": 0.75, "voices": 0.5, "robots": 0.5}
    repeats = {name: max(1, round(settings.variants * share)) for name, share in shares.items()}
    bank = build_bank(trained + facegood, spoken, repeats, settings.seed + 1)
    return Material(bank, make_scales(bank, rig), trained, held, held_back(clips, data), rig)


def train(material: Material, out: Path, settings: Settings, resume: bool) -> SpeechNet:
    """Run or go on with a training; `out` gets checkpoint.pt, log.jsonl, final.pt."""
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    net, ema = SpeechNet(settings.width, settings.dropout), SpeechNet(settings.width, settings.dropout)
    ema.load_state_dict(net.state_dict())
    if settings.start:
        saved = torch.load(settings.start, weights_only=True)["ema"]
        for each in (net, ema):
            each.load_state_dict(saved, strict=False)
            each.gain.fill_(1)
    optimiser = torch.optim.AdamW(net.parameters(), lr=settings.rate, weight_decay=0.02)
    pace = Pace(settings.steps, settings.rate, warm_up=200, every=settings.every, keep=0.998)
    training = Training(net, ema, optimiser, pace, out, settings, settings.seed + 2)
    if resume:
        training.resume()
    mix, rig = Mix.of(settings), material.rig

    def step(number: int, rng: np.random.Generator) -> tuple[Tensor, Parts]:
        return loss_of(net, *batch(material.bank, mix, rng), material.scales, settings), {}

    def figures() -> dict[str, Any]:
        row: dict[str, Any] = {
            f"val_{k}": v for k, v in measure(ema, material.held, rig, MAX_LOOKAHEAD).items()
        }
        return row | {"train_aperture": measure(ema, material.trained[:20], rig, MAX_LOOKAHEAD)["aperture"]}

    training.run(step, figures)
    calibrate(ema, [c for c in material.trained if c.speaker != "s1"] + material.kept_back)
    training.finish()
    return ema


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
    add_settings(parser, Settings())
    args = parser.parse_args(arguments)
    settings = chosen_settings(args, Settings, Settings())
    if args.export:
        finished = args.out / "final.pt"
        saved = torch.load(finished if finished.exists() else args.out / "checkpoint.pt", weights_only=True)
        net = SpeechNet(saved["settings"]["width"], 0.0)
        net.load_state_dict(saved["ema"])
        net.gain.mul_(args.amplitude)
        export(net, args.export)
        print(json.dumps(describe(args.export)))
        return
    material = prepare(args.data, args.landmarks, args.spoken, settings, args.body)
    net = train(material, args.out, settings, args.resume)
    for lookahead in range(MAX_LOOKAHEAD + 1):
        row = {"lookahead": lookahead, "calibrated": True}
        print(json.dumps(row | measure(net, material.held, material.rig, lookahead)), flush=True)


if __name__ == "__main__":
    sys.exit(main())
