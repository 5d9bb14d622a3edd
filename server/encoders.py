"""Encoders set for low delay, in the place of aiortc's own.

aiortc creates the encoder of a sender by `aiortc.rtcrtpsender.get_encoder(codec)`; `install()` puts ours there. Against
aiortc's settings: no denoiser in VP8 (it smears skin and costs time), a start bitrate that fits 512x512 video of a
face, NVENC for H.264 where a GPU has it, else x264 "superfast" with a small rate buffer, mono Opus in frames that carry their own stamps, and a bitrate that follows the
receiver's estimate (REMB): x264 and NVENC take a new one while it runs; FFmpeg's libvpx does not look at it again (tried), so VP8 is opened
anew, with a keyframe, and the target moves on a ladder of coarse steps with hysteresis, so that this is rare.
"""

from __future__ import annotations

import fractions
import functools
import logging
import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import aiortc.rtcrtpsender
import av
from aiortc.codecs import get_encoder as aiortc_encoder
from aiortc.codecs.base import Encoder
from aiortc.codecs.h264 import H264Encoder
from aiortc.codecs.vpx import Vp8Encoder
from aiortc.mediastreams import VIDEO_TIME_BASE, convert_timebase
from av.frame import Frame
from av.video.frame import PictureType
from visavis.engine.timing import FPS, PLAYBACK_RATE

BITS_PER_PIXEL = 0.30
"""Start rate: 2 Mbit/s at 512x512 and 25 frames a second."""
MIN_BITRATE, MAX_BITRATE = 200_000, 6_000_000
RATE_STEP = 1.25
UP_AFTER_S, LONGEST_UP_AFTER_S, PROVEN_S = 5.0, 120.0, 60.0
KEYFRAME_INTERVAL = 3000
"""Frames; keyframes come when a receiver asks (PLI), not by the clock."""
OPUS_BITRATE = 48_000
OPUS_FRAME = PLAYBACK_RATE // 50
"""Samples in one Opus packet: 20 ms."""


HARDWARE, SOFTWARE = "h264_nvenc", "libx264"
_H264_OPTIONS = {
    HARDWARE: {"preset": "p1", "tune": "ull", "zerolatency": "1", "delay": "0", "rc": "cbr"},
    SOFTWARE: {"preset": "superfast", "tune": "zerolatency", "x264-params": "scenecut=0"},
}
log = logging.getLogger(__name__)


def _unobserved(seconds: float) -> None:
    """Nobody measures."""


_recent: deque[float] = deque(maxlen=50)


def encode_seconds() -> float:
    """Mean time of the last frames' encoding."""
    return sum(_recent) / len(_recent) if _recent else 0.0


def _observe(seconds: float) -> None:
    _recent.append(seconds)
    observe_encode(seconds)


observe_encode: Callable[[float], None] = _unobserved
"""Called with the time that each video frame took to encode (metrics)."""


def start_bitrate(width: int, height: int) -> int:
    """Bits per second to start with for a picture of this size."""
    return max(MIN_BITRATE, min(MAX_BITRATE, int(width * height * FPS * BITS_PER_PIXEL)))


def step_below(bitrate: int) -> int:
    """The largest step of a ladder (a quarter apart) that is not above a rate: estimates that wander do not change the target."""
    if bitrate < MIN_BITRATE:
        return bitrate
    return int(MIN_BITRATE * RATE_STEP ** int(math.log(bitrate / MIN_BITRATE * (1 + 1e-9), RATE_STEP)))


