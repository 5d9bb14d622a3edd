"""The HTTP interface to people: enrolling photos, asking after them, forgetting them."""

from __future__ import annotations

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError
from visavis.server.avatars import Entry
from visavis.server.config import ServerConfig
from visavis.server.errors import ApiError
from visavis.server.routes import AVATARS, CONFIG, GUARD, LIMITS, whole_number

MAX_TEXT = 400

people_routes = web.RouteTableDef()


@people_routes.get("/v1/avatars")
async def list_avatars(request: web.Request) -> web.Response:
    """The people that everybody may choose, and the caller's own where callers are known."""
    subject = request.app[GUARD].require(request, "sessions")
    return web.json_response({"avatars": [entry.public() for entry in request.app[AVATARS].listed(subject)]})


@people_routes.post("/v1/avatars")
async def enroll_avatar(request: web.Request) -> web.Response:
    """Multipart: `consent` (a statement), `photo` (a file); optionally `name` and `face` (number from the left)."""
    config = request.app[CONFIG]
    subject = request.app[GUARD].require(request, "avatars")
    request.app[LIMITS]["enrollments"].take(subject or request.remote or "")
    if request.content_type != "multipart/form-data":
        raise ApiError(
            415, "unsupported_media_type", "Send the photo as multipart/form-data with a field 'photo'."
        )
    photo, fields = await _read_form(request, config)
    consent = fields.get("consent", "").strip()
    if not consent:
        raise ApiError(
            400,
            "consent_missing",
            "Say in the field 'consent' that the person in the photo agrees to be shown speaking.",
        )
    if not photo:
        raise ApiError(400, "photo_missing", "Send the photo as a file in the field 'photo'.")
    face: int | None = None
    if "face" in fields:
        try:
            face = whole_number(int(fields["face"]), "face", 1, 100)
        except ValueError:
            raise ApiError(400, "bad_value", "'face' must be a whole number from 1 to 100.") from None
    entry = request.app[AVATARS].enroll(
        photo, name=fields.get("name", "").strip() or "Your photo", consent=consent, face=face, owner=subject
    )
    return web.json_response(entry.public(), status=202, headers={"Location": f"/v1/avatars/{entry.id}"})


async def _read_form(request: web.Request, config: ServerConfig) -> tuple[bytes, dict[str, str]]:
    photo = b""
    fields: dict[str, str] = {}
    try:
        reader = await request.multipart()
        for _ in range(16):
            part = await reader.next()
            if part is None:
                return photo, fields
            if not isinstance(part, BodyPartReader):
                raise ValueError("nested multipart")
            limit = config.max_photo_bytes if part.name == "photo" else MAX_TEXT
            data = bytearray()
            while chunk := await part.read_chunk(65536):
                data += chunk
                if len(data) > limit:
                    raise ApiError(
                        413, "too_large", f"The field '{part.name}' may hold {limit} bytes at most."
                    )
            if part.name == "photo":
                photo = bytes(data)
            elif part.name in ("consent", "name", "face"):
                fields[part.name] = data.decode()
    except (HttpProcessingError, ValueError, AssertionError, RuntimeError, LookupError):
        raise ApiError(400, "bad_form", "The multipart body is malformed.") from None
    raise ApiError(400, "bad_form", "The multipart body has too many parts.")


def _person(request: web.Request, grant: str = "sessions") -> Entry:
    """The person named in the address, if it is the caller's to see."""
    subject = request.app[GUARD].require(request, grant)
    return request.app[AVATARS].get(request.match_info["avatar"], subject)


@people_routes.get("/v1/avatars/{avatar}")
async def show_avatar(request: web.Request) -> web.Response:
    """One person's state: waiting, enrolling (with progress 0..1 and a stage), ready or failed."""
    return web.json_response(_person(request).public())


@people_routes.get("/v1/avatars/{avatar}/picture")
async def avatar_picture(request: web.Request) -> web.Response:
    """The person at rest, as JPEG."""
    entry = _person(request)
    if not entry.picture:
        raise ApiError(409, "not_ready", "This person is still being prepared.", {"Retry-After": "2"})
    return web.Response(body=entry.picture, content_type="image/jpeg")


@people_routes.delete("/v1/avatars/{avatar}")
async def delete_avatar(request: web.Request) -> web.Response:
    """Forget a person at once. Live sessions keep theirs until they end."""
    request.app[AVATARS].remove(_person(request, "avatars"))
    return web.Response(status=204)
