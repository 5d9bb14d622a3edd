"""Peer connections: the avatar out, the caller's voice in, over aiortc."""

from __future__ import annotations

import asyncio
import logging
import re
import secrets
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from aiortc import RTCConfiguration, RTCIceServer, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from aiortc.rtcconfiguration import RTCBundlePolicy
from aiortc.sdp import candidate_from_sdp
from visavis.engine.timing import PLAYBACK_RATE
from visavis.server import encoders
from visavis.server.config import ServerConfig
from visavis.server.errors import ApiError
from visavis.server.publisher import VIDEO_RATE, AvatarAudioTrack, AvatarVideoTrack, Subscription
from visavis.server.rtp import prefer_low_delay, report_capture_time
from visavis.server.sessions import LiveSession

log = logging.getLogger(__name__)

MAX_MEDIA_SECTIONS = 8
NEGOTIATION_S = 10.0
REPORT_S = 2.0
CONNECT_S = 20.0
"""A peer that is not connected by then has vanished."""
_MDNS = re.compile(r"^(a=candidate:\S+ \d+ \S+ \d+ )[0-9a-zA-Z-]+\.local( .*)$", re.MULTILINE)

SPEECH_PACKET_MS = 10
"""What a caller's microphone is asked to send at a time: browsers take 20 ms where nothing is said, 10 of which are delay."""

encoders.install()


def ask_for_short_packets(sdp: str) -> str:
    """An answer whose audio sections ask for packets of SPEECH_PACKET_MS (RFC 8866, a=ptime)."""
    return re.sub(
        r"^(m=audio [^\n]*\n)(c=[^\n]*\n)?", rf"\g<0>a=ptime:{SPEECH_PACKET_MS}\r\n", sdp, flags=re.MULTILINE
    )


def resolve_mdns(sdp: str, address: str | None) -> str:
    """Put the address that the request came from in the place of mDNS names (browsers hide addresses before they may use
    the microphone): asking the network for such a name takes up to a second and often fails."""
    if not address:
        return sdp
    return _MDNS.sub(lambda match: f"{match[1]}{address}{match[2]}", sdp)


@dataclass
class Network:
    """What a peer's reports say of the way to it."""

    rtt_s: float | None = None
    loss: float | None = None
    """Share of packets lost since the report before."""
    bitrate: float = 0.0
    """Bits a second sent."""
    _bytes: int = 0
    _at: float = 0.0

    def take(self, reports: Iterable[Any], now: float) -> None:
        """The statistics of all senders of a connection (aiortc's)."""
        sent = 0
        for report in reports:
            if report.type == "remote-inbound-rtp":
                if report.roundTripTime is not None:
                    self.rtt_s = report.roundTripTime
                if report.kind == "video":
                    self.loss = report.fractionLost / 256
            elif report.type == "outbound-rtp":
                sent += report.bytesSent
        if self._at:
            self.bitrate = max(0, sent - self._bytes) * 8 / max(1e-3, now - self._at)
        self._bytes, self._at = sent, now


