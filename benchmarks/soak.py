"""A long call: does sound stay with picture, and does the server stay as large as it was?

    visavis bench soak --minutes 60
    visavis bench soak --minutes 60 --virtual

A server in processes of its own, one caller whose speech comes in bursts, with long silences, gaps and bursts faster than real time. Every ten seconds
memory, handles and threads of the server's processes are read; skew is how much later picture than sound arrives, against its median at the
start. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import importlib.resources
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.benchmarks.latency import picture_of, server_process
from visavis.benchmarks.viewers import Arrivals, Viewer
from visavis.clients.client import Client, RemoteSession
from visavis.clients.media import read_speech

SAMPLE_S = 10.0
WARM_S = 60.0
"""Memory is compared with what it was after this long: the first minute fills caches."""
MIB = 1 << 20


def processes(pid: int) -> list[int]:
    """A process and all its descendants (Linux)."""
    children = [
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    ]
    return [pid, *(found for child in children for found in processes(child))]


def footprint(pid: int) -> dict[str, float]:
    """Resident memory in bytes, the part of it that no file backs, file handles and threads of a process and its descendants."""
    total = {"memory": 0.0, "own": 0.0, "handles": 0.0, "threads": 0.0}
    for found in processes(pid):
        with contextlib.suppress(OSError):
            status = dict(
                line.split(":", 1)
                for line in Path(f"/proc/{found}/status").read_text().splitlines()
                if ":" in line
            )
            total["memory"] += float(status["VmRSS"].split()[0]) * 1024
            total["own"] += float(status["RssAnon"].split()[0]) * 1024
            total["threads"] += float(status["Threads"])
            total["handles"] += len(list(Path(f"/proc/{found}/fd").iterdir()))
    return total


async def _speak(session: RemoteSession) -> None:
    """Bursts at once, words at their pace, long silences, in turn."""
    path = Path(str(importlib.resources.files("visavis.engine"))) / "assets" / "speech.wav"
    pcm, rate = read_speech(path)
    data = pcm.astype("<i2").tobytes()
    await session.connect_audio(rate)
    while True:
        await session.push(data)
        await session.commit()
        await asyncio.sleep(len(pcm) / rate + 2)
        for start in range(0, len(data), rate // 5):  # blocks of 100 ms with a gap now and then
            await session.push(data[start : start + rate // 5 // 2 * 2])
            await asyncio.sleep(0.1 if start % (7 * (rate // 5)) else 0.4)
        await session.clear()
        await asyncio.sleep(20)


def skews_ms(arrivals: Arrivals) -> npt.NDArray[np.float64]:
    """How much later each frame arrived than the sound of its moment, against the median of the first minute (T,)."""
    video, audio = arrivals.video, arrivals.audio
    late = video[:, 0] - video[:, 1] - np.interp(video[:, 0], audio[:, 0], audio[:, 0] - audio[:, 1])
    early = late[video[:, 0] < video[0, 0] + 60]
    return (late - np.median(early)) * 1000


async def _measure(args: argparse.Namespace) -> dict[str, Any]:
    arguments = ["--max-minutes", "0"]
    if args.avatar:
        arguments += ["--no-demo", "--avatar", str(args.avatar)]
    prints: list[dict[str, float]] = []
    async with server_process(arguments) as (url, pid):
        await picture_of(url)
        async with Client(url) as client:
            session = await client.session(str((await client.avatars())[0]["id"]))
            viewer = Viewer()
            await viewer.connect(session.offer)
            speaking = asyncio.create_task(_speak(session))
            began = time.monotonic()
            try:
                while (passed := time.monotonic() - began) < 60 * args.minutes:
                    await asyncio.sleep(min(SAMPLE_S, 60 * args.minutes - passed))
                    if speaking.done():
                        speaking.result()
                    prints.append({"at": time.monotonic() - began, **footprint(pid)})
                    if len(prints) % 6 == 0:
                        print(f"{passed / 60:5.1f} min  {prints[-1]['memory'] / MIB:.0f} MiB", flush=True)
            finally:
                speaking.cancel()
                await asyncio.gather(speaking, return_exceptions=True)
                arrivals = viewer.arrivals()
                await viewer.close()
    skew = skews_ms(arrivals)
    first = next((p for p in prints if p["at"] > WARM_S), prints[0])
    gaps = np.diff(arrivals.video[:, 0])
    return {
        "benchmark": "soak",
        "minutes": args.minutes,
        "frames": len(arrivals.video),
        "skew_p95_ms": round(float(np.percentile(np.abs(skew), 95)), 1),
        "skew_last_minute_ms": round(float(np.median(skew[-1500:])), 1),
        "frozen_share": round(float(gaps[gaps > 0.2].sum() / gaps.sum()), 5),
        "memory_mib": round(prints[-1]["memory"] / MIB, 1),
        "memory_growth_mib": round((prints[-1]["memory"] - first["memory"]) / MIB, 1),
        "own_memory_growth_mib": round((prints[-1]["own"] - first["own"]) / MIB, 1),
        "handles_growth": int(prints[-1]["handles"] - first["handles"]),
        "threads_growth": int(prints[-1]["threads"] - first["threads"]),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="visavis bench soak",
        description="A long call: skew of sound and picture, growth of the server.",
        epilog="example: visavis bench soak --minutes 60",
    )
    parser.add_argument("--minutes", type=float, default=60.0, help="length of the call (default: 60)")
    parser.add_argument(
        "--avatar", type=Path, metavar="A.avatar|PHOTO", help="whom to show (default: the demo person)"
    )
    parser.add_argument(
        "--virtual",
        action="store_true",
        help="session, publisher, tracks and encoders on a clock that jumps: an hour in a few minutes",
    )
    args = parser.parse_args(argv)
    if not 0.5 <= args.minutes <= 24 * 60:
        parser.error(f"--minutes {args.minutes:g} must be from 0.5 to {24 * 60}")
    if args.virtual:
        from visavis.benchmarks.soak_virtual import measure

        result = measure(args.minutes)
    else:
        result = asyncio.run(_measure(args))
    for key, value in result.items():
        print(f"{key:>22}  {value}")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
