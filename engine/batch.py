"""Sessions that advance together on the CPU: one call of each motion network a tick for all of them, each drawn on its own.

batch = Batch(8)
session = batch.open(avatar, seed=1)
session.push_audio(pcm, 16000)
for session, frame in batch.tick().items(): ...

`engine.runtime.gpu.worker.Worker` is the same for a device.
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.errors import VisavisError
from visavis.engine.motion.articulation import usable
from visavis.engine.motion.diffusion import MAX_LOOKAHEAD, WEIGHTS, Controls, MotionModel
from visavis.engine.session import Frame, Plan, Session

if TYPE_CHECKING:
    from visavis.engine.avatar import Avatar


class BatchFullError(VisavisError):
    """More sessions than a batch has slots."""

    code = "batch_full"


class SlotSource:
    """One slot of a motion model as a session's `MotionSource`. `step` advances this slot alone; a batch's tick all of them."""

    def __init__(self, model: MotionModel, slot: int) -> None:
        self.lookahead, self.slot, self._model = model.lookahead, slot, model

    @property
    def controls(self) -> Controls:
        """See `Session.controls`."""
        return self._model.controls(self.slot)

    @controls.setter
    def controls(self, controls: Controls) -> None:
        self._model.set_controls(controls, self.slot)

    def step(self, heard: FloatArray) -> FloatArray:
        """See MotionSource."""
        blocks: list[FloatArray | None] = [None] * self._model.slots
        blocks[self.slot] = heard
        return np.asarray(self._model.step(blocks)[self.slot])

    def hush(self) -> None:
        """See MotionSource."""
        self._model.hush(self.slot)


class Batch:
    """Up to `slots` sessions of one look-ahead. Not for several threads at once.

    The networks compute all slots at every tick, taken or not: choose `slots` near what is used. `threads`: of the networks, and for
    drawing several sessions at once.
    """

    def __init__(
        self, slots: int, *, lookahead: int = MAX_LOOKAHEAD, threads: int = 1, weights: Path = WEIGHTS
    ) -> None:
        self._model = MotionModel(range(slots), lookahead, weights, threads)
        self._weights = weights
        self._pool = ThreadPoolExecutor(threads, "visavis-draw") if threads > 1 else None
        self._sessions: dict[Session, int] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, avatar: Avatar | None, *, seed: int = 0, **options: Any) -> Session:
        """A new session in a free slot; `options` as for `Session`. Give it back with `close`. Raises BatchFullError when all
        slots are taken."""
        taken = set(self._sessions.values())
        slot = next((k for k in range(self._model.slots) if k not in taken), None)
        if slot is None:
            raise BatchFullError(f"all {self._model.slots} slots of this batch are taken")
        self._model.reset(slot, seed)
        own = None if avatar is None else avatar.articulation
        self._model.set_articulation(usable(own, self._weights), slot)
        session = Session(avatar, seed=seed, source=SlotSource(self._model, slot), **options)
        self._sessions[session] = slot
        return session

    def tick(self, sessions: Iterable[Session] | None = None) -> dict[Session, Frame | BaseException]:
        """The next frame of all sessions, or of those given: each its frame, or the error of that session alone."""
        chosen = list(self._sessions if sessions is None else sessions)
        out: dict[Session, Frame | BaseException] = {}
        plans: dict[Session, Plan] = {}
        heard: list[FloatArray | None] = [None] * self._model.slots
        for session in chosen:
            try:
                plans[session] = session.plan()
                heard[self._sessions[session]] = plans[session].heard
            except Exception as error:
                out[session] = error
        motion = self._model.step(heard)

        def show(session: Session) -> Frame | BaseException:
            try:
                return session.show(plans[session], motion[self._sessions[session]])
            except Exception as error:
                return error

        mapped = map if self._pool is None else self._pool.map
        out.update(zip(plans, mapped(show, plans), strict=True))
        return {session: out[session] for session in chosen}

    def close(self, session: Session | None = None) -> None:
        """End a session and free its slot; without one, end all of them and the batch."""
        for each in list(self._sessions) if session is None else [session]:
            each.close()
            self._sessions.pop(each, None)
        if session is None and self._pool is not None:
            self._pool.shutdown()
