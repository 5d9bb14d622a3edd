"""The inside of a worker: all its sessions on one clock, stepped as one batch or each in turn by a pool of threads.

A worker owns one device. At every tick of its clock (40 ms) each session that somebody watches makes one frame, which leaves through the
link with the number of the tick as its stamp. A session is an actor: its steps and commands run one at a time, in
order, in any thread of the pool, so that a session that stalls keeps one thread and nobody else. A tick that comes while a session still
computes the one before is left out for that session.

Where the engine has a `tick` (a GPU), the pool is one thread, and the frames of all watched sessions are one call of it; enrolment has a
thread of its own.
"""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
from visavis.engine.errors import VisavisError
from visavis.engine.timing import FPS
from visavis.kernels import rgb_to_i420
from visavis.server.controls import change
from visavis.server.engines import BatchEngine, Engine, FrameLike, ImageArray, LearningEngine, SessionLike
from visavis.server.governor import Governor, Quality
from visavis.server.link import Header, Link, LinkClosed

log = logging.getLogger(__name__)

FRAME_S = 1.0 / FPS
STALL_S = 0.08
"""A clock that is this far behind gives up the missed ticks instead of hurrying through them: two frames are what a receiver's
buffer takes up unseen. Speech is not lost by it: the engine goes on where it was, the stamps jump."""
LIVE_BLOCKS = 50
"""Microphone blocks (20 ms) that wait for the next step at most."""
WARM_FRAMES = 4
"""Frames that a session makes before anybody sees it: first inferences, caches, the cost of a frame."""
HEARTBEAT_S = 1.0
KNOWN_AVATARS = 8
"""People that a worker keeps unpacked; the one unused for longest makes room."""


@dataclass(eq=False)
class Slot:
    """One session in a worker."""

    id: str
    session: SessionLike
    governor: Governor | None = None
    """None where nothing can be left out."""
    generation: int = 0
    """How many times the speech was cleared; what was asked for before is stale."""
    missed: int = 0
    """Ticks left out since the last frame."""
    watched: bool = False
    stepping: bool = False
    closed: bool = False
    live: deque[tuple[npt.NDArray[np.int16], int]] = field(default_factory=lambda: deque(maxlen=LIVE_BLOCKS))
    mail: deque[Callable[[], None]] = field(default_factory=deque)
    running: bool = False
    lock: threading.Lock = field(default_factory=threading.Lock)


