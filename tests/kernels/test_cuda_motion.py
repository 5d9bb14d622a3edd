"""motion.cu and figure.cu, on the CPU in shuffled thread orders and on a GPU with `-m gpu`, against what the product computes for one session."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
from cuda_build import SEEDS
from hypothesis import given, settings
from hypothesis import strategies as st
from launcher import Launcher
from numpy.typing import NDArray
from visavis.engine.motion import articulation as articulating
from visavis.engine.motion import diffusion as product
from visavis.engine.motion import lips
from visavis.engine.motion.channels import ARKIT, GAZE_SLICE, INDEX, N_CHANNELS
from visavis.engine.motion.layout import (
    EYE_LIMIT,
    FACE,
    FEATURES,
    GAZE,
    HEAD,
    LABELS,
    LIFE,
    LIFE_INDEX,
    MOODS,
    life_matrix,
)
from visavis.engine.motion.life import HEAD_LIMIT, Reflex
from visavis.engine.motion.speech import FORGET, spread
from visavis.engine.runtime.gpu import structures as s
from visavis.engine.runtime.gpu.figure import DeviceFigure
from visavis.engine.video.crop import CropTransform, place_of
from visavis.engine.video.figure import Bone, Figure, Part

several = settings(max_examples=10, deadline=None, derandomize=True)
seeds = st.integers(0, 2**32 - 1)
WINDOWS = (3, 5)


class Arrays:
    """Everything that a launch reads and writes, for `n` slots, with random contents where they matter."""

    def __init__(self, cuda: Launcher, rng: np.random.Generator, n: int) -> None:
        self.n, self.cuda = n, cuda
        self.kept: list[NDArray[Any]] = []
        self.cues = cuda.structures(s.MotionCue, n)
        self.states = cuda.structures(s.MotionState, n)

        def normal(*shape: int) -> NDArray[np.float32]:
            return rng.standard_normal(shape).astype(np.float32)

        self.held: dict[str, NDArray[Any]] = {
            "features": normal(n, FEATURES), "quiet": normal(n, FEATURES), "heard": normal(n, FEATURES),
            "labels": normal(n, LABELS), "past_face": normal(n, len(FACE)), "past_life": normal(n, len(LIFE)),
            "face": normal(n, len(FACE)), "life": 0.3 * normal(n, len(LIFE)), "arms": 0.1 * normal(n, N_CHANNELS),
            "given": normal(n, N_CHANNELS), "sides": 1 + 0.1 * normal(n, len(ARKIT)), "neutral": 0.1 * normal(n, N_CHANNELS),
            "motion": normal(n, N_CHANNELS), "gates": normal(n), "frames": rng.integers(0, 9, n).astype(np.uint32),
            "aims": np.full(n, product.REACH, np.float32), "articulations": np.zeros(n, np.uint64),
            "past_inputs": np.zeros((n, articulating.LAGS, articulating.INPUTS), np.float32),
        }  # fmt: skip
        self.held = {name: cuda.put(array) for name, array in self.held.items()}
        self.index = [cuda.put(rng.integers(0, w, n)) for w in WINDOWS]
        self.filled = [cuda.put(rng.integers(0, w, n)) for w in WINDOWS]
        self.actions = [cuda.put(np.full(n, 77, np.uint8)) for _ in range(4)]
        moods = np.zeros((len(MOODS), len(LIFE)), np.float32)
        for row, mood in zip(moods, MOODS, strict=True):
            for name, value in product.MOOD_FACES[mood].items():
                row[LIFE_INDEX[name]] = value
        kinds = np.zeros(len(LIFE), np.int32)
        kinds[product.COEFFICIENTS] |= s.COEFFICIENT
        kinds[product.BROWS] |= s.BROW
        kinds[product.RAISED] |= s.RAISED
        kinds[HEAD] |= s.HEAD
        kinds[HEAD.stop : HEAD.stop + 3] |= s.TRANSLATION
        eyes = [f"eyeLook{way}{side}" for way in ("Down", "Up", "Out", "In") for side in ("Left", "Right")]
        places = [*range(GAZE_SLICE.start, GAZE_SLICE.stop), *(INDEX[name] for name in eyes)]
        self.tables = {
            "moods": moods, "life_matrix": life_matrix(), "face_matrix": spread(np.eye(len(FACE), dtype=np.float32)),
            "aperture": lips.APERTURE, "width": lips.WIDTH, "parts": articulating.PARTS, "widens": articulating.WIDENS, "kinds": kinds, "eye_places": np.array(places, np.int32),
        }  # fmt: skip
        self.tables = {name: cuda.put(array) for name, array in self.tables.items()}

    def articulate(self, slot: int, rng: np.random.Generator) -> articulating.Articulation:
        """Let a slot's person articulate somehow, sometimes by more than is allowed."""
        shape = (articulating.LAGS, articulating.INPUTS, 2)
        scale = float(rng.choice([0.001, 0.01]))
        weights = (scale * rng.standard_normal(shape)).astype(np.float32)
        offset = (0.05 * rng.standard_normal(2)).astype(np.float32)
        one = articulating.Articulation(weights, offset, float(rng.uniform(0.05, 0.12)), "")
        self.kept.append(self.cuda.put(np.concatenate([weights.ravel(), offset])))
        self.held["articulations"][slot] = self.cuda.address(self.kept[-1])
        self.held["aims"][slot] = one.reach
        return one

    def structure(self) -> s.Motion:
        every, at = {**self.held, **self.tables}, self.cuda.address
        return s.Motion(
            cues=at(self.cues), states=at(self.states),
            **{name: at(array) for name, array in every.items()},
            index=tuple(map(at, self.index)), filled=tuple(map(at, self.filled)),
            actions=tuple(map(at, self.actions)),
            head_limit=tuple(map(float, HEAD_LIMIT)), eye_limit=tuple(map(float, EYE_LIMIT)), window=WINDOWS,
            n_features=FEATURES, n_face=len(FACE), n_life=len(LIFE), n_labels=LABELS, n_channels=N_CHANNELS,
            n_coefficients=len(ARKIT), voice=product.VOICE, closed=product.CLOSED, turn=product.TURN, forget=FORGET, head=HEAD.start,
            gaze_place=GAZE.start, lids_place=product.LIDS, breath_place=product.BREATH, share=product.FACE_SHARE,
            translation=product.TRANSLATION_LIMIT, amplitude=product.AMPLITUDE, touch=lips.TOUCH, raise_=product.RAISE,
            reach_start=product.REACH_START, reach_pace=product.REACH_PACE, most_gain=product.MOST_GAIN,
            voice_from=product.VOICE_FROM, voice_over=product.VOICE_OVER,
            closed_from=lips.HEARD[0], closed_over=lips.HEARD[1] - lips.HEARD[0],
            n_lags=articulating.LAGS, n_inputs=articulating.INPUTS, pucker=articulating.PUCKER,
            own_scale=articulating.OWN_SCALE, most=tuple(map(float, articulating.MOST)),
        )  # fmt: skip


