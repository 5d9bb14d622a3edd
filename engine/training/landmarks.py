"""Face landmarks of every GRID clip, as a file that training reads.

    python -m visavis.engine.training.landmarks --data ../shared/data --out runs/landmarks.npz

Uses MediaPipe's face mesh (PyPI `mediapipe`, for making data only). Resumable: clips that the file holds
are not tracked again.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

import numpy as np
from tqdm import tqdm
from visavis.engine.audio.pcm import FloatArray


def track_clip(path: Path) -> FloatArray:
    """Landmarks (T, 478, 3) of a video in pixels (z relative, smaller is nearer); NaN where no face is
    found."""
    import av
    import mediapipe

    frames = []
    with (
        av.open(str(path)) as container,
        mediapipe.solutions.face_mesh.FaceMesh(refine_landmarks=True, max_num_faces=1) as mesh,
    ):
        for frame in container.decode(video=0):
            found = mesh.process(frame.to_ndarray(format="rgb24")).multi_face_landmarks
            scale = (frame.width, frame.height, frame.width)
            points = [(p.x, p.y, p.z) for p in found[0].landmark] if found else np.full((478, 3), np.nan)
            frames.append(np.multiply(points, scale))
    return np.asarray(frames, np.float32)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", type=Path, required=True, help="folder that holds grid/")
    parser.add_argument("--out", type=Path, default=Path("runs/landmarks.npz"))
    args = parser.parse_args()
    tracks = dict(np.load(args.out)) if args.out.exists() else {}
    clips = sorted((args.data / "grid").glob("*/*/*.mkv"))
    args.out.parent.mkdir(parents=True, exist_ok=True)

    def save() -> None:
        partial = args.out.with_suffix(".part.npz")
        np.savez(partial, **tracks)
        os.replace(partial, args.out)

    for number, path in enumerate(tqdm(clips, desc="tracking", unit="clip")):
        key = f"{path.parent.name}/{path.stem}"
        if key not in tracks:
            tracks[key] = track_clip(path)
        if number % 100 == 99:
            save()
    save()


if __name__ == "__main__":
    main()
