"""`visavis call`: a caller without a browser. Sends speech, records what comes back, measures it."""

from __future__ import annotations

import asyncio
import contextlib
import fractions
import math
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import av
import numpy as np
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.rtcconfiguration import RTCBundlePolicy
from visavis.clients.client import Client, ClientError, RemoteSession
from visavis.clients.media import MovieWriter, Pcm, check_output, read_speech
from visavis.engine.timing import FPS, PLAYBACK_RATE
from visavis.server.rtp import prefer_low_delay, watch_reports

CONNECT_S = 20.0
TAIL_S = 0.8
"""How long the recording goes on after the last word."""
PTIME_S = 0.02
FLUSH_S = 1.0
"""Seconds of media that wait for a sender report before they are written."""
VIDEO_RATE = 90_000


class SpeechTrack(MediaStreamTrack):
    """Speech as a microphone would give it: 20 ms blocks at their time, silence before `begin` and after the end."""

    kind = "audio"

    def __init__(self, pcm: Pcm, rate: int) -> None:
        super().__init__()
        self._pcm = pcm
        self._rate = rate
        self._block = round(rate * PTIME_S)
        self._position: int | None = None
        self._sent = 0
        self._start: float | None = None
        self.finished = asyncio.Event()

    def begin(self) -> None:
        """From now on the speech is sent."""
        self._position = 0

    async def recv(self) -> av.AudioFrame:
        loop = asyncio.get_running_loop()
        if self.readyState != "live":
            raise MediaStreamError
        if self._start is None:
            self._start = loop.time()
        await asyncio.sleep(max(0.0, self._start + self._sent / self._rate - loop.time()))
        block = np.zeros(self._block, np.int16)
        if self._position is not None:
            part = self._pcm[self._position : self._position + self._block]
            block[: len(part)] = part
            self._position += self._block
            if self._position >= len(self._pcm):
                self.finished.set()
        frame = av.AudioFrame.from_ndarray(block[None], format="s16", layout="mono")
        frame.sample_rate = self._rate
        frame.pts = self._sent
        frame.time_base = fractions.Fraction(1, self._rate)
        self._sent += self._block
        return frame


@dataclass
class Recorder:
    """Puts what arrives on one time line by the sender's capture times, and into a movie if one is wanted."""

    path: Path | None
    on_first_frame: Callable[[], None]
    arrivals: dict[str, list[tuple[float, float]]] = field(default_factory=lambda: {"video": [], "audio": []})
    """Per kind: (capture time, how long after it the media arrived), Unix seconds."""
    frame_times: list[float] = field(default_factory=list)
    _frames: deque[tuple[int, av.VideoFrame]] = field(default_factory=deque)
    _sounds: deque[tuple[int, Pcm]] = field(default_factory=deque)
    _capture: dict[str, Callable[[int], float | None]] = field(default_factory=dict)
    _movie: MovieWriter | None = None
    _stack: contextlib.ExitStack = field(default_factory=contextlib.ExitStack)
    _origin: float | None = None
    _written_samples: int = 0
    _last: av.VideoFrame | None = None

    async def follow(self, track: MediaStreamTrack, receiver: Any) -> None:
        """Read a track until it ends."""
        rate = VIDEO_RATE if track.kind == "video" else PLAYBACK_RATE
        self._capture[track.kind] = watch_reports(receiver, rate)
        with contextlib.suppress(MediaStreamError):
            while True:
                frame: Any = await track.recv()
                now = time.time()
                if track.kind == "video":
                    if not self.frame_times:
                        self.on_first_frame()
                    self.frame_times.append(now)
                    self._frames.append((frame.pts, frame))
                else:
                    pcm = frame.to_ndarray().reshape(-1, len(frame.layout.channels))[:, 0]
                    self._sounds.append((frame.pts, pcm))
                captured = self._capture[track.kind](frame.pts)
                if captured is not None:
                    self.arrivals[track.kind].append((captured, now - captured))
                self._write()

    def _write(self) -> None:
        capture = self._capture
        if len(capture) < 2 or not self._frames or not self._sounds:
            return
        if capture["video"](0) is None or capture["audio"](0) is None:
            return  # no sender report yet: it comes within a second and a half
        if self._origin is None:
            self._origin = capture["video"](self._frames[0][0]) or 0.0
        if self.path is not None and self._movie is None:
            first = self._frames[0][1]
            self._movie = self._stack.enter_context(MovieWriter(self.path, first.width, first.height))
        while self._frames:
            units, frame = self._frames.popleft()
            index = round(((capture["video"](units) or 0.0) - self._origin) * FPS)
            if self._movie is None:
                continue
            while (
                self._last is not None and self._movie.frames < index
            ):  # a frame that never came: the last one stays
                self._movie.add_frame(self._last)
            if self._movie.frames == index:
                self._movie.add_frame(frame)
            self._last = frame
        while self._sounds:
            units, pcm = self._sounds.popleft()
            at = round(((capture["audio"](units) or 0.0) - self._origin) * PLAYBACK_RATE)
            gap = at - self._written_samples
            if abs(gap) <= 48:  # within a millisecond: rounding of the clocks
                gap = 0
            pcm = pcm[-gap:] if gap < 0 else np.concatenate([np.zeros(gap, np.int16), pcm])
            self._written_samples += len(pcm)
            if self._movie is not None:
                self._movie.add_audio(pcm)

    def close(self, kind: Any = None, value: Any = None, trace: Any = None) -> None:
        """Finish the movie, or drop it where an exception is given."""
        self._stack.__exit__(kind, value, trace)


