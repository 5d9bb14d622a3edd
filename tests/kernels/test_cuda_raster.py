"""kernels/cuda/raster.cu, on the CPU and on a GPU with `-m gpu`: the bits of the CPU rasteriser, whatever the thread order."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass, field

import numpy as np
import raster_reference as reference
from cuda_build import SEEDS
from hypothesis import given, settings
from hypothesis import strategies as st
from launcher import Launcher
from meshes import draw, sheet, soup
from numpy.typing import NDArray
from visavis.kernels import Target

PERSPECTIVE, BICUBIC, CULL, BEGIN = 1, 2, 4, 8
RECORD = 240  # bytes
OUTPUTS = ("rgb", "coverage", "labels", "position")
few = settings(max_examples=16, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


class RasterSlot(ctypes.Structure):
    _fields_ = [
        *((n, ctypes.c_void_p) for n in ("triangles", "uv", "attr", "part", "edges", "kind")),
        *(
            (n, ctypes.c_void_p)
            for n in ("rest_depth", "shade", "texture", "vertices", "brightness", "plate")
        ),
        *((n, ctypes.c_void_p) for n in (*OUTPUTS, "scratch")),
        *((n, ctypes.c_int) for n in ("n_triangles", "tex_width", "tex_height")),
        ("uv_margin", ctypes.c_float),
    ]


def padded(texture: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Premultiplied, with two replicated texels around it."""
    t = texture.astype(np.int64)
    t[..., :3] = (t[..., :3] * t[..., 3:] * 2 + 255) // 510
    return np.pad(t.astype(np.uint8), ((2, 2), (2, 2), (0, 0)), mode="edge")


def kinds(s: reference.Scene) -> NDArray[np.uint8]:
    """Per triangle: 1 if all texels near it are opaque, 2 if all are invisible, else 0."""
    out = np.zeros(len(s.triangles), np.uint8)
    h, w = s.texture.shape[:2]
    for i, t in enumerate(s.triangles):
        x0, y0 = np.clip(np.floor(s.uv[t].min(0)) - 5, 0, (w - 1, h - 1)).astype(int)
        x1, y1 = np.clip(np.ceil(s.uv[t].max(0)) + 6, 1, (w, h)).astype(int)
        alpha = s.texture[y0:y1, x0:x1, 3]
        out[i] = 1 if (alpha == 255).all() else 2 if (alpha < 2).all() else 0
    return out


@dataclass
class Slot:
    """One slot's memory as on a device; outputs lie between guard bytes that nothing may touch."""

    scene: reference.Scene
    plate: NDArray[np.uint8]
    kind: bool
    capacity: int = 0
    memory: dict[str, NDArray] = field(default_factory=dict)
    guarded: dict[str, NDArray] = field(default_factory=dict)

    def prepare(self, cuda: Launcher, scratch: int, most: int) -> RasterSlot:
        self.capacity = (most + 3) // 4 * 4
        s = self.scene
        h, w = self.plate.shape[:2]
        arrays: dict[str, NDArray] = dict(
            triangles=s.triangles, uv=s.uv, attr=s.attr, part=s.part, edges=s.edge_flags
        )
        arrays |= dict(texture=padded(s.texture), vertices=s.vertices, plate=self.plate)
        arrays |= dict(kind=kinds(s)) if self.kind else {}
        arrays |= {
            n: v for n, v in (("rest_depth", s.rest_depth), ("brightness", s.brightness)) if v is not None
        }
        self.memory = {n: cuda.put(a) for n, a in arrays.items()}
        shapes = {"rgb": (h, w, 3), "coverage": (h, w), "labels": (h, w), "position": (h, w, 3)}
        for name, shape in shapes.items():
            dtype = np.float32 if name == "position" else np.uint8
            n = int(np.prod(shape)) * np.dtype(dtype).itemsize
            block = cuda.array((n + 64,))
            block[:] = 77
            self.guarded[name] = block
            self.memory[name] = block[32 : 32 + n].view(dtype).reshape(shape)
        block = cuda.array((scratch + 32,))
        block[:] = 77
        self.guarded["scratch"] = block
        self.memory["scratch"] = block[16:-16]
        th, tw = s.texture.shape[:2]
        pointers = {n: cuda.address(a) for n, a in self.memory.items()}
        return RasterSlot(
            **pointers, n_triangles=len(s.triangles), tex_width=tw, tex_height=th, uv_margin=2.0
        )

    def outputs(self) -> list[NDArray]:
        for name, block in self.guarded.items():
            edge = 16 if name == "scratch" else 32
            assert (block[:edge] == 77).all() and (block[-edge:] == 77).all(), f"{name}: written outside"
        # The boxes of triangles that are not there: after the records of all that there may be.
        n, block = len(self.scene.triangles), self.memory["scratch"]
        first = self.capacity * RECORD
        assert (block[first + 8 * n : first + 8 * self.capacity] == 77).all(), "more triangles than there are"
        return [self.memory[n].copy() for n in OUTPUTS]


