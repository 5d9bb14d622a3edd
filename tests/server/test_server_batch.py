"""Engines whose sessions advance together: one call a tick, one thread, errors of one session alone; the GPU's engine on the emulated device."""

from __future__ import annotations

import asyncio
import ctypes
import threading
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import pytest
from double import DoubleEngine
from serving import events_of, run, serving, settled, until
from test_server_api import PNG, form
from visavis.clients import cli
from visavis.engine import enroll as enrolment
from visavis.engine.motion.diffusion import Controls
from visavis.engine.runtime.gpu.device import WorkerFullError
from visavis.engine.runtime.gpu.emulated import EmulatedDevice
from visavis.engine.session import Session
from visavis.kernels import rgb_to_i420
from visavis.server.controls import change
from visavis.server.gpu_engine import GpuEngine


@dataclass
class BatchDouble(DoubleEngine):
    """The double as a batch: remembers who was ticked together, in which thread."""

    ticks: list[int] = field(default_factory=list)
    threads: set[int] = field(default_factory=set)
    broken: set[int] = field(default_factory=set)
    """Ids of sessions that fail."""
    all_fail: bool = False
    tick_s: float = 0.0

    def session(self, avatar, **options):
        self.threads.add(threading.get_ident())
        session = super().session(avatar, **options)
        step = session.step
        # as a device makes them
        session.step = lambda: _planar(step())
        return session

    def tick(self, sessions):
        self.threads.add(threading.get_ident())
        if self.all_fail:
            raise RuntimeError("the device is gone")
        self.ticks.append(len(sessions))
        time.sleep(self.tick_s)
        return [RuntimeError("broken") if id(s) in self.broken else s.step() for s in sessions]


@dataclass(frozen=True)
class Planar:
    image: np.ndarray
    audio: np.ndarray
    speech_index: int | None
    speaking: bool


def _planar(frame):
    return Planar(rgb_to_i420(frame.image), frame.audio, frame.speech_index, frame.speaking)


async def watched(api, seed):
    """A session on a socket: (info, socket, events, reader, the server's session)."""
    info, socket, events, reader = await events_of(api, seed)
    return info, socket, events, reader, api.sessions.get(info["id"])


def test_sessions_advance_together_in_one_thread():
    async def go():
        engine = BatchDouble()
        async with serving(engine) as api:
            await api.ready()
            one, two = await watched(api, 0), await watched(api, 1)
            await until(lambda: min(s[4].publisher.frames for s in (one, two)) > 10)
            assert max(engine.ticks) == 2 and len(engine.threads) == 1
            await one[1].send_bytes(np.full(16000, 3000, "<i2").tobytes())
            await until(lambda: any(e["type"] == "playback.started" for e in one[2]))
            await one[1].send_json({"type": "session.update", "session": {"controls": {"mood": "warm"}}})
            await until(lambda: any(e["type"] == "session.updated" for e in one[2]))
            assert [s.controls.mood for s in engine.sessions] == ["warm", "neutral"]
            await one[1].send_json({"type": "clear"})
            await until(lambda: engine.sessions[0].queued_seconds == 0)
            assert not any(e["type"] == "playback.started" for e in two[2])
            await one[1].close()
            await two[1].close()
        assert await settled() == ([], [])
        assert all(session.closed for session in engine.sessions) and len(engine.threads) == 1

    run(go())


def test_one_that_fails_ends_alone_and_a_device_that_fails_ends_all():
    async def go():
        engine = BatchDouble()
        async with serving(engine) as api:
            await api.ready()
            one, two = await watched(api, 0), await watched(api, 1)
            await until(lambda: min(s[4].publisher.frames for s in (one, two)) > 5)
            engine.broken.add(id(engine.sessions[0]))
            await asyncio.wait_for(one[3], 10)
            assert one[2][-1]["type"] == "session.closed"
            frames = two[4].publisher.frames
            await until(lambda: two[4].publisher.frames > frames + 10)
            assert not [e for e in two[2] if e["type"] == "error"]
            engine.all_fail = True
            await asyncio.wait_for(two[3], 10)
            assert two[2][-1]["type"] == "session.closed" and len(api.sessions) == 0
            engine.all_fail = False
            three = await watched(api, 2)
            await until(lambda: three[4].publisher.frames > 5)
            await three[1].close()
        assert await settled() == ([], [])

    run(go())


def test_a_slow_tick_is_not_queued_up_and_enrolment_does_not_hold_it():
    async def go():
        engine = BatchDouble(enroll_s=1.5)
        async with serving(engine) as api:
            await api.ready()
            one = await watched(api, 0)
            await until(lambda: one[4].publisher.frames > 3)
            status, person = await api.call(
                "POST", "/v1/avatars", data=form(photo=PNG, consent="mine", name="Ada")
            )
            assert status == 202
            frames = one[4].publisher.frames
            await until(lambda: one[4].publisher.frames > frames + 10, 1.4)
            assert (await api.call("GET", f"/v1/avatars/{person['id']}"))[1]["state"] == "enrolling"
            await api.ready(person["id"])
            engine.tick_s = 0.1
            made, began = len(engine.ticks), time.monotonic()
            await asyncio.sleep(1.0)
            assert len(engine.ticks) - made <= (time.monotonic() - began) / 0.1 + 1
            engine.tick_s = 0.0
            await one[1].close()
        assert await settled() == ([], [])

    run(go())


def test_the_gpus_engine_makes_the_frames_of_the_cpus(cuda: ctypes.CDLL, demo_photo: Path):
    person = enrolment.enroll(demo_photo, size=256)
    engine = GpuEngine(EmulatedDevice(cuda), slots=2)
    options = {"lookahead": 2, "max_queue_s": 5.0, "generator": False}
    ours = [engine.session(person, seed=seed, **options) for seed in (3, 4)]
    with pytest.raises(WorkerFullError):
        engine.session(person, seed=5, **options)
    theirs = Session(person, seed=3, lookahead=2, generator_steps=0)
    sound = (3000 * np.sin(np.arange(8000) / 16000 * 2 * np.pi * 150)).astype(np.int16)
    for session in (ours[0], theirs):
        session.push_audio(sound, 16000)
    manner = {"mood": "warm", "expressiveness": 1.5, "gaze": [0.2, -0.1]}
    assert change(ours[0], manner) == change(theirs, manner) == asdict(Controls()) | manner
    assert change(ours[1], {})["mood"] == "neutral"
    assert ours[0].queued_seconds == pytest.approx(0.5) and ours[0].reduced
    for _ in range(4):
        first, second = engine.tick(ours)
        wanted = rgb_to_i420(theirs.step().image)
        assert not isinstance(first, BaseException) and not isinstance(second, BaseException)
        error = float(((first.image.astype(float) - wanted) ** 2).mean())
        assert first.image.shape == wanted.shape and 10 * np.log10(255**2 / max(error, 1e-9)) > 45
        assert not np.array_equal(first.image, second.image)
    with pytest.raises(ValueError, match="keeps its quality"):
        ours[0].reduced = False
    ours[1].close()
    assert len(engine.tick([ours[0]])) == 1
    assert engine.session(person, seed=6, **options).step().image.ndim == 2
    theirs.close()


def test_a_gpu_that_is_not_there_is_said(capsys: pytest.CaptureFixture[str]):
    from visavis.engine.runtime.gpu.cuda import missing

    if missing() is None:
        pytest.skip("there is a device")
    assert cli.main(["serve", "--device", "gpu", "--no-demo"]) == 2
    said = capsys.readouterr().err
    assert "--device gpu: " in said and "Traceback" not in said
