"""Engines ahead of time: precision, fusions, what an engine is bound to, `visavis compile`."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from visavis.clients.cli import main
from visavis.clients.compile import shipped
from visavis.engine.runtime import load
from visavis.engine.runtime import tensorrt_build as tb
from visavis.engine.runtime import tensorrt_layers as tl
from visavis.engine.runtime.precision import _to_bfloat16, converted

onnx = pytest.importorskip("onnx")
import onnx_models as models  # noqa: E402


@pytest.fixture(scope="module")
def trt() -> Any:
    return pytest.importorskip("tensorrt_rtx")


def run(path: Path, **inputs: np.ndarray) -> dict[str, np.ndarray]:
    return load(path)(inputs)


@pytest.mark.parametrize(("precision", "tolerance"), [("bf16", 0.06), ("fp16", 0.008)])
def test_half_precision_keeps_the_numbers(tmp_path: Path, precision: Any, tolerance: float) -> None:
    rng = np.random.default_rng(0)
    path = models.transformer(tmp_path / "t.onnx", tokens=16)
    half = tmp_path / "half.onnx"
    half.write_bytes(converted(path.read_bytes(), precision))
    x = rng.standard_normal((2, 16, 128)).astype(np.float32)
    want, got = run(path, x=x)["y"], run(half, x=x)["y"]
    error = np.abs(got - want).max() / np.abs(want).max()
    assert 1e-5 < error < tolerance  # not the same numbers, or nothing was converted
    assert half.stat().st_size < 0.6 * path.stat().st_size
    model = onnx.load(half)
    onnx.checker.check_model(model)
    types = {v.type.tensor_type.elem_type for v in (*model.graph.input, *model.graph.output)}
    assert types == {onnx.TensorProto.FLOAT}


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_states_and_angles_pass_through_casts(tmp_path: Path, precision: Any) -> None:
    path = models.recurrent(tmp_path / "r.onnx")
    half = tmp_path / "half.onnx"
    half.write_bytes(converted(path.read_bytes(), precision))
    x, memory = np.full((3, 8), 0.25, np.float32), np.linspace(-9, 9, 24, dtype=np.float32).reshape(3, 8)
    want, got = run(path, x=x, memory=memory), run(half, x=x, memory=memory)
    assert list(got) == list(want)
    for name, value in want.items():
        np.testing.assert_allclose(got[name], value, atol=0.15 if precision == "bf16" else 0.02)
    kinds = {n.op_type for n in onnx.load(half).graph.node}
    assert "Sin" in kinds and "Cast" in kinds


def test_bfloat16_rounds_to_the_nearest_even() -> None:
    values = np.array([1.0, 1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8 - 2**-12, np.inf, np.nan], np.float32)
    back = (_to_bfloat16(values).astype(np.uint32) << 16).view(np.float32)
    np.testing.assert_array_equal(back, [1.0, 1.0, 1 + 2**-6, -1 - 2**-7, np.inf, np.nan])


@pytest.mark.parametrize("precision", ["fp32", "bf16", "fp16"])
def test_bytes_stay_at_the_ends_alone(tmp_path: Path, precision: Any) -> None:
    path = models.pictures(tmp_path / "p.onnx")
    half = tmp_path / "half.onnx"
    half.write_bytes(converted(path.read_bytes(), precision))
    picture = np.random.default_rng(0).integers(0, 256, (2, 4, 4, 3), dtype=np.uint8)
    want, got = run(path, picture=picture), run(half, picture=picture)
    assert got["out"].dtype == np.uint8 and got["out"].shape == want["out"].shape
    tolerance = {"fp32": 0, "bf16": 2, "fp16": 1}[precision]
    assert np.abs(got["out"].astype(int) - want["out"]).max() <= tolerance
    np.testing.assert_array_equal(got["label"], want["label"])
    inner = onnx.shape_inference.infer_shapes(onnx.load(half)).graph.value_info
    assert not [v.name for v in inner if v.type.tensor_type.elem_type == onnx.TensorProto.UINT8]


def test_a_weight_with_the_name_of_an_output_is_renamed(tmp_path: Path) -> None:
    model = onnx.load(models.recurrent(tmp_path / "r.onnx"))
    for tensor in model.graph.initializer:
        tensor.name = "y" if tensor.name == "half" else tensor.name
    for node in model.graph.node:
        node.input[:] = ["y" if name == "half" else name for name in node.input]
    twice = tmp_path / "twice.onnx"
    twice.write_bytes(model.SerializeToString())
    fixed = onnx.load_from_string(converted(twice.read_bytes(), "fp16"))
    names = [t.name for t in fixed.graph.initializer] + [o for n in fixed.graph.node for o in n.output]
    assert len(names) == len(set(names))
    (tmp_path / "fixed.onnx").write_bytes(fixed.SerializeToString())
    x, memory = np.ones((1, 8), np.float32), np.full((1, 8), 0.5, np.float32)
    want = run(tmp_path / "r.onnx", x=x, memory=memory)["y"]
    np.testing.assert_allclose(run(tmp_path / "fixed.onnx", x=x, memory=memory)["y"], want, atol=0.01)


def test_what_cannot_be_converted_is_refused(tmp_path: Path) -> None:
    data = models.recurrent(tmp_path / "r.onnx").read_bytes()
    with pytest.raises(ValueError, match="precision: one of"):
        converted(data, "fp8")  # type: ignore[arg-type]


def test_attention_and_norm_are_fused(trt: Any, tmp_path: Path) -> None:
    """In half precision each layer's scores, softmax and sum are one kernel, in every batch profile."""
    path = models.transformer(tmp_path / "t.onnx")
    built = tb.build(path, tmp_path, "sm89", "fp16", trt=trt)
    assert {layer.profile for layer in built.layers} == set(range(len(tb.PROFILES)))
    for profile in range(len(tb.PROFILES)):
        layers = [layer for layer in built.layers if layer.profile == profile]
        assert sum("mha" in layer.name for layer in layers) == 2, profile
        assert not any({"Exp", "Sum"} <= set(layer.steps) for layer in layers), "a softmax of its own"
    first = [layer for layer in built.layers if layer.profile == 0]
    assert tl.has_attention(first) and tl.has_fused_norm(first)
    assert sum({"Mean", "Sqrt"} <= set(layer.steps) for layer in first) == 2
    text = built.path.with_suffix(".layers.txt").read_text()
    assert "attention in one kernel: yes" in text and "normalisation in one kernel: yes" in text


