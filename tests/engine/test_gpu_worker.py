"""The GPU runtime on the emulated device: the product's host logic, the CUDA text and the networks on the CPU."""

from __future__ import annotations

import ctypes
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sounds import sentence
from visavis import kernels
from visavis.engine import enroll as enrolment
from visavis.engine.avatar import Avatar
from visavis.engine.motion.director import MotionDirector
from visavis.engine.motion.speech import WEIGHTS, SpeechToFace
from visavis.engine.runtime import load
from visavis.engine.runtime.gpu.device import DeviceError, WorkerFullError
from visavis.engine.runtime.gpu.drawables import FrameDraws, SlotKit, triangle_kinds
from visavis.engine.runtime.gpu.drawing import BatchDrawing
from visavis.engine.runtime.gpu.emulated import EmulatedDevice
from visavis.engine.runtime.gpu.networks import BatchNetwork
from visavis.engine.runtime.gpu.rendezvous import Rendezvous
from visavis.engine.runtime.gpu.worker import Worker
from visavis.engine.session import Frame, Session
from visavis.engine.streaming import StreamingNetwork
from visavis.engine.video.renderer import Renderer

GENERATOR = Path(enrolment.__file__).parent / "weights" / "video_frame.onnx"


@pytest.fixture
def device(cuda: ctypes.CDLL) -> EmulatedDevice:
    return EmulatedDevice(cuda)


@pytest.fixture(scope="module")
def small(demo_photo: Path) -> Avatar:
    return enrolment.enroll(demo_photo, size=256)


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(((a.astype(float) - b) ** 2).mean())
    return 10 * float(np.log10(255**2 / max(error, 1e-9)))


def frame_of(result: Frame | BaseException) -> Frame:
    if isinstance(result, BaseException):
        raise result
    return result


# Sessions that meet


def test_sessions_meet_where_all_of_them_wait() -> None:
    meeting = Rendezvous(3)
    seen: list[tuple[str, list[int]]] = []

    def stage(name: str, order: int) -> Any:
        def run(requests: dict[int, Any]) -> dict[int, Any]:
            seen.append((name, sorted(requests)))
            return {slot: (name, value) for slot, value in requests.items()}

        return meeting.stage(order, run)

    late, early = stage("draw", 9), stage("network", 1)

    def step(slot: int, calls: int) -> Any:
        def run() -> list[Any]:
            out = [meeting.visit(early, slot, k) for k in range(calls)]
            return [*out, meeting.visit(late, slot, "picture")]

        return run

    results = meeting.tick([step(0, 1), step(1, 3), step(2, 0)])
    # Slot 1 asks for the network three times; the others wait for it at the drawing.
    assert seen == [("network", [0, 1]), ("network", [1]), ("network", [1]), ("draw", [0, 1, 2])]
    assert results[1] == [("network", 0), ("network", 1), ("network", 2), ("draw", "picture")]
    assert meeting.visit(late, 2, "alone") == ("draw", "alone")
    meeting.close()


def test_an_error_reaches_those_that_it_concerns() -> None:
    meeting = Rendezvous(2)

    def fails(requests: dict[int, Any]) -> dict[int, Any]:
        raise DeviceError("no more memory")

    broken, sound = meeting.stage(1, fails), meeting.stage(2, lambda requests: dict(requests))

    def bad() -> Any:
        raise ValueError("only mine")

    results = meeting.tick([lambda: meeting.visit(broken, 0, 1), lambda: meeting.visit(sound, 1, 5)])
    assert isinstance(results[0], DeviceError) and results[1] == 5
    results = meeting.tick([bad, lambda: meeting.visit(sound, 1, 6)])
    assert isinstance(results[0], ValueError) and results[1] == 6
    assert not [t for t in threading.enumerate() if t.name.startswith("visavis-slot") and meeting.close()]


# Networks


