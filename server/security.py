"""Who may talk to the server: host and origin checks, bearer tokens, response headers."""

from __future__ import annotations

import hmac
import secrets
import time
from collections.abc import Iterable
from urllib.parse import urlsplit

from aiohttp import web
from visavis.server.config import LOOPBACK_HOSTS, ServerConfig
from visavis.server.errors import ApiError, Handler, error_response
from visavis.server.limits import RateLimit
from visavis.server.tokens import WATCH, Claims, TokenError, sign, verify

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self' ws: wss:; worker-src 'self' blob:; form-action 'none'; base-uri 'none'; frame-ancestors "
)
HEADERS = {
    "Content-Security-Policy": _CSP + "'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(self), geolocation=()",
}
SUBPROTOCOL_TOKEN = "bearer."
"""Browsers cannot set headers on a WebSocket: they offer the subprotocols `visavis` and `bearer.TOKEN`."""


def framed_by(origins: Iterable[str]) -> dict[str, str]:
    """Headers of a page that pages of these origins, and the server's own, may show in a frame."""
    return {
        "Content-Security-Policy": _CSP + " ".join(("'self'", *origins)),
        "X-Frame-Options": "SAMEORIGIN",  # browsers that know frame-ancestors go by that
    }


def token_of(request: web.Request) -> str | None:
    """The bearer token of a request: the Authorization header, or a WebSocket's `bearer.TOKEN` subprotocol."""
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    for offered in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        if offered.strip().startswith(SUBPROTOCOL_TOKEN):
            return offered.strip()[len(SUBPROTOCOL_TOKEN) :]
    return None


class Guard:
    """Who may do what. Sessions always ask for their token; photos, new sessions and metrics for an access token where
    `config.auth` says so (beyond localhost it is the default)."""

    def __init__(self, config: ServerConfig) -> None:
        self._config = config
        self._secret = config.secret.encode() if config.secret else secrets.token_bytes(32)
        self.auth = config.auth if config.auth is not None else not config.loopback

    def access_token(self, subject: str, grants: frozenset[str], lifetime_s: float) -> str:
        """A token for people or programs."""
        return sign(self._secret, Claims(subject, grants, expires=time.time() + lifetime_s))

    def session_token(
        self, session_id: str, subject: str | None, lifetime_s: float, *, watch_only: bool = False
    ) -> str:
        """The token of one session: for all that can be done with it, or to see and hear it only."""
        grants = frozenset({WATCH} if watch_only else ())
        return sign(self._secret, Claims(subject or "", grants, session_id, time.time() + lifetime_s))

    def _claims(self, request: web.Request, hint: str) -> Claims:
        token = token_of(request)
        if token is None:
            raise ApiError(401, "token_missing", hint, {"WWW-Authenticate": "Bearer"})
        try:
            return verify(self._secret, token)
        except TokenError as error:
            raise ApiError(
                401, "token_wrong", f"The token does not open this: {error}.",
                {"WWW-Authenticate": 'Bearer error="invalid_token"'},
            ) from None  # fmt: skip

    def require(self, request: web.Request, grant: str) -> str | None:
        """The subject of the request's access token, None where none is asked for. ApiError 401 and 403."""
        if not self.auth:
            return None
        claims = self._claims(
            request,
            "Send an access token as 'Authorization: Bearer TOKEN'; the server printed one at its start.",
        )
        if grant not in claims.grants:
            raise ApiError(403, "not_granted", f"This token does not grant '{grant}'.")
        return claims.subject

    def require_session(self, request: web.Request, session_id: str, *, watch: bool = False) -> None:
        """ApiError 401 unless the request carries a token of this session, 403 where that lets watch only; with `watch` that is enough."""
        claims = self._claims(
            request,
            "Send the session's token as 'Authorization: Bearer TOKEN'; POST /v1/sessions returned it.",
        )
        if claims.session is None or not hmac.compare_digest(claims.session.encode(), session_id.encode()):
            raise ApiError(
                401, "token_wrong", "This token does not open this session.",
                {"WWW-Authenticate": 'Bearer error="invalid_token"'},
            )  # fmt: skip
        if WATCH in claims.grants and not watch:
            raise ApiError(403, "not_granted", "This token lets its bearer watch the session, no more.")


def _hostname(host: str) -> str:
    try:
        return (urlsplit(f"//{host}").hostname or "").lower()
    except ValueError:
        return ""


def _origin_allowed(request: web.Request, config: ServerConfig) -> bool:
    origin = request.headers.get("Origin")
    if origin is None or origin in config.allowed_origins:
        return True
    try:
        return urlsplit(origin).netloc.lower() == request.headers.get("Host", "").lower() != ""
    except ValueError:
        return False


def security_middleware(config: ServerConfig) -> object:
    """A middleware that refuses foreign hosts (on loopback), foreign origins and floods, and sets the security headers."""
    limit = RateLimit(config.requests_per_s, 4 * config.requests_per_s)

    @web.middleware
    async def middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
        if config.loopback:
            name = _hostname(request.headers.get("Host", ""))
            if name not in LOOPBACK_HOSTS and name not in config.allowed_hosts:
                response: web.StreamResponse = error_response(
                    403,
                    "host",
                    "This server answers to localhost only; start it with --allow-host to add a name.",
                )
                response.headers.update(HEADERS)
                return response
        if not _origin_allowed(request, config):
            response = error_response(403, "origin", "Pages of this origin may not call this server.")
        else:
            try:
                limit.take(request.remote or "")
            except ApiError as error:
                response = error_response(error.status, error.code, error.message, error.headers)
            else:
                response = await handler(request)
        if not response.prepared:
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            if request.path.startswith("/v1/"):
                response.headers.setdefault("Cache-Control", "no-store")
        return response

    return middleware
