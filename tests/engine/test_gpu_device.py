"""The CUDA device where there is none, the encoder's fallback; on a GPU (`pytest -m gpu`): the real thing against the CPU."""

from __future__ import annotations

import ctypes
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from sounds import sentence
from visavis import kernels
from visavis.engine.avatar import Avatar
from visavis.engine.errors import VideoError
from visavis.engine.motion.speech import WEIGHTS
from visavis.engine.runtime import load
from visavis.engine.runtime.gpu import cuda
from visavis.engine.runtime.gpu.device import DeviceError, address, call, put
from visavis.engine.runtime.gpu.encoder import Encoder
from visavis.engine.runtime.gpu.worker import Worker
from visavis.engine.session import Session
from visavis.engine.video.renderer import Renderer

WHY = cuda.missing()
gpu = pytest.mark.gpu
needs_device = pytest.mark.skipif(WHY is not None, reason=str(WHY))


def psnr(a: np.ndarray, b: np.ndarray) -> float:
    error = float(((a.astype(float) - b) ** 2).mean())
    return 10 * float(np.log10(255**2 / max(error, 1e-9)))


@pytest.mark.skipif(WHY is None, reason="there is a device")
def test_without_a_device_one_line_says_why() -> None:
    with pytest.raises(DeviceError, match=r"no CUDA device|pip install 'visavis\[gpu\]'|built without CUDA"):
        cuda.CudaDevice()


def test_the_encoder_falls_back_to_software() -> None:
    import av

    encoder = Encoder(64, 48, codecs=("h264_of_nobody", "libx264"))
    assert encoder.codec == "libx264"
    assert Encoder(64, 48).codec in ("h264_nvenc", "libx264")
    rng = np.random.default_rng(0)
    frames = [np.full((72, 64), 16 + 20 * k, np.uint8) for k in range(5)]
    decoder: Any = av.CodecContext.create("h264", "r")
    packets = [av.Packet(encoder.encode(f, keyframe=k == 3)) for k, f in enumerate(frames)]
    shown = [f for p in [*packets, None] for f in decoder.decode(p)]
    assert len(shown) == 5 and shown[3].key_frame
    assert abs(int(shown[4].to_ndarray()[10, 10]) - 96) < 4
    with pytest.raises(VideoError, match="expected"):
        encoder.encode(rng.integers(0, 255, (48, 64), dtype=np.uint8))
    with pytest.raises(VideoError, match=r"no H\.264 encoder"):
        Encoder(64, 48, codecs=("h264_of_nobody",))


@gpu
@needs_device
def test_kernels_on_the_gpu_give_the_cpus_bits() -> None:
    device = cuda.CudaDevice()
    rng = np.random.default_rng(0)
    rgb = rng.integers(0, 256, (3, 48, 64, 3), dtype=np.uint8)
    out = device.zeros((3, 72, 64), np.uint8)
    call(
        device, "vvc_rgb_to_yuv", address(device, put(device, rgb)), address(device, out), None, 3, 64, 48, 0
    )
    host = np.zeros((3, 72, 64), np.uint8)
    device.download(host, out)
    device.synchronize()
    for k in range(3):
        np.testing.assert_array_equal(host[k], kernels.rgb_to_i420(rgb[k]))
    from visavis.kernels.sampler import SamplerStep

    x = device.zeros((2, 1000), np.float32)
    seeds, frames = put(device, np.array([5, 6], np.uint64)), put(device, np.array([7, 8], np.uint32))
    pointers = {"x": x, "seeds": seeds, "frames": frames}
    step = SamplerStep(**{n: device.pointer(a) for n, a in pointers.items()}, sigma=1.0, step=2, purpose=3)
    call(device, "vvc_sampler_step", ctypes.byref(step), 2, 1000)
    noise = np.zeros((2, 1000), np.float32)
    device.download(noise, x)
    device.synchronize()
    for k in range(2):
        np.testing.assert_array_equal(noise[k], kernels.noise(1000, 5 + k, 7 + k, 2, 3))


@gpu
@needs_device
def test_an_engine_gives_the_networks_numbers(tmp_path: Path) -> None:
    device = cuda.CudaDevice(engines=tmp_path)
    engine = device.engine(WEIGHTS, 2)
    rng = np.random.default_rng(0)
    feed = {n: rng.uniform(-1, 1, shape).astype(dtype) for n, (shape, dtype) in engine.inputs.items()}
    tensors = {n: put(device, a) for n, a in feed.items()}
    tensors |= {n: device.zeros(shape, dtype) for n, (shape, dtype) in engine.outputs.items()}
    replay = device.capture(lambda: engine(tensors))
    want = load(WEIGHTS)(feed)
    for _ in range(3):  # as it is, then twice from the graph
        replay()
        device.synchronize()
        for name, value in want.items():
            got = np.zeros_like(value)
            device.download(got, tensors[name])
            device.synchronize()
            np.testing.assert_allclose(got, value, atol=0.02)


@gpu
@needs_device
def test_sessions_on_the_gpu_show_the_cpus_video(avatar: Avatar) -> None:
    worker = Worker(cuda.CudaDevice(), 4, avatar.width, avatar.height)
    pairs = [
        (worker.open(avatar, seed=k), Session(avatar, seed=k, renderer=Renderer(avatar))) for k in range(4)
    ]
    for pair in pairs:
        for session in pair:
            session.push_audio(sentence(1.0), 16000)
    for _ in range(20):
        results = worker.tick()
        for k, (_, cpu) in enumerate(pairs):
            got, want = results[k], cpu.step()
            assert not isinstance(got, BaseException)
            assert psnr(got.image, kernels.rgb_to_i420(want.image)) > 45
    worker.close()
