"""The HTTP interface, one function an address."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from aiohttp import web
from visavis.server.avatars import AvatarStore
from visavis.server.config import FILM_S, ServerConfig
from visavis.server.controls import Changes, ControlsError, parse_controls
from visavis.server.engines import Engine
from visavis.server.errors import ApiError
from visavis.server.ingest import HEARTBEAT_S, AudioSocket
from visavis.server.limits import RateLimit
from visavis.server.metrics import CONTENT_TYPE, Metrics
from visavis.server.openapi import document
from visavis.server.recording import Recording
from visavis.server.registry import SessionRegistry
from visavis.server.security import Guard, framed_by
from visavis.server.sessions import LiveSession
from visavis.server.webrtc import Viewer, resolve_mdns
from visavis.server.workers import WorkerPool

PAGE = Path(__file__).parent / "page"
SDP = "application/sdp"
TOKEN_S = 30 * 24 * 3600.0
"""Life of the token of a session that has no end of its own."""
TRICKLE = "application/trickle-ice-sdpfrag"

CONFIG = web.AppKey("config", ServerConfig)
AVATARS = web.AppKey("avatars", AvatarStore)
SESSIONS = web.AppKey("sessions", SessionRegistry)
ENGINE: web.AppKey[Engine] = web.AppKey("engine")
METRICS = web.AppKey("metrics", Metrics)
WORKERS = web.AppKey("workers", WorkerPool)
GUARD = web.AppKey("guard", Guard)
LIMITS: web.AppKey[dict[str, RateLimit]] = web.AppKey("limits")

routes = web.RouteTableDef()


async def _body(request: web.Request, limit: int) -> bytes:
    """The request's body; ApiError 413 beyond `limit` bytes, before it is held."""
    if (request.content_length or 0) > limit:
        raise ApiError(413, "too_large", f"The body may hold {limit} bytes at most.")
    data = bytearray()
    async for chunk in request.content.iter_any():
        data += chunk
        if len(data) > limit:
            raise ApiError(413, "too_large", f"The body may hold {limit} bytes at most.")
    return bytes(data)


async def _json(request: web.Request, limit: int) -> dict[str, Any]:
    data = await _body(request, limit)
    try:
        value = json.loads(data or b"{}")
    except (ValueError, RecursionError):
        raise ApiError(400, "not_json", "The body is not JSON.") from None
    if not isinstance(value, dict):
        raise ApiError(400, "not_json", "The body must be a JSON object.")
    return value


async def _sdp(request: web.Request, content_type: str = SDP) -> str:
    if request.content_type != content_type:
        raise ApiError(415, "unsupported_media_type", f"Send the body as {content_type}.")
    data = await _body(request, request.app[CONFIG].max_sdp_bytes)
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise ApiError(400, "bad_sdp", "The body is not text.") from None


def whole_number(value: Any, name: str, low: int, high: int) -> int:
    """The value, if it is a whole number in its range (JSON knows one kind of number: 2.0 is one); ApiError 400."""
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
        raise ApiError(400, "bad_value", f"'{name}' must be a whole number from {low} to {high}.")
    return value


def _controls(value: Any) -> Changes:
    try:
        return parse_controls(value)
    except ControlsError as error:
        raise ApiError(400, error.code, str(error)) from None


def _session(request: web.Request, *, watch: bool = False) -> LiveSession:
    """The session named in the address, for whoever holds its token; with `watch` also for who may only see and hear it."""
    request.app[GUARD].require_session(request, request.match_info["session"], watch=watch)
    session = request.app[SESSIONS].get(request.match_info["session"])
    if session.failure:
        raise ApiError(410, *session.failure)
    return session


# The page and the server's own state


def _file(name: str, content_type: str) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handler(request: web.Request) -> web.StreamResponse:
        response = web.FileResponse(PAGE / name, headers={"Cache-Control": "no-cache"})
        response.content_type = content_type
        return response

    return handler


for _path, _name, _type in (
    ("/", "index.html", "text/html"),
    ("/add.js", "add.js", "text/javascript"),
    ("/app.js", "app.js", "text/javascript"),
    ("/call.js", "call.js", "text/javascript"),
    ("/manner.js", "manner.js", "text/javascript"),
    ("/meter.js", "meter.js", "text/javascript"),
    ("/record.js", "record.js", "text/javascript"),
    ("/style.css", "style.css", "text/css"),
    ("/watch.css", "watch.css", "text/css"),
    ("/watch.js", "watch.js", "text/javascript"),
    ("/icon.svg", "icon.svg", "image/svg+xml"),
):
    routes.get(_path)(_file(_name, _type))


@routes.get("/watch")
async def watch_page(request: web.Request) -> web.StreamResponse:
    """One session's picture and sound and nothing else, to be opened or framed: /watch#session=ID&key=TOKEN, its key a token that lets watch."""
    headers = framed_by(request.app[CONFIG].allowed_origins) | {"Cache-Control": "no-cache"}
    response = web.FileResponse(PAGE / "watch.html", headers=headers)
    response.content_type = "text/html"
    return response


