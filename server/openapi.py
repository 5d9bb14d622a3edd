"""The interface as an OpenAPI 3.1 document: `GET /openapi.json`. Tests hold it against the routes and throw garbage along it."""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from visavis.engine.motion.layout import MOODS
from visavis.server.config import FILM_S
from visavis.server.controls import LARGEST, NAMES, PITCH_LIMIT, YAW_LIMIT

Json = dict[str, Any]

_SESSION = {"name": "session", "in": "path", "required": True, "schema": {"type": "string"}}
_AVATAR = {"name": "avatar", "in": "path", "required": True, "schema": {"type": "string"}}
_VIEWER = {"name": "viewer", "in": "path", "required": True, "schema": {"type": "string"}}
_ACCESS: list[Json] = [{}, {"access": []}]
_OWN: list[Json] = [{"session": []}]
_REASONS = {
    200: "Done.",
    201: "Made.",
    202: "Begun; ask again.",
    204: "Done; nothing to say.",
    101: "Switching to WebSocket.",
    400: "The request cannot be used.",
    401: "No token, or not this one's.",
    403: "Not granted.",
    404: "There is no such thing (any more).",
    409: "Not now.",
    410: "The session has ended.",
    408: "The upload took too long.",
    413: "Too large.",
    415: "Another content type is wanted.",
    422: "The photo or film could not be used.",
    429: "Too often, or the queue is full.",
    500: "A fault of the server.",
    501: "This server cannot do it.",
    503: "No room; `Retry-After` says when to try again.",
}


def _object(properties: Json, required: tuple[str, ...] = ()) -> Json:
    return {"type": "object", "properties": properties, "required": list(required)}


def _answers(good: Json, *errors: int) -> Json:
    answers: Json = {}
    for status, schema in good.items():
        answers[status] = {"description": _REASONS[int(status)]}
        if isinstance(schema, str):
            answers[status]["content"] = {schema: {}}
        elif schema is not None:
            answers[status]["content"] = {"application/json": {"schema": schema}}
    for error in sorted({*errors, 403, 429}):
        answers[str(error)] = {"$ref": f"#/components/responses/{error}"}
    return answers


def _body(content_type: str, schema: Json | None = None) -> Json:
    return {"required": True, "content": {content_type: {"schema": schema} if schema else {}}}