@dataclass
class RateControl:
    """The target bitrate under the receiver's estimates.

    A receiver estimates at most about one and a half times what it gets, so an estimate above what was really sent
    says nothing against the target: the picture was still. One below it is a true limit. Rises are slow and falls at once, and
    both only when they are worth a new keyframe.
    """

    target: int
    ceiling: int
    sent: float = 0.0
    """Bits per second really sent, a moving average over about a second."""
    changed_at: float = float("-inf")
    up_after_s: float = UP_AFTER_S
    """How long a rise waits; longer and longer where rises did not last."""
    rose_at: float = float("-inf")

    def count(self, size: int) -> None:
        """One frame of `size` bytes was sent."""
        self.sent += (size * 8 * FPS - self.sent) / FPS

    def estimate(self, bitrate: int, now: float) -> bool:
        """Takes a receiver's estimate in bits per second; true where the target changed."""
        bitrate = max(MIN_BITRATE, min(step_below(bitrate), self.ceiling))
        if bitrate < 0.85 * self.target and bitrate < 1.05 * self.sent:
            too_early = now - self.rose_at < PROVEN_S
            self.up_after_s = min(2 * self.up_after_s, LONGEST_UP_AFTER_S) if too_early else UP_AFTER_S
            self.target = bitrate
        elif bitrate > 1.3 * self.target and now - self.changed_at > self.up_after_s:
            self.target = min(bitrate, step_below(int(1.5 * self.target)))
            self.rose_at = now
        else:
            return False
        self.changed_at = now
        return True


class _RateControlled:
    """The bitrate property that aiortc's sender sets when a REMB arrives."""

    rate: RateControl | None = None

    def _rate_for(self, width: int, height: int) -> RateControl:
        if self.rate is None:
            start = start_bitrate(width, height)
            self.rate = RateControl(start, ceiling=min(MAX_BITRATE, 2 * start))
        return self.rate

    @property
    def target_bitrate(self) -> int:
        """Target in bits per second."""
        return self.rate.target if self.rate else 0

    @target_bitrate.setter
    def target_bitrate(self, bitrate: int) -> None:
        if self.rate is not None:
            self.rate.estimate(bitrate, time.monotonic())


class LowDelayVp8Encoder(_RateControlled, Vp8Encoder):
    """VP8, one frame in and one frame out, constant bitrate, one thread."""

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        assert isinstance(frame, av.VideoFrame)
        began = time.perf_counter()
        rate = self._rate_for(frame.width, frame.height)
        codec = self.codec
        if codec is None or (codec.width, codec.height, codec.bit_rate) != (
            frame.width,
            frame.height,
            rate.target,
        ):
            codec = self.codec = self._open(frame.width, frame.height, rate.target)
        frame.pict_type = PictureType.I if force_keyframe else PictureType.NONE
        data = b"".join(bytes(packet) for packet in codec.encode(frame))
        rate.count(len(data))
        payloads = self._packetize(data, self.picture_id)
        self.picture_id = (self.picture_id + 1) % (1 << 15)
        _observe(time.perf_counter() - began)
        assert frame.pts is not None and frame.time_base is not None
        return payloads, convert_timebase(frame.pts, frame.time_base, VIDEO_TIME_BASE)

    @staticmethod
    def _open(width: int, height: int, bitrate: int) -> Any:
        codec: Any = av.CodecContext.create("libvpx", "w")
        codec.width, codec.height, codec.pix_fmt = width, height, "yuv420p"
        codec.bit_rate = bitrate
        codec.time_base = VIDEO_TIME_BASE
        codec.framerate = fractions.Fraction(FPS)
        codec.gop_size = KEYFRAME_INTERVAL
        codec.qmin, codec.qmax = 2, 52
        codec.thread_count = 1
        codec.options = {
            "deadline": "realtime",
            "cpu-used": "-8",
            "lag-in-frames": "0",
            "minrate": str(bitrate),
            "maxrate": str(bitrate),
            "bufsize": str(bitrate),
            "static-thresh": "1",
            "undershoot-pct": "100",
            "overshoot-pct": "15",
            "max-intra-rate": "600",
        }
        return codec