@routes.get("/sample.wav")
async def sample(request: web.Request) -> web.StreamResponse:
    """The speech sample that ships with the engine."""
    path = request.app[ENGINE].sample_speech()
    if path is None:
        raise ApiError(404, "no_sample", "The speech sample is not installed.")
    return web.FileResponse(path, headers={"Cache-Control": "no-cache", "Content-Type": "audio/wav"})


@routes.get("/healthz")
async def health(request: web.Request) -> web.Response:
    """Alive, and how much room there is: 200, or 503 while no session can begin for good (starting, going away)."""
    sessions, workers = request.app[SESSIONS], request.app[WORKERS]
    status = "draining" if sessions.draining else "ok" if workers.up.is_set() else "starting"
    return web.json_response(
        {
            "status": status,
            "version": importlib.metadata.version("visavis"),
            "sessions": len(sessions),
            "room": workers.room(),
        },
        status=200 if status == "ok" else 503,
    )


@routes.get("/metrics")
async def metrics(request: web.Request) -> web.Response:
    """Prometheus."""
    request.app[GUARD].require(request, "metrics")
    return web.Response(
        body=request.app[METRICS].render().encode(),
        headers={"Content-Type": CONTENT_TYPE, "Cache-Control": "no-store"},
    )


@routes.get("/openapi.json")
async def interface(request: web.Request) -> web.Response:
    """This interface, for tools."""
    return web.json_response(document())


@routes.get("/v1/config")
async def client_config(request: web.Request) -> web.Response:
    """What a browser needs to know before it calls."""
    config = request.app[CONFIG]
    return web.json_response(
        {
            "auth": request.app[GUARD].auth,
            "max_photo_bytes": config.max_photo_bytes,
            "max_film_bytes": config.max_film_bytes,
            "film_s": list(FILM_S),
            "learning": request.app[AVATARS].learns,
            "max_queue_s": config.max_queue_s,
        }
    )


# Sessions


@routes.post("/v1/sessions")
async def create_session(request: web.Request) -> web.Response:
    """JSON {avatar, seed?, lookahead?, barge_in?, generator?, controls?} -> {id, token, ...}."""
    config, guard = request.app[CONFIG], request.app[GUARD]
    subject = guard.require(request, "sessions")
    request.app[LIMITS]["sessions"].take(subject or request.remote or "")
    message = await _json(request, config.max_json_bytes)
    avatar = message.get("avatar")
    if not isinstance(avatar, str):
        raise ApiError(400, "bad_value", "'avatar' must be the id of an avatar; GET /v1/avatars lists some.")
    seed = whole_number(message.get("seed", 0), "seed", 0, 2**31 - 1)
    lookahead = message.get("lookahead")
    if lookahead is not None:
        lookahead = whole_number(lookahead, "lookahead", 0, 2)
    barge_in = message.get("barge_in", False)
    generator = message.get("generator", True)
    if not isinstance(barge_in, bool) or not isinstance(generator, bool):
        raise ApiError(400, "bad_value", "'barge_in' and 'generator' must be true or false.")
    controls = _controls(message.get("controls", {}))
    session = await request.app[SESSIONS].create(
        request.app[AVATARS].get(avatar, subject),
        seed=seed,
        lookahead=lookahead,
        barge_in=barge_in,
        generator=generator,
        controls=controls,
    )
    path, life = f"/v1/sessions/{session.id}", (config.max_session_s or TOKEN_S) + 60
    key = guard.session_token(session.id, subject, life, watch_only=True)
    body = {
        "id": session.id,
        "token": guard.session_token(session.id, subject, life),
        "avatar": avatar,
        "offer": f"{path}/offer",
        "audio": f"{path}/audio",
        "whep": f"{path}/whep",
        "whip": f"{path}/whip",
        "watch": f"/watch#session={session.id}&key={key}",
        "ice_servers": config.ice(subject or session.id),
        "linger_s": config.linger_s,
    }
    return web.json_response(body, status=201, headers={"Location": path})


@routes.get("/v1/sessions/{session}")
async def show_session(request: web.Request) -> web.Response:
    """How a session is doing, and how to reach it."""
    session = _session(request, watch=True)
    return web.json_response(
        {
            "id": session.id,
            "avatar": session.avatar_id,
            "connections": len(session.connections),
            "queued_s": round(session.queued_seconds, 3),
            "media_s": round(session.publisher.frames / 25, 2),
            "lookahead": session.lookahead,
            "reduced": session.reduced,
            "halved": session.halved,
            "controls": session.controls,
            "timings_ms": {name: round(value, 2) for name, value in session.timings.items()},
            "ice_servers": request.app[CONFIG].ice(session.id),
        }
    )


@routes.patch("/v1/sessions/{session}")
async def steer_session(request: web.Request) -> web.Response:
    """JSON with any of the controls -> all controls, in force from the next frame on."""
    session = _session(request)
    changes = _controls(await _json(request, request.app[CONFIG].max_json_bytes))
    return web.json_response(await session.control(changes))


@routes.delete("/v1/sessions/{session}")
async def delete_session(request: web.Request) -> web.Response:
    """End a session at once."""
    await request.app[SESSIONS].end(_session(request), "deleted")
    return web.Response(status=204)