def check_hear(cuda: Launcher, seed: int, n: int, calls: int) -> None:
    """Gate, labels, forgetting and what is to be done with states, over some calls, against the product's `Gate`."""
    for order in SEEDS:
        rng = np.random.default_rng(seed)
        cuda.shuffle(order)
        a = Arrays(cuda, rng, n)
        gates = [product.Gate(0) for _ in range(n)]
        pauses = [int(rng.choice([0, product.TURN - 1, product.TURN])) for _ in range(n)]
        for slot in range(n):
            gates[slot].value = float(rng.choice([0.0, 0.25, 1.0]))
            gates[slot].rest = int(rng.choice([0, FORGET - 1, FORGET, FORGET + 3]))
            a.states[slot] = s.MotionState(gate=gates[slot].value, rest=gates[slot].rest, pause=pauses[slot])
            a.states[slot].mouth[: len(FACE)] = rng.random(len(FACE)).tolist()
            if rng.random() < 0.5:
                a.articulate(slot, rng)
        a.held["past_inputs"][:] = rng.standard_normal(a.held["past_inputs"].shape)
        for _ in range(calls):
            more = bool(rng.integers(0, 2))
            a.held["features"][:] = rng.standard_normal((n, FEATURES))
            a.held["features"][:, product.VOICE] = rng.choice([0.0, 0.0, 0.0, 0.22, 0.31, 0.9], n)
            before = {name: array.copy() for name, array in a.held.items()}
            released = [list(state.released) for state in a.states]
            mouths = [np.array(state.mouth[: len(FACE)]) for state in a.states]
            index = [x.copy() for x in (*a.index, *a.filled)]
            flags = rng.integers(0, 128, n)
            flags = np.where(more, flags & ~s.MOVES, flags)
            mood = rng.integers(0, 3, n)
            for slot in range(n):
                a.cues[slot] = s.MotionCue(int(flags[slot]), int(mood[slot]))
            assert cuda.vvc_motion_hear(ctypes.byref(a.structure()), n, int(more)) == 0
            for slot, f in enumerate(map(int, flags)):
                hears, moves, hush = bool(f & s.HEARS), bool(f & s.MOVES), bool(f & s.HUSH)
                gate = gates[slot]
                if hush:
                    gate = gates[slot] = product.Gate(0)
                forgets = False
                if hears:
                    gate.step(float(before["features"][slot, product.VOICE]), bool(f & s.VOICED))
                    forgets = gate.rest == FORGET
                elif moves:
                    gate.value = max(0.0, gate.value - 0.5)
                if moves:
                    pauses[slot] = 0 if gate.value > 0 else min(pauses[slot] + 1, product.TURN)
                state = a.states[slot]
                np.testing.assert_allclose([state.gate, a.held["gates"][slot]], gate.value, atol=1e-6)
                assert (state.rest, state.pause) == (gate.rest, pauses[slot])
                heard = (
                    before["features"][slot]
                    if hears
                    else before["quiet"][slot]
                    if moves or hush
                    else before["heard"][slot]
                )
                np.testing.assert_array_equal(a.held["heard"][slot], heard)
                labels = before["labels"][slot]
                if moves:
                    labels = np.zeros(LABELS)
                    labels[0 if pauses[slot] < product.TURN else 1 if f & s.LISTENING else 2] = 1
                    labels[3 + mood[slot]] = 1
                np.testing.assert_array_equal(a.held["labels"][slot], labels)
                past = before["past_face"][slot]
                np.testing.assert_array_equal(a.held["past_face"][slot], 0 * past if hush else past)
                kept = np.array(released[slot], np.float32)
                kept[: len(FACE)] += mouths[slot].astype(np.float32) if hush else 0
                np.testing.assert_array_equal(list(state.released), kept)
                np.testing.assert_array_equal(
                    state.mouth[: len(FACE)], 0 * mouths[slot] if hush else mouths[slot]
                )
                inputs = before["past_inputs"][slot]
                forgotten = hush and bool(a.held["articulations"][slot])
                np.testing.assert_array_equal(
                    a.held["past_inputs"][slot], 0 * inputs if forgotten else inputs
                )
                ring = [x[slot] for x in (*a.index, *a.filled)]
                was = [x[slot] for x in index]
                assert ring == [0, was[1], 0, was[3]] if forgets or hush else ring == was
                rests = bool(f & s.TAKEN) and not hears
                carry = s.CARRY * (hears if more else rests)
                wanted = [
                    s.CLEAR if forgets else carry, carry, s.CLEAR * (forgets or hush), s.CARRY * (bool(f & s.TAKEN) and not moves)
                ]  # fmt: skip
                assert [int(x[slot]) for x in a.actions] == wanted


