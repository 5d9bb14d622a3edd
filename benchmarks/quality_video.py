"""visavis bench quality --stage video: are the generator's pictures better than the warp, and as good as the real video?

    visavis bench quality --stage video --data DATA [--steps 1,2,4] [--clips 20] [--portraits 10] [--size 512] [--learn 5] [--sheet OUT.png]

Clips of speakers that no network was trained on (`DATA/grid/val/s26`, `s31`): an avatar is enrolled from the first frame, the motion is captured
from the clip (`--motion track`: tracked as for any avatar), and what the warp alone (`warp`) and the generator with so many steps (`steps 2`) make of it is held against the real frames, at
the avatar's own resolution. Regions follow the real frame's landmarks: lips (outer contour widened by 4 % of the face's height), eyes, face.

  mae_lips        mean absolute error over the lips, 0..1
  psnr/ssim/features_{face,lips,eyes}   against the real frame (features: taef2 encoder, needs torch and DATA/taef2)
  identity        dlib descriptor distance of frame to photo (needs the extra `bench`); real: the real video's own
  sharpness       CPBD of the face at the video's own resolution; real: the real video's
  detail          energy of the finest details of the face, as a multiple of the real video's; detail_lips over the lips
  flicker         second difference in time over the face, as a multiple of the real video's; flicker_lips over the lips
  frechet         Frechet distance of made and real frames over mean and spread of the taef2 encoder's features of the face box

With `--learn N` the column `learned` is the mouth alone by a network that learned each speaker's mouth from N further clips, which are not judged
(`visavis enroll FILM --learn`; needs torch).

Portraits (`DATA/portraits`) under synthetic motion: identity distance to the photo, and detail of skin, face and lips as a share of the photo's
(of the lips also what a smile or a parted mouth shows besides).
The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from visavis.benchmarks.quality_video_material import (
    Figures,
    Judges,
    Method,
    Scene,
    film,
    methods_of,
    scene_of,
    synthetic_motion,
    taught_by,
)
from visavis.benchmarks.quality_video_metrics import (
    Bytes,
    FeatureDistance,
    FloatArray,
    Regions,
    cpbd,
    detail,
    flicker,
    frechet,
    mean_absolute_error,
    psnr,
    ssim,
)
from visavis.engine.motion.channels import zero_motion
from visavis.engine.video.drive import Driven

SPEAKERS = ("s26", "s31")
EVERY = 3
"""Pictures are compared in every third frame; flicker is measured in all."""
IDENTITY_EVERY = 12


def judge_frame(
    made: Bytes,
    real: Bytes,
    where: Regions,
    zoom: float,
    figures: Figures,
    features: FeatureDistance | None,
    reference: list[Any],
) -> None:
    """Compare one made frame with the real one; `reference`: the real face box's features;
    `zoom`: how far the real video was enlarged into the avatar's frame."""
    x0, y0, x1, y1 = where.box
    cut = np.s_[y0:y1, x0:x1]
    a, b = np.ascontiguousarray(made[cut]), np.ascontiguousarray(real[cut])
    masks = {"face": where.face[cut], "lips": where.lips[cut], "eyes": where.eyes[cut]}
    figures.add("mae_lips", mean_absolute_error(a, b, masks["lips"]))
    own = features.maps(a) if features else []
    for name, mask in masks.items():
        figures.add(f"psnr_{name}", psnr(a, b, mask))
        figures.add(f"ssim_{name}", ssim(a, b, mask))
        if features:
            figures.add(f"features_{name}", features.distance(own, reference, mask))
    if features:
        figures.summaries.append(features.summary(own))
    figures.add("sharpness", cpbd(_native(a, zoom)))
    for name, region in (("detail", "face"), ("detail_lips", "lips")):
        figures.add(name, detail(a, masks[region]) / max(detail(b, masks[region]), 1e-6))


def _native(image: Bytes, zoom: float) -> Bytes:
    """The picture at the real video's own resolution: enlargement alone would count as blur."""
    if zoom <= 1:
        return image
    size = (round(image.shape[1] / zoom), round(image.shape[0] / zoom))
    return np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA), np.uint8)


