"""The speech encoder of the motion model: what is said, by whomever, and the mean of what a mouth does at it.

    python -m visavis.engine.training.motion_encoder --data ../shared/data --landmarks runs/landmarks.npz \
        --phones runs/motion/phones.npz --spoken runs/voices.npz --out runs/motion/encoder

Film of one man teaches his lips, not everybody's: a mouth read off phonemes suits strangers better than one read off his
sound (linear read-outs on unseen speakers: see the card). So the mouth hangs on a bottleneck, phoneme posteriors and a few
prosodic values; a second way, straight from the sound, is switched off in half of all sequences. Phonemes are learned from
aligned film and from synthetic voices; a loss on each clip's correlation asks for the shape of the curve and leaves each
speaker their own amplitude.
"""

from __future__ import annotations

import argparse
import json
import pickle
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.motion.speech import MAX_LOOKAHEAD
from visavis.engine.training.data import (
    BODY,
    Clip,
    MouthRig,
    load_facegood,
    load_grid,
    load_voices,
    split,
)
from visavis.engine.training.loop import Pace, Parts, Training, add_settings, chosen_settings
from visavis.engine.training.motion_hearing import N, SpeechEncoder
from visavis.engine.training.speech_losses import correlation, film_loss, lip_bounds, voice_loss
from visavis.engine.training.speech_mix import (
    Bank,
    Mix,
    Scales,
    batch,
    build_bank,
    clip_mel,
    make_scales,
    spoken_curve,
)


@dataclass
class Settings:
    """All that shapes a run; saved with its checkpoint."""

    steps: int = 1500
    batch: int = 20
    rate: float = 1.2e-3
    width: int = 256
    tail: int = 96
    dropout: float = 0.3
    s1_variants: int = 3
    other_variants: int = 40
    spoken_variants: int = 3
    robot_variants: int = 1
    """Of sentences by espeak-ng (`training.voices_espeak`)."""
    straight: float = 0.5
    """Share of sequences that may use the way past the phonemes."""
    film_trunk: int = 1
    """0: film teaches the read-out alone, not what is heard; a network this size soon knows ten minutes of film by heart."""
    ear_only: int = 0
    """1: the mouth's read-out stays as it is. Trained on with the ear it goes back to the lips of the one man who is filmed most."""
    mouth_only: int = 0
    """1: the ear stays as it is, and the mouth learns to read what it says now."""
    other: float = 0.25
    facegood: float = 0.04
    voices: float = 0.33
    silence: float = 0.08
    phone_weight: float = 1.0
    correlation_weight: float = 1.0
    aperture_weight: float = 1.5
    closure_weight: float = 5.0
    parting_weight: float = 1.0
    seed: int = 0
    start: str = ""
    """A final.pt of engine.training.speech or of this module to begin with; of several (commas between) the mean of their weights, which is
    worth more than any where they were trained on from one another."""
    mouth: str = ""
    """The final.pt whose read-out of the mouth to begin with instead."""
    every: int = 150
    """Steps between lines of the log and checkpoints."""


def correlation_loss(made_BT: Tensor, real_BT: Tensor, weight_BT: Tensor) -> Tensor:
    """Mean over sequences of 1 - correlation over the frames that count; sequences without movement are left out."""
    total = weight_BT.sum(1, keepdim=True).clamp(min=1e-3)
    made = made_BT - (made_BT * weight_BT).sum(1, keepdim=True) / total
    real = real_BT - (real_BT * weight_BT).sum(1, keepdim=True) / total
    covariance = (made * real * weight_BT).sum(1)
    power = (made.square() * weight_BT).sum(1).clamp(min=1e-2)
    spread = (
        power * (real.square() * weight_BT).sum(1).clamp(min=1e-2)
    ).sqrt()  # a root of 0 has no gradient
    counts = (real.square() * weight_BT).sum(1) > 3.0
    return ((1 - covariance / spread) * counts).sum() / counts.sum().clamp(min=1)


