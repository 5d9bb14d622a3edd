"""The GPU runtime on the emulated device: the product's host logic, the CUDA text and the networks on the CPU."""

from __future__ import annotations

import ctypes
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sounds import sentence
from visavis import kernels
from visavis.engine import enroll as enrolment
from visavis.engine.avatar import Avatar
from visavis.engine.motion import diffusion
from visavis.engine.motion.articulation import INPUTS, LAGS, Articulation, base_of
from visavis.engine.motion.channels import N_CHANNELS
from visavis.engine.motion.diffusion import Controls
from visavis.engine.motion.director import MotionDirector
from visavis.engine.runtime.gpu.device import DeviceError, WorkerFullError, call
from visavis.engine.runtime.gpu.drawing import BatchDrawing
from visavis.engine.runtime.gpu.emulated import EmulatedDevice
from visavis.engine.runtime.gpu.figure import DeviceFigure, triangle_kinds
from visavis.engine.runtime.gpu.networks import SlotNetwork
from visavis.engine.runtime.gpu.worker import GpuSession, Worker
from visavis.engine.session import Frame, Session
from visavis.engine.video.figure import Figure
from visavis.engine.video.generator import WEIGHTS as VIDEO
from visavis.engine.video.renderer import Renderer, mesh_of


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


# Networks


