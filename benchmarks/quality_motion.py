"""visavis bench quality --stage motion: does the motion follow the speech, and does it live?

    visavis bench quality --stage motion --data DATA [--voices VOICES.npz] [--peer DIR] [--teacher DIR] [--minutes 60] [--learn N] [--plots DIR]

Speakers that nothing was trained on (DATA/grid/val/s26, s31) and synthetic voices, spoken by every motion source that is there (the student, the
teacher if --teacher names its networks, the first network), by the sound's log energy, and by a peer, HeadAudio (npm @met4citizen/headaudio, a
real-time viseme detector; --peer names a folder that holds it, --install-peer fetches it there; it needs node). Sources run as a session runs them.
Baselines know no mouth: a linear map from their values to aperture and width is fitted to films of other
speakers (DATA/grid/train/other), and the peer's viseme for p, b and m shuts the lips.

aperture, width: correlation with the real lips (spoken: aperture in speech alone, for real lips rest parted); lag: frames by which the lips are early; amplitude: against the real one; reach: mean aperture in speech;
landmarks: mean error of the 40 lip landmarks, % of the eyes' distance; recall, precision: lips meet within one frame of a p, b or m
(found by PyPI pocketsphinx from the known words) and, of the closures made in speech, how many belong there or where the real lips closed;
jitter: third difference of the aperture against the real one's; seeds: correlation of aperture and of head between two seeds; closing: time
from the end of speech to closed lips; then a minute of silence and of noise. With --minutes N the student lives so long, minute after minute
with the same sound, and its last minutes are compared with its first. cost: milliseconds of a frame, one session and sixteen at once (alone on
the machine, or the figure says nothing). With --learn N the row "learned" is the student with the articulation that N other films of the same speaker
taught (what `visavis enroll FILM` learns). The last line is JSON.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.benchmarks import quality_motion_figures as figures
from visavis.benchmarks import quality_motion_long as long
from visavis.benchmarks.quality_motion_cost import cost
from visavis.benchmarks.quality_motion_learned import learned_runs
from visavis.benchmarks.quality_motion_material import (
    SPEAKERS,
    Film,
    Voice,
    load_films,
    load_voices,
    not_speech,
)
from visavis.benchmarks.quality_motion_sources import (
    VISEME_PP,
    Baseline,
    Factory,
    Mouth,
    find_sources,
    headaudio,
    headaudio_folder,
    idle,
    install_headaudio,
    log_energy,
    spoken,
)
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.errors import VisavisError
from visavis.engine.motion.channels import FACE_SLICE, GAZE_SLICE, HEAD_SLICE, INDEX, NECK_SLICE
from visavis.engine.timing import SAMPLES_PER_FRAME

MINUTE = 1500
DEGREE = float(np.pi / 180)
Row = dict[str, Any]


def lips_row(films: list[Film], mouths: list[FloatArray]) -> Row:
    """Figures of aperture and width (T, 2) a film against the real ones."""
    values: dict[str, list[float]] = {
        k: [] for k in ("aperture", "spoken", "width", "amplitude", "reach", "lag", "jitter")
    }
    counts: dict[str, int] = {}
    by_phones: dict[str, int] = {}
    for film, mouth in zip(films, mouths, strict=True):
        n = min(len(mouth), len(film.mouth))
        made, real = mouth[:n], film.mouth[:n]
        known = np.isfinite(real[:, 0])
        values["aperture"].append(figures.correlation(made[:, 0], real[:, 0]))
        values["spoken"].append(figures.correlation(made[film.voiced[:n], 0], real[film.voiced[:n], 0]))
        values["width"].append(figures.correlation(made[:, 1], real[:, 1]))
        values["lag"].append(figures.best_lag(made[:, 0], real[:, 0]))
        values["amplitude"].append(float(made[known, 0].std() / real[known, 0].std()))
        values["reach"].append(figures.reach(made[:, 0], film.voiced[:n] & known))
        values["jitter"].append(figures.jitter(made[known, 0]) / figures.jitter(real[known, 0]))
        if film.phones is not None:
            counts = figures.add(
                counts, figures.closure_counts(made[:, 0], film.phones, np.where(known, real[:, 0], 1.0))
            )
            by_phones = figures.add(by_phones, figures.closure_counts(made[:, 0], film.phones))
    row: Row = {name: figures.mean(v) for name, v in values.items() if name != "lag"}
    row["lag"] = float(np.median(values["lag"]))
    row.update(_closure_row(counts))
    # judged as synthetic voices are, whose lips nobody has seen: real lips meet at more than p, b and m
    row["precision_phones"] = figures.share(by_phones["right"], by_phones["made"]) if by_phones else None
    for speaker in SPEAKERS:
        own = [v for f, v in zip(films, values["aperture"], strict=True) if f.key.startswith(speaker + "/")]
        row[f"aperture_{speaker}"] = figures.mean(own)
    return row


def _closure_row(counts: dict[str, int]) -> Row:
    if not counts:
        return {"recall": None, "precision": None}
    return {
        "recall": figures.share(counts["met"], counts["wanted"]),
        "recall_inside": figures.share(counts["met_inside"], counts["inside"]),
        "precision": figures.share(counts["right"], counts["made"]),
        "closures_wanted": counts["wanted"],
        "closures_made": counts["made"],
    }


def voices_row(voices: list[Voice], mouths: list[FloatArray]) -> Row:
    """Closure recall and precision over all voices, and recall by language."""
    total: dict[str, int] = {}
    by_language: dict[str, dict[str, int]] = {}
    reaches = []
    for voice, mouth in zip(voices, mouths, strict=True):
        n = min(len(mouth), len(voice.phones) // 4)
        reaches.append(figures.reach(mouth[:n, 0], voice.phones[: 4 * n : 4] != figures.SILENCE))
        counts = figures.closure_counts(mouth[:, 0], voice.phones)
        total = figures.add(total, counts)
        by_language[voice.language] = figures.add(by_language.get(voice.language, {}), counts)
    row: Row = {
        f"voices_{k}": v
        for k, v in _closure_row(total).items()
        if k in ("recall", "recall_inside", "precision")
    }
    row["voices_reach"] = figures.mean(reaches)
    row["languages"] = {k: figures.share(c["met"], c["wanted"]) for k, c in sorted(by_language.items())}
    row["languages_wanted"] = {k: c["wanted"] for k, c in sorted(by_language.items())}
    row["languages_behind"] = {
        k: figures.behind(c, by_language[english(k)])
        for k, c in sorted(by_language.items())
        if english(k) in by_language and k != english(k)
    }
    return row


LANGUAGE_COLUMNS = ("closures", "recall", "behind", "error")


def language_rows(row: Row) -> dict[str, Row]:
    """By language, how far recall is behind English; in points."""
    return {
        name: {"closures": row["languages_wanted"][name], "recall": row["languages"][name]}
        | dict(zip(("behind", "error"), row["languages_behind"].get(name, ()), strict=False))
        for name in row["languages"]
    }


def english(language: str) -> str:
    """English by the same synthesiser: they differ more than languages do."""
    return "espeak en-us" if language.startswith("espeak ") else "en"


def _head(motion: FloatArray) -> FloatArray:
    return (motion[:, HEAD_SLICE] + motion[:, NECK_SLICE]) / np.float32(DEGREE)


def landmark_error(films: list[Film], runs: list[FloatArray], lip_units: FloatArray) -> float | None:
    """Mean error of the lips' landmarks in % of the eyes' distance; `lip_units` (52, 40, 2)."""
    errors = []
    for film, motion in zip(films, runs, strict=True):
        n = min(len(motion), len(film.lips))
        made = np.tensordot(motion[:n, FACE_SLICE], lip_units, 1)
        known = np.isfinite(film.mouth[:n, 0])
        errors.append(float(np.linalg.norm(made - film.lips[:n], axis=2)[known].mean()) * 100)
    return figures.mean(errors)


def life_row(
    make: Factory, films: list[Film], runs: list[FloatArray], mouth: Mouth, lip_units: FloatArray
) -> Row:
    """What only a whole source can show. `runs`: its motion of each film with seed 0; `lip_units` (52, 40, 2)."""
    row: Row = {"landmarks": landmark_error(films, runs, lip_units)}
    # two seeds, one speech of many sentences: the same lips, another head
    speech = np.concatenate([film.sound for film in films[:8]])
    one, two = spoken(make(0), speech), spoken(make(1), speech)
    row["seeds_aperture"] = round(figures.correlation(mouth.read(one)[:, 0], mouth.read(two)[:, 0]), 4)
    row["seeds_head"] = round(
        float(np.mean([figures.correlation(_head(one)[:, k], _head(two)[:, k]) for k in range(3)])), 4
    )
    row["seeds_head_apart_deg"] = round(float(np.linalg.norm(_head(one) - _head(two), axis=1).mean()), 3)
    row["head_deg_speaking"] = round(float(_head(one).std(0).mean()), 3)
    row["head_jitter_deg"] = round(figures.jitter(_head(one)), 4)
    talk = np.concatenate(
        [np.concatenate([f.sound, np.zeros(50 * SAMPLES_PER_FRAME, np.float32)]) for f in films[:16]]
    )
    talking = spoken(make(2), talk)
    row["blinks_speaking"] = round(
        figures.blinks(talking[:, INDEX["eyeBlinkLeft"]]) / len(talking) * MINUTE, 1
    )
    row.update(_closing(make, films, mouth))
    row.update(_alone(make, mouth))
    return row


def _closing(make: Factory, films: list[Film], mouth: Mouth) -> Row:
    """Speech cut off in the middle of a loud sound, then silence."""
    times = []
    for film in films:
        blocks = film.sound[: len(film.sound) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME].reshape(
            -1, SAMPLES_PER_FRAME
        )
        level = np.square(blocks).mean(1)
        loud = np.flatnonzero(level > np.percentile(level, 75))
        end = int(loud[len(loud) // 2]) + 1
        cut = np.concatenate(
            [film.sound[: end * SAMPLES_PER_FRAME], np.zeros(25 * SAMPLES_PER_FRAME, np.float32)]
        )
        times.append(figures.closing_time(mouth.read(spoken(make(0), cut))[:, 0], end))
    known = sorted(times)
    return {"closing_ms": float(np.median(known)), "closing_ms_worst": float(known[-1])}


def _alone(make: Factory, mouth: Mouth) -> Row:
    """A minute in which nobody speaks, then sound that is no speech."""
    still = idle(make(3), MINUTE)
    lids = [figures.blinks(idle(make(seed), MINUTE)[:, INDEX["eyeBlinkLeft"]]) for seed in (4, 5)]
    lids.append(figures.blinks(still[:, INDEX["eyeBlinkLeft"]]))
    breath = still[:, INDEX["clavicleLeft.z"]] / DEGREE
    row: Row = {
        "silence_aperture_max": round(float(mouth.read(still)[:, 0].max()), 4),
        "blinks_silence": round(float(np.mean(lids)), 1),
        "head_deg_silence": round(float(_head(still).std(0).mean()), 3),
        "gaze_deg_silence": round(float(still[:, GAZE_SLICE].std(0).mean()) / DEGREE, 3),
        "breath_deg_silence": round(float(breath.std()), 3),
    }
    noise: dict[str, float] = {}
    shown = 0
    for name, sound in not_speech().items():
        aperture = mouth.read(spoken(make(6), sound))[:, 0]
        noise[name] = round(float(aperture.max()), 4)
        shown += int((aperture > figures.CLOSED).sum())
    row["noise_aperture_max"] = noise
    row["noise_frames_open"] = shown
    return row


def real_row(films: list[Film]) -> Row:
    """What the same measures say of the real lips: no source can be asked for more."""
    row = lips_row(films, [np.nan_to_num(film.mouth) for film in films])
    return {
        k: row.get(k)
        for k in (
            "reach",
            "recall",
            "recall_inside",
            "precision",
            "precision_phones",
            "closures_wanted",
            "closures_made",
        )
    }


COLUMNS = (
    "aperture", "spoken", "width", "lag", "amplitude", "reach", "landmarks", "recall", "recall_inside", "precision", "precision_phones", "jitter", "seeds_aperture", "seeds_head",
)  # fmt: skip
ALIVE = (
    "closing_ms", "closing_ms_worst", "silence_aperture_max", "noise_frames_open", "blinks_speaking", "blinks_silence",
    "head_deg_speaking", "head_deg_silence", "gaze_deg_silence", "breath_deg_silence", "head_jitter_deg",
)  # fmt: skip


def measure(args: argparse.Namespace) -> dict[str, Any]:
    """All figures, printed as they come."""
    from visavis.engine.body.model import WEIGHTS
    from visavis.engine.training.data import LIPS, MouthRig

    def say(text: str) -> None:
        if sys.stderr.isatty():
            print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)

    rig = MouthRig.load(WEIGHTS / "body.npz")
    mouth, lip_units = Mouth(rig.aperture, rig.width), rig.units[:, list(LIPS)]
    grid = args.data / "grid"
    missing: dict[str, str] = {}
    aligned = True
    try:
        import pocketsphinx  # noqa: F401
    except ImportError:
        aligned = False
        missing["closure on films"] = "pocketsphinx is not installed (pip install pocketsphinx==5.1.1)"
    share = None if args.clips is None else max(1, args.clips // len(SPEAKERS))
    films = load_films(
        [grid / "val" / s for s in SPEAKERS], args.cache, aligned, share, lambda k: say(f"measuring {k}")
    )
    if not films:
        raise VisavisError(f"no clips of {', '.join(SPEAKERS)} under {grid / 'val'}")
    fitting = load_films([grid / "train/other"], args.cache, False, None, lambda k: say(f"measuring {k}"))
    voices = [voice for path in args.voices for voice in load_voices(path, args.sentences)]
    sounds = [film.sound for film in films]
    fit_on = [film.sound for film in fitting], [film.mouth for film in fitting]
    factories, absent = find_sources(args.lookahead, args.teacher, args.source)
    missing.update(absent)
    rows: dict[str, Row] = {"real lips": real_row(films)}
    curves: dict[str, list[npt.NDArray[np.floating]]] = {"real": [film.mouth for film in films]}
    for name, make in factories.items():
        say(f"{name}: films")
        runs = [spoken(make(0), sound) for sound in sounds]
        curves[name] = [mouth.read(motion) for motion in runs]
        rows[name] = lips_row(films, curves[name])
        say(f"{name}: voices")
        if voices:
            rows[name].update(voices_row(voices, [mouth.read(spoken(make(0), v.sound)) for v in voices]))
        say(f"{name}: life")
        rows[name].update(life_row(make, films, runs, mouth, lip_units))
    if args.learn:
        runs = learned_runs(films, args.lookahead, args.learn, say)
        curves["learned"] = [mouth.read(motion) for motion in runs]
        rows["learned"] = lips_row(films, curves["learned"])
        rows["learned"]["landmarks"] = landmark_error(films, runs, lip_units)
    baselines: dict[str, Baseline] = {}
    if fitting:
        baselines["log energy"] = Baseline.fit(log_energy, *fit_on)
        if args.install_peer and args.peer is not None and headaudio_folder(args.peer) is None:
            install_headaudio(args.peer)
        folder = headaudio_folder(args.peer)
        if folder is None:
            missing["headaudio"] = "not installed (--peer DIR --install-peer fetches it; needs node and npm)"
        else:
            fitted = Baseline.fit(lambda s: headaudio(folder, args.lookahead, s), *fit_on)
            baselines["headaudio"] = replace(fitted, shut=VISEME_PP)
    for name, baseline in baselines.items():
        say(name)
        curves[name] = list(baseline(sounds))
        rows[name] = lips_row(films, curves[name])
        if voices:
            rows[name].update(voices_row(voices, baseline([v.sound for v in voices])))
        noise = np.concatenate(baseline(list(not_speech().values())))[:, 0]
        rows[name]["noise_frames_open"] = int((noise > figures.CLOSED).sum())
    say("")
    print(f"{len(films)} films of {', '.join(SPEAKERS)}, look-ahead {args.lookahead * 40} ms\n")
    print(figures.table(rows, COLUMNS))
    print("\nwhat lives (degrees, ms, a minute):")
    print(figures.table({k: r for k, r in rows.items() if k in factories or k in baselines}, ALIVE))
    if voices:
        spoken_by = {
            k: r["languages"]
            | {"all": r["voices_recall"], "precision": r["voices_precision"], "reach": r["voices_reach"]}
            for k, r in rows.items()
            if "languages" in r
        }
        languages = tuple(sorted({v.language for v in voices}))
        print("\nclosure recall, synthetic voices by language:")
        print(figures.table(spoken_by, (*languages, "all", "precision", "reach")))
        if "student" in rows:
            print(
                "\nstudent, points behind English by the same synthesiser, with the standard error of the difference:"
            )
            print(figures.table(language_rows(rows["student"]), LANGUAGE_COLUMNS))
    costs: dict[str, float] = {}
    hours: dict[str, Any] = {}
    lived: list[dict[str, float]] = []
    if "student" in factories:
        costs = cost(np.concatenate(sounds[:4]), args.lookahead)
        print("\ncost, ms a frame and session: " + ", ".join(f"{k} {v}" for k, v in costs.items()))
        if args.minutes:
            minute = long.minute_of(sounds)
            lived = long.live(
                factories["student"](0),
                minute,
                args.minutes,
                mouth,
                lambda k: say(f"minute {k} of {args.minutes}"),
            )
            say("")
            hours = long.drift(lived)
            print(
                f"\n{args.minutes} minutes, the first {long.AT_EACH_END} and the last (apart: in standard errors):"
            )
            print(figures.table(hours, ("first", "last", "apart")))
    for name, why in missing.items():
        print(f"missing: {name}: {why}")
    if args.plots is not None:
        from visavis.benchmarks.quality_motion_plots import draw, draw_hour

        drawn = draw(args.plots, films, curves, rows, {k: make for k, make in factories.items()})
        for path in [*drawn, *([draw_hour(args.plots, lived)] if lived else [])]:
            print(f"drawn: {path}")
    return {
        "bench": "quality",
        "stage": "motion",
        "films": len(films),
        "voices": len(voices),
        "lookahead": args.lookahead,
        "sources": rows,
        "cost": costs,
        "drift": hours,
        "missing": missing,
    }


def main(argv: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(
        prog="visavis bench quality --stage motion",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--data", type=Path, required=True, help="data folder that holds grid/")
    parser.add_argument("--clips", type=int, help="films in all (default: every one)")
    parser.add_argument(
        "--voices",
        type=Path,
        nargs="+",
        default=[],
        help="synthetic sentences by visavis.engine.training.voices or voices_espeak, not trained on",
    )
    parser.add_argument("--sentences", type=int, help="at most so many of each file")
    parser.add_argument(
        "--lookahead", type=int, choices=(0, 1, 2), default=2, help="frames (default: %(default)s)"
    )
    parser.add_argument(
        "--minutes", type=int, default=0, help="live so long and look for drift (60: two minutes)"
    )
    parser.add_argument(
        "--learn",
        type=int,
        default=0,
        metavar="N",
        help="learn each speaker's articulation from so many of the other films (default: none)",
    )
    parser.add_argument("--teacher", type=Path, help="folder with the teacher's motion_*.onnx")
    parser.add_argument(
        "--source",
        action="append",
        default=[],
        metavar="NAME=MODULE:CALLABLE",
        help="another source: callable(seed=, lookahead=)",
    )
    parser.add_argument(
        "--peer", type=Path, default=Path("runs/peers"), help="folder of the peer (default: %(default)s)"
    )
    parser.add_argument(
        "--install-peer",
        action="store_true",
        help="fetch the peer from the npm registry first if it is not there",
    )
    parser.add_argument("--plots", type=Path, metavar="DIR", help="write PNGs there (needs matplotlib)")
    parser.add_argument(
        "--cache",
        type=Path,
        default=Path("runs/quality_films.npz"),
        help="keeps measured landmarks (default: %(default)s)",
    )
    args = parser.parse_args(argv)
    try:
        result = measure(args)
    except (VisavisError, OSError) as error:
        print(f"visavis: {error}", file=sys.stderr)
        return 2
    print(json.dumps(result))
    return 0


if __name__ == "__main__":
    sys.exit(main())
