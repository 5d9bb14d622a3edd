"""The body prior: how a person moves who speaks, listens or idles, all channels but the mouth's speech, as training data.

    python -m visavis.engine.training.prior --tracks runs/tracks --data ../shared/data     # its statistics beside those of GRID
    python -m visavis.engine.training.prior --speech SPEECH.wav -o MOTION.npz              # a sample, for `visavis render --motion`

GRID's speakers sit still and read for three seconds; what they do not show is made here from published statistics (the sources stand in
`prior_eyes` and `prior_body`). Unlike `motion.life`, which lives frame by frame, this sees the whole recording: a nod peaks on its
stress, not after it, so that a network with look-ahead can learn to do the same.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from visavis.engine.audio.vad import VoiceActivity
from visavis.engine.motion.channels import (
    GAZE_SLICE,
    HEAD_SLICE,
    INDEX,
    N_CHANNELS,
    NECK_SLICE,
    TRANSLATION_SLICE,
    MotionClip,
)
from visavis.engine.motion.life import NECK_SHARE
from visavis.engine.timing import FPS, SAMPLES_PER_FRAME
from visavis.engine.training import prior_body, prior_eyes
from visavis.engine.training.prior_eyes import DEGREE, LISTENING, SPEAKING, Float64

FloatArray = npt.NDArray[np.float32]
STATES = ("speaking", "listening", "idle")
MOODS = ("neutral", "warm", "serious")


@dataclass(frozen=True)
class Cues:
    """What a body follows of speech, a frame: `level` (T,) dB of full scale, `speaking` (T,) bool."""

    level: FloatArray
    speaking: npt.NDArray[np.bool_]

    @classmethod
    def of(cls, speech: FloatArray, state: npt.NDArray[np.int8]) -> Cues:
        """From mono sound at 16 kHz (T * 640,); sound in frames of another state than speaking is not this person's."""
        n = len(state)
        if len(speech) != n * SAMPLES_PER_FRAME:
            raise ValueError(f"{len(speech)} samples for {n} frames, expected {n * SAMPLES_PER_FRAME}")
        blocks = np.asarray(speech, np.float32).reshape(n, SAMPLES_PER_FRAME)
        level = 10 * np.log10(np.square(blocks).mean(1) + 1e-10)
        vad = VoiceActivity()
        voiced = np.array([vad.push(block) for block in blocks], bool)
        return cls(level.astype(np.float32), voiced & (np.asarray(state) == SPEAKING))

    def bridged(self, most: int = 6) -> npt.NDArray[np.bool_]:
        """Speaking, with pauses of up to `most` frames (240 ms: stops and hesitations) counted as speech."""
        out = self.speaking.copy()
        for start, end in runs(~out):
            if start > 0 and end < len(out) and end - start <= most:
                out[start:end] = True
        return out

    def energy(self) -> Float64:
        """Loudness within speech (T,), 0 where nobody speaks, about 0.5 on average."""
        out = np.zeros(len(self.level))
        if self.speaking.any():
            low, high = np.percentile(self.level[self.speaking], [10, 95])
            out = np.clip((self.level - low) / max(3.0, high - low), 0, 1) * 0.95 + 0.05
        return out * self.bridged()

    def stresses(self) -> npt.NDArray[np.int64]:
        """Frames of stressed syllables: peaks of the level that stand out from the second around them, at least 320 ms apart."""
        smooth = np.convolve(
            np.pad(self.level.astype(np.float64), 2, "edge"), [0.1, 0.25, 0.3, 0.25, 0.1], "valid"
        )
        smooth = np.maximum(smooth, -70)
        wide = np.convolve(np.pad(smooth, 12, "edge"), np.ones(25) / 25, "valid")
        rise = smooth - wide
        peak = self.speaking & (rise > 1.5)
        peak[1:-1] &= (smooth[1:-1] >= smooth[:-2]) & (smooth[1:-1] > smooth[2:])
        chosen: list[int] = []
        for k in sorted(np.flatnonzero(peak), key=lambda k: -rise[k]):
            if all(abs(k - other) >= 8 for other in chosen):
                chosen.append(int(k))
        return np.array(sorted(chosen), np.int64)


