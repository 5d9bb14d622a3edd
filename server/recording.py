"""An MP4 of a call, made while it runs and held in memory until it is fetched. Nothing is written to disk."""

from __future__ import annotations

import asyncio
import contextlib
import fractions
import io
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import av
import numpy as np
from aiortc.mediastreams import MediaStreamError
from visavis.engine.timing import FPS, PLAYBACK_RATE, PLAYBACK_SAMPLES_PER_FRAME
from visavis.server.publisher import Pair, Publisher

AUDIO_BITRATE = 96_000
CRF = 20
_AUDIO_BASE = fractions.Fraction(1, PLAYBACK_RATE)
_VIDEO_BASE = fractions.Fraction(1, FPS)


class Recording:
    """One recording of a session. Stamps are the pairs', so that gaps of a stall stay gaps and nothing drifts."""

    def __init__(self, publisher: Publisher, session_id: str, max_bytes: int) -> None:
        self._publisher = publisher
        self._subscription = publisher.subscribe(maxlen=50)
        self._max_bytes = max_bytes
        self._file = io.BytesIO()
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="recording-encoder")
        self._container: Any = None
        self._origin = 0
        self.frames = 0
        self.full = False
        self._task = asyncio.create_task(self._run(), name=f"recording-{session_id}")

    @property
    def size(self) -> int:
        """Bytes so far."""
        return self._file.tell() if not self._file.closed else 0

    async def _run(self) -> None:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(MediaStreamError):
            while not self.full:
                await loop.run_in_executor(self._thread, self._write, await self._subscription.next_frame())
        self._publisher.unsubscribe(self._subscription)

    def _write(self, pair: Pair) -> None:
        if self._container is None:
            self._open(pair)
        frame = av.VideoFrame.from_ndarray(pair.i420, format="yuv420p")
        frame.pts, frame.time_base = pair.stamp - self._origin, _VIDEO_BASE
        self._container.mux(self._video.encode(frame))
        start = (pair.stamp - self._origin) * PLAYBACK_SAMPLES_PER_FRAME
        missing = start - self._sounded
        sound = np.concatenate([np.zeros(missing, np.int16), pair.audio]) if missing > 0 else pair.audio
        sounds = av.AudioFrame.from_ndarray(np.ascontiguousarray(sound[None]), format="s16", layout="mono")
        sounds.sample_rate, sounds.pts, sounds.time_base = PLAYBACK_RATE, self._sounded, _AUDIO_BASE
        self._sounded += len(sound)
        self._container.mux(self._audio.encode(sounds))
        self.frames += 1
        self.full = self._file.tell() > self._max_bytes

    def _open(self, pair: Pair) -> None:
        height, width = pair.i420.shape[0] * 2 // 3, pair.i420.shape[1]
        # from the second frame's time: AAC needs 21 ms before the first sample, and times under zero would be pushed about
        self._origin, self._sounded = pair.stamp - 1, PLAYBACK_SAMPLES_PER_FRAME
        # fragments: a film that is cut short by its limit is whole up to there
        self._container = av.open(
            self._file, "w", format="mp4", options={"movflags": "frag_keyframe+delay_moov+default_base_moof"}
        )
        self._video: Any = self._container.add_stream("libx264", rate=FPS)
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        self._video.gop_size = 2 * FPS
        self._video.thread_count = 1
        self._video.options = {"crf": str(CRF), "preset": "superfast", "tune": "zerolatency"}
        self._audio: Any = self._container.add_stream("aac", rate=PLAYBACK_RATE)
        self._audio.bit_rate = AUDIO_BITRATE
        self._audio.layout = "mono"

    def _finish(self) -> bytes:
        if self._container is not None:
            self._container.mux(self._audio.encode(None))
            self._container.mux(self._video.encode(None))
            self._container.close()
        return self._file.getvalue()

    async def stop(self) -> bytes:
        """End the recording; the film (empty where nothing was shown)."""
        self._subscription.close()
        await asyncio.gather(self._task, return_exceptions=True)
        self._publisher.unsubscribe(self._subscription)
        data = await asyncio.get_running_loop().run_in_executor(self._thread, self._finish)
        self._thread.shutdown(wait=False)
        return data