_PERSON = _object(
    {
        "id": {"type": "string"},
        "name": {"type": "string"},
        "state": {"enum": ["waiting", "enrolling", "ready", "failed"]},
        "stage": {"type": "string"},
        "progress": {"type": "number", "minimum": 0, "maximum": 1},
        "shared": {"type": "boolean"},
        "width": {"type": "integer"},
        "height": {"type": "integer"},
        "error": {"$ref": "#/components/schemas/ErrorDetail"},
        "learning": {"$ref": "#/components/schemas/Learning"},
    },
    ("id", "name", "state", "progress", "shared"),
)
_LEARNING = _object(
    {
        "state": {"enum": ["waiting", "running", "done", "nothing_gained", "failed"]},
        "stage": {"type": "string"},
        "progress": {"type": "number", "minimum": 0, "maximum": 1},
        "message": {"type": "string", "description": "What came of it, in words."},
    },
    ("state", "stage", "progress"),
) | {
    "description": "Where a film was sent with `learn`: how far the person's mouth is learned. Meanwhile it can be called as it was enrolled; sessions that "
    "begin when the state is `done` have what it learned."
}
_PEOPLE = _object(
    {"avatars": {"type": "array", "items": {"$ref": "#/components/schemas/Person"}}}, ("avatars",)
)
_PHOTO = _object(
    {
        "photo": {
            "type": "string",
            "contentMediaType": "image/*",
            "description": "The file of a photo, or of a film: what it holds decides.",
        },
        "film": {
            "type": "string",
            "contentMediaType": "video/*",
            "description": "In place of `photo`: a film of one person (MP4, WebM, MOV, MKV, AVI, MPEG), "
            f"{FILM_S[0]:g} to {FILM_S[1]:g} s long, 8 to 15 s are good. Its calmest, sharpest frame becomes the photo.",
        },
        "consent": {"type": "string", "maxLength": 400},
        "name": {"type": "string", "maxLength": 400},
        "face": {
            "type": "integer",
            "minimum": 1,
            "maximum": 100,
            "description": "Which face of a photo, counted from the left. A film must show one person alone.",
        },
        "learn": {
            "type": "boolean",
            "default": False,
            "description": "With a film: let the video network learn this person's mouth from it, in the background, minutes. 501 where the server "
            "cannot (/v1/config says `learning`). Deleting the person ends it.",
        },
    },
    ("consent",),
) | {"anyOf": [{"required": ["photo"]}, {"required": ["film"]}]}
_GAZE: Json = {
    "type": "array",
    "description": "What the eyes rest on: [yaw, pitch] in radians from the viewer, to the person's left and upwards.",
    "prefixItems": [
        {"type": "number", "minimum": -limit, "maximum": limit} for limit in (YAW_LIMIT, PITCH_LIMIT)
    ],
    "minItems": 2,
    "maxItems": 2,
}
_CONTROLS: Json = {
    "expressiveness": {
        "type": "number",
        "minimum": 0,
        "maximum": LARGEST,
        "description": "Brows, smile and how far the mouth moves; 1 is usual.",
    },
    "head_motion": {
        "type": "number",
        "minimum": 0,
        "maximum": LARGEST,
        "description": "How far head and shoulders move; 1 is usual.",
    },
    "gaze": _GAZE,
    "mood": {"enum": list(MOODS)},
    "listening": {"type": "boolean", "description": "While silent: somebody speaks to this person."},
}
_CHANGES = _object(_CONTROLS) | {"additionalProperties": False, "description": "What is not named stays."}
_NEW_SESSION = _object(
    {
        "avatar": {"type": "string"},
        "seed": {"type": "integer", "minimum": 0, "maximum": 2**31 - 1},
        "lookahead": {"type": "integer", "minimum": 0, "maximum": 2},
        "barge_in": {"type": "boolean"},
        "generator": {"type": "boolean"},
        "controls": {"$ref": "#/components/schemas/ControlsChange"},
    },
    ("avatar",),
)
_OPENED = _object(
    {name: {"type": "string"} for name in ("id", "token", "avatar", "offer", "audio", "whep", "whip")}
    | {
        "watch": {
            "type": "string",
            "description": "A page with this session's picture and sound, to be opened or shown in a frame (of another origin: `--allow-origin`). Its key "
            "opens WHEP and the session's state, nothing else.",
        },
        "ice_servers": {"type": "array"},
        "linger_s": {"type": "number"},
    },
    ("id", "token", "offer", "audio", "whep", "whip", "watch"),
)
_STATE = _object(
    {
        "id": {"type": "string"},
        "avatar": {"type": "string"},
        "connections": {"type": "integer"},
        "queued_s": {"type": "number"},
        "media_s": {"type": "number"},
        "lookahead": {"type": "integer"},
        "reduced": {"type": "boolean"},
        "halved": {"type": "boolean"},
        "controls": {"$ref": "#/components/schemas/Controls"},
        "timings_ms": {"type": "object", "additionalProperties": {"type": "number"}},
        "ice_servers": {"type": "array"},
    }
)
_SDP = _object({"type": {"enum": ["offer", "answer"]}, "sdp": {"type": "string"}}, ("type", "sdp"))


def _operation(summary: str, answers: Json, *, security: list[Json], body: Json | None = None) -> Json:
    operation: Json = {"summary": summary, "security": security, "responses": answers}
    if body:
        operation["requestBody"] = body
    return operation


def _peers(kind: str, summary: str) -> Json:
    """The paths of WHEP and WHIP, and of connections made by a JSON offer."""
    path = f"/v1/sessions/{{session}}/{kind}"
    hang_up = _operation("End one connection.", _answers({"200": None}, 401, 404, 410), security=_OWN)
    paths: Json = {f"{path}/{{viewer}}": {"parameters": [_SESSION, _VIEWER], "delete": hang_up}}
    if kind == "offer":
        answers = _answers({"200": _SDP}, 400, 401, 404, 410, 413, 503)
        post = _operation(summary, answers, security=_OWN, body=_body("application/json", _SDP))
    else:
        answers = _answers({"201": "application/sdp"}, 400, 401, 404, 410, 413, 415, 503)
        post = _operation(summary, answers, security=_OWN, body=_body("application/sdp", {"type": "string"}))
        paths[f"{path}/{{viewer}}"]["patch"] = _operation(
            "Further ICE candidates (trickle).",
            _answers({"204": None}, 400, 401, 404, 410, 413, 415),
            security=_OWN,
            body=_body("application/trickle-ice-sdpfrag", {"type": "string"}),
        )
    paths[path] = {"parameters": [_SESSION], "post": post}
    return paths


