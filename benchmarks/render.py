"""visavis bench render: from photo and speech to frames, offline: how long each stage takes and how true zero motion is.

    visavis bench render [--photo PHOTO] [--speech SPEECH.wav] [--size 512]

Measures the product's own way: enrolment, motion from speech, drawing on one core, and all of it together. The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    import visavis.engine
    from visavis.clients.media import read_speech
    from visavis.engine.body.detect import find_face
    from visavis.engine.body.photo import load_photo
    from visavis.engine.enroll import crop_to_person, enroll
    from visavis.engine.motion.channels import zero_motion
    from visavis.engine.motion.diffusion import DiffusionMotion
    from visavis.engine.session import render_offline
    from visavis.engine.video.renderer import Renderer

    assets = Path(str(visavis.engine.__file__)).parent / "assets"
    parser = argparse.ArgumentParser(
        prog="visavis bench render", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photo", type=Path, default=assets / "astronaut.png")
    parser.add_argument("--speech", type=Path, default=assets / "speech.wav")
    parser.add_argument("--size", type=int, default=512)
    args = parser.parse_args(argv)

    start = time.perf_counter()
    avatar = enroll(args.photo, size=args.size)
    first = time.perf_counter() - start
    start = time.perf_counter()
    enroll(args.photo, size=args.size)
    again = time.perf_counter() - start

    photo = load_photo(args.photo)
    framed, _, _ = crop_to_person(photo.rgb, photo.alpha, find_face(photo.rgb), args.size)
    renderer = Renderer(avatar)
    error = float(((renderer.render(zero_motion()).astype(np.float64) - framed) ** 2).mean())

    pcm, rate = read_speech(args.speech)
    start = time.perf_counter()
    frames = list(render_offline(avatar, pcm, rate, renderer=renderer))
    whole = time.perf_counter() - start
    drawing = []
    for frame in frames:
        start = time.perf_counter()
        renderer.render(frame.motion)
        drawing.append(time.perf_counter() - start)
    director = DiffusionMotion()
    thinking = []
    rng = np.random.default_rng(0)
    for _ in range(250):
        heard = rng.normal(0, 0.05, (1, 640)).astype(np.float32)
        start = time.perf_counter()
        director.step(heard)
        thinking.append(time.perf_counter() - start)

    result: dict[str, Any] = {
        "bench": "render",
        "size": [avatar.width, avatar.height],
        "frames": len(frames),
        "enroll_first_s": round(first, 2),
        "enroll_again_s": round(again, 2),
        "landmark_error_px": avatar.metadata["landmark_error_px"],
        "zero_motion_psnr_db": round(10 * float(np.log10(255**2 / max(error, 1e-9))), 1),
        "frames_per_second": round(len(frames) / whole, 1),
        "times_real_time": round(len(frames) / 25 / whole, 2),
        "draw_ms_median": round(float(np.median(drawing)) * 1e3, 2),
        "draw_ms_p99": round(float(np.percentile(drawing, 99)) * 1e3, 2),
        "motion_ms_median": round(float(np.median(thinking)) * 1e3, 2),
    }
    for name, value in result.items():
        print(f"{name:22} {value}")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
