"""One publisher a session: audio and video leave as pairs, stamped from one count of samples.

The publisher's stamp k is the time from k*40 ms to (k+1)*40 ms on the session's clock. Every viewer gets the pairs through a bounded
subscription; its two tracks take their RTP stamps from the pair's number, never from clocks of their own, so that they
cannot drift apart.
"""

from __future__ import annotations

import asyncio
import fractions
import time
from collections import deque
from dataclasses import dataclass, field, replace

import av
import numpy as np
import numpy.typing as npt
from aiortc.mediastreams import MediaStreamError, MediaStreamTrack
from visavis.engine.timing import FPS, PLAYBACK_RATE, PLAYBACK_SAMPLES_PER_FRAME
from visavis.server.encoders import OPUS_FRAME

FRAME_S = 1.0 / FPS
VIDEO_RATE = 90_000
VIDEO_UNITS_PER_FRAME = VIDEO_RATE // FPS
AUDIO_TIME_BASE = fractions.Fraction(1, PLAYBACK_RATE)
VIDEO_TIME_BASE = fractions.Fraction(1, VIDEO_RATE)
BLOCKS_PER_FRAME = PLAYBACK_SAMPLES_PER_FRAME // OPUS_FRAME
STALE_S = 0.12
"""A pair that waited this long for its sender is left out. A receiver that gets a late run of packets at once plays them all,
so that every word after them comes that much later for some ten seconds; a gap costs it the gap."""


@dataclass(frozen=True)
class Pair:
    """One frame and its sound. `stamp` counts ticks of the worker's clock; `due` is on the loop's clock."""

    stamp: int
    due: float
    i420: npt.NDArray[np.uint8]  # (H * 3 / 2, W)
    audio: npt.NDArray[np.int16]  # (1920,) at 48 kHz
    speech: bool = False
    """Whether it carries pushed speech."""
    repeated: bool = False
    """Whether the picture is that of the pair before."""


@dataclass(eq=False)
class Subscription:
    """The pairs on their way to one viewer. The oldest are dropped when it does not keep up.

    Nothing is kept for a sender that has not begun: what was made while the connection was being set up would reach the
    receiver as one late burst, and its jitter buffers would carry that delay into the call.
    """

    origin: int
    anchor: float
    """Loop time of stamp 0."""
    wall_offset: float
    """Unix time minus loop time."""
    frames: deque[Pair] = field(default_factory=lambda: deque(maxlen=3))
    sounds: deque[Pair] = field(default_factory=lambda: deque(maxlen=4))
    stale_s: float = STALE_S
    repeats: bool = False
    """Whether it wants pictures that repeat the one before; a live viewer goes on showing that."""
    dropped: int = 0
    closed: bool = False
    _wanted: set[int] = field(default_factory=set)
    """Which of the queues (by identity) have a sender that has begun."""
    _frame_ready: asyncio.Event = field(default_factory=asyncio.Event)
    _sound_ready: asyncio.Event = field(default_factory=asyncio.Event)

    def put(self, pair: Pair) -> int:
        """Adds a pair; returns how many old ones it pushed out."""
        lost = 0
        for queue, ready in ((self.frames, self._frame_ready), (self.sounds, self._sound_ready)):
            if pair.repeated and queue is self.frames and not self.repeats:
                continue
            if id(queue) in self._wanted:
                lost += len(queue) == queue.maxlen
                queue.append(pair)
                ready.set()
        self.dropped += lost
        return lost

    def close(self) -> None:
        self.closed = True
        self._frame_ready.set()
        self._sound_ready.set()

    def hush(self) -> None:
        """Take the sound out of speech that has not left yet (barge-in)."""
        for pair in [pair for pair in self.sounds if pair.speech]:
            self.sounds[self.sounds.index(pair)] = replace(
                pair, audio=np.zeros_like(pair.audio), speech=False
            )

    async def _next(self, queue: deque[Pair], ready: asyncio.Event) -> Pair:
        self._wanted.add(id(queue))
        now = asyncio.get_running_loop().time
        while True:
            while not queue:
                if self.closed:
                    raise MediaStreamError
                ready.clear()
                await ready.wait()
            pair = queue.popleft()
            if now() - pair.due < self.stale_s:
                return pair
            self.dropped += 1

    async def next_frame(self) -> Pair:
        """The next pair for the video track; MediaStreamError once closed."""
        return await self._next(self.frames, self._frame_ready)

    async def next_sound(self) -> Pair:
        """The next pair for the audio track; MediaStreamError once closed."""
        return await self._next(self.sounds, self._sound_ready)

    def video_capture_time(self, units: int) -> float:
        """Unix time at which the media of a video stamp was due."""
        return self.wall_offset + self.anchor + self.origin * FRAME_S + units / VIDEO_RATE

    def audio_capture_time(self, units: int) -> float:
        """Unix time at which the media of an audio stamp was due."""
        return self.wall_offset + self.anchor + self.origin * FRAME_S + units / PLAYBACK_RATE


