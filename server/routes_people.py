"""The HTTP interface to people: enrolling photos and films, asking after them, forgetting them."""

from __future__ import annotations

from aiohttp import web
from visavis.server.avatars import Entry
from visavis.server.errors import ApiError
from visavis.server.forms import PersonForm
from visavis.server.routes import AVATARS, CONFIG, GUARD, LIMITS, whole_number

people_routes = web.RouteTableDef()


@people_routes.get("/v1/avatars")
async def list_avatars(request: web.Request) -> web.Response:
    """The people that everybody may choose, and the caller's own where callers are known."""
    subject = request.app[GUARD].require(request, "sessions")
    return web.json_response({"avatars": [entry.public() for entry in request.app[AVATARS].listed(subject)]})


@people_routes.post("/v1/avatars")
async def enroll_avatar(request: web.Request) -> web.Response:
    """Multipart: `consent` (a statement), `photo` (a file: a photo or a film) or `film`; optionally `name`; with a photo `face`
    (number from the left), with a film `learn` ("true": its mouth is learned meanwhile)."""
    config, people = request.app[CONFIG], request.app[AVATARS]
    subject = request.app[GUARD].require(request, "avatars")
    request.app[LIMITS]["enrollments"].take(subject or request.remote or "")
    with people.place():
        form = await PersonForm.read(request, config)
        consent = form.texts.get("consent", "").strip()
        if not consent:
            raise ApiError(
                400,
                "consent_missing",
                "Say in the field 'consent' that the person in the photo agrees to be shown speaking.",
            )
        if not form.content:
            raise ApiError(
                400, "photo_missing", "Send the photo as a file in the field 'photo', or a film in 'film'."
            )
        entry = people.enroll(
            form.content,
            name=form.texts.get("name", "").strip() or ("Your film" if form.film else "Your photo"),
            consent=consent,
            face=_face(form),
            owner=subject,
            learn=_learn(form),
        )
    return web.json_response(entry.public(), status=202, headers={"Location": f"/v1/avatars/{entry.id}"})


def _face(form: PersonForm) -> int | None:
    if "face" not in form.texts:
        return None
    if form.film:
        raise ApiError(400, "bad_value", "'face' goes with a photo; a film must show one person alone.")
    try:
        return whole_number(int(form.texts["face"]), "face", 1, 100)
    except ValueError:
        raise ApiError(400, "bad_value", "'face' must be a whole number from 1 to 100.") from None


def _learn(form: PersonForm) -> bool:
    value = form.texts.get("learn", "false")
    if value not in ("true", "false"):
        raise ApiError(400, "bad_value", "'learn' must be true or false.")
    if value == "true" and not form.film:
        raise ApiError(400, "bad_value", "'learn' goes with a film; a photo does not tell how a mouth moves.")
    return value == "true"


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