def test_a_batched_network_is_the_network_of_each_slot(device: EmulatedDevice) -> None:
    """Three sources, one of which sits out some frames and one of which starts anew: the numbers of separate networks."""
    meeting = Rendezvous(4)
    network = BatchNetwork(device, WEIGHTS, 4, meeting)
    rng = np.random.default_rng(0)
    shared = [network.slot(k) for k in range(3)]
    own = [SpeechToFace(lookahead=0) for _ in range(3)]
    batched = [SpeechToFace(lookahead=0) for _ in range(3)]
    for source, slot in zip(batched, shared, strict=True):
        source._network = slot
    for k in range(6):
        active = [0, 1, 2] if k % 2 else [0, 2]
        if k == 4:
            own[2].reset()
            batched[2].reset()
        sound = rng.normal(0, 0.2, (3, 640)).astype(np.float32)
        steps = [lambda s=s, sound=sound: batched[s].push(sound[s]) for s in active]  # type: ignore[misc]
        for slot, face in zip(active, meeting.tick(steps), strict=True):
            np.testing.assert_allclose(face, own[slot].push(sound[slot]), atol=2e-5)
            np.testing.assert_allclose(batched[slot].state.hidden, own[slot].state.hidden, atol=2e-5)
    assert network.engine.axes["hidden"] == 1 and set(network.states) == {"context", "hidden"}
    meeting.close()


def test_states_cannot_be_mixed_up(device: EmulatedDevice) -> None:
    meeting = Rendezvous(2)
    network = BatchNetwork(device, WEIGHTS, 2, meeting)
    a, b = network.slot(0), network.slot(1)
    feed: dict[str, Any] = {name: np.zeros(shape, np.float32) for name, shape in a.inputs.items()}
    first = a(feed)
    states = {"context": first["next_context"], "hidden": first["next_hidden"]}
    assert np.zeros_like(first["next_hidden"]).shape == (1, 1, 256)
    a({**feed, **states})
    with pytest.raises(DeviceError, match="not the state after the latest call"):
        a({**feed, **states})
    with pytest.raises(DeviceError, match="state of something else"):
        b({**feed, **states})
    with pytest.raises(DeviceError, match="mel has shape"):
        a({**feed, "mel": np.zeros((1, 3, 80), np.float32)})
    with pytest.raises(DeviceError, match="takes mel, context"):
        a({"mel": feed["mel"]})
    with pytest.raises(DeviceError, match="no network file"):
        device.engine(Path("/nowhere.onnx"), 2)
    meeting.close()


def test_state_that_is_kept_as_arrays_stays_on_the_device(device: EmulatedDevice, tmp_path: Path) -> None:
    """`engine.streaming` keeps, copies and resets states as arrays: it works on those of a device alike."""
    pytest.importorskip("onnx")
    import onnx_models as models

    path = models.recurrent(tmp_path / "r.onnx")
    meeting = Rendezvous(2)
    batched = StreamingNetwork(BatchNetwork(device, path, 2, meeting).slot(1))
    own = StreamingNetwork(load(path))
    rng = np.random.default_rng(0)
    for k in range(5):
        if k == 3:
            batched.reset(0)
            own.reset(0)
        x = rng.normal(size=(1, 8)).astype(np.float32)
        uploads = device.counts["upload"]
        np.testing.assert_allclose(batched.step({"x": x})["y"], own.step({"x": x})["y"], atol=1e-5)
        # Mask and input; the state only where it is begun anew.
        assert device.counts["upload"] - uploads == (3 if k in (0, 3) else 2)
    meeting.close()


# Drawing