@several
@given(seeds, st.integers(1, 4))
def test_hear(cuda: Launcher, seed: int, n: int) -> None:
    check_hear(cuda, seed, n, 6)


def check_show(cuda: Launcher, seed: int, n: int, calls: int) -> None:
    """Controls, limits, spread and neutral face against the product's own composition."""
    for order in SEEDS:
        rng = np.random.default_rng(seed)
        cuda.shuffle(order)
        a = Arrays(cuda, rng, n)
        model = product.MotionModel.__new__(product.MotionModel)
        slots = [product._Slot(k, product.Gate(0)) for k in range(n)]
        for slot, own in enumerate(slots):
            own.sides[:] = a.held["sides"][slot]
            own.gate.value = float(rng.choice([0.0, 0.4, 1.0]))
            own.released[:] = rng.random(len(FACE))
            own.reach = float(np.float32(rng.uniform(-product.REACH_START, 2 * product.REACH)))
            a.states[slot].gate, a.states[slot].reach = own.gate.value, own.reach
            a.states[slot].released[: len(FACE)] = own.released.tolist()
            if rng.random() < 0.6:
                own.articulation = a.articulate(slot, rng)
        a.held["past_inputs"][:] = rng.random(a.held["past_inputs"].shape)
        for slot, own in enumerate(slots):
            rows = (int(a.held["frames"][slot]) - 1 - np.arange(articulating.LAGS)) % articulating.LAGS
            own.past = a.held["past_inputs"][slot][rows]
        for _ in range(calls):
            flags = [int(rng.choice([0, s.MOVES, s.MOVES, s.MOVES | s.GIVEN])) for _ in range(n)]
            reflexes = [
                Reflex(0.3 * rng.standard_normal(2).astype(np.float32), *(0.3 * rng.random(3)).tolist())
                for _ in range(n)
            ]
            a.held["life"][:] = rng.standard_normal((n, len(LIFE))) * 0.4
            a.held["face"][:] = rng.standard_normal((n, len(FACE)))
            a.held["heard"][:, product.CLOSED] = rng.choice([0.0, 0.1, 0.2, 0.9], n)
            before = {name: array.copy() for name, array in a.held.items()}
            rings = [x.copy() for x in (*a.index, *a.filled)]
            for slot, own in enumerate(slots):
                own.controls = product.Controls(
                    float(rng.uniform(0, 2)), float(rng.uniform(0, 2)), tuple(rng.uniform(-1, 1, 2)), str(rng.choice(MOODS))
                )  # fmt: skip
                c = own.controls
                gaze = np.clip(np.array(c.gaze, np.float32), -product.GAZE_LIMIT, product.GAZE_LIMIT)
                a.cues[slot] = s.MotionCue(
                    flags[slot], MOODS.index(c.mood), c.expressiveness, c.head_motion, tuple(map(float, gaze)),
                    tuple(map(float, reflexes[slot].looks)), reflexes[slot].lids, reflexes[slot].nod, reflexes[slot].breath,
                )  # fmt: skip
            assert cuda.vvc_motion_show(ctypes.byref(a.structure()), n) == 0
            for slot, own in enumerate(slots):
                now = [x[slot] for x in (*a.index, *a.filled, a.held["frames"])]
                was = [x[slot] for x in (*rings, before["frames"])]
                if not flags[slot]:
                    for name in ("motion", "past_face", "past_life", "past_inputs"):
                        np.testing.assert_array_equal(a.held[name][slot], before[name][slot])
                    assert now == was
                    continue
                mean, face = before["heard"][slot, : len(FACE)], before["face"][slot]
                face = product.AMPLITUDE * (mean + product.FACE_SHARE * (face - mean))
                face = np.clip(face, 0, 1) * np.float32(own.gate.value)
                shut = lips.heard_closed(before["heard"][slot, product.CLOSED])
                past = lips.meet(face, shut)
                face = lips.meet(own.articulate(before["heard"][slot], face), shut)
                life, arms = before["life"][slot], before["arms"][slot]
                motion = model._compose(own, face, life, arms, reflexes[slot])
                shown = before["given"][slot] if flags[slot] & s.GIVEN else motion
                np.testing.assert_allclose(a.held["motion"][slot], shown + before["neutral"][slot], atol=2e-5)
                np.testing.assert_allclose(a.held["past_face"][slot], past, atol=1e-6)
                np.testing.assert_allclose(a.states[slot].mouth[: len(FACE)], face, atol=2e-5)
                if own.articulation is not None:
                    rows = (int(before["frames"][slot]) - np.arange(articulating.LAGS)) % articulating.LAGS
                    np.testing.assert_allclose(a.held["past_inputs"][slot][rows], own.past, atol=1e-5)
                life = life.copy()
                reflex = reflexes[slot]
                life[GAZE], life[product.LIDS], life[product.BREATH] = (
                    reflex.looks,
                    reflex.lids,
                    reflex.breath,
                )
                np.testing.assert_array_equal(a.held["past_life"][slot], life)
                state = a.states[slot]
                np.testing.assert_allclose(state.gaze[:2], own.gaze, atol=1e-6)
                np.testing.assert_allclose(state.mood[: len(LIFE)], own.mood, atol=1e-6)
                np.testing.assert_allclose(state.released[: len(FACE)], own.released, atol=1e-6)
                np.testing.assert_allclose(state.reach, own.reach, atol=1e-6)
                w0, w1 = WINDOWS
                i0, i1, f0, f1, frame = was
                assert now == [
                    (i0 + 1) % w0,
                    (i1 + 1) % w1,
                    min(f0 + 1, w0 - 1),
                    min(f1 + 1, w1 - 1),
                    frame + 1,
                ]


