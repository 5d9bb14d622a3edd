"""Live sessions: one clock each, the engine off the event loop, one publisher, and the registry that ends them."""

from __future__ import annotations

import asyncio
import logging
import math
import secrets
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
import numpy.typing as npt
from visavis.engine.errors import VisavisError
from visavis.kernels import rgb_to_i420
from visavis.server.avatars import AvatarStore
from visavis.server.config import ServerConfig
from visavis.server.engines import Engine, SessionLike
from visavis.server.errors import ApiError
from visavis.server.metrics import Metrics
from visavis.server.publisher import FRAME_S, Pair, Publisher
from visavis.server.security import digest, new_token

log = logging.getLogger(__name__)

STALL_S = 0.08
"""A clock that is this far behind gives up the missed frame times instead of hurrying through them: two frames are what
a receiver's buffer takes up unseen. Speech is not lost by it: the engine goes on where it was, the stamps jump."""
LIVE_BLOCKS = 50
"""Microphone blocks (20 ms) that wait for the next step at most."""

T = TypeVar("T")
Event = dict[str, Any]
Listener = Callable[[Event], None]


class Connection(Protocol):
    """Something that keeps a session in use: a peer connection or a WebSocket."""

    async def close(self) -> None: ...


@dataclass(frozen=True)
class Step:
    """What one step of the engine gives, ready to be published."""

    i420: npt.NDArray[np.uint8]
    audio: npt.NDArray[np.int16]
    speech: bool
    seconds: float


@dataclass
class Playback:
    """Follows the frames and tells when pushed speech begins and ends."""

    frames: int = 0
    cleared: bool = False

    def next(self, speech: bool) -> Event | None:
        """Takes whether a frame carries pushed speech; returns the event that it causes."""
        if speech:
            self.frames += 1
            if self.frames == 1:
                self.cleared = False
                return {"type": "playback.started", "position_ms": 0}
        elif self.frames:
            position, self.frames = round(self.frames * FRAME_S * 1000), 0
            interrupted, self.cleared = self.cleared, False
            return {"type": "playback.finished", "position_ms": position, "interrupted": interrupted}
        return None


class LiveSession:
    """One avatar on the wire.

    Every call into the engine's session happens in this session's own thread, one at a time. The clock runs while somebody is
    connected; with nobody there, the avatar rests and costs nothing.
    """

    def __init__(self, session_id: str, avatar_id: str, metrics: Metrics) -> None:
        self.id = session_id
        self.avatar_id = avatar_id
        self.token = new_token()
        self.token_digest = digest(self.token)
        self.publisher = Publisher()
        self.connections: dict[str, Connection] = {}
        self.listeners: set[Listener] = set()
        self.started_at = time.time()
        self.idle_since: float | None = asyncio.get_running_loop().time()
        self.closed = False
        self.queued_seconds = 0.0
        self.failure: str | None = None
        self._metrics = metrics
        self._engine: SessionLike | None = None
        self._thread = ThreadPoolExecutor(1, thread_name_prefix=f"session-{session_id[:6]}")
        self._live: deque[tuple[npt.NDArray[np.int16], int]] = deque(maxlen=LIVE_BLOCKS)
        self._playback = Playback()
        self._clock: asyncio.Task[None] | None = None
        self._in_use = asyncio.Event()

    async def open(self, make: Callable[[], SessionLike]) -> None:
        """Make the engine's session (in the session's thread) and start the clock."""
        self._engine = await self._run(make)
        self._clock = asyncio.create_task(self._tick(), name=f"clock-{self.id}")

    async def _run(self, call: Callable[[], T]) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._thread, call)

    def _alive(self) -> SessionLike:
        if self._engine is None or self.closed:
            raise ApiError(410, "session_closed", "This session has ended; make a new one.")
        return self._engine

    # Speech

    async def push_audio(self, pcm: npt.NDArray[np.int16], rate: int, *, live: bool = False) -> None:
        """Queue speech. Raises AudioError and QueueFullError (nothing was taken)."""
        engine = self._alive()
        await self._run(lambda: engine.push_audio(pcm, rate, live=live))
        self._metrics.speech_seconds.inc(len(pcm) / rate)

    def push_live(self, pcm: npt.NDArray[np.int16], rate: int) -> None:
        """Microphone speech: taken in before the next step, the oldest dropped when the engine does not keep up."""
        self._live.append((pcm, rate))

    async def commit(self) -> None:
        """The utterance is complete: do not wait for more of it."""
        await self._run(self._alive().commit)

    async def clear(self) -> int:
        """Barge-in: drop all queued speech. Returns the dropped samples at 16 kHz."""
        self._live.clear()
        self._playback.cleared = self._playback.frames > 0
        return await self._run(self._alive().clear)

    # Connections

    def attach(self, key: str, connection: Connection) -> None:
        """A connection begins; the clock runs from now on."""
        self.connections[key] = connection
        self.idle_since = None
        self._in_use.set()

    def detach(self, key: str) -> None:
        """A connection has ended."""
        self.connections.pop(key, None)
        if not self.connections:
            self.idle_since = asyncio.get_running_loop().time()
            self._in_use.clear()

    def emit(self, event: Event) -> None:
        """Tell every listener."""
        for listener in list(self.listeners):
            listener(event)

    # The clock

    def _step(self) -> Step:
        began = time.perf_counter()
        engine = self._alive()
        while self._live:
            pcm, rate = self._live.popleft()
            engine.push_audio(pcm, rate, live=True)
            self._metrics.speech_seconds.inc(len(pcm) / rate)
        frame = engine.step()
        self.queued_seconds = engine.queued_seconds
        return Step(
            rgb_to_i420(frame.image), frame.audio, frame.speech_index is not None, time.perf_counter() - began
        )

    async def _tick(self) -> None:
        loop = asyncio.get_running_loop()
        publisher, metrics = self.publisher, self._metrics
        try:
            while True:
                resting = not self._in_use.is_set()
                await self._in_use.wait()
                stamp = publisher.next_stamp
                due = publisher.anchor + stamp * FRAME_S
                behind = loop.time() - due
                if behind > (0.0 if resting else STALL_S):
                    skipped = math.ceil(behind / FRAME_S)
                    stamp += skipped
                    due += skipped * FRAME_S
                    if not resting:
                        metrics.skipped_frames.inc(skipped)
                        log.warning("clock re-anchored session=%s skipped_frames=%d", self.id, skipped)
                await asyncio.sleep(max(0.0, due - loop.time()))
                step = await self._run(self._step)
                metrics.step_seconds.observe(step.seconds)
                metrics.frames.inc()
                if loop.time() - due > FRAME_S:
                    metrics.late_frames.inc()
                metrics.dropped_pairs.inc(publisher.publish(Pair(stamp, due, step.i420, step.audio)))
                event = self._playback.next(step.speech)
                if event:
                    self.emit(event)
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("session failed session=%s", self.id)
            self.failure = "The avatar's engine failed; make a new session."
            self.emit({"type": "error", "error": {"code": "engine_failed", "message": self.failure}})

    async def close(self) -> None:
        """End the session: nothing of it runs afterwards."""
        if self.closed:
            return
        self.closed = True
        if self._clock:
            self._clock.cancel()
            await asyncio.gather(self._clock, return_exceptions=True)
        self.publisher.close()
        self.emit({"type": "session.closed"})
        await asyncio.gather(*(c.close() for c in list(self.connections.values())), return_exceptions=True)
        self.connections.clear()
        if self._engine is not None:
            try:
                await self._run(self._engine.close)
            except Exception:
                log.exception("engine close failed session=%s", self.id)
        self._thread.shutdown(wait=False)


