"""Workers as the server sees them: started, asked, watched, started again when they die; and which of them takes a new session."""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable
from typing import Any

from visavis.server.config import ServerConfig
from visavis.server.engines import Engine
from visavis.server.errors import ApiError
from visavis.server.host import FRAME_S
from visavis.server.link import Header
from visavis.server.metrics import Metrics
from visavis.server.worker_handle import WorkerHandle, WorkerLost, start_process, start_thread

log = logging.getLogger(__name__)

SILENT_S = 20.0
"""A worker that sends nothing for this long, though it beats every second, hangs: it is ended and started again."""
RESTART_S = (0.2, 1.0, 3.0, 10.0)
"""How long to wait before a worker that died is started again; it counts from the start after a minute of life."""
WORKER_NICE, ENROLL_NICE = 2, 10
"""Sockets and encoders first, then frames, then photos and films: who waits for one waits a second longer, a call would stutter."""
FULL_SHARE = 0.9
"""Share of the cores that sessions may take by measurement; the rest is for what was not measured."""
FRONT_CPU_S = 0.004
"""Encoding and sending of one frame, until it is measured."""


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
            # an enroller that also tried what the video network costs would disturb the workers in doing so
            worker = start_process(self._config.engine_factory, name, nice, live=nice != ENROLL_NICE)
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
        self, header: Header, photo: bytes | bytearray, progress: Callable[[str, float], None]
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
