"""A worker: the sessions that share one device. Each is an ordinary `Session`; networks and drawing are batched beneath it.

worker = Worker(device, 8, 512, 512)
session = worker.open(avatar, seed=1)
session.push_audio(pcm, 16000)
for slot, frame in worker.tick().items(): ...
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from visavis.engine.motion.channels import zero_motion
from visavis.engine.runtime.gpu.device import Device, DeviceError, WorkerFullError
from visavis.engine.runtime.gpu.drawables import FrameDraws, SlotKit
from visavis.engine.runtime.gpu.drawing import BatchDrawing
from visavis.engine.runtime.gpu.face import FaceStage
from visavis.engine.runtime.gpu.networks import BatchNetwork
from visavis.engine.runtime.gpu.rendezvous import Rendezvous
from visavis.engine.runtime.network import Network, networks_from
from visavis.engine.runtime.tensorrt_build import PROFILES
from visavis.engine.session import Frame, FrameRenderer, Session
from visavis.engine.video.crop import CropTransform, FaceCrop
from visavis.kernels import building_for

if TYPE_CHECKING:
    from visavis.engine.avatar import Avatar
    from visavis.engine.motion.director import MotionSource

NETWORKS, DRAWING = 10, 90
"""Order of the stages where sessions wait at several."""


class Worker:
    """Up to `slots` sessions of width x height on one device. Not for several threads at once.

    A network that a session loads runs for all of them in one call; frames come as I420.
    """

    def __init__(
        self,
        device: Device,
        slots: int,
        width: int,
        height: int,
        *,
        video: Path | None = None,
        steps: int = 2,
    ) -> None:
        """`video`: folder of the video network, which then completes every frame with `steps` sampler steps."""
        fitting = [n for n in PROFILES if n >= slots >= 1]
        if not fitting:
            raise DeviceError(f"{slots} slots: a worker has 1 to {PROFILES[-1]}")
        self.device, self.slots = device, slots
        self.batch = fitting[0]
        """Size of the arrays: the smallest that the engines are built for."""
        self.meeting = Rendezvous(slots)
        self.drawing = BatchDrawing(device, self.batch, width, height)
        self.face = None if video is None else FaceStage(device, self.drawing, video, steps)
        self.networks: dict[Path, BatchNetwork] = {}
        self._stage = self.meeting.stage(DRAWING, self._draw)
        self._sessions: dict[int, GpuSession] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def open(
        self,
        avatar: Avatar,
        *,
        seed: int = 0,
        lookahead: int = 2,
        source: Callable[[], MotionSource] | None = None,
        **options: Any,
    ) -> GpuSession:
        """A new session in a free slot. `source` makes its stage 1 (networks that it loads are the worker's); `options`
        as for `Session`. Raises WorkerFullError when all slots are taken."""
        slot = next((k for k in range(self.slots) if k not in self._sessions), None)
        if slot is None:
            raise WorkerFullError(f"all {self.slots} slots of this worker are taken")
        session = GpuSession(self, slot, avatar, seed, lookahead, source, options)
        self._sessions[slot] = session
        return session

    def tick(self, sessions: Iterable[GpuSession] | None = None) -> dict[int, Frame | BaseException]:
        """The next frame of all sessions, or of those given: slot -> frame, or the error of that session alone."""
        chosen = list(self._sessions.values()) if sessions is None else list(sessions)
        results = self.meeting.tick([s.inner.step for s in chosen])
        return {s.slot: r for s, r in zip(chosen, results, strict=True)}

    def close(self) -> None:
        """End all sessions."""
        for session in list(self._sessions.values()):
            session.close()
        self.meeting.close()

    def network(self, path: Path, slot: int) -> Network:
        """The network at `path` as slot `slot` sees it; its engine is made when it is first asked for."""
        if path not in self.networks:
            order = NETWORKS + len(self.networks)
            self.networks[path] = BatchNetwork(self.device, path, self.batch, self.meeting, order)
        return self.networks[path].slot(slot)

    def forget(self, slot: int) -> None:
        """Free a slot."""
        self._sessions.pop(slot, None)
        self.drawing.release(slot)

    def draw(self, slot: int, frame: FrameDraws, where: CropTransform | None) -> npt.NDArray[np.uint8]:
        """One slot's part of a tick's drawing, and where its face is: waits for the others. I420 (H * 3 / 2, W), the
        caller's own."""
        return np.asarray(self.meeting.visit(self._stage, slot, (frame, where)))

    def _draw(
        self, requests: dict[int, tuple[FrameDraws, CropTransform | None]]
    ) -> dict[int, npt.NDArray[np.uint8]]:
        frames = {slot: frame for slot, (frame, _) in requests.items()}
        if self.face is None:
            self.drawing.launch(frames)
        else:
            for slot, (_, where) in requests.items():
                assert where is not None
                self.face.stage(slot, where)
            self.face.launch(frames)
        return {slot: self.drawing.yuv[slot].copy() for slot in requests}


class GpuSession:
    """One call on a worker. `inner` is the session itself: its frames' images are I420 (H * 3 / 2, W)."""

    def __init__(
        self,
        worker: Worker,
        slot: int,
        avatar: Avatar,
        seed: int,
        lookahead: int,
        source: Callable[[], MotionSource] | None,
        options: dict[str, Any],
    ) -> None:
        from visavis.engine.video.renderer import Renderer

        self.slot, self._worker = slot, worker
        first: list[FrameDraws] = []

        def finish(frame: FrameDraws) -> npt.NDArray[np.uint8]:
            if not first:
                first.append(frame)
                return np.zeros(0, np.uint8)
            return worker.draw(slot, frame, renderer.where)

        with (
            building_for(SlotKit(worker.device, finish)),
            networks_from(lambda path: worker.network(path, slot)),
        ):
            renderer = _SlotRenderer(Renderer(avatar), None if worker.face is None else FaceCrop(avatar))
            renderer.render(zero_motion())  # tells the groups of a frame; nothing is drawn
            self.inner = Session(
                avatar,
                seed=seed,
                lookahead=lookahead,
                renderer=renderer,
                source=None if source is None else source(),
                **options,
            )
        worker.drawing.bind(slot, first[0])
        if worker.face is not None:
            assert renderer.where is not None
            worker.face.bind(slot, first[0], renderer.where, seed)
        self.push_audio, self.commit, self.clear = self.inner.push_audio, self.inner.commit, self.inner.clear

    def step(self) -> Frame:
        """The next frame of this session alone; the worker's other slots rest."""
        result = self._worker.tick([self])[self.slot]
        if isinstance(result, BaseException):
            raise result
        return result

    def close(self) -> None:
        """Give the slot back."""
        self.inner.close()
        self._worker.forget(self.slot)


class _SlotRenderer:
    """A renderer that also says where the face is in the frame that it asks for."""

    def __init__(self, renderer: FrameRenderer, face: FaceCrop | None) -> None:
        self._renderer, self._face = renderer, face
        self.where: CropTransform | None = None

    def render(self, motion: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        self.where = None if self._face is None else self._face.transform(motion)
        return self._renderer.render(motion)
