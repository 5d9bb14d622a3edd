"""What the server's tests send to be enrolled."""

from __future__ import annotations

import aiohttp
from double import draw
from films import film_of


def drawn(frames: int = 30, kind: str = "mp4") -> bytes:
    """A film of the double's face."""
    return film_of((draw(abs(k % 10 - 5) / 5) for k in range(frames)), kind)


def person_form(content: bytes, field: str = "photo", **texts: str) -> aiohttp.FormData:
    """The form of a person whose file claims to be a PNG picture: what it holds is what counts."""
    form = aiohttp.FormData({"consent": "mine", **texts}, default_to_multipart=True)
    form.add_field(field, content, filename="p.png", content_type="image/png")
    return form
