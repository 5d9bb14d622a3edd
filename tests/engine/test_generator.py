"""The video network in the product: what it may change, what it remembers, and sessions that share a batch."""

from __future__ import annotations

import numpy as np
import pytest
from visavis.engine.avatar import Avatar
from visavis.engine.motion.channels import INDEX, zero_motion
from visavis.engine.runtime import load
from visavis.engine.session import Session
from visavis.engine.video import generator as module
from visavis.engine.video.crop import CROP, MOUTH, WHOLE, Area
from visavis.engine.video.generator import WEIGHTS, Generator, affordable_steps, files, generator_for
from visavis.engine.video.renderer import Renderer


def moved(**channels: float) -> np.ndarray:
    motion = zero_motion()
    for name, value in channels.items():
        motion[INDEX[name.replace("_", ".")]] += value
    return motion


SPEECH = [moved(jawOpen=v, head_y=h) for v, h in ((0.0, 0.0), (0.3, 0.05), (0.6, 0.1), (0.2, 0.0))]


def frames_of(generator: Generator, warp: Renderer, motions: list[np.ndarray]) -> list[np.ndarray]:
    return [generator.render(warp.render(motion), motion) for motion in motions]


@pytest.fixture(scope="module")
def warp(avatar: Avatar) -> Renderer:
    return Renderer(avatar)


@pytest.fixture(scope="module")
def generator(warp: Renderer) -> Generator:
    return Generator(warp, steps=2, threads=1)


def test_zero_motion_is_still_the_photo(generator, warp, photo_as_framed):
    generator.reset()
    frame = frames_of(generator, warp, [zero_motion()] * 5)[-1]
    error = ((frame.astype(float) - photo_as_framed) ** 2).mean()
    assert 10 * np.log10(255**2 / error) > 38


def test_it_paints_the_open_mouth_and_leaves_the_rest(generator, warp):
    generator.reset()
    motion = moved(jawOpen=0.5)
    plain = warp.render(motion)
    mouth = np.isin(warp.target.part, (5, 6, 7))
    frame = generator.render(plain.copy(), motion)
    change = np.abs(frame.astype(int) - plain).max(2)
    where = generator._face.transform(motion)
    x0, y0, x1, y1 = where.box(512, 512)
    outside = np.ones((512, 512), bool)
    outside[y0:y1, x0:x1] = False
    assert change[mouth].mean() > 2  # of a sharp photo's mouth with teeth of its own it changes little
    assert change[outside].max() == 0
    assert change[~mouth].mean() < 0.2 * change[mouth].mean()


def test_the_same_frames_give_the_same_pictures_and_reset_forgets(avatar, generator, warp):
    generator.reset()
    first = frames_of(generator, warp, SPEECH)
    again = frames_of(Generator(warp, steps=2, threads=1), warp, SPEECH)
    generator.reset()
    reset = frames_of(generator, warp, SPEECH)
    for a, b, c in zip(first, again, reset, strict=True):
        assert (a == b).all() and (a == c).all()
    carried = frames_of(generator, warp, SPEECH[:1])[0]  # without a reset the frames before count
    assert (carried != first[0]).any()


def test_state_does_not_grow(generator, warp):
    generator.reset()
    sizes = set()
    for motion in SPEECH:
        frames_of(generator, warp, [motion])
        state = generator.state
        assert state.previous is not None
        sizes.add((state.ring.nbytes, state.previous.nbytes, state.noise.nbytes))
    assert len(sizes) == 1


def test_sessions_of_a_batch_are_as_if_alone_and_a_masked_one_stands_still(generator, warp):
    generator.reset()
    cut = []
    for motion in SPEECH[1:3]:
        warp.render(motion)
        cut.append(generator.conditions(motion))
    alone_frame, alone_step = (load(WEIGHTS / f"video_{name}.onnx", batch=1) for name in ("frame", "step"))
    frame, step = (load(WEIGHTS / f"video_{name}.onnx") for name in ("frame", "step"))
    rng = np.random.default_rng(0)
    ring = np.repeat(generator._sink[:, :, None], frame.inputs["ring"][2], 2)
    previous = rng.random((2, 3, CROP, CROP), np.float32)
    noise = rng.standard_normal((2, 3, CROP, CROP), np.float32)

    def run(frame, step, rows, active):
        n = len(rows)
        feed = {
            name: np.concatenate([getattr(cut[r], name) for r in rows])
            for name in ("warp", "part", "coverage", "position")
        }
        on = np.array(active, np.float32)
        seen = frame({**feed, "previous": previous[rows], "sink": generator._sink.repeat(n, 0),
                      "ring": ring.repeat(n, 0), "active": on})  # fmt: skip
        made = step({"features": seen["features"], "picture": seen["picture"], "noisy": noise[rows],
                     "t": np.zeros(n, np.float32), "next_t": np.ones(n, np.float32),
                     "previous": previous[rows], "active": on})  # fmt: skip
        return seen["next_ring"], made["next_previous"], made["mask"]

    both = run(frame, step, [0, 1], [1, 1])
    for row in (0, 1):
        for one, batched in zip(run(alone_frame, alone_step, [row], [1]), both, strict=True):
            np.testing.assert_allclose(one[0], batched[row], atol=2e-3)
    ring_after, previous_after, _ = run(frame, step, [0, 1], [1, 0])
    assert (ring_after[1] == ring[0]).all() and (previous_after[1] == previous[1]).all()
    np.testing.assert_allclose(ring_after[0], both[0][0], atol=1e-5)


