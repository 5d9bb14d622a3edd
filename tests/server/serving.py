"""Helpers of the server's tests: a running server on the double engine, and what is left when it ends."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import threading
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import aiohttp
from aiohttp.test_utils import TestServer
from double import DoubleEngine
from visavis.server.app import create_app
from visavis.server.config import ServerConfig
from visavis.server.routes import AVATARS, METRICS, SESSIONS

PAGE_FILES = (
    "/",
    "/add.js",
    "/app.js",
    "/call.js",
    "/manner.js",
    "/meter.js",
    "/record.js",
    "/style.css",
    "/watch",
    "/watch.css",
    "/watch.js",
    "/icon.svg",
    "/sample.wav",
)
"""Where the page and its files lie."""


class Api:
    """A client of a test server; `call` returns (status, JSON or text)."""

    def __init__(self, http: aiohttp.ClientSession, server: TestServer, engine: DoubleEngine) -> None:
        self.http, self.server, self.engine = http, server, engine
        self.url = f"http://127.0.0.1:{server.port}"
        self.sessions = server.app[SESSIONS]
        self.avatars = server.app[AVATARS]
        self.metrics = server.app[METRICS]

    async def call(self, method: str, path: str, **options: Any) -> tuple[int, Any]:
        async with self.http.request(method, self.url + path, **options) as response:
            text = await response.text()
            if response.content_type == "application/json":
                return response.status, await response.json()
            return response.status, text

    async def ready(self, avatar: str = "demo") -> dict[str, Any]:
        for _ in range(3000):
            _, state = await self.call("GET", f"/v1/avatars/{avatar}")
            if state.get("state") not in ("waiting", "enrolling"):
                return state
            await asyncio.sleep(0.02)
        raise AssertionError("never ready")

    async def session(self) -> tuple[dict[str, Any], dict[str, str]]:
        await self.ready()
        status, info = await self.call("POST", "/v1/sessions", json={"avatar": "demo"})
        assert status == 201, info
        return info, {"Authorization": f"Bearer {info['token']}"}


@contextlib.asynccontextmanager
async def serving(engine: DoubleEngine | None = None, **settings: Any) -> AsyncIterator[Api]:
    engine = engine or DoubleEngine()
    server = TestServer(create_app(ServerConfig(**settings), engine), host="127.0.0.1")
    await server.start_server()
    async with aiohttp.ClientSession() as http:
        try:
            yield Api(http, server, engine)
        finally:
            await server.close()


def leftover_threads(ended: bool) -> list[str]:
    """Names of live threads that belong to peers and, of a server that has ended, to workers."""
    names = [t.name for t in threading.enumerate()]
    return [n for n in names if n.endswith("-decoder") or (ended and n.startswith(("worker-", "link-")))]


async def settled(seconds: float = 5.0, *, ended: bool = True) -> tuple[list[str], list[str]]:
    """Names of tasks and threads that are still there once things had time to end; `ended`: the server too."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        gc.collect()
        tasks = [
            t.get_name()
            for t in asyncio.all_tasks()
            if t is not asyncio.current_task()
            and t.get_name().split("-")[0] in ("events", "speech", "connect", "drain", "end", "recording")
        ]
        threads = leftover_threads(ended)
        if (not tasks and not threads) or loop.time() > deadline:
            return tasks, threads
        await asyncio.sleep(0.05)


async def until(true: Callable[[], bool], seconds: float = 20.0) -> None:
    """Wait until something is so; TimeoutError when it never is."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.02)


async def events_of(
    api: Api, seed: int
) -> tuple[dict[str, Any], aiohttp.ClientWebSocketResponse, list[dict[str, Any]], asyncio.Task[None]]:
    """Start a session and a socket on it; returns (info, socket, list that its events go to, reader)."""
    await api.ready()
    status, info = await api.call("POST", "/v1/sessions", json={"avatar": "demo", "seed": seed})
    assert status == 201, info
    socket = await api.http.ws_connect(
        api.url + info["audio"], headers={"Authorization": f"Bearer {info['token']}"}
    )
    events: list[dict[str, Any]] = []

    async def read() -> None:
        async for message in socket:
            events.append(message.json())

    return info, socket, events, asyncio.create_task(read())


def run(coroutine: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(coroutine)
