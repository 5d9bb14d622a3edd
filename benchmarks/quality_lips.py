"""visavis bench quality --stage lips: do the lips follow the speech, and does the picture hold?

    visavis bench quality [--stage lips] --data DATA [--clips 20] [--sheet OUT.png]

For each clip of speakers that no network was trained on (`DATA/grid/val`), an avatar is enrolled from the clip's first frame, the clip's own sound
is spoken by it, and lip landmarks are measured on the rendered frames and on the real video by the same detector. Reported: correlation and
lag of lip aperture and mouth width, their amplitude against the real one, landmark error of the fit,
and the same correlations for the sound's log energy as a baseline. The last line is JSON.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.benchmarks.quality_motion_figures import best_lag, correlation

Float64 = npt.NDArray[np.float64]


def lip_curves(frames: list[npt.NDArray[np.uint8]]) -> Float64:
    """Aperture and width of the mouth (T, 2) over the eyes' distance; NaN where no face is found."""
    from visavis.engine.body.detect import FaceTracker

    tracker = FaceTracker()
    face = None
    out = np.full((len(frames), 2), np.nan)
    for k, frame in enumerate(frames):
        face = tracker.track(frame, face) if face is not None else tracker.detect(frame)
        if face is None:
            continue
        p = face.landmarks[:, :2].astype(np.float64)
        scale = np.linalg.norm(p[[33, 133]].mean(0) - p[[263, 362]].mean(0))
        aperture = np.mean([np.linalg.norm(p[a] - p[b]) for a, b in ((13, 14), (82, 87), (312, 317))])
        out[k] = aperture / scale, np.linalg.norm(p[61] - p[291]) / scale
    return out


def read_clip(path: Path) -> tuple[list[npt.NDArray[np.uint8]], npt.NDArray[np.int16], int]:
    """Frames, mono sound and its rate."""
    from visavis.clients.media import read_speech
    from visavis.engine.footage import read_frames

    pcm, rate = read_speech(path)
    return [frame for frame, _ in read_frames(path)], pcm, rate


def measure_clip(path: Path, seed: int) -> tuple[dict[str, Any], list[npt.NDArray[np.uint8]]]:
    """All figures of one clip, and pairs of real and made frames for a contact sheet."""
    import cv2
    from PIL import Image
    from visavis.engine.enroll import enroll
    from visavis.engine.session import render_offline

    frames, pcm, rate = read_clip(path)
    buffer = io.BytesIO()
    Image.fromarray(frames[0]).save(buffer, "png")
    avatar = enroll(buffer.getvalue())
    made = [frame.image for frame in render_offline(avatar, pcm, rate, seed=seed)][: len(frames)]
    real_curves, made_curves = lip_curves(frames[: len(made)]), lip_curves(made)
    samples = pcm.astype(np.float64)[: len(made) * rate // 25]
    per_frame = samples[: len(samples) // (rate // 25) * (rate // 25)].reshape(-1, rate // 25)
    energy = np.full(len(made), np.nan)
    energy[: len(per_frame)] = 10 * np.log10((per_frame**2).mean(1) + 1.0)
    made_a, real_a = made_curves[:, 0], real_curves[:, 0]
    known = np.isfinite(made_a) & np.isfinite(real_a)
    figures = {
        "clip": f"{path.parent.name}/{path.stem}",
        "aperture": correlation(made_a, real_a),
        "width": correlation(made_curves[:, 1], real_curves[:, 1]),
        "lag": best_lag(made_a, real_a),
        "amplitude": float(made_a[known].std() / max(real_a[known].std(), 1e-9)),
        "energy": correlation(energy, real_a),
        "landmark_error_px": avatar.metadata["landmark_error_px"],
    }
    picks = np.linspace(0, len(made) - 1, 6).astype(int)
    size = (avatar.width, avatar.height)
    strip = [np.vstack([cv2.resize(frames[k], size), made[k]]) for k in picks]
    return figures, [np.hstack(strip)]


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="visavis bench quality --stage lips",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="data folder that holds grid/val")
    parser.add_argument(
        "--clips", type=int, default=20, help="clips in all, spread over the speakers (default: %(default)s)"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--sheet", type=Path, help="write a contact sheet of real (upper) and made (lower) frames"
    )
    args = parser.parse_args(argv)
    speakers = [p for p in sorted((args.data / "grid/val").glob("s*")) if p.name != "s1"]
    clips = [sorted(p.glob("*.mkv")) for p in speakers]
    if not any(clips):
        print(f"visavis: no clips under {args.data / 'grid/val'}", file=sys.stderr)
        return 2
    share = max(1, args.clips // len(clips))
    chosen = [path for own in clips for path in own[:share]]
    rows, strips = [], []
    print(f"{'clip':16} {'aperture':>8} {'width':>7} {'lag':>4} {'amplitude':>9} {'energy':>7} {'fit px':>7}")
    for path in chosen:
        row, strip = measure_clip(path, args.seed)
        rows.append(row)
        strips += strip
        print(
            f"{row['clip']:16} {row['aperture']:8.3f} {row['width']:7.3f} {row['lag']:4d} {row['amplitude']:9.2f}"
            f" {row['energy']:7.3f} {row['landmark_error_px']:7.3f}",
            flush=True,
        )
    if args.sheet:
        import cv2

        cv2.imwrite(str(args.sheet), np.vstack(strips[:8])[..., ::-1])
    numbers = ("aperture", "width", "amplitude", "energy", "landmark_error_px")
    result: dict[str, Any] = {"bench": "quality", "clips": len(rows)}
    for name in numbers:
        result[name] = round(float(np.mean([row[name] for row in rows])), 4)
    result["lag_median"] = float(np.median([row["lag"] for row in rows]))
    result["lag_within_one_frame"] = round(float(np.mean([abs(row["lag"]) <= 1 for row in rows])), 3)
    by_speaker = {
        p.name: [r["aperture"] for r in rows if r["clip"].startswith(p.name + "/")] for p in speakers
    }
    result["aperture_by_speaker"] = {
        name: round(float(np.mean(values)), 4) for name, values in by_speaker.items() if values
    }
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
