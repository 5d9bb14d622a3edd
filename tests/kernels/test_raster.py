"""The rasteriser against its plain reference, and what a drawing must hold whatever the mesh."""

from __future__ import annotations

import gc
import os

import numpy as np
import pytest
import raster_reference as reference
from hypothesis import given, settings
from hypothesis import strategies as st
from meshes import boundary_flags, draw, grid, mesh_of, noise, sheet, smooth, soup
from visavis import kernels
from visavis.kernels import Mesh, Target

SIZE = 32
EXAMPLES = int(os.environ.get("VISAVIS_TEST_EXAMPLES", "25"))
several = settings(max_examples=EXAMPLES, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)


def plate(rng: np.random.Generator, size: int = SIZE) -> np.ndarray:
    return rng.integers(0, 256, (size, size, 3), dtype=np.uint8)


def outputs(target: Target) -> list[np.ndarray]:
    return [a.copy() for a in (target.rgb, target.coverage, target.part, target.position)]


def compare(scene: reference.Scene, background: np.ndarray) -> None:
    target = Target(background.shape[1], background.shape[0])
    target.begin(background)
    draw(target, scene)
    frame = reference.Frame(background)
    reference.draw(frame, scene)
    np.testing.assert_allclose(target.coverage.astype(int), frame.coverage, atol=2)
    np.testing.assert_allclose(target.rgb.astype(int), frame.rgb, atol=4)
    # A fragment of alpha 127.5 +- rounding may take the label or not.
    differ = target.part != frame.part
    assert differ.mean() < 0.01
    same = ~differ
    reach = np.ptp(scene.attr) + 1
    np.testing.assert_allclose(target.position[same], frame.position[same], atol=2e-3 * reach)


@several
@given(seeds, st.booleans(), st.booleans(), st.sampled_from(["bicubic", "bilinear"]), st.booleans())
def test_triangle_soup_matches_the_reference(
    seed: int, alpha: bool, perspective: bool, filter: str, cull: bool
) -> None:
    rng = np.random.default_rng(seed)
    scene = soup(rng, int(rng.integers(1, 7)), SIZE, alpha=alpha)
    scene.perspective, scene.filter, scene.cull = perspective, filter, cull
    if rng.random() < 0.5:
        scene.brightness = rng.uniform(0, 1.5, len(scene.uv)).astype(np.float32)
    if rng.random() < 0.5:
        scene.rest_depth = rng.uniform(0.5, 2, len(scene.uv)).astype(np.float32)
    compare(scene, plate(rng))


@several
@given(seeds, st.booleans(), st.booleans())
def test_bent_sheets_with_holes_match_the_reference(seed: int, alpha: bool, hole: bool) -> None:
    rng = np.random.default_rng(seed)
    compare(
        sheet(rng, int(rng.integers(3, 6)), int(rng.integers(3, 6)), SIZE, alpha=alpha, hole=hole), plate(rng)
    )


def test_a_triangle_of_thousands_of_pixels_matches_the_reference() -> None:
    rng = np.random.default_rng(0)
    scene = soup(rng, 1, SIZE, alpha=False)
    scene.vertices[:, :2] = [[-9000, -4000.25], [12000.5, 40], [-200, 15000]]
    compare(scene, plate(rng))


def photo_scene(rng: np.random.Generator, size: int, rows: int = 7) -> reference.Scene:
    scene = sheet(rng, rows, rows, size, alpha=False, hole=True)
    scene.texture = noise(rng, size, size)
    inner = (scene.uv > 0).all(1) & (scene.uv < size).all(1)
    scene.uv[inner] += rng.uniform(-0.3, 0.3, (int(inner.sum()), 2)).astype(np.float32) * size / rows
    return scene


