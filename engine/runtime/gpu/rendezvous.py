"""Sessions that run side by side and meet where a batch can serve them all.

Each session's step is ordinary code on a thread of its own. Where it needs the device it joins a stage and waits; when
every session of the tick waits (or is done), the earliest stage runs once for all that wait there, under a mask.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, TypeVar

T = TypeVar("T")


@dataclass
class _Visit:
    """One session waiting at one stage."""

    slot: int
    request: Any
    done: bool = False
    answer: Any = None
    error: BaseException | None = None


@dataclass(eq=False)
class Stage:
    """Work for a batch: `run` takes what each slot asks, gives what each gets. Lower `order` goes first where several wait."""

    order: int
    run: Callable[[dict[int, Any]], dict[int, Any]]
    waiting: list[_Visit] = field(default_factory=list)


class Rendezvous:
    """A meeting point of up to `slots` sessions."""

    def __init__(self, slots: int) -> None:
        self._threads = ThreadPoolExecutor(slots, "visavis-slot")
        self._change = threading.Condition()
        self._stages: list[Stage] = []
        self._moving = 0
        self._ticking = False
        self.runs = 0
        """Batches run so far."""

    def stage(self, order: int, run: Callable[[dict[int, Any]], dict[int, Any]]) -> Stage:
        """A new stage."""
        stage = Stage(order, run)
        with self._change:
            self._stages.append(stage)
            self._stages.sort(key=lambda s: s.order)
        return stage

    def visit(self, stage: Stage, slot: int, request: Any) -> Any:
        """Wait until the stage has run with this slot's request; its answer, or the error that the run raised.

        Outside a tick the stage runs at once, for this slot alone.
        """
        visit = _Visit(slot, request)
        with self._change:
            stage.waiting.append(visit)
            if self._ticking:
                self._moving -= 1
            if self._moving == 0:
                self._run_earliest()
            while not visit.done:
                self._change.wait()
        if visit.error is not None:
            raise visit.error
        return visit.answer

    def tick(self, steps: Sequence[Callable[[], T]]) -> list[T | BaseException]:
        """Run one step of each session side by side; what each gave, or the error that it raised."""

        def guarded(step: Callable[[], T]) -> T | BaseException:
            try:
                return step()
            except BaseException as error:
                return error
            finally:
                with self._change:
                    self._moving -= 1
                    if self._moving == 0:
                        self._run_earliest()

        with self._change:
            if self._ticking:
                raise RuntimeError("one tick at a time")
            self._moving, self._ticking = len(steps), True
        try:
            return [f.result() for f in [self._threads.submit(guarded, step) for step in steps]]
        finally:
            with self._change:
                self._ticking = False

    def close(self) -> None:
        """End the threads."""
        self._threads.shutdown()

    def _run_earliest(self) -> None:
        """With the lock held, and nobody moving: serve the first stage at which somebody waits."""
        stage = next((s for s in self._stages if s.waiting), None)
        if stage is None:
            return
        visits, stage.waiting = stage.waiting, []
        answers: dict[int, Any] = {}
        error: BaseException | None = None
        try:
            answers = stage.run({v.slot: v.request for v in visits})
            self.runs += 1
        except BaseException as failure:
            error = failure
        for visit in visits:
            visit.answer, visit.error, visit.done = answers.get(visit.slot), error, True
        if self._ticking:
            self._moving += len(visits)
        self._change.notify_all()