class WorkerHost:
    """Serves one link until it closes: `run()` blocks."""

    def __init__(self, engine: Engine, link: Link, *, threads: int = 16) -> None:
        self._engine = engine
        self._link = link
        self._slots: dict[str, Slot] = {}
        self._avatars: OrderedDict[str, Any] = OrderedDict()
        self._batch = cast(BatchEngine, engine) if hasattr(engine, "tick") else None
        self._ticking = False
        self._pool = ThreadPoolExecutor(1 if self._batch else threads, thread_name_prefix="worker-step")
        self._aside = ThreadPoolExecutor(1, thread_name_prefix="worker-aside") if self._batch else self._pool
        self._anchor = time.monotonic()
        self._stop = threading.Event()
        self._frames = self._missed = 0

    def run(self) -> None:
        """Commands until the other side is gone; then everything of this worker has ended."""
        clock = threading.Thread(target=self._clock, name="worker-clock", daemon=True)
        try:
            self._send({"op": "hello", "anchor": self._anchor, "pid": os.getpid()})
            clock.start()
            while True:
                header, payload = self._link.receive()
                try:
                    self._obey(header, payload)
                except Exception:  # a worker outlives every message
                    log.exception("command failed op=%s", header.get("op"))
        except LinkClosed:
            pass
        finally:
            self._stop.set()
            if clock.ident is not None:
                clock.join()
            for slot in list(self._slots.values()):
                slot.closed = True
                self._post(slot, slot.session.close)
            self._pool.shutdown(wait=True, cancel_futures=False)
            self._aside.shutdown(wait=True)
            self._link.close()

    def _send(self, header: Header, *parts: Any) -> None:
        try:
            self._link.send(header, *parts)
        except LinkClosed:
            self._stop.set()

    # Commands

    def _obey(self, header: Header, payload: memoryview) -> None:
        op = header["op"]
        if op == "open":
            self._pool.submit(self._answer, header, lambda: self._open(header, payload))
            return
        if op == "enroll":
            self._aside.submit(self._answer, header, lambda: self._enroll(header, payload))
            return
        if op == "learn":
            self._aside.submit(self._answer, header, lambda: self._learn(header, payload))
            return
        slot = self._slots.get(header["session"])
        if slot is None:
            if "request" in header:
                self._refuse(header, "session_closed", "This session has ended; make a new one.")
            return
        if op == "live":
            slot.live.append((np.frombuffer(payload, "<i2"), int(header["rate"])))
        elif op == "watch":
            slot.watched = bool(header["on"])
        elif op == "late":
            slot.missed += 1
        elif op == "push":
            self._post(slot, lambda: self._answer(header, lambda: self._push(slot, header, payload)))
        elif op == "commit":
            self._post(slot, lambda: self._answer(header, lambda: self._commit(slot, header)))
        elif op == "clear":
            slot.generation = int(header["generation"])
            slot.live.clear()
            self._post(
                slot, lambda: self._answer(header, lambda: {"dropped": slot.session.clear()}), first=True
            )
        elif op == "control":
            # in its turn, not before others like a `clear`: the later of two changes is the one that stays
            self._post(
                slot,
                lambda: self._answer(header, lambda: {"controls": change(slot.session, header["controls"])}),
            )
        elif op == "close":
            slot.closed = True
            self._slots.pop(slot.id, None)
            self._post(slot, lambda: self._answer(header, lambda: self._close(slot)))

    def _answer(self, header: Header, work: Callable[[], Any]) -> None:
        """Do what a request asks and send the result, or why not."""
        try:
            result = work()
        except VisavisError as error:
            self._refuse(header, error.code, str(error))
        except LinkClosed:  # nobody waits for it any more
            return
        except Exception:
            log.exception("%s failed session=%s", header["op"], header.get("session"))
            self._refuse(header, "internal", "Something went wrong inside the server; its log says what.")
        else:
            parts = result.pop("parts", ()) if isinstance(result, dict) else ()
            self._send({"op": "done", "request": header["request"], **(result or {})}, *parts)

    def _refuse(self, header: Header, code: str, message: str) -> None:
        self._send({"op": "refused", "request": header["request"], "code": code, "message": message})

    def _open(self, header: Header, payload: memoryview) -> dict[str, Any]:
        key = header["avatar"]
        if payload:
            self._avatars[key] = pickle.loads(payload)
        elif key not in self._avatars:
            return {"unknown": True}
        self._avatars.move_to_end(key)
        while len(self._avatars) > KNOWN_AVATARS:
            self._avatars.popitem(last=False)
        session = self._engine.session(
            self._avatars[key],
            seed=header["seed"],
            lookahead=header["lookahead"],
            max_queue_s=header["max_queue_s"],
            generator=header["generator"],
        )
        controls = change(session, header["controls"])
        alone = not any(slot.watched for slot in self._slots.values())
        used, began = time.process_time(), time.perf_counter()
        for _ in range(WARM_FRAMES):
            if _ == 1:  # the first carries one-time costs
                used, began = time.process_time(), time.perf_counter()
            _planar(session.step().image)
        frames = WARM_FRAMES - 1
        governor = _governor(session)
        slot = self._slots[header["session"]] = Slot(header["session"], session, governor)
        return {
            "session": slot.id,
            "controls": controls,
            "cpu_s": (time.process_time() - used) / frames if alone else None,
            "step_s": (time.perf_counter() - began) / frames,
        }

    def _push(self, slot: Slot, header: Header, payload: memoryview) -> dict[str, Any]:
        if slot.generation == header["generation"]:  # else it was cleared before it was heard
            slot.session.push_audio(np.frombuffer(payload, "<i2"), header["rate"], live=False)
        return {"queued": slot.session.queued_seconds}

    def _commit(self, slot: Slot, header: Header) -> dict[str, Any]:
        if slot.generation == header["generation"]:
            slot.session.commit()
        return {}

    def _close(self, slot: Slot) -> dict[str, Any]:
        slot.session.close()
        return {}

    def _progress(self, header: Header) -> Callable[[str, float], None]:
        """Tells the other side how far a request has come. LinkClosed, which ends the work, where the other side is gone."""
        last = 0.0

        def progress(stage: str, share: float) -> None:
            nonlocal last
            if self._stop.is_set():
                raise LinkClosed("nobody waits")
            if time.monotonic() - last > 0.03:
                last = time.monotonic()
                self._send({"op": "progress", "request": header["request"], "stage": stage, "share": share})

        return progress

    def _enroll(self, header: Header, payload: memoryview) -> dict[str, Any]:
        path = Path(header["path"]) if header.get("path") else None
        if path is not None and path.suffix.lower() == ".avatar":
            avatar = self._engine.load(path)
        else:
            avatar = self._engine.enroll(
                path if path is not None else bytes(payload),
                face=header["face"],
                size=header["size"],
                consent=header["consent"],
                name=header["name"],
                progress=self._progress(header),
            )
        picture = _jpeg(self._engine.picture(avatar))
        return {
            "name": str(getattr(avatar, "metadata", {}).get("name") or header["name"]),
            "width": int(avatar.width),
            "height": int(avatar.height),
            "picture": len(picture),
            "parts": (picture, pickle.dumps(avatar, protocol=5)),
        }

    def _learn(self, header: Header, payload: memoryview) -> dict[str, Any]:
        film, avatar = bytes(payload[: header["film"]]), pickle.loads(payload[header["film"] :])
        learned, said = cast(LearningEngine, self._engine).learn(
            avatar, film, progress=self._progress(header)
        )
        parts = () if learned is None else (pickle.dumps(learned, protocol=5),)
        return {"gained": learned is not None, "said": said, "parts": parts}

    # Sessions as actors

    def _post(self, slot: Slot, job: Callable[[], None], *, first: bool = False) -> None:
        with slot.lock:
            slot.mail.appendleft(job) if first else slot.mail.append(job)
            if slot.running:
                return
            slot.running = True
        self._pool.submit(self._work, slot)

    def _work(self, slot: Slot) -> None:
        while True:
            with slot.lock:
                if not slot.mail:
                    slot.running = False
                    return
                job = slot.mail.popleft()
            try:
                job()
            except Exception as error:
                self._fail(slot, error)

    def _fail(self, slot: Slot, error: BaseException) -> None:
        log.error("session failed session=%s", slot.id, exc_info=error)
        self._slots.pop(slot.id, None)
        slot.closed = True
        self._send({"op": "failed", "session": slot.id})
        with contextlib.suppress(Exception):
            slot.session.close()

    def _step(self, slot: Slot, stamp: int, due: float) -> None:
        if slot.closed:
            return
        try:
            began = time.perf_counter()
            taken = self._hear(slot)
            frame = slot.session.step()
            self._leave(slot, frame, taken, stamp, due, began, time.perf_counter())
            if not getattr(frame, "repeated", False):
                self._govern(slot, time.monotonic() - due)
        finally:
            slot.stepping = False

    def _step_all(self, batch: BatchEngine, slots: Sequence[Slot], stamp: int, due: float) -> None:
        """One frame of all these sessions by one call; what fails alone ends alone."""
        try:
            began = time.perf_counter()
            taken: dict[Slot, tuple[int, float]] = {}
            for slot in slots:
                if slot.closed:
                    continue
                try:
                    taken[slot] = self._hear(slot)
                except Exception as error:
                    self._fail(slot, error)
            try:
                frames = batch.tick([slot.session for slot in taken])
            except Exception as error:  # then it is nobody's own
                frames = [error] * len(taken)
            stepped = time.perf_counter()
            for (slot, heard), frame in zip(taken.items(), frames, strict=True):
                if isinstance(frame, BaseException):
                    self._fail(slot, frame)
                else:
                    self._leave(slot, frame, heard, stamp, due, began, stepped)
        finally:
            self._ticking = False

    @staticmethod
    def _hear(slot: Slot) -> tuple[int, float]:
        """Give a session what its microphone said. The generation that the next frame belongs to, and the seconds heard."""
        generation, heard = slot.generation, 0.0
        while slot.live:
            pcm, rate = slot.live.popleft()
            slot.session.push_audio(pcm, rate, live=True)
            heard += len(pcm) / rate
        return generation, heard

    def _leave(
        self,
        slot: Slot,
        frame: FrameLike,
        taken: tuple[int, float],
        stamp: int,
        due: float,
        began: float,
        stepped: float,
    ) -> None:
        """Send a frame and its sound; `began`, `stepped`: performance counters about the step."""
        # the other side still has a repeated one
        picture = [] if getattr(frame, "repeated", False) else [_planar(frame.image)]
        self._frames += 1
        self._send(
            {
                "op": "pair",
                "session": slot.id,
                "stamp": stamp,
                "due": due,
                "rows": picture[0].shape[0] if picture else 0,
                "speech": frame.speech_index is not None,
                "generation": taken[0],
                "heard": taken[1],
                "queued": slot.session.queued_seconds,
                "began": time.monotonic() - (time.perf_counter() - began),
                "step_s": stepped - began,
                "convert_s": time.perf_counter() - stepped,
                "stages": getattr(slot.session, "stages", {}),
                "reduced": slot.session.reduced,
                "halved": getattr(slot.session, "halved", False),
            },
            *picture,
            frame.audio,
        )

    def _govern(self, slot: Slot, took_s: float) -> None:
        """Leave out what makes frames late, the video network first, and put it in again."""
        if slot.governor is None:
            return
        missed, slot.missed = slot.missed, 0
        before = quality = slot.governor.quality
        for late_s in (*[float("inf")] * missed, took_s):
            quality = slot.governor.frame(late_s, time.monotonic())
        if quality is before:
            return
        if slot.governor.best is Quality.FULL:
            slot.session.reduced = quality >= Quality.WARP
        if slot.governor.worst is Quality.HALVED:
            slot.session.halved = quality is Quality.HALVED  # type: ignore[attr-defined]
        log.info("quality session=%s %s", slot.id, quality.name.lower())

    # The clock

    def _tick(self, batch: BatchEngine, slots: Sequence[Slot], tick: int, due: float) -> None:
        """All sessions as one batch, unless the one before is still on its way."""
        if not slots:
            return
        if self._ticking:
            self._missed += len(slots)
            return
        self._ticking = True
        self._pool.submit(self._step_all, batch, slots, tick, due)

    def _clock(self) -> None:
        tick = 0
        beat = time.monotonic()
        while not self._stop.is_set():
            due = self._anchor + tick * FRAME_S
            now = time.monotonic()
            if now - due > STALL_S:
                skipped = int((now - due) / FRAME_S) + 1
                tick += skipped
                if any(slot.watched for slot in self._slots.values()):
                    log.warning("clock re-anchored after a stall of %d ms", round((now - due) * 1000))
                continue
            if due > now and self._stop.wait(due - now):
                return
            slots = [slot for slot in self._slots.copy().values() if slot.watched and not slot.closed]
            if self._batch is not None:
                self._tick(self._batch, slots, tick, due)
                slots_in_turn: list[Slot] = []
            else:
                turn = tick % max(1, len(slots))
                slots_in_turn = slots[turn:] + slots[:turn]  # each is first in turn
            for slot in slots_in_turn:
                if slot.stepping:
                    self._missed += 1
                    slot.missed += 1
                    continue
                slot.stepping = True
                self._post(slot, lambda slot=slot, tick=tick, due=due: self._step(slot, tick, due))  # type: ignore[misc]
            tick += 1
            if time.monotonic() - beat > HEARTBEAT_S:
                beat = time.monotonic()
                self._send(
                    {
                        "op": "beat",
                        "cpu_s": time.process_time(),
                        "frames": self._frames,
                        "missed": self._missed,
                        "watched": len(slots),
                        "at": beat,
                    }
                )


def _governor(session: SessionLike) -> Governor | None:
    """What watches over a session's frames; None where it can leave nothing out."""
    best = Quality.FULL if not session.reduced and getattr(session, "reducible", True) else Quality.WARP
    worst = Quality.HALVED if hasattr(session, "halved") else Quality.WARP
    return Governor(best, worst) if best < worst else None


def _planar(image: ImageArray) -> ImageArray:
    """A frame as I420 (H * 3 / 2, W): as it is where a device has made it so."""
    return image if image.ndim == 2 else rgb_to_i420(image)


def _jpeg(image: Any) -> bytes:
    import cv2

    ok, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, 88])
    if not ok:
        raise RuntimeError("the picture could not be encoded")
    return data.tobytes()