@several
@given(seeds, st.sampled_from(["bicubic", "bilinear"]), st.sampled_from(["flat", "projective", "affine"]))
def test_the_rest_pose_gives_back_the_photo_exactly(seed: int, filter: str, depth: str) -> None:
    rng = np.random.default_rng(seed)
    size = 64
    scene = photo_scene(rng, size)
    z = rng.uniform(0.4, 0.9, len(scene.uv)).astype(np.float32)
    if depth == "flat":
        z[:] = 0.6
    elif depth == "projective":
        scene.rest_depth = z
    else:
        scene.perspective = False
    scene.vertices = np.concatenate([scene.uv, z[:, None]], 1)
    scene.filter = filter
    target = Target(size, size)
    target.begin(np.zeros((size, size, 3), np.uint8))
    draw(target, scene)
    drawn = target.coverage == 255
    assert drawn.mean() > 0.9
    # Where ramps meet, two partly transparent fragments are rounded one after the other; elsewhere nothing is.
    np.testing.assert_allclose(target.rgb[drawn].astype(int), scene.texture[drawn][:, :3], atol=1)
    scene.edge_flags[:] = 0
    target.begin(np.zeros((size, size, 3), np.uint8))
    draw(target, scene)
    drawn = target.coverage == 255
    np.testing.assert_array_equal(target.rgb[drawn], scene.texture[drawn][:, :3])


@several
@given(seeds, st.integers(2, 9), st.integers(2, 9))
def test_every_pixel_of_a_triangulated_square_is_drawn_exactly_once(
    seed: int, rows: int, columns: int
) -> None:
    # Half-transparent triangles: a pixel drawn twice is darker, a gap lighter.
    rng = np.random.default_rng(seed)
    points, triangles = grid(rows, columns, SIZE, SIZE)
    inner = (points > 0).all(1) & (points < SIZE).all(1)
    cell = SIZE / max(rows - 1, columns - 1)
    points[inner] += rng.uniform(-0.3, 0.3, (int(inner.sum()), 2)) * cell
    if rng.random() < 0.5:  # corners and edges right on pixel centres
        points = (np.round(points * 2) / 2).astype(np.float32)
    triangles = rng.permutation(triangles)
    for t in triangles:
        t[:] = np.roll(t, rng.integers(3))[:: rng.choice([1, -1])]
    n = len(points)
    texture = np.zeros((4, 4, 4), np.uint8)
    texture[..., 3] = 100
    mesh = Mesh(triangles, np.ones((n, 2), np.float32), np.ones(len(triangles), np.uint8),
                np.zeros((n, 3), np.float32), texture)  # fmt: skip
    target = Target(SIZE, SIZE)
    target.begin(plate(rng))
    target.draw(mesh, np.concatenate([points, np.ones((n, 1), np.float32)], 1))
    assert (target.coverage == 100).all()


def square(
    size: float, flags: bool, color: tuple[int, int, int, int], offset: float
) -> tuple[Mesh, np.ndarray]:
    points, triangles = grid(2, 2, size, size)
    texture = np.tile(np.array(color, np.uint8), (8, 8, 1))
    edges = boundary_flags(triangles) if flags else None
    mesh = Mesh(triangles, np.full((4, 2), 4, np.float32), np.full(2, 9, np.uint8), np.zeros((4, 3), np.float32),
                texture, edges)  # fmt: skip
    return mesh, np.concatenate([points + offset, np.ones((4, 1))], 1).astype(np.float32)


@pytest.mark.parametrize("shift", [0.0, 0.25, 0.5, 0.75])
def test_a_boundary_ramps_down_over_the_pixel_outside_it(shift: float) -> None:
    mesh, vertices = square(8, True, (200, 100, 50, 255), 8 + shift)
    target = Target(SIZE, SIZE)
    target.begin(np.zeros((SIZE, SIZE, 3), np.uint8))
    target.draw(mesh, vertices)
    centres = np.arange(SIZE) + 0.5
    gap = np.maximum(0, np.maximum(8 + shift - centres, centres - 16 - shift))
    cover = 1 - np.hypot(*np.meshgrid(gap, gap))  # round corners
    np.testing.assert_allclose(target.coverage, np.clip(cover, 0, 1) * 255, atol=1.01)
    assert (target.part == np.where(np.floor(cover * 255 + 0.5) >= 128, 9, 0)).all()


def test_without_flags_the_edge_is_hard() -> None:
    mesh, vertices = square(8, False, (200, 100, 50, 255), 8.25)
    target = Target(SIZE, SIZE)
    target.begin(np.zeros((SIZE, SIZE, 3), np.uint8))
    target.draw(mesh, vertices)
    assert set(np.unique(target.coverage)) == {0, 255}


