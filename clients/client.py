"""A small Python client: people and sessions over HTTP, speech and events over a WebSocket. For WebRTC see `call.py`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import aiohttp
from visavis.engine.errors import VisavisError

POLL_S = 0.3


class ClientError(VisavisError):
    """The server refused or cannot be reached; `code` is the server's own word where it gave one."""

    code = "client"


@dataclass
class RemoteSession:
    """One live avatar on a server."""

    client: Client
    info: dict[str, Any]
    _socket: aiohttp.ClientWebSocketResponse | None = None

    @property
    def headers(self) -> dict[str, str]:
        """What opens this session's addresses."""
        return {"Authorization": f"Bearer {self.info['token']}"}

    @property
    def watch_url(self) -> str:
        """Address of a page with this session's picture and sound, to be opened or shown in a frame. Who has it can watch, and nothing else."""
        return self.client.url + str(self.info["watch"])

    async def offer(self, sdp: str) -> str:
        """SDP offer to SDP answer."""
        body = {"type": "offer", "sdp": sdp}
        return (await self.client.request("POST", self.info["offer"], json=body, headers=self.headers))["sdp"]

    async def connect_audio(self, rate: int, *, live: bool = False) -> None:
        """Open the WebSocket for mono PCM16 at `rate` Hz."""
        try:
            self._socket = await self.client.http.ws_connect(
                self.client.url + self.info["audio"], headers=self.headers, protocols=("visavis",)
            )
        except aiohttp.ClientError as error:
            raise ClientError(f"the server refuses the WebSocket: {error}") from None
        await self._socket.send_json({"type": "session.update", "session": {"rate": rate, "live": live}})

    def _open(self) -> aiohttp.ClientWebSocketResponse:
        if self._socket is None:
            raise ClientError("call connect_audio() first")
        return self._socket

    async def push(self, pcm: bytes) -> None:
        """Queue speech: PCM16 little endian, mono."""
        await self._open().send_bytes(pcm)

    async def commit(self) -> None:
        """The utterance is complete."""
        await self._open().send_json({"type": "input_audio_buffer.commit"})

    async def clear(self) -> None:
        """Barge-in: drop what is queued."""
        await self._open().send_json({"type": "input_audio_buffer.clear"})

    async def steer(self, **controls: Any) -> dict[str, Any]:
        """Change the person's manner from the next frame on: any of `expressiveness` and `head_motion` (0 to 2), `gaze` ([yaw, pitch] in
        radians), `mood` ("neutral", "warm", "serious") and `listening`; the others stay. Returns all that are in force; ClientError
        where a value cannot be used (nothing is changed then)."""
        path = f"/v1/sessions/{self.info['id']}"
        answer: dict[str, Any] = await self.client.request("PATCH", path, json=controls, headers=self.headers)
        return answer

    async def events(self) -> AsyncIterator[dict[str, Any]]:
        """The server's events until either side closes."""
        async for message in self._open():
            if message.type != aiohttp.WSMsgType.TEXT:
                break
            yield json.loads(message.data)

    async def close(self) -> None:
        """End the session on the server."""
        if self._socket is not None:
            await self._socket.close()
        await self.client.request("DELETE", f"/v1/sessions/{self.info['id']}", headers=self.headers)


class Client:
    """A server at `url`, such as `http://127.0.0.1:8080`, with an access token where it asks for one. An async context manager."""

    def __init__(self, url: str, token: str = "") -> None:
        if not url.startswith(("http://", "https://")):
            raise ClientError(f"{url!r} is no server address; it looks like http://127.0.0.1:8080", "url")
        self.url = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.http: aiohttp.ClientSession

    async def __aenter__(self) -> Client:
        self.http = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.http.close()

    async def request(self, method: str, path: str, **options: Any) -> Any:
        """One call; ClientError with the server's message where it refuses."""
        options["headers"] = self._headers | (options.get("headers") or {})
        try:
            async with self.http.request(method, self.url + path, **options) as response:
                text = await response.text()
                if response.status == 204:
                    return None
                try:
                    body = json.loads(text)
                except ValueError:
                    raise ClientError(
                        f"{self.url} is no visavis server (it answered {response.status})"
                    ) from None
                if response.status >= 400:
                    error = body.get("error", {}) if isinstance(body, dict) else {}
                    raise ClientError(
                        error.get("message", f"the server answered {response.status}"),
                        error.get("code", "http"),
                    )
                return body
        except TimeoutError:
            raise ClientError(f"{self.url} does not answer in time", "timeout") from None
        except (aiohttp.ClientError, ValueError) as error:
            raise ClientError(f"cannot reach {self.url}: {error}", "unreachable") from None

    async def avatars(self) -> list[dict[str, Any]]:
        """The people that the server offers to everybody."""
        return (await self.request("GET", "/v1/avatars"))["avatars"]

    async def enroll(self, photo: Path, *, consent: str, name: str = "", learn: bool = False) -> str:
        """Send a photo or a film; returns the avatar's id at once, `wait_ready` waits for it. `learn`: the server learns the person's mouth from the film,
        too, in the background; `avatar` tells how far it is."""
        form = aiohttp.FormData({"consent": consent, "name": name, "learn": "true" if learn else "false"})
        form.add_field("photo", photo.read_bytes(), filename=photo.name)
        return (await self.request("POST", "/v1/avatars", data=form))["id"]

    async def avatar(self, avatar: str) -> dict[str, Any]:
        """How one person is doing: `state`, `progress`, `error`, `learning`."""
        state: dict[str, Any] = await self.request("GET", f"/v1/avatars/{avatar}")
        return state

    async def wait_ready(self, avatar: str) -> AsyncIterator[float]:
        """Yields the progress 0..1 until the avatar is ready; ClientError where it failed."""
        while True:
            state = await self.avatar(avatar)
            if state["state"] == "failed":
                raise ClientError(state["error"]["message"], state["error"]["code"])
            yield float(state["progress"])
            if state["state"] == "ready":
                return
            await asyncio.sleep(POLL_S)

    async def session(
        self, avatar: str, *, seed: int = 0, controls: Mapping[str, Any] | None = None
    ) -> RemoteSession:
        """Start a session of a ready avatar; `controls` as in `RemoteSession.steer`."""
        wanted = {"avatar": avatar, "seed": seed, "controls": dict(controls or {})}
        return RemoteSession(self, await self.request("POST", "/v1/sessions", json=wanted))
