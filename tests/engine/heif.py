"""Pictures as telephones save them: one HEVC picture in an ISO base media file (HEIF, ISO/IEC 23008-12), put together box by box."""

from __future__ import annotations

import re
import struct
from fractions import Fraction

import av
import numpy as np


def heic(picture: np.ndarray, *, turned: int = 0, stated: tuple[int, int] | None = None) -> bytes:
    """A .heic file of a picture (H, W, 3), even sides; `turned`: by so many quarters anticlockwise when shown; `stated`: width and height that the
    file speaks of, where they are not the picture's."""
    height, width = picture.shape[:2]
    described, coded = _hevc(picture)
    properties = [
        described,
        _full(b"ispe", 0, struct.pack(">II", *(stated or (width, height)))),
        _box(b"irot", bytes([turned])),
    ]
    essential = bytes(0x80 | k for k in range(1, len(properties) + 1))
    head = _box(b"ftyp", b"heic", bytes(4), b"mif1heic")

    def meta(offset: int) -> bytes:
        return _full(
            b"meta", 0,
            _full(b"hdlr", 0, bytes(4), b"pict", bytes(13)),
            _full(b"pitm", 0, struct.pack(">H", 1)),
            _full(b"iloc", 0, b"\x44\0", struct.pack(">HHHHII", 1, 1, 0, 1, offset, len(coded))),
            _full(b"iinf", 0, struct.pack(">H", 1), _full(b"infe", 2, struct.pack(">HH", 1, 0), b"hvc1\0")),
            _box(b"iprp", _box(b"ipco", *properties), _full(b"ipma", 0, struct.pack(">IHB", 1, 1, len(properties)), essential)),
        )  # fmt: skip

    return head + meta(len(head) + len(meta(0)) + 8) + _box(b"mdat", coded)


def _hevc(picture: np.ndarray) -> tuple[bytes, bytes]:
    """The `hvcC` box of a picture coded by HEVC (ISO/IEC 14496-15), and its slices, each behind its length."""
    coder = av.CodecContext.create("libx265", "w")
    coder.height, coder.width = picture.shape[:2]
    coder.pix_fmt, coder.time_base, coder.options = (
        "yuv420p",
        Fraction(1, 25),
        {"x265-params": "log-level=none"},
    )
    frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
    frame.pts = 0
    stream = b"".join(bytes(packet) for packet in [*coder.encode(frame), *coder.encode()])
    units: dict[int, list[bytes]] = {}
    for unit in re.split(b"\0\0\0?\1", stream)[1:]:
        units.setdefault(unit[0] >> 1 & 63, []).append(unit)
    parameters = {kind: units.pop(kind) for kind in (32, 33, 34)}  # of video, sequence and picture
    profile = parameters[33][0].replace(b"\0\0\3", b"\0\0")[3:15]
    body = b"\1" + profile + b"\xf0\0\xfc\xfd\xf8\xf8\0\0\x0f" + bytes([len(parameters)])
    for kind, (unit,) in parameters.items():
        body += struct.pack(">BHH", 0x80 | kind, 1, len(unit)) + unit
    slices = [unit for kind, found in units.items() if kind < 32 for unit in found]
    return _box(b"hvcC", body), b"".join(struct.pack(">I", len(unit)) + unit for unit in slices)


def _box(kind: bytes, *parts: bytes) -> bytes:
    body = b"".join(parts)
    return struct.pack(">I", len(body) + 8) + kind + body


def _full(kind: bytes, version: int, *parts: bytes) -> bytes:
    return _box(kind, bytes([version, 0, 0, 0]), *parts)
