"""A film's file: whether it is one, how long it is, and its frames. It lies on disk, or whole in memory as it came over the wire.

What a name says is enough for a file of one's own. Bytes from elsewhere are taken for what they hold, and only the reader of that kind is
let at them: others of ffmpeg's (lists of files, streams of the network) open what a film's text tells them to.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.engine.errors import VideoError

Bytes = npt.NDArray[np.uint8]
Source = Path | bytes
"""A film: its file, or the file's content."""
SUFFIXES = frozenset({".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".ts", ".3gp"})
"""Names of films end so."""
HEAD = 512
"""So many bytes tell the kind of a film, or that it is none."""
MAX_PIXELS = 40_000_000
"""Of one frame: as large as a photo may be."""
WHOLE_SHARE = 0.75
"""A film that holds less of the length that it states was cut short. (Sound that is a little longer than the picture is usual.)"""
_PICTURES = frozenset({b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1"})  # fmt: skip
_ATOMS = frozenset({b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot"})
_TRANSPORT = 188
"""Bytes of a packet of MPEG-TS."""


def is_film(path: Path) -> bool:
    """Does its name say that a file is a film?"""
    return path.suffix.lower() in SUFFIXES


def film_format(head: bytes) -> str | None:
    """The kind of film that begins with these bytes (HEAD of them), as ffmpeg's readers are called; None: no film that is known here."""
    kind = None
    if head[4:8] == b"ftyp":  # MP4 and its kin; pictures come in the same boxes
        kind = None if head[8:12] in _PICTURES else "mov"
    elif head[4:8] in _ATOMS:  # QuickTime of old begins at once
        kind = "mov"
    elif head.startswith(b"\x1aE\xdf\xa3"):
        kind = "matroska"
    elif head.startswith(b"RIFF") and head[8:12] == b"AVI ":
        kind = "avi"
    elif head.startswith(b"\x00\x00\x01\xba"):
        kind = "mpeg"
    elif head.startswith(b"\x00\x00\x01\xb3"):
        kind = "mpegvideo"
    elif len(head) > 2 * _TRANSPORT and set(head[: 2 * _TRANSPORT + 1 : _TRANSPORT]) == {ord("G")}:
        kind = "mpegts"
    return kind


def film_name(source: Source) -> str:
    """What messages call a film: its path where it has one."""
    return str(source) if isinstance(source, Path) else "the film"


@dataclass(frozen=True, eq=False)
class Footage:
    """What a film's file says before a frame of it is decoded: when each frame is shown, the length, and pixels of a frame."""

    times: npt.NDArray[np.float64]
    """(frames,) seconds since the first. Films of webcams and telephones leave frames out and have no constant rate."""
    seconds: float
    width: int
    height: int

    @property
    def frames(self) -> int:
        """Number of frames."""
        return len(self.times)

    @classmethod
    def of(cls, source: Source) -> Footage:
        """Go through the file's packets. VideoError: `not_a_film`, or `damaged` where it is broken or cut short."""
        with opened(source) as container:
            stream = _pictures(container, source)
            stamps = [packet.pts for packet in container.demux(stream) if packet.size]
            known = [stamp for stamp in stamps if stamp is not None]
            rate = _rate(stream)
            base = stream.time_base
            span = float((max(known) - min(known)) * base) if known else 0.0
            seconds = span + 1 / rate if span else len(stamps) / rate
            stated = float(stream.duration * base if stream.duration else (container.duration or 0) / 1e6)  # fmt: skip
            size = stream.codec_context.width, stream.codec_context.height
        if not stamps or seconds < WHOLE_SHARE * stated:
            raise VideoError(
                f"{film_name(source)} is cut short: {seconds if stamps else 0:.1f} of its {stated:.1f} s are there",
                "damaged",
            )
        times = (
            (np.sort(known) - min(known)) * float(base)
            if len(known) == len(stamps)
            else np.arange(len(stamps)) / rate
        )
        return cls(times, seconds, *size)


def read_frames(source: Source) -> Iterator[tuple[Bytes, float]]:
    """Frames (H, W, 3) RGB of a video, upright, and the stream's frame rate; VideoError when it cannot be read (`not_a_film`, `damaged`)."""
    with opened(source) as container:
        stream = _pictures(container, source)
        stream.thread_type = "AUTO"
        stream.codec_context.options = {"max_pixels": str(MAX_PIXELS)}  # whatever the header says
        rate = _rate(stream)
        for frame in container.decode(stream):
            picture = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
            quarters = round(frame.rotation / 90) % 4  # a telephone held upright writes what its sensor saw
            yield (np.ascontiguousarray(np.rot90(picture, quarters)) if quarters else picture), rate


def _rate(stream: Any) -> float:
    return float(stream.average_rate or stream.guessed_rate or 25)


@contextlib.contextmanager
def opened(source: Source) -> Iterator[Any]:
    """A film's container, to be read from; what goes wrong meanwhile is a VideoError (`not_a_film`, `damaged`)."""
    import av

    name = film_name(source)
    if isinstance(source, Path) and not source.is_file():
        raise VideoError(f"no such video file: {source}", "not_a_film")
    kind = None if isinstance(source, Path) else film_format(source[:HEAD])
    if kind is None and not isinstance(source, Path):
        raise VideoError(f"{name} is of no kind that can be read: use an MP4, WebM or MOV file", "not_a_film")
    file = str(source) if isinstance(source, Path) else io.BytesIO(source)
    try:
        with av.open(file, format=kind) as container:
            yield container
    except (av.error.FFmpegError, OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise VideoError(f"{name} cannot be read as a video ({reason})", "damaged") from None


def _pictures(container: Any, source: Source) -> Any:
    """The stream of pictures of a container."""
    if not container.streams.video:
        raise VideoError(f"{film_name(source)} holds no video stream", "not_a_film")
    stream = container.streams.video[0]
    if stream.codec_context is None:
        raise VideoError(f"{film_name(source)} is coded in a way that is not known here", "not_a_film")
    return stream