def test_single_precision_attention_is_seen_not_to_be_fused(trt: Any, tmp_path: Path) -> None:
    built = tb.build(models.transformer(tmp_path / "t.onnx", layers=1), tmp_path, "sm89", "fp32", trt=trt)
    first = [layer for layer in built.layers if layer.profile == 0]
    assert first and not tl.has_attention(first)


def test_an_engine_is_used_only_where_all_is_the_same(trt: Any, tmp_path: Path) -> None:
    path = models.recurrent(tmp_path / "r.onnx")
    first = tb.build(path, tmp_path / "e", "sm89", "fp16", trt=trt)
    assert not first.reused and first.metadata.states == {"memory": "next_memory"}
    assert first.metadata.inputs == {"x": [-1, 8], "memory": [-1, 8]}
    again = tb.build(path, tmp_path / "e", "sm89", "fp16", trt=trt)
    assert again.reused and again.metadata == first.metadata

    name, here = tb.builder_of(trt), first.path
    assert tb.matches(here, path, name, "sm89", "fp16")
    assert not tb.matches(here, path, name + ".1", "sm89", "fp16")
    assert not tb.matches(here, path, name, "sm90", "fp16")
    assert not tb.matches(here, path, name, "sm89", "bf16")
    other = models.recurrent(tmp_path / "other.onnx", width=4)
    assert not tb.matches(here, other, name, "sm89", "fp16")
    whole = here.read_bytes()
    here.write_bytes(whole[:-1])
    assert not tb.matches(here, path, name, "sm89", "fp16")
    here.write_bytes(whole)
    beside = here.with_suffix(".json")
    record = json.loads(beside.read_text())
    for change in ({"profiles": [1, 2]}, {"conversion": 0}, {"format": 9}):
        beside.write_text(json.dumps(record | change))
        assert not tb.matches(here, path, name, "sm89", "fp16"), change
    beside.write_text("{")
    assert not tb.matches(here, path, name, "sm89", "fp16")
    assert not tb.build(path, tmp_path / "e", "sm89", "fp16", trt=trt).reused


