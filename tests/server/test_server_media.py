"""Encoders and RTP: what goes in comes out, keyframes on demand, stamps kept, rates followed with patience."""

from __future__ import annotations

import asyncio
import fractions
import time

import av
import numpy as np
import pytest
from aiortc.codecs import depayload, get_decoder
from aiortc.jitterbuffer import JitterFrame
from aiortc.rtcrtpparameters import RTCRtpCodecParameters
from aiortc.rtp import RtcpSenderInfo, RtcpSrPacket
from double import draw
from hypothesis import given
from hypothesis import strategies as st
from visavis.kernels import rgb_to_i420
from visavis.server import encoders
from visavis.server.encoders import (
    LowDelayH264Encoder,
    LowDelayVp8Encoder,
    RateControl,
    get_encoder,
    start_bitrate,
    step_below,
)
from visavis.server.rtp import (
    SpeechJitterBuffer,
    StampMapper,
    ntp_timestamp,
    report_capture_time,
    unix_time,
)
from visavis.server.webrtc import ask_for_short_packets


def codec(name, rate=90000):
    return RTCRtpCodecParameters(mimeType=name, clockRate=rate, payloadType=96)


def picture(k):
    frame = av.VideoFrame.from_ndarray(rgb_to_i420(draw(0.5 + 0.5 * np.sin(k))), format="yuv420p")
    frame.pts, frame.time_base = k * 3600, fractions.Fraction(1, 90000)
    return frame


@pytest.mark.parametrize("name", ["video/VP8", "video/H264"])
def test_every_frame_comes_out_at_once_with_its_stamp_and_looks_the_same(name):
    encoder, decoder = get_encoder(codec(name)), get_decoder(codec(name))
    for k in range(12):
        frame = picture(k)
        payloads, stamp = encoder.encode(frame, False)
        assert payloads and stamp == k * 3600
        assert max(map(len, payloads)) <= 1300
        data = b"".join(depayload(codec(name), payload) for payload in payloads)
        decoded = decoder.decode(JitterFrame(data, stamp))
        assert len(decoded) == 1
        wanted, got = picture(k).to_ndarray(format="rgb24"), decoded[0].to_ndarray(format="rgb24")
        assert np.abs(wanted.astype(int) - got).mean() < 3


def keyframe(name, payloads):
    """Whether an encoded frame stands alone."""
    data = b"".join(depayload(codec(name), payload) for payload in payloads)
    if name == "video/VP8":
        return data[0] & 1 == 0
    return any(part[:1] and part[0] & 31 == 5 for part in data.split(b"\x00\x00\x01"))


@pytest.mark.parametrize("name", ["video/VP8", "video/H264"])
def test_keyframes_come_when_asked_for_and_not_else(name):
    encoder = get_encoder(codec(name))
    assert isinstance(encoder, LowDelayVp8Encoder | LowDelayH264Encoder)
    kinds = [keyframe(name, encoder.encode(picture(k), k == 6)[0]) for k in range(10)]
    assert kinds == [k in (0, 6) for k in range(10)]


def test_opus_keeps_the_stamps_of_its_blocks_across_a_gap():
    encoder, decoder = get_encoder(codec("audio/opus", 48000)), get_decoder(codec("audio/opus", 48000))
    wave = (8000 * np.sin(2 * np.pi * 440 * np.arange(960 * 30) / 48000)).astype(np.int16)
    heard = []
    for k in range(30):
        frame = av.AudioFrame.from_ndarray(wave[None, k * 960 : k * 960 + 960], format="s16", layout="mono")
        frame.sample_rate, frame.time_base = 48000, fractions.Fraction(1, 48000)
        frame.pts = k * 960 + (48000 if k >= 15 else 0)
        stamp_in = frame.pts
        payloads, stamp = encoder.encode(frame, False)
        assert len(payloads) == 1 and stamp == stamp_in
        heard += [
            f.to_ndarray().reshape(-1, 2)[:, 0] for f in decoder.decode(JitterFrame(payloads[0], stamp))
        ]
    heard = np.concatenate(heard)
    spectrum = np.abs(np.fft.rfft(heard[9600:19200] * np.hanning(9600)))
    assert abs(np.argmax(spectrum) * 5 - 440) <= 5


def test_the_start_rate_suits_the_picture():
    assert 1_500_000 <= start_bitrate(512, 512) <= 2_500_000
    assert start_bitrate(64, 64) < 300_000


def test_rate_control_ignores_estimates_of_a_still_picture_and_obeys_real_limits():
    rate = RateControl(2_000_000, ceiling=4_000_000, sent=300_000)
    assert not rate.estimate(450_000, 10.0), "the receiver only saw a still picture"
    assert rate.target == 2_000_000
    rate.sent = 2_000_000
    assert rate.estimate(800_000, 11.0) and rate.target == step_below(800_000)
    assert 640_000 < rate.target <= 800_000
    assert not rate.estimate(3_000_000, 12.0), "rises wait"
    assert rate.estimate(3_000_000, 20.0) and rate.target == step_below(int(1.5 * step_below(800_000)))
    assert not rate.estimate(1_250_000, 30.0), "not worth a keyframe"
    for k in range(20):
        rate.estimate(10**9, 40.0 + 10 * k)
    assert 3_200_000 < rate.target <= 4_000_000
    rate.sent = 4_000_000
    rate.estimate(1, 1000.0)
    assert rate.target == 200_000


