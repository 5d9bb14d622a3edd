"""What is set right in aiortc's RTP layer for a live conversation: capture times in sender reports, no prefetch of speech.

aiortc offers no public hooks here, so this module alone touches its private names (pinned by tests/server/test_rtp.py).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from aiortc.jitterbuffer import JitterFrame
from aiortc.rtp import RtcpSrPacket, RtpPacket

NTP_EPOCH_OFFSET = 2_208_988_800
"""Seconds from 1900 to 1970."""


def ntp_timestamp(unix_time: float) -> int:
    """64-bit NTP time of a Unix time in seconds."""
    return int((unix_time + NTP_EPOCH_OFFSET) * (1 << 32)) & 0xFFFFFFFFFFFFFFFF


def unix_time(ntp: int) -> float:
    """Unix time in seconds of a 64-bit NTP time."""
    return ntp / (1 << 32) - NTP_EPOCH_OFFSET


def report_capture_time(sender: Any, capture_time: Callable[[int], float], clock_rate: int) -> None:
    """Make an RTCRtpSender's reports (RFC 3550, 6.4.1) pair the time of sending with the RTP stamp of media that is due then.

    aiortc pairs the last packet's stamp with the time that packet was sent, which puts encoding time and load into the receiver's idea of
    audio-video synchrony. `capture_time` maps an encoder's stamp (RTP units from 0, `clock_rate` a second) to Unix time in seconds.
    """
    encode, send = sender._next_encoded_frame, sender._send_rtcp
    stamp: int | None = None
    origin: int | None = None

    async def next_encoded_frame(codec: Any) -> Any:
        nonlocal stamp, origin
        if origin is None and stamp is not None:
            # The frame before this one has left: the sender's last RTP stamp is its stamp plus a random origin.
            origin = (sender._RTCRtpSender__rtp_timestamp - stamp) & 0xFFFFFFFF
        frame = await encode(codec)
        if frame is not None:
            stamp = frame.timestamp
        return frame

    async def send_rtcp(packets: list[Any]) -> None:
        for packet in list(packets):
            if isinstance(packet, RtcpSrPacket):
                if origin is None or stamp is None:
                    packets.remove(
                        packet
                    )  # nothing was sent yet: a report would pair stamp 0 with the year 1900
                    continue
                # of now, as receivers take the difference to its arrival for that of the clocks
                now = time.time()
                ahead = round((now - capture_time(stamp)) * clock_rate)
                packet.sender_info.rtp_timestamp = (origin + stamp + ahead) & 0xFFFFFFFF
                packet.sender_info.ntp_timestamp = ntp_timestamp(now)
                # by this the sender knows its report again when the receiver answers (round-trip time)
                sender._RTCRtpSender__lsr = (packet.sender_info.ntp_timestamp >> 16) & 0xFFFFFFFF
        if packets:
            await send(packets)

    sender._next_encoded_frame = next_encoded_frame
    sender._send_rtcp = send_rtcp


class SpeechJitterBuffer:
    """Hands each speech packet on at once and drops those that come late or twice.

    aiortc's buffer holds four packets (80 ms) back, which a mouth that must answer speech cannot wait for; a lost packet is a
    gap of 20 ms, which the engine's own buffering bridges.
    """

    capacity = 16

    def __init__(self) -> None:
        self._last: int | None = None

    def add(self, packet: RtpPacket) -> tuple[bool, JitterFrame | None]:
        """Takes an RTP packet; returns (False, its frame), or (False, None) for a packet that is too late."""
        number = packet.sequence_number
        if self._last is not None and 0 < (self._last - number + 1) & 0xFFFF <= 100:
            return False, None
        self._last = number
        return False, JitterFrame(data=packet._data, timestamp=packet.timestamp)  # type: ignore[attr-defined]


class StampMapper:
    """Unwrapped RTP stamps from 0, like aiortc's own mapper, with the first stamp kept so that reports can be matched."""

    def __init__(self) -> None:
        self.first: int | None = None
        self._last = 0

    def map(self, timestamp: int) -> int:
        """A 32-bit RTP stamp as units since the first."""
        if self.first is None:
            self.first = timestamp
        delta = (timestamp - self.first - self._last) & 0xFFFFFFFF
        if delta >= 1 << 31:
            delta -= 1 << 32
        self._last += delta
        return self._last


def prefer_low_delay(receiver: Any) -> None:
    """Take the prefetch out of an RTCRtpReceiver of speech."""
    receiver._RTCRtpReceiver__jitter_buffer = SpeechJitterBuffer()


def watch_reports(receiver: Any, clock_rate: int) -> Callable[[int], float | None]:
    """Follow a receiver's sender reports; returns a function from its frames' stamps (units since the first) to the
    sender's capture time in Unix seconds, None before the first report."""
    mapper = StampMapper()
    receiver._RTCRtpReceiver__timestamp_mapper = mapper
    handle = receiver._handle_rtcp_packet
    report: tuple[float, int] | None = None

    async def handle_rtcp_packet(packet: Any) -> None:
        nonlocal report
        if isinstance(packet, RtcpSrPacket) and packet.sender_info.ntp_timestamp:
            report = unix_time(packet.sender_info.ntp_timestamp), packet.sender_info.rtp_timestamp
        await handle(packet)

    receiver._handle_rtcp_packet = handle_rtcp_packet

    def capture_time(stamp: int) -> float | None:
        if report is None or mapper.first is None:
            return None
        delta = (mapper.first + stamp - report[1]) & 0xFFFFFFFF
        if delta >= 1 << 31:
            delta -= 1 << 32
        return report[0] + delta / clock_rate

    return capture_time
