"""One worker as the server sees it: its link, the answers that are waited for, what its heartbeats say."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visavis.engine.errors import VisavisError
from visavis.server.engines import Engine
from visavis.server.host import WorkerHost
from visavis.server.link import Header, Link, LinkClosed, pair
from visavis.server.worker_process import OWN_FOLDER

START_S = 60.0


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

    async def start(self, within_s: float = START_S) -> None:
        """Begin to read and write; returns when the worker has said hello. TimeoutError where it does not, WorkerLost where it ends."""
        self._loop = asyncio.get_running_loop()
        self._hello: asyncio.Future[None] = self._loop.create_future()
        self.heard_at = self._loop.time()
        for target in (self._read, self._write):
            threading.Thread(target=target, name=f"link-{self.name}", daemon=True).start()
        async with asyncio.timeout(within_s):
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


def start_process(
    factory: str, name: str, nice: int, *, live: bool = True, temporary: Path | None = None
) -> WorkerHandle:
    """A worker in a process of its own: not yet started. `factory` is "module:Engine"; `live`: it is to carry calls; `temporary`: folder
    for its temporary files, which goes with the process; the usual one where there is none."""
    link, theirs = pair()
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "visavis.server.worker_process",
            str(theirs.fileno()),
            factory,
            str(nice),
            str(int(live)),
        ],
        pass_fds=(theirs.fileno(),),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        env=None
        if temporary is None
        else {**os.environ, "TMPDIR": str(temporary), OWN_FOLDER: str(temporary)},
        process_group=0,  # Ctrl-C is for the server, which lets calls end first
    )
    theirs.close()
    return WorkerHandle(name, link, process)