def document() -> Json:
    """The whole document."""
    person = {"$ref": "#/components/schemas/Person"}
    recording = "/v1/sessions/{session}/recording"
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "visavis",
            "version": version("visavis"),
            "description": "Live avatars. Errors are always {error: {code, message}}. Speech goes in over the WebSocket "
            "`/v1/sessions/{session}/audio`: binary PCM16 mono, or the messages of the OpenAI Realtime API. Its `session.update` takes `controls` too.",
        },
        "paths": {
            "/healthz": {
                "get": _operation(
                    "Alive, and how much room there is.",
                    _answers(
                        {"200": _object({"status": {"type": "string"}, "room": {"type": "integer"}})}, 503
                    ),
                    security=[],
                )
            },
            "/metrics": {
                "get": _operation("Prometheus.", _answers({"200": "text/plain"}, 401), security=_ACCESS)
            },
            "/openapi.json": {
                "get": _operation("This document.", _answers({"200": {"type": "object"}}), security=[])
            },
            "/v1/config": {"get": _operation("Limits.", _answers({"200": {"type": "object"}}), security=[])},
            "/v1/avatars": {
                "get": _operation(
                    "People to choose from.", _answers({"200": _PEOPLE}, 401), security=_ACCESS
                ),
                "post": _operation(
                    "Enrol a photo or a film. The person is prepared meanwhile: ask for its state; where it failed, `error` says why.",
                    _answers({"202": person}, 400, 401, 408, 413, 415, 422, 501, 503),
                    security=_ACCESS,
                    body=_body("multipart/form-data", _PHOTO),
                ),
            },
            "/v1/avatars/{avatar}": {
                "parameters": [_AVATAR],
                "get": _operation(
                    "One person's state.", _answers({"200": person}, 401, 404), security=_ACCESS
                ),
                "delete": _operation("Forget a person.", _answers({"204": None}, 401, 404), security=_ACCESS),
            },
            "/v1/avatars/{avatar}/picture": {
                "parameters": [_AVATAR],
                "get": _operation(
                    "The person at rest.", _answers({"200": "image/jpeg"}, 401, 404, 409), security=_ACCESS
                ),
            },
            "/v1/sessions": {
                "post": _operation(
                    "Begin a session.",
                    _answers({"201": _OPENED}, 400, 401, 404, 409, 413, 422, 500, 503),
                    security=_ACCESS,
                    body=_body("application/json", _NEW_SESSION),
                )
            },
            "/v1/sessions/{session}": {
                "parameters": [_SESSION],
                "get": _operation(
                    "How a session is doing.", _answers({"200": _STATE}, 401, 404, 410), security=_OWN
                ),
                "patch": _operation(
                    "Change the person's manner from the next frame on; answers all controls in force.",
                    _answers({"200": {"$ref": "#/components/schemas/Controls"}}, 400, 401, 404, 410, 413),
                    security=_OWN,
                    body=_body("application/json", {"$ref": "#/components/schemas/ControlsChange"}),
                ),
                "delete": _operation("End a session.", _answers({"204": None}, 401, 404, 410), security=_OWN),
            },
            "/v1/sessions/{session}/clear": {
                "parameters": [_SESSION],
                "post": _operation(
                    "Barge-in: drop all speech that was not shown.",
                    _answers({"200": _object({"dropped_ms": {"type": "integer"}})}, 401, 404, 410),
                    security=_OWN,
                ),
            },
            recording: {
                "parameters": [_SESSION],
                "post": _operation(
                    "Begin to film the call.",
                    _answers({"201": {"type": "object"}}, 401, 404, 409, 410),
                    security=_OWN,
                ),
                "delete": _operation(
                    "End the film and fetch it.", _answers({"200": "video/mp4"}, 401, 404, 410), security=_OWN
                ),
            },
            "/v1/sessions/{session}/audio": {
                "parameters": [_SESSION],
                "get": _operation(
                    "WebSocket: speech in, playback events out.",
                    _answers({"101": None}, 400, 401, 404, 410, 503),
                    security=_OWN,
                ),
            },
            **_peers("offer", "JSON SDP: microphone in, avatar out."),
            **_peers("whep", "WHEP: watch the avatar."),
            **_peers("whip", "WHIP (RFC 9725): speech in."),
        },
        "components": {
            "schemas": {
                "Person": _PERSON,
                "Learning": _LEARNING,
                "Controls": _object(_CONTROLS, NAMES),
                "ControlsChange": _CHANGES,
                "ErrorDetail": _object(
                    {"code": {"type": "string"}, "message": {"type": "string"}}, ("code", "message")
                ),
                "Error": _object({"error": {"$ref": "#/components/schemas/ErrorDetail"}}, ("error",)),
            },
            "responses": {
                str(status): {
                    "description": reason,
                    "content": {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}},
                }
                for status, reason in _REASONS.items()
                if status >= 400
            },
            "securitySchemes": {
                "access": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
                "session": {"type": "http", "scheme": "bearer", "bearerFormat": "JWT"},
            },
        },
    }