def test_lips_that_touch_show_no_gap() -> None:
    # Two sheets that meet at y = 16.3, both edges flagged: no trace of the plate along the seam.
    rng = np.random.default_rng(3)
    points = np.array(
        [[0, 0], [32, 0], [0, 16.3], [32, 16.3], [0, 16.3], [32, 16.3], [0, 32], [32, 32]], np.float32
    )
    triangles = np.array([[0, 1, 2], [1, 3, 2], [4, 5, 6], [5, 7, 6]], np.int32)
    texture = smooth(rng, SIZE, SIZE)
    mesh = Mesh(triangles, points, np.ones(4, np.uint8), np.zeros((8, 3), np.float32), texture,
                boundary_flags(triangles))  # fmt: skip
    target = Target(SIZE, SIZE)
    for depths in ([1] * 8, [1] * 4 + [1.1] * 4):
        target.begin(np.zeros((SIZE, SIZE, 3), np.uint8))
        target.draw(mesh, np.concatenate([points, np.array(depths, np.float32)[:, None]], 1))
        assert (target.coverage == 255).all()
        np.testing.assert_array_equal(target.rgb, texture[..., :3])


@pytest.mark.parametrize("first", [0, 1])
def test_partial_alpha_blends_nearer_over_farther_whatever_the_order(first: int) -> None:
    points, square_triangles = grid(2, 2, SIZE, SIZE)
    texture = np.zeros((8, 16, 4), np.uint8)
    texture[:, :8] = (255, 0, 0, 128)  # near
    texture[:, 8:] = (0, 255, 0, 255)  # far
    triangles = np.concatenate([square_triangles, square_triangles + 4])
    uv = np.array([[4, 4]] * 4 + [[12, 4]] * 4, np.float32)
    depth = np.repeat([1.0, 2.0], 4)
    if first:
        triangles = triangles[::-1].copy()
    mesh = Mesh(triangles, uv, np.ones(4, np.uint8), np.zeros((8, 3), np.float32), texture)
    target = Target(SIZE, SIZE)
    target.begin(np.zeros((SIZE, SIZE, 3), np.uint8))
    target.draw(mesh, np.concatenate([np.tile(points, (2, 1)), depth[:, None]], 1).astype(np.float32))
    assert (target.rgb == (128, 127, 0)).all()


def test_groups_are_painted_one_over_another_and_begin_clears() -> None:
    target = Target(SIZE, SIZE)
    target.begin(np.full((SIZE, SIZE, 3), 10, np.uint8))
    back, vertices = square(20, False, (200, 0, 0, 255), 4)
    target.draw(back, vertices)
    front, vertices = square(8, False, (0, 0, 100, 128), 8)
    target.draw(front, vertices + np.array([0, 0, 5], np.float32))  # behind, but drawn later: painter's order
    assert tuple(target.rgb[10, 10]) == (100, 0, 50)
    assert tuple(target.rgb[5, 5]) == (200, 0, 0)
    assert tuple(target.rgb[30, 30]) == (10, 10, 10)
    assert target.coverage[10, 10] == 255 and target.coverage[30, 30] == 0
    target.begin(np.full((SIZE, SIZE, 3), 20, np.uint8))
    assert (target.rgb == 20).all() and not target.coverage.any() and not target.position.any()
    assert not target.part.any()


def test_nearly_invisible_fragments_do_not_hide_what_is_behind() -> None:
    points, triangles = grid(2, 2, SIZE, SIZE)
    texture = np.zeros((8, 16, 4), np.uint8)
    texture[:, :8] = (255, 255, 255, 1)
    texture[:, 8:] = (0, 255, 0, 255)
    mesh = Mesh(np.concatenate([triangles, triangles + 4]), np.array([[4, 4]] * 4 + [[12, 4]] * 4, np.float32),
                np.array([1, 1, 2, 2], np.uint8), np.zeros((8, 3), np.float32), texture)  # fmt: skip
    target = Target(SIZE, SIZE)
    target.begin(np.zeros((SIZE, SIZE, 3), np.uint8))
    depth = np.repeat([1.0, 2.0], 4)
    target.draw(mesh, np.concatenate([np.tile(points, (2, 1)), depth[:, None]], 1).astype(np.float32))
    assert (target.rgb == (0, 255, 0)).all() and (target.part == 2).all()