class Viewer:
    """One peer connection of a session."""

    def __init__(self, session: LiveSession, config: ServerConfig) -> None:
        self.id = secrets.token_urlsafe(12)
        self._session = session
        servers = [RTCIceServer(**server) for server in config.ice("server")]
        self._pc = RTCPeerConnection(RTCConfiguration(servers, bundlePolicy=RTCBundlePolicy.MAX_BUNDLE))
        self._subscription: Subscription | None = None
        self._tasks: set[asyncio.Task[None]] = set()
        self._closed = False
        self.network = Network()
        self._pc.on("connectionstatechange", self._on_state)

    def _spawn(self, coroutine: Any, name: str) -> None:
        task = asyncio.create_task(coroutine, name=f"{name}-{self._session.id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _on_state(self) -> None:
        log.debug("peer session=%s viewer=%s state=%s", self._session.id, self.id, self._pc.connectionState)
        if self._pc.connectionState in ("failed", "closed"):
            await self.close()

    async def answer(self, sdp: str, *, watch: bool, listen: bool) -> str:
        """Negotiate: takes an SDP offer, returns the answer with all candidates.

        `watch` sends the avatar, `listen` takes the peer's microphone. ApiError 400 for an offer that cannot be used.
        """
        try:
            async with asyncio.timeout(NEGOTIATION_S):
                answer = await self._negotiate(sdp, watch=watch, listen=listen)
        except ApiError:
            await self.close()
            raise
        except asyncio.CancelledError:
            await self.close()
            raise
        except Exception as error:  # aiortc raises a dozen kinds for a malformed offer
            log.debug("offer refused session=%s", self._session.id, exc_info=True)
            await self.close()
            if self._session.closed:
                raise ApiError(410, "session_closed", "This session has ended; make a new one.") from None
            raise ApiError(400, "bad_sdp", "The offer is not SDP that this server can answer.") from error
        self._spawn(self._expect_connection(), "connect")
        return answer

    async def _negotiate(self, sdp: str, *, watch: bool, listen: bool) -> str:
        sections = re.findall(r"^m=(\w+)", sdp, re.MULTILINE)
        if not sdp.startswith("v=0") or not sections or len(sections) > MAX_MEDIA_SECTIONS:
            raise ApiError(400, "bad_sdp", f"An offer is SDP with 1 to {MAX_MEDIA_SECTIONS} media sections.")
        if watch and "video" not in sections:
            raise ApiError(
                400, "no_video", "The offer has no video section, so there is no way to show the avatar."
            )
        if not watch and "audio" not in sections:
            raise ApiError(
                400, "no_audio", "The offer has no audio section, so there is no way to hear anybody."
            )
        pc = self._pc
        if listen:
            pc.on("track", self._on_track)
        await pc.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
        if watch:
            self._subscription = self._session.publisher.subscribe()
            tracks: list[MediaStreamTrack] = [AvatarVideoTrack(self._subscription)]
            if "audio" in sections:
                tracks.append(AvatarAudioTrack(self._subscription))
            for track in tracks:
                sender = pc.addTrack(track)
                if track.kind == "video":
                    report_capture_time(sender, self._subscription.video_capture_time, VIDEO_RATE)
                else:
                    report_capture_time(sender, self._subscription.audio_capture_time, PLAYBACK_RATE)
        for transceiver in pc.getTransceivers():
            if transceiver.kind == "audio":
                prefer_low_delay(transceiver.receiver)
            if watch and transceiver.sender.track is None:
                transceiver.direction = "recvonly"
        await pc.setLocalDescription(await pc.createAnswer())
        self._session.attach(self.id, self)
        return ask_for_short_packets(pc.localDescription.sdp) if listen else pc.localDescription.sdp

    def _on_track(self, track: MediaStreamTrack) -> None:
        if track.kind == "audio":
            self._spawn(self._pump_speech(track), "speech")
        else:
            self._spawn(_drain(track), "drain")

    async def _pump_speech(self, track: MediaStreamTrack) -> None:
        """Microphone to engine. It never waits for the engine, so that aiortc's unbounded queue stays empty."""
        try:
            while True:
                frame: Any = await track.recv()
                pcm = frame.to_ndarray().reshape(-1, len(frame.layout.channels))
                if pcm.shape[1] > 1:
                    mono = (pcm.astype(np.int32).sum(axis=1) // pcm.shape[1]).astype(np.int16)
                else:
                    mono = pcm[:, 0]
                self._session.push_live(mono, frame.sample_rate)
        except (MediaStreamError, ApiError):  # the peer or the session has ended
            return

    async def _expect_connection(self) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + CONNECT_S
        while self._pc.connectionState in ("new", "connecting"):
            if loop.time() > deadline:
                log.info("peer never connected session=%s viewer=%s", self._session.id, self.id)
                # not awaited: close() cancels this task
                self._closing = asyncio.ensure_future(self.close())
                return
            await asyncio.sleep(0.25)
        while not self._closed:
            self.network.take(
                [report for sender in self._pc.getSenders() for report in (await sender.getStats()).values()],
                loop.time(),
            )
            await asyncio.sleep(REPORT_S)

    async def add_candidates(self, fragment: str) -> None:
        """Trickle ICE: an SDP fragment (RFC 8840) with further candidates. ApiError 400 where it is malformed."""
        mid: str | None = None
        found = []
        try:
            for line in fragment.splitlines():
                if line.startswith("a=mid:"):
                    mid = line[6:].strip()
                elif line.startswith("a=candidate:") and ".local " not in line:
                    candidate = candidate_from_sdp(line[12:].strip())
                    candidate.sdpMid = mid if mid is not None else "0"
                    found.append(candidate)
            for candidate in found:
                await self._pc.addIceCandidate(candidate)
        except Exception as error:
            raise ApiError(400, "bad_candidate", "The fragment holds no usable ICE candidates.") from error

    async def close(self) -> None:
        """End the connection; nothing of it runs afterwards."""
        if self._closed:
            return
        self._closed = True
        if self._subscription:
            self._session.publisher.unsubscribe(self._subscription)
        tasks = [task for task in self._tasks if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._pc.close()
        self._session.detach(self.id)


async def _drain(track: MediaStreamTrack) -> None:
    """Read and forget (a peer's camera), so that nothing queues up."""
    try:
        while True:
            await track.recv()
    except MediaStreamError:
        return
