"""Workers as the server sees them: started, asked, watched, started again when they die; and which of them takes a new session."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from visavis.engine.errors import VisavisError
from visavis.server.config import ServerConfig
from visavis.server.engines import Engine
from visavis.server.errors import ApiError
from visavis.server.host import FRAME_S, WorkerHost
from visavis.server.link import Header, Link, LinkClosed, pair
from visavis.server.metrics import Metrics

log = logging.getLogger(__name__)

SILENT_S = 20.0
"""A worker that sends nothing for this long, though it beats every second, hangs: it is ended and started again."""
RESTART_S = (0.2, 1.0, 3.0, 10.0)
"""How long to wait before a worker that died is started again; it counts from the start after a minute of life."""
START_S = 60.0
WORKER_NICE, ENROLL_NICE = 2, 5
"""Sockets and encoders first, then frames, then photos: who waits for a photo waits a second longer, a call would stutter."""
FULL_SHARE = 0.9
"""Share of the cores that sessions may take by measurement; the rest is for what was not measured."""
FRONT_CPU_S = 0.004
"""Encoding and sending of one frame, until it is measured."""


class WorkerLost(VisavisError):
    """The worker died or hangs."""

    code = "worker_lost"


class WorkerRefused(VisavisError):
    """A request that a worker did not carry out; `code` is the worker's word."""


@dataclass
class Load:
    """What a worker's heartbeats say about the cost of its sessions. Times in seconds."""

    cpu_per_frame: float = 0.0
    missed_share: float = 0.0
    watched: int = 0
    _last: Header | None = None

    def beat(self, beat: Header) -> None:
        """Takes a heartbeat."""
        last, self._last = self._last, beat
        self.watched = int(beat["watched"])
        if last is None:
            return
        frames, missed = beat["frames"] - last["frames"], beat["missed"] - last["missed"]
        if frames + missed < 5:
            self.missed_share *= 0.5
            return
        cost = (beat["cpu_s"] - last["cpu_s"]) / max(1, frames)
        self.cpu_per_frame = cost if not self.cpu_per_frame else 0.8 * self.cpu_per_frame + 0.2 * cost
        self.missed_share = 0.7 * self.missed_share + 0.3 * missed / (frames + missed)

    def opened(self, cpu_s: float | None) -> None:
        """A session was opened while nothing else ran: the cost of its first frames, before there is a better figure."""
        if cpu_s and not self.cpu_per_frame:
            self.cpu_per_frame = cpu_s


@dataclass(eq=False)
class WorkerHandle:
    """One worker: a link, the answers that are waited for, and the sessions that its frames go to."""

    name: str
    link: Link
    process: subprocess.Popen[bytes] | None = None
    load: Load = field(default_factory=Load)
    sessions: dict[str, Callable[[Header, memoryview], None]] = field(default_factory=dict)
    """By session: takes its `pair` and `failed` messages, and {"op": "lost"} when the worker dies."""
    known: set[str] = field(default_factory=set)
    """Avatars that this worker was sent."""
    anchor: float = 0.0
    """Monotonic time of tick 0 of its clock."""
    lost: bool = False
    heard_at: float = 0.0
    on_lost: Callable[[WorkerHandle], None] | None = None
    _requests: dict[
        int, tuple[asyncio.Future[tuple[Header, memoryview]], Callable[[str, float], None] | None]
    ] = field(default_factory=dict)
    _numbers: Any = field(default_factory=lambda: itertools.count(1))
    _outbox: queue.SimpleQueue[tuple[Header, Any] | None] = field(default_factory=queue.SimpleQueue)

    async def start(self) -> None:
        """Begin to read and write; returns when the worker has said hello."""
        self._loop = asyncio.get_running_loop()
        self._hello: asyncio.Future[None] = self._loop.create_future()
        self.heard_at = self._loop.time()
        for target in (self._read, self._write):
            threading.Thread(target=target, name=f"link-{self.name}", daemon=True).start()
        async with asyncio.timeout(START_S):
            await self._hello

    def _read(self) -> None:
        try:
            while True:
                header, payload = self.link.receive()
                self._loop.call_soon_threadsafe(self._take, header, payload)
        except (LinkClosed, RuntimeError):  # RuntimeError: the loop is closed
            self._outbox.put(None)
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(self._lose)

    def _write(self) -> None:
        while (message := self._outbox.get()) is not None:
            try:
                self.link.send(message[0], *message[1])
            except LinkClosed:
                return

    def _take(self, header: Header, payload: memoryview) -> None:
        self.heard_at = self._loop.time()
        op = header["op"]
        if op in ("pair", "failed"):
            take = self.sessions.get(header["session"])
            if take is not None:
                take(header, payload)
        elif op == "progress":
            waiting = self._requests.get(header["request"])
            if waiting and waiting[1]:
                waiting[1](header["stage"], header["share"])
        elif op in ("done", "refused"):
            future, _ = self._requests.pop(header["request"], (None, None))
            if future is None or future.done():
                return
            if op == "done":
                future.set_result((header, payload))
            else:
                error = WorkerRefused(header["message"])
                error.code = header["code"]
                future.set_exception(error)
        elif op == "beat":
            self.load.beat(header)
        elif op == "hello":
            self.anchor = header["anchor"]
            if not self._hello.done():
                self._hello.set_result(None)

    def _lose(self) -> None:
        if self.lost:
            return
        self.lost = True
        self.link.close()
        error = WorkerLost("The avatar's engine stopped; make a new session.")
        for future, _ in self._requests.values():
            if not future.done():
                future.set_exception(error)
        self._requests.clear()
        if not self._hello.done():
            self._hello.set_exception(error)
        for take in list(self.sessions.values()):
            take({"op": "lost"}, memoryview(b""))
        self.sessions.clear()
        if self.on_lost:
            self.on_lost(self)

    def tell(self, header: Header, *parts: Any) -> None:
        """Send and expect no answer."""
        if not self.lost:
            self._outbox.put((header, parts))

    async def ask(
        self, header: Header, *parts: Any, progress: Callable[[str, float], None] | None = None
    ) -> tuple[Header, memoryview]:
        """Send and wait for the answer. Raises WorkerRefused and WorkerLost."""
        if self.lost:
            raise WorkerLost("The avatar's engine stopped; make a new session.")
        number = next(self._numbers)
        future = self._loop.create_future()
        self._requests[number] = future, progress
        self._outbox.put((header | {"request": number}, parts))
        try:
            return await future
        finally:
            self._requests.pop(number, None)

    def kill(self) -> None:
        """End it without a word (it hangs)."""
        if self.process is not None:
            self.process.kill()
        self.link.close()

    async def close(self) -> None:
        """End it: its end of the link sees the close and gives everything back."""
        self.on_lost = None
        self._outbox.put(None)
        self.link.close()
        if self.process is not None:
            process = self.process
            try:
                async with asyncio.timeout(5):
                    await asyncio.to_thread(process.wait)
            except TimeoutError:
                process.kill()
                await asyncio.to_thread(process.wait)