class SessionRegistry:
    """All live sessions; the reaper ends those that nobody has used for a while."""

    def __init__(self, config: ServerConfig, engine: Engine, avatars: AvatarStore, metrics: Metrics) -> None:
        self._config = config
        self._engine = engine
        self._avatars = avatars
        self._metrics = metrics
        self._sessions: dict[str, LiveSession] = {}
        self._opening = 0
        metrics.gauge("visavis_sessions", "Live sessions.", lambda: len(self._sessions))
        metrics.gauge(
            "visavis_connections",
            "Peer connections and sockets.",
            lambda: sum(len(s.connections) for s in self._sessions.values()),
        )
        metrics.gauge(
            "visavis_queued_speech_seconds",
            "Speech waiting to be spoken, all sessions.",
            lambda: sum(s.queued_seconds for s in self._sessions.values()),
        )

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, session_id: str) -> LiveSession:
        """The session, or ApiError 404."""
        session = self._sessions.get(session_id)
        if session is None:
            raise ApiError(404, "no_such_session", "There is no such session; it may have ended.")
        return session

    async def create(self, avatar_id: str, *, seed: int = 0, lookahead: int | None = None) -> LiveSession:
        """A new session of an enrolled person. ApiError 503 where the server is full, 404 and 409 for the avatar."""
        if len(self._sessions) + self._opening >= self._config.max_sessions:
            raise ApiError(
                503, "busy", "All of this server's sessions are in use; try again soon.", {"Retry-After": "5"}
            )
        avatar = self._avatars.ready(avatar_id)
        session = LiveSession(secrets.token_urlsafe(12), avatar_id, self._metrics)
        ahead = self._config.lookahead if lookahead is None else lookahead
        self._opening += 1
        try:
            await session.open(
                lambda: self._engine.session(
                    avatar, seed=seed, lookahead=ahead, max_queue_s=self._config.max_queue_s
                )
            )
        except BaseException:
            await session.close()
            raise
        finally:
            self._opening -= 1
        self._sessions[session.id] = session
        self._metrics.sessions_started.inc()
        log.info("session started session=%s avatar=%s", session.id, avatar_id)
        return session

    async def end(self, session: LiveSession, reason: str) -> None:
        """Close a session and forget it."""
        if self._sessions.pop(session.id, None) is not None:
            log.info("session ended session=%s reason=%s", session.id, reason)
        await session.close()

    async def reap(self) -> None:
        """Runs for the server's life: ends sessions that failed, were left alone, or are over their time."""
        loop = asyncio.get_running_loop()
        while True:
            await asyncio.sleep(min(1.0, self._config.linger_s / 4))
            for session in list(self._sessions.values()):
                reason = None
                if session.failure:
                    reason = "failed"
                elif (
                    session.idle_since is not None
                    and loop.time() - session.idle_since > self._config.linger_s
                ):
                    reason = "unused"
                elif (
                    self._config.max_session_s
                    and time.time() - session.started_at > self._config.max_session_s
                ):
                    reason = "time_limit"
                if reason:
                    await self.end(session, reason)

    async def close(self) -> None:
        """End all sessions."""
        await asyncio.gather(*(self.end(s, "shutdown") for s in list(self._sessions.values())))


def audio_refused(error: VisavisError) -> Event:
    """The event that tells a caller that its speech was not taken."""
    return {"type": "error", "error": {"code": error.code, "message": str(error)}}
