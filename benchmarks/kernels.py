"""The CPU kernels beside the best library way to do the same, in paired runs on one core: `visavis bench kernels`.

The rasteriser stands beside OpenCV 5's `triangleRasterize`, which gives each pixel its texture position and
visibility in one pass, followed by `cv2.remap`: it does less (no parts, no positions, no alpha, no smooth borders).
Times are CPU milliseconds of the calling thread, so that a busy machine does not change them much (an alternative
that uses more threads is flattered by that); medians; "x" is the median of the ratios of paired runs. The last rows are
what a tick of the product spends outside its networks, on the portrait that it ships.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from visavis import kernels


@dataclass
class Row:
    """One kernel beside one alternative; times in milliseconds."""

    kernel: str
    ours_ms: float
    alternative: str = ""
    theirs_ms: float | None = None
    ratio: float | None = None


def paired(
    ours: Callable[[], object], theirs: Callable[[], object], repeats: int
) -> tuple[float, float, float]:
    """Median milliseconds of both, run in turns, and the median of theirs / ours."""
    pairs = []
    for function in (ours, theirs):
        for _ in range(3):
            function()
    for _ in range(repeats):
        start = time.thread_time()
        ours()
        middle = time.thread_time()
        theirs()
        pairs.append(((middle - start) * 1e3, (time.thread_time() - middle) * 1e3))
    mine, other = (statistics.median(p) for p in zip(*pairs, strict=True))
    return mine, other, statistics.median(b / a for a, b in pairs)


def alone(function: Callable[[], object], repeats: int) -> float:
    """Median milliseconds."""
    for _ in range(3):
        function()
    times = []
    for _ in range(repeats):
        start = time.thread_time()
        function()
        times.append((time.thread_time() - start) * 1e3)
    return statistics.median(times)


def bent_grid(size: int, cells: int) -> tuple[NDArray[np.float32], NDArray[np.int32], NDArray[np.float32]]:
    """Texture positions (V, 2), triangles (2 cells^2, 3) and a turned, bent pose (V, 3) that covers about 65 % of size^2."""
    y, x = np.mgrid[0 : cells + 1, 0 : cells + 1] * (size / cells)
    uv = np.stack([x, y], -1).reshape(-1, 2).astype(np.float32)
    i = np.arange((cells + 1) ** 2, dtype=np.int32).reshape(cells + 1, cells + 1)
    a, b, c, d = i[:-1, :-1], i[:-1, 1:], i[1:, :-1], i[1:, 1:]
    triangles = np.stack([np.stack([a, b, c], -1), np.stack([b, d, c], -1)], 2).reshape(-1, 3)
    turn = np.array([[np.cos(0.1), -np.sin(0.1)], [np.sin(0.1), np.cos(0.1)]])
    xy = (uv - size / 2) * np.sqrt(0.65) @ turn.T + size / 2
    depth = 0.6 + 0.02 * np.sin(uv[:, :1] / 40)
    return uv, np.ascontiguousarray(triangles), np.concatenate([xy, depth], 1).astype(np.float32)


def opencv_frame(
    triangles: NDArray[np.int32],
    uv: NDArray[np.float32],
    vertices: NDArray[np.float32],
    texture: NDArray[np.uint8],
    plate: NDArray[np.uint8],
    flag: int,
) -> Callable[[], NDArray[np.uint8]] | None:
    """The textured mesh over the plate by OpenCV's software rasteriser; None where OpenCV is older than 5."""
    if not hasattr(cv2, "triangleRasterize"):
        return None
    size = len(plate)
    field_of_view = 2 * np.arctan(0.5)  # the focal length is then the picture's height
    depth = vertices[:, 2]
    x, y = (vertices[:, 0] - size / 2) * depth / size, -(vertices[:, 1] - size / 2) * depth / size
    points = np.stack([x, y, -depth], 1).astype(np.float32)
    # As colours: texture position as cv2.remap counts it, and 1 where something is drawn.
    colors = np.concatenate([uv - 0.5, np.ones((len(uv), 1))], 1).astype(np.float32)
    settings = cv2.TriangleRasterizeSettings()
    settings.setShadingType(cv2.RASTERIZE_SHADING_SHADED)
    settings.setCullingMode(cv2.RASTERIZE_CULLING_NONE)
    drawn, nearest = np.empty((size, size, 3), np.float32), np.empty((size, size), np.float32)
    camera = np.eye(4, dtype=np.float32)
    rgb = np.ascontiguousarray(texture[..., :3])
    nothing, half = np.zeros(1), np.full(1, 0.5)

    def run() -> NDArray[np.uint8]:
        drawn.fill(0)
        nearest.fill(10)
        cv2.triangleRasterize(
            points, triangles, colors, drawn, nearest, camera, field_of_view, 0.1, 10.0, settings
        )
        u, v, covered = cv2.split(drawn)
        out = np.asarray(cv2.remap(rgb, u, v, flag, None, cv2.BORDER_REPLICATE), np.uint8)
        cv2.copyTo(plate, cv2.inRange(covered, nothing, half), out)
        return out

    return run