def judge_clip(scene: Scene, methods: dict[str, Method], judges: Judges, totals: dict[str, Figures]) -> Bytes:
    """Add one clip's figures to `totals` (a row for each method, and "real"); returns its strip of pictures."""
    real, real_figures = scene.real, totals["real"]
    count = len(scene.motion)
    picks = np.linspace(0, count - 1, 8).astype(int)
    photo_descriptor: FloatArray | None = None
    if judges.identity and scene.landmarks[0] is not None:
        photo_descriptor = judges.identity.describe(real[0], scene.landmarks[0])

    def add_identity(figures: Figures, picture: Bytes, k: int) -> None:
        marks = scene.landmarks[k]
        if (
            judges.identity
            and photo_descriptor is not None
            and k % IDENTITY_EVERY == 0
            and k
            and marks is not None
        ):
            distance = np.linalg.norm(judges.identity.describe(picture, marks) - photo_descriptor)
            figures.add("identity", float(distance))

    references: dict[int, list[Any]] = {}
    rates: dict[str, list[float]] = {"flicker": [], "flicker_lips": []}
    for k, where in enumerate(scene.regions[:count]):
        if where is None:
            continue
        x0, y0, x1, y1 = where.box
        if 0 < k < count - 1:
            for name, mask in (("flicker", where.face), ("flicker_lips", where.lips)):
                rates[name].append(flicker(real[k - 1], real[k], real[k + 1], mask))
        if k % EVERY == 0 and k:
            own = np.ascontiguousarray(real[k][y0:y1, x0:x1])
            real_figures.add("sharpness", cpbd(_native(own, scene.driven.zoom)))
            if judges.features:
                references[k] = judges.features.maps(own)
                real_figures.summaries.append(judges.features.summary(references[k]))
        add_identity(real_figures, real[k], k)
    own_rate = {name: float(np.mean(values)) for name, values in rates.items()}
    strips = [np.hstack([_shrunk(real[k], scene.regions[k]) for k in picks])]
    for method, make in methods.items():
        figures = totals[method]
        painter = make(scene.driven.renderer)
        made = list(film(scene.driven.renderer, painter, scene.motion))
        bent: dict[str, list[float]] = {"flicker": [], "flicker_lips": []}
        for k, where in enumerate(scene.regions[:count]):
            if where is None:
                continue
            if 0 < k < count - 1:
                for name, mask in (("flicker", where.face), ("flicker_lips", where.lips)):
                    bent[name].append(flicker(made[k - 1], made[k], made[k + 1], mask))
            if k % EVERY == 0 and k:
                reference = references.get(k, [])
                judge_frame(
                    made[k], real[k], where, scene.driven.zoom, figures, judges.features, reference
                )  # fmt: skip
            add_identity(figures, made[k], k)
        for name, values in bent.items():
            figures.add(name, float(np.mean(values)) / max(own_rate[name], 1e-9))
        strips.append(np.hstack([_shrunk(made[k], scene.regions[k]) for k in picks]))
    return np.vstack(strips)


def _shrunk(frame: Bytes, where: Regions | None, side: int = 176) -> Bytes:
    """The face, square, for contact sheets."""
    x0, y0, x1, y1 = where.box if where else (0, 0, frame.shape[1], frame.shape[0])
    half = max(x1 - x0, y1 - y0) // 2
    cx, cy = (x0 + x1) // 2, (y0 + y1) // 2
    cut = frame[max(cy - half, 0) : cy + half, max(cx - half, 0) : cx + half]
    return np.asarray(cv2.resize(cut, (side, side), interpolation=cv2.INTER_AREA), np.uint8)


# --- portraits


def judge_portrait(
    path: Path, methods: dict[str, Method], judges: Judges, totals: dict[str, Figures], size: int = 512
) -> Bytes | None:
    """Add one portrait's figures, as an avatar of `size` pixels; returns its strip, or None when the photo cannot be used."""
    from PIL import Image

    driven = Driven(np.asarray(Image.open(path).convert("RGB")), judges.tracker, size=size)
    photo = driven.renderer.render(zero_motion())
    face = judges.tracker.detect(photo)
    if face is None:
        return None
    descriptor = judges.identity.describe(photo, face.landmarks) if judges.identity else None
    motion = synthetic_motion()
    picks = np.linspace(2, len(motion) - 3, 7).astype(int)
    where = Regions.of(face.landmarks, photo.shape[:2])
    skin = np.clip(where.face - where.lips - where.eyes, 0, 1)
    still = {
        "skin": detail(photo, skin),
        "face": detail(photo, where.face),
        "lips": detail(photo, where.lips),
    }
    strips = []
    for method, make in methods.items():
        figures, painter = totals[method], make(driven.renderer)
        made = list(film(driven.renderer, painter, motion))
        row = [_shrunk(photo, where)]
        for k in picks:
            found = judges.tracker.track(made[k], face)
            row.append(_shrunk(made[k], where))
            if found is None:
                figures.add("portrait_lost", 1.0)
                continue
            figures.add("portrait_lost", 0.0)
            now = Regions.of(found.landmarks, photo.shape[:2])
            bare = np.clip(now.face - now.lips - now.eyes, 0, 1)
            for name, region in (("skin", bare), ("face", now.face), ("lips", now.lips)):
                figures.add(f"portrait_detail_{name}", detail(made[k], region) / max(still[name], 1e-6))
            if judges.identity and descriptor is not None:
                distance = np.linalg.norm(judges.identity.describe(made[k], found.landmarks) - descriptor)
                figures.add("portrait_identity", float(distance))
        strips.append(np.hstack(row))
    return np.vstack(strips)


