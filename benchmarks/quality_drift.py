"""visavis bench quality --stage drift: does a long film stay the same person, as sharp and of the same colour?

    visavis bench quality --stage drift [--minutes 30] [--photo PHOTO] [--speech SPEECH.wav] [--steps 2] [--plot OUT.png]

Speech and pauses in turn, minute after minute, through the product's own offline session with the video network. Of every
fifteenth frame: mean colour of mouth and face against the warp alone at the same motion (what the network adds, so that motion does not
count as drift), detail of the face over the warp's, identity distance to the photo (needs the extra `bench`), and the process's memory.
A figure's drift is the mean of its last tenth less the mean of its first. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt
from visavis.benchmarks.quality_video_metrics import Bytes, Identity, Regions, detail

EVERY = 15
"""Frames between two that are measured."""
PAUSE_S = 3.0
FIGURES = (
    "colour_face",
    "colour_lips",
    "red_lips",
    "detail_face",
    "detail_lips",
    "identity",
    "memory_mb",
)


@dataclass
class Trace:
    """Figures over time: minutes (N,), and a list of N values a figure."""

    minutes: list[float] = field(default_factory=list)
    values: dict[str, list[float]] = field(default_factory=dict)

    def add(self, minute: float, figures: dict[str, float]) -> None:
        """One measured frame."""
        self.minutes.append(minute)
        for name, value in figures.items():
            self.values.setdefault(name, []).append(value)

    def drift(self) -> dict[str, float]:
        """Mean of the last tenth less mean of the first, by figure."""
        tenth = max(1, len(self.minutes) // 10)
        return {
            name: float(np.mean(own[-tenth:]) - np.mean(own[:tenth])) for name, own in self.values.items()
        }

    def spread(self) -> dict[str, float]:
        """Standard deviation of a minute's means, by figure: what a drift is to be held against."""
        minute = np.floor(np.asarray(self.minutes)).astype(int)
        out = {}
        for name, own in self.values.items():
            means = [float(np.mean(np.asarray(own)[minute == m])) for m in np.unique(minute)]
            out[name] = float(np.std(means))
        return out


def speech_blocks(pcm: npt.NDArray[np.int16], rate: int, seconds: float) -> Iterator[npt.NDArray[np.int16]]:
    """The recording over and over with pauses between, mono int16 (n,) blocks of `seconds` in all."""
    left = round(seconds * rate)
    once = np.concatenate([pcm, np.zeros(round(PAUSE_S * rate), np.int16)])
    at = 0
    while left > 0:
        block = once[at : at + min(rate, left)]
        at = (at + len(block)) % len(once)
        left -= len(block)
        yield block