def flags_of(s: reference.Scene) -> int:
    return PERSPECTIVE * s.perspective | BICUBIC * (s.filter == "bicubic") | CULL * s.cull


def render(
    cuda: Launcher, slots: list[Slot], mask: NDArray[np.uint8] | None, order: int
) -> list[list[NDArray]]:
    """Draws every slot's scene over its plate, then once more over that; the outputs of both, a slot each."""
    scratch_of = cuda.device.library.vvc_raster_scratch
    scratch_of.restype = ctypes.c_long
    height, width = slots[0].plate.shape[:2]
    most = max(len(s.scene.triangles) for s in slots)
    scratch = scratch_of(most, width, height)
    table = cuda.structures(RasterSlot, [s.prepare(cuda, scratch, most) for s in slots])
    running = None if mask is None else cuda.put(mask)
    cuda.shuffle(order)
    results: list[list[NDArray]] = [[] for _ in slots]
    for more in (BEGIN, 0):
        flags = flags_of(slots[0].scene) | more
        assert (
            cuda.vvc_raster(
                cuda.pointer(table), cuda.pointer(running), len(slots), most, width, height, flags
            )
            == 0
        )
        for slot, out in zip(slots, results, strict=True):
            out += slot.outputs()
    return results


def expected(slot: Slot) -> list[NDArray]:
    target = Target(slot.plate.shape[1], slot.plate.shape[0])
    target.begin(slot.plate)
    out = []
    for _ in range(2):
        draw(target, slot.scene)
        out += [a.copy() for a in (target.rgb, target.coverage, target.part, target.position)]
    return out


def check(
    cuda: Launcher, slots: list[Slot], mask: NDArray[np.uint8] | None, orders: tuple[int, ...] = SEEDS
) -> None:
    """The same bits as the CPU rasteriser in every slot that runs; the others untouched."""
    wanted = [expected(s) for s in slots]
    for order in orders:
        results = render(cuda, slots, mask, order)
        for k, (got, want) in enumerate(zip(results, wanted, strict=True)):
            for g, w in zip(got, want, strict=True):
                if mask is None or mask[k]:
                    np.testing.assert_array_equal(g, w)
                else:
                    assert (g.view(np.uint8) == 77).all()


def random_slots(seed: int, kind: str, count: int, width: int, height: int) -> list[Slot]:
    rng = np.random.default_rng(seed)
    slots = []
    perspective, filter, cull = (
        rng.random() < 0.7,
        str(rng.choice(["bicubic", "bilinear"])),
        rng.random() < 0.2,
    )
    for _ in range(count):
        alpha = bool(rng.random() < 0.6)
        size = max(width, height)
        if kind == "soup":
            scene = soup(rng, int(rng.integers(1, 9)), size, alpha=alpha, height=0.0,
                         lattice=int(rng.choice([2, 8])))  # fmt: skip
        else:
            rows, columns = rng.integers(3, 8, 2)
            scene = sheet(rng, int(rows), int(columns), size, alpha=alpha, hole=bool(rng.random() < 0.5))
        scene.perspective, scene.filter, scene.cull = bool(perspective), filter, bool(cull)
        if rng.random() < 0.5:
            scene.brightness = rng.uniform(-0.1, 1.5, len(scene.uv)).astype(np.float32)
        if rng.random() < 0.5:
            scene.rest_depth = rng.uniform(0.5, 2, len(scene.uv)).astype(np.float32)
        plate = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
        slots.append(Slot(scene, plate, kind=bool(rng.random() < 0.7)))
    return slots


@few
@given(seeds, st.sampled_from(["soup", "sheet"]), st.integers(1, 3), st.integers(1, 37), st.integers(1, 35))
def test_the_bits_of_the_cpu_rasteriser(
    cuda: Launcher, seed: int, kind: str, count: int, width: int, height: int
) -> None:
    mask = np.random.default_rng(seed + 1).integers(0, 2, count, dtype=np.uint8) if seed % 3 else None
    check(cuda, random_slots(seed, kind, count, width, height), mask)


