"""The application: parts put together, started, and ended without leaving anything behind."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from aiohttp import web
from visavis.server import encoders
from visavis.server.avatars import AvatarStore
from visavis.server.config import ServerConfig
from visavis.server.engines import Engine, VisavisEngine
from visavis.server.errors import errors_middleware
from visavis.server.limits import RateLimit
from visavis.server.metrics import Metrics
from visavis.server.registry import SessionRegistry
from visavis.server.routes import AVATARS, CONFIG, ENGINE, GUARD, LIMITS, METRICS, SESSIONS, WORKERS, routes
from visavis.server.routes_people import people_routes
from visavis.server.security import Guard, security_middleware
from visavis.server.workers import WorkerPool


def create_app(config: ServerConfig | None = None, engine: Engine | None = None) -> web.Application:
    """The server as an aiohttp application. `engine` is the real one unless another is given (tests)."""
    config = config or ServerConfig()
    engine = engine or VisavisEngine()
    middlewares: list[Any] = [security_middleware(config), errors_middleware]
    largest = max(config.max_photo_bytes, config.max_film_bytes) + (1 << 16)
    app = web.Application(middlewares=middlewares, client_max_size=largest)
    metrics = Metrics()
    app[CONFIG] = config
    app[ENGINE] = engine
    app[METRICS] = metrics
    app[GUARD] = Guard(config)
    app[LIMITS] = {
        "sessions": RateLimit(config.sessions_per_minute / 60, config.sessions_per_minute),
        "enrollments": RateLimit(config.enrollments_per_minute / 60, config.enrollments_per_minute),
    }
    app[WORKERS] = WorkerPool(config, engine, metrics)
    app[AVATARS] = AvatarStore(config, engine, app[WORKERS], metrics)
    app[SESSIONS] = SessionRegistry(config, app[WORKERS], app[AVATARS], metrics)
    app.add_routes(routes)
    app.add_routes(people_routes)
    app.cleanup_ctx.append(_lifetime)
    app.on_shutdown.append(_end_sessions)
    return app


async def _lifetime(app: web.Application) -> AsyncIterator[None]:
    encoders.observe_encode = app[METRICS].encode_seconds.observe
    await app[WORKERS].start()
    app[AVATARS].add_shared()
    reaper = asyncio.create_task(app[SESSIONS].reap(), name="reaper")
    yield
    reaper.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await reaper
    await app[SESSIONS].close()
    await app[AVATARS].close()
    await app[WORKERS].close()


async def _end_sessions(app: web.Application) -> None:
    """Sockets and peers are closed before the server waits for its handlers to return."""
    await app[SESSIONS].close()