bad_numbers = st.sampled_from(
    [np.nan, np.inf, -np.inf, 0.0, -1.0, 1e30, -1e30, 1e-40, 16383.9, -16383.9, 8.0, 8.0, 8.0]
)


@settings(max_examples=4 * EXAMPLES, deadline=None, derandomize=True)
@given(seeds, st.lists(bad_numbers, min_size=36, max_size=36))
def test_broken_vertices_leave_the_rest_alone(seed: int, numbers: list[float]) -> None:
    rng = np.random.default_rng(seed)
    scene = soup(rng, 6, SIZE, alpha=True, lattice=1, height=0.0)
    target = Target(SIZE, SIZE)
    background = plate(rng)
    for k in range(3):  # three good triangles are the picture; three more have broken corners
        scene.vertices[9 + 3 * k : 12 + 3 * k] = np.array(numbers[9 * k : 9 * k + 9], np.float32).reshape(
            3, 3
        )
    target.begin(background)
    draw(target, scene)
    assert np.isfinite(target.position).all()
    if not np.isfinite(scene.vertices[9:]).all(1).any():
        everything = outputs(target)
        good = soup(np.random.default_rng(seed), 6, SIZE, alpha=True, lattice=1, height=0.0)
        good.triangles, good.part = good.triangles[:3], good.part[:3]
        good.edge_flags = good.edge_flags[:3]
        target.begin(background)
        draw(target, good)
        for a, b in zip(everything, outputs(target), strict=True):
            np.testing.assert_array_equal(a, b)


