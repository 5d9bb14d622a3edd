"""The people that a server can show: enrolled by a worker, held in memory, nothing on disk."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import secrets
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visavis.server.config import ServerConfig
from visavis.server.engines import Engine
from visavis.server.errors import ApiError
from visavis.server.learning import Learner, Learning
from visavis.server.metrics import Metrics
from visavis.server.worker_handle import WorkerLost, WorkerRefused
from visavis.server.workers import WorkerPool

log = logging.getLogger(__name__)

DEMO_ID = "demo"
Content = bytes | bytearray
"""A photo's or film's file as it was sent."""


@dataclass
class Entry:
    """One person: `state` goes from "waiting" over "enrolling" to "ready" or "failed"."""

    id: str
    name: str
    shared: bool
    """Everybody may see and use it; the others only who knows the id."""
    state: str = "waiting"
    stage: str = ""
    progress: float = 0.0
    error: dict[str, str] | None = None
    key: str = ""
    """Names this version of the avatar to workers."""
    blob: bytes = b""
    """The avatar as workers pass it on (trusted: made by our own)."""
    picture: bytes = b""
    width: int = 0
    height: int = 0
    consent: str = ""
    owner: str | None = None
    """Who enrolled it: the subject of their token, where tokens are asked for."""
    learning: Learning | None = None
    """Where its mouth is to be learned from its film."""
    used_at: float = field(default_factory=time.monotonic)

    def public(self) -> dict[str, Any]:
        """The JSON that callers see."""
        body: dict[str, Any] = {
            "id": self.id,
            "name": self.name,
            "state": self.state,
            "stage": self.stage,
            "progress": round(self.progress, 3),
            "shared": self.shared,
        }
        if self.error:
            body["error"] = self.error
        if self.blob:
            body["width"], body["height"] = self.width, self.height
        if self.learning:
            body["learning"] = self.learning.public()
        return body


class AvatarStore:
    """Avatars by id. One enrolment runs at a time."""

    def __init__(self, config: ServerConfig, engine: Engine, workers: WorkerPool, metrics: Metrics) -> None:
        self._config = config
        self._workers = workers
        self._engine = engine
        self._metrics = metrics
        self._entries: dict[str, Entry] = {}
        self._learner = Learner(config, engine)
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._uploading = 0
        metrics.gauge("visavis_avatars", "People held in memory.", lambda: len(self._entries))
        metrics.gauge("visavis_learning", "People whose mouths are or will be learned.", self._pending)

    def add_shared(self) -> None:
        """Queue the people named at the start, and the demo person."""
        if self._config.demo:
            photo = self._engine.demo_photo()
            if photo is None:
                log.warning("the demo photo is not installed")
            else:
                self._enqueue(DEMO_ID, "Astronaut", photo, "Public domain", None, shared=True)
        for path in self._config.avatars:
            key = "p" + hashlib.sha256(str(path).encode()).hexdigest()[:12]
            consent = "Given by whoever started the server"
            self._enqueue(key, path.stem, path, consent, None, shared=True)

    def listed(self, subject: str | None = None) -> list[Entry]:
        """The people that everybody may choose, and those of `subject` where callers are known."""
        return [e for e in self._entries.values() if e.shared or (subject is not None and e.owner == subject)]

    def get(self, avatar_id: str, subject: str | None = None) -> Entry:
        """The person, or ApiError 404: also where callers are known and it is another's."""
        entry = self._entries.get(avatar_id)
        if entry is None or not (entry.shared or entry.owner == subject):
            raise ApiError(404, "no_such_avatar", "There is no such avatar; enrol the photo or film again.")
        entry.used_at = time.monotonic()
        return entry

    @staticmethod
    def check_ready(entry: Entry) -> None:
        """ApiError 409 while the person is being prepared, 422 where that failed."""
        if entry.state == "failed":
            assert entry.error is not None
            raise ApiError(422, entry.error["code"], entry.error["message"])
        if not entry.blob:
            raise ApiError(409, "not_ready", "This person is still being prepared.", {"Retry-After": "2"})

    @contextlib.contextmanager
    def place(self) -> Iterator[None]:
        """A place in the queue, taken before an upload is read and held in memory; ApiError 503 where there is none."""
        waiting = sum(e.state in ("waiting", "enrolling") and not e.shared for e in self._entries.values())
        if waiting + self._uploading >= self._config.max_enrollments:
            raise ApiError(
                503, "busy", "Other people are being prepared; try again in a moment.", {"Retry-After": "10"}
            )
        self._uploading += 1
        try:
            yield
        finally:
            self._uploading -= 1

    def _pending(self) -> int:
        return sum(e.learning is not None and e.learning.pending for e in self._entries.values())

    @property
    def learns(self) -> bool:
        """Whether this server can learn from films."""
        return self._learner.obstacle is None

    def enroll(
        self,
        content: Content,
        *,
        name: str,
        consent: str,
        face: int | None,
        owner: str | None = None,
        learn: bool = False,
    ) -> Entry:
        """Queue a photo or film that has a `place`. `learn`: the person's mouth is learned from the film, when it is enrolled;
        ApiError 501 where this server cannot, 503 where too many are to."""
        if learn:
            self._learner.check(self._pending())
        self._make_room()
        return self._enqueue(
            secrets.token_urlsafe(16), name, content, consent, face, shared=False, owner=owner, learn=learn
        )

    def remove(self, entry: Entry) -> None:
        """Forget a person. ApiError 403 for those that the server offers to everybody."""
        if entry.shared:
            raise ApiError(403, "shared_avatar", "This person was given at the server's start and stays.")
        self._forget(entry)

    def _forget(self, entry: Entry) -> None:
        del self._entries[entry.id]
        if entry.learning and entry.learning.pending and entry.blob:  # an enrolment ends by itself
            self._tasks[entry.id].cancel()

    def _make_room(self) -> None:
        own = sorted(
            (e for e in self._entries.values() if not e.shared and e.state in ("ready", "failed")),
            key=lambda e: e.used_at,
        )
        for entry in own[: max(0, len(own) - self._config.max_avatars + 1)]:
            self._forget(entry)

    def _enqueue(
        self,
        key: str,
        name: str,
        photo: Content | Path,
        consent: str,
        face: int | None,
        *,
        shared: bool,
        owner: str | None = None,
        learn: bool = False,
    ) -> Entry:
        entry = self._entries[key] = Entry(key, name, shared, consent=consent, owner=owner)
        entry.learning = Learning() if learn else None
        task = asyncio.create_task(self._bring_up(entry, photo, consent, face), name=f"enroll-{key}")
        self._tasks[key] = task
        task.add_done_callback(lambda _: self._tasks.pop(key, None))
        return entry

    async def _bring_up(self, entry: Entry, photo: Content | Path, consent: str, face: int | None) -> None:
        await self._prepare(entry, photo, consent, face)
        if entry.learning and entry.state == "ready" and entry.id in self._entries:
            assert not isinstance(photo, Path)
            learned = await self._learner.learn(entry.learning, entry.blob, photo)
            if learned is not None:
                entry.blob, entry.key = learned, secrets.token_urlsafe(12)
        elif entry.learning:
            entry.learning.state, entry.learning.message = "failed", "The film could not be used."

    async def _prepare(self, entry: Entry, photo: Content | Path, consent: str, face: int | None) -> None:
        def progress(stage: str, share: float) -> None:
            entry.stage, entry.progress = stage, min(1.0, max(entry.progress, share))

        path = photo if isinstance(photo, Path) else None
        request = {
            "path": str(path) if path else None,
            "face": face,
            "size": self._config.size,
            "consent": consent,
            "name": entry.name,
        }
        began = time.monotonic()
        entry.state = "enrolling"
        try:
            answer, data = await self._workers.enroll(
                request, b"" if isinstance(photo, Path) else photo, progress
            )
        except WorkerRefused as error:
            message = str(error).replace(str(path), path.name) if path else str(error)
            entry.state, entry.error = "failed", {"code": error.code, "message": message}
        except WorkerLost as error:
            entry.state, entry.error = (
                "failed",
                {"code": error.code, "message": "This could not be prepared."},
            )
        else:
            await self._workers.up.wait()  # ready is who can be called
            entry.picture = bytes(data[: answer["picture"]])
            entry.blob = bytes(data[answer["picture"] :])
            entry.key = secrets.token_urlsafe(12)
            entry.width, entry.height, entry.name = answer["width"], answer["height"], answer["name"]
            entry.state, entry.progress = "ready", 1.0
            self._metrics.enrollments.inc()
            log.info("avatar ready avatar=%s seconds=%.1f", entry.id, time.monotonic() - began)
            return
        self._metrics.enrollment_failures.inc()
        log.info("avatar refused avatar=%s code=%s", entry.id, entry.error["code"])

    async def close(self) -> None:
        """Stop what waits, and who learns; what runs in the thread ends by itself."""
        tasks = list(self._tasks.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
