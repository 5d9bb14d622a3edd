"""Learning people's mouths from films while calls go on: one at a time, in a process that gets what nobody else wants of the processor.

The person can be called meanwhile; whoever learned takes the place of who was enrolled. The process has a folder for its temporary files that
is removed when it has ended, however it ended.
"""

from __future__ import annotations

import asyncio
import logging
import tempfile
import time
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from visavis.server.config import ServerConfig
from visavis.server.engines import Engine, make_engine
from visavis.server.errors import ApiError
from visavis.server.link import Buffer
from visavis.server.worker_handle import WorkerHandle, WorkerLost, WorkerRefused, start_process

log = logging.getLogger(__name__)

LEARN_NICE = 19
"""The lowest: see `worker_process`."""
START_S = 600.0
"""Between calls that take the whole machine, a process of the lowest priority takes long to start."""


@dataclass
class Learning:
    """What callers see of it: `state` goes from "waiting" over "running" to "done", "nothing_gained" or "failed"."""

    state: str = "waiting"
    stage: str = ""
    progress: float = 0.0
    message: str = ""
    """What came of it, in words."""

    @property
    def pending(self) -> bool:
        """Waits or runs."""
        return self.state in ("waiting", "running")

    def public(self) -> dict[str, Any]:
        """The JSON that callers see."""
        body: dict[str, Any] = {"state": self.state, "stage": self.stage, "progress": round(self.progress, 3)}
        return body | ({"message": self.message} if self.message else {})

    def report(self, stage: str, share: float) -> None:
        """How far it has come."""
        self.stage, self.progress = stage, min(1.0, max(self.progress, share))


class Learner:
    """All that wait, in their order. The engine that learns is made of `config.engine_factory`, also where calls are made by `engine` in a thread."""

    def __init__(self, config: ServerConfig, engine: Engine) -> None:
        self._config = config
        self._engine = engine
        self._turn = asyncio.Lock()

    @cached_property
    def obstacle(self) -> str | None:
        """Why this server cannot learn, in words for its callers; None: it can."""
        if not self._config.generator:
            return "This server shows the moved photo alone, without the video network that learns."
        engine = make_engine(self._config.engine_factory)
        another = not self._config.workers and type(engine) is not type(self._engine)
        if another or not hasattr(engine, "learn"):
            return "This server's engine does not learn."
        why: str | None = engine.learning_obstacle()
        return why

    def check(self, others: int) -> None:
        """ApiError 501 where this server cannot learn, 503 where too many others are to."""
        if self.obstacle is not None:
            raise ApiError(501, "cannot_learn", f"{self.obstacle} Send the film without 'learn'.")
        if others >= self._config.max_learning:
            raise ApiError(
                503,
                "busy",
                "Other people are learning; try again later, or send the film without 'learn'.",
                {"Retry-After": "120"},
            )

    async def learn(self, learning: Learning, avatar: Buffer, film: Buffer) -> bytes | None:
        """The avatar, pickled as workers pass it on, with what it learned; None where it gained nothing or failed: `learning` says so."""
        began = time.monotonic()
        try:
            async with self._turn:
                learning.state = "running"
                with tempfile.TemporaryDirectory(prefix="visavis-learner-") as place:
                    answer, learned = await self._ask(learning, Path(place), avatar, film)
            learning.message = answer["said"]
            learning.state = "done" if answer["gained"] else "nothing_gained"
            learning.progress = 1.0
            return bytes(learned) if answer["gained"] else None
        except WorkerRefused as error:
            learning.state, learning.message = "failed", str(error)
        except (WorkerLost, TimeoutError, OSError):
            learning.state, learning.message = "failed", "The process that learned ended."
        finally:
            state = "cancelled" if learning.pending else learning.state
            log.info("learning ended state=%s seconds=%.1f", state, time.monotonic() - began)
        return None

    async def _ask(
        self, learning: Learning, place: Path, avatar: Buffer, film: Buffer
    ) -> tuple[dict[str, Any], memoryview]:
        worker = start_process(
            self._config.engine_factory, "learner", LEARN_NICE, live=False, temporary=place
        )
        try:
            await worker.start(START_S)
            return await worker.ask(
                {"op": "learn", "film": len(film)}, film, avatar, progress=learning.report
            )
        finally:
            await _end(worker)


async def _end(worker: WorkerHandle) -> None:
    """At once: it has answered, or nobody waits for its answer any more."""
    worker.kill()
    await worker.close()