@dataclass(frozen=True)
class CallResult:
    """What a call showed. Times in milliseconds."""

    seconds: float
    frames: int
    fps: float
    first_frame_ms: float
    on_time_share: float
    av_skew_ms: float
    """Median of how much later video arrives than the sound of the same moment."""
    av_skew_p95_ms: float
    recorded: str | None

    def as_dict(self) -> dict[str, Any]:
        return {
            key: None if isinstance(value, float) and math.isnan(value) else value
            for key, value in vars(self).items()
        }


def summarise(recorder: Recorder, offered_at: float) -> CallResult:
    """Figures of a finished call; ClientError where no video came."""
    times = recorder.frame_times
    if len(times) < 2:
        raise ClientError("no video came back; the network may let no UDP through", "no_media")
    gaps = np.diff(times)
    video, audio = (np.array(recorder.arrivals[kind]).reshape(-1, 2) for kind in ("video", "audio"))
    skew = skew95 = float("nan")
    if len(video) and len(audio):
        # aiortc gives a frame out when the next one begins: one frame later than it was there
        late = video[:, 1] - 1 / FPS - np.interp(video[:, 0], audio[:, 0], audio[:, 1])
        skew, skew95 = float(np.median(late)) * 1000, float(np.percentile(np.abs(late), 95)) * 1000
    return CallResult(
        seconds=round(times[-1] - times[0], 2),
        frames=len(times),
        fps=round((len(times) - 1) / (times[-1] - times[0]), 2),
        first_frame_ms=round((times[0] - offered_at) * 1000, 1),
        on_time_share=round(float(np.mean(gaps < 2 / FPS)), 4),
        av_skew_ms=round(skew, 1),
        av_skew_p95_ms=round(skew95, 1),
        recorded=str(recorder.path) if recorder.path else None,
    )


