"""A worker: the sessions that share one device. A tick of all of them stays there: sound up, finished frames down, one graph.

worker = Worker(device, 8, 512, 512)
session = worker.open(avatar, seed=1)
session.push_audio(pcm, 16000)
for slot, frame in worker.tick().items(): ...

What a session's clock decides (`Session.plan`) is the host's; everything between the sound and the frame is queued without a look
in between: log-mel, speech network, gate, face and life network, motion, figure, pose, raster, [crop, video network, composite], I420.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from visavis.engine.motion import diffusion
from visavis.engine.motion.articulation import usable
from visavis.engine.motion.channels import N_CHANNELS
from visavis.engine.motion.life import Reflex
from visavis.engine.runtime.gpu import face as face_stage
from visavis.engine.runtime.gpu import motion as motion_stage
from visavis.engine.runtime.gpu import structures as st
from visavis.engine.runtime.gpu.device import Device, DeviceError, WorkerFullError
from visavis.engine.runtime.gpu.drawing import BatchDrawing
from visavis.engine.runtime.gpu.encoder import BITRATE, Encoder, Layout
from visavis.engine.runtime.gpu.face import FaceStage
from visavis.engine.runtime.gpu.figure import DeviceFigure
from visavis.engine.runtime.gpu.motion import DeviceMotion, SlotMotion
from visavis.engine.runtime.gpu.staging import Staging
from visavis.engine.runtime.tensorrt_build import PROFILES
from visavis.engine.session import Frame, Plan, Session
from visavis.engine.video.crop import FaceCrop
from visavis.engine.video.figure import Figure
from visavis.engine.video.tones import Tones

if TYPE_CHECKING:
    from visavis.engine.avatar import Avatar
    from visavis.engine.motion.director import MotionSource

Result = Frame | BaseException


class Worker:
    """Up to `slots` sessions of width x height on one device. Not for several threads at once. Frames come as I420 or
    NV12, ready for an encoder."""

    def __init__(
        self,
        device: Device,
        slots: int,
        width: int,
        height: int,
        *,
        video: Path | None = None,
        steps: int = 2,
        weights: Path = diffusion.WEIGHTS,
        layout: Layout = "i420",
    ) -> None:
        """`layout`: of the frames' chroma, "nv12" where NVENC takes them; `video`: folder of the video network, which then completes every frame with `steps` sampler steps; `weights`: of the
        motion networks."""
        fitting = [n for n in PROFILES if n >= slots >= 1]
        if not fitting:
            raise DeviceError(f"{slots} slots: a worker has 1 to {PROFILES[-1]}")
        self.device, self.slots, self.width, self.height = device, slots, width, height
        self.layout: Layout = layout
        self._weights = weights
        n = self.batch = fitting[0]
        """Size of the arrays: the smallest that the engines are built for."""
        told, said = motion_stage.staging_layout(n), motion_stage.report_layout(n)
        self._staging = Staging.of(device, {**told, **(face_stage.staging_layout(n) if video else {})})
        self._report = Staging.of(device, {**said, "yuv": ((n, height * 3 // 2, width), np.uint8)})
        self.motion = DeviceMotion(device, n, self._staging, self._report, weights)
        self.drawing = BatchDrawing(
            device, n, width, height, self._report.device["motion"], self._staging.device["moves"],
            self._report.device["yuv"],
        )  # fmt: skip
        self.drawing.nv12 = layout == "nv12"
        self.drawing.changed = self._forget_graphs
        self.face = None if video is None else FaceStage(device, self.drawing, self._staging, video, steps)
        self._parity = 0
        self._graphs: dict[tuple[str, int], Callable[[], None]] = {}
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
        """A new session in a free slot. `source` makes another stage 1 for it, which then runs on the host; `options` as for
        `Session`. Raises WorkerFullError when all slots are taken."""
        slot = next((k for k in range(self.slots) if k not in self._sessions), None)
        if slot is None:
            raise WorkerFullError(f"all {self.slots} slots of this worker are taken")
        motion = SlotMotion(seed, lookahead, None if source is None else source())
        session = GpuSession(self, slot, avatar, motion, options)
        face = None if self.face is None else FaceCrop(avatar)
        self.drawing.bind(slot, DeviceFigure.of(self.device, Figure.of(avatar), avatar.plate, face))
        sides = diffusion.sides_of(motion.seed)
        own = usable(avatar.articulation, self._weights)
        self.motion.reset(slot, motion, sides, session.inner.neutral, own)
        if self.face is not None:
            self._draw_at_rest(slot)
            self.face.bind(slot, self._parity, seed, Tones.of_avatar(avatar))
            session.fresh = True
        self._sessions[slot] = session
        return session

    def tick(self, sessions: Iterable[GpuSession] | None = None) -> dict[int, Result]:
        """The next frame of all sessions, or of those given: slot -> frame, or the error of that session alone."""
        chosen = {s.slot: s for s in (self._sessions.values() if sessions is None else sessions)}
        results: dict[int, Result] = {}
        plans: dict[int, Plan] = {}
        for slot, session in chosen.items():
            try:
                plans[slot] = session.inner.plan()
                session.prepare(plans[slot])
            except Exception as error:
                plans.pop(slot, None)
                results[slot] = error
        if plans:
            try:
                self._run({slot: chosen[slot] for slot in plans}, plans)
            except Exception as error:
                return results | dict.fromkeys(plans, error)
            motion, yuv = (self._report.host[name] for name in ("motion", "yuv"))
            for slot, plan in plans.items():
                session = chosen[slot]
                session.motion.gate = float(self._report.host["gates"][slot])
                results[slot] = session.inner.frame(plan, motion[slot].copy(), yuv[slot].copy())
        return {slot: results[slot] for slot in chosen}

    def close(self) -> None:
        """End all sessions."""
        for session in list(self._sessions.values()):
            session.close()

    def forget(self, slot: int) -> None:
        """Free a slot."""
        if self._sessions.pop(slot, None) is not None:
            self.drawing.release(slot)

    def _run(self, sessions: dict[int, GpuSession], plans: dict[int, Plan]) -> None:
        """Extra frames of sound first (where speech begins), each a short launch; then the tick."""
        heard = {k: plans[k].heard for k, s in sessions.items() if s.motion.source is None}
        for turn in range(max((len(h) for h in heard.values()), default=0) - 1):
            self._begin_staging()
            for slot, blocks in heard.items():
                if turn < len(blocks) - 1:
                    self._stage_sound(slot, sessions[slot], blocks[turn], 0)
            self._launch("hear")
        self._begin_staging()
        host = self._staging.host
        for slot, session in sessions.items():
            host["moves"][slot] = 1
            if "active" in host:
                host["active"][slot], host["fresh"][slot] = 1, session.fresh
                session.fresh = False
            if session.motion.source is not None:
                host["given"][slot] = session.given
                self._stage_cue(slot, session, st.MOVES | st.GIVEN)
            elif len(heard[slot]):
                self._stage_sound(slot, session, heard[slot][-1], st.MOVES)
            else:
                self._stage_cue(slot, session, st.MOVES)
        self._launch("tick")
        self._parity = 1 - self._parity

    def _begin_staging(self) -> None:
        host = self._staging.host
        for name in host.keys() - {"sound", "given", "cues"}:
            host[name][:] = 0
        cues = st.MotionCue(st.TAKEN), st.MotionCue()
        for slot in range(self.batch):
            host["cues"][slot] = np.frombuffer(bytes(cues[slot not in self._sessions]), np.uint8)

    def _stage_sound(
        self, slot: int, session: GpuSession, block: npt.NDArray[np.float32], flags: int
    ) -> None:
        host = self._staging.host
        host["sound"][slot] = block
        host["hears"][slot] = 1
        self._stage_cue(slot, session, flags | session.motion.heard_one(block))

    def _stage_cue(self, slot: int, session: GpuSession, flags: int) -> None:
        host = self._staging.host
        hush = session.motion.take_hush()
        host["hushes"][slot] = st.CLEAR if hush else st.LEAVE
        cue = session.motion.cue(flags | hush | st.TAKEN, session.reflex)
        host["cues"][slot] = np.frombuffer(bytes(cue), np.uint8)

    def _launch(self, name: str) -> None:
        key = name, self._parity
        if key not in self._graphs:
            work = self._queue_hear if name == "hear" else self._queue_tick
            parity = self._parity
            self._graphs[key] = self.device.capture(lambda: work(parity))
        self._graphs[key]()
        self.device.synchronize()  # the staging may change again

    def _queue_hear(self, parity: int) -> None:
        self._staging.upload(self.device)
        self.motion.hear(parity, more=True)

    def _queue_tick(self, parity: int) -> None:
        self._staging.upload(self.device)
        self.motion.hear(parity)
        self.motion.move(parity)
        self.drawing.queue()
        if self.face is None:
            self.drawing.convert()
        else:
            self.face.queue(parity)
        self._report.download(self.device)

    def _draw_at_rest(self, slot: int) -> None:
        """The photo's own pose drawn in this slot, for what the video network takes from it."""
        device = self.device
        self._begin_staging()
        self._staging.host["moves"][slot] = 1
        self._staging.upload(device)
        device.upload(self._report.device["motion"][slot], np.zeros(N_CHANNELS, np.float32))
        self.drawing.queue()
        device.synchronize()

    def _forget_graphs(self) -> None:
        self._graphs = {}