def people(seed: int, kit: SlotKit | None, size: tuple[int, int]) -> Any:
    """Draws a posed sheet over a plain one, by the CPU's drawables or by a kit's; -> the target after drawing."""
    rng = np.random.default_rng(seed)
    width, height = size
    n = int(rng.integers(3, 7))
    y, x = np.mgrid[0:n, 0:n] / (n - 1)
    grid = np.arange(n * n, dtype=np.int32).reshape(n, n)
    a, b, c, d = (grid[i : n - 1 + i, j : n - 1 + j].ravel() for i in (0, 1) for j in (0, 1))
    triangles = np.concatenate([np.stack([a, b, c], 1), np.stack([b, d, c], 1)])
    uv = np.stack([x, y], -1).reshape(-1, 2).astype(np.float32) * (20, 16)
    rest = np.concatenate([uv / 20 - 0.5, np.zeros((n * n, 1))], 1).astype(np.float32)
    texture = rng.integers(0, 256, (16, 20, 4), dtype=np.uint8)
    texture[..., 3] = np.maximum(texture[..., 3], 100)
    basis = (rng.standard_normal((2, n * n, 3)) * 0.05).astype(np.float16)
    weights = np.stack([x.ravel(), 1 - x.ravel()], 1).astype(np.float32)
    joints = np.tile(np.eye(3, 4, dtype=np.float32), (2, 1, 1))
    joints[:, 2, 3] = 1
    coefficients = rng.standard_normal(2).astype(np.float32)
    plate = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    flat = np.concatenate([uv * 1.5 - 3, np.full((n * n, 1), 2)], 1).astype(np.float32)

    def draw() -> Any:
        part = np.full(len(triangles), 7, np.uint8)
        mesh = kernels.Mesh(triangles, uv.astype(np.float32), part, rest, texture)
        rig = kernels.PoseRig(rest, basis, weights)
        target = kernels.Target(width, height)
        target.begin(plate)
        if seed % 2:
            target.draw(mesh, flat, filter="bilinear")
        posed = rig.pose(coefficients, joints, (30.0, 30.0, width / 2, height / 2))
        target.draw(mesh, posed, filter="bilinear")
        return target

    if kit is None:
        return draw()
    with kernels.building_for(kit):
        return draw()


def test_a_batch_draws_the_bits_of_the_cpu(device: EmulatedDevice) -> None:
    """Slots with different meshes and numbers of groups, bound and released in between."""
    size = (36, 24)
    drawing = BatchDrawing(device, 4, *size)
    frames: dict[int, FrameDraws] = {}
    for slot in (0, 1, 3):
        target = people(slot, SlotKit(device, lambda frame: np.zeros(0, np.uint8)), size)
        frames[slot] = target.frame
        drawing.bind(slot, target.frame)
    for active in ((0, 1, 3), (1,), (3, 0)):
        before = np.copy(drawing.device_yuv)
        drawing.launch({s: frames[s] for s in active})
        for slot in range(4):
            if slot not in active:
                np.testing.assert_array_equal(drawing.device_yuv[slot], before[slot])
                continue
            wanted = people(slot, None, size)
            np.testing.assert_array_equal(drawing.picture[slot], wanted.rgb)
            np.testing.assert_array_equal(drawing.coverage[slot], wanted.coverage)
            np.testing.assert_array_equal(drawing.labels[slot], wanted.part)
            np.testing.assert_array_equal(drawing.yuv[slot], kernels.rgb_to_i420(wanted.rgb))
    graphs = device.counts["graph"]
    drawing.release(1)
    drawing.launch({0: frames[0]})
    assert device.counts["graph"] == graphs + 1
    uploads = device.counts["upload"]
    drawing.launch({0: frames[0], 3: frames[3]})
    assert device.counts["upload"] == uploads + 1, "one upload a tick"
    with pytest.raises(DeviceError, match="slot 1 has no person"):
        drawing.launch({1: frames[1]})
    with pytest.raises(DeviceError, match="groups differ"):
        drawing.launch({0: frames[3]})


def test_what_a_device_cannot_draw_is_refused(device: EmulatedDevice) -> None:
    with pytest.raises(DeviceError, match="even sides"):
        BatchDrawing(device, 2, 35, 24)
    drawing = BatchDrawing(device, 2, 36, 24)
    target = people(0, SlotKit(device, lambda frame: np.zeros(0, np.uint8)), (30, 24))
    with pytest.raises(DeviceError, match="not 36x24"):
        drawing.bind(0, target.frame)
    posed = target.frame.draws[0].vertices
    with pytest.raises(ValueError, match="coefficients"):
        posed.rig.pose(np.zeros(9, np.float32), posed.joints, posed.camera)
    with pytest.raises(DeviceError, match="stay on the device"):
        posed.rig.pose(posed.coefficients, posed.joints, posed.camera, np.zeros(3))
    with pytest.raises(DeviceError, match="does not fit"):
        device.upload(np.zeros(3, np.float32), np.zeros(4, np.float32))
    with pytest.raises(DeviceError, match="failed with CUDA error 1"):
        drawing._sizes = []
        drawing.width = 3
        drawing._convert = lambda: None  # type: ignore[method-assign]
        from visavis.engine.runtime.gpu.device import call

        call(device, "vvc_composite", None, None, None, 1, 1, 3, 2, 0)