def loss_of(
    net: SpeechEncoder, mel: Tensor, curve: Tensor, delay: Tensor, scales: Scales, settings: Settings
) -> tuple[Tensor, Parts]:
    """Curves are those of `speech_mix.clip_curve`, (B, T, N + 5)."""
    straight = (torch.rand(len(mel), 1, 1) < settings.straight).float()
    heard = net(mel, delay, straight, bool(settings.film_trunk))
    film = film_loss(heard.mouth_BTN, curve, scales)
    classes, weight = curve[..., N + 4].long(), curve[..., N + 2]
    made, wanted, known = film.made_BT2, film.wanted_BT2, classes >= 0
    shape = correlation_loss(made[..., 0], wanted[..., 0], weight) + correlation_loss(
        made[..., 1], wanted[..., 1], weight
    )
    phone = film.channel * 0
    if known.any():
        phone = F.cross_entropy(heard.phone_BTK[known], classes[known])
    meet, part = lip_bounds(made[..., 0], classes, known & (weight == 0), scales)
    loss = film.channel + settings.aperture_weight * film.opening + 0.5 * film.motion
    loss = loss + 0.02 * film.negative + 0.3 * voice_loss(heard.voice_BT, curve)
    loss = loss + settings.correlation_weight * 0.25 * shape + settings.phone_weight * 0.3 * phone
    loss = loss + (settings.closure_weight * meet + settings.parting_weight * part).mean()
    return loss, {"phone": phone.item(), "shape": shape.item() / 2}


def predict(net: SpeechEncoder, clips: list[Clip], lookahead: int) -> list[dict[str, FloatArray]]:
    """Of each clip, aligned with it: mouth (T, N) with gain, voice (T,), phones (T, K)."""
    net.eval()
    delay = torch.eye(MAX_LOOKAHEAD + 1)[[lookahead]]
    out = []
    with torch.no_grad():
        for clip in clips:
            heard = net(clip_mel(clip, lookahead), delay)
            out.append(
                {
                    "mouth": (heard.mouth_BTN[0, lookahead:] * net.gain).numpy(),
                    "voice": torch.sigmoid(heard.voice_BT[0, lookahead:]).numpy(),
                    "phones": torch.softmax(heard.phone_BTK[0, lookahead:], -1).numpy(),
                }
            )
    net.train()
    return out


def read_out(mouth: FloatArray, scales: Scales) -> tuple[FloatArray, FloatArray]:
    """Aperture and width (T,) of speech channels (T, N)."""
    shown = np.clip(mouth, 0, 1)
    return shown @ scales.aperture.numpy(), shown @ scales.width.numpy()


def measure(
    net: SpeechEncoder,
    clips: list[Clip],
    phones: dict[str, npt.NDArray[np.int8]],
    scales: Scales,
    lookahead: int = 2,
) -> dict[str, float]:
    """Against real video: correlation of aperture and width by speaker, share of phonemes told right."""
    rows = []
    for clip, said in zip(clips, predict(net, clips, lookahead), strict=True):
        aperture, width = read_out(said["mouth"], scales)
        n = len(aperture)
        right = 0.0
        if clip.key in phones:
            classes = spoken_curve(phones[clip.key], 1.0, n)[:, -1]
            speech = classes > 0
            right = float((said["phones"].argmax(1) == classes)[speech].mean())
        rows.append((clip.speaker, correlation(aperture, clip.aperture), correlation(width, clip.width), right,
                     float(aperture.std() / clip.aperture.std()), float(np.abs(aperture[clip.silent]).mean()) if clip.silent.any() else 0.0))  # fmt: skip
    out: dict[str, float] = {}
    for name in sorted({row[0] for row in rows}):
        mine = np.array([row[1:4] for row in rows if row[0] == name]).mean(0)
        out |= {f"{name}_aperture": round(float(mine[0]), 4), f"{name}_width": round(float(mine[1]), 4)}
    table = np.array([row[1:] for row in rows])
    for k, name in enumerate(("aperture", "width", "phone", "spread", "silence")):
        out[name] = round(float(table[:, k].mean()), 4)
    return out


READ_OUT = ("tail", "spoken", "sounded")
"""Parts of the encoder that make a mouth of phonemes."""


def load_start(net: SpeechEncoder, paths: str, mouth: str = "") -> None:
    """Take what fits of the mean of checkpoints (`paths`, commas between), and what makes a mouth of phonemes from that of `mouth`."""

    def weights(path: str) -> dict[str, Tensor]:
        saved: dict[str, Tensor] = torch.load(path, weights_only=True)["ema"]
        return saved

    all_of = [weights(path) for path in paths.split(",")]
    taken = {name: torch.stack([each[name] for each in all_of]).mean(0) for name in all_of[0]}
    if mouth:
        own = weights(mouth)
        taken |= {name: own[name] for name in own if name.split(".")[0] in READ_OUT}
    mine = net.state_dict()
    net.load_state_dict(
        {name: taken[name] if name in taken and taken[name].shape == value.shape else value
         for name, value in mine.items()}
    )  # fmt: skip
    net.gain.fill_(1)