def open_h264(name: str, width: int, height: int, bitrate: int) -> Any:
    """An open H.264 encoder of FFmpeg, set for low delay; raises what PyAV raises where it cannot be had."""
    codec: Any = av.CodecContext.create(name, "w")
    codec.width, codec.height, codec.pix_fmt = width, height, "yuv420p"
    codec.bit_rate = bitrate
    codec.time_base = VIDEO_TIME_BASE
    codec.framerate = fractions.Fraction(FPS)
    codec.gop_size = KEYFRAME_INTERVAL
    codec.thread_count = 1
    codec.profile = "Baseline"
    codec.options = {
        "level": "31", "maxrate": str(bitrate), "bufsize": str(bitrate // 4), "forced-idr": "1", **_H264_OPTIONS.get(name, {}),
    }  # fmt: skip
    codec.open()
    return codec


@functools.cache
def hardware_encodes() -> bool:
    """Whether this machine has NVENC and a driver for it; asked once."""
    try:
        open_h264(HARDWARE, 512, 512, 1_000_000)
    except Exception:  # a driver that is missing shows as PermissionError, an encoder as ValueError
        return False
    log.info("H.264 is encoded by the GPU")
    return True


class LowDelayH264Encoder(_RateControlled, H264Encoder):
    """H.264 constrained baseline, by NVENC or x264; both take a new bitrate without being opened anew."""

    def _encode_frame(self, frame: av.VideoFrame, force_keyframe: bool) -> Iterator[bytes]:
        began = time.perf_counter()
        rate = self._rate_for(frame.width, frame.height)
        codec: Any = self.codec
        if codec is None or (codec.width, codec.height) != (frame.width, frame.height):
            codec = self.codec = self._open(frame.width, frame.height, rate.target)
        codec.bit_rate = rate.target
        frame.pict_type = PictureType.I if force_keyframe else PictureType.NONE
        data = b"".join(bytes(packet) for packet in codec.encode(frame))
        rate.count(len(data))
        _observe(time.perf_counter() - began)
        yield from self._split_bitstream(data)

    @staticmethod
    def _open(width: int, height: int, bitrate: int) -> Any:
        if hardware_encodes():
            try:
                return open_h264(HARDWARE, width, height, bitrate)
            except Exception as error:  # consumer GPUs encode a few streams at once and refuse one more
                log.info("no room on the hardware encoder (%s): x264 takes this stream", error)
        return open_h264(SOFTWARE, width, height, bitrate)


class MonoOpusEncoder(Encoder):
    """Opus from 20 ms blocks of 48 kHz mono; the stamps are those of the blocks, gaps included."""

    def __init__(self) -> None:
        codec: Any = av.CodecContext.create("libopus", "w")
        codec.bit_rate = OPUS_BITRATE
        codec.format, codec.layout, codec.sample_rate = "s16", "mono", PLAYBACK_RATE
        codec.time_base = fractions.Fraction(1, PLAYBACK_RATE)
        codec.options = {"application": "voip", "frame_duration": "20", "fec": "1", "packet_loss": "5"}
        self._codec = codec
        self._encoded = 0

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        assert isinstance(frame, av.AudioFrame)
        stamp = frame.pts
        assert stamp is not None
        frame.pts = self._encoded  # the codec sees a gapless stream; the stamp goes round it
        self._encoded += frame.samples
        return [bytes(packet) for packet in self._codec.encode(frame)], stamp

    def pack(self, packet: Any) -> tuple[list[bytes], int]:
        return [bytes(packet)], packet.pts


def get_encoder(codec: Any) -> Encoder:
    """The encoder for a negotiated codec."""
    name = codec.mimeType.lower()
    if name == "video/vp8":
        return LowDelayVp8Encoder()
    if name == "video/h264":
        return LowDelayH264Encoder()
    if name == "audio/opus":
        return MonoOpusEncoder()
    return aiortc_encoder(codec)


def install() -> None:
    """Make aiortc's senders use the encoders of this module."""
    aiortc.rtcrtpsender.get_encoder = get_encoder
