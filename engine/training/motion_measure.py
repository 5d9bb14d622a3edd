"""Quality of the motion model's networks against steps, for teacher and student, on speakers and voices not trained on.

    python -m visavis.engine.training.motion_measure face --encoder E.pt --net F.pt --clips runs/motion/bank.pkl --steps 1,2,4,16
    python -m visavis.engine.training.motion_measure life --net L.pt --minutes runs/motion/minutes.npz --steps 1,2,4,16

face: correlation of aperture and width with the real lips (mean over GRID s26, s31), spread and jitter over the real ones,
aperture correlation between two seeds. life: blinks a minute, spread of head and gaze, jitter, over those of the prior.
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import pickle
from pathlib import Path

import numpy as np
import torch
from visavis.engine.audio.mel import MELS_PER_FRAME, N_MELS
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.motion.layout import FACE, GAZE, HEAD, LABELS, LIFE_INDEX
from visavis.engine.motion.speech import spread as spread_face
from visavis.engine.training import augment
from visavis.engine.training.data import BODY, Clip, MouthRig
from visavis.engine.training.motion import load_net, rollout
from visavis.engine.training.motion_data import Minutes, hear
from visavis.engine.training.motion_encoder import correlation
from visavis.engine.training.motion_hearing import Experts, load_experts
from visavis.engine.training.motion_nets import MotionNet


def jitter(curve: FloatArray) -> float:
    """Mean size of the third difference, frames along the first axis."""
    return float(np.abs(np.diff(curve, 3, axis=0)).mean())


def heard_clips(encoder: Experts, clips: list[Clip], lookahead: int) -> FloatArray:
    """Features (clips, T, FEATURES) of clips as long as the longest, silence behind."""
    n = max(len(clip.aperture) for clip in clips)
    mels = np.zeros((len(clips), n * MELS_PER_FRAME, N_MELS), np.float32)
    for row, clip in enumerate(clips):
        mel = augment.log_mel(clip.sound, augment.Voice(), np.random.default_rng(0))[: n * MELS_PER_FRAME]
        mels[row, : len(mel)] = mel
    return hear(encoder, mels, lookahead)


def measure_face(
    net: MotionNet,
    clips: list[Clip],
    heard: FloatArray,
    steps: int,
    sized: bool,
    temperature: float,
    guidance: float,
) -> dict[str, float]:
    """One row of the table; steps 0: the encoder's mean."""
    rig = MouthRig.load(BODY)
    basis = spread_face(np.eye(len(FACE), dtype=np.float32))
    labels = np.zeros((*heard.shape[:2], LABELS), np.float32)
    labels[..., 0] = labels[..., 3] = 1
    mouths = [
        np.clip(
            heard[..., : len(FACE)]
            if steps == 0
            else rollout(net, heard, labels, steps=steps, seed=seed, temperature=temperature, guidance=guidance,
                         sized=sized, start=np.zeros((len(heard), len(FACE)), np.float32)), 0, 1,
        )
        for seed in (0, 1)
    ]  # fmt: skip
    rows = []
    for row, clip in enumerate(clips):
        n = len(clip.aperture)
        aperture, width = (mouths[0][row, :n] @ basis @ way for way in (rig.aperture, rig.width))
        other = mouths[1][row, :n] @ basis @ rig.aperture
        real = clip.aperture
        rows.append((correlation(aperture, real), correlation(width, clip.width), aperture.std() / real.std(),
                     jitter(aperture) / jitter(real), correlation(aperture, other)))  # fmt: skip
    values = np.array(rows).mean(0)
    names = ("aperture", "width", "spread", "jitter", "seeds")
    out = {name: round(float(value), 3) for name, value in zip(names, values, strict=True)}
    for speaker in sorted({clip.speaker for clip in clips}):
        mine = [r for r, clip in zip(rows, clips, strict=True) if clip.speaker == speaker]
        out[speaker] = round(float(np.mean([r[0] for r in mine])), 3)
    return out


def life_figures(life: FloatArray) -> dict[str, float]:
    """Of LIFE values (K, T, values)."""
    lids = life[..., LIFE_INDEX["eyeBlink"]]
    begun = ((lids[:, 1:] > 0.5) & (lids[:, :-1] <= 0.5)).sum() / (lids.size / 1500)
    return {
        "blinks": round(float(begun), 1),
        "closed": round(float((lids > 0.5).mean()), 4),
        "head_std": round(float(np.degrees(life[..., HEAD].std((0, 1))).mean()), 3),
        "head_jitter": round(float(np.degrees(jitter(life[..., HEAD].swapaxes(0, 1)))), 4),
        "gaze_std": round(float(np.degrees(life[..., GAZE].std((0, 1))).mean()), 3),
        "gaze_still": round(float((np.abs(np.diff(life[..., GAZE], axis=1)).max(-1) < 0.006).mean()), 3),
        "breath_std": round(float(life[..., LIFE_INDEX["shouldersUp"]].std(1).mean() * 1000), 3),
    }


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("part", choices=("face", "life"))
    parser.add_argument("--net", type=Path, required=True)
    parser.add_argument("--encoder", type=Path)
    parser.add_argument("--first", type=Path, help="final.pt of training.speech")
    parser.add_argument("--clips", type=Path, help="bank of motion_encoder, which holds the clips held out")
    parser.add_argument("--minutes", type=Path)
    parser.add_argument("--steps", default="1,2,4,16")
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--guidance", type=float, default=1.0)
    parser.add_argument("--lookahead", type=int, default=2)
    args = parser.parse_args(arguments)
    torch.set_num_threads(1)
    net, _ = load_net(args.net)
    sized = bool(torch.load(args.net, weights_only=True).get("sized", False))
    table: dict[str, dict[str, float]] = {}
    counts = [int(count) for count in args.steps.split(",")]
    if args.part == "face":
        clips: list[Clip] = pickle.loads(args.clips.read_bytes())[1]
        heard = heard_clips(load_experts(args.encoder, args.first), clips, args.lookahead)
        for steps in counts:
            table[str(steps)] = measure_face(net, clips, heard, steps, sized, args.temperature, args.guidance)
            print(steps, table[str(steps)], flush=True)
    else:
        minutes = Minutes.load(args.minutes)
        table["prior"] = life_figures(minutes.life)
        print("prior", table["prior"])
        for steps in counts:
            made = rollout(net, minutes.heard[:6], minutes.labels[:6], steps=steps, sized=sized,
                           temperature=args.temperature, start=minutes.life[:6, 0])  # fmt: skip
            table[str(steps)] = life_figures(made)
            print(steps, table[str(steps)], flush=True)
    print(json.dumps({"part": args.part, "net": str(args.net), "temperature": args.temperature} | table))


if __name__ == "__main__":
    main()