def test_what_cannot_be_built_is_said_in_one_line(
    trt: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(tb.BuildError, match="cannot be read by tensorrt_rtx"):
        tb.build(models.unknown(tmp_path / "u.onnx"), tmp_path, "sm89", "fp32", trt=trt)
    out = str(tmp_path / "out")
    for arguments, words in (
        (["--target", "sm99"], "sm99"),
        (["--target", "sm89", "--precision", "int3"], "int3"),
        (["--target", "sm89", "--network", str(tmp_path / "none.onnx")], "no such network"),
    ):
        assert main(["compile", *arguments, "-o", out]) == 2
        assert words in capsys.readouterr().err


def test_compile_builds_every_network_for_every_target(
    trt: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "networks"
    folder.mkdir()
    models.recurrent(folder / "one.onnx")
    models.recurrent(folder / "two.onnx", width=4)
    arguments = ["compile", "--target", "sm86,SM120", "--precision", "bf16", "--network", str(folder)]
    assert main([*arguments, "-o", str(tmp_path / "e")]) == 0
    names = sorted(p.name for p in (tmp_path / "e").glob("*.engine"))
    assert names == [f"{n}.bf16.{t}.engine" for n in ("one", "two") for t in ("sm120", "sm86")]
    assert "4 engines" in capsys.readouterr().out
    assert main([*arguments, "-o", str(tmp_path / "e")]) == 0
    assert capsys.readouterr().out.count("kept: it matches") == 4


def test_the_shipped_networks_build(trt: Any, tmp_path: Path) -> None:
    """Each for one target: the graphs parse without operations of their own, states are found."""
    for path in tb.networks(shipped()):
        built = tb.build(path, tmp_path, "sm89", "bf16", trt=trt)
        names = [n for n in built.metadata.outputs if n.startswith(tb.STATE)]
        assert built.layers and len(built.metadata.states) == len(names)


def test_layers_are_read_from_the_builders_words() -> None:
    log = tl.BuildLog()
    log.add(
        "Layers:\nName: __myl_AddMeanSubMulMeanAddSqrtDivMul_myl0_3, LayerType: kgen, Inputs: [ ]\n"
        "Name: entry^wait_myl1_2, LayerType: wait, Inputs: []\n"
        "Name: _gemm_mha_v2_myl1_4, LayerType: kgen, Inputs: [ ]\n"
        "Name: node [profile 2]+other [profile 2], LayerType: gemm, Inputs: []\n",
        False,
    )
    log.add("bad luck", True)
    layers = log.layers()
    assert [(layer.kind, layer.profile) for layer in layers] == [("kgen", 0), ("kgen", 1), ("gemm", 2)]
    assert layers[0].steps == ["Add", "Mean", "Sub", "Mul", "Mean", "Add", "Sqrt", "Div", "Mul"]
    assert tl.has_fused_norm(layers[:1]) and not tl.has_fused_norm(layers[1:])
    assert tl.has_attention(layers) and not tl.has_attention(layers[:1])
    assert log.errors == ["bad luck"]


def test_a_missing_builder_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tb.importlib, "import_module", lambda name: (_ for _ in ()).throw(ImportError(name)))
    with pytest.raises(tb.BuildError, match=r"pip install 'visavis\[gpu\]'"):
        tb.backend()
    with pytest.raises(tb.BuildError, match=r"nothing else builds for sm90: pip install 'visavis\[trt\]'"):
        tb.backend(target="sm90")
    with pytest.raises(tb.BuildError, match="one of auto"):
        tb.backend("openvino")


def test_data_centre_gpus_need_the_other_builder(
    trt: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An H100 is a target like any other, of the builder that knows it."""
    assert tb.parse_targets("sm90,sm89") == ["sm90", "sm89"]
    path = models.recurrent(tmp_path / "r.onnx")
    with pytest.raises(
        tb.BuildError, match="does not build for sm90: use tensorrt on a machine that has one"
    ):
        tb.build(path, tmp_path, "sm90", "fp16", trt=trt)
    asked = []

    def module(name: str) -> Any:
        asked.append(name)
        return trt

    monkeypatch.setattr(tb.importlib, "import_module", module)
    tb.backend(target="sm90")
    tb.backend(target="sm89")
    assert asked == ["tensorrt", "tensorrt_rtx"]
