"""Tracks of the body in every GRID clip: motion for training, and the absolute fits that make pairs of frames.

    python -m visavis.engine.training.tracks --data ../shared/data --out runs/tracks [--only val/s26 s1/bbaf4p ...] [--jobs 2]

Writes `<out>/<split>/<speaker>/<clip>.npz`: a MotionClip (motion relative to the clip's first frame) and, a frame seen, the absolute fit:
`shape` (60,), `expression` (T, 52) about the person's rest (lips together, eyes open: rest is 0), `rotation` (T, 3), `translation` (T, 3), `gaze`
(T, 4) absolute, `rest_gaze` (4,), `camera` (focal, cx, cy), `error_px` (T,), `frames` (T,) their numbers; and what the real landmarks show, in
distances between the outer eye corners: `aperture`, `width` (T,), `openness` (T, 2) of the lids over the eye's width.
`<out>/../landmarks` keeps the landmarks (so that fitting again takes a tenth of the time) and, a speaker, the person learned from a dozen
clips. Resumable: what exists is not made again (`--refit` fits again from kept landmarks). Held-out speakers come first, then the others. The
report goes to `<out>/report.json` and the screen.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from visavis.engine.body.fit import Camera
from visavis.engine.body.fit_clip import ClipFit
from visavis.engine.body.person import Person, aperture, eye_openness, learn_person, mouth_width
from visavis.engine.body.track import Observed, Observer, Track, fit_observed
from visavis.engine.errors import VideoError
from visavis.engine.footage import read_frames
from visavis.engine.motion.channels import CHANNELS, INDEX

ORDER = ("val/s26", "val/s31", "train/other", "val/s1", "train/s1")
LEARN_FROM = 12
"""Clips from which a speaker's face is learned."""


def _write(path: Path, **arrays: Any) -> None:
    """Write whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(f".{os.getpid()}.part")
    with open(partial, "wb") as file:
        np.savez_compressed(file, **arrays)
    os.replace(partial, path)


_observer: Observer | None = None


def observed(clip: Path, kept: Path) -> Observed:
    """What the networks see in `clip`, kept in the file `kept`."""
    global _observer
    if kept.exists():
        with np.load(kept) as data:
            height, width = (int(v) for v in data["size"])
            return Observed(
                data["landmarks"], data["blendshapes"], data["score"], data["shoulders"],
                data["shoulder_frames"], (height, width), float(data["fps"]),
            )  # fmt: skip
    _observer = _observer or Observer()
    found = _observer.observe(read_frames(clip), name=str(clip))
    _write(kept, **{f.name: np.asarray(getattr(found, f.name)) for f in fields(found)})
    return found


def person_of(clips: list[Path], kept: list[Path], file: Path) -> Person:
    """One speaker's face, learned from up to LEARN_FROM of the clips and kept in `file`."""
    if file.exists():
        with np.load(file) as data:
            return Person(**{f.name: data[f.name] for f in fields(Person)})
    picks = np.unique(np.linspace(0, len(clips) - 1, min(LEARN_FROM, len(clips))).astype(int))
    views = []
    for k in picks:
        try:
            views.append(observed(clips[k], kept[k]))
        except VideoError as error:
            tqdm.write(f"left out: {error}")
    if not views:
        raise VideoError(f"no face in any of {len(picks)} clips such as {clips[0]}")
    person = learn_person(
        np.concatenate([v.landmarks[v.seen] for v in views]),
        np.concatenate([v.blendshapes[v.seen] for v in views]),
        views[0].camera,
    )
    _write(file, **{f.name: np.asarray(getattr(person, f.name)) for f in fields(person)})
    return person


def save_track(path: Path, done: Track, views: Observed) -> None:
    """One track as the module describes it."""
    fit, real = done.fit, views.landmarks[done.seen]
    _write(
        path,
        motion=done.clip.motion, channels=np.array(CHANNELS), fps=np.float32(done.clip.fps), confidence=done.clip.confidence,
        shape=fit.person.shape.astype(np.float32), expression=fit.expression.astype(np.float32),
        rotation=fit.rotation.astype(np.float32), translation=fit.translation.astype(np.float32),
        gaze=fit.gaze.astype(np.float32), rest_gaze=fit.person.gaze.astype(np.float32),
        camera=np.array([fit.camera.focal, fit.camera.cx, fit.camera.cy], np.float32),
        error_px=fit.error_px.astype(np.float32), frames=done.seen.astype(np.int32), offset=fit.person.offset.astype(np.float32),
        blink=fit.person.blink.astype(np.float32), face_px=np.ptp(real[:, :468, 1], axis=1).astype(np.float32),
        aperture=aperture(real).astype(np.float32), width=mouth_width(real).astype(np.float32),
        openness=eye_openness(real).astype(np.float32),
    )  # fmt: skip


def load_fit(path: Path) -> ClipFit:
    """The absolute fit that a track file holds."""
    with np.load(path) as data:
        person = Person(
            *(data[k].astype(np.float64) for k in ("shape", "offset", "blink")),
            np.zeros(52),
            data["rest_gaze"],
        )
        return ClipFit(
            person, Camera(*(float(v) for v in data["camera"])),
            *(data[k].astype(np.float64) for k in ("expression", "rotation", "translation", "gaze", "error_px")),
        )  # fmt: skip


