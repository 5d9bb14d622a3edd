"""H.264 for frames that come as I420: NVENC where the driver has it, x264 else."""

from __future__ import annotations

from collections.abc import Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.engine.errors import VideoError
from visavis.engine.timing import FPS

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
        bitrate: int = 1_500_000,
        codecs: Sequence[str] = (HARDWARE, SOFTWARE),
    ) -> None:
        """The first of `codecs` that opens. Raises VideoError where none does."""
        self.width, self.height = width, height
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
        context.width, context.height, context.pix_fmt = self.width, self.height, "yuv420p"
        context.framerate, context.time_base = Fraction(FPS), Fraction(1, FPS)
        context.bit_rate = bitrate
        context.options = _OPTIONS.get(codec, {})
        context.open()
        return context

    def encode(self, i420: npt.NDArray[np.uint8], *, keyframe: bool = False) -> bytes:
        """The stream's bytes for one frame (H * 3 / 2, W)."""
        import av
        from av.video.frame import PictureType

        if i420.shape != (self.height * 3 // 2, self.width):
            raise VideoError(f"frame has shape {i420.shape}, expected ({self.height * 3 // 2}, {self.width})")
        frame = av.VideoFrame.from_ndarray(i420, format="yuv420p")
        frame.pts, frame.time_base = self._index, Fraction(1, FPS)
        frame.pict_type = PictureType.I if keyframe else PictureType.NONE
        self._index += 1
        return b"".join(bytes(packet) for packet in self._context.encode(frame))
