"""The motion benchmark's figures on curves of known quality, and its command on a film made here."""

from __future__ import annotations

import json

import av
import numpy as np
import pytest
from sounds import sentence
from visavis.benchmarks import quality, quality_motion
from visavis.benchmarks import quality_motion_figures as figures
from visavis.benchmarks import quality_motion_long as long
from visavis.benchmarks.quality_motion_material import Voice, load_voices, not_speech
from visavis.benchmarks.quality_motion_sources import (
    Baseline,
    Mouth,
    find_sources,
    headaudio_folder,
    idle,
    log_energy,
    spoken,
)
from visavis.engine.body.fit import landmark_model
from visavis.engine.errors import MotionError
from visavis.engine.motion.channels import INDEX, N_CHANNELS
from visavis.engine.timing import SAMPLES_PER_FRAME


def phones(*spans: tuple[int, int, int], n: int = 75) -> np.ndarray:
    """Classes at 100 Hz: class `what` in frames [start, end), 14 elsewhere in speech, silence at both ends."""
    out = np.full(4 * n, 14, np.int8)
    out[: 4 * 5] = out[-4 * 5 :] = 0
    for start, end, what in spans:
        out[4 * start : 4 * end] = what
    return out


def mouth_open(n: int = 75, *closed: tuple[int, int]) -> np.ndarray:
    """Lips open in speech (frames 5 to n - 5) but for `closed`."""
    out = np.zeros(n)
    out[5 : n - 5] = 0.1
    for a, b in closed:
        out[a:b] = 0.0
    return out


def test_closures_met_missed_and_uncalled_for_are_counted():
    said = phones((20, 22, 1), (40, 42, 1), (5, 7, 1))
    counts = figures.closure_counts(mouth_open(75, (21, 23), (60, 62)), said)
    assert (
        counts["wanted"] == 3 and counts["met"] == 2
    )  # the first at the edge of silence is met by rest alone
    assert counts["inside"] == 2 and counts["met_inside"] == 1
    assert counts["made"] == 2 and counts["right"] == 1


def test_a_closure_counts_within_one_frame_only():
    said = phones((30, 31, 1))
    for at, met in ((28, 0), (29, 1), (31, 1), (32, 0)):
        assert figures.closure_counts(mouth_open(75, (at, at + 1)), said)["met"] == met


def test_closures_where_the_real_lips_close_are_right():
    real = mouth_open(75, (60, 62))
    counts = figures.closure_counts(mouth_open(75, (60, 62)), phones(), real)
    assert (counts["made"], counts["right"]) == (1, 1)
    assert figures.closure_counts(mouth_open(75, (60, 62)), phones())["right"] == 0


def test_a_mouth_that_never_opens_has_no_precision_and_one_that_never_closes_no_recall():
    said = phones((20, 22, 1))
    shut = figures.closure_counts(np.zeros(75), said)
    assert shut["met"] == 1 and shut["right"] <= shut["made"]
    agape = figures.closure_counts(np.full(75, 0.1), said)
    assert agape["met"] == 0 and figures.share(agape["right"], agape["made"]) is None


def test_languages_are_told_apart_only_as_far_as_there_are_closures():
    few = figures.behind({"wanted": 40, "met": 35}, {"wanted": 40, "met": 37})
    many = figures.behind({"wanted": 4000, "met": 3500}, {"wanted": 4000, "met": 3700})
    assert few[0] == many[0] == 5.0 and few[1] > 6 and many[1] < 0.8
    assert figures.behind({"wanted": 20, "met": 20}, {"wanted": 20, "met": 20})[1] > 3  # nothing is certain


def test_each_language_is_held_against_english_by_the_same_synthesiser():
    said = phones((20, 22, 1), (40, 42, 1))

    def sentence_in(language: str) -> Voice:
        return Voice(language, np.zeros(75 * SAMPLES_PER_FRAME, np.float32), said)

    voices = [sentence_in(name) for name in ("en", "fr", "espeak en-us", "espeak it")]
    closed = [((20, 22), (40, 42)), ((20, 22),), ((20, 22),), ((20, 22), (40, 42))]
    mouths = [np.stack([mouth_open(75, *spans)] * 2, 1) for spans in closed]
    row = quality_motion.voices_row(voices, mouths)
    assert row["languages_wanted"] == dict.fromkeys(row["languages"], 2)
    assert {k: v[0] for k, v in row["languages_behind"].items()} == {"fr": 50.0, "espeak it": -50.0}
    shown = quality_motion.language_rows(row)
    assert shown["en"] == {"closures": 2, "recall": 1.0} and shown["fr"]["behind"] == 50.0