@several
@given(seeds, st.integers(1, 3))
def test_show(cuda: Launcher, seed: int, n: int) -> None:
    check_show(cuda, seed, n, 4)


def test_motion_refuses_what_it_cannot_hold(cuda: Launcher) -> None:
    a = Arrays(cuda, np.random.default_rng(0), 1)
    for change in (
        {"n_life": 33},
        {"n_face": 17},
        {"n_channels": 193},
        {"n_coefficients": 183},
        {"n_labels": 65},
        {"n_lags": 0},
        {"n_inputs": FEATURES + 3},
    ):
        structure = a.structure()
        for name, value in change.items():
            setattr(structure, name, value)
        assert cuda.vvc_motion_hear(ctypes.byref(structure), 1, 0) == 1
        assert cuda.vvc_motion_show(ctypes.byref(structure), 1) == 1
    assert cuda.vvc_motion_show(ctypes.byref(a.structure()), 0) == 1


def random_figure(rng: np.random.Generator, n_bones: int, n_gaps: int, n_parts: int) -> Figure:
    bones = []
    for k in range(n_bones):
        eye = bool(rng.integers(0, 2)) and k > 0
        axes, _ = np.linalg.qr(rng.standard_normal((3, 3)))
        bones.append(
            Bone(
                int(rng.integers(-1, k)) if k else -1, int(rng.integers(len(ARKIT), N_CHANNELS - 3)), float(rng.uniform(0.1, 0.9)),
                rng.standard_normal(3).astype(np.float32), float(rng.choice([0.0, 0.5])), eye,
                np.eye(3, dtype=np.float32) if eye else axes.astype(np.float32),
            )
        )  # fmt: skip
    parts = []
    for _ in range(n_parts):
        v, j, k = int(rng.integers(3, 6)), int(rng.integers(1, n_bones + 1)), int(rng.integers(0, 5))
        units = rng.integers(0, len(ARKIT) + n_gaps, k).astype(np.int32)
        shape = (np.arange(v, dtype=np.int32), rng.standard_normal((v, 3)).astype(np.float32))
        plain = rng.standard_normal((v, 3)).astype(np.float32)
        parts.append(
            Part(
                plain, np.abs(plain[:, :2]), np.zeros((1, 3), np.int32), np.ones(1, np.uint8), plain,
                np.full((4, 4, 4), 255, np.uint8), None, None, [shape] * k, units, rng.random((v, j)).astype(np.float32),
                rng.integers(0, n_bones, j).astype(np.int32),
            )
        )  # fmt: skip
    low = rng.uniform(-0.5, 0, len(ARKIT)).astype(np.float32)
    high = rng.uniform(0.4, 1, len(ARKIT)).astype(np.float32)
    gap, gap_units = rng.standard_normal(n_gaps), rng.standard_normal((len(ARKIT), n_gaps)) * 0.3
    return Figure(
        parts,
        bones,
        low,
        high,
        gap.astype(np.float32),
        gap_units.astype(np.float32),
        (400.0, 400.0, 150.0, 160.0),
        0,
    )


