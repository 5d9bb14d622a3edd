"""How many sessions one machine carries before frames come late; and the transport against others that do the same job.

    visavis bench throughput
    visavis bench throughput --peers --peer-python PEERS/bin/python

Sessions are added one by one, each spoken to and watched by a peer that counts whole frames instead of decoding them, until fewer than 99 % of
all frames come on time or the server says that it is full. With `--peers` the same picture is streamed by this server, by a bare aiortc track
as its examples have it, and by FastRTC and Pipecat where PEER-PYTHON has them (`pip install aiohttp fastrtc "pipecat-ai[webrtc]"`): processor time a
stream, latency from the clock painted into the picture, drift of sound against picture. The last line is JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import socket
import sys
import time
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from visavis.benchmarks.latency import cpu_seconds, picture_of, server_metrics, server_process
from visavis.benchmarks.viewers import Negotiate, Viewer
from visavis.clients.client import Client, ClientError, RemoteSession
from visavis.clients.media import read_speech

SETTLE_S, MEASURE_S = 3.0, 6.0
ENOUGH = 0.99
PEERS = ("bare", "fastrtc", "pipecat")


def _whep(session: RemoteSession) -> Negotiate:
    return session.offer


async def _speak(session: RemoteSession) -> None:
    """Keep the session speaking."""
    import importlib.resources

    path = Path(str(importlib.resources.files("visavis.engine"))) / "assets" / "speech.wav"
    pcm, rate = read_speech(path)
    await session.connect_audio(rate)
    with contextlib.suppress(ConnectionError):  # the server ends first
        while True:
            await session.push(pcm.astype("<i2").tobytes())
            await asyncio.sleep(len(pcm) / rate)


async def sessions_until_late(
    avatar: Path | None, most: int, generator: bool, workers: int
) -> dict[str, Any]:
    """Add sessions until frames come late or the server refuses."""
    arguments = [
        "--sessions",
        str(most),
        "--workers",
        str(workers),
        *([] if generator else ["--no-generator"]),
    ]
    if avatar is not None:
        arguments += ["--no-demo", "--avatar", str(avatar)]
    rows: list[dict[str, Any]] = []
    full = False
    async with server_process(arguments) as (url, pid):
        await picture_of(url)
        viewers: list[Viewer] = []
        tasks: list[asyncio.Task[None]] = []
        async with Client(url) as client:
            person = str((await client.avatars())[0]["id"])
            try:
                while len(viewers) < most:
                    try:
                        session = await client.session(person, seed=len(viewers))
                    except ClientError as error:
                        full = error.code == "busy"
                        break
                    viewer = Viewer()
                    await viewer.connect(_whep(session))
                    viewers.append(viewer)
                    tasks.append(asyncio.create_task(_speak(session)))
                    await asyncio.sleep(SETTLE_S)
                    before = await server_metrics(url)
                    since, used = time.monotonic(), cpu_seconds(pid)
                    await asyncio.sleep(MEASURE_S)
                    until, used = time.monotonic(), cpu_seconds(pid) - used
                    after = await server_metrics(url)
                    made, reduced = (
                        after[name] - before[name]
                        for name in ("visavis_frames_total", "visavis_reduced_frames_total")
                    )
                    share = float(np.mean([v.arrivals().on_time(since, until) for v in viewers]))
                    rows.append(
                        {
                            "sessions": len(viewers),
                            "on_time": round(share, 4),
                            "cores": round(used / (until - since), 3),
                            "reduced": round(reduced / max(1.0, made), 3),
                        }
                    )
                    print(
                        f"{len(viewers):3d} sessions: {100 * share:.1f} % on time, {rows[-1]['cores']:.2f} cores, "
                        f"{100 * rows[-1]['reduced']:.0f} % without the video network"
                    )
                    if share < ENOUGH:
                        break
            finally:
                for task in tasks:
                    task.cancel()
                await asyncio.gather(*tasks, return_exceptions=True)
                await asyncio.gather(*(viewer.close() for viewer in viewers))
    good = [row["sessions"] for row in rows if row["on_time"] >= ENOUGH]
    return {"sessions_on_time": max(good, default=0), "server_full": full, "steps": rows}


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return int(sock.getsockname()[1])


@contextlib.asynccontextmanager
async def _process(*command: str) -> AsyncIterator[int]:
    """A server that prints "ready": its process id."""
    process = await asyncio.create_subprocess_exec(
        *command, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE
    )
    assert process.stdout is not None and process.stderr is not None
    stderr = asyncio.create_task(process.stderr.read())
    try:
        while b"ready" not in (line := await asyncio.wait_for(process.stdout.readline(), 120)):
            if not line:
                raise RuntimeError((await stderr).decode()[-300:].strip().splitlines()[-1])
        yield process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
        stderr.cancel()


async def _stream_figures(
    pid: int, negotiate: Negotiate, streams: int, seconds: float, **offered: bool
) -> dict[str, Any]:
    """Processor time a stream, latency and drift of a server that is up."""
    viewers = [Viewer() for _ in range(streams)]
    reader = Viewer()
    try:
        for viewer in viewers:
            await viewer.connect(negotiate, **offered)
        await asyncio.sleep(SETTLE_S)
        since, used = time.monotonic(), cpu_seconds(pid)
        await asyncio.sleep(seconds)
        until, used = time.monotonic(), cpu_seconds(pid) - used
        arrivals = [viewer.arrivals() for viewer in viewers]
        # latency apart, by a viewer that decodes: decoding costs more than sending
        for viewer in viewers:
            await viewer.close()
        await reader.connect(negotiate, **offered, decode=True)
        await asyncio.sleep(SETTLE_S)
        reader.latencies.clear()
        await asyncio.sleep(seconds / 2)
        drifts = [abs(arrival.drift_ms()) for arrival in arrivals]
        return {
            "cores_per_stream": round(used / (until - since) / streams, 4),
            "on_time": round(float(np.mean([a.on_time(since, until) for a in arrivals])), 4),
            "latency_ms": round(float(np.median(reader.latencies)), 1),
            "latency_p95_ms": round(float(np.percentile(reader.latencies, 95)), 1),
            "drift_ms": round(float(np.nanmean(drifts)), 1) if np.isfinite(drifts).any() else None,
        }
    finally:
        for viewer in [*viewers, reader]:
            await viewer.close()


async def transport(python: str, streams: int, seconds: float) -> dict[str, Any]:
    """This server and its peers, one after another, in one run."""
    from visavis.server.engines import VisavisEngine

    photo = VisavisEngine().demo_photo()
    assert photo is not None
    results: dict[str, Any] = {}
    async with aiohttp.ClientSession() as http:
        port = _free_port()
        url = f"http://127.0.0.1:{port}"

        async def ours(sdp: str) -> str:
            body = {"avatar": "demo"}
            for _ in range(100):
                async with http.post(f"{url}/v1/sessions", json=body) as response:
                    info = await response.json()
                if response.status == 201:
                    break
                await asyncio.sleep(0.3)
            key = {"Authorization": f"Bearer {info['token']}"}
            async with http.post(
                url + info["offer"], json={"type": "offer", "sdp": sdp}, headers=key
            ) as response:
                return str((await response.json())["sdp"])

        async with _process(sys.executable, "-m", "visavis.benchmarks.clip_engine", str(port)) as pid:
            results["visavis"] = await _stream_figures(pid, ours, streams, seconds)
        script = str(Path(__file__).with_name("throughput_peers.py"))
        for name in PEERS:
            port = _free_port()

            async def theirs(sdp: str, port: int = port) -> str:
                body = {"sdp": sdp, "type": "offer"}
                async with http.post(f"http://127.0.0.1:{port}/offer", json=body) as response:
                    return str((await response.json())["sdp"])

            try:
                # the bare track on the very aiortc that this server uses
                interpreter = sys.executable if name == "bare" else python
                async with _process(interpreter, script, name, str(port), str(photo)) as pid:
                    results[name] = await _stream_figures(
                        pid, theirs, streams, seconds, send=name != "bare", camera=name == "fastrtc"
                    )
            except Exception as error:  # a peer that is not there or does not work is told, not hidden
                results[name] = {"error": f"{type(error).__name__}: {error}"[:200]}
    return results


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="visavis bench throughput",
        description="Sessions that one machine carries; the transport against its peers.",
        epilog="example: visavis bench throughput --peers --peer-python ~/peers/bin/python",
    )
    parser.add_argument("--most", type=int, default=12, help="sessions to try at most (default: 12)")
    parser.add_argument(
        "--avatar", type=Path, metavar="A.avatar|PHOTO", help="whom to show (default: the demo person)"
    )
    parser.add_argument("--no-generator", action="store_true", help="reduced quality: the moved photo alone")
    parser.add_argument("--workers", type=int, default=1, help="of the server (default: 1)")
    parser.add_argument(
        "--peers", action="store_true", help="measure the transport against its peers instead"
    )
    parser.add_argument(
        "--peer-python", default=sys.executable, metavar="PYTHON", help="where peers are installed"
    )
    parser.add_argument("--streams", type=int, default=2, help="streams of each server (default: 2)")
    parser.add_argument(
        "--seconds", type=float, default=12.0, help="length of each measurement (default: 12)"
    )
    args = parser.parse_args(argv)
    if not 1 <= args.most <= 200 or not 1 <= args.streams <= 50 or not 4 <= args.seconds <= 300:
        parser.error("--most goes from 1 to 200, --streams from 1 to 50, --seconds from 4 to 300")
    if args.peers:
        result: dict[str, Any] = asyncio.run(transport(args.peer_python, args.streams, args.seconds))
        for name, row in result.items():
            print(f"{name:>10}  " + "  ".join(f"{key} {value}" for key, value in row.items()))
    else:
        result = asyncio.run(sessions_until_late(args.avatar, args.most, not args.no_generator, args.workers))
    print(json.dumps({"benchmark": "throughput", **result}))
    return 0


if __name__ == "__main__":
    sys.exit(main())