def layered_slots() -> list[Slot]:
    """Many partly transparent triangles over each other, ramps among them."""
    slots = random_slots(5, "soup", 1, 33, 18)
    rng = np.random.default_rng(6)
    scene = soup(rng, 60, 33, alpha=True)
    scene.texture[..., 3] = rng.choice([0, 90, 200, 255], scene.texture.shape[:2])
    slots[0].scene, slots[0].kind = scene, False
    return slots


def test_many_layers(cuda: Launcher) -> None:
    check(cuda, layered_slots(), None)


def veil_slots() -> list[Slot]:
    """A half-transparent square in front of an opaque sheet with a hole and ramps all around, drawn after and before it."""
    slots = []
    for first in (False, True):
        rng = np.random.default_rng(8)
        scene = sheet(rng, 5, 6, 36, alpha=False, hole=True)
        n = len(scene.uv)
        scene.texture = np.concatenate([scene.texture, np.full((36, 30, 4), 140, np.uint8)], 1)
        square = np.array([[-5, -5], [45, -5], [-5, 45], [45, 45]])
        near = np.concatenate([square, np.full((4, 1), 0.5)], 1).astype(np.float32)
        scene.vertices = np.concatenate([scene.vertices, near])
        scene.uv = np.concatenate([scene.uv, np.full((4, 2), 50, np.float32)])
        scene.attr = np.concatenate([scene.attr, np.ones((4, 3), np.float32)])
        veil = np.array([[n, n + 1, n + 2], [n + 1, n + 3, n + 2]], np.int32)
        order = np.roll(np.arange(len(scene.triangles) + 2), 2 * first)
        scene.triangles = np.concatenate([scene.triangles, veil])[order]
        scene.part = np.concatenate([scene.part, [200, 201]]).astype(np.uint8)[order]
        scene.edge_flags = np.concatenate([scene.edge_flags, [0, 0]]).astype(np.uint8)[order]
        scene.brightness = np.linspace(0.7, 1.1, n + 4, dtype=np.float32)
        slots.append(Slot(scene, rng.integers(0, 256, (38, 40, 3), dtype=np.uint8), kind=True))
    return slots


def test_a_veil_before_ramps_and_opaque_triangles(cuda: Launcher) -> None:
    check(cuda, veil_slots(), None)


def several_bins() -> list[Slot]:
    """More triangles than a block has threads, more pixels than a bin has; one slot empty."""
    rng = np.random.default_rng(7)
    scene = sheet(rng, 14, 24, 140, alpha=True, hole=True)
    empty = sheet(rng, 3, 3, 140, alpha=False, hole=False)
    empty.triangles, empty.part, empty.edge_flags = empty.triangles[:0], empty.part[:0], empty.edge_flags[:0]
    plates = rng.integers(0, 256, (2, 20, 140, 3), dtype=np.uint8)
    return [Slot(scene, plates[0], kind=True), Slot(empty, plates[1], kind=False)]


def test_several_bins_and_batches(cuda: Launcher) -> None:
    check(cuda, several_bins(), np.ones(2, np.uint8))


def broken_slots() -> list[Slot]:
    slots = random_slots(11, "soup", 1, 24, 24)
    scene = slots[0].scene = soup(np.random.default_rng(12), 12, 24, alpha=True, height=0.0)
    scene.vertices.reshape(12, 9)[:8, :] += np.diag([np.nan, np.inf, -1e30, 1e30, -50, 16384, 0, 9000, 1])[
        :8
    ].astype(np.float32)
    return slots


def test_broken_and_far_vertices(cuda: Launcher) -> None:
    check(cuda, broken_slots(), None)


def test_the_numpy_reference(cuda: Launcher) -> None:
    slot = random_slots(3, "sheet", 1, 30, 26)[0]
    got = render(cuda, [slot], None, 0)[0]
    frame = reference.Frame(slot.plate)
    reference.draw(frame, slot.scene)
    np.testing.assert_allclose(got[0].astype(int), frame.rgb, atol=4)
    np.testing.assert_allclose(got[1].astype(int), frame.coverage, atol=2)
    assert (got[2] != frame.part).mean() < 0.01
    assert frame.coverage.any() and not (frame.coverage == 255).all()


def test_sizes_that_cannot_be_drawn_are_refused(cuda: Launcher) -> None:
    for width, height in ((0, 5), (5, 0), (8193, 5), (5, 8193)):
        assert cuda.vvc_raster(None, None, 1, 10, width, height, 0) == 1