def check_figure(cuda: Launcher, seed: int, slots: int, scale: float) -> None:
    """Coefficients, bones and the face's place of random people, against engine/video/figure.py and crop.py."""
    device = cuda.borrow()
    width, height, side = 300, 320, 256
    for order in SEEDS:
        rng = np.random.default_rng(seed)
        cuda.shuffle(order)
        table, people, keep = cuda.structures(s.FigureSlot, slots), [], []
        sizes = [
            (int(rng.integers(3, 20)), int(rng.integers(0, 300)), int(rng.integers(0, 4)))
            for _ in range(slots)
        ]
        for slot, size in enumerate(sizes):
            figure = random_figure(rng, *size)
            # Not at the frame's edge: there float32 and float64 may choose a pixel more or less.
            face: Any = SimpleNamespace(
                point=np.array([0, 0, -3.0]) + 0.05 * rng.standard_normal(3), scale=scale
            )
            held = DeviceFigure.of(device, figure, np.zeros((2, 2, 3), np.uint8), face)
            targets = [
                (
                    device.zeros((part.n_shapes + 1,), np.float32),
                    device.zeros((part.n_joints + 1, 3, 4), np.float32),
                )
                for part in held.parts
            ]
            table[slot] = held.entry(device, targets, keep)
            people.append((figure, face, targets, held))
        motion = cuda.put((rng.standard_normal((slots, N_CHANNELS)) * 0.4).astype(np.float32))
        if seed % 3 == 0:
            motion[0, rng.integers(0, N_CHANNELS, 9)] = np.nan
            motion[0, rng.integers(0, len(ARKIT), 3)] = np.inf
        mask = cuda.put(rng.integers(0, 2, slots, dtype=np.uint8)) if seed % 2 else None
        places = cuda.structures(s.CropPlace, slots)
        placement = cuda.array((slots, 3), np.float32)
        most = [max(size[k] for size in sizes) for k in (0, 1)]
        translation = INDEX["headTranslation.x"]
        code = cuda.vvc_figure(
            cuda.pointer(table), cuda.pointer(motion), cuda.pointer(mask), cuda.pointer(places), cuda.pointer(placement), slots, N_CHANNELS, len(ARKIT), translation,
            *most, side, width, height,
        )  # fmt: skip
        assert code == 0
        for slot, (figure, face, targets, _) in enumerate(people):
            on = mask is None or mask[slot]
            moved = np.nan_to_num(motion[slot])
            units, bones = figure.units(moved), figure.transforms(moved)
            for part, arrays in zip(figure.parts, targets, strict=True):
                coefficients, joints = map(device.read, arrays)
                wanted = units[part.units] if on else np.zeros(len(part.units))
                # What lies at the threshold may fall to either side.
                np.testing.assert_allclose(coefficients[:-1], wanted, atol=3e-5)
                np.testing.assert_allclose(joints[:-1], bones[part.bones] if on else 0, atol=3e-5)
                assert coefficients[-1] == 0 and not joints[-1].any()
            if not on:
                assert places[slot].scale == 0 and not placement[slot].any()
                continue
            world = bones[2].astype(np.float64) * np.array([[1], [-1], [-1]])
            x, y, z = world[:, :3] @ face.point + world[:, 3]
            fx, _, cx, cy = figure.camera
            depth = max(-z, 0.05)
            where = CropTransform(
                scale, side / 2 - scale * (cx + fx * x / depth), side / 2 - scale * (cy - fx * y / depth)
            )
            got, want = places[slot], place_of(where, width, height)
            np.testing.assert_allclose((got.scale, got.x0, got.y0), placement[slot])
            if depth > 0.2:
                np.testing.assert_allclose((got.x0, got.y0), (where.x0, where.y0), rtol=1e-4, atol=0.02)
                for name in ("left", "top", "columns", "rows"):
                    assert abs(getattr(got, name) - getattr(want, name)) <= 1
                assert got.by == want.by
        del keep


@several
@given(seeds, st.integers(1, 3), st.sampled_from([1.1, 0.8, 0.55, 0.3]))
def test_figure(cuda: Launcher, seed: int, slots: int, scale: float) -> None:
    check_figure(cuda, seed, slots, scale)


def test_figure_refuses_what_it_cannot_hold(cuda: Launcher) -> None:
    good = [1, N_CHANNELS, len(ARKIT), 60, 5, 5]
    for k, value in ((0, 0), (1, 257), (2, 65), (3, N_CHANNELS - 2), (4, 65), (5, 385)):
        sizes = [*good[:k], value, *good[k + 1 :]]
        assert cuda.vvc_figure(None, None, None, None, None, *sizes, 256, 64, 64) == 1
