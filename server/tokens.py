"""Bearer tokens: JSON Web Tokens signed with HMAC-SHA256 (RFC 7519, `HS256` and nothing else).

Two kinds, told apart by their claims. An access token (`grants`: "avatars", "sessions", "metrics") lets its subject enrol photos, begin sessions,
scrape metrics. A session token (`session`: an id) opens that one session; one with the grant "watch" lets its bearer see and hear it, no more.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac
import json
import time
from dataclasses import dataclass
from typing import Any

GRANTS = ("avatars", "sessions", "metrics")
WATCH = "watch"
MAX_TOKEN = 4096
_HEADER = base64.urlsafe_b64encode(b'{"alg":"HS256","typ":"JWT"}').rstrip(b"=")


class TokenError(ValueError):
    """Not a token of ours, or no longer."""


@dataclass(frozen=True)
class Claims:
    """What a token says."""

    subject: str
    grants: frozenset[str] = frozenset()
    session: str | None = None
    expires: float = 0.0
    """Unix time."""


def sign(secret: bytes, claims: Claims) -> str:
    """The token of these claims."""
    body: dict[str, Any] = {"sub": claims.subject, "exp": int(claims.expires), "iat": int(time.time())}
    if claims.grants:
        body["grants"] = sorted(claims.grants)
    if claims.session is not None:
        body["session"] = claims.session
    signed = _HEADER + b"." + _encode(json.dumps(body, separators=(",", ":")).encode())
    return (signed + b"." + _encode(hmac.digest(secret, signed, hashlib.sha256))).decode()


def verify(secret: bytes, token: str) -> Claims:
    """The claims of a token; TokenError for one that is malformed, forged, of another algorithm or too old."""
    parts = token.encode("utf-8", "surrogateescape").split(b".")
    if len(token) > MAX_TOKEN or len(parts) != 3:
        raise TokenError("this is no token")
    try:
        header, body, signature = (_decode(part) for part in parts)
        head, claims = json.loads(header), json.loads(body)
    except (ValueError, RecursionError):
        raise TokenError("this is no token") from None
    if not isinstance(head, dict) or head.get("alg") != "HS256" or not isinstance(claims, dict):
        raise TokenError("this is no HS256 token")
    if not hmac.compare_digest(signature, hmac.digest(secret, parts[0] + b"." + parts[1], hashlib.sha256)):
        raise TokenError("the token was not signed by this server's secret")
    subject, expires = claims.get("sub"), claims.get("exp")
    grants, session = claims.get("grants", []), claims.get("session")
    if not isinstance(subject, str) or isinstance(expires, bool) or not isinstance(expires, int | float):
        raise TokenError("the token names no subject or no end")
    if not isinstance(grants, list) or not (session is None or isinstance(session, str)):
        raise TokenError("the token's grants cannot be read")
    if expires < time.time():
        raise TokenError("the token has expired")
    return Claims(subject, frozenset(map(str, grants)), session, float(expires))


def turn_credentials(secret: str, subject: str, lifetime_s: float) -> tuple[str, str]:
    """User name and password of a TURN server for a while (the scheme of coturn's `use-auth-secret`)."""
    user = f"{int(time.time() + lifetime_s)}:{subject}"
    return user, base64.b64encode(hmac.digest(secret.encode(), user.encode(), "sha1")).decode()


def _encode(data: bytes) -> bytes:
    return base64.urlsafe_b64encode(data).rstrip(b"=")


def _decode(part: bytes) -> bytes:
    try:
        return base64.b64decode(part + b"=" * (-len(part) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError(str(error)) from None