class GpuSession:
    """One call on a worker. `inner` is the session itself: its frames' images are (H * 3 / 2, W) in the worker's layout."""

    def __init__(
        self, worker: Worker, slot: int, avatar: Avatar, motion: SlotMotion, options: dict[str, Any]
    ) -> None:
        self.slot, self.motion, self._worker = slot, motion, worker
        self.inner = Session(avatar, renderer=_Elsewhere(), source=motion, **options)
        self.fresh = False
        """The next frame is the first that the video network sees."""
        self.given = np.zeros(N_CHANNELS, np.float32)
        """Motion of the next frame, where it has a source of its own."""
        self.reflex = Reflex()
        self._encoder: Encoder | None = None
        self.push_audio, self.commit, self.clear = self.inner.push_audio, self.inner.commit, self.inner.clear

    @property
    def controls(self) -> diffusion.Controls:
        """See `Session.controls`."""
        return self.inner.controls

    @controls.setter
    def controls(self, controls: diffusion.Controls) -> None:
        self.inner.controls = controls

    def prepare(self, plan: Plan) -> None:
        """What the host computes of this session ahead of the device."""
        if self.motion.source is not None:
            self.given = self.motion.source.step(plan.heard)
        else:
            self.reflex = self.motion.reflex()

    def step(self) -> Frame:
        """The next frame of this session alone; the worker's other slots rest."""
        result = self._worker.tick([self])[self.slot]
        if isinstance(result, BaseException):
            raise result
        return result

    def encode(self, frame: Frame, *, keyframe: bool = False, bitrate: int = BITRATE) -> bytes:
        """H.264 of a frame of this session, by NVENC where the machine has it and x264 else: one stream, opened with the first frame and
        following `bitrate` in bits per second. VideoError where there is no encoder at all."""
        if self._encoder is None:
            worker = self._worker
            self._encoder = Encoder(worker.width, worker.height, bitrate=bitrate, layout=worker.layout)
        self._encoder.bitrate = bitrate
        return self._encoder.encode(frame.image, keyframe=keyframe)

    @property
    def codec(self) -> str | None:
        """FFmpeg's name of the encoder that `encode` found."""
        return None if self._encoder is None else self._encoder.codec

    def close(self) -> None:
        """Give the slot back."""
        self.inner.close()
        self._worker.forget(self.slot)


class _Elsewhere:
    """In place of a renderer: the device draws."""

    def render(self, motion: npt.NDArray[np.float32]) -> npt.NDArray[np.uint8]:
        raise DeviceError("this session is drawn by its worker's tick")
