"""Films for tests, made as they are needed."""

from __future__ import annotations

import io
from collections.abc import Iterable

import av
import numpy as np

CODECS = {
    "mp4": "libx264", "webm": "libvpx", "mov": "mpeg4", "avi": "mpeg4", "mpegts": "libx264", "mpeg": "mpeg2video",
}  # fmt: skip
"""By kinds of files, as ffmpeg's writers are called."""


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
