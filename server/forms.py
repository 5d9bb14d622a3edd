"""The form that a person is enrolled by: read as it arrives, each part within its own limit, nothing of it on disk."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from aiohttp import BodyPartReader, web
from aiohttp.http_exceptions import HttpProcessingError
from visavis.engine.footage import HEAD, film_format
from visavis.server.config import MIB, ServerConfig
from visavis.server.errors import ApiError

MAX_TEXT = 400
MAX_PARTS = 16
FILES = ("photo", "film")
TEXTS = ("consent", "name", "face", "learn")


@dataclass
class PersonForm:
    """`content` of the file, whether it is a film's (by the content, not by its name or type), and the text fields."""

    content: bytearray = field(default_factory=bytearray)
    film: bool = False
    texts: dict[str, str] = field(default_factory=dict)

    @classmethod
    async def read(cls, request: web.Request, config: ServerConfig) -> PersonForm:
        """ApiError 400, 408, 413, 415 or 422 where it cannot be used."""
        if request.content_type != "multipart/form-data":
            raise ApiError(
                415,
                "unsupported_media_type",
                "Send the photo or film as multipart/form-data with a field 'photo' or 'film'.",
            )
        form = cls()
        try:
            async with asyncio.timeout(config.max_upload_s):
                await form._read(request, config)
        except TimeoutError:
            raise ApiError(408, "too_slow", f"The upload took more than {config.max_upload_s:g} s.") from None
        except (HttpProcessingError, ValueError, AssertionError, RuntimeError, LookupError):
            raise ApiError(400, "bad_form", "The multipart body is malformed.") from None
        return form

    async def _read(self, request: web.Request, config: ServerConfig) -> None:
        reader = await request.multipart()
        for _ in range(MAX_PARTS):
            part = await reader.next()
            if part is None:
                return
            if not isinstance(part, BodyPartReader):
                raise ValueError("nested multipart")
            data = bytearray()
            while chunk := await part.read_chunk(65536):
                data += chunk
                _check_size(part.name or "", data, config)
            if part.name in FILES:
                self.content, self.film = data, film_format(bytes(data[:HEAD])) is not None
                if part.name == "film" and data and not self.film:
                    raise ApiError(
                        422, "not_a_film", "This is no film that can be read: use an MP4, WebM or MOV file."
                    )
            elif part.name in TEXTS:
                self.texts[part.name] = data.decode()
        raise ApiError(400, "bad_form", "The multipart body has too many parts.")


def _check_size(name: str, data: bytearray, config: ServerConfig) -> None:
    """ApiError 413 for a part that has grown too large."""
    if name not in FILES:
        if len(data) > MAX_TEXT:
            raise ApiError(413, "too_large", f"The field '{name}' may hold {MAX_TEXT} bytes at most.")
        return
    film = film_format(bytes(data[:HEAD])) is not None
    limit = config.max_film_bytes if film else config.max_photo_bytes
    if len(data) > limit:
        kind = "film" if film else "photo"
        raise ApiError(413, "too_large", f"A {kind} may have {limit / MIB:.4g} MB ({limit} bytes) at most.")