@several
@given(seeds)
def test_degenerate_and_off_screen_triangles_draw_nothing(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scene = soup(rng, 4, SIZE, alpha=False)
    v = scene.vertices.reshape(4, 3, 3)
    v[0, :, :2] = v[0, 0, :2]  # a point
    v[1, 2, :2] = (v[1, 0, :2] + v[1, 1, :2]) / 2  # a line
    v[2, :, 0] += 5 * SIZE
    v[3, :, 1] -= 5 * SIZE
    background = plate(rng)
    target = Target(SIZE, SIZE)
    target.begin(background)
    draw(target, scene)
    np.testing.assert_array_equal(target.rgb, background)
    assert not target.coverage.any()


@several
@given(seeds, st.integers(2, 9))
def test_threads_and_instruction_sets_give_the_same_bits(seed: int, threads: int) -> None:
    rng = np.random.default_rng(seed)
    scene = sheet(rng, 30, 30, 96, alpha=True, hole=True)
    scene.brightness = rng.uniform(0.5, 1.2, len(scene.uv)).astype(np.float32)
    scene.filter = str(rng.choice(["bicubic", "bilinear"]))
    mesh, background = mesh_of(scene), plate(rng, 96)
    target = Target(96, 96)
    results = []
    for name in kernels.available_isas():
        kernels.use_isa(name)
        for n in (1, threads):
            target.begin(background)
            draw(target, scene, mesh, n)
            results.append(outputs(target))
    kernels.use_isa()
    for other in results[1:]:
        for a, b in zip(results[0], other, strict=True):
            np.testing.assert_array_equal(a, b)


def test_odd_sizes_stay_inside_their_rows() -> None:
    rng = np.random.default_rng(1)
    for width in range(1, 20):
        scene = sheet(rng, 3, 3, 24, alpha=True, hole=False)
        background = rng.integers(0, 256, (7, width, 3), dtype=np.uint8)
        compare(scene, background)


def test_a_target_and_a_mesh_can_go_in_any_order() -> None:
    for _ in range(50):
        mesh, vertices = square(8, True, (1, 2, 3, 255), 4)
        target = Target(SIZE, SIZE)
        target.begin(np.zeros((SIZE, SIZE, 3), np.uint8))
        target.draw(mesh, vertices, threads=2)
        rgb = target.rgb
        del target, mesh
        gc.collect()
        assert tuple(rgb[6, 6]) == (1, 2, 3)


def test_wrong_input_is_one_clear_error() -> None:
    rng = np.random.default_rng(0)
    s = soup(rng, 2, SIZE, alpha=False)
    good = dict(triangles=s.triangles, uv=s.uv, part=s.part, attr=s.attr, texture=s.texture)
    wrong: list[tuple[dict[str, object], str]] = [
        ({"triangles": s.triangles.astype(np.int64)}, "triangles: expected an array of int32"),
        ({"triangles": s.triangles + 1}, "indices must lie in 0..5"),
        ({"triangles": s.triangles - 1}, "indices must lie in 0..5"),
        ({"uv": s.uv[:, :1]}, "uv: expected shape"),
        ({"uv": s.uv * np.float32(np.nan)}, "must be finite"),
        ({"part": s.part[:1]}, "part: expected shape"),
        ({"attr": s.attr.tolist()}, "attr: expected an array of float32, got list"),
        ({"texture": s.texture[..., :3]}, "texture: expected shape"),
        ({"texture": np.zeros((0, 4, 4), np.uint8)}, "texture: sides"),
        ({"edge_flags": np.full(2, 8, np.uint8)}, "edge_flags"),
        ({"rest_depth": np.zeros(6, np.float32)}, "rest_depth"),
        ({"shade": np.zeros(5, np.float32)}, "shade"),
        ({"uv_margin": float("nan")}, "uv_margin"),
    ]
    for change, message in wrong:
        with pytest.raises(ValueError, match=message):
            Mesh(**{**good, **change})
    mesh, target = Mesh(**good), Target(SIZE, SIZE)
    with pytest.raises(ValueError, match="vertices: expected shape"):
        target.draw(mesh, s.vertices[:3])
    with pytest.raises(ValueError, match="vertices: expected an array of float32, got an array of float64"):
        target.draw(mesh, s.vertices.astype(np.float64))
    with pytest.raises(ValueError, match="filter"):
        target.draw(mesh, s.vertices, filter="nearest")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="threads"):
        target.draw(mesh, s.vertices, threads=0)
    with pytest.raises(ValueError, match="brightness"):
        target.draw(mesh, s.vertices, brightness=np.zeros(5, np.float32))
    with pytest.raises(ValueError, match="plate"):
        target.begin(np.zeros((SIZE, SIZE + 1, 3), np.uint8))
    with pytest.raises(ValueError, match="target: sides"):
        Target(0, 5)
    with pytest.raises(ValueError, match="instruction set"):
        kernels.use_isa("mmx")


@several
@given(seeds, st.booleans(), st.booleans(), st.sampled_from([1, 3]))
def test_positions_are_told_where_they_are_wanted_and_all_else_is_as_without(
    seed: int, alpha: bool, perspective: bool, threads: int
) -> None:
    rng = np.random.default_rng(seed)
    scene = soup(rng, int(rng.integers(1, 9)), SIZE, alpha=alpha)
    scene.perspective = perspective
    background, target = plate(rng), Target(SIZE, SIZE)
    target.begin(background)
    draw(target, scene, threads=threads)
    whole = outputs(target)
    x0, y0 = (int(n) for n in rng.integers(-4, SIZE, 2))
    x1, y1 = x0 + int(rng.integers(-2, SIZE)), y0 + int(rng.integers(-2, SIZE))
    target.position.fill(7)
    target.begin(background, (x0, y0, x1, y1))
    draw(target, scene, threads=threads)
    for before, now in zip(whole[:3], outputs(target)[:3], strict=True):
        np.testing.assert_array_equal(now, before)
    wanted = np.zeros((SIZE, SIZE), bool)
    wanted[max(y0, 0) : max(y1, 0), max(x0, 0) : max(x1, 0)] = True
    np.testing.assert_array_equal(target.position[wanted], whole[3][wanted])
    assert (target.position[~wanted] == 7).all(), "nothing is written elsewhere"
    target.begin(background)
    draw(target, scene, threads=threads)
    for before, now in zip(whole, outputs(target), strict=True):
        np.testing.assert_array_equal(now, before)
