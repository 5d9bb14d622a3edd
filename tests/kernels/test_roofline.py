"""The computed limits: what they count, on a network whose numbers are known; and what `gpu_check` says without a GPU."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
from visavis.benchmarks import gpu_check, roofline
from visavis.engine.runtime.gpu import cuda

L4 = roofline.GPUS[2]


def test_layers_are_counted(tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    sys.path.insert(0, str(Path(__file__).parents[1] / "engine"))
    import onnx_models as models

    width, tokens, layers = 128, 64, 2
    path = models.transformer(tmp_path / "t.onnx", width=width, tokens=tokens, layers=layers)
    work, state = roofline.network_layers(path, calls=3)
    found = {w.name.split(": ")[1]: w for w in work}
    assert set(found) == {"matrix products", "attention"} and state == 0
    assert found["matrix products"].operations == 3 * layers * 4 * 2 * tokens * width**2
    assert found["matrix products"].bytes_shared == 3 * 2 * layers * 4 * width**2
    assert found["attention"].operations == 3 * layers * 2 * 2 * tokens**2 * width
    assert found["attention"].bytes_each == 3 * 2 * layers * 4 * tokens * width
    assert (found["matrix products"].launches, found["attention"].launches) == (3 * 4 * layers, 3 * layers)
    _, state = roofline.network_layers(models.recurrent(tmp_path / "r.onnx", width=8), 1)
    assert state == 32


def test_the_slowest_of_the_limits_binds() -> None:
    work = roofline.Work("x", 60.5e12 / 100, 300e9 / 1000, 0.0, 1, "tensor")
    assert work.seconds(L4, 2) == (pytest.approx(0.02), "arithmetic")
    work = roofline.Work("x", 1.0, 300e9 / 1000, 300e9 / 10)
    assert work.seconds(L4, 100) == (pytest.approx(0.2), "memory")
    assert roofline.Work("x", 1, 1, launches=3).seconds(L4, 1) == (3 * roofline.LAUNCH_S, "launches")
    each = roofline.Work("x", 0, 300e9 * 0.0011)  # 1.1 ms a session
    assert roofline.most_sessions([each], L4) == 36
    assert roofline.most_sessions([roofline.Work("x", 0, 300e9)], L4) == 0


def test_the_table_says_that_it_is_computed(capsys: pytest.CaptureFixture[str]) -> None:
    assert roofline.main([]) == 0
    out = capsys.readouterr().out
    assert out.startswith("COMPUTED, not measured")
    last = json.loads(out.splitlines()[-1])
    assert last["kind"] == "computed" and set(last["gpus"]) == {"H100", "RTX 4090", "L4"}
    limits = [g["computed_sessions_at_25_fps"] for g in last["gpus"].values()]
    assert limits[0] > limits[1] > limits[2] > 0


@pytest.mark.skipif(cuda.missing() is None, reason="there is a device")
def test_gpu_check_says_that_there_is_no_gpu(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "check.json"
    assert gpu_check.main(["--out", str(out)]) == gpu_check.NO_DEVICE
    assert capsys.readouterr().out.startswith("NOT CHECKED: ")
    assert json.loads(out.read_text())["device"] is None


def test_gpu_check_runs_every_tool_of_the_sanitizer(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    program = tmp_path / "compute-sanitizer"
    program.write_text('#!/bin/sh\necho "$@"\n[ "$2" = racecheck ] && exit 9\nexit 0\n')
    program.chmod(0o755)
    results = gpu_check.sanitized(str(program), 60)
    assert {tool: r["exit"] for tool, r in results.items()} == {"memcheck": 0, "racecheck": 9, "synccheck": 0}
    for tool, where in gpu_check.SANITIZERS.items():
        assert results[tool]["said"].startswith(f"--tool {tool} --error-exitcode 9 ")
        assert f"-m gpu -p no:cacheprovider {where[0]} --timeout 60" in results[tool]["said"]
    assert "under racecheck: exit 9" in capsys.readouterr().out
    assert gpu_check.sanitized(None) == {}
    assert "not installed: memcheck, racecheck, synccheck not run" in capsys.readouterr().out