def start_thread(engine: Engine, name: str) -> WorkerHandle:
    """A worker in a thread of this process (tests, embedding): not yet started."""
    link, theirs = pair()
    host = WorkerHost(engine, Link(theirs))
    threading.Thread(target=host.run, name=f"worker-{name}", daemon=True).start()
    return WorkerHandle(name, link)


def start_process(factory: str, name: str, nice: int) -> WorkerHandle:
    """A worker in a process of its own: not yet started. `factory` is "module:Engine"."""
    link, theirs = pair()
    process = subprocess.Popen(
        [sys.executable, "-m", "visavis.server.worker_process", str(theirs.fileno()), factory, str(nice)],
        pass_fds=(theirs.fileno(),),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        process_group=0,  # Ctrl-C is for the server, which lets calls end first
    )
    theirs.close()
    return WorkerHandle(name, link, process)


class WorkerPool:
    """All workers of a server. With `config.workers` 0 there is one, in a thread of this process, on the given engine."""

    def __init__(self, config: ServerConfig, engine: Engine, metrics: Metrics) -> None:
        self._config = config
        self._engine = engine
        self._metrics = metrics
        self.workers: list[WorkerHandle] = []
        self._enroller: WorkerHandle | None = None
        self._enrolling = 0
        self._enroll_lock = asyncio.Lock()
        self._tasks: set[asyncio.Task[None]] = set()
        self._deaths: dict[str, list[float]] = {}
        self._closed = False
        self.up = asyncio.Event()
        """All workers have come up once."""
        self.front_cpu_s = FRONT_CPU_S
        metrics.gauge(
            "visavis_workers", "Workers that are up.", lambda: sum(not w.lost for w in self.workers)
        )
        metrics.gauge(
            "visavis_worker_cpu_seconds_per_frame",
            "Processor time of one frame in the workers, mean of the workers.",
            lambda: sum(w.load.cpu_per_frame for w in self.workers) / max(1, len(self.workers)),
        )
        metrics.gauge("visavis_free_sessions", "Sessions that there is room for, by measurement.", self.room)

    async def start(self) -> None:
        """Start every worker. Processes come up in the background, so that the page answers at once."""
        starting = self._start_all()
        if self._config.workers:
            self._spawn(starting, "workers-start")
        else:
            await starting

    async def _start_all(self) -> None:
        names = [f"worker{k}" for k in range(max(1, self._config.workers))]
        try:
            self.workers = list(await asyncio.gather(*(self._launch(name) for name in names)))
        except (TimeoutError, WorkerLost, OSError):
            log.critical("the workers did not start; the lines above say why")
            return
        self.up.set()
        self._spawn(self._watch(), "workers-watch")

    async def _launch(self, name: str, nice: int = WORKER_NICE) -> WorkerHandle:
        if self._config.workers:
            worker = start_process(self._config.engine_factory, name, nice)
        else:
            worker = start_thread(self._engine, name)
        worker.on_lost = self._on_lost
        try:
            await worker.start()
        except (TimeoutError, WorkerLost):
            worker.kill()
            raise
        log.info("worker up worker=%s pid=%s", name, worker.process.pid if worker.process else os.getpid())
        return worker

    def _spawn(self, coroutine: Any, name: str) -> None:
        task = asyncio.create_task(coroutine, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _on_lost(self, worker: WorkerHandle) -> None:
        if self._closed or worker not in self.workers:
            return
        log.error("worker lost worker=%s", worker.name)
        self._metrics.worker_deaths.inc()
        self._spawn(self._restart(worker), f"restart-{worker.name}")

    async def _restart(self, dead: WorkerHandle) -> None:
        now = asyncio.get_running_loop().time()
        deaths = self._deaths.setdefault(dead.name, [])
        deaths[:] = [at for at in deaths if now - at < 60] + [now]
        await dead.close()
        while not self._closed:
            await asyncio.sleep(RESTART_S[min(len(deaths), len(RESTART_S)) - 1])
            try:
                fresh = await self._launch(dead.name)
            except (TimeoutError, WorkerLost):
                deaths.append(asyncio.get_running_loop().time())
                continue
            self.workers[self.workers.index(dead)] = fresh
            return

    async def _watch(self) -> None:
        """Ends workers that hang; measures what this process spends on a frame."""
        loop = asyncio.get_running_loop()
        used, frames = _cpu_seconds(), self._metrics.frames.value
        while True:
            await asyncio.sleep(1.0)
            for worker in self.workers:
                if not worker.lost and loop.time() - worker.heard_at > SILENT_S:
                    log.error("worker hangs worker=%s", worker.name)
                    worker.kill()
            now_used, now_frames = _cpu_seconds(), self._metrics.frames.value
            if self._config.workers and now_frames - frames >= 20:
                cost = (now_used - used) / (now_frames - frames)
                self.front_cpu_s = 0.8 * self.front_cpu_s + 0.2 * cost
            used, frames = now_used, now_frames

    # Capacity

    def room(self) -> int:
        """How many more sessions may begin, by the limit of the configuration and by measurement."""
        up = [worker for worker in self.workers if not worker.lost]
        taken = sum(len(worker.sessions) for worker in up)
        free = self._config.max_sessions - taken
        cost = max((worker.load.cpu_per_frame for worker in up), default=0.0)
        if cost and up:
            if max(worker.load.missed_share for worker in up) > 0.05:
                return 0 if taken else min(free, 1)
            budget = FULL_SHARE * cores() * FRAME_S
            fit = int(budget / (cost + (self.front_cpu_s if self._config.workers else 0.0)))
            free = min(free, max(1, fit) - taken)  # one is always tried: a slow machine is better than none
        return max(0, free if up else 0)

    def pick(self, opening: int = 0) -> WorkerHandle:
        """The worker with the fewest sessions; ApiError 503 where there is no room."""
        if not any(not worker.lost for worker in self.workers):
            raise ApiError(
                503, "no_worker", "The engine is being started again; try again soon.", {"Retry-After": "3"}
            )
        if self.room() - opening <= 0:
            self._metrics.refused_sessions.inc()
            raise ApiError(
                503, "busy", "All of this server's sessions are in use; try again soon.", {"Retry-After": "5"}
            )
        return min((worker for worker in self.workers if not worker.lost), key=lambda w: len(w.sessions))

    # Photos

    async def enroll(
        self, header: Header, photo: bytes, progress: Callable[[str, float], None]
    ) -> tuple[Header, memoryview]:
        """Make an avatar, in a process that no call depends on. Raises WorkerRefused and WorkerLost."""
        self._enrolling += 1
        try:
            async with self._enroll_lock:
                if not self._config.workers:
                    worker = self.workers[0]
                else:
                    if self._enroller is None or self._enroller.lost:
                        self._enroller = await self._launch("enroller", ENROLL_NICE)
                    worker = self._enroller
                return await worker.ask({"op": "enroll", **header}, photo, progress=progress)
        finally:
            self._enrolling -= 1
            if not self._enrolling and self._enroller is not None and not self._closed:
                self._spawn(self._dismiss(), "dismiss-enroller")

    async def _dismiss(self) -> None:
        """An enroller that nobody needed for half a minute gives its memory back."""
        await asyncio.sleep(30)
        enroller = self._enroller
        if not self._enrolling and enroller is not None:
            self._enroller = None
            await enroller.close()

    async def close(self) -> None:
        """End all workers."""
        self._closed = True
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        workers = [*self.workers, *([self._enroller] if self._enroller else [])]
        await asyncio.gather(*(worker.close() for worker in workers))


def cores() -> int:
    """Cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _cpu_seconds() -> float:
    times = os.times()
    return times.user + times.system