@pytest.mark.parametrize("shift", [-3, 0, 2])
def test_lag_is_found_with_its_sign(shift):
    real = np.convolve(np.random.default_rng(0).standard_normal(300), np.hanning(9), "same")
    made = np.roll(real, -shift)  # early by `shift`
    assert figures.best_lag(made, real) == shift
    assert figures.correlation(made, real, shift) > 0.99


def test_jitter_and_closing_time():
    smooth = np.sin(np.arange(200) / 10)
    noisy = smooth + 0.02 * np.random.default_rng(0).standard_normal(200)
    half = np.arange(len(smooth)) < len(smooth) // 2
    assert figures.reach(np.where(half, 0.1, 0.0), half) == pytest.approx(0.1)
    assert np.isnan(figures.reach(smooth, np.zeros(len(smooth), bool)))
    assert figures.jitter(noisy) > 5 * figures.jitter(smooth)
    assert figures.jitter(np.stack([smooth, smooth], 1)) == pytest.approx(np.sqrt(2) * figures.jitter(smooth))
    fading = np.array([0.1] * 10 + [0.08, 0.03, 0.0, 0.0])
    assert figures.closing_time(fading, 10) == 80
    assert figures.closing_time(np.full(20, 0.1), 10) == float("inf")
    assert figures.closing_time(np.zeros(20), 10) == 0
    assert figures.blinks(np.array([0, 1, 1, 0, 0, 1, 0.2, 0.8])) == 3


class Echo:
    """A source whose jaw follows the level it hears: what a session plays is what comes back."""

    lookahead = 1

    def __init__(self) -> None:
        self.kept = [0.0] * 2

    def step(self, heard):
        for block in heard:
            self.kept = [*self.kept[1:], float(np.abs(block).mean())]
        motion = np.zeros(N_CHANNELS, np.float32)
        motion[INDEX["jawOpen"]] = self.kept[0]
        return motion

    def hush(self) -> None:
        self.kept = [0.0] * 2


def test_sources_are_driven_in_time_and_read():
    sound = np.zeros(30 * SAMPLES_PER_FRAME, np.float32)
    sound[10 * SAMPLES_PER_FRAME : 12 * SAMPLES_PER_FRAME] = 0.5
    motion = spoken(Echo(), sound)
    assert motion.shape == (30, N_CHANNELS)
    loud = np.flatnonzero(motion[:, INDEX["jawOpen"]] > 0.25)
    assert loud.tolist() == [10, 11]
    assert idle(Echo(), 7).shape == (7, N_CHANNELS)
    mouth = Mouth(
        np.eye(52, dtype=np.float32)[INDEX["jawOpen"]], -np.eye(52, dtype=np.float32)[INDEX["jawOpen"]]
    )
    read = mouth.read(motion - 0.1)
    assert read[:, 0].min() == 0 and read[0, 1] == pytest.approx(0.1)


def test_a_baseline_learns_its_map_from_real_mouths():
    rng = np.random.default_rng(0)
    sounds, mouths = [], []
    for _ in range(3):
        gain = np.exp(rng.uniform(-5, 0, 60)).repeat(SAMPLES_PER_FRAME)
        sounds.append((gain * rng.standard_normal(len(gain)) * 0.1).astype(np.float32))
        level = log_energy(sounds[-1:])[0][:, 0]
        mouth = np.stack([0.004 * level, -0.002 * level], 1).astype(np.float32)
        mouth[3] = np.nan
        mouths.append(mouth)
    made = Baseline.fit(log_energy, sounds, mouths)(sounds)
    known = np.isfinite(mouths[0][:, 0])
    assert np.allclose(made[0][known], mouths[0][known], atol=2e-3)


def test_missing_sources_are_named_and_bad_ones_refused(tmp_path):
    found, missing = find_sources(2, tmp_path / "none", [])
    assert "first" in found and found["first"](0).lookahead == 2
    assert "teacher" in missing and "teacher" not in found
    with pytest.raises(MotionError, match="NAME=module:callable"):
        find_sources(2, None, ["wrong"])
    assert headaudio_folder(tmp_path) is None and headaudio_folder(None) is None


def test_sounds_that_are_no_speech_are_as_loud_as_speech():
    for sound in not_speech(2.0).values():
        assert sound.dtype == np.float32 and len(sound) == 32_000
        assert -28 < 10 * np.log10(np.mean(np.square(sound))) < -22


