"""An engine that shows the same moving picture to everybody, so that the transport alone is measured."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.benchmarks.viewers import clock_ms, paint_clock
from visavis.engine.motion.diffusion import Controls
from visavis.engine.timing import PLAYBACK_RATE, PLAYBACK_SAMPLES_PER_FRAME
from visavis.server.engines import VisavisEngine

TONE_HZ = 220


@dataclass
class ClipAvatar:
    """Just a size."""

    width: int = 512
    height: int = 512


@dataclass(frozen=True)
class ClipFrame:
    """As `visavis.engine.session.Frame`."""

    image: npt.NDArray[np.uint8]
    audio: npt.NDArray[np.int16]
    speech_index: int | None = None
    speaking: bool = False


class ClipSession:
    """The demo photo, swaying, with the clock painted into it, and a tone."""

    def __init__(self) -> None:
        import cv2

        path = VisavisEngine().demo_photo()
        photo = cv2.imread(str(path)) if path else None
        if photo is None:
            raise RuntimeError("the demo photo is not installed")
        photo = cv2.cvtColor(cv2.resize(photo, (512, 512)), cv2.COLOR_BGR2RGB)
        sway = [round(6 * np.sin(k / 4)) for k in range(50)]
        self._frames = [np.ascontiguousarray(np.roll(photo, dx, axis=1)).astype(np.uint8) for dx in sway]
        self._n = 0

    def push_audio(self, pcm: Any, rate: int, *, live: bool = False) -> None:
        """Ignored."""

    def commit(self) -> None:
        """Ignored."""

    def clear(self) -> int:
        """Nothing was queued."""
        return 0

    reduced = True
    """No video network."""
    controls = Controls()
    """Kept and ignored."""

    @property
    def queued_seconds(self) -> float:
        """Nothing is queued."""
        return 0.0

    def step(self) -> ClipFrame:
        """The next frame."""
        image = self._frames[self._n % len(self._frames)]
        paint_clock(image, clock_ms())
        at = np.arange(PLAYBACK_SAMPLES_PER_FRAME) + self._n * PLAYBACK_SAMPLES_PER_FRAME
        self._n += 1
        tone = (3000 * np.sin(2 * np.pi * TONE_HZ * at / PLAYBACK_RATE)).astype(np.int16)
        return ClipFrame(image, tone)

    def close(self) -> None:
        """Nothing to give back."""


class ClipEngine:
    """As `visavis.server.engines.Engine`."""

    def enroll(self, photo: bytes | Path, **options: Any) -> ClipAvatar:
        """Anybody."""
        return ClipAvatar()

    def load(self, path: Path) -> ClipAvatar:
        """Anybody."""
        return ClipAvatar()

    def demo_photo(self) -> Path | None:
        """The photo that ships."""
        return VisavisEngine().demo_photo()

    def sample_speech(self) -> Path | None:
        """None."""
        return None

    def picture(self, avatar: Any) -> npt.NDArray[np.uint8]:
        """Grey."""
        return np.full((64, 64, 3), 128, np.uint8)

    def session(
        self, avatar: Any, *, seed: int, lookahead: int, max_queue_s: float, generator: bool = True
    ) -> ClipSession:
        """A new clip."""
        return ClipSession()


def main() -> None:
    """Serve the clip: python -m visavis.benchmarks.clip_engine PORT."""
    import asyncio
    import sys

    from aiohttp import web
    from visavis.server.app import create_app
    from visavis.server.config import ServerConfig

    async def serve() -> None:
        config = ServerConfig(
            workers=1,
            engine_factory="visavis.benchmarks.clip_engine:ClipEngine",
            requests_per_s=0,
            sessions_per_minute=0,
        )
        runner = web.AppRunner(create_app(config, ClipEngine()))
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", int(sys.argv[1])).start()
        print("ready", flush=True)
        await asyncio.Event().wait()

    asyncio.run(serve())


if __name__ == "__main__":
    main()
