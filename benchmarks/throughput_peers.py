"""Servers that do the same job as ours, as small as their own examples: python throughput_peers.py NAME PORT PHOTO.

Run in an environment where the peer is installed; nothing of visavis is imported. Each answers POST /offer {sdp, type} with its answer and
streams the same moving picture, 25 times a second, with the clock painted into it, and a tone.
"""

from __future__ import annotations

import asyncio
import fractions
import sys
import time
from typing import Any

import av
import numpy as np
from aiohttp import web

FPS, RATE, BITS, CELL = 25, 48_000, 24, 16
STEP = RATE // 50


class Picture:
    """The picture at this moment."""

    def __init__(self, path: str) -> None:
        with av.open(path) as file:
            photo = next(file.decode(video=0)).reformat(512, 512, "rgb24").to_ndarray()
        self._frames = [
            np.ascontiguousarray(np.roll(photo, round(6 * np.sin(k / 4)), axis=1)) for k in range(50)
        ]
        self._n = 0

    def next(self) -> Any:
        """(512, 512, 3) RGB, the clock in its top row of cells."""
        image = self._frames[self._n % 50]
        self._n += 1
        now = int(time.monotonic() * 1000) % (1 << BITS)
        for bit in range(BITS):
            image[:CELL, bit * CELL : (bit + 1) * CELL] = 255 if now >> bit & 1 else 0
        return image


def tone(k: int) -> Any:
    """Block k of 20 ms of a tone, int16."""
    return (3000 * np.sin(2 * np.pi * 220 * (np.arange(STEP) + k * STEP) / RATE)).astype(np.int16)


def bare(photo: str) -> Any:
    """aiortc, with two tracks as its examples have them."""
    from aiortc import MediaStreamTrack, RTCConfiguration, RTCPeerConnection, RTCSessionDescription

    peers = set()

    class Video(MediaStreamTrack):
        kind = "video"

        def __init__(self) -> None:
            super().__init__()
            self._picture, self._n = Picture(photo), 0
            self._start: float | None = None

        async def recv(self) -> Any:
            if self._start is None:
                self._start = time.time()
            await asyncio.sleep(max(0.0, self._start + self._n / FPS - time.time()))
            frame = av.VideoFrame.from_ndarray(self._picture.next(), format="rgb24")
            frame.pts, frame.time_base = self._n * 90_000 // FPS, fractions.Fraction(1, 90_000)
            self._n += 1
            return frame

    class Audio(MediaStreamTrack):
        kind = "audio"

        def __init__(self) -> None:
            super().__init__()
            self._n = 0
            self._start: float | None = None

        async def recv(self) -> Any:
            if self._start is None:
                self._start = time.time()
            await asyncio.sleep(max(0.0, self._start + self._n / 50 - time.time()))
            frame = av.AudioFrame.from_ndarray(tone(self._n)[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = RATE, self._n * STEP, fractions.Fraction(1, RATE)
            self._n += 1
            return frame

    async def offer(request: web.Request) -> web.Response:
        body = await request.json()
        pc = RTCPeerConnection(RTCConfiguration([]))
        peers.add(pc)
        await pc.setRemoteDescription(RTCSessionDescription(body["sdp"], body["type"]))
        pc.addTrack(Video())
        pc.addTrack(Audio())
        await pc.setLocalDescription(await pc.createAnswer())
        return web.json_response({"sdp": pc.localDescription.sdp, "type": "answer"})

    return offer


def pipecat(photo: str) -> Any:
    """Pipecat's SmallWebRTC transport in a pipeline of its own for each caller."""
    from pipecat.frames.frames import OutputAudioRawFrame, OutputImageRawFrame
    from pipecat.pipeline.pipeline import Pipeline
    from pipecat.pipeline.runner import PipelineRunner
    from pipecat.pipeline.task import PipelineTask
    from pipecat.transports.base_transport import TransportParams
    from pipecat.transports.smallwebrtc.connection import SmallWebRTCConnection
    from pipecat.transports.smallwebrtc.transport import SmallWebRTCTransport

    tasks = set()

    async def feed(task: Any) -> None:
        picture, start, n = Picture(photo), time.time(), 0
        while True:
            await asyncio.sleep(max(0.0, start + n / FPS - time.time()))
            sound = np.concatenate([tone(2 * n), tone(2 * n + 1)]).tobytes()
            await task.queue_frames(
                [
                    OutputImageRawFrame(image=picture.next().tobytes(), size=(512, 512), format="RGB"),
                    OutputAudioRawFrame(audio=sound, sample_rate=RATE, num_channels=1),
                ]
            )
            n += 1

    async def offer(request: web.Request) -> web.Response:
        body = await request.json()
        connection = SmallWebRTCConnection()
        await connection.initialize(sdp=body["sdp"], type=body["type"])
        transport = SmallWebRTCTransport(
            webrtc_connection=connection,
            params=TransportParams(
                video_out_enabled=True, video_out_is_live=True, video_out_width=512, video_out_height=512,
                video_out_framerate=FPS, audio_out_enabled=True, audio_out_sample_rate=RATE,
            ),
        )  # fmt: skip
        task = PipelineTask(Pipeline([transport.output()]), idle_timeout_secs=None)
        tasks.add(asyncio.create_task(PipelineRunner(handle_sigint=False).run(task)))
        tasks.add(asyncio.create_task(feed(task)))
        return web.json_response(connection.get_answer())

    return offer


def fastrtc(photo: str) -> Any:
    """FastRTC's stream with a handler that emits."""
    from fastrtc import AsyncAudioVideoStreamHandler, Stream

    class Handler(AsyncAudioVideoStreamHandler):
        def __init__(self) -> None:
            super().__init__("mono", output_sample_rate=RATE, input_sample_rate=RATE, fps=FPS)
            self._picture, self._start, self._frames, self._blocks = Picture(photo), time.time(), 0, 0

        def copy(self) -> Any:
            return Handler()

        async def start_up(self) -> None:
            self._start = time.time()

        async def video_receive(self, frame: Any) -> None:
            return None

        async def receive(self, frame: Any) -> None:
            return None

        async def video_emit(self) -> Any:
            await asyncio.sleep(max(0.0, self._start + self._frames / FPS - time.time()))
            self._frames += 1
            return self._picture.next()[:, :, ::-1]

        async def emit(self) -> Any:
            await asyncio.sleep(max(0.0, self._start + self._blocks / 50 - time.time()))
            self._blocks += 1
            return RATE, tone(self._blocks)[None]

    stream = Stream(handler=Handler(), modality="audio-video", mode="send-receive", concurrency_limit=64)

    async def offer(request: web.Request) -> web.Response:
        from fastrtc.stream import Body

        body = await request.json()
        answer = await stream.offer(
            Body(sdp=body["sdp"], type=body["type"], webrtc_id=f"v{time.monotonic_ns()}")
        )
        return web.json_response(answer if isinstance(answer, dict) else answer.model_dump())

    return offer


def main() -> None:
    """Serve until the process is ended."""
    name, port, photo = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    app = web.Application()
    app.router.add_post("/offer", {"bare": bare, "pipecat": pipecat, "fastrtc": fastrtc}[name](photo))
    print("ready", flush=True)
    web.run_app(app, host="127.0.0.1", port=port, print=None)


if __name__ == "__main__":
    main()