def test_a_session_uses_it_unless_told_not_to(avatar):
    speech = (0.3 * np.sin(np.arange(16000) * 0.06) * (np.arange(16000) % 4000 < 2500)).astype(np.float32)
    images = []
    for steps in (0, 1):
        with Session(avatar, generator_steps=steps) as session:
            session.push_audio(speech, 16000)
            session.commit()
            images.append([frame.image for frame in session.frames(12)])
    assert any((a != b).any() for a, b in zip(*images, strict=True))


def test_steps_are_what_the_machine_affords(warp, monkeypatch):
    assert generator_for(warp, steps=0) is None
    assert affordable_steps(1, budget_s=0.0) == 0
    with pytest.raises(ValueError, match="steps is 99"):
        Generator(warp, steps=99)
    monkeypatch.setattr(module, "_costs", {3: (0.004, 0.001)})
    assert [affordable_steps(3, budget_s=budget) for budget in (0.016, 0.0045)] == [1, 0]
    made = generator_for(warp, steps=2)
    assert made is not None and made.area == MOUTH and made.steps == 2


@pytest.mark.parametrize(
    "one, two, expected",
    [((0.003, 0.001), (0.002, 0.001), (1, 1)), ((0.009, 0.002), (0.005, 0.001), (1, 2)), ((0.03, 0.002), (0.02, 0.002), (0, 2))],
)  # fmt: skip
def test_a_call_takes_a_second_thread_only_where_one_is_not_enough(monkeypatch, one, two, expected):
    monkeypatch.setattr(module, "_costs", {1: one, 2: two})
    monkeypatch.setattr(module, "default_threads", lambda: 2)
    module.live_plan.cache_clear()
    try:
        assert module.live_plan() == expected
    finally:
        module.live_plan.cache_clear()


def test_a_call_s_frames_do_not_depend_on_where_positions_are_told(avatar):
    """What a session makes, positions about the mouth alone or nowhere, against a renderer that tells them everywhere."""
    motions = [moved(jawOpen=0.1 * k, head_y=0.02 * k, mouthSmileLeft=0.05 * k) for k in range(6)]
    made = []
    for everywhere in (False, True):
        warp = Renderer(avatar)
        generator = generator_for(warp, steps=1)
        assert generator is not None and warp.positions is not None
        if everywhere:
            warp.positions = None
        made.append([generator.render(warp.render(motion), motion) for motion in motions])
        none = Renderer(avatar)
        generator_for(none, steps=0)
        if everywhere:
            none.positions = None
        made[-1] += [none.render(motion) for motion in motions]
        assert everywhere or not none.target.position.any()
    for told, all_told in zip(*made, strict=True):
        np.testing.assert_array_equal(told, all_told)


def test_the_mouth_alone_is_painted_as_in_the_whole_face_and_nothing_else_is(warp, generator):
    alone = Generator(warp, steps=1, threads=1, area=MOUTH)
    motion = moved(jawOpen=0.5, eyeBlinkLeft=0.7)
    plain = warp.render(motion)
    mouth = np.isin(warp.target.part, (5, 6, 7))
    frame = alone.render(plain.copy(), motion)
    change = np.abs(frame.astype(int) - plain).max(2)
    where = alone._face.transform(motion)
    left, top = ((edge - at) / where.scale for edge, at in ((MOUTH.left, where.x0), (MOUTH.top, where.y0)))
    right, bottom = left + MOUTH.width / where.scale, top + MOUTH.height / where.scale
    rows, columns = np.mgrid[:512, :512] + 0.5
    outside = (columns < left - 1) | (columns > right + 1) | (rows < top - 1) | (rows > bottom + 1)
    assert not change[outside].any() and change[mouth].mean() > 2
    again = frames_of(alone, warp, SPEECH)
    alone.reset()
    assert alone.state.noise.shape == (1, 3, MOUTH.height, MOUTH.width)
    fresh = frames_of(alone, warp, SPEECH)
    assert any((a != b).any() for a, b in zip(again, fresh, strict=True)), (
        "it remembers frames until it is reset"
    )


def test_the_mouth_of_every_pose_lies_in_its_area(warp):
    face = Generator(warp, steps=1, threads=1, area=MOUTH)._face
    for motion in (
        moved(),
        moved(jawOpen=1.0),
        moved(jawOpen=0.5, head_y=0.3),
        moved(mouthSmileLeft=1.0, mouthSmileRight=1.0, head_x=-0.2),
    ):
        warp.render(motion)
        rows, columns = np.nonzero(np.isin(warp.target.part, (2, 5, 6, 7)))
        at = face.transform(motion).points(np.stack([columns, rows], 1) + 0.5)
        assert (at > [MOUTH.left, MOUTH.top]).all()
        assert (at < [MOUTH.left + MOUTH.width, MOUTH.top + MOUTH.height]).all()


def test_an_area_fades_towards_the_rest_of_the_crop_alone():
    area = Area("corner", 0, 160, 96, 96)
    feather = area.feather()
    assert feather.shape == (96, 96) and feather.min() >= 0 and feather.max() == 1
    assert (
        feather[0].max() < 0.02
        and (feather[-1, :48] == 1).all()
        and feather[50, 0] == 1
        and feather[50, -1] < 0.02
    )
    assert (WHOLE.feather() == 1).all()


def test_the_mouths_files_hold_no_weights_of_their_own():
    for whole, mouth in zip(files(), files(MOUTH), strict=True):
        assert mouth.is_file() and mouth.stat().st_size < 0.12 * whole.stat().st_size