class Publisher:
    """Gives every viewer the same pairs."""

    def __init__(self, anchor: float) -> None:
        """`anchor`: loop time of stamp 0."""
        self._subscriptions: set[Subscription] = set()
        self.anchor = anchor
        self.wall_offset = time.time() - asyncio.get_running_loop().time()
        self.frames = 0

    @property
    def watched(self) -> bool:
        """Whether anybody subscribes."""
        return bool(self._subscriptions)

    def subscribe(self, maxlen: int | None = None) -> Subscription:
        """A new viewer's subscription, from the next pair on; `maxlen` frames may wait (default: what a live viewer wants)."""
        now = int((asyncio.get_running_loop().time() - self.anchor) / FRAME_S)
        # a little before the present: no pair that is on its way has a stamp before the origin
        subscription = Subscription(max(0, now - FPS), self.anchor, self.wall_offset)
        if maxlen is not None:  # not live: late is as good
            subscription.frames = deque(maxlen=maxlen)
            subscription.stale_s, subscription.repeats = float("inf"), True
        self._subscriptions.add(subscription)
        return subscription

    def unsubscribe(self, subscription: Subscription) -> None:
        subscription.close()
        self._subscriptions.discard(subscription)

    def publish(self, pair: Pair) -> int:
        """Hands a pair to everybody; returns how many old pairs were pushed out of full queues."""
        self.frames += 1
        return sum(subscription.put(pair) for subscription in self._subscriptions)

    def hush(self) -> None:
        """Barge-in: no word that has not left yet leaves."""
        for subscription in self._subscriptions:
            subscription.hush()

    def close(self) -> None:
        for subscription in list(self._subscriptions):
            self.unsubscribe(subscription)


class AvatarVideoTrack(MediaStreamTrack):
    """The avatar's picture for one viewer."""

    kind = "video"

    def __init__(self, subscription: Subscription) -> None:
        super().__init__()
        self._subscription = subscription

    async def recv(self) -> av.VideoFrame:
        pair = await self._subscription.next_frame()
        frame = av.VideoFrame.from_ndarray(pair.i420, format="yuv420p")
        frame.pts = (pair.stamp - self._subscription.origin) * VIDEO_UNITS_PER_FRAME
        frame.time_base = VIDEO_TIME_BASE
        return frame


class AvatarAudioTrack(MediaStreamTrack):
    """The avatar's voice for one viewer, in 20 ms blocks that leave at the pace of real time."""

    kind = "audio"

    def __init__(self, subscription: Subscription) -> None:
        super().__init__()
        self._subscription = subscription
        self._pair: Pair | None = None
        self._block = 0
        self._received = 0.0

    async def recv(self) -> av.AudioFrame:
        loop = asyncio.get_running_loop()
        if self._pair is None:
            self._pair = await self._subscription.next_sound()
            self._block = 0
            self._received = loop.time()
        elif not self._subscription.sounds:
            # both blocks at once would look like jitter to the receiver, which answers with a longer buffer
            await asyncio.sleep(
                max(0.0, self._received + self._block * FRAME_S / BLOCKS_PER_FRAME - loop.time())
            )
        if self._subscription.closed:
            raise MediaStreamError
        pair, start = self._pair, self._block * OPUS_FRAME
        frame = av.AudioFrame.from_ndarray(
            pair.audio[None, start : start + OPUS_FRAME], format="s16", layout="mono"
        )
        frame.sample_rate = PLAYBACK_RATE
        frame.time_base = AUDIO_TIME_BASE
        frame.pts = (pair.stamp - self._subscription.origin) * PLAYBACK_SAMPLES_PER_FRAME + start
        self._block += 1
        if self._block == BLOCKS_PER_FRAME:
            self._pair = None
        return frame
