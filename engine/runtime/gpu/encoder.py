"""H.264 for frames that come as I420 or NV12: NVENC where the driver has it, x264 else."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
from visavis.engine.errors import VideoError
from visavis.engine.timing import FPS

Layout = Literal["i420", "nv12"]
"""Chroma in two planes or interleaved; NVENC turns the first into the second by itself, which costs it a copy."""
_FORMATS: dict[Layout, str] = {"i420": "yuv420p", "nv12": "nv12"}
BITRATE = 1_500_000
HARDWARE, SOFTWARE = "h264_nvenc", "libx264"
_OPTIONS = {
    HARDWARE: {"preset": "p1", "tune": "ull", "zerolatency": "1", "rc": "cbr", "delay": "0"},
    SOFTWARE: {"preset": "veryfast", "tune": "zerolatency"},
}


class Encoder:
    """One stream of H.264. `codec` says which encoder it became."""

    def __init__(
        self,
        width: int,
        height: int,
        *,
        bitrate: int = BITRATE,
        layout: Layout = "i420",
        codecs: Sequence[str] = (HARDWARE, SOFTWARE),
    ) -> None:
        """The first of `codecs` that opens. Raises VideoError where none does."""
        self.width, self.height, self.layout = width, height, layout
        self._index = 0
        reasons = []
        for codec in codecs:
            try:
                self._context = self._open(codec, bitrate)
                self.codec = codec
                return
            except (
                Exception
            ) as error:  # a driver that is missing shows as PermissionError, an encoder as ValueError
                reasons.append(
                    f"{codec}: {str(error).splitlines()[0][:120] if str(error) else type(error).__name__}"
                )
        raise VideoError(f"no H.264 encoder for {width}x{height}: {'; '.join(reasons)}")

    def _open(self, codec: str, bitrate: int) -> Any:
        import av

        context: Any = av.CodecContext.create(codec, "w")
        context.width, context.height, context.pix_fmt = self.width, self.height, _FORMATS[self.layout]
        context.framerate, context.time_base = Fraction(FPS), Fraction(1, FPS)
        context.bit_rate = bitrate
        context.options = _OPTIONS.get(codec, {})
        context.open()
        return context

    @property
    def bitrate(self) -> int:
        """Bits per second aimed at; both encoders take a new one while they run."""
        return int(self._context.bit_rate)

    @bitrate.setter
    def bitrate(self, bitrate: int) -> None:
        if bitrate != self._context.bit_rate:
            self._context.bit_rate = bitrate

    def encode(self, yuv: npt.NDArray[np.uint8], *, keyframe: bool = False) -> bytes:
        """The stream's bytes for one frame (H * 3 / 2, W) in the encoder's layout. VideoError for another shape."""
        import av
        from av.video.frame import PictureType

        if yuv.shape != (self.height * 3 // 2, self.width):
            raise VideoError(f"frame has shape {yuv.shape}, expected ({self.height * 3 // 2}, {self.width})")
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(yuv), format=_FORMATS[self.layout])
        frame.pts, frame.time_base = self._index, Fraction(1, FPS)
        frame.pict_type = PictureType.I if keyframe else PictureType.NONE
        self._index += 1
        return b"".join(bytes(packet) for packet in self._context.encode(frame))