def test_voices_are_read_with_their_language(tmp_path):
    path = tmp_path / "voices.npz"
    sound = (np.random.default_rng(0).standard_normal(16_000) * 3000).astype(np.int16)
    np.savez(path, **{f"{key}/{what}": value for key in ("00001_af_nova", "00002_ff_siwis_pt-br")
                      for what, value in (("sound", sound), ("phones", np.full(100, 14, np.int8)))})  # fmt: skip
    voices = load_voices(path)
    assert [v.language for v in voices] == ["en", "pt-br"] and len(voices[0].phones) == 100


def test_the_command_says_what_is_wrong(tmp_path, capsys):
    assert (
        quality.main(["--stage", "motion", "--data", str(tmp_path), "--cache", str(tmp_path / "c.npz")]) == 2
    )
    assert "no clips" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        quality.main(["--stage", "nonsense"])
    assert quality.main(["--help"]) == 0 and "--stage motion" in capsys.readouterr().out


@pytest.fixture
def talking_film(tmp_path):
    """grid/val/s26 with one film, its landmarks already measured: our own rig, whose jaw follows the level."""
    n = 75
    rng = np.random.default_rng(0)
    level = np.where(np.arange(n) % 15 < 10, 0.15, 0.01) * (np.arange(n) > 8)
    sound = sentence(n / 25)[: n * SAMPLES_PER_FRAME] * level.repeat(SAMPLES_PER_FRAME) / 0.15
    folder = tmp_path / "data/grid/val/s26"
    folder.mkdir(parents=True)
    with av.open(str(folder / "bbaf2n.mkv"), "w") as out:
        stream = out.add_stream("pcm_s16le", rate=16_000, layout="mono")
        frame = av.AudioFrame.from_ndarray((sound * 32767).astype(np.int16)[None], "s16", "mono")
        frame.sample_rate = 16_000
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    rig = landmark_model()
    jaw = np.clip(np.convolve(level, [0.3, 0.4, 0.3], "same") * 3, 0, 0.5)
    points = rig.mean + jaw[:, None, None] * rig.units[INDEX["jawOpen"]]
    picture = points[..., :2] * [800, -800] + [180, 144] + 0.02 * rng.standard_normal((n, 1, 2))
    cache = tmp_path / "films.npz"
    np.savez(
        cache,
        **{"s26/bbaf2n/landmarks": picture.astype(np.float32), "s26/bbaf2n/phones": phones((20, 22, 1))},
    )
    return tmp_path / "data", cache


def test_the_whole_benchmark_on_a_film_made_here(tmp_path, capsys, talking_film, monkeypatch):
    """One film: rows for every source that is there, and a last line that is JSON."""
    monkeypatch.setattr(quality_motion, "MINUTE", 300)
    monkeypatch.setattr(long, "MINUTE", 200)
    monkeypatch.setattr(long, "SPEAKING", 120)
    monkeypatch.setattr(quality_motion, "not_speech", lambda: not_speech(2.0))
    data, cache = talking_film
    assert (
        quality.main(
            [
                "--stage",
                "motion",
                "--data",
                str(data),
                "--cache",
                str(cache),
                "--peer",
                str(tmp_path),
                "--minutes",
                "2",
            ]
        )
        == 0
    )
    lines = capsys.readouterr().out.strip().splitlines()
    result = json.loads(lines[-1])
    first = result["sources"]["first"]
    assert result["films"] == 1 and first["silence_aperture_max"] == 0
    assert {"aperture", "width", "lag", "landmarks", "jitter", "closing_ms", "recall"} <= set(first)
    assert first["aperture"] > 0.2 and first["head_deg_silence"] > 0 and first["seeds_aperture"] > 0.95
    assert result["sources"]["real lips"]["closures_wanted"] == 1
    assert result["cost"]["ms_batch_1"] > 0 and result["cost"]["ms_batch_16"] > 0
    assert set(result["drift"]) == set(long.FIGURES)


def test_drift_is_told_from_what_varies_anyway():
    rng = np.random.default_rng(0)
    steady = [{name: 1 + 0.1 * rng.standard_normal() for name in long.FIGURES} for _ in range(60)]
    adrift = [row | {"head_off_deg": 0.2 * k} for k, row in enumerate(steady)]
    found = long.drift(adrift)
    assert abs(found["head_off_deg"]["last"] - 0.2 * 57) < 1e-6 and found["head_off_deg"]["apart"] > 4
    assert max(abs(long.drift(steady)[name]["apart"]) for name in long.FIGURES) < 3.5
    minute = long.minute_of([np.ones(3 * 16000, np.float32)])
    assert minute.shape == (long.MINUTE, SAMPLES_PER_FRAME)
    assert minute[: long.SPEAKING].any() and not minute[long.SPEAKING :].any()
