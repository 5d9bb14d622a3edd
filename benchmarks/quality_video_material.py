"""What `bench quality --stage video` judges: methods, films of an avatar, clips with their real frames, a synthetic motion."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

import numpy as np
from visavis.benchmarks.quality_video_metrics import Bytes, FeatureDistance, FloatArray, Identity, Regions
from visavis.engine.body.detect import FaceTracker
from visavis.engine.body.track import track_frames
from visavis.engine.footage import read_frames
from visavis.engine.motion.channels import ARKIT, HEAD_SLICE, INDEX, zero_motion
from visavis.engine.video.capture import capture
from visavis.engine.video.drive import Driven
from visavis.engine.video.renderer import Renderer


class Painter(Protocol):
    """What completes a warped frame: `visavis.engine.video.generator.Generator`, or a teacher under trial."""

    def render(self, frame: Bytes, motion: FloatArray) -> Bytes:
        """Paint over the frame that the warp's renderer has just drawn."""
        ...


Method = Callable[[Renderer], Painter | None]
"""From an avatar's renderer to its painter; None: the warp alone."""


def methods_of(steps: list[int]) -> dict[str, Method]:
    """The warp alone and the shipped generator by steps, where its weights are, on the whole face, and on the mouth alone as calls and movies have it."""
    from visavis.engine.video.crop import MOUTH
    from visavis.engine.video.generator import LIVE_STEPS, Generator, available

    out: dict[str, Method] = {"warp": lambda renderer: None}
    if available():
        for count in steps:
            out[f"steps {count}"] = lambda renderer, count=count: Generator(renderer, steps=count)  # type: ignore[misc]
        out["mouth alone"] = lambda renderer: Generator(renderer, steps=LIVE_STEPS, area=MOUTH)
    return out


def taught_by(clips: list[Path]) -> Method:
    """The mouth alone by a network that learned from these clips of the person; the shared one where they taught it nothing."""
    from visavis.engine.training.video_personal import learn
    from visavis.engine.video.crop import MOUTH
    from visavis.engine.video.generator import LIVE_STEPS, WEIGHTS, Generator
    from visavis.engine.video.personal import folder

    lesson = learn(clips)
    print(f"{clips[0].parent.name}: {lesson}", file=sys.stderr)
    weights = folder(lesson.weights, WEIGHTS)
    return lambda renderer: Generator(renderer, steps=LIVE_STEPS, area=MOUTH, weights=weights)


def film(renderer: Renderer, painter: Painter | None, motion: FloatArray) -> Iterator[Bytes]:
    """Frames for motion (T, N_CHANNELS)."""
    for row in motion:
        frame = renderer.render(row)
        yield frame if painter is None else painter.render(frame, row)


@dataclass
class Figures:
    """Sums of one method over frames and clips."""

    values: dict[str, list[float]] = field(default_factory=dict)
    summaries: list[FloatArray] = field(default_factory=list)

    def add(self, name: str, value: float) -> None:
        """One more value."""
        self.values.setdefault(name, []).append(value)

    def means(self) -> dict[str, float]:
        """Mean of every figure."""
        return {name: float(np.mean(values)) for name, values in self.values.items()}


@dataclass
class Judges:
    """What measures: optional ones are None where their packages are missing."""

    tracker: FaceTracker
    identity: Identity | None
    features: FeatureDistance | None

    @classmethod
    def load(cls, data: Path) -> Judges:
        """All that are installed; says what is missing."""
        identity: Identity | None = None
        features: FeatureDistance | None = None
        try:
            identity = Identity()
        except ImportError as error:
            print(f"no identity distance ({error}): pip install 'visavis[bench]'", file=sys.stderr)
        try:
            features = FeatureDistance(data / "taef2/taef2_encoder.pth")
        except (ImportError, FileNotFoundError) as error:
            print(f"no feature distance ({error})", file=sys.stderr)
        return cls(FaceTracker(), identity, features)


@dataclass
class Scene:
    """One clip ready to be judged: the avatar, the real frames in its frame, their regions and landmarks, the motion."""

    name: str
    driven: Driven
    real: list[Bytes]
    regions: list[Regions | None]
    landmarks: list[FloatArray | None]
    motion: FloatArray


def scene_of(path: Path, judges: Judges, *, tracked: bool = False) -> Scene:
    """Enrol from the first frame, capture the clip's motion (`tracked`: as `visavis track` has it for any avatar), find the regions."""
    frames = [frame for frame, _ in read_frames(path)]
    if tracked:
        driven = Driven(frames[0], judges.tracker)
        motion = track_frames([(frame, 25.0) for frame in frames], name=str(path)).clip.motion[: len(frames)]
    else:
        captured = capture(path, fps=None)
        driven, motion = captured.driven, captured.clip.motion
    real = [driven.frame(frame) for frame in frames]
    face, regions, landmarks = None, [], []
    for frame in real:
        face = judges.tracker.track(frame, face) if face is not None else None
        face = face or judges.tracker.detect(frame)
        regions.append(None if face is None else Regions.of(face.landmarks, frame.shape[:2]))
        landmarks.append(None if face is None else face.landmarks[:, :2])
    return Scene(f"{path.parent.name}/{path.stem}", driven, real, regions, landmarks, motion)


def synthetic_motion(length: int = 48) -> FloatArray:
    """A turn of the head, speech-like lips, a smile, two blinks: (length, N_CHANNELS)."""
    t = np.arange(length) / 25
    motion = np.stack([zero_motion() for _ in range(length)])
    motion[:, HEAD_SLICE] = np.stack(
        [0.05 * np.sin(4.1 * t), 0.16 * np.sin(2.9 * t), 0.04 * np.sin(2.1 * t + 1)], 1
    )
    speech = np.clip(np.sin(11 * t) + 0.5 * np.sin(17 * t + 1), 0, 1.2)
    motion[:, INDEX["jawOpen"]] = 0.28 * speech
    for side in ("Left", "Right"):
        motion[:, INDEX[f"mouthLowerDown{side}"]] = 0.2 * speech
        motion[:, INDEX[f"mouthUpperUp{side}"]] = 0.12 * speech
        motion[:, INDEX[f"mouthSmile{side}"]] = 0.25 * np.clip(np.sin(2 * t - 1), 0, 1)
        motion[:, ARKIT.index(f"eyeBlink{side}")] = np.maximum(
            np.exp(-(((t - 0.52) / 0.06) ** 2)), np.exp(-(((t - 1.52) / 0.06) ** 2))
        )
    motion[:, INDEX["mouthFunnel"]] = 0.3 * np.clip(np.sin(7 * t), 0, 1)
    return motion.astype(np.float32)
