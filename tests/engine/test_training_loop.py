"""What all trainings share: a run that was interrupted and resumed is one that was not, bit for bit."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from visavis.engine.motion.layout import FACE, FEATURES, LABELS, LIFE
from visavis.engine.motion.speech import SPEECH_CHANNELS
from visavis.engine.timing import SAMPLES_PER_FRAME

torch = pytest.importorskip("torch", reason="training needs the extra: pip install 'visavis[train]'")

from visavis.engine.training import loop, motion, motion_distil, motion_encoder, speech  # noqa: E402
from visavis.engine.training.data import BODY, Clip, MouthRig, Spoken  # noqa: E402
from visavis.engine.training.motion_data import Minutes  # noqa: E402
from visavis.engine.training.speech_mix import build_bank, make_scales  # noqa: E402

STEPS, EVERY = 6, 2
Run = Callable[[Path, bool], Any]


def clip(key: str, speaker: str, seed: int, frames: int = 50) -> Clip:
    """A hum that comes and goes, and a mouth that opens with it."""
    rng = np.random.default_rng(seed)
    loud = (np.sin(np.arange(frames) / rng.uniform(2, 5)) > 0).astype(np.float32)
    tone = np.sin(np.arange(frames * SAMPLES_PER_FRAME) * rng.uniform(0.05, 0.2)).astype(np.float32)
    sound = tone * loud.repeat(SAMPLES_PER_FRAME) * 0.2
    target = loud[:, None] * rng.uniform(0, 0.4, len(SPEECH_CHANNELS)).astype(np.float32)
    silent = loud == 0
    return Clip(key, speaker, sound, target, 0.1 * loud, 0.05 * loud, silent, ~silent, np.ones(frames, bool))


def ear(module: Any) -> Run:
    """A training of one of the networks that hear."""
    rig = MouthRig.load(BODY)
    filmed = [clip("s1/a", "s1", 0), clip("s9/b", "s9", 1), clip("facegood/d", "facegood", 3)]
    said = [Spoken(filmed[0].sound, np.arange(200, dtype=np.int8) // 25)]
    repeats = {"s1": 2, "other": 2, "facegood": 1, "voices": 2, "robots": 1}
    bank = build_bank(filmed, said, repeats, seed=1, noises=4)
    scales, held = make_scales(bank, rig), [clip("s26/c", "s26", 2)]
    same = {"steps": STEPS, "every": EVERY, "batch": 3, "width": 16, "voices": 0.4}

    def run(out: Path, resume: bool) -> Any:
        if module is speech:
            material = speech.Material(bank, scales, filmed, held, [], rig)
            return speech.train(material, out, speech.Settings(**same), resume)
        settings = motion_encoder.Settings(**same, tail=8)
        return motion_encoder.train(bank, held, filmed, {}, scales, out, settings, resume)

    return run


def body(part: str) -> Run:
    """A training of one of the networks that move."""
    rng = np.random.default_rng(0)
    k, n = 2, 60

    def some(values: int) -> np.ndarray:
        return np.cumsum(rng.standard_normal((k, n, values)), 1).astype(np.float32) * 0.02

    arms = np.zeros((2, 182), np.float32)
    minutes = Minutes(
        some(FEATURES), some(LABELS), some(len(FACE)), np.ones((k, n), np.float32), some(len(LIFE)), arms
    )

    def run(out: Path, resume: bool) -> Any:
        settings = motion.Settings(
            part=part, steps=STEPS, every=EVERY, batch=2, length=12, width=16, layers=1, window=5, head=16,
            momentum=int(part == "life"),
        )  # fmt: skip
        return motion.train(minutes, out, settings, resume)

    return run


def distilled() -> Run:
    """A distillation of a network that moves."""
    settings = motion.Settings(batch=2, length=12, width=16, layers=1, window=5, head=16)
    rng = np.random.default_rng(0)
    shapes = FEATURES, LABELS, len(FACE), len(LIFE)
    heard, labels, face, life = (rng.standard_normal((2, 40, d)).astype(np.float32) for d in shapes)
    minutes = Minutes(heard, labels, face, np.ones((2, 40), np.float32), life, np.zeros((2, 182), np.float32))

    def run(out: Path, resume: bool) -> Any:
        torch.manual_seed(3)
        teacher = motion.make_net(settings).eval()
        own = motion_distil.Settings(steps=STEPS, every=EVERY, guidance=1.4)
        return motion_distil.distil(
            teacher, settings, minutes, out, own, torch.from_numpy(minutes.arms), resume
        )

    return run


def rows(out: Path) -> list[dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


@pytest.mark.parametrize(
    ("module", "make"),
    [
        (speech, lambda: ear(speech)),
        (motion_encoder, lambda: ear(motion_encoder)),
        (motion, lambda: body("face")),
        (motion, lambda: body("life")),
        (motion_distil, distilled),
    ],
    ids=["speech", "encoder", "face", "life", "distillation"],
)
def test_an_interrupted_run_ends_as_one_that_was_not(
    module: Any, make: Callable[[], Run], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = make()
    run(tmp_path / "whole", False)
    calls, real = 0, module.loss_of

    def failing(*args: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls == 6:  # two checkpoints were written, and one step more was taken
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(module, "loss_of", failing)
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path / "parts", False)
    torch.manual_seed(99)  # whatever else the process did meanwhile
    run(tmp_path / "parts", True)
    assert calls == 8  # the steps after the second checkpoint again, and no others
    whole, parts = (
        torch.load(tmp_path / name / "final.pt", weights_only=True) for name in ("whole", "parts")
    )
    assert whole["ema"].keys() == parts["ema"].keys() and whole["settings"] == parts["settings"]
    for name, value in whole["ema"].items():
        assert torch.equal(value, parts["ema"][name]), name
    assert rows(tmp_path / "whole") == rows(tmp_path / "parts")
    assert [row["step"] for row in rows(tmp_path / "parts")] == [2, 4, 6]


def test_other_draws_make_another_network(tmp_path: Path) -> None:
    """What the comparison above would see if a resumed run drew anew, as one does from a checkpoint that lacks the states of the generators."""
    run = body("face")
    run(tmp_path, False)
    whole = torch.load(tmp_path / "final.pt", weights_only=True)["ema"]
    saved = torch.load(tmp_path / "checkpoint.pt", weights_only=True)
    fresh = motion.make_net(motion.Settings(**saved["settings"]))
    early = saved | {"step": 4, "net": fresh.state_dict(), "ema": fresh.state_dict()}
    torch.save({k: v for k, v in early.items() if k not in ("drawn", "torch")}, tmp_path / "checkpoint.pt")
    run(tmp_path, True)
    again = torch.load(tmp_path / "final.pt", weights_only=True)["ema"]
    assert any(not torch.equal(value, again[name]) for name, value in whole.items())
    assert [row["step"] for row in rows(tmp_path)] == [2, 4, 6]


def test_a_run_that_begins_anew_has_a_log_of_its_own(tmp_path: Path) -> None:
    run = body("face")
    run(tmp_path, False)
    run(tmp_path, False)
    assert [row["step"] for row in rows(tmp_path)] == [2, 4, 6]


def test_a_loss_that_is_no_number_stops_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(motion, "loss_of", lambda *_: (torch.tensor(float("nan")), torch.tensor(0.0)))
    with pytest.raises(RuntimeError, match="the loss is nan at step 0"):
        body("face")(tmp_path, False)
    assert not (tmp_path / "checkpoint.pt").exists()


def test_the_learning_rate_rises_and_falls() -> None:
    rates = [loop.learning_rate(step, 0.01, 1000, 100) for step in range(1000)]
    assert np.argmax(rates) in (98, 99) and 0.0095 < max(rates) <= 0.01
    assert rates[0] == pytest.approx(0.0001) and rates[-1] == pytest.approx(0.0002, rel=0.01)
    assert (np.diff(rates[:99]) > 0).all() and (np.diff(rates[100:]) < 0).all()


def test_the_average_begins_as_the_net_and_remembers_more_and_more() -> None:
    ema, net = torch.nn.Linear(1, 1, bias=False), torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.zeros_(ema.weight)
    torch.nn.init.ones_(net.weight)
    moved = []
    for step in (0, 100, 100_000):
        torch.nn.init.zeros_(ema.weight)
        loop.average(ema, net, step, most=0.995)
        moved.append(ema.weight.item())
    assert moved == pytest.approx([1 - 1 / 20, 1 - 101 / 120, 0.005], rel=1e-4)
