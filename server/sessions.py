"""One live session as the wire sees it: frames in from a worker, out to every viewer."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
from visavis.engine.errors import AudioError, QueueFullError, VisavisError
from visavis.engine.timing import PLAYBACK_SAMPLES_PER_FRAME
from visavis.server.avatars import Entry
from visavis.server.controls import Changes
from visavis.server.encoders import encode_seconds
from visavis.server.errors import ApiError
from visavis.server.host import FRAME_S
from visavis.server.link import Header
from visavis.server.listener import Listener as Hearing
from visavis.server.metrics import Metrics
from visavis.server.publisher import Pair, Publisher
from visavis.server.recording import Recording
from visavis.server.worker_handle import WorkerHandle, WorkerLost, WorkerRefused

log = logging.getLogger(__name__)

Event = dict[str, Any]
Listener = Callable[[Event], None]
LOST = "The avatar's engine stopped; make a new session."
FAILED = "The avatar's engine failed; make a new session."


class Connection(Protocol):
    """Something that keeps a session in use: a peer connection or a WebSocket."""

    async def close(self) -> None: ...


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

    Its engine lives in a worker. The worker makes frames while somebody is connected; with nobody there, the avatar rests and costs
    nothing. `generation` counts how often the speech was cleared: what the worker made before it knew is silenced here.
    """

    def __init__(
        self,
        session_id: str,
        avatar_id: str,
        worker: WorkerHandle,
        metrics: Metrics,
        *,
        barge_in: bool = False,
    ) -> None:
        """With `barge_in` the caller's microphone does not move the mouth: when the caller speaks, the avatar stops."""
        self.id = session_id
        self.avatar_id = avatar_id
        self.worker = worker
        self.publisher = Publisher(worker.anchor)
        self.connections: dict[str, Connection] = {}
        self.listeners: set[Listener] = set()
        self.started_at = time.time()
        self.idle_since: float | None = asyncio.get_running_loop().time()
        self.closed = False
        self.queued_seconds = 0.0
        self.failure: tuple[str, str] | None = None
        """Code and message of what ended the engine's part."""
        self.on_failure: Callable[[LiveSession], None] | None = None
        self.timings: dict[str, float] = {}
        """Where the time of a frame goes, in ms: moving averages, for the page and for benchmarks."""
        self.generation = 0
        self.recording: Recording | None = None
        self.barge_in = barge_in
        self.lookahead = 0
        self.reduced = False
        """The last frame was the moved photo alone."""
        self.halved = False
        """Every second picture is left out."""
        self._last = np.zeros((0, 0), np.uint8)
        """The last picture, which a repeated one repeats."""
        self.controls: Changes = {}
        """All controls in force, as the worker told them last."""
        self._hearing = Hearing()
        self._clearing: set[asyncio.Task[int]] = set()
        self._metrics = metrics
        self._playback = Playback()
        self._opened = False

    async def open(
        self,
        entry: Entry,
        *,
        seed: int,
        lookahead: int,
        max_queue_s: float,
        generator: bool = True,
        controls: Changes | None = None,
    ) -> None:
        """Make the engine's part in the worker, which makes its first frames before this returns. `controls`: parsed changes to the
        usual ones."""
        worker, self.lookahead = self.worker, lookahead
        key, blob = entry.key, entry.blob  # one version: another may take its place meanwhile
        worker.sessions[self.id] = self._on_message
        request = {
            "op": "open", "session": self.id, "avatar": key, "seed": seed,
            "lookahead": lookahead, "max_queue_s": max_queue_s, "generator": generator, "controls": controls or {},
        }  # fmt: skip
        answer, _ = await worker.ask(request, blob if key not in worker.known else b"")
        if answer.get("unknown"):
            answer, _ = await worker.ask(request, blob)
        worker.known.add(key)
        worker.load.opened(answer.get("cpu_s"))
        self.controls = answer["controls"]
        self._opened = True
        if self.connections:
            worker.tell({"op": "watch", "session": self.id, "on": True})

    def _alive(self) -> WorkerHandle:
        if self.closed or self.failure or not self._opened:
            raise ApiError(410, "session_closed", "This session has ended; make a new one.")
        return self.worker

    # Speech

    async def _ask(self, header: Header, *parts: Any) -> Header:
        try:
            answer, _ = await self._alive().ask(
                header | {"session": self.id, "generation": self.generation}, *parts
            )
        except WorkerRefused as error:
            if error.code == QueueFullError.code:
                raise QueueFullError(str(error)) from None
            if error.code == "session_closed":
                raise ApiError(410, error.code, str(error)) from None
            refused = AudioError(str(error))
            refused.code = error.code
            raise refused from None
        except WorkerLost as error:
            raise ApiError(410, error.code, str(error)) from None
        return answer

    async def push_audio(self, pcm: npt.NDArray[np.int16], rate: int, *, live: bool = False) -> None:
        """Queue speech. Raises AudioError and QueueFullError (nothing was taken)."""
        if live:
            self.push_live(pcm, rate)
            return
        answer = await self._ask({"op": "push", "rate": rate}, pcm.astype("<i2", copy=False))
        self.queued_seconds = answer["queued"]
        self._metrics.speech_seconds.inc(len(pcm) / rate)

    def push_live(self, pcm: npt.NDArray[np.int16], rate: int) -> None:
        """Microphone speech: taken in before the next step, the oldest dropped when the engine does not keep up."""
        worker = self._alive()
        if self.barge_in:
            self._hear(pcm, rate)
        else:
            worker.tell({"op": "live", "session": self.id, "rate": rate}, pcm.astype("<i2"))

    def _hear(self, pcm: npt.NDArray[np.int16], rate: int) -> None:
        for what, at_ms in self._hearing.push(pcm, rate):
            key = "audio_start_ms" if what == "started" else "audio_end_ms"
            self.emit({"type": f"input_audio_buffer.speech_{what}", key: at_ms})
            if what == "started" and (self._playback.frames or self.queued_seconds):
                self._metrics.barge_ins.inc()
                task = asyncio.create_task(self.clear(), name=f"end-{self.id}")
                self._clearing.add(task)
                task.add_done_callback(self._cleared)

    def _cleared(self, task: asyncio.Task[int]) -> None:
        self._clearing.discard(task)
        if not task.cancelled() and isinstance(task.exception(), ApiError):
            log.info("barge-in came too late session=%s", self.id)

    async def commit(self) -> None:
        """The utterance is complete: do not wait for more of it."""
        await self._ask({"op": "commit"})

    async def clear(self) -> int:
        """Barge-in: drop all queued speech. Returns the dropped samples at 16 kHz."""
        self.generation += 1
        self._playback.cleared = self._playback.frames > 0
        self.publisher.hush()
        return int((await self._ask({"op": "clear"}))["dropped"])

    # Manner

    async def control(self, changes: Changes) -> Changes:
        """Change some controls (as `parse_controls` gives them) from the next frame on. Returns all that are in force then."""
        self.controls = (await self._ask({"op": "control", "controls": changes}))["controls"]
        return self.controls

    # Connections

    def attach(self, key: str, connection: Connection) -> None:
        """A connection begins; frames are made from now on."""
        self.connections[key] = connection
        self.idle_since = None
        if len(self.connections) == 1 and self._opened:
            self.worker.tell({"op": "watch", "session": self.id, "on": True})

    def detach(self, key: str) -> None:
        """A connection has ended."""
        self.connections.pop(key, None)
        if not self.connections:
            self.idle_since = asyncio.get_running_loop().time()
            self.worker.tell({"op": "watch", "session": self.id, "on": False})

    def emit(self, event: Event) -> None:
        """Tell every listener."""
        for listener in list(self.listeners):
            listener(event)

    # What the worker sends

    def _on_message(self, header: Header, payload: memoryview) -> None:
        if self.closed:
            return
        if header["op"] == "pair":
            self._on_pair(header, payload)
        else:
            lost = header["op"] == "lost"
            self.failure = ("worker_lost", LOST) if lost else ("engine_failed", FAILED)
            self.emit({"type": "error", "error": {"code": self.failure[0], "message": self.failure[1]}})
            if self.on_failure:
                self.on_failure(self)

    def _on_pair(self, header: Header, payload: memoryview) -> None:
        metrics, now = self._metrics, asyncio.get_running_loop().time()
        split = len(payload) - 2 * PLAYBACK_SAMPLES_PER_FRAME
        repeated = header["rows"] == 0
        if not repeated:
            self._last = np.frombuffer(payload[:split], np.uint8).reshape(header["rows"], -1)
        i420 = self._last
        audio = np.frombuffer(payload[split:], "<i2")
        speech, due = bool(header["speech"]), float(header["due"])
        if speech and header["generation"] != self.generation:
            audio, speech = np.zeros_like(audio), False
        self.queued_seconds = header["queued"]
        metrics.speech_seconds.inc(header["heard"])
        metrics.step_seconds.observe(header["step_s"] + header["convert_s"])
        for name, seconds in header["stages"].items():
            metrics.stage_seconds.observe(seconds, name)
        metrics.tick_late_seconds.observe(max(0.0, header["began"] - due))
        metrics.frames.inc()
        self.reduced, self.halved = header["reduced"], header["halved"]
        metrics.reduced_frames.inc(self.reduced)
        metrics.repeated_frames.inc(repeated)
        if now - due > FRAME_S:
            metrics.late_frames.inc()
            # the worker cannot see that its frames, though made in time, arrive here too late
            self.worker.tell({"op": "late", "session": self.id})
        self._average(
            {
                "standing": max(0.0, header["queued"] - self.lookahead * FRAME_S),
                "wait": header["began"] - due,
                **header["stages"],
                "engine": header["step_s"] - sum(header["stages"].values()),
                "convert": header["convert_s"],
                "encode": encode_seconds(),
                "link": now - header["began"] - header["step_s"] - header["convert_s"],
            }
        )
        metrics.dropped_pairs.inc(
            self.publisher.publish(Pair(header["stamp"], due, i420, audio, speech, repeated))
        )
        event = self._playback.next(speech)
        if event:
            self.emit(event)

    def _average(self, seconds: dict[str, float]) -> None:
        for name, value in seconds.items():
            old = self.timings.get(name)
            self.timings[name] = 1000 * value if old is None else 0.95 * old + 50 * value

    async def close(self) -> None:
        """End the session: nothing of it runs afterwards."""
        if self.closed:
            return
        self.closed = True
        if self.recording is not None:
            await self.recording.stop()
        self.publisher.close()
        self.emit({"type": "session.closed"})
        await asyncio.gather(*(c.close() for c in list(self.connections.values())), return_exceptions=True)
        self.connections.clear()
        if self.worker.sessions.pop(self.id, None) is not None:
            try:
                await self.worker.ask({"op": "close", "session": self.id})
            except VisavisError as error:
                log.info("session was gone session=%s code=%s", self.id, error.code)


def audio_refused(error: VisavisError) -> Event:
    """The event that tells a caller that its speech was not taken."""
    return {"type": "error", "error": {"code": error.code, "message": str(error)}}
