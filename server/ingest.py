"""Speech over a WebSocket: binary PCM16, or JSON in the names of the OpenAI Realtime API.

The parser is apart from the socket: bytes or text in, one command out, so that garbage can be thrown at it in tests.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import json
import logging
import secrets
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
from aiohttp import WSMsgType, web
from visavis.engine.errors import VisavisError
from visavis.engine.timing import SAMPLE_RATE
from visavis.server.controls import Changes, ControlsError, parse_controls
from visavis.server.errors import ApiError
from visavis.server.sessions import Event, LiveSession, audio_refused

log = logging.getLogger(__name__)

MIN_RATE, MAX_RATE = 8_000, 48_000
MAX_ERRORS = 20
"""A client that sends this many bad messages in a row is talking another language: its socket is closed."""
HEARTBEAT_S = 20.0
EVENT_QUEUE = 256
QUEUE_TOLD_S = 2.0
"""A sender that is further ahead than this is told."""


class MessageError(VisavisError):
    """A message that is not of this protocol."""

    code = "invalid_message"


@dataclass(frozen=True)
class Append:
    """Speech: int16 mono samples."""

    pcm: npt.NDArray[np.int16]


@dataclass(frozen=True)
class Configure:
    """The stream's sample rate in Hz, whether it is a microphone's (backlog is cut, not queued), and changes to the person's controls.
    What is None stays as it is."""

    rate: int | None = None
    live: bool | None = None
    controls: Changes = field(default_factory=dict)


@dataclass(frozen=True)
class Commit:
    """The utterance is complete."""


@dataclass(frozen=True)
class Clear:
    """Barge-in."""


Command = Append | Configure | Commit | Clear


def parse_binary(data: bytes) -> Append:
    """PCM16 little endian, mono. MessageError for half a sample."""
    if len(data) % 2:
        raise MessageError(
            f"a binary message holds {len(data)} bytes; 16-bit samples need an even number", "odd_length"
        )
    return Append(np.frombuffer(data, "<i2").astype(np.int16, copy=False))


_STAYS: Any = object()
"""Of a setting that a message does not name (`null` is a value, and a wrong one)."""


def _configure(message: dict[str, Any]) -> Configure:
    settings = message.get("session", message)
    if not isinstance(settings, dict):
        raise MessageError("'session' must be an object such as {\"rate\": 24000}")
    rate, live = settings.get("rate", _STAYS), settings.get("live", _STAYS)
    if rate is not _STAYS and (
        isinstance(rate, bool) or not isinstance(rate, int) or not MIN_RATE <= rate <= MAX_RATE
    ):
        raise MessageError(
            f"'rate' must be a whole number from {MIN_RATE} to {MAX_RATE} Hz, not {str(rate)[:40]}", "rate"
        )
    if live is not _STAYS and not isinstance(live, bool):
        raise MessageError("'live' must be true or false")
    try:
        controls = parse_controls(settings.get("controls", {}))
    except ControlsError as error:
        raise MessageError(str(error), error.code) from None
    return Configure(None if rate is _STAYS else rate, None if live is _STAYS else live, controls)


def parse_text(text: str) -> Command:
    """One JSON message. MessageError says what is wrong with it."""
    try:
        message = json.loads(text)
    except (ValueError, RecursionError):
        raise MessageError("the text message is not JSON", "not_json") from None
    if not isinstance(message, dict):
        raise MessageError("a JSON message must be an object with a 'type'")
    kind = message.get("type")
    if kind == "session.update" or (kind is None and "rate" in message):
        return _configure(message)
    if kind == "input_audio_buffer.append":
        audio = message.get("audio")
        if not isinstance(audio, str):
            raise MessageError("'audio' must be a string of base64")
        try:
            return parse_binary(base64.b64decode(audio, validate=True))
        except (binascii.Error, ValueError):
            raise MessageError("'audio' is not base64", "not_base64") from None
    if kind == "input_audio_buffer.commit":
        return Commit()
    if kind == "input_audio_buffer.clear":
        return Clear()
    raise MessageError(
        f"unknown message type {str(kind)[:60]!r}; known: session.update, input_audio_buffer.append, "
        "input_audio_buffer.commit, input_audio_buffer.clear",
        "unknown_type",
    )


class AudioSocket:
    """One WebSocket of a session: commands in, events out through a bounded queue."""

    def __init__(
        self,
        session: LiveSession,
        socket: web.WebSocketResponse,
        *,
        messages_per_s: float = 0.0,
        limit_s: float = 60.0,
    ) -> None:
        self._pace = messages_per_s
        self._limit_s = limit_s
        self._told = 0.0
        self._session = session
        self._socket = socket
        self._events: asyncio.Queue[Event] = asyncio.Queue(EVENT_QUEUE)
        self._rate = SAMPLE_RATE
        self._live = False
        self.key = "ws-" + secrets.token_urlsafe(8)

    async def close(self) -> None:
        """Say goodbye and end `serve`; what is still to be told is told first."""
        for _ in range(20):
            if self._events.empty():
                break
            await asyncio.sleep(0.05)
        await self._socket.close(code=1001, message=b"session closed")

    def _event(self, event: Event) -> None:
        if (
            self._events.full()
        ):  # a client that reads nothing loses the oldest events, not the server's memory
            self._events.get_nowait()
        self._events.put_nowait(event)

    async def _write(self) -> None:
        while True:
            await self._socket.send_json(await self._events.get())

    def _tell_queue(self) -> None:
        """Back-pressure: a sender that is ahead of the clock hears how far, four times a second at most. Reading on is what lets a
        `clear` through, so that the socket itself never holds a sender back."""
        now = asyncio.get_running_loop().time()
        if not self._live and self._session.queued_seconds > QUEUE_TOLD_S and now - self._told > 0.25:
            self._told = now
            self._event(
                {
                    "type": "input_audio_buffer.queued",
                    "queued_ms": round(1000 * self._session.queued_seconds),
                    "limit_ms": round(1000 * self._limit_s),
                }
            )

    def _settings(self) -> dict[str, Any]:
        return {"rate": self._rate, "live": self._live, "controls": self._session.controls}

    async def _run(self, command: Command) -> None:
        session = self._session
        match command:
            case Append(pcm):
                if len(pcm):
                    await session.push_audio(pcm, self._rate, live=self._live)
                    self._tell_queue()
            case Configure(rate, live, controls):
                if controls:
                    await session.control(controls)
                self._rate = self._rate if rate is None else rate
                self._live = self._live if live is None else live
                self._event({"type": "session.updated", "session": self._settings()})
            case Commit():
                await session.commit()
                self._event({"type": "input_audio_buffer.committed"})
            case Clear():
                dropped = await session.clear()
                self._event(
                    {"type": "input_audio_buffer.cleared", "dropped_ms": round(dropped * 1000 / SAMPLE_RATE)}
                )

    async def serve(self) -> None:
        """Runs until either side closes."""
        session, errors = self._session, 0
        session.listeners.add(self._event)
        session.attach(self.key, self)
        writer = asyncio.create_task(self._write(), name=f"events-{session.id}")
        self._event({"type": "session.created", "session": {"id": session.id, **self._settings()}})
        try:
            loop = asyncio.get_running_loop()
            level, at = self._pace, loop.time()
            async for message in self._socket:
                if self._pace:  # who sends faster is read more slowly
                    level = min(self._pace, level + (loop.time() - at) * self._pace) - 1
                    at = loop.time()
                    if level < 0:
                        await asyncio.sleep(-level / self._pace)
                try:
                    if message.type == WSMsgType.BINARY:
                        await self._run(parse_binary(message.data))
                    elif message.type == WSMsgType.TEXT:
                        await self._run(parse_text(message.data))
                    else:
                        break
                    errors = 0
                except ApiError as error:  # the session ended under this message
                    self._event({"type": "error", "error": {"code": error.code, "message": error.message}})
                    break
                except VisavisError as error:
                    self._event(audio_refused(error))
                    errors += error.code != "queue_full"
                    if errors >= MAX_ERRORS:
                        await self._socket.close(code=1008, message=b"too many bad messages")
                        break
                if session.closed:
                    break
        finally:
            session.listeners.discard(self._event)
            session.detach(self.key)
            writer.cancel()
            await asyncio.gather(writer, return_exceptions=True)
