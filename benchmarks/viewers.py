"""Viewers that cost little: aiortc peers that count frames instead of decoding them, and one that reads the time painted into them."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

import aiortc.rtcrtpreceiver
import av
import numpy as np
import numpy.typing as npt
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.codecs import get_decoder
from aiortc.codecs.base import Decoder
from aiortc.mediastreams import AudioStreamTrack, MediaStreamError, VideoStreamTrack

BITS, CELL = 24, 16
"""The clock in milliseconds, modulo 2^24, as black and white cells of 16 pixels along the top of the picture."""
VIDEO_CLOCK, AUDIO_CLOCK = 90_000, 48_000

Negotiate = Callable[[str], Awaitable[str]]
"""SDP offer to SDP answer."""


def paint_clock(image: npt.NDArray[np.uint8], now_ms: int) -> None:
    """Write the time into an image (H, W, 3) of at least 24 x 16 pixels' width."""
    for bit in range(BITS):
        image[:CELL, bit * CELL : (bit + 1) * CELL] = 255 if now_ms >> bit & 1 else 0


def read_clock(luma: npt.NDArray[np.uint8]) -> int:
    """The time painted into a picture, from its brightness (H, W)."""
    half = CELL // 2
    return sum(int(luma[half, bit * CELL + half] > 127) << bit for bit in range(BITS))


def clock_ms() -> int:
    """The clock that is painted."""
    return int(time.monotonic() * 1000) % (1 << BITS)


class CountingDecoder(Decoder):
    """In the place of a decoder: notes when each frame was whole, and its stamp."""

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def decode(self, encoded_frame: Any) -> list[Any]:
        """Takes a whole encoded frame; gives none out."""
        CURRENT.setdefault(id(self), (self._kind, []))[1].append((time.monotonic(), encoded_frame.timestamp))
        return []


CURRENT: dict[int, tuple[str, list[tuple[float, int]]]] = {}
"""Arrivals of all counting decoders, in the order in which they were made."""


def count_only(on: bool) -> None:
    """Make aiortc's receivers count frames instead of decoding them, from the next connection on."""

    def counting(codec: Any) -> Decoder:
        return CountingDecoder(codec.mimeType.split("/")[0])

    aiortc.rtcrtpreceiver.get_decoder = counting if on else get_decoder


class TinyCamera(VideoStreamTrack):
    """A small black picture twice a second, for servers that show nothing to who shows nothing."""

    async def recv(self) -> av.VideoFrame:
        pts, time_base = await self.next_timestamp()
        await asyncio.sleep(0.5)
        frame = av.VideoFrame(64, 64, "yuv420p")
        for plane in frame.planes:
            plane.update(bytes(plane.buffer_size))
        frame.pts, frame.time_base = pts, time_base
        return frame


@dataclass
class Arrivals:
    """Frames of one viewer: (time, stamp in seconds since the first)."""

    video: npt.NDArray[np.float64]
    audio: npt.NDArray[np.float64]

    def on_time(self, since: float, until: float, fps: float = 25.0) -> float:
        """Share of the frames due in a span that came within a frame time of their place on the beat."""
        span = self.video[(self.video[:, 0] >= since) & (self.video[:, 0] < until)]
        if len(span) < 2:
            return 0.0
        delay = span[:, 0] - span[:, 1]
        good = int(np.sum(delay - np.median(delay) <= 1 / fps))
        return min(1.0, good / ((until - since) * fps))

    def drift_ms(self) -> float:
        """How far audio and video stamps came apart over the run, against the time of their arrival."""
        if min(len(self.video), len(self.audio)) < 50:
            return float("nan")
        slope = [np.polyfit(kind[:, 0] - kind[0, 0], kind[:, 1], 1)[0] for kind in (self.video, self.audio)]
        return float((slope[0] - slope[1]) * (self.video[-1, 0] - self.video[0, 0]) * 1000)


def unwrap(rows: list[tuple[float, int]], clock: int) -> npt.NDArray[np.float64]:
    """Arrival rows with 32-bit stamps as seconds since the first."""
    data = np.array(rows, np.float64).reshape(-1, 2)
    if len(data):
        data[:, 1] = np.unwrap(data[:, 1], period=2.0**32)
        data[:, 1] = (data[:, 1] - data[0, 1]) / clock
    return data


@dataclass(eq=False)
class Viewer:
    """One peer that watches and listens."""

    pc: RTCPeerConnection = field(default_factory=lambda: RTCPeerConnection(RTCConfiguration([])))
    latencies: list[float] = field(default_factory=list)
    """Milliseconds from the painted clock to the decoded frame, where this viewer decodes."""
    _tasks: list[asyncio.Task[None]] = field(default_factory=list)
    _keys: list[int] = field(default_factory=list)

    async def connect(
        self, negotiate: Negotiate, *, send: bool = False, camera: bool = False, decode: bool = False
    ) -> None:
        """Offer, and take the answer. `send` offers silence as a microphone and `camera` a picture and a data channel, which some servers
        wait for."""
        if send:
            self.pc.addTrack(AudioStreamTrack())
        else:
            self.pc.addTransceiver("audio", direction="recvonly")
        if camera:
            self.pc.addTrack(TinyCamera())
            self.pc.createDataChannel("text")
        else:
            self.pc.addTransceiver("video", direction="recvonly")
        await self.pc.setLocalDescription(await self.pc.createOffer())
        count_only(not decode)
        before = set(CURRENT)
        answer = await negotiate(self.pc.localDescription.sdp)
        await self.pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        for transceiver in self.pc.getTransceivers():
            self._tasks.append(asyncio.create_task(self._drain(transceiver.receiver.track, decode)))
        deadline = time.monotonic() + 20
        while self.pc.connectionState != "connected":
            if time.monotonic() > deadline:
                raise RuntimeError("no connection within 20 s")
            await asyncio.sleep(0.02)
        while not decode and len(set(CURRENT) - before) < 2:
            if time.monotonic() > deadline:
                raise RuntimeError("no picture and sound within 20 s")
            await asyncio.sleep(0.02)
        self._keys = sorted(set(CURRENT) - before, key=list(CURRENT).index)

    async def _drain(self, track: Any, decode: bool) -> None:
        try:
            while True:
                frame = await track.recv()
                if decode and track.kind == "video":
                    painted = read_clock(frame.to_ndarray(format="gray"))
                    self.latencies.append(float((clock_ms() - painted) % (1 << BITS)))
        except MediaStreamError:
            return

    def arrivals(self) -> Arrivals:
        """What came so far."""
        rows: dict[str, list[tuple[float, int]]] = {"video": [], "audio": []}
        for key in self._keys:
            kind, seen = CURRENT[key]
            rows[kind] = list(seen)
        return Arrivals(unwrap(rows["video"], VIDEO_CLOCK), unwrap(rows["audio"], AUDIO_CLOCK))

    async def close(self) -> None:
        """Hang up."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.pc.close()
        for key in self._keys:
            CURRENT.pop(key, None)
