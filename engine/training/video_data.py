"""Data for the video network, made by the product's own enrolment and renderer.

    python -m visavis.engine.training.video_data grid      --data DATA --out runs/video
    python -m visavis.engine.training.video_data portraits --data DATA --out runs/video
    python -m visavis.engine.training.video_data people    --data DATA --out runs/video
    python -m visavis.engine.training.video_data drawn     --data DATA --out runs/video

`grid`: real video; an avatar of one frame is driven to meet the others, within and across clips of a speaker, so that warp and real frame lie on
each other. `portraits`: a photo's avatar is posed otherwise, often with its mouth shut; that picture is enrolled in turn and driven back to the
photo. `people`: rendered persons with exact teeth, tongue and lids. `drawn`: photos that speak, drawn finer than a live call can. Shards are `.npz` files of uint8 arrays, one for each avatar and clip, written
whole or not at all; a run that was broken off goes on where it stopped.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from visavis.engine.body.detect import Face, FaceTracker
from visavis.engine.errors import VisavisError
from visavis.engine.footage import read_frames
from visavis.engine.motion.channels import ARKIT, HEAD_SLICE, INDEX, FloatArray, zero_motion
from visavis.engine.video.crop import crop
from visavis.engine.video.drive import Bytes, Driven, Float64, find, smooth_faces

HELD_OUT = ("s26", "s31")
"""Speakers that training never sees: they make the validation set."""
MAX_ERROR = 0.012
"""Frames whose landmarks stay further off than this share of the face's height are left out."""


@dataclass
class Shard:
    """Frames of one avatar, in time order, and what they belong to."""

    speaker: str
    clip: str
    arrays: dict[str, list[Any]] = field(default_factory=dict)
    still: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, driven: Driven, speaker: str, clip: str, scale: float | None = None) -> Shard:
        """An empty shard with the photo's own crop in it."""
        views, _ = driven.views(zero_motion())
        shard = cls(speaker, clip)
        shard.still = {
            "photo": views.warp, "photo_part": views.part, "photo_position": views.position, "photo_coverage": views.coverage,
            "scale": np.float32(driven.scale if scale is None else scale),
        }  # fmt: skip
        return shard

    def add(self, driven: Driven, motion: FloatArray, picture: Bytes, error: float, frame: int) -> None:
        """One frame: `picture` (H, W, 3) in the avatar's own frame is the target at `motion`."""
        views, transform = driven.views(motion)
        values = {
            "target": crop(picture, transform), "warp": views.warp, "part": views.part, "coverage": views.coverage,
            "position": views.position, "motion": motion, "error_px": np.float32(error), "frame": np.int32(frame),
        }  # fmt: skip
        for name, value in values.items():
            self.arrays.setdefault(name, []).append(value)

    def __len__(self) -> int:
        return len(self.arrays.get("target", ()))

    def stacked(self) -> dict[str, Any]:
        """All of it as arrays, as the file holds them."""
        frames = {name: np.stack(values) for name, values in self.arrays.items()}
        return {**frames, **self.still, "speaker": np.array(self.speaker), "clip": np.array(self.clip)}

    def save(self, path: Path) -> None:
        """Write the file, whole or not at all."""
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=".part-", suffix=".npz")
        try:
            with os.fdopen(handle, "wb") as file:
                np.savez(file, **self.stacked())
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise


@dataclass(frozen=True)
class Job:
    """One shard to be made: its name, and what makes it (None: nothing usable)."""

    name: str
    make: Callable[[], Shard | None]


def work(jobs: list[Job], out: Path) -> tuple[int, int]:
    """Make every shard that is not there yet. Returns shards made and jobs that gave none."""
    from tqdm import tqdm

    out.mkdir(parents=True, exist_ok=True)
    for left in out.glob(".part-*"):
        left.unlink()
    made = failed = 0
    for job in tqdm(jobs, desc=out.name, unit="shard", mininterval=5):
        path, empty = out / f"{job.name}.npz", out / f".{job.name}.none"
        if path.exists() or empty.exists():
            continue
        try:
            shard = job.make()
        except (ValueError, VisavisError) as error:
            tqdm.write(f"{job.name}: {error}")
            shard = None
        if shard is None or not len(shard):
            empty.touch()
            failed += 1
            continue
        shard.save(path)
        made += 1
    return made, failed


# --- real video