@routes.post("/v1/sessions/{session}/clear")
async def clear_session(request: web.Request) -> web.Response:
    """Barge-in without a WebSocket."""
    dropped = await _session(request).clear()
    return web.json_response({"dropped_ms": round(dropped / 16)})


@routes.post("/v1/sessions/{session}/recording")
async def start_recording(request: web.Request) -> web.Response:
    """Begin to film the call; the film is held in memory."""
    session = _session(request)
    if session.recording is not None:
        raise ApiError(409, "recording", "This call is being filmed already.")
    session.recording = Recording(session.publisher, session.id, request.app[CONFIG].max_recording_bytes)
    return web.json_response({"recording": True}, status=201)


@routes.delete("/v1/sessions/{session}/recording")
async def fetch_recording(request: web.Request) -> web.Response:
    """End the film and give it out, as MP4."""
    session = _session(request)
    recording, session.recording = session.recording, None
    if recording is None:
        raise ApiError(404, "no_recording", "This call is not being filmed.")
    return web.Response(body=await recording.stop(), content_type="video/mp4")


async def _negotiate(request: web.Request, sdp: str, *, watch: bool, listen: bool) -> tuple[Viewer, str]:
    session, config = _session(request, watch=watch and not listen), request.app[CONFIG]
    if len(session.connections) >= config.max_viewers:
        raise ApiError(
            503, "busy", "This session has as many connections as it may have.", {"Retry-After": "5"}
        )
    viewer = Viewer(session, config)
    return viewer, await viewer.answer(resolve_mdns(sdp, request.remote), watch=watch, listen=listen)


@routes.post("/v1/sessions/{session}/offer")
async def offer(request: web.Request) -> web.Response:
    """JSON SDP {sdp, type: "offer"} -> {sdp, type: "answer"}: microphone in, avatar out."""
    _session(request)
    message = await _json(request, request.app[CONFIG].max_sdp_bytes)
    if not isinstance(message.get("sdp"), str) or message.get("type") != "offer":
        raise ApiError(400, "bad_sdp", 'Send {"type": "offer", "sdp": "v=0..."}.')
    viewer, answer = await _negotiate(request, message["sdp"], watch=True, listen=True)
    return web.json_response({"type": "answer", "sdp": answer, "connection": viewer.id})


async def _created(request: web.Request, *, watch: bool, listen: bool) -> web.Response:
    _session(request, watch=watch and not listen)
    viewer, answer = await _negotiate(request, await _sdp(request), watch=watch, listen=listen)
    return web.Response(
        text=answer,
        status=201,
        content_type=SDP,
        headers={
            "Location": f"{request.path}/{viewer.id}",
            "ETag": f'"{viewer.id}"',
            "Accept-Patch": TRICKLE,
        },
    )


@routes.post("/v1/sessions/{session}/whep")
async def whep(request: web.Request) -> web.Response:
    """WHEP (draft-ietf-wish-whep): watch the avatar."""
    return await _created(request, watch=True, listen=False)


@routes.post("/v1/sessions/{session}/whip")
async def whip(request: web.Request) -> web.Response:
    """WHIP (RFC 9725): speech in."""
    return await _created(request, watch=False, listen=True)


def _viewer(request: web.Request) -> Viewer:
    session = _session(request, watch=request.match_info["kind"] == "whep")
    viewer = session.connections.get(request.match_info["viewer"])
    if not isinstance(viewer, Viewer):
        raise ApiError(404, "no_such_connection", "There is no such connection; it may have ended.")
    return viewer


@routes.patch("/v1/sessions/{session}/{kind:whep|whip}/{viewer}")
async def trickle(request: web.Request) -> web.Response:
    """Further ICE candidates of a WHEP or WHIP connection."""
    viewer = _viewer(request)
    await viewer.add_candidates(await _sdp(request, TRICKLE))
    return web.Response(status=204)


@routes.delete("/v1/sessions/{session}/{kind:whep|whip|offer}/{viewer}")
async def hang_up(request: web.Request) -> web.Response:
    """End one connection; the session goes on."""
    await _viewer(request).close()
    return web.Response(status=200)


@routes.get("/v1/sessions/{session}/audio")
async def audio(request: web.Request) -> web.StreamResponse:
    """WebSocket: speech in, playback events out (see `visavis.server.ingest`)."""
    session, config = _session(request), request.app[CONFIG]
    if len(session.connections) >= config.max_viewers:
        raise ApiError(
            503, "busy", "This session has as many connections as it may have.", {"Retry-After": "5"}
        )
    socket = web.WebSocketResponse(
        protocols=("visavis",), max_msg_size=config.max_message_bytes, heartbeat=HEARTBEAT_S, compress=False
    )
    if not socket.can_prepare(request).ok:
        raise ApiError(400, "not_websocket", "This address speaks WebSocket.")
    await socket.prepare(request)
    await AudioSocket(
        session, socket, messages_per_s=config.messages_per_s, limit_s=config.max_queue_s
    ).serve()
    return socket
