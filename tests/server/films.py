"""Films for the server's tests, made as they are needed."""

from __future__ import annotations

import io
from collections.abc import Iterable

import aiohttp
import av
import numpy as np
from double import draw

CODECS = {"mp4": "libx264", "webm": "libvpx", "mov": "mpeg4"}


def film_of(pictures: Iterable[np.ndarray], kind: str = "mp4", rate: int = 25) -> bytes:
    """The content of a film of pictures (H, W, 3)."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=kind) as movie:
        stream = None
        for picture in pictures:
            if stream is None:
                stream = movie.add_stream(CODECS[kind], rate=rate)
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt = "yuv420p"
                stream.bit_rate = 4_000_000
            movie.mux(
                stream.encode(av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24"))
            )
        movie.mux(stream.encode())
    return buffer.getvalue()


def drawn(frames: int = 30, kind: str = "mp4") -> bytes:
    """A film of the double's face."""
    return film_of((draw(abs(k % 10 - 5) / 5) for k in range(frames)), kind)


def sound_only() -> bytes:
    """An MP4 without a picture."""
    buffer = io.BytesIO()
    with av.open(buffer, "w", format="mp4") as movie:
        stream = movie.add_stream("aac", rate=48000, layout="mono")
        for k in range(60):
            frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
            frame.rate, frame.pts = 48000, 1024 * k
            movie.mux(stream.encode(frame))
        movie.mux(stream.encode())
    return buffer.getvalue()


def person_form(content: bytes, field: str = "photo", **texts: str) -> aiohttp.FormData:
    """The form of a person whose file claims to be a PNG picture: what it holds is what counts."""
    form = aiohttp.FormData({"consent": "mine", **texts}, default_to_multipart=True)
    form.add_field(field, content, filename="p.png", content_type="image/png")
    return form