def hold(net: SpeechEncoder, *, ear: bool = False, mouth: bool = False) -> None:
    """No gradient for what hears, or for what makes a mouth of phonemes; one optimiser step moves nothing that has none."""
    for name, part in net.named_children():
        if mouth if name in READ_OUT else ear:
            part.requires_grad_(False)


def train(
    bank: Bank,
    held: list[Clip],
    known: list[Clip],
    phones: dict[str, npt.NDArray[np.int8]],
    scales: Scales,
    out: Path,
    settings: Settings,
    resume: bool,
) -> SpeechEncoder:
    """Run or go on with a training; `out` gets checkpoint.pt, log.jsonl, final.pt."""
    torch.set_num_threads(1)
    torch.manual_seed(settings.seed)
    net = SpeechEncoder(settings.width, settings.tail, settings.dropout)
    if settings.start:
        load_start(net, settings.start, settings.mouth)
    if not settings.straight:
        nn.init.zeros_(net.sounded.weight)
        nn.init.zeros_(net.sounded.bias)
    ema = SpeechEncoder(settings.width, settings.tail, settings.dropout)
    ema.load_state_dict(net.state_dict())
    hold(net, ear=bool(settings.mouth_only), mouth=bool(settings.ear_only))
    optimiser = torch.optim.AdamW(net.parameters(), lr=settings.rate, weight_decay=0.02)
    pace = Pace(settings.steps, settings.rate, warm_up=100, every=settings.every, keep=0.995)
    training = Training(net, ema, optimiser, pace, out, settings, settings.seed + 2)
    if resume:
        training.resume()
    mix = Mix.of(settings)

    def step(number: int, rng: np.random.Generator) -> tuple[Tensor, Parts]:
        return loss_of(net, *batch(bank, mix, rng), scales, settings)

    def figures() -> dict[str, Any]:
        known_aperture = measure(ema, known, phones, scales)["aperture"]
        return measure(ema, held, phones, scales) | {"known_aperture": known_aperture}

    training.run(step, figures)
    training.finish()
    return ema


def load_phones(path: Path) -> dict[str, npt.NDArray[np.int8]]:
    """What `motion_align` wrote."""
    with np.load(path) as made:
        return {key: made[key] for key in made.files}


def prepare(
    data: Path, landmarks: Path, phones_path: Path, spoken_paths: list[Path], cache: Path, settings: Settings
) -> tuple[Bank, list[Clip], list[Clip], dict[str, npt.NDArray[np.int8]], Scales]:
    """The bank (kept in `cache`), held-out clips, some known clips, phonemes, scales."""
    phones, rig = load_phones(phones_path), MouthRig.load(BODY)
    if cache.exists():
        bank, held, known = pickle.loads(cache.read_bytes())  # our own file
    else:
        clips = load_grid(data, landmarks, rig)
        trained, held = split(clips, data)
        spoken = [sentence for path in spoken_paths for sentence in load_voices(path)]
        repeats = {
            "s1": settings.s1_variants,
            "facegood": settings.s1_variants,
            "other": settings.other_variants,
            "voices": settings.spoken_variants,
            "robots": settings.robot_variants,
        }
        filmed = trained + load_facegood(data, rig)
        bank = build_bank(filmed, spoken, repeats, settings.seed + 1, phones, noises=300)
        known = [c for c in trained if c.speaker == "s1"][:16]
        cache.parent.mkdir(parents=True, exist_ok=True)
        cache.write_bytes(pickle.dumps((bank, held, known)))
    return bank, held, known, phones, make_scales(bank, rig)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds grid/ and facegood/")
    parser.add_argument("--landmarks", type=Path, default=Path("runs/landmarks.npz"))
    parser.add_argument("--phones", type=Path, default=Path("runs/motion/phones.npz"))
    parser.add_argument("--spoken", type=Path, nargs="*", default=[Path("runs/voices.npz")])
    parser.add_argument("--bank", type=Path, default=Path("runs/motion/bank.pkl"), help="prepared data")
    parser.add_argument("--out", type=Path, default=Path("runs/motion/encoder"))
    parser.add_argument("--resume", action="store_true")
    add_settings(parser, Settings())
    args = parser.parse_args(arguments)
    settings = chosen_settings(args, Settings, Settings())
    bank, held, known, phones, scales = prepare(
        args.data, args.landmarks, args.phones, args.spoken, args.bank, settings
    )
    net = train(bank, held, known, phones, scales, args.out, settings, args.resume)
    for lookahead in range(MAX_LOOKAHEAD + 1):
        print(json.dumps({"lookahead": lookahead} | measure(net, held, phones, scales, lookahead)))


if __name__ == "__main__":
    sys.exit(main())