def test_kinds_of_triangles() -> None:
    alpha = np.zeros((20, 60), np.uint8)
    alpha[:, :20], alpha[:, 20:40] = 255, 128
    triangle = np.array([[4, 4], [9, 4], [4, 9]], np.float32)
    uv = np.concatenate([triangle + (dx, 4) for dx in (0, 8, 22, 46)]).astype(np.float32)
    kinds = triangle_kinds(np.arange(12, dtype=np.int32).reshape(4, 3), uv, alpha, 2.0)
    assert kinds.tolist() == [1, 0, 0, 2]


# The whole


def test_a_session_on_the_device_is_the_session_on_the_cpu(device: EmulatedDevice, small: Avatar) -> None:
    """Two people at once, one of them waiting for a tick; the same video for the same sound and seed."""
    worker = Worker(device, 2, small.width, small.height)
    sound = sentence(0.6)
    pairs = []
    for seed in (1, 2):
        pairs.append((worker.open(small, seed=seed), Session(small, seed=seed, renderer=Renderer(small))))
        for session in pairs[-1]:
            session.push_audio(sound[seed * 1000 :], 16000)
    with pytest.raises(WorkerFullError, match="all 2 slots"):
        worker.open(small)
    for active in ((0, 1), (1,), (0, 1)):
        results = worker.tick([pairs[k][0] for k in active])
        for k in active:
            got, want = frame_of(results[k]), pairs[k][1].step()
            np.testing.assert_allclose(got.motion, want.motion, atol=1e-5)
            np.testing.assert_array_equal(got.audio, want.audio)
            assert got.speech_index == want.speech_index and got.speaking == want.speaking
            assert psnr(got.image, kernels.rgb_to_i420(want.image)) > 45
    pairs[0][0].clear()
    pairs[0][1].clear()
    pairs[0][0].close()
    assert len(worker) == 1
    assert worker.open(small, source=lambda: MotionDirector(0, 2)).slot == 0
    worker.close()


def test_a_worker_has_a_number_of_slots_that_engines_have(device: EmulatedDevice) -> None:
    assert [Worker(device, n, 32, 32).batch for n in (1, 3, 8)] == [1, 4, 8]
    for n in (0, 33):
        with pytest.raises(DeviceError, match="1 to 32"):
            Worker(device, n, 32, 32)


@pytest.mark.skipif(not GENERATOR.is_file(), reason="no video network is shipped")
def test_the_video_network_paints_the_same_on_the_device(device: EmulatedDevice, small: Avatar) -> None:
    from visavis.engine.video.generator import WEIGHTS as video
    from visavis.engine.video.generator import Generator

    class Painted:
        def __init__(self) -> None:
            self.warp = Renderer(small)
            self.generator = Generator(self.warp, seed=3, steps=2)

        def render(self, motion: Any) -> Any:
            return self.generator.render(self.warp.render(motion), motion)

    worker = Worker(device, 1, small.width, small.height, video=video, steps=2)
    session, cpu = worker.open(small, seed=3), Session(small, seed=3, renderer=Painted())
    plain = Session(small, seed=3, renderer=Renderer(small))
    for each in (session, cpu, plain):
        each.push_audio(sentence(0.4), 16000)
    for _ in range(2):
        got, want, warp = (kernels.rgb_to_i420(s.step().image) if s is not session else s.step().image
                           for s in (session, cpu, plain))  # fmt: skip
        assert psnr(got, want) > 45
        assert not np.array_equal(got, warp), "nothing was painted"
    worker.close()
