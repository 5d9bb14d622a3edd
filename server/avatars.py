"""The people that a server can show: enrolled in a worker thread, held in memory, nothing on disk."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from visavis.engine.errors import VisavisError
from visavis.server.config import ServerConfig
from visavis.server.engines import Engine
from visavis.server.errors import ApiError
from visavis.server.metrics import Metrics

log = logging.getLogger(__name__)

DEMO_ID = "demo"
PICTURE_QUALITY = 88


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
    avatar: Any = None
    picture: bytes = b""
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
        if self.avatar is not None:
            body["width"], body["height"] = int(self.avatar.width), int(self.avatar.height)
        return body


class AvatarStore:
    """Avatars by id. One enrolment runs at a time, in a thread of its own."""

    def __init__(self, config: ServerConfig, engine: Engine, metrics: Metrics) -> None:
        self._config = config
        self._engine = engine
        self._metrics = metrics
        self._entries: dict[str, Entry] = {}
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="enroll", initializer=_step_back)
        self._tasks: set[asyncio.Task[None]] = set()
        metrics.gauge("visavis_avatars", "People held in memory.", lambda: len(self._entries))

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

    def listed(self) -> list[Entry]:
        """The people that everybody may choose."""
        return [entry for entry in self._entries.values() if entry.shared]

    def get(self, avatar_id: str) -> Entry:
        """The person, or ApiError 404."""
        entry = self._entries.get(avatar_id)
        if entry is None:
            raise ApiError(404, "no_such_avatar", "There is no such avatar; enrol the photo again.")
        entry.used_at = time.monotonic()
        return entry

    def ready(self, avatar_id: str) -> Any:
        """The engine's avatar, or ApiError 404, 409 while it is being prepared, 422 where that failed."""
        entry = self.get(avatar_id)
        if entry.state == "failed":
            assert entry.error is not None
            raise ApiError(422, entry.error["code"], entry.error["message"])
        if entry.avatar is None:
            raise ApiError(409, "not_ready", "This person is still being prepared.", {"Retry-After": "2"})
        return entry.avatar

    def enroll(self, photo: bytes, *, name: str, consent: str, face: int | None) -> Entry:
        """Queue a photo; ApiError 503 where too many wait."""
        waiting = sum(e.state in ("waiting", "enrolling") and not e.shared for e in self._entries.values())
        if waiting >= self._config.max_enrollments:
            raise ApiError(
                503, "busy", "Other photos are being prepared; try again in a moment.", {"Retry-After": "10"}
            )
        self._make_room()
        return self._enqueue(secrets.token_urlsafe(16), name, photo, consent, face, shared=False)

    async def remove(self, avatar_id: str) -> None:
        """Forget a person. ApiError 403 for those that the server offers to everybody."""
        if self.get(avatar_id).shared:
            raise ApiError(403, "shared_avatar", "This person was given at the server's start and stays.")
        del self._entries[avatar_id]

    def _make_room(self) -> None:
        own = sorted(
            (e for e in self._entries.values() if not e.shared and e.state in ("ready", "failed")),
            key=lambda e: e.used_at,
        )
        for entry in own[: max(0, len(own) - self._config.max_avatars + 1)]:
            del self._entries[entry.id]

    def _enqueue(
        self,
        key: str,
        name: str,
        photo: bytes | Path,
        consent: str,
        face: int | None,
        *,
        shared: bool,
    ) -> Entry:
        entry = self._entries[key] = Entry(key, name, shared)
        task = asyncio.create_task(self._prepare(entry, photo, consent, face), name=f"enroll-{key}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return entry

    async def _prepare(self, entry: Entry, photo: bytes | Path, consent: str, face: int | None) -> None:
        def progress(stage: str, share: float) -> None:
            entry.stage, entry.progress = stage, min(1.0, max(entry.progress, share))

        def work() -> tuple[Any, bytes]:
            entry.state = "enrolling"
            if isinstance(photo, Path) and photo.suffix.lower() == ".avatar":
                avatar = self._engine.load(photo)
            else:
                avatar = self._engine.enroll(
                    photo,
                    face=face,
                    size=self._config.size,
                    consent=consent,
                    name=entry.name,
                    progress=progress,
                )
            return avatar, _jpeg(self._engine.picture(avatar))

        began = time.monotonic()
        try:
            avatar, picture = await asyncio.get_running_loop().run_in_executor(self._thread, work)
        except VisavisError as error:
            message = str(error).replace(str(photo), photo.name) if isinstance(photo, Path) else str(error)
            entry.state, entry.error = "failed", {"code": error.code, "message": message}
        except asyncio.CancelledError:
            raise
        except Exception:
            log.exception("enrolment failed avatar=%s", entry.id)
            entry.state = "failed"
            entry.error = {
                "code": "internal",
                "message": "The photo could not be prepared; the server's log says why.",
            }
        else:
            entry.avatar, entry.picture = avatar, picture
            entry.name = str(getattr(avatar, "metadata", {}).get("name") or entry.name)
            entry.state, entry.progress = "ready", 1.0
            self._metrics.enrollments.inc()
            log.info("avatar ready avatar=%s seconds=%.1f", entry.id, time.monotonic() - began)
            return
        self._metrics.enrollment_failures.inc()
        log.info("avatar refused avatar=%s code=%s", entry.id, entry.error["code"])

    async def close(self) -> None:
        """Stop what waits; what runs in the thread ends by itself."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self._thread.shutdown(wait=False, cancel_futures=True)


def _step_back() -> None:
    """Lower this thread's priority: a photo that takes a second longer hurts less than a call that stutters."""
    if sys.platform == "linux":  # elsewhere a priority belongs to the whole process
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)


def _jpeg(image: Any) -> bytes:
    import cv2

    ok, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, PICTURE_QUALITY])
    if not ok:
        raise RuntimeError("the picture could not be encoded")
    return data.tobytes()