def test_states_change_places_and_are_not_copied(device: EmulatedDevice, tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    import onnx_models as models

    network = SlotNetwork(device, models.recurrent(tmp_path / "r.onnx"), 2)
    assert list(network.states) == ["memory"] and set(network.tensors) == {"x", "y"}
    first, second = network.states["memory"]
    for parity, (before, after) in ((0, (first, second)), (1, (second, first))):
        bound = network.bound(parity)
        assert bound["memory"] is before and bound["next_memory"] is after
    network.tensors["x"][...] = 1
    network.run(0)
    once = second.copy()
    assert not first.any() and once.any()
    network.run(1)
    assert not np.array_equal(first, once) and np.array_equal(second, once)
    with pytest.raises(DeviceError, match="x is"):
        network.expect({"x": ((2, 9), np.dtype(np.float32))})
    with pytest.raises(DeviceError, match="no network file"):
        device.engine(Path("/nowhere.onnx"), 2)


# Drawing


def drawing_of(device: EmulatedDevice, slots: int, width: int, height: int) -> BatchDrawing:
    zeros = device.zeros
    return BatchDrawing(
        device, slots, width, height, zeros((slots, N_CHANNELS), np.float32), zeros((slots,), np.uint8),
        zeros((slots, height * 3 // 2, width), np.uint8),
    )  # fmt: skip


def test_a_batch_draws_the_bits_of_the_cpu(device: EmulatedDevice, small: Avatar) -> None:
    """Slots with different people and numbers of parts, bound and released in between: what the CPU draws of the same bones."""
    people = {0: small, 1: replace(small, layers=()), 3: replace(small, layers=small.layers[:2])}
    drawing = drawing_of(device, 4, small.width, small.height)
    moved = []
    drawing.changed = lambda: moved.append(True)
    figures = {slot: Figure.of(person) for slot, person in people.items()}
    for slot, figure in figures.items():
        drawing.bind(slot, DeviceFigure.of(device, figure, small.plate))
    assert len(moved) == 3
    rng = np.random.default_rng(0)
    for active in ((0, 1, 3), (1,), (3, 0)):
        before = np.copy(drawing.picture)
        drawing.motion[...] = rng.normal(0, 0.05, drawing.motion.shape)
        drawing.mask[:] = [slot in active for slot in range(4)]
        drawing.queue()
        drawing.convert()
        for slot in range(4):
            if slot not in active:
                np.testing.assert_array_equal(drawing.picture[slot], before[slot])
                continue
            target = kernels.Target(small.width, small.height)
            target.begin(small.plate)
            for part, group in zip(figures[slot].parts, drawing._groups, strict=False):
                shapes = [(i, d.astype(np.float16)) for i, d in part.shapes]
                rig = kernels.PoseRig(part.vertices, shapes, part.weights)
                held = [
                    np.ascontiguousarray(a[slot, :n])
                    for a, n in ((group.coefficients, len(shapes)), (group.joints, len(part.bones)))
                ]
                target.draw(mesh_of(part), rig.pose(*held, figures[slot].camera))
            np.testing.assert_array_equal(drawing.picture[slot], target.rgb)
            np.testing.assert_array_equal(drawing.coverage[slot], target.coverage)
            np.testing.assert_array_equal(drawing.labels[slot], target.part)
            np.testing.assert_array_equal(drawing.yuv[slot], kernels.rgb_to_i420(target.rgb))
    drawing.release(1)
    drawing.release(2)
    assert len(moved) == 4


def test_what_a_device_cannot_draw_is_refused(device: EmulatedDevice, small: Avatar) -> None:
    with pytest.raises(DeviceError, match="even sides"):
        drawing_of(device, 2, 35, 24)
    with pytest.raises(DeviceError, match="not 36x24"):
        drawing_of(device, 2, 36, 24).bind(0, DeviceFigure.of(device, Figure.of(small), small.plate))
    with pytest.raises(DeviceError, match="does not fit"):
        device.upload(np.zeros(3, np.float32), np.zeros(4, np.float32))
    with pytest.raises(DeviceError, match="failed with CUDA error 1"):
        call(device, "vvc_composite", None, None, 1, 1, 3, 2, 0)


def test_kinds_of_triangles() -> None:
    alpha = np.zeros((20, 60), np.uint8)
    alpha[:, :20], alpha[:, 20:40] = 255, 128
    triangle = np.array([[4, 4], [9, 4], [4, 9]], np.float32)
    uv = np.concatenate([triangle + (dx, 4) for dx in (0, 8, 22, 46)]).astype(np.float32)
    kinds = triangle_kinds(np.arange(12, dtype=np.int32).reshape(4, 3), uv, alpha, 2.0)
    assert kinds.tolist() == [1, 0, 0, 2]


# The whole


@pytest.fixture
def worker(device: EmulatedDevice, small: Avatar) -> Iterator[Worker]:
    worker = Worker(device, 2, small.width, small.height)
    yield worker
    worker.close()


def together(
    worker: Worker, pairs: list[tuple[GpuSession, Session]], active: tuple[int, ...]
) -> dict[int, tuple[Frame, Frame]]:
    """One tick of these pairs; the frames of both, which must be the same."""
    results = worker.tick([pairs[k][0] for k in active])
    out = {}
    for k in active:
        got, want = frame_of(results[pairs[k][0].slot]), pairs[k][1].step()
        np.testing.assert_allclose(got.motion, want.motion, atol=1e-5)
        np.testing.assert_array_equal(got.audio, want.audio)
        assert (got.index, got.speech_index, got.speaking) == (want.index, want.speech_index, want.speaking)
        assert psnr(got.image, kernels.rgb_to_i420(want.image)) > 45
        out[k] = got, want
    return out


def test_a_session_on_the_device_is_the_session_on_the_cpu(worker: Worker, small: Avatar) -> None:
    """Two people at once who begin, wait, are interrupted, starve and are steered at different times; a slot used again."""
    device, sound = worker.device, sentence(0.6)
    assert isinstance(device, EmulatedDevice)
    pairs = [
        (worker.open(small, seed=seed, lookahead=2 - seed), Session(small, seed=seed, lookahead=2 - seed, renderer=Renderer(small)))
        for seed in (0, 1)
    ]  # fmt: skip
    with pytest.raises(WorkerFullError, match="all 2 slots"):
        worker.open(small)
    together(worker, pairs, (0, 1))
    for each in pairs[0]:
        each.push_audio(sound, 16000)
    for each in pairs[1]:  # not committed: it starves
        each.push_audio(sound[:3000], 16000)
    shown = [together(worker, pairs, active) for active in ((0, 1), (1,), (0, 1))]
    assert shown[0][0][0].speaking and np.abs(shown[2][0][0].motion).max() > 0.05
    assert not any(a.any() for a in worker.motion._actions), "no state was copied"
    for each in pairs[0]:
        each.clear()
        each.controls = Controls(1.4, 0.5, (0.3, -0.1), "warm", listening=True)
    for active in ((0, 1), (0,), (0, 1)):
        together(worker, pairs, active)
    pairs[0][0].close()
    assert len(worker) == 1
    pairs[0] = worker.open(small, seed=5), Session(small, seed=5, renderer=Renderer(small))
    assert pairs[0][0].slot == 0
    together(worker, pairs, (0, 1))


def test_a_person_articulates_on_the_device_as_on_the_cpu(worker: Worker, small: Avatar) -> None:
    """What film taught of one person is that slot's alone, is forgotten at a barge-in, and goes with the session."""
    rng = np.random.default_rng(4)
    weights = (0.004 * rng.standard_normal((LAGS, INPUTS, 2))).astype(np.float32)
    own = Articulation(weights, np.array([0.03, 0.02], np.float32), 0.11, base_of(diffusion.WEIGHTS))
    person, sound = replace(small, articulation=own), sentence(0.8)
    pairs = [
        (worker.open(one, seed=7), Session(one, seed=7, renderer=Renderer(one))) for one in (person, small)
    ]
    for pair in pairs:
        for each in pair:
            each.push_audio(sound, 16000)
    shown = [together(worker, pairs, (0, 1)) for _ in range(6)]
    apart = [np.abs(frames[0][0].motion - frames[1][0].motion).max() for frames in shown]
    assert max(apart) > 0.02, "only one of them articulates"
    for each in pairs[0]:
        each.clear()
        each.push_audio(sound, 16000)
    for _ in range(4):
        together(worker, pairs, (0,))
    pairs[0][0].close()
    pairs[0] = worker.open(small, seed=7), Session(small, seed=7, renderer=Renderer(small))
    for each in pairs[0]:
        each.push_audio(sound, 16000)
    for _ in range(3):
        together(worker, pairs, (0,))


def test_what_is_painted_takes_a_grey_photo_s_tones_on_the_device(
    device: EmulatedDevice, small: Avatar
) -> None:
    """In one slot; in the other, and in the first one again for somebody else, colours stay."""
    texture = small.texture.copy()
    texture[..., :3] = texture[..., :3].mean(-1, keepdims=True).round()
    plate = np.repeat(small.plate.mean(-1, keepdims=True).round().astype(np.uint8), 3, -1)
    layers = tuple(
        replace(layer, texture=np.dstack([np.repeat(layer.texture[..., :3].mean(-1, keepdims=True).round().astype(np.uint8), 3, -1), layer.texture[..., 3]]))
        for layer in small.layers
    )  # fmt: skip
    grey = replace(small, texture=texture, plate=plate, layers=layers)
    worker = Worker(device, 2, small.width, small.height, video=VIDEO, steps=1)
    area = small.width * small.height

    def colours(session: GpuSession) -> int:
        """How far the frame's chroma is from grey."""
        session.push_audio(sentence(0.4), 16000)
        image = [session.step().image for _ in range(3)][-1]
        return int(np.abs(image.ravel()[area:].astype(int) - 128).max())

    sessions = [worker.open(one, seed=3) for one in (grey, small)]
    assert colours(sessions[0]) <= 1
    assert colours(sessions[1]) > 10
    sessions[0].close()
    assert colours(worker.open(small, seed=3)) > 10
    worker.close()


def test_a_tick_is_one_launch_with_one_copy_each_way(worker: Worker, small: Avatar) -> None:
    device = worker.device
    assert isinstance(device, EmulatedDevice)
    sessions = [worker.open(small, seed=k) for k in (0, 1)]
    worker.tick()
    worker.tick()
    for session in sessions:
        session.push_audio(sentence(0.4), 16000)
    worker.tick()  # speech begins: two frames are heard ahead
    counts = dict(device.counts)
    for _ in range(2):
        worker.tick()
    changed = {name: n - counts[name] for name, n in device.counts.items()}
    assert changed == {"upload": 2, "download": 2, "graph": 0, "replay": 2}
    assert device.counts["graph"] == 3, "a tick at either parity, and the hearing ahead"


def test_forgetting_after_a_pause(worker: Worker, small: Avatar, monkeypatch: pytest.MonkeyPatch) -> None:
    """After the pause that makes a slot forget, as on the CPU, without the drawing."""
    for drawn in (worker.drawing,):
        monkeypatch.setattr(drawn, "queue", lambda: None)
        monkeypatch.setattr(drawn, "convert", lambda: None)

    class Nothing:
        def render(self, motion: Any) -> Any:
            return np.zeros((2, 2, 3), np.uint8)

    session, cpu = worker.open(small, seed=3), Session(small, seed=3, renderer=Nothing())
    for each in (session, cpu):
        each.push_audio(sentence(0.3), 16000)
        each.commit()
    for k in range(34):
        if k == 30:
            for each in (session, cpu):
                each.push_audio(sentence(0.3), 16000)
        got, want = session.step(), cpu.step()
        np.testing.assert_allclose(got.motion, want.motion, atol=1e-5, err_msg=str(k))


def test_a_source_of_its_own_and_errors_of_one_session(worker: Worker, small: Avatar) -> None:
    def source() -> MotionDirector:
        return MotionDirector(0, 2)

    pair = worker.open(small, source=source), Session(small, source=source(), renderer=Renderer(small))
    other = worker.open(small, seed=2), Session(small, seed=2, renderer=Renderer(small))
    for each in (*pair, *other):
        each.push_audio(sentence(0.4), 16000)
    together(worker, [pair, other], (0, 1))
    pair[0].inner.close()
    results = worker.tick()
    assert isinstance(results[0], RuntimeError)
    got, want = frame_of(results[1]), other[1].step()
    np.testing.assert_allclose(got.motion, want.motion, atol=1e-5)
    with pytest.raises(DeviceError, match="advanced by its worker"):
        other[0].inner.step()
    worker.drawing._figure_table = None
    worker._graphs.clear()
    broken, worker.drawing._most = worker.drawing._most, (999, 0)
    failed = worker.tick([other[0]])[1]
    assert isinstance(failed, DeviceError) and "vvc_figure" in str(failed)
    worker.drawing._most = broken


def test_a_worker_has_a_number_of_slots_that_engines_have(device: EmulatedDevice) -> None:
    assert [Worker(device, n, 32, 32).batch for n in (1, 3, 8)] == [1, 4, 8]
    for n in (0, 33):
        with pytest.raises(DeviceError, match="1 to 32"):
            Worker(device, n, 32, 32)


def test_the_video_network_paints_the_same_on_the_device(device: EmulatedDevice, small: Avatar) -> None:
    """Two slots, one of which rests in between: its history stays what it was."""
    from visavis.engine.video.generator import WEIGHTS as video
    from visavis.engine.video.generator import Generator

    class Painted:
        def __init__(self, seed: int) -> None:
            self.warp = Renderer(small)
            self.generator = Generator(self.warp, seed=seed, steps=2)

        def render(self, motion: Any) -> Any:
            return self.generator.render(self.warp.render(motion), motion)

    worker = Worker(device, 2, small.width, small.height, video=video, steps=2)
    pairs = [(worker.open(small, seed=k), Session(small, seed=k, renderer=Painted(k))) for k in (3, 4)]
    plain = Session(small, seed=3, renderer=Renderer(small))
    for each in (*pairs[0], *pairs[1], plain):
        each.push_audio(sentence(0.4), 16000)
    for active in ((0, 1), (0,), (0, 1)):
        shown = together(worker, pairs, active)
        assert not np.array_equal(shown[0][0].image, kernels.rgb_to_i420(plain.step().image)), (
            "nothing was painted"
        )
    worker.close()


# Encoding


def decoded(packets: list[bytes]) -> list[np.ndarray]:
    import av

    decoder: Any = av.CodecContext.create("h264", "r")
    shown = [f for p in [*map(av.Packet, packets), None] for f in decoder.decode(p)]
    return [f.to_ndarray(format="yuv420p") for f in shown]


def planes(nv12: np.ndarray) -> np.ndarray:
    """NV12 as I420."""
    height = len(nv12) * 2 // 3
    chroma = nv12[height:].reshape(-1, 2).T
    return np.concatenate([nv12[:height].ravel(), chroma.ravel()]).reshape(nv12.shape)


@pytest.mark.parametrize("video", [False, True])
def test_nv12_is_i420_with_its_chroma_interleaved(device: EmulatedDevice, small: Avatar, video: bool) -> None:
    from visavis.engine.video.generator import WEIGHTS

    made = {}
    for layout in ("i420", "nv12"):
        worker = Worker(
            device, 1, small.width, small.height, layout=layout, video=WEIGHTS if video else None, steps=1
        )
        session = worker.open(small, seed=5)
        session.push_audio(sentence(), 16_000)
        made[layout] = [session.step().image for _ in range(1 if video else 3)]
        worker.close()
    for flat, interleaved in zip(made["i420"], made["nv12"], strict=True):
        assert not np.array_equal(flat, interleaved)
        np.testing.assert_array_equal(flat, planes(interleaved))


@pytest.mark.parametrize("layout", ["i420", "nv12"])
def test_a_session_encodes_its_frames(device: EmulatedDevice, small: Avatar, layout: Any) -> None:
    worker = Worker(device, 2, small.width, small.height, layout=layout)
    session = worker.open(small, seed=1)
    session.push_audio(sentence(), 16_000)
    assert session.codec is None
    frames = [session.step() for _ in range(5)]
    packets = [
        session.encode(f, keyframe=k == 3, bitrate=3_000_000 if k < 2 else 2_000_000)
        for k, f in enumerate(frames)
    ]
    assert session.codec in ("h264_nvenc", "libx264") and all(packets)
    shown = decoded(packets)
    assert len(shown) == len(frames)
    for frame, got in zip(frames, shown, strict=True):
        assert psnr(got, frame.image if layout == "i420" else planes(frame.image)) > 33
    other = worker.open(small, seed=2)
    assert other.codec is None, "each session has a stream of its own"
    worker.close()
