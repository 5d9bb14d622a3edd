"""Errors on the wire: always JSON `{"error": {"code", "message"}}`, never a path or a stack trace."""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Mapping

from aiohttp import web
from visavis.engine.errors import QueueFullError, VisavisError

log = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class ApiError(Exception):
    """An answer in the 4xx or 5xx range with a stable machine-readable `code`."""

    def __init__(
        self, status: int, code: str, message: str, headers: Mapping[str, str] | None = None
    ) -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = dict(headers or {})


def error_body(code: str, message: str) -> dict[str, dict[str, str]]:
    """The body of every error answer."""
    return {"error": {"code": code, "message": message}}


def error_response(
    status: int, code: str, message: str, headers: Mapping[str, str] | None = None
) -> web.Response:
    """An error answer as a response object."""
    return web.json_response(error_body(code, message), status=status, headers=dict(headers or {}))


_CODES = {
    400: ("bad_request", "The request could not be understood."),
    404: ("not_found", "There is nothing at this address."),
    405: ("method_not_allowed", "This address does not take that method."),
    413: ("too_large", "The request is larger than this server takes."),
    415: ("unsupported_media_type", "This address does not take that content type."),
}


@web.middleware
async def errors_middleware(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Turns every failure into one JSON error."""
    try:
        return await handler(request)
    except ApiError as error:
        return error_response(error.status, error.code, error.message, error.headers)
    except QueueFullError as error:
        return error_response(429, error.code, str(error), {"Retry-After": "1"})
    except VisavisError as error:
        return error_response(422, error.code, str(error))
    except web.HTTPException as error:
        if error.status < 400:
            raise
        code, message = _CODES.get(error.status, ("http_error", error.reason))
        headers = {"Allow": error.headers["Allow"]} if "Allow" in error.headers else {}
        return error_response(error.status, code, message, headers)
    except (ConnectionError, TimeoutError):
        raise
    except Exception:
        log.exception("request failed method=%s path=%s", request.method, request.path)
        return error_response(500, "internal", "Something went wrong inside the server; its log says what.")
