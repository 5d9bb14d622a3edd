"""A person's own weights of the video network: what they may change, and what is refused."""

from __future__ import annotations

import dataclasses
import logging
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from safetensors.numpy import load_file, save_file
from visavis.engine.avatar import Avatar
from visavis.engine.errors import AvatarError
from visavis.engine.motion.channels import INDEX, zero_motion
from visavis.engine.runtime.onnx_weights import spans, weights_of, with_weights
from visavis.engine.session import Session
from visavis.engine.video import personal
from visavis.engine.video.crop import MOUTH
from visavis.engine.video.generator import WEIGHTS, Generator, files, generator_for
from visavis.engine.video.personal import LEARNED, PersonalWeights, base_of, folder, learned
from visavis.engine.video.renderer import Renderer


def shipped() -> np.ndarray:
    return np.concatenate([weights_of((WEIGHTS / f"{name}.onnx").read_bytes()) for name in LEARNED])


def other(scale: float = 1.02) -> PersonalWeights:
    return PersonalWeights((shipped().astype(np.float32) * scale).astype(np.float16), base_of(WEIGHTS))


def open_mouth() -> np.ndarray:
    motion = zero_motion()
    motion[INDEX["jawOpen"]] = 0.5
    return motion


# --- weights inside a file


tensors = st.lists(
    st.tuples(
        st.sampled_from([TensorProto.FLOAT16, TensorProto.FLOAT, TensorProto.INT64]), st.integers(0, 40)
    ),
    max_size=8,
)


@settings(max_examples=40, deadline=None)
@given(kinds=tensors, seed=st.integers(0, 2**16), note=st.text(max_size=300))
def test_weights_are_found_and_replaced_as_the_package_onnx_sees_them(kinds, seed, note):
    rng = np.random.default_rng(seed)
    initializers = [
        numpy_helper.from_array(
            rng.standard_normal(n).astype(helper.tensor_dtype_to_np_dtype(kind)), f"tensor{k}"
        )
        for k, (kind, n) in enumerate(kinds)
    ]
    value = helper.make_tensor_value_info("x", TensorProto.FLOAT, [1])
    graph = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["y"])], "g", [value],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1])], initializers, doc_string=note,
    )  # fmt: skip
    content = helper.make_model(graph, producer_name=note).SerializeToString()

    def halves(data: bytes) -> np.ndarray:
        parts = [
            numpy_helper.to_array(t).ravel()
            for t in onnx.load_from_string(data).graph.initializer
            if t.data_type == TensorProto.FLOAT16
        ]
        return np.concatenate(parts) if parts else np.zeros(0, np.float16)

    assert (weights_of(content) == halves(content)).all()
    new = rng.standard_normal(len(halves(content))).astype(np.float16)
    changed = with_weights(content, new)
    assert (halves(changed) == new).all()
    assert with_weights(changed, halves(content)) == content
    with pytest.raises(ValueError, match="weights for a network of"):
        with_weights(content, np.zeros(len(new) + 1, np.float16))


@settings(max_examples=200, deadline=None)
@given(content=st.binary(max_size=200))
def test_any_bytes_are_a_file_without_weights_or_refused(content):
    try:
        found = spans(content)
    except ValueError:
        return
    assert all(0 <= start < stop <= len(content) for start, stop in found)


