"""Speech to lips, measured in the browser: bursts of speech in silence go into headless Chromium's microphone, and the mouth's opening is
found in the frames that the page received.

    visavis bench latency --seconds 60

A server is started in a process of its own, as `visavis serve` would; two cores carry both it and the browser. Speech onsets are read off
the page's microphone track, lip onsets off landmarks of the received frames, both on the browser's clock. The last line is JSON:
frame rate, share of frames on time, first picture after the click, speech-to-lips, sound against picture.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import numpy as np
from visavis.benchmarks.browser import BrowserMissing, chromium
from visavis.benchmarks.browser_call import (
    FloatArray,
    Recording,
    lag_ms,
    onsets,
    record,
    save_strip,
    speech_to_lips_ms,
    start_call,
)
from visavis.benchmarks.latency_barge_in import barge_in_figures, barge_ins
from visavis.benchmarks.relay import LossyRelay

WARM_UP_S = 6.0
BURST_S, CYCLE_S = 0.56, 1.93
"""Bursts come every 1.93 s: not a multiple of a frame, so that they meet the clock at every phase."""
RATE = 48_000
INNER_LIPS = (13, 14)
BROW_CHIN = (10, 152)
UPSCALE = 2


def stimulus(path: Path, seconds: float = 60.0) -> None:
    """A WAV of speech bursts in silence: pieces of the shipped sample, each cut where a syllable begins that opens the mouth at once
    (by the engine's own network run offline: lips that are slow by nature would be taken for latency)."""
    import importlib.resources

    from visavis.clients.media import read_speech

    pcm, rate = read_speech(Path(str(importlib.resources.files("visavis.engine"))) / "assets" / "speech.wav")
    speech = np.interp(np.arange(0, len(pcm) / rate, 1 / RATE), np.arange(len(pcm)) / rate, pcm)
    length = int(BURST_S * RATE)
    fade = np.minimum(
        1.0, np.minimum(np.arange(length) / (0.004 * RATE), np.arange(length)[::-1] / (0.03 * RATE))
    )
    pieces: list[tuple[tuple[int, float], int, Any]] = []
    for begin in range(0, len(speech) - length, RATE // 20):
        piece = speech[begin : begin + length]
        onset = np.abs(piece[: RATE // 25]).mean()
        if onset > 0.6 * np.abs(piece).mean() and np.abs(piece).mean() > 0.5 * np.abs(speech).mean():
            piece = piece * fade * (12_000 / np.abs(piece).max())
            pieces.append((_opens_after(piece), len(pieces), piece))
    pieces.sort()
    out = np.zeros(int(seconds * RATE))
    for n, at in enumerate(np.arange(0.5, seconds - CYCLE_S, CYCLE_S)):
        out[int(at * RATE) :][:length] = pieces[n % min(4, len(pieces))][2]
    _write_wav(path, out.astype(np.int16))


def _opens_after(piece: Any) -> tuple[int, float]:
    """How many frames after a burst's onset the jaw has opened half its way, and minus that way; for sorting."""
    from visavis.engine.audio.resample import Resampler
    from visavis.engine.motion.channels import INDEX
    from visavis.engine.motion.speech import SpeechToFace

    network = SpeechToFace(lookahead=2)
    silence = np.zeros(16_000, np.float32)
    heard = np.concatenate(
        [silence, Resampler(RATE, 16_000).push((piece / 32768).astype(np.float32)), silence[:3200]]
    )
    jaw = np.array(
        [network.push(block)[INDEX["jawOpen"]] for block in heard[: len(heard) // 640 * 640].reshape(-1, 640)]
    )
    jaw = jaw[25 + network.lookahead :] - jaw[: 25 + network.lookahead].max()
    way = float(jaw.max())
    return int(np.argmax(jaw > 0.5 * way)), -way


def _write_wav(path: Path, pcm: Any) -> None:
    import wave

    with wave.open(str(path), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes(pcm.astype("<i2").tobytes())


@contextlib.asynccontextmanager
async def server_process(arguments: Sequence[str] = ()) -> AsyncIterator[tuple[str, int]]:
    """`visavis serve` on a free port, in a process of its own: (address, process id)."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "visavis.clients.cli",
        "serve",
        "--port",
        "0",
        *arguments,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None
    try:
        line = (await asyncio.wait_for(process.stdout.readline(), 60)).decode()
        if "http://" not in line:
            raise RuntimeError(f"the server did not start: {line!r}")
        yield "http" + line.split("http", 1)[1].split()[0].removeprefix("http"), process.pid
    finally:
        with contextlib.suppress(ProcessLookupError):
            process.terminate()
        try:
            await asyncio.wait_for(process.wait(), 10)
        except TimeoutError:
            process.kill()
            await process.wait()


def cpu_seconds(pid: int) -> float:
    """Processor time that a process and its living children have used (Linux; NaN elsewhere)."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        children = [
            int(child)
            for task in Path(f"/proc/{pid}/task").iterdir()
            for child in (task / "children").read_text().split()
        ]
    except OSError:
        return float("nan")
    own = (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return own + sum(seconds for seconds in map(cpu_seconds, children) if seconds == seconds)


@dataclass(frozen=True)
class Load:
    """Processor seconds used so far by the parts of a measurement and by everything else on the machine (Linux)."""

    server: float
    browser: float
    bench: float
    machine: float
    stolen: float
    """By other machines on the same hardware."""

    @classmethod
    def now(cls, server_pid: int, browser_pid: int) -> Load:
        server, browser = cpu_seconds(server_pid), cpu_seconds(browser_pid)
        bench = sum(os.times()[:2])
        try:
            fields = [int(x) for x in Path("/proc/stat").read_text().splitlines()[0].split()[1:]]
        except OSError:
            return cls(server, browser, bench, float("nan"), float("nan"))
        user, nice, system, _, _, irq, softirq, steal = (x / os.sysconf("SC_CLK_TCK") for x in fields[:8])
        return cls(server, browser, bench, user + nice + system + irq + softirq, steal)

    def since(self, before: Load, seconds: float) -> dict[str, float]:
        """Cores in use between two readings. Figures of a run whose `other` or `stolen` is large say little about the product."""
        spent = {
            name: (getattr(self, name) - getattr(before, name)) / seconds
            for name in ("server", "browser", "bench", "machine", "stolen")
        }
        spent["other"] = spent.pop("machine") - spent["server"] - spent["browser"] - spent.pop("bench")
        return {f"{name}_cores": round(cores, 3) for name, cores in spent.items()}


def face_box(picture: Any) -> tuple[float, float, float]:
    """Left, top and side of a square around the face, as shares of the shorter side of the picture (H, W, 3)."""
    from visavis.engine.body.detect import find_face

    marks = find_face(picture, None).landmarks[:468, :2]
    low, high = marks.min(axis=0), marks.max(axis=0)
    side = float((high - low).max() * 1.35)
    shorter = min(picture.shape[:2])
    x, y = ((low + high) / 2 - side / 2).clip(0, None)
    return float(x) / shorter, float(y) / shorter, min(side, shorter) / shorter


def lip_aperture(recording: Recording) -> FloatArray:
    """(T,) distance of the inner lips by the height of the face, from landmarks of each received frame (NaN filled in)."""
    import cv2
    from visavis.engine.body.detect import FaceTracker

    tracker = FaceTracker()
    face = None
    values = np.full(len(recording.crops), np.nan)
    for k, crop in enumerate(recording.crops):
        rgb = cv2.cvtColor(
            cv2.resize(crop, None, fx=UPSCALE, fy=UPSCALE, interpolation=cv2.INTER_CUBIC), cv2.COLOR_GRAY2RGB
        )
        face = (tracker.track(rgb, face) if face is not None else None) or tracker.detect(rgb)
        if face is None:
            continue
        marks = face.landmarks[:, :2]
        upper, lower = (marks[i] for i in INNER_LIPS)
        top, chin = (marks[i] for i in BROW_CHIN)
        values[k] = np.linalg.norm(lower - upper) / np.linalg.norm(chin - top)
    good = np.isfinite(values)
    if good.sum() < 2:
        raise RuntimeError("no face was found in the received frames")
    return np.interp(np.arange(len(values)), np.flatnonzero(good), values[good])


def analyse(recording: Recording, aperture: FloatArray) -> dict[str, Any]:
    """The figures of one recording."""
    times, levels = recording.microphone.T
    loud = np.percentile(levels, 97)
    spoken = onsets(times, levels, 0.06 * loud, 0.3 * loud, 0.5)
    rest, wide = np.percentile(aperture, 20), np.percentile(aperture, 97)
    lips = onsets(recording.shown, aperture, rest + 0.12 * (wide - rest), rest + 0.35 * (wide - rest), 0.3)
    delays = speech_to_lips_ms(spoken, lips)
    lag, agreement = lag_ms(times, levels, recording.shown, aperture)
    skew = recording.skew_ms()
    last = [row["video"] for row in recording.stats if "video" in row][-1]
    return {
        "seconds": round(recording.seconds, 1),
        "fps": round((len(recording.rtp) - 1) / float(recording.rtp[-1] - recording.rtp[0]), 2),
        "on_time": round(recording.on_time_share(), 4),
        "frames_received": last.get("received"),
        "freezes": last.get("freezes"),
        "frozen_share": round(recording.frozen_share(), 4),
        "bursts": len(spoken),
        "bursts_answered": len(delays),
        "speech_to_lips_ms": round(float(np.median(delays)), 1) if len(delays) else None,
        "speech_to_lips_p95_ms": round(float(np.percentile(delays, 95)), 1) if len(delays) else None,
        "lag_by_correlation_ms": round(lag, 1),
        "correlation": round(agreement, 3),
        "way_ms": {name: round(ms, 1) for name, ms in recording.way_ms().items()},
        "sound_after_picture_ms": round(float(np.median(skew)), 1) if len(skew) else None,
        "sound_against_picture_p95_ms": round(float(np.percentile(np.abs(skew), 95)), 1)
        if len(skew)
        else None,
    }


def draw_stages(stages: dict[str, float], path: Path) -> None:
    """A stacked bar of the stages (ms by name), as PNG."""
    import colorsys

    from PIL import Image, ImageDraw, ImageFont

    width, height, left, bar = 1200, 260, 30, 70
    total = sum(max(0.0, ms) for ms in stages.values())
    image = Image.new("RGB", (width, height), "white")
    draw, font = ImageDraw.Draw(image), ImageFont.load_default(15)
    draw.text(
        (left, 14),
        f"speech to lips, median: {sum(stages.values()):.0f} ms",
        "black",
        ImageFont.load_default(20),
    )
    x = float(left)
    for k, (name, ms) in enumerate(stages.items()):
        colour = tuple(round(255 * c) for c in colorsys.hls_to_rgb(k / len(stages), 0.6, 0.6))
        end = x + max(0.0, ms) / total * (width - 2 * left)
        draw.rectangle((x, 50, end, 50 + bar), fill=colour)
        x = end
        column, row = divmod(k, 5)
        at = (left + column * 390, 136 + row * 23)
        draw.rectangle((*at, at[0] + 14, at[1] + 14), fill=colour)
        draw.text((at[0] + 22, at[1] - 2), f"{name}: {ms:.1f} ms", "black", font)
    image.save(path)


async def _measure(args: argparse.Namespace) -> dict[str, Any]:
    import cv2

    with tempfile.TemporaryDirectory(prefix="visavis-latency-") as folder:
        speech = Path(folder) / "bursts.wav"
        stimulus(speech)
        async with contextlib.AsyncExitStack() as stack:
            serve = ["--lookahead", str(args.lookahead), "--size", str(args.size)]
            if args.no_generator:
                serve.append("--no-generator")
            if args.avatar:
                serve += ["--no-demo", "--avatar", str(args.avatar)]
            url, pid = await stack.enter_async_context(server_process(serve))
            image = cv2.imdecode(np.frombuffer(await picture_of(url), np.uint8), cv2.IMREAD_COLOR)
            if image is None:
                raise RuntimeError("the server's picture of the person cannot be read")
            box = face_box(image[:, :, ::-1].copy())
            page = await stack.enter_async_context(chromium(speech))
            relay = None
            if args.loss or args.jitter_ms:
                relay = LossyRelay(loss=args.loss / 100, jitter_s=args.jitter_ms / 1000)
                stack.callback(relay.close)
            first = await start_call(page, url + "/", "mic", relay)
            await asyncio.sleep(WARM_UP_S)
            before, load = await server_metrics(url), Load.now(pid, page.pid)
            recording = await record(page, args.seconds, box)
            cores = Load.now(pid, page.pid).since(load, args.seconds)
            after = await server_metrics(url)
            stages = await page.evaluate("visavis.call.breakdown()")
            stopped = None
            if args.barge_ins:
                stopped = await barge_ins(page, args.barge_ins, box)
            await page.evaluate("document.getElementById('call').click()")
    result = {"benchmark": "latency", "first_picture_ms": round(first * 1000, 1)}
    aperture = lip_aperture(recording)
    result |= analyse(recording, aperture)
    if stages and result["speech_to_lips_ms"] is not None:
        shares = {name: round(ms, 1) for name, ms in stages}
        # what neither the server nor the browser can see: capture, the lips' own way, drawing
        rest = result["speech_to_lips_ms"] - sum(ms for _, ms in stages)
        shares["capture, lips, screen"] = round(rest, 1)
        result["stages_ms"] = shares
        if args.plot:
            draw_stages(shares, args.plot)
    if stopped is not None:
        result |= barge_in_figures(*stopped, lip_aperture)
    result |= cores
    passed = {name: after[name] - before[name] for name in after}
    frames = max(1.0, passed["visavis_frames_total"])
    result["server_step_ms"] = round(1000 * passed["visavis_step_seconds_sum"] / frames, 2)
    result["server_encode_ms"] = round(1000 * passed["visavis_encode_seconds_sum"] / frames, 2)
    result["server_late_frames"] = int(passed["visavis_late_frames_total"])
    result["server_reduced_frames"] = int(passed["visavis_reduced_frames_total"])
    result["server_repeated_frames"] = int(passed["visavis_repeated_frames_total"])
    if args.strip:
        save_strip(recording, args.strip)
    if args.curves:
        with args.curves.open("wb") as file:
            np.savez(
                file,
                shown=recording.shown,
                rtp=recording.rtp,
                aperture=aperture,
                microphone=recording.microphone,
                voice=recording.voice,
            )
    return result


async def server_metrics(url: str) -> dict[str, float]:
    """The server's counters by name."""
    async with aiohttp.ClientSession() as http, http.get(url + "/metrics") as response:
        lines = (await response.text()).splitlines()
    return {
        name: float(value)
        for name, value in (line.rsplit(" ", 1) for line in lines if line[:1] not in ("#", ""))
    }


async def picture_of(url: str) -> bytes:
    """The first person that the server offers, at rest, once it is ready."""
    async with aiohttp.ClientSession() as http:
        for _ in range(400):
            async with http.get(url + "/v1/avatars") as response:
                person = (await response.json())["avatars"][0]
            if person["state"] == "failed":
                raise RuntimeError(f"the person could not be prepared: {person['error']['message']}")
            if person["state"] == "ready":
                async with http.get(f"{url}/v1/avatars/{person['id']}/picture") as response:
                    return await response.read()
            await asyncio.sleep(0.3)
    raise RuntimeError("the person was not ready within two minutes")


def main(argv: Sequence[str] | None = None) -> int:
    """Command line; see the module's text."""
    parser = argparse.ArgumentParser(
        prog="visavis bench latency",
        description="Frame rate, speech-to-lips and audio-video offset of a call in headless Chromium.",
        epilog="example: visavis bench latency --seconds 60",
    )
    parser.add_argument(
        "--seconds", type=float, default=60.0, help="length of the measured part of the call (default: 60)"
    )
    parser.add_argument(
        "--lookahead", type=int, default=2, choices=(0, 1, 2), help="frames of look-ahead (default: 2)"
    )
    parser.add_argument("--size", type=int, default=512, help="side of the video in pixels (default: 512)")
    parser.add_argument(
        "--avatar", type=Path, metavar="A.avatar|PHOTO", help="whom to show (default: the demo person)"
    )
    parser.add_argument(
        "--loss",
        type=float,
        default=0.0,
        help="lose this share of all packets, both ways, in %% (default: 0)",
    )
    parser.add_argument(
        "--jitter-ms", type=float, default=0.0, help="delay packets by up to this much (default: 0)"
    )
    parser.add_argument("--no-generator", action="store_true", help="reduced quality: the moved photo alone")
    parser.add_argument(
        "--strip", type=Path, metavar="PNG", help="write a strip of received frames to look at"
    )
    parser.add_argument(
        "--barge-ins", type=int, default=8, help="how often speech is stopped in its middle (default: 8)"
    )
    parser.add_argument("--plot", type=Path, metavar="PNG", help="draw each stage's share of the latency")
    parser.add_argument("--curves", type=Path, metavar="NPZ", help="write the measured curves")
    args = parser.parse_args(argv)
    if not 0 <= args.loss <= 50 or not 0 <= args.jitter_ms <= 2000:
        parser.error("--loss goes from 0 to 50, --jitter-ms from 0 to 2000")
    if not 5 <= args.seconds <= 140:
        parser.error(f"--seconds {args.seconds:g} must be from 5 to 140")
    try:
        result = asyncio.run(_measure(args))
    except BrowserMissing as error:
        print(f"visavis bench latency: {error}", file=sys.stderr)
        return 2
    for key, value in result.items():
        print(f"{key:>30}  {value}")
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