async def call(
    url: str,
    speech_path: Path,
    *,
    avatar: str | None = None,
    record: Path | None = None,
    ingest: str = "microphone",
    seed: int = 0,
    controls: Mapping[str, Any] | None = None,
    token: str = "",
    progress: Callable[[str, float, float], None] = lambda what, done, total: None,
) -> CallResult:
    """One call to the server at `url`: speech in by `ingest` ("microphone" or "websocket"), avatar out, in the manner that `controls` name.

    `progress` is called with a stage ("prepare" or "call"), seconds or share done, and the whole.
    """
    if record is not None:
        check_output(record)
    pcm, rate = read_speech(speech_path)
    async with Client(url, token) as client:
        if avatar is None:
            people = await client.avatars()
            if not people:
                raise ClientError("the server offers nobody; give --avatar ID", "no_avatar")
            avatar = str(people[0]["id"])
        async for share in client.wait_ready(avatar):
            progress("prepare", share, 1.0)
        session = await client.session(avatar, seed=seed, controls=controls)
        try:
            return await _talk(session, pcm, rate, record=record, ingest=ingest, progress=progress)
        finally:
            with contextlib.suppress(ClientError):
                await session.close()


async def _talk(
    session: RemoteSession,
    pcm: Pcm,
    rate: int,
    *,
    record: Path | None,
    ingest: str,
    progress: Callable[[str, float, float], None],
) -> CallResult:
    started = asyncio.Event()
    recorder = Recorder(record, started.set)
    pc = RTCPeerConnection(RTCConfiguration([], bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
    tasks: list[asyncio.Task[Any]] = []
    microphone = SpeechTrack(pcm, rate) if ingest == "microphone" else None
    finished = asyncio.Event()
    seconds = len(pcm) / rate

    async def follow_events() -> None:
        async for event in session.events():
            if event["type"] == "playback.finished":
                finished.set()
            elif event["type"] == "error":
                raise ClientError(event["error"]["message"], event["error"]["code"])

    try:
        if microphone is not None:
            pc.addTrack(microphone)
        else:
            pc.addTransceiver("audio", direction="recvonly")
        pc.addTransceiver("video", direction="recvonly")
        await pc.setLocalDescription(await pc.createOffer())
        await session.connect_audio(rate)
        tasks.append(asyncio.create_task(follow_events()))
        offered_at = time.time()
        answer = await session.offer(pc.localDescription.sdp)
        await pc.setRemoteDescription(RTCSessionDescription(answer, "answer"))
        for transceiver in pc.getTransceivers():
            if transceiver.kind == "audio":
                prefer_low_delay(transceiver.receiver)
            tasks.append(
                asyncio.create_task(recorder.follow(transceiver.receiver.track, transceiver.receiver))
            )
        await _first(
            started.wait(), tasks, CONNECT_S, "no video came within 20 s; the network may let no UDP through"
        )
        if microphone is not None:
            microphone.begin()
        else:
            block = rate // 2
            for start in range(0, len(pcm), block):
                await session.push(pcm[start : start + block].astype("<i2").tobytes())
            await session.commit()
        began = time.monotonic()
        spoken = microphone.finished if microphone is not None else finished
        while not spoken.is_set():
            await _first(spoken.wait(), tasks, 0.2, None)
            elapsed = time.monotonic() - began
            progress("call", min(elapsed, seconds), seconds)
            if elapsed > seconds + 15:
                raise ClientError("the avatar did not finish the speech in time", "timeout")
        await asyncio.sleep(TAIL_S)
        progress("call", seconds, seconds)
        result = summarise(recorder, offered_at)
        recorder.close()
        return result
    except BaseException as error:
        recorder.close(type(error), error, error.__traceback__)
        raise
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await pc.close()


async def _first(waiting: Any, tasks: list[asyncio.Task[Any]], timeout: float, message: str | None) -> None:
    """Wait for one thing; a task that failed meanwhile raises its error, a timeout raises `message` if there is one."""
    waiter = asyncio.ensure_future(waiting)
    try:
        done, _ = await asyncio.wait({waiter, *tasks}, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
    finally:
        if not waiter.done():
            waiter.cancel()
    for task in done:
        if task is not waiter and (task.cancelled() or task.exception() is None):
            raise ClientError("the server ended the call", "ended")
        await task
    if not done and message:
        raise ClientError(message, "no_media")