@dataclass
class Clips:
    """Videos read and looked at once each; the last few are kept."""

    tracker: FaceTracker
    _kept: dict[Path, tuple[list[Bytes], list[Face | None]]] = field(default_factory=dict)

    def read(self, path: Path) -> tuple[list[Bytes], list[Face | None]]:
        """Frames and the face in each (None: not found)."""
        if path not in self._kept:
            frames = [frame for frame, _ in read_frames(path)]
            faces: list[Face | None] = []
            face: Face | None = None
            for frame in frames:
                face = self.tracker.track(frame, face) if face is not None else None
                face = find(frame, self.tracker) if face is None else face
                faces.append(face)
            while len(self._kept) >= 3:
                del self._kept[next(iter(self._kept))]
            self._kept[path] = frames, smooth_faces(faces)
        return self._kept[path]


def aperture(face: Face) -> float:
    """How far the lips are parted, over the face's height."""
    marks = face.landmarks[:, :2]
    return float(np.linalg.norm(marks[13] - marks[14]) / np.ptp(marks[:468, 1]))


def runs(length: int, count: int, each: int, rng: np.random.Generator) -> list[int]:
    """Frame numbers of `count` runs of `each` consecutive frames spread over a clip; all of them when `count` is 0."""
    if not count or count * each >= length:
        return list(range(length))
    room = length // count
    starts = [k * room + int(rng.integers(0, room - each + 1)) for k in range(count)]
    return [start + k for start in starts for k in range(each)]


def clip_shard(
    clips: Clips, video: Path, source: Path, pick: str, speaker: str, count: int, each: int, seed: int
) -> Shard | None:
    """Frames of `video` against an avatar made from one frame of `source` ("first", "open": lips furthest apart, "any")."""
    rng = np.random.default_rng(seed)
    photos, faces = clips.read(source)
    seen = [k for k, face in enumerate(faces) if face is not None]
    if not seen:
        return None
    at = {
        "first": seen[0], "open": max(seen, key=lambda k: aperture(faces[k])), "any": int(rng.choice(seen))  # type: ignore[arg-type]
    }[pick]  # fmt: skip
    driven = Driven(photos[at], clips.tracker)
    frames, faces = clips.read(video)
    shard = Shard.of(driven, speaker, video.stem)
    motion: FloatArray | None = None
    face_px = np.ptp(driven.rest[:468, 1])
    previous = -2
    for k in runs(len(frames), count, each, rng):
        face = faces[k]
        if face is None:
            continue
        motion, error = driven.motion_to(face, motion if k == previous + 1 else None)
        previous = k
        if error <= MAX_ERROR * face_px:
            picture = driven.frame(frames[k])
            shard.add(driven, driven.aligned(picture, motion), picture, error, k)
    return shard