def runs(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and end of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return [(int(a), int(b)) for a, b in edges.reshape(-1, 2)]


def sample(
    rng: np.random.Generator, speech: FloatArray, state: npt.NDArray[np.int8], mood: int = 0
) -> FloatArray:
    """Motion (T, N_CHANNELS) of everything but the mouth's speech, about the person's rest.

    `speech` (T * 640,) mono float32 at 16 kHz, this person's own; `state` (T,) 0 speaking, 1 listening, 2 idle; `mood` 0 neutral, 1 warm,
    2 serious. The same generator state gives the same motion.
    """
    state = np.asarray(state, np.int8)
    return from_cues(rng, Cues.of(speech, state), state, mood)


def from_cues(rng: np.random.Generator, cues: Cues, state: npt.NDArray[np.int8], mood: int = 0) -> FloatArray:
    """The same where only level and activity of the speech are known."""
    state = np.asarray(state, np.int8)
    n = len(state)
    if not 0 <= mood < len(MOODS) or (n and not 0 <= state.min() <= state.max() < len(STATES)):
        raise ValueError(f"mood is {mood} and states are {np.unique(state)}: expected 0 to 2")
    calm = float(rng.lognormal(0, 0.22)) * (0.8 if MOODS[mood] == "serious" else 1.0)
    energy, stresses = cues.energy(), cues.stresses()
    talk = runs(cues.bridged())
    begins, ends = (np.array([run[k] for run in talk], np.int64) for k in (0, 1))
    ends = ends[ends < n]
    borders = np.unique(np.concatenate([begins, ends, np.flatnonzero(np.diff(state)) + 1])).astype(np.int64)
    motion = np.zeros((n, N_CHANNELS))
    gaze, shifts = prior_eyes.gaze_targets(rng, state, begins, ends)
    rotation, moved, nods = prior_body.head(rng, state, energy, stresses, borders, gaze, calm)
    motion[:, HEAD_SLICE], motion[:, NECK_SLICE] = rotation * (1 - NECK_SHARE), rotation * NECK_SHARE
    motion[:, TRANSLATION_SLICE] = moved
    _eyes(motion, gaze, rotation)
    lids = prior_eyes.blinks(rng, state, ends, shifts)
    own = rng.uniform(-0.15, 0.15)
    raised = prior_body.brows(rng, n, stresses, begins, nods)
    motion[:, INDEX["browInnerUp"]] = raised
    for side, sign in (("Left", 1), ("Right", -1)):
        motion[:, INDEX[f"eyeBlink{side}"]] = lids
        motion[:, INDEX[f"browOuterUp{side}"]] = 0.7 * (1 + sign * own) * raised
        motion[:, INDEX[f"eyeWide{side}"]] = np.maximum(0, raised - 0.2) * 0.5
    lungs = prior_body.breath(rng, energy, borders)
    prior_body.trunk(rng, state, lungs, motion, calm)
    prior_body.hands(rng, state, stresses, motion, calm)
    _mood(rng, motion, state, nods, mood)
    return motion.astype(np.float32)


def _eyes(motion: Float64, gaze: Float64, rotation: Float64) -> None:
    """Eyes hold their target while the head moves (vestibulo-ocular reflex); lids follow the eyes."""
    yaw = np.clip(gaze[:, 0] - rotation[:, 1], -0.35, 0.35)
    pitch = np.clip(gaze[:, 1] + rotation[:, 0], -0.3, 0.25)
    motion[:, GAZE_SLICE] = np.stack([yaw, pitch, yaw, pitch], 1)
    down, up = np.maximum(0, -pitch) / (30 * DEGREE), np.maximum(0, pitch) / (25 * DEGREE)
    left, right = np.maximum(0, yaw) / (35 * DEGREE), np.maximum(0, -yaw) / (35 * DEGREE)
    for side, outward, inward in (("Left", left, right), ("Right", right, left)):
        for name, value in (("Down", down), ("Up", up), ("Out", outward), ("In", inward)):
            motion[:, INDEX[f"eyeLook{name}{side}"]] = value


def _mood(
    rng: np.random.Generator,
    motion: Float64,
    state: npt.NDArray[np.int8],
    nods: npt.NDArray[np.int64],
    mood: int,
) -> None:
    """The lasting face of a mood, never quite still; listeners answer a nod with a smile now and then."""
    n = len(motion)
    drift = 0.5 + 0.5 * np.tanh(prior_body.band(rng, n, 0.02, 0.2, 1)[:, 0])
    listens = prior_body.follow((state == LISTENING).astype(float), 0.8, 1.0)
    smile = np.zeros(n)
    if MOODS[mood] == "warm":
        smile += 0.16 + 0.14 * drift + 0.08 * listens
        motion[:, INDEX["browInnerUp"]] += 0.04
    elif MOODS[mood] == "neutral":
        smile += 0.05 * drift
    answers = {"warm": 0.5, "neutral": 0.2, "serious": 0.03}[MOODS[mood]]
    for at in nods:
        if rng.random() < answers:
            smile += rng.uniform(0.1, 0.3) * prior_body.pulse(n, at + 4, 0.4, rng.uniform(0.4, 1.5), 0.9)
    for side in ("Left", "Right"):
        motion[:, INDEX[f"mouthSmile{side}"]] += smile
        motion[:, INDEX[f"cheekSquint{side}"]] += 0.6 * smile
        motion[:, INDEX[f"eyeSquint{side}"]] += 0.3 * smile
        if MOODS[mood] == "serious":
            motion[:, INDEX[f"browDown{side}"]] += 0.10 + 0.08 * drift
            motion[:, INDEX[f"eyeSquint{side}"]] += 0.06


def statistics(motion: npt.NDArray[np.floating], pieces: int = 75) -> dict[str, float]:
    """What can be compared with three-second films of motion (T, N_CHANNELS): degrees, millimetres, a minute; spread within pieces."""
    n = len(motion) // pieces * pieces
    head = (motion[:n, HEAD_SLICE] + motion[:n, NECK_SLICE]).astype(np.float64) / DEGREE
    cut = head.reshape(-1, pieces, 3)
    centred = cut - cut.mean(1, keepdims=True)
    power = np.abs(np.fft.rfft(centred * np.hanning(pieces)[:, None], axis=1)) ** 2
    f = np.fft.rfftfreq(pieces, 1 / FPS)
    norm = pieces * np.square(np.hanning(pieces)).sum() / 2
    out = {
        f"head_{name}_deg": float(np.sqrt(np.mean(centred[..., k] ** 2)))
        for k, name in enumerate(("pitch", "yaw", "roll"))
    }
    for low, high in ((0.3, 1.8), (1.8, 3.7), (3.7, 7.0)):
        inside = (f >= low) & (f < high)
        out[f"head_{low}-{high}Hz_deg"] = float(np.sqrt(power[:, inside].sum((1, 2)).mean() / norm))
    lids = motion[:n, INDEX["eyeBlinkLeft"]]
    shut = lids > 0.5
    events = runs(shut)
    out["blinks_a_minute"] = len(events) / max(n, 1) * FPS * 60
    if events:
        out["blink_ms_above_half"] = float(np.mean([b - a for a, b in events])) * 1000 / FPS
        out["blink_peak"] = float(np.mean([lids[a:b].max() for a, b in events]))
    gaze = motion[:n, GAZE_SLICE.start : GAZE_SLICE.start + 2] / DEGREE
    jumps = np.linalg.norm(np.diff(gaze, axis=0), axis=1)[np.arange(n - 1) % pieces != pieces - 1]
    out["gaze_moves_a_second"] = float((jumps > 1.5).mean()) * FPS
    out["gaze_std_deg"] = float(
        np.sqrt(
            np.mean((gaze.reshape(-1, pieces, 2) - gaze.reshape(-1, pieces, 2).mean(1, keepdims=True)) ** 2)
        )
    )
    brow = motion[:n, INDEX["browInnerUp"]].reshape(-1, pieces)
    out["brow_std"] = float(np.sqrt(np.mean((brow - brow.mean(1, keepdims=True)) ** 2)))
    place = motion[:n, TRANSLATION_SLICE].reshape(-1, pieces, 3) * 1000
    out["translation_mm"] = float(np.sqrt(np.mean((place - place.mean(1, keepdims=True)) ** 2)))
    return out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tracks", type=Path, help="tracks of GRID to compare with")
    parser.add_argument("--data", type=Path, help="folder that holds grid/ (its sound drives the comparison)")
    parser.add_argument("--clips", type=int, default=120, help="clips compared (default: %(default)s)")
    parser.add_argument("--speech", type=Path, help="a recording to sample motion for")
    parser.add_argument("--mood", choices=MOODS, default="neutral")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("-o", "--out", type=Path, help="where the sample goes")
    args = parser.parse_args(argv)
    from visavis.engine.audio.decode import read_sound

    if args.speech:
        sound = read_sound(args.speech)
        n = len(sound) // SAMPLES_PER_FRAME
        motion = sample(
            np.random.default_rng(args.seed),
            sound[: n * SAMPLES_PER_FRAME],
            np.zeros(n, np.int8),
            MOODS.index(args.mood),
        )
        MotionClip(motion).save(args.out or args.speech.with_suffix(".npz"))
    if args.tracks and args.data:
        paths = sorted(args.tracks.glob("*/*/*.npz"))
        paths = [
            paths[k]
            for k in np.unique(np.linspace(0, len(paths) - 1, min(args.clips, len(paths))).astype(int))
        ]
        real, sounds = [], []
        for path in paths:
            motion = MotionClip.load(path).motion
            if len(motion) >= 75:
                real.append(motion[:75])
                sound = read_sound(args.data / "grid" / path.relative_to(args.tracks).with_suffix(".mkv"))
                sounds.append(np.pad(sound, (0, 75 * SAMPLES_PER_FRAME))[: 75 * SAMPLES_PER_FRAME])
        speech = np.concatenate(sounds)
        n = len(speech) // SAMPLES_PER_FRAME
        rows = {"GRID": statistics(np.concatenate(real))}
        for k, name in enumerate(STATES):
            heard = speech if k == SPEAKING else np.zeros_like(speech)
            made = [
                sample(np.random.default_rng([args.seed, k, s]), heard, np.full(n, k, np.int8))
                for s in range(3)
            ]
            rows[name] = statistics(np.concatenate(made))
        print(f"{'':24}" + "".join(f"{name:>12}" for name in rows))
        for key in rows["GRID"]:
            print(f"{key:24}" + "".join(f"{row.get(key, float('nan')):12.3f}" for row in rows.values()))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
