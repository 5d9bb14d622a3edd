"""The engine on a GPU: the sessions of a worker process are slots of the device's batches, and a tick of all of them is one launch.

`visavis serve --device gpu` makes workers of it. See `visavis.engine.runtime.gpu.worker`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from visavis.server.engines import FrameLike, SessionLike, VisavisEngine

if TYPE_CHECKING:
    from visavis.engine.motion.diffusion import Controls
    from visavis.engine.runtime.gpu.device import Device
    from visavis.engine.runtime.gpu.worker import GpuSession, Worker

log = logging.getLogger(__name__)

SLOTS = 32
"""Sessions of one size and quality on a device."""
STEPS = 2
"""Sampler steps of the video network, which cost a GPU little."""
USUAL = 512
"""Side of most people's frames: engines for them are there before the first caller is."""


class GpuEngine(VisavisEngine):
    """Makes sessions that advance together: `tick`. One thread makes, ticks and closes them."""

    def __init__(self, device: Device | None = None, *, slots: int = SLOTS) -> None:
        """`device`: if None the first GPU of this machine, taken when the first session needs it (DeviceError where there is none)."""
        self._device, self._slots = device, slots
        self._workers: dict[tuple[int, int, bool], Worker] = {}

    def warm(self) -> None:
        """Bring a batch of the usual size up."""
        self._worker(USUAL, USUAL, painted=True)

    def learning_obstacle(self) -> str | None:
        """What one person learned cannot be used here."""
        return "This server's GPU shows everybody by one video network: what it learns of one person is for CPUs."

    def session(
        self, avatar: Any, *, seed: int, lookahead: int, max_queue_s: float, generator: bool = True
    ) -> SessionLike:
        """A slot of a batch. WorkerFullError when all are taken."""
        from visavis.engine.video.generator import available

        painted = generator and available()
        if painted and avatar.personal is not None:
            log.info("a device's batch shares one video network: what it learned of one person is not used")
        worker = self._worker(avatar.width, avatar.height, painted=painted)
        return DeviceSession(
            worker, worker.open(avatar, seed=seed, lookahead=lookahead, max_queue_s=max_queue_s), painted
        )

    def tick(self, sessions: Sequence[SessionLike]) -> list[FrameLike | BaseException]:
        """The next frame of each of these sessions of this engine, or the error of that session alone; images are I420 (H * 3 / 2, W)."""
        batches: dict[Worker, list[GpuSession]] = {}
        for session in sessions:
            assert isinstance(session, DeviceSession)
            batches.setdefault(session.worker, []).append(session.inner)
        made: dict[GpuSession, FrameLike | BaseException] = {}
        for worker, inner in batches.items():
            frames = worker.tick(inner)
            made.update({session: frames[session.slot] for session in inner})
        return [made[session.inner] for session in sessions if isinstance(session, DeviceSession)]

    def _worker(self, width: int, height: int, *, painted: bool) -> Worker:
        from visavis.engine.runtime.gpu.worker import Worker
        from visavis.engine.video.generator import WEIGHTS, available

        if self._device is None:
            from visavis.engine.runtime.gpu.cuda import CudaDevice

            self._device = CudaDevice()
        key = width, height, painted and available()
        if key not in self._workers:
            self._workers[key] = Worker(
                self._device, self._slots, width, height, video=WEIGHTS if key[2] else None, steps=STEPS
            )
        return self._workers[key]


def build() -> None:
    """The networks as TensorRT engines for the GPU of this machine, where they are not there yet: seconds to a minute, once."""
    from visavis import engine
    from visavis.engine.runtime import tensorrt_build
    from visavis.engine.runtime.gpu.cuda import CACHE, CudaDevice

    device = CudaDevice()
    for path in tensorrt_build.networks(Path(str(engine.__file__)).parent / "weights"):
        tensorrt_build.build(path, CACHE, device.target, "fp16", trt=device.trt)


class DeviceSession:
    """One slot as the server takes it."""

    reducible = False
    """A batch is painted or not: one session of it cannot be reduced."""

    def __init__(self, worker: Worker, inner: GpuSession, painted: bool) -> None:
        self.worker, self.inner = worker, inner
        self.push_audio, self.commit, self.clear = inner.push_audio, inner.commit, inner.clear
        self.step, self.close = inner.step, inner.close
        self._painted = painted

    @property
    def controls(self) -> Controls:
        """See `visavis.engine.session.Session.controls`."""
        return self.inner.controls

    @controls.setter
    def controls(self, controls: Controls) -> None:
        self.inner.controls = controls

    @property
    def queued_seconds(self) -> float:
        """Pushed speech that was not shown yet."""
        return self.inner.inner.queued_seconds

    @property
    def reduced(self) -> bool:
        """Without the video network."""
        return not self._painted

    @reduced.setter
    def reduced(self, reduced: bool) -> None:
        if reduced != self.reduced:
            raise ValueError("a session on a device keeps its quality")


if __name__ == "__main__":
    build()
