"""An hour of a call in a minute: session, publisher, tracks and encoders on a clock that jumps from event to event.

A microphone whose clock runs fast, whose packets come unevenly, in bursts after gaps; a frame clock that stalls now and then. What is real: the
engine's session with its resamplers, voice activity and pace, the publisher, both tracks, both encoders. What is not: the networks (a stand-in of
stage 1 and a small picture; their memory is the real soak's to watch), sockets, threads.
"""

from __future__ import annotations

import asyncio
import gc
import random
import selectors
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.benchmarks.viewers import Arrivals
from visavis.engine.motion.channels import FloatArray, zero_motion
from visavis.engine.session import Session
from visavis.engine.timing import PLAYBACK_RATE
from visavis.kernels import rgb_to_i420
from visavis.server.encoders import LowDelayVp8Encoder, MonoOpusEncoder
from visavis.server.publisher import FRAME_S, AvatarAudioTrack, AvatarVideoTrack, Pair, Publisher

BLOCK_S = 0.01
FAST_PPM = 120.0
"""How much faster than ours the microphone's clock runs."""
STALL_EVERY_S, GAP_EVERY_S = 45.0, 20.0
SIDE = 64


class VirtualLoop(asyncio.SelectorEventLoop):
    """Time passes when there is nothing to do, and as far as the next thing to do."""

    def __init__(self) -> None:
        loop = self
        self.now = 0.0

        class Selector(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> Any:
                events = super().select(0)
                if not events and timeout:
                    loop.now += timeout
                return events

        super().__init__(Selector())

    def time(self) -> float:
        return self.now


class _StandIn:
    """In the place of stage 1 and of the renderer."""

    lookahead = 2

    def __init__(self) -> None:
        self._picture = np.full((SIDE, SIDE, 3), 128, np.uint8)
        self._motion = zero_motion()

    def step(self, heard: FloatArray) -> FloatArray:
        return self._motion

    def hush(self) -> None:
        return

    def render(self, motion: FloatArray) -> npt.NDArray[np.uint8]:
        self._picture += 1
        return self._picture


def _microphone(seconds: float, rng: random.Random) -> Iterator[tuple[float, bytes]]:
    """(arrival, PCM16 of 10 ms at 48 kHz): words and pauses, jitter, and gaps whose packets all come at their end."""
    word = (np.random.default_rng(0).standard_normal(480) * 3000).astype("<i2").tobytes()
    pause = bytes(960)
    held_until, next_gap, last = 0.0, GAP_EVERY_S, 0.0
    for n in range(int(seconds / BLOCK_S)):
        at = n * BLOCK_S * (1 - FAST_PPM * 1e-6) + 0.003
        if at > next_gap:
            held_until, next_gap = at + rng.uniform(0.05, 0.3), at + rng.uniform(0.5, 1.5) * GAP_EVERY_S
        last = max(last, held_until, at + abs(rng.gauss(0, 0.003)))
        yield last, word if n % 240 < 140 else pause


async def _call(seconds: float, prints: list[dict[str, float]]) -> tuple[Arrivals, npt.NDArray[np.float64]]:
    loop, rng = asyncio.get_running_loop(), random.Random(1)
    stand_in = _StandIn()
    session = Session(None, renderer=stand_in, source=stand_in)
    publisher = Publisher(loop.time())
    subscription = publisher.subscribe()
    standing: list[float] = []
    rows: dict[str, list[tuple[float, float]]] = {"video": [], "audio": []}

    async def send(kind: str, track: Any, encoder: Any, rate: int) -> None:
        while True:
            _, stamp = encoder.encode(await track.recv())
            rows[kind].append((loop.time(), stamp / rate))

    senders = [
        asyncio.create_task(send("video", AvatarVideoTrack(subscription), LowDelayVp8Encoder(), 90_000)),
        asyncio.create_task(send("audio", AvatarAudioTrack(subscription), MonoOpusEncoder(), PLAYBACK_RATE)),
    ]
    await asyncio.sleep(0)
    microphone = _microphone(seconds, rng)
    at, data = next(microphone)
    tick, next_stall = 0, STALL_EVERY_S
    while tick * FRAME_S < seconds - 1:
        await asyncio.sleep(max(0.0, tick * FRAME_S + abs(rng.gauss(0, 0.002)) - loop.time()))
        if loop.time() > next_stall:  # as the worker's clock does: what was missed is left out
            await asyncio.sleep(rng.uniform(0.08, 0.6))
            next_stall = loop.time() + rng.uniform(0.5, 1.5) * STALL_EVERY_S
            tick = int(loop.time() / FRAME_S) + 1
            continue
        while at <= loop.time():
            session.push_audio(np.frombuffer(data, "<i2"), PLAYBACK_RATE, live=True)
            at, data = next(microphone)
        frame = session.step()
        standing.append(session.queued_seconds - session.lookahead * FRAME_S)
        await asyncio.sleep(abs(rng.gauss(0.012, 0.003)))  # what drawing takes
        publisher.publish(
            Pair(tick, tick * FRAME_S, rgb_to_i420(frame.image), frame.audio, frame.speech_index is not None)
        )
        tick += 1
        if tick % 7500 == 0:
            gc.collect()
            prints.append({"minute": loop.time() / 60, "memory": _resident()})
    for sender in senders:
        sender.cancel()
    await asyncio.gather(*senders, return_exceptions=True)
    session.close()
    publisher.close()
    return Arrivals(*(np.array(rows[kind]) for kind in ("video", "audio"))), np.array(standing)


def _resident() -> float:
    """Bytes of this process in memory (Linux)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * 4096.0


def measure(minutes: float) -> dict[str, Any]:
    """Figures of a call of so many minutes."""
    from visavis.benchmarks.soak import MIB, skews_ms

    prints: list[dict[str, float]] = []
    with asyncio.Runner(loop_factory=VirtualLoop) as runner:
        arrivals, standing = runner.run(_call(60 * minutes, prints))
    skew = skews_ms(arrivals)
    stamps = [np.diff(kind[:, 1]) for kind in (arrivals.video, arrivals.audio)]
    # what the arrivals themselves take: 48 bytes and some for each row
    kept = (len(arrivals.video) + len(arrivals.audio)) * 130.0 / max(1.0, minutes)
    grown = prints[-1]["memory"] - prints[0]["memory"] if prints else float("nan")
    spent = kept * (prints[-1]["minute"] - prints[0]["minute"]) if prints else 0.0
    late = standing[standing > 0]
    return {
        "benchmark": "soak",
        "virtual": True,
        "minutes": minutes,
        "frames": len(arrivals.video),
        "stamps_only_rise": bool(all((step > 0).all() for step in stamps)),
        "skew_p95_ms": round(float(np.percentile(np.abs(skew), 95)), 1),
        "skew_last_minute_ms": round(float(np.median(skew[-1500:])), 1),
        "sound_waiting_median_ms": round(float(np.median(late)) * 1000, 1),
        "sound_waiting_p95_ms": round(float(np.percentile(late, 95)) * 1000, 1),
        "sound_waiting_last_minute_ms": round(float(np.median(standing[-1500:])) * 1000, 1),
        "memory_growth_mib": round((grown - spent) / MIB, 1),
    }