def raster_rows(size: int, repeats: int) -> list[Row]:
    rng = np.random.default_rng(0)
    texture = rng.integers(0, 256, (size, size, 4), dtype=np.uint8)
    texture[..., 3] = 255
    uv, triangles, vertices = bent_grid(size, 67)
    attr = np.concatenate([uv, vertices[:, 2:]], 1)
    mesh = kernels.Mesh(triangles, uv, np.ones(len(triangles), np.uint8), attr, texture)
    target = kernels.Target(size, size)
    plate = np.full((size, size, 3), 90, np.uint8)

    def frame(filter: str) -> Callable[[], None]:
        def run() -> None:
            target.begin(plate)
            target.draw(mesh, vertices, filter=filter)  # type: ignore[arg-type]

        return run

    frame("bicubic")()
    covered = float((target.coverage > 0).mean())
    label = f"frame {size}x{size}, {len(triangles)} triangles, {covered:.0%} covered"
    result = []
    for name, flag in (("bicubic", cv2.INTER_CUBIC), ("bilinear", cv2.INTER_LINEAR)):
        theirs = opencv_frame(triangles, uv, vertices, texture, plate, flag)
        if theirs is None:
            result.append(Row(f"{label}, {name}", alone(frame(name), repeats)))
            continue
        alternative = f"cv2.triangleRasterize, remap {name}"
        result.append(Row(f"{label}, {name}", *_with(alternative, frame(name), theirs, repeats)))
    for name in kernels.available_isas()[1:]:
        kernels.use_isa(name)
        result.append(Row(f"{label}, bicubic, {name}", alone(frame("bicubic"), max(5, repeats // 4))))
    kernels.use_isa()
    return result


def _with(
    name: str, ours: Callable[[], object], theirs: Callable[[], object], repeats: int
) -> tuple[float, str, float, float]:
    mine, other, ratio = paired(ours, theirs, repeats)
    return mine, name, other, ratio


def color_rows(size: int, repeats: int) -> list[Row]:
    import av

    coarse = np.random.default_rng(0).integers(0, 256, (9, 9, 3), dtype=np.uint8)
    rgb = cv2.resize(coarse, (size, size)).astype(np.uint8)
    out = np.empty((size * 3 // 2, size), np.uint8)

    def ours() -> object:
        return kernels.rgb_to_i420(rgb, out)

    def opencv() -> object:
        return cv2.cvtColor(rgb, cv2.COLOR_RGB2YUV_I420, out)

    picture = av.VideoFrame.from_ndarray(rgb, format="rgb24")

    def swscale() -> object:
        return picture.reformat(format="yuv420p")

    base: NDArray[np.uint8] = rgb.copy()
    patch: NDArray[np.uint8] = np.ascontiguousarray(rgb[::2, ::2])
    mask = np.ascontiguousarray(np.arange(patch[..., 0].size, dtype=np.uint8).reshape(patch.shape[:2]))
    alpha = np.repeat(mask[..., None], 3, 2).astype(np.float32) / 255
    view = base[: size // 2, : size // 2]

    def numpy_blend() -> None:
        view[...] = (view + (patch - view.astype(np.float32)) * alpha + 0.5).astype(np.uint8)

    def opencv_blend() -> None:
        view[...] = cv2.blendLinear(patch, np.ascontiguousarray(view), weight, rest)

    weight = np.ascontiguousarray(alpha[..., 0])
    rest = 1 - weight

    def our_blend() -> None:
        kernels.blend(base, patch, mask, 0, 0)

    shape = f"{size}x{size}"
    half = f"{size // 2}x{size // 2}"
    return [
        Row(f"rgb_to_i420 {shape}", *_with("cv2.cvtColor", ours, opencv, repeats)),
        Row(f"rgb_to_i420 {shape}", *_with("swscale (PyAV reformat)", ours, swscale, repeats)),
        Row(f"blend {half}", *_with("numpy", our_blend, numpy_blend, repeats)),
        Row(f"blend {half}", *_with("cv2.blendLinear", our_blend, opencv_blend, repeats)),
    ]


def paste_rows(size: int, repeats: int) -> list[Row]:
    """The video network's square put back into the frame and the frame converted: by us, and a plain blend, which blurs, by OpenCV in steps."""
    from visavis.engine.video.crop import CROP, RAMP, CropTransform, crop

    rng = np.random.default_rng(0)

    def smooth(side: int) -> NDArray[np.uint8]:
        coarse = rng.integers(0, 256, (17, 17, 3), dtype=np.uint8)
        return np.asarray(cv2.resize(coarse, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)

    frame, colour = smooth(size), smooth(CROP)
    scale = 0.56 * 512 / size  # as a portrait has it
    at = CROP / 2 - scale * size / 2
    under = crop(frame, CropTransform(scale, at, at))
    half = 0.5 * (scale - 1)
    matrix = np.array([[scale, 0, at + half], [0, scale, at + half]])
    window = 255 * np.outer(RAMP, RAMP)
    y, x = np.mgrid[0:CROP, 0:CROP] - CROP / 2
    flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
    out = np.empty((size * 3 // 2, size), np.uint8)
    rows = []
    for name, mask in (
        ("mouth and eyes", (np.hypot(x, y - 30) < 40).astype(np.float32)),
        ("everywhere", np.ones((CROP, CROP), np.float32)),
    ):

        def ours(mask: NDArray[np.float32] = mask) -> object:
            return kernels.composite(frame, kernels.Square(colour, under, mask, RAMP, (scale, at, at)), out)

        def opencv(mask: NDArray[np.float32] = mask) -> object:
            weight = np.rint(mask * window).astype(np.uint8)
            over = cv2.warpAffine(colour, matrix, (size, size), flags=flags, borderMode=cv2.BORDER_REPLICATE)
            share = cv2.warpAffine(weight, matrix, (size, size), flags=flags)
            shares = cv2.merge([share, share, share])
            kept = cv2.multiply(frame, cv2.bitwise_not(shares), scale=1 / 255)
            mixed = cv2.add(kept, cv2.multiply(over, shares, scale=1 / 255))
            return cv2.cvtColor(mixed, cv2.COLOR_RGB2YUV_I420, out)

        label = f"paste {CROP}x{CROP} ({name}) and I420 {size}x{size}"
        rows.append(Row(label, *_with("cv2.warpAffine, multiply, cvtColor", ours, opencv, repeats)))
    return rows


def feature_rows(size: int, repeats: int) -> list[Row]:
    """What networks are given: features of a frame of sound, the square around the face of a drawn frame."""
    from visavis.engine.audio import mel
    from visavis.engine.video.crop import CROP, CropTransform, crop, cut, quantised_position

    rng = np.random.default_rng(0)
    sound = rng.normal(0, 0.1, mel.WINDOW + 3 * mel.HOP).astype(np.float32)
    filters, window = mel.mel_filters(), mel.TABLES.window

    def ours() -> object:
        return kernels.log_mel(mel.TABLES, sound)

    def by_numpy() -> object:
        windows = np.lib.stride_tricks.sliding_window_view(sound, mel.WINDOW)[:: mel.HOP] * window
        spectrum = np.fft.rfft(windows, mel.N_FFT)
        power = (spectrum.real**2 + spectrum.imag**2).astype(np.float32)
        return np.log(power @ filters * np.float32(mel.TABLES.scale / mel.FLOOR) + np.float32(1))

    rows = [Row("log-mel of 40 ms", *_with("numpy", ours, by_numpy, repeats))]
    try:
        import torch
    except ImportError:
        pass
    else:
        torch.set_num_threads(1)
        bank, hann, samples = (torch.from_numpy(a) for a in (filters.T.copy(), window, sound))

        def by_torch() -> object:
            with torch.inference_mode():
                windows = torch.nn.functional.pad(
                    samples.unfold(0, mel.WINDOW, mel.HOP) * hann, (0, mel.N_FFT - mel.WINDOW)
                )
                power = torch.fft.rfft(windows).abs().square()
                return torch.log1p(bank @ power.T * (mel.TABLES.scale / mel.FLOOR))

        rows.append(Row("log-mel of 40 ms", *_with("torch", ours, by_torch, repeats)))
    try:
        import librosa
    except ImportError:
        pass
    else:
        padded = np.pad(sound, (0, mel.N_FFT - mel.WINDOW))

        def by_librosa() -> object:
            power = librosa.feature.melspectrogram(
                y=padded, sr=16_000, n_mels=mel.N_MELS, n_fft=mel.N_FFT, hop_length=mel.HOP, win_length=mel.WINDOW,
                window=window, center=False,
            )  # fmt: skip
            return np.log1p(power * (mel.TABLES.scale / mel.FLOOR))

        rows.append(Row("log-mel of 40 ms", *_with("librosa", ours, by_librosa, repeats)))

    coarse = rng.integers(0, 256, (9, 9, 4), dtype=np.uint8)
    frame = np.asarray(cv2.resize(coarse, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)
    target = kernels.Target(size, size)
    target.rgb[:], target.coverage[:] = frame[..., :3], frame[..., 3]
    target.part[:] = 1
    target.position[:] = rng.normal(0, 0.05, (size, size, 3))
    for scale in (0.99, 0.56):
        where = CropTransform(scale, CROP / 2 - scale * size / 2 + 0.3, CROP / 2 - scale * size / 2 - 0.4)

        def our_cut(where: CropTransform = where) -> object:
            return cut(target, where)

        def opencv_cut(where: CropTransform = where) -> object:
            part = crop(target.part, where, nearest=True)
            position = quantised_position(crop(target.position, where, nearest=True), part)
            return crop(target.rgb, where), crop(target.coverage, where), part, position

        label = f"face crop {CROP}x{CROP} of {size}x{size}, scale {scale}"
        rows.append(Row(label, *_with("cv2.resize, warpAffine, numpy", our_cut, opencv_cut, repeats)))
    return rows


def step_rows(repeats: int) -> list[Row]:
    """Sampler and ring, of the sizes that a video network of 256 px and a motion network of 4 layers have."""
    rng = np.random.default_rng(0)
    n = 3 * 256 * 256
    x, v, free = (rng.standard_normal((1, n), dtype=np.float32) for _ in range(3))
    seeds, frames = np.array([7], np.uint64), np.array([3], np.uint32)

    def our_noise() -> object:
        return kernels.noise(n, 7, 3)

    def numpy_noise() -> object:
        return rng.standard_normal(n, dtype=np.float32)

    def our_step() -> None:
        kernels.sampler_step(
            "euler", x, v, dt=0.25, sigma=0.1, guidance=1.5, free=free, seeds=seeds, frames=frames
        )

    def numpy_step() -> None:
        guided = free + np.float32(1.5) * (v - free)
        x[...] = x + np.float32(0.25) * guided + np.float32(0.1) * rng.standard_normal((1, n), np.float32)

    planes, slots, sink, window, width = 8, 8, 4, 64, 512
    cache = np.zeros((planes, slots, sink + window, width), np.float32)
    positions, written = np.zeros((slots, sink + window), np.int32), np.zeros(slots, np.int64)
    fresh = rng.standard_normal((planes, slots, 1, width), dtype=np.float32)
    # Slots began at different times; one of them waits.
    begun = rng.integers(0, 500, slots)
    mask = np.ones(slots, np.uint8)
    mask[3] = 0
    running = np.flatnonzero(mask)

    def our_ring() -> None:
        kernels.kv_ring(fresh, cache, positions, written, sink_rows=sink, mask=mask)

    def numpy_ring() -> None:
        cache[:, running, sink + begun[running] % window] = fresh[:, running, 0]
        begun[running] += 1
        total = begun[running, None]
        age = (total - 1 - np.arange(window)) % window
        filled = np.minimum(total, window)
        positions[running, :sink] = np.arange(sink)
        positions[running, sink:] = np.where(age < filled, sink + filled - 1 - age, -1)

    return [
        Row(f"noise, {n} numbers", *_with("numpy (Ziggurat)", our_noise, numpy_noise, repeats)),
        Row(f"guided sampler step with noise, {n}", *_with("numpy", our_step, numpy_step, repeats)),
        Row(
            f"key/value ring, {planes} planes, {slots} slots, {window} x {width}",
            *_with("numpy", our_ring, numpy_ring, repeats),
        ),
    ]


def tick_rows(size: int, repeats: int) -> list[Row]:
    """What a tick costs outside the networks: the shipped portrait, moved as in speech."""
    from visavis import engine
    from visavis.engine.audio.mel import LogMel
    from visavis.engine.enroll import enroll
    from visavis.engine.motion.channels import zero_motion
    from visavis.engine.video.crop import CROP, RAMP, FaceCrop, cut
    from visavis.engine.video.figure import Figure
    from visavis.engine.video.renderer import Renderer

    avatar = enroll(Path(str(engine.__file__)).parent / "assets" / "astronaut.png", size=size)
    renderer = Renderer(avatar)
    mel = LogMel()
    rng = np.random.default_rng(0)
    sound = rng.normal(0, 0.1, 640).astype(np.float32)
    motion = zero_motion() + rng.normal(0, 0.02, len(zero_motion())).astype(np.float32)
    image = renderer.render(motion)
    out = np.empty((image.shape[0] * 3 // 2, image.shape[1]), np.uint8)

    figure = Figure.of(avatar)

    def bones() -> None:
        figure.units(motion)
        figure.transforms(motion)

    def whole() -> None:
        mel.push(sound)
        kernels.rgb_to_i420(renderer.render(motion), out)

    face = FaceCrop(avatar)
    mask = np.zeros((CROP, CROP), np.float32)
    mask[100:200, 80:180] = 1

    def painted() -> None:
        mel.push(sound)
        frame, where = renderer.render(motion), face.transform(motion)
        colour, *_ = cut(renderer.target, where)
        square = kernels.Square(255 - colour, colour, mask, RAMP, (where.scale, where.x0, where.y0))
        kernels.composite(frame, square, out)

    shape = f"{image.shape[1]}x{image.shape[0]}"
    return [
        Row("tick: log-mel of 40 ms", alone(lambda: mel.push(sound), repeats)),
        Row("tick: units and bones of the figure (numpy)", alone(bones, repeats)),
        Row(f"tick: pose and draw {shape}", alone(lambda: renderer.render(motion), repeats)),
        Row(f"tick: all without networks {shape}", alone(whole, repeats)),
        Row(f"tick: the same with face crop and paste {shape}", alone(painted, repeats)),
    ]


def pose_rows(repeats: int) -> list[Row]:
    rng = np.random.default_rng(0)
    v, k, j = 8000, 60, 8
    rest = rng.uniform(-0.2, 0.2, (v, 3)).astype(np.float32)
    basis = (rng.standard_normal((k, v, 3)) * 0.01).astype(np.float16)
    weights = rng.random((v, j)).astype(np.float32)
    weights /= weights.sum(1, keepdims=True)
    joints = np.tile(np.eye(3, 4, dtype=np.float32), (j, 1, 1))
    joints[:, 2, 3] = 1
    coefficients = rng.standard_normal(k).astype(np.float32)
    screen = np.empty((v, 3), np.float32)
    camera = (900.0, 900.0, 256.0, 256.0)
    flat = np.ascontiguousarray(basis.astype(np.float32).reshape(k, -1))
    joint_columns = joints.reshape(j, 12)

    def by_numpy() -> NDArray[np.float32]:
        shaped = (rest.ravel() + coefficients @ flat).reshape(v, 3)
        blended = (weights @ joint_columns).reshape(v, 3, 4)
        p = (blended[:, :, :3] @ shaped[:, :, None])[:, :, 0] + blended[:, :, 3]
        p[:, :2] *= (900.0 / p[:, 2])[:, None]
        p[:, :2] += 256.0
        return p

    # As a face is: each shape moves a twentieth of the vertices, in runs.
    local = np.zeros_like(basis)
    for shape in local:
        start = int(rng.integers(0, v - v // 20))
        shape[start : start + v // 20] = 0.01
    rows = []
    for name, rig in (
        ("dense", kernels.PoseRig(rest, basis, weights)),
        ("local", kernels.PoseRig(rest, local, weights)),
    ):

        def ours(rig: kernels.PoseRig = rig) -> object:
            return rig.pose(coefficients, joints, camera, screen)

        rows.append(
            Row(f"pose {v} vertices, {k} {name} shapes, {j} joints", *_with("numpy", ours, by_numpy, repeats))
        )
    return rows


def main(argv: Sequence[str] | None = None) -> int:
    """Prints a table, then one line of JSON."""
    parser = argparse.ArgumentParser(
        prog="visavis bench kernels", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument(
        "--size", type=int, default=512, metavar="N", help="side of the frame in pixels (512)"
    )
    parser.add_argument("--repeats", type=int, default=100, metavar="N", help="paired runs a row (100)")
    args = parser.parse_args(argv)
    if args.size < 16 or args.size % 4 or args.size > 4096 or args.repeats < 1:
        parser.error("--size must be a multiple of 4 from 16 to 4096, --repeats at least 1")
    threads = cv2.getNumThreads()
    cv2.setNumThreads(1)
    try:
        rows = raster_rows(args.size, args.repeats)
        rows += color_rows(args.size, args.repeats)
        rows += pose_rows(args.repeats)
        rows += paste_rows(args.size, args.repeats)
        rows += feature_rows(args.size, args.repeats)
        rows += step_rows(args.repeats)
        rows += tick_rows(args.size, args.repeats)
    finally:
        cv2.setNumThreads(threads)
    print(f"instruction set: {kernels.isa()}; one thread; CPU ms, median of {args.repeats} paired runs\n")
    print(f"{'kernel':<62} {'ms':>8}   {'alternative':<40} {'ms':>8} {'x':>6}")
    for row in rows:
        other = "" if row.theirs_ms is None else f"{row.theirs_ms:8.3f} {row.ratio:6.2f}"
        print(f"{row.kernel:<62} {row.ours_ms:8.3f}   {row.alternative:<40} {other}")
    print(json.dumps({"benchmark": "kernels", "isa": kernels.isa(), "rows": [asdict(row) for row in rows]}))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