def test_a_file_cut_short_is_refused_or_has_fewer_weights():
    content = (WEIGHTS / "video_step.onnx").read_bytes()
    with pytest.raises(ValueError, match="cut short"):
        spans(content[: len(content) // 2])


# --- a person's networks


def test_the_mouths_networks_read_the_same_weights_as_the_whole_faces():
    for name in LEARNED:
        content = (WEIGHTS / f"{name}.onnx").read_bytes()
        known = set(spans(content))
        names = {
            t.name
            for t in onnx.load(WEIGHTS / f"{name}.onnx").graph.initializer
            if t.data_type == TensorProto.FLOAT16
        }
        mouth = onnx.load(WEIGHTS / f"{name}_mouth.onnx", load_external_data=False)
        halves = [t for t in mouth.graph.initializer if t.data_type == TensorProto.FLOAT16]
        assert {t.name for t in halves} <= names and len(halves) > 10
        for tensor in halves:
            where = {entry.key: entry.value for entry in tensor.external_data}
            start = int(where["offset"])
            assert (start, start + int(where["length"])) in known


def test_shipped_weights_as_a_persons_own_give_the_shipped_files():
    made = folder(PersonalWeights(shipped(), base_of(WEIGHTS)), WEIGHTS)
    assert made != WEIGHTS
    for area_files in (files(weights=made), files(MOUTH, made)):
        for path in area_files:
            assert path.read_bytes() == (WEIGHTS / path.name).read_bytes()
    assert (learned(made, WEIGHTS).weights == shipped()).all()
    assert folder(PersonalWeights(shipped(), base_of(WEIGHTS)), WEIGHTS) == made, "made once a process"
    assert folder(None, WEIGHTS) == WEIGHTS


def test_a_persons_own_weights_paint_the_mouth_and_change_nobody_elses(avatar):
    plain = Renderer(avatar)
    own = Renderer(dataclasses.replace(avatar, personal=other()))
    motion = open_mouth()
    before = Generator(plain, steps=1, threads=1, area=MOUTH).render(plain.render(motion), motion)
    mine = generator_for(own, steps=1)
    assert mine is not None
    painted = mine.render(own.render(motion), motion)
    after = Generator(plain, steps=1, threads=1, area=MOUTH).render(plain.render(motion), motion)
    assert (before == after).all()
    changed = np.abs(painted.astype(int) - before).max(2) > 0
    assert changed.any()
    rows, columns = np.nonzero(changed)
    mouth_rows, mouth_columns = np.nonzero(np.isin(plain.target.part, (2, 5, 6, 7)))
    assert abs(rows.mean() - mouth_rows.mean()) < 40 and abs(columns.mean() - mouth_columns.mean()) < 40


@pytest.mark.parametrize("weights", [PersonalWeights(np.ones(5, np.float16), base_of(WEIGHTS)),
                                     PersonalWeights(np.ones(5, np.float16), "of yesterday")])  # fmt: skip
def test_weights_that_fit_no_network_are_said_and_the_shared_ones_taken(avatar, weights, caplog):
    with caplog.at_level(logging.WARNING):
        assert folder(weights, WEIGHTS) == WEIGHTS
        with Session(dataclasses.replace(avatar, personal=weights), generator_steps=1) as session:
            assert len(list(session.frames(1))) == 1
    assert "video network" in caplog.text


def test_weights_that_cannot_be_a_networks_are_refused():
    for wrong in (np.ones((2, 2), np.float16), np.ones(3, np.float32), np.array([1, np.inf], np.float16)):
        with pytest.raises(ValueError, match="weights"):
            PersonalWeights(wrong, "x")


def test_an_avatar_keeps_them(avatar, tmp_path: Path):
    path = tmp_path / "a.avatar"
    dataclasses.replace(avatar, personal=other()).save(path)
    back = Avatar.load(path).personal
    assert back is not None and back.base == base_of(WEIGHTS)
    assert (back.weights == other().weights).all()
    avatar.save(path)
    assert Avatar.load(path).personal is None


def test_an_avatar_with_broken_ones_is_refused(avatar, tmp_path: Path):
    from safetensors import safe_open

    path = tmp_path / "a.avatar"
    dataclasses.replace(avatar, personal=other()).save(path)
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    arrays = load_file(path)
    arrays["personal"][7] = np.nan
    save_file(arrays, path, metadata)
    with pytest.raises(AvatarError, match="damaged"):
        Avatar.load(path)


def test_files_of_those_unused_for_longest_make_room(monkeypatch):
    monkeypatch.setattr(personal, "FOLDERS", 2)
    people = [other(1 + k / 64) for k in range(1, 4)]
    first, second = (folder(person, WEIGHTS) for person in people[:2])
    assert folder(people[0], WEIGHTS) == first and first != second
    third = folder(people[2], WEIGHTS)
    assert first.is_dir() and third.is_dir() and not second.exists()
    again = folder(people[1], WEIGHTS)
    assert (again / "video_frame.onnx").is_file() and not first.exists()