def resident_mb() -> float:
    """Resident memory of this process in MB; 0 where the system does not tell."""
    try:
        pages = int(Path("/proc/self/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * 4096 / 1e6


def measure(made: Bytes, warp: Bytes, where: Regions) -> dict[str, float]:
    """What the network adds to the warp at one motion: colours in 0..1, details as ratios."""
    difference = made.astype(np.float32) - warp

    def mean(values: npt.NDArray[np.float32], mask: npt.NDArray[np.float32]) -> float:
        return float((values * mask).sum() / max(float(mask.sum()), 1e-6)) / 255

    return {
        "colour_face": mean(difference.mean(-1), where.face),
        "colour_lips": mean(difference.mean(-1), where.lips),
        "red_lips": mean(difference[..., 0] - difference[..., 2], where.lips),
        "detail_face": detail(made, where.face) / max(detail(warp, where.face), 1e-6),
        "detail_lips": detail(made, where.lips) / max(detail(warp, where.lips), 1e-6),
    }


def trace(photo: Path, speech: Path, minutes: float, steps: int) -> Trace:
    """Run the film and measure it."""
    from tqdm import tqdm
    from visavis.clients.media import read_speech
    from visavis.clients.render import speech_frames
    from visavis.engine.body.detect import FaceTracker
    from visavis.engine.enroll import enroll
    from visavis.engine.motion.channels import zero_motion
    from visavis.engine.video.renderer import Renderer

    avatar = enroll(photo)
    renderer, tracker = Renderer(avatar), FaceTracker()
    still = renderer.render(zero_motion())
    face = tracker.detect(still)
    if face is None:
        raise FileNotFoundError(f"no face in {photo}")
    identity: Identity | None = None
    try:
        identity = Identity()
        own = identity.describe(still, face.landmarks)
    except ImportError as error:
        print(f"no identity distance ({error}): pip install 'visavis[bench]'", file=sys.stderr)
    pcm, rate = read_speech(speech)
    motions: list[npt.NDArray[np.float32]] = []

    def remember(motion: npt.NDArray[np.float32]) -> None:
        motions[:] = [motion]

    out = Trace()
    total = round(minutes * 60 * 25)
    frames = speech_frames(
        avatar,
        speech_blocks(pcm, rate, minutes * 60),
        rate,
        generator_steps=steps,
        watch=remember,
    )
    for k, (image, _) in enumerate(tqdm(frames, total=total, unit="frame", mininterval=5)):
        if k % EVERY:
            continue
        warp = renderer.render(motions[0])
        found = tracker.track(warp, face) or tracker.detect(warp)
        if found is None:
            continue
        face = found
        figures = measure(image, warp, Regions.of(found.landmarks, image.shape[:2]))
        if identity is not None:
            figures["identity"] = float(
                np.linalg.norm(identity.describe(np.array(image), found.landmarks) - own)
            )
        figures["memory_mb"] = resident_mb()
        out.add(k / 25 / 60, figures)
    return out


def plot(traced: Trace, out: Path) -> None:
    """A PNG with one panel a figure: every measured frame, and the minutes' means."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    names = [name for name in FIGURES if name in traced.values]
    _, axes = plt.subplots(len(names), 1, figsize=(12, 1.8 * len(names)), sharex=True, squeeze=False)
    at = np.asarray(traced.minutes)
    for axis, name in zip(axes[:, 0], names, strict=True):
        own = np.asarray(traced.values[name])
        axis.plot(at, own, ".", ms=1.5, color="#9db7cc")
        minute = np.floor(at).astype(int)
        axis.step(
            np.unique(minute),
            [own[minute == m].mean() for m in np.unique(minute)],
            where="post",
            color="#c8442c",
        )
        axis.set_ylabel(name, fontsize=8)
    axes[-1, 0].set_xlabel("minutes")
    plt.tight_layout()
    plt.savefig(out, dpi=80)
    plt.close()


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    import visavis.engine

    assets = Path(str(visavis.engine.__file__)).parent / "assets"
    parser = argparse.ArgumentParser(
        prog="visavis bench quality --stage drift",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--minutes", type=float, default=30.0, help="length of the film (default: %(default)s)"
    )
    parser.add_argument("--photo", type=Path, default=assets / "astronaut.png")
    parser.add_argument("--speech", type=Path, default=assets / "speech.wav")
    parser.add_argument("--steps", type=int, default=2, help="sampler steps a frame (default: %(default)s)")
    parser.add_argument("--plot", type=Path, help="write a picture of the figures over time")
    args = parser.parse_args(argv)
    traced = trace(args.photo, args.speech, args.minutes, args.steps)
    if args.plot:
        plot(traced, args.plot)
    drift, spread = traced.drift(), traced.spread()
    print(f"{'':14}{'first tenth':>12}{'last tenth':>12}{'drift':>10}{'spread':>10}")
    tenth = max(1, len(traced.minutes) // 10)
    for name in drift:
        own = traced.values[name]
        print(
            f"{name:14}{np.mean(own[:tenth]):12.4f}{np.mean(own[-tenth:]):12.4f}{drift[name]:10.4f}{spread[name]:10.4f}"
        )
    print(
        json.dumps({
            "bench": "quality", "stage": "drift", "minutes": args.minutes, "steps": args.steps,
            "frames_measured": len(traced.minutes),
            "drift": {k: round(v, 5) for k, v in drift.items()}, "spread": {k: round(v, 5) for k, v in spread.items()},
        })
    )  # fmt: skip
    return 0


if __name__ == "__main__":
    sys.exit(main())
