"""Who may talk to the server: host and origin checks, bearer tokens, response headers."""

from __future__ import annotations

import hashlib
import hmac
import secrets
from urllib.parse import urlsplit

from aiohttp import web
from visavis.server.config import LOOPBACK_HOSTS, ServerConfig
from visavis.server.errors import ApiError, Handler, error_response

_CSP = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; media-src 'self' blob:; "
    "connect-src 'self' ws: wss:; worker-src 'self' blob:; form-action 'none'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "Content-Security-Policy": _CSP,
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "microphone=(self), camera=(), geolocation=()",
}
SUBPROTOCOL_TOKEN = "bearer."
"""Browsers cannot set headers on a WebSocket: they offer the subprotocols `visavis` and `bearer.TOKEN`."""


def new_token() -> str:
    """A bearer token of 256 random bits."""
    return secrets.token_urlsafe(32)


def digest(token: str) -> bytes:
    """What is kept of a token, so that a memory dump or a log holds none."""
    return hashlib.sha256(token.encode("utf-8", "surrogateescape")).digest()


def token_of(request: web.Request) -> str | None:
    """The bearer token of a request: the Authorization header, or a WebSocket's `bearer.TOKEN` subprotocol."""
    scheme, _, value = request.headers.get("Authorization", "").partition(" ")
    if scheme.lower() == "bearer" and value.strip():
        return value.strip()
    for offered in request.headers.get("Sec-WebSocket-Protocol", "").split(","):
        if offered.strip().startswith(SUBPROTOCOL_TOKEN):
            return offered.strip()[len(SUBPROTOCOL_TOKEN) :]
    return None


def require_token(request: web.Request, expected: bytes) -> None:
    """Raises ApiError 401 unless the request carries the token whose digest is `expected`."""
    token = token_of(request)
    if token is None:
        raise ApiError(
            401,
            "token_missing",
            "Send the session's token as 'Authorization: Bearer TOKEN'; POST /v1/sessions returned it.",
            {"WWW-Authenticate": "Bearer"},
        )
    if not hmac.compare_digest(digest(token), expected):
        raise ApiError(
            401,
            "token_wrong",
            "This token does not open this session.",
            {"WWW-Authenticate": 'Bearer error="invalid_token"'},
        )


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
    """A middleware that refuses foreign hosts (on loopback) and foreign origins, and sets the security headers."""

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
            response = await handler(request)
        if not response.prepared:
            for name, value in HEADERS.items():
                response.headers.setdefault(name, value)
            if request.path.startswith("/v1/"):
                response.headers.setdefault("Cache-Control", "no-store")
        return response

    return middleware
