"""Headless Chromium, driven over its DevTools protocol: enough for measurements of a real call."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import itertools
import json
import os
import shutil
import signal
import tempfile
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--no-default-browser-check",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--disable-background-timer-throttling",
    "--disable-renderer-backgrounding",
    "--disable-features=Translate,MediaRouter,OptimizationHints",
    "--mute-audio",
    "--autoplay-policy=no-user-gesture-required",
    "--remote-debugging-port=0",
)
START_S = 40.0


class BrowserMissing(RuntimeError):
    """No Chromium on this machine."""


def find_chromium() -> str:
    """Path of a Chromium; BrowserMissing where there is none."""
    for name in (os.environ.get("VISAVIS_CHROMIUM", ""), *NAMES):
        path = shutil.which(name) if name else None
        if path:
            return path
    raise BrowserMissing(
        "no Chromium found: install it (Debian: apt-get install chromium) or set VISAVIS_CHROMIUM"
    )


class PageError(RuntimeError):
    """JavaScript in the page threw, or the protocol refused."""


class Page:
    """One tab."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self._socket = socket
        self._ids = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[dict[str, Any]]] = {}
        self.console: list[str] = []
        self.pid = 0
        """Of the browser."""
        self._reader = asyncio.create_task(self._read())

    async def _read(self) -> None:
        async for message in self._socket:
            data = json.loads(message.data)
            if "id" in data:
                future = self._waiting.pop(data["id"], None)
                if future and not future.done():
                    future.set_result(data)
            elif data.get("method") == "Runtime.consoleAPICalled":
                values = (str(a.get("value", a.get("description", ""))) for a in data["params"]["args"])
                self.console.append(f"{data['params']['type']}: {' '.join(values)}")
            elif data.get("method") == "Runtime.exceptionThrown":
                details = data["params"]["exceptionDetails"]
                self.console.append(
                    "exception: " + details.get("exception", {}).get("description", details["text"])
                )
            elif data.get("method") == "Log.entryAdded":
                entry = data["params"]["entry"]
                self.console.append(f"{entry['level']}: {entry['text']} {entry.get('url', '')}")
        for future in self._waiting.values():
            if not future.done():
                future.set_exception(PageError("the browser went away"))

    async def send(self, method: str, **params: Any) -> dict[str, Any]:
        """One protocol call; PageError where it fails."""
        number = next(self._ids)
        future = self._waiting[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": params})
        data = await asyncio.wait_for(future, 120)
        if "error" in data:
            raise PageError(f"{method}: {data['error'].get('message')}")
        return data["result"]

    async def evaluate(self, expression: str) -> Any:
        """The JSON value of an expression (promises are awaited), as if after a click of the user."""
        result = await self.send(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True, userGesture=True
        )
        if "exceptionDetails" in result:
            details = result["exceptionDetails"]
            raise PageError(details.get("exception", {}).get("description", details["text"]))
        return result["result"].get("value")

    async def wait_for(self, expression: str, timeout: float = 30.0) -> Any:
        """Poll an expression until it is true; PageError with the console's last lines after `timeout` seconds."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + timeout
        while loop.time() < deadline:
            value = await self.evaluate(expression)
            if value:
                return value
            await asyncio.sleep(0.1)
        raise PageError(f"not true within {timeout:g} s: {expression}; console: {self.console[-5:]}")

    async def go(self, url: str) -> None:
        """Open an address and wait until it is loaded."""
        await self.send("Page.navigate", url=url)
        await self.wait_for("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def size(self, width: int, height: int, scale: float = 1.0, mobile: bool = False) -> None:
        """The window's size in CSS pixels."""
        await self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=scale,
            mobile=mobile,
        )

    async def dark(self, on: bool) -> None:
        """Prefer dark colours."""
        feature = {"name": "prefers-color-scheme", "value": "dark" if on else "light"}
        await self.send("Emulation.setEmulatedMedia", features=[feature])

    async def screenshot(self, path: Path, full: bool = False) -> None:
        """Write a PNG of the page."""
        result = await self.send("Page.captureScreenshot", format="png", captureBeyondViewport=full)
        path.write_bytes(base64.b64decode(result["data"]))

    async def close(self) -> None:
        self._reader.cancel()
        await asyncio.gather(self._reader, return_exceptions=True)
        await self._socket.close()


@contextlib.asynccontextmanager
async def chromium(microphone: Path | None = None, *, flags: tuple[str, ...] = ()) -> AsyncIterator[Page]:
    """A fresh browser with one tab; `microphone` is a WAV that it plays in a loop as its microphone."""
    binary = find_chromium()
    profile = Path(tempfile.mkdtemp(prefix="visavis-chromium-"))
    arguments = [*FLAGS, *flags, f"--user-data-dir={profile}"]
    if microphone is not None:
        arguments += [
            "--use-fake-ui-for-media-stream",
            "--use-fake-device-for-media-stream",
            f"--use-file-for-fake-audio-capture={microphone}",
        ]
    process = await asyncio.create_subprocess_exec(
        binary,
        *arguments,
        "about:blank",
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        port = await _port(profile, process)
        async with aiohttp.ClientSession() as http:
            async with http.get(f"http://127.0.0.1:{port}/json/list") as response:
                targets = await response.json()
            url = next(t["webSocketDebuggerUrl"] for t in targets if t["type"] == "page")
            socket = await http.ws_connect(url, max_msg_size=0)
            page = Page(socket)
            page.pid = process.pid
            try:
                for domain in ("Page", "Runtime", "Log"):
                    await page.send(f"{domain}.enable")
                yield page
            finally:
                await page.close()
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        shutil.rmtree(profile, ignore_errors=True)


async def _port(profile: Path, process: asyncio.subprocess.Process) -> int:
    loop = asyncio.get_running_loop()
    deadline = loop.time() + START_S
    while loop.time() < deadline:
        # the file is there before its content is
        with contextlib.suppress(OSError, ValueError, IndexError):
            return int((profile / "DevToolsActivePort").read_text().split()[0])
        if process.returncode is not None:
            raise BrowserMissing(f"Chromium ended at once with code {process.returncode}")
        await asyncio.sleep(0.1)
    raise BrowserMissing(f"Chromium did not start within {START_S:g} s")