def table(totals: dict[str, Figures]) -> dict[str, dict[str, float]]:
    """Rows of figures for the methods and the real video."""
    rows = {name: figures.means() for name, figures in totals.items()}
    real = totals["real"].summaries
    for name, figures in totals.items():
        if name != "real" and len(figures.summaries) > 8 and len(real) > 8:
            rows[name]["frechet"] = frechet(np.stack(figures.summaries), np.stack(real))
    return rows


def run(
    data: Path,
    methods: dict[str, Method],
    clips: int,
    portraits: int,
    sheet: Path | None = None,
    *,
    tracked: bool = False,
    learn: int = 0,
    size: int = 512,
) -> dict[str, Any]:
    """Everything; `sheet`: contact sheets are written beside this name; `learn`: from so many further clips a speaker's own network is made; `size`: of the
    portraits' avatars. Returns what the last line says."""
    from tqdm import tqdm

    judges = Judges.load(data)
    totals = {name: Figures() for name in (*methods, "real")}
    paths = [sorted((data / "grid/val" / speaker).glob("*.mkv")) for speaker in SPEAKERS]
    each = max(1, clips // len(SPEAKERS))
    chosen = [path for own in paths for path in own[:each]] if clips else []
    if learn and min(len(own) - each for own in paths) < learn:
        raise FileNotFoundError(f"of {clips} clips judged too few are left to learn from {learn}")
    if clips and not chosen:
        raise FileNotFoundError(f"no clips under {data / 'grid/val'}")
    taught: dict[str, Method] = {}
    if learn:
        totals["learned"] = Figures()
        taught = {
            speaker: taught_by(own[each:][:learn]) for speaker, own in zip(SPEAKERS, paths, strict=True)
        }
    strips: list[Bytes] = []
    for path in tqdm(chosen, desc="clips", unit="clip"):
        all_methods = {**methods, "learned": taught[path.parent.name]} if learn else methods
        strips.append(judge_clip(scene_of(path, judges, tracked=tracked), all_methods, judges, totals))
    photos = sorted((data / "portraits").glob("*.jpg"))[:: max(1, 360 // max(portraits, 1))][:portraits]
    portrait_strips = []
    for path in tqdm(photos, desc="portraits", unit="photo"):
        strip = judge_portrait(path, methods, judges, totals, size)
        if strip is not None:
            portrait_strips.append(strip)
    if sheet is not None:
        for name, rows in (("clips", strips), ("portraits", portrait_strips)):
            for page in range(0, len(rows), 5):
                out = sheet.with_name(f"{sheet.stem}-{name}-{page // 5}.png")
                cv2.imwrite(str(out), np.vstack(rows[page : page + 5])[..., ::-1])
    rows_of = table(totals)
    names = list(dict.fromkeys(name for row in rows_of.values() for name in row))
    print(f"{'':22}" + "".join(f"{method:>10}" for method in rows_of))
    for name in names:
        cells = (f"{row[name]:10.4f}" if name in row else " " * 10 for row in rows_of.values())
        print(f"{name:22}" + "".join(cells))
    rounded = {method: {k: round(v, 4) for k, v in row.items()} for method, row in rows_of.items()}
    return {
        "bench": "quality",
        "stage": "video",
        "motion": "track" if tracked else "capture",
        "clips": len(chosen),
        "portraits": len(photos),
        "size": size,
        "learned_from": learn,
        "methods": rounded,
    }


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="visavis bench quality --stage video",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="data folder that holds grid/val, portraits, taef2")  # fmt: skip
    parser.add_argument("--steps", default="1,2,4", help="sampler steps to try (default: %(default)s)")
    parser.add_argument(
        "--clips", type=int, default=20, help="clips in all, 0 for none (default: %(default)s)"
    )
    parser.add_argument("--portraits", type=int, default=10, help="portraits, 0 for none (default: %(default)s)")  # fmt: skip
    parser.add_argument("--size", type=int, default=512, help="longer side of the portraits' avatars (default: %(default)s)")  # fmt: skip
    parser.add_argument("--motion", choices=("capture", "track"), default="capture", help="fitted to the avatar itself, or as for any avatar (default: %(default)s)")  # fmt: skip
    parser.add_argument("--learn", type=int, default=0, metavar="N", help="clips of each speaker, not judged, to learn the mouth from (default: none)")  # fmt: skip
    parser.add_argument("--sheet", type=Path, help="write contact sheets: OUT.png gives OUT-clips-0.png, ...")
    args = parser.parse_args(argv)
    try:
        steps = [int(word) for word in args.steps.split(",") if word.strip()]
    except ValueError:
        parser.error(f"--steps {args.steps}: expected numbers separated by commas, such as 1,2,4")
    try:
        result = run(
            args.data,
            methods_of(steps),
            args.clips,
            args.portraits,
            args.sheet,
            tracked=args.motion == "track",
            learn=args.learn,
            size=args.size,
        )
    except FileNotFoundError as error:
        print(f"visavis: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