def _one(job: tuple[Path, Path, Path, Person | None]) -> str | None:
    clip, kept, out, person = job
    try:
        views = observed(clip, kept)
    except VideoError as error:
        return str(error)
    if person is None:
        person = learn_person(views.landmarks[views.seen], views.blendshapes[views.seen], views.camera)
    save_track(out, fit_observed(views, person), views)
    return None


@contextlib.contextmanager
def _workers(jobs: int) -> Iterator[Callable[..., Any]]:
    """A map over jobs: in so many processes of one thread each, in this one for 0."""
    if jobs < 1:
        yield map
        return
    for name in ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS"):
        os.environ.setdefault(name, "1")
    with multiprocessing.get_context("spawn").Pool(jobs) as pool:
        yield pool.imap


def report(paths: Iterable[Path]) -> dict[str, Any]:
    """Figures over track files, by folder: reprojection error, how well the model's lips and lids follow the real ones, confidence."""
    rows: dict[str, list[dict[str, float]]] = {}
    for path in paths:
        fit = load_fit(path)
        with np.load(path) as data:
            made = fit.landmarks_px()
            pairs = {
                "aperture": (data["aperture"], aperture(made)), "width": (data["width"], mouth_width(made)),
                "openness": (data["openness"].mean(1), eye_openness(made).mean(1)),
            }  # fmt: skip
            shut = data["aperture"] < 0.02
            blink = fit.expression[:, INDEX["eyeBlinkLeft"]] > 0.6
            row = {
                "error_px": float(data["error_px"].mean()),
                "error_px_p95": float(np.percentile(data["error_px"], 95)),
                "error_of_face": float((data["error_px"] / data["face_px"]).mean()),
                "confidence": float(data["confidence"].mean()),
                "gap_when_closed": float(pairs["aperture"][1][shut].mean()) if shut.any() else np.nan,
                "blinks_a_minute": float((np.diff(blink.astype(int)) > 0).sum()) / len(blink) * 25 * 60,
            }
        for name, (real, model) in pairs.items():
            moving = real.std() > 0.01  # a lid that never blinks has no amplitude to compare
            row[f"{name}_r"] = float(np.corrcoef(real, model)[0, 1]) if moving else np.nan
            row[f"{name}_ratio"] = float(model.std() / real.std()) if moving else np.nan
        rows.setdefault("/".join(path.parts[-3:-1]), []).append(row)
    out: dict[str, Any] = {}
    for folder, own in sorted(rows.items()):
        out[folder] = {"clips": len(own)}
        for name in own[0]:
            values = np.array([r[name] for r in own])
            out[folder][name] = round(float(np.nanmean(values)), 4) if np.isfinite(values).any() else None
    return out


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds grid/")
    parser.add_argument("--out", type=Path, default=Path("runs/tracks"))
    parser.add_argument("--only", nargs="*", help="clips or speakers: parts of <split>/<speaker>/<clip>")
    parser.add_argument(
        "--jobs", type=int, default=1, help="processes, 0 for none but this one (default: %(default)s)"
    )
    parser.add_argument("--refit", action="store_true", help="learn and fit again from the kept landmarks")
    args = parser.parse_args(argv)
    kept_root = args.out.parent / "landmarks"
    jobs: list[tuple[Path, Path, Path, Person | None]] = []
    for folder in ORDER:
        clips = sorted((args.data / "grid" / folder).glob("*.mkv"))
        names = [f"{folder}/{clip.stem}" for clip in clips]
        wanted = [
            k for k, name in enumerate(names) if not args.only or any(part in name for part in args.only)
        ]
        outs = [args.out / f"{names[k]}.npz" for k in wanted]
        if args.refit or not all(out.exists() for out in outs):
            person = None
            if wanted and not folder.endswith("/other"):  # every clip of `other` is somebody else
                speaker = kept_root / "persons" / f"{Path(folder).name}.npz"
                if args.refit and folder != "train/s1":  # val/s1 comes first and shares the speaker
                    speaker.unlink(missing_ok=True)
                person = person_of(clips, [kept_root / f"{name}.npz" for name in names], speaker)
            for k, out in zip(wanted, outs, strict=True):
                if args.refit or not out.exists():
                    jobs.append((clips[k], kept_root / f"{names[k]}.npz", out, person))
    if jobs:
        bar = tqdm(total=len(jobs), desc="tracking", unit="clip")
        with _workers(args.jobs) as run:
            for problem in run(_one, jobs):
                bar.update()
                if problem:
                    tqdm.write(f"left out: {problem}")
        bar.close()
    paths = sorted(p for folder in ORDER for p in (args.out / folder).glob("*.npz"))
    figures = report(paths)
    (args.out / "report.json").write_text(json.dumps(figures, indent=1))
    columns = ("clips", "error_px", "error_of_face", "aperture_r", "aperture_ratio", "width_r", "width_ratio",
               "openness_r", "openness_ratio", "gap_when_closed", "blinks_a_minute", "confidence")  # fmt: skip
    print(f"{'':12}" + "".join(f"{name:>16}" for name in columns))
    for folder, row in figures.items():
        print(f"{folder:12}" + "".join(f"{'-' if row[name] is None else row[name]:>16}" for name in columns))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