def test_a_limit_that_wanders_opens_the_encoder_anew_now_and_then_only():
    rng, rate, changes = np.random.default_rng(0), RateControl(2_000_000, ceiling=4_000_000), 0
    for k in range(600):  # ten minutes under a link of one megabit, whose estimate wanders by a fifth
        rate.sent = min(rate.target, 1_000_000)
        changes += rate.estimate(int(1_000_000 * rng.uniform(0.8, 1.2)), float(k))
    assert changes <= 15
    assert 600_000 < rate.target <= 1_200_000


@given(st.lists(st.integers(0, 400), min_size=1, max_size=60), st.integers(0, 65535))
def test_speech_packets_come_out_at_once_and_in_order(order, start):
    class Packet:
        def __init__(self, number):
            self.sequence_number = (start + number) & 0xFFFF
            self.timestamp = number * 960
            self._data = b"x"

    buffer = SpeechJitterBuffer()
    last = None
    for number in order:
        lost, frame = buffer.add(Packet(number))
        assert lost is False
        # too old to be of use (but a jump back of over two seconds is a new beginning)
        late = last is not None and 0 <= last - number < 100
        assert (frame is None) == late
        if not late:
            assert frame.timestamp == number * 960
            last = number


@given(st.integers(0, 2**32 - 1), st.lists(st.integers(-5000, 100_000), max_size=50))
def test_stamps_are_unwrapped(first, steps):
    mapper = StampMapper()
    assert mapper.map(first) == 0
    total = 0
    for step in steps:
        total += step
        assert mapper.map((first + total) & 0xFFFFFFFF) == total


@given(st.floats(0, 2e9))
def test_ntp_times_go_there_and_back(seconds):
    assert abs(unix_time(ntp_timestamp(seconds)) - seconds) < 1e-5


def test_reports_pair_the_time_of_sending_with_what_is_due_then():
    class Sender:
        _RTCRtpSender__rtp_timestamp = 5000 + 3600  # the last packet's
        _RTCRtpSender__lsr = None

        def __init__(self):
            self.sent = []

        async def _next_encoded_frame(self, codec):
            return type("Encoded", (), {"timestamp": next(self.stamps)})

        async def _send_rtcp(self, packets):
            self.sent.extend(packets)

    def report():
        return RtcpSrPacket(ssrc=1, sender_info=RtcpSenderInfo(0, 0, packet_count=1, octet_count=1))

    sender = Sender()
    sender.stamps = iter([3600, 7200])
    began = time.time() - 1.0
    report_capture_time(sender, lambda units: began + units / 90_000, 90_000)

    async def go():
        await sender._send_rtcp([report()])
        assert not sender.sent, "before the first frame there is nothing to report"
        await sender._next_encoded_frame(None)
        await sender._next_encoded_frame(None)  # by now the first one has left: the origin is known
        await sender._send_rtcp([report()])

    asyncio.run(go())
    info = sender.sent[0].sender_info
    now = unix_time(info.ntp_timestamp)
    assert abs(now - time.time()) < 1.0
    due = began + (info.rtp_timestamp - 5000) / 90_000
    assert abs(due - now) < 1e-4


def test_answers_ask_for_short_packets_of_speech_alone():
    sdp = "v=0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 96\r\nc=IN IP4 0.0.0.0\r\na=mid:0\r\nm=video 9 X 97\r\na=mid:1\r\n"
    audio, video = ask_for_short_packets(sdp).split("m=video")
    assert "\r\nc=IN IP4 0.0.0.0\r\na=ptime:10\r\na=mid:0" in audio and "ptime" not in video


@pytest.mark.parametrize("refused", [True, False])
def test_the_hardware_encodes_h264_where_it_has_room(monkeypatch, refused):
    asked = []
    real = encoders.open_h264

    def open_h264(name, *given):
        asked.append(name)
        if name == encoders.HARDWARE and refused:
            raise PermissionError("out of sessions")
        return real(encoders.SOFTWARE, *given)  # stands in for the GPU's

    monkeypatch.setattr(encoders, "hardware_encodes", lambda: True)
    monkeypatch.setattr(encoders, "open_h264", open_h264)
    payloads, _ = LowDelayH264Encoder().encode(picture(0), False)
    assert payloads and asked == [encoders.HARDWARE, encoders.SOFTWARE][: 1 + refused]


def test_without_a_gpu_nothing_is_asked_of_it(monkeypatch):
    encoders.hardware_encodes.cache_clear()
    real, asked = encoders.open_h264, []

    def open_h264(name, *given):
        asked.append(name)
        if name == encoders.HARDWARE:
            raise PermissionError("no driver")
        return real(name, *given)

    monkeypatch.setattr(encoders, "open_h264", open_h264)
    try:
        for _ in range(2):
            assert LowDelayH264Encoder().encode(picture(0), False)[0]
    finally:
        encoders.hardware_encodes.cache_clear()
    assert asked == [encoders.HARDWARE, encoders.SOFTWARE, encoders.SOFTWARE]
