"""Everything that needs a GPU, in one go: `visavis bench gpu_check` (`make gpu-check` builds and calls it).

Builds the engines for the GPU that is here, runs `pytest -m gpu` (also under compute-sanitizer where it is installed:
memcheck over all of it, racecheck and synccheck over the kernels' tests, since shared memory and barriers of engines are
not this project's), times ticks of 1 to 32 sessions, and sets them beside the computed limits. Writes runs/gpu-check.json. Without a GPU it says so
and exits with code 3.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

NO_DEVICE = 3
"""Exit code where there is no GPU to check."""


SANITIZERS = {"memcheck": ["tests"], "racecheck": ["tests/kernels"], "synccheck": ["tests/kernels"]}
"""Tools of compute-sanitizer, and which tests run under each."""


def tests(tool: list[str], timeout_s: float, where: Sequence[str] = ("tests",)) -> dict[str, Any]:
    """`pytest -m gpu`, perhaps under a tool: exit code, seconds, the last line. One test may take all of the time."""
    start = time.perf_counter()
    command = [*tool, sys.executable, "-m", "pytest", "-m", "gpu", "-p", "no:cacheprovider", *where]
    command += ["--timeout", str(int(timeout_s))]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout_s)
        code, text = done.returncode, done.stdout + done.stderr
    except subprocess.TimeoutExpired:
        code, text = 124, f"not done after {timeout_s:.0f} s"
    lines = text.strip().splitlines()
    return {
        "exit": code,
        "seconds": round(time.perf_counter() - start, 1),
        "said": lines[-1] if lines else "",
        "tail": lines[-30:] if code else [],
    }


def sanitized(program: str | None, timeout_s: float = 1800) -> dict[str, Any]:
    """The tests under each tool of compute-sanitizer: a result each; none, and a line that says so, where it is missing."""
    if program is None:
        print("compute-sanitizer is not installed: " + ", ".join(SANITIZERS) + " not run")
        return {}
    results = {}
    for tool, where in SANITIZERS.items():
        results[tool] = tests([program, "--tool", tool, "--error-exitcode", "9"], timeout_s, where)
        print(f"under {tool}: exit {results[tool]['exit']}, {results[tool]['said']}", flush=True)
    return results


def ticks(device: Any, slots: int, frames: int, video: Path | None) -> dict[str, Any]:
    """Milliseconds of a tick of `slots` sessions that all speak: median and 99th percentile; of encoding one frame; by what."""
    from visavis import engine
    from visavis.clients.media import read_speech
    from visavis.engine.enroll import enroll
    from visavis.engine.runtime.gpu.worker import Worker

    assets = Path(str(engine.__file__)).parent / "assets"
    avatar = enroll(assets / "astronaut.png")
    pcm, rate = read_speech(assets / "speech.wav")
    worker = Worker(device, slots, avatar.width, avatar.height, video=video, layout="nv12")
    try:
        sessions = [worker.open(avatar, seed=slot) for slot in range(slots)]
        for session in sessions:
            session.push_audio(pcm, rate)
        for _ in range(10):
            worker.tick()
        took, encoding = [], []
        for _ in range(frames):
            start = time.perf_counter()
            made = worker.tick()
            failed = [r for r in made.values() if isinstance(r, BaseException)]
            took.append(1e3 * (time.perf_counter() - start))
            start = time.perf_counter()
            for session in sessions:
                frame = made[session.slot]
                if not isinstance(frame, BaseException):
                    session.encode(frame)
            encoding.append(1e3 * (time.perf_counter() - start) / slots)
            if failed:
                raise failed[0]
    finally:
        worker.close()
    return {
        "median_ms": round(statistics.median(took), 3),
        "p99_ms": round(float(np.percentile(took, 99)), 3),
        "encode_ms_a_frame": round(statistics.median(encoding), 3),
        "codec": sessions[0].codec,
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table, then one line of JSON, which is also written to a file."""
    parser = argparse.ArgumentParser(
        prog="visavis bench gpu_check", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("--out", type=Path, default=Path("runs/gpu-check.json"), metavar="FILE")
    parser.add_argument(
        "--frames", type=int, default=200, metavar="N", help="ticks timed for each number of sessions (200)"
    )
    parser.add_argument("--no-tests", action="store_true", help="only the timings")
    args = parser.parse_args(argv)
    if args.frames < 1:
        parser.error("--frames must be at least 1")
    from visavis import engine
    from visavis.benchmarks.roofline import GPUS, Scene, most_sessions, tick_of
    from visavis.engine.runtime import tensorrt_build
    from visavis.engine.runtime.gpu.cuda import CACHE, CudaDevice, missing
    from visavis.engine.video.generator import available

    why = missing()
    if why is not None:
        result: dict[str, Any] = {"benchmark": "gpu_check", "device": None, "why": why}
        print(f"NOT CHECKED: {why}")
        _write(args.out, result)
        return NO_DEVICE
    device = CudaDevice()
    weights = Path(str(engine.__file__)).parent / "weights"
    result = {"benchmark": "gpu_check", "device": device.name, "target": device.target}
    print(f"{device.name} ({device.target})\n")
    start = time.perf_counter()
    built = [
        tensorrt_build.build(path, CACHE, device.target, "fp16", trt=device.trt)
        for path in tensorrt_build.networks(weights)
    ]
    result["engines"] = {b.path.name: {"reused": b.reused, "seconds": round(b.seconds, 2)} for b in built}
    print(f"{len(built)} engines in {time.perf_counter() - start:.1f} s")
    good = True
    if not args.no_tests:
        result["tests"] = tests([], 900)
        print(f"pytest -m gpu: {result['tests']['said']}")
        good = result["tests"]["exit"] == 0
        result["sanitizer"] = sanitized(shutil.which("compute-sanitizer"))
        good = good and all(r["exit"] == 0 for r in result["sanitizer"].values())
    video = weights if available() else None
    print(f"\n{'sessions':>8} {'tick ms':>9} {'p99 ms':>9}   a tick may take 40 ms")
    result["ticks"] = {}
    for slots in (1, 2, 4, 8, 16, 32):
        row = result["ticks"][str(slots)] = ticks(device, slots, args.frames, video)
        print(f"{slots:8} {row['median_ms']:9.2f} {row['p99_ms']:9.2f}")
    named = next((g for g in GPUS if g.name.lower() in device.name.lower()), None)
    if named is not None:
        work = tick_of(weights, Scene(), 2)
        result["computed_sessions_at_25_fps"] = most_sessions(work, named)
        print(f"computed limit of this GPU: {result['computed_sessions_at_25_fps']} sessions at 25 fps")
    _write(args.out, result)
    return 0 if good else 1


def _write(path: Path, result: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    text = json.dumps(result)
    path.write_text(text + "\n")
    print(text)


if __name__ == "__main__":
    raise SystemExit(main())