def grid_jobs(data: Path, clips: Clips, split: str, limit: int) -> list[Job]:
    """Shards of GRID: `split` "train" (all speakers but the held out ones) or "val" (those)."""
    jobs: list[Job] = []

    def job(name: str, *given: Any) -> None:
        jobs.append(Job(name, lambda: clip_shard(clips, *given)))

    if split == "val":
        for speaker in HELD_OUT:
            for k, path in enumerate(sorted((data / "grid/val" / speaker).glob("*.mkv"))):
                job(f"{speaker}-{path.stem}", path, path, "first", speaker, 3, 10, k)
        return jobs
    for k, path in enumerate(sorted((data / "grid/train/other").glob("*.mkv"))):
        for pick in ("first", "open", "any"):
            job(f"other-{path.stem}-{pick}", path, path, pick, f"other/{path.stem}", 0, 0, k)
    own = sorted((data / "grid/train/s1").glob("*.mkv"))
    own = own[:: max(1, len(own) // max(limit, 1))][:limit]
    rng = np.random.default_rng(7)
    for k, path in enumerate(own):
        other = own[int(rng.integers(len(own)))] if k % 2 else path
        pick = "any" if k % 2 else ("first", "open")[k // 2 % 2]
        job(f"s1-{path.stem}-{other.stem}-{pick}", path, other, pick, "s1", 3, 10, k)
    return jobs


def read_curves(data: Path) -> list[Float64]:
    """Tracked expression curves (T, 52) of the films that training may see, by name."""
    file = np.load(data / "grid/arkit_curves.npz")
    names = [str(name) for name in file["names"]]
    known = [(k, names.index(name)) for k, name in enumerate(ARKIT) if name in names]
    out = []
    for key in sorted(k for k in file.files if k.endswith("/blendshapes")):
        if any(f"/{speaker}/" in f"/{key}" for speaker in HELD_OUT):
            continue
        curve = file[key]
        full = np.zeros((len(curve), len(ARKIT)))
        for k, source in known:
            full[:, k] = np.nan_to_num(curve[:, source])
        out.append(full)
    return out


# --- photos, there and back


def away_motion(driven: Driven, rng: np.random.Generator) -> FloatArray:
    """A motion that takes a photo elsewhere: mostly with the mouth shut, the head turned a little."""
    avatar = driven.avatar
    motion = avatar.neutral_motion() if rng.random() < 0.8 else zero_motion()
    motion[HEAD_SLICE] = rng.normal(0, [0.07, 0.14, 0.05]).clip(-0.28, 0.28)
    for name, sigma in (("browInnerUp", 0.2), ("eyeSquint", 0.15), ("browDown", 0.2), ("mouthSmile", 0.15), ("mouthPucker", 0.15)):  # fmt: skip
        value = float(rng.normal(0, sigma))
        for channel in (name, f"{name}Left", f"{name}Right"):
            if channel in INDEX:
                motion[INDEX[channel]] += value
    return motion


def portrait_shard(photo: Bytes, tracker: FaceTracker, speaker: str, seed: int) -> Shard | None:
    """One photo against an avatar made from its own avatar's picture in another pose."""
    rng = np.random.default_rng(seed)
    first = Driven(photo, tracker)
    target = first.frame(photo)
    face = find(target, tracker)
    elsewhere = first.renderer.render(away_motion(first, rng))
    second = Driven(elsewhere, tracker)
    if face is None:
        return None
    motion, error = second.motion_to(face)
    if error > MAX_ERROR * np.ptp(second.rest[:468, 1]):
        return None
    shard = Shard.of(second, speaker, f"{speaker}-{seed}", scale=second.scale / first.zoom)
    picture = second.frame(target)
    shard.add(second, second.aligned(picture, motion), picture, error, 0)
    return shard


def portrait_jobs(data: Path, tracker: FaceTracker, variants: int) -> list[Job]:
    """`variants` shards of each portrait."""
    from PIL import Image

    jobs: list[Job] = []

    def job(path: Path, variant: int, seed: int) -> None:
        def make() -> Shard | None:
            photo = np.asarray(Image.open(path).convert("RGB"))
            return portrait_shard(photo, tracker, path.stem, seed)

        jobs.append(Job(f"{path.stem}-{variant}", make))

    photos = sorted(p for p in (data / "portraits").iterdir() if p.suffix in (".jpg", ".png"))
    for variant in range(variants):  # every face once before any comes twice
        for k, path in enumerate(photos):
            job(path, variant, 1000 * variant + k)
    return jobs


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", choices=("grid", "portraits", "people", "drawn"))
    parser.add_argument("--data", type=Path, required=True, help="data folder")
    parser.add_argument("--out", type=Path, default=Path("runs/video"), help="folder for the sets (default: %(default)s)")  # fmt: skip
    parser.add_argument("--split", choices=("train", "val"), default="train", help="grid: which speakers")
    parser.add_argument("--clips", type=int, default=90, help="grid: clips of speaker s1 (default: %(default)s)")  # fmt: skip
    parser.add_argument("--variants", type=int, default=2, help="portraits: shards of each photo (default: %(default)s)")  # fmt: skip
    parser.add_argument(
        "--count", type=int, default=160, help="people, drawn: how many (default: %(default)s)"
    )
    parser.add_argument("--part", default="0/1", help="K/N: make only every N-th shard from the K-th, for several processes")  # fmt: skip
    args = parser.parse_args(argv)
    cv2.setNumThreads(1)  # several of these run at once
    tracker = FaceTracker()
    name = args.set
    if name == "grid":
        jobs = grid_jobs(args.data, Clips(tracker), args.split, args.clips)
        name = "grid" if args.split == "train" else "grid_val"
    elif name == "portraits":
        jobs = portrait_jobs(args.data, tracker, args.variants)
    elif name == "drawn":
        from visavis.engine.training.video_data_drawn import drawn_jobs

        jobs = drawn_jobs(args.data, tracker, args.count)
    else:
        from visavis.engine.training.video_data_people import people_jobs

        jobs = people_jobs(args.data, tracker, args.count)
    if not jobs:
        print(f"no material for {args.set} under {args.data}", file=sys.stderr)
        return 2
    k, n = (int(v) for v in args.part.split("/"))
    made, failed = work(jobs[k::n], args.out / name)
    print(f"{made} shards made in {args.out / name}, {failed} without usable frames")
    return 0


if __name__ == "__main__":
    sys.exit(main())
