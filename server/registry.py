"""All live sessions: begun where there is room, ended when they fail, are left alone or are over their time."""

from __future__ import annotations

import asyncio
import logging
import secrets
import time

from visavis.server.avatars import AvatarStore, Entry
from visavis.server.config import ServerConfig
from visavis.server.controls import Changes
from visavis.server.errors import ApiError
from visavis.server.metrics import Metrics
from visavis.server.sessions import LiveSession
from visavis.server.worker_handle import WorkerLost, WorkerRefused
from visavis.server.workers import WorkerPool

log = logging.getLogger(__name__)


class SessionRegistry:
    """All live sessions; the reaper ends those that nobody has used for a while."""

    def __init__(
        self, config: ServerConfig, workers: WorkerPool, avatars: AvatarStore, metrics: Metrics
    ) -> None:
        self._config = config
        self._workers = workers
        self._avatars = avatars
        self._metrics = metrics
        self._sessions: dict[str, LiveSession] = {}
        self._opening = 0
        self._ending: set[asyncio.Task[None]] = set()
        self.draining = False
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
        metrics.gauge(
            "visavis_bitrate_bps", "Bits a second sent to all peers.", lambda: sum(self._network("bitrate"))
        )
        metrics.gauge(
            "visavis_rtt_seconds", "Round trip to peers, mean.", lambda: _mean(self._network("rtt_s"))
        )
        metrics.gauge(
            "visavis_loss_ratio",
            "Share of packets lost, mean of peers.",
            lambda: _mean(self._network("loss")),
        )

    def _network(self, name: str) -> list[float]:
        """A figure of all peers that have one."""
        peers = [
            c.network
            for s in self._sessions.values()
            for c in s.connections.values()
            if hasattr(c, "network")
        ]
        return [value for peer in peers if (value := getattr(peer, name)) is not None]

    def __len__(self) -> int:
        return len(self._sessions)

    def get(self, session_id: str) -> LiveSession:
        """The session, or ApiError 404."""
        session = self._sessions.get(session_id)
        if session is None:
            raise ApiError(404, "no_such_session", "There is no such session; it may have ended.")
        return session

    async def create(
        self,
        entry: Entry,
        *,
        seed: int = 0,
        lookahead: int | None = None,
        barge_in: bool = False,
        generator: bool = True,
        controls: Changes | None = None,
    ) -> LiveSession:
        """A new session of an enrolled person. ApiError 503 where there is no room, 404 and 409 for the avatar."""
        if self.draining:
            raise ApiError(
                503, "draining", "This server is going away; try again soon.", {"Retry-After": "10"}
            )
        self._avatars.check_ready(entry)
        worker = self._workers.pick()
        session = LiveSession(secrets.token_urlsafe(12), entry.id, worker, self._metrics, barge_in=barge_in)
        session.on_failure = self._on_failure
        ahead = self._config.lookahead if lookahead is None else lookahead
        self._opening += 1
        try:
            await session.open(
                entry,
                seed=seed,
                lookahead=ahead,
                max_queue_s=self._config.max_queue_s,
                generator=generator and self._config.generator,
                controls=controls,
            )
        except WorkerLost as error:
            await session.close()
            raise ApiError(503, error.code, str(error), {"Retry-After": "3"}) from None
        except WorkerRefused as error:
            await session.close()
            if error.code == "worker_full":
                raise ApiError(503, "no_room", str(error), {"Retry-After": "3"}) from None
            raise ApiError(500, error.code, str(error)) from None
        except BaseException:
            await session.close()
            raise
        finally:
            self._opening -= 1
        self._sessions[session.id] = session
        self._metrics.sessions_started.inc()
        log.info("session started session=%s avatar=%s worker=%s", session.id, entry.id, worker.name)
        return session

    def _on_failure(self, session: LiveSession) -> None:
        assert session.failure is not None
        task = asyncio.create_task(self.end(session, session.failure[0]), name=f"end-{session.id}")
        self._ending.add(task)
        task.add_done_callback(self._ending.discard)

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
                if (
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

    async def drain(self, seconds: float) -> None:
        """Begin no more sessions, tell those that run, and wait until they have ended or `seconds` are over."""
        self.draining = True
        for session in self._sessions.values():
            session.emit({"type": "session.draining", "seconds": seconds})
        deadline = asyncio.get_running_loop().time() + seconds
        while self._sessions and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.1)

    async def close(self) -> None:
        """End all sessions."""
        await asyncio.gather(*(self.end(s, "shutdown") for s in list(self._sessions.values())))


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else 0.0
