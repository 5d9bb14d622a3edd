"""Pictures of the motion benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.benchmarks.quality_motion_figures import CLOSED, closures
from visavis.benchmarks.quality_motion_material import Film
from visavis.benchmarks.quality_motion_sources import Factory, idle, spoken
from visavis.engine.errors import VisavisError
from visavis.engine.motion.channels import GAZE_SLICE, HEAD_SLICE, INDEX, NECK_SLICE
from visavis.engine.timing import SAMPLES_PER_FRAME

COLOURS = ("#000000", "#c8442c", "#2f6f9f", "#d6a11e", "#4f8a4c", "#7d5ba6", "#888888")


def draw(
    folder: Path,
    films: list[Film],
    curves: dict[str, list[npt.NDArray[np.floating]]],
    rows: dict[str, dict[str, Any]],
    factories: dict[str, Factory],
) -> list[Path]:
    """PNG files of the curves, the scores, the languages, and of a minute of each source's life; VisavisError without matplotlib."""
    try:
        import matplotlib

        matplotlib.use("Agg")
        import matplotlib.pyplot as plt
    except ImportError:
        raise VisavisError("--plots needs matplotlib: pip install matplotlib") from None
    folder.mkdir(parents=True, exist_ok=True)
    colour = dict(zip(curves, COLOURS, strict=False))
    written = []

    def save(name: str) -> None:
        plt.tight_layout()
        plt.savefig(folder / name, dpi=80)
        plt.close()
        written.append(folder / name)

    picks = [films.index(f) for f in (films[0], films[len(films) // 3], films[len(films) // 2], films[-1])]
    _, axes = plt.subplots(len(picks), 2, figsize=(17, 2.6 * len(picks)), squeeze=False)
    for pair, k in zip(axes, picks, strict=True):
        for column, (axis, label) in enumerate(zip(pair, ("aperture", "width"), strict=True)):
            for name, own in curves.items():
                axis.plot(own[k][:, column], color=colour[name], lw=2 if name == "real" else 1.1, label=name)
            axis.set_title(f"{films[k].key}: {label}", fontsize=9)
        phones = films[k].phones
        if phones is not None:
            for a, b in closures(phones, len(films[k].mouth)):
                pair[0].axvspan(a - 0.5, b - 0.5, color="#c8442c", alpha=0.15)
        pair[0].axhline(CLOSED, color="#bbbbbb", lw=0.7)
    axes[0][0].legend(fontsize=7)
    save("lips.png")

    scores = ("aperture", "width", "recall", "recall_inside", "precision")
    names = [n for n in rows if n != "real lips"]
    plt.figure(figsize=(10, 3.6))
    for j, name in enumerate(names):
        values = [rows[name].get(s) or 0 for s in scores]
        plt.bar(
            np.arange(len(scores)) + j * 0.8 / len(names),
            values,
            0.8 / len(names),
            color=colour.get(name),
            label=name,
        )
    plt.xticks(np.arange(len(scores)) + 0.3, scores)
    plt.legend(fontsize=8)
    save("scores.png")

    if any("languages" in row for row in rows.values()):
        spoken_by = [n for n in names if "languages" in rows[n]]
        languages = list(rows[spoken_by[0]]["languages"])
        plt.figure(figsize=(10, 3.2))
        for j, name in enumerate(spoken_by):
            values = [rows[name]["languages"].get(x) or 0 for x in languages]
            plt.bar(
                np.arange(len(languages)) + j * 0.8 / len(spoken_by),
                values,
                0.8 / len(spoken_by),
                color=colour.get(name),
                label=name,
            )
        plt.xticks(np.arange(len(languages)) + 0.3, languages)
        plt.title("lip closure recall on p, b, m by language", fontsize=9)
        plt.legend(fontsize=8)
        save("languages.png")

    talk = np.concatenate(
        [np.concatenate([f.sound, np.zeros(40 * SAMPLES_PER_FRAME, np.float32)]) for f in films[:6]]
    )
    _, axes = plt.subplots(5, len(factories), figsize=(8 * len(factories), 9), squeeze=False)
    for j, (name, make) in enumerate(factories.items()):
        motion = np.concatenate([spoken(make(0), talk), idle(make(0), 500)])
        head = np.degrees(motion[:, HEAD_SLICE] + motion[:, NECK_SLICE])
        lines = (
            ("jawOpen", motion[:, [INDEX["jawOpen"]]]), ("head, degrees: pitch, yaw, roll", head), ("gaze, degrees", np.degrees(motion[:, GAZE_SLICE][:, :2])),
            ("blink, brow", motion[:, [INDEX["eyeBlinkLeft"], INDEX["browInnerUp"]]]), ("shoulders", np.degrees(motion[:, [INDEX["clavicleLeft.z"], INDEX["spine.x"]]])),
        )  # fmt: skip
        for axis, (title, values) in zip(axes[:, j], lines, strict=True):
            axis.plot(np.arange(len(values)) / 25, values, lw=0.9)
            axis.axvline(len(talk) / SAMPLES_PER_FRAME / 25, color="#999999", ls=":")
            axis.set_title(f"{name}: {title}", fontsize=9)
    save("life.png")
    return written


def draw_hour(folder: Path, rows: list[dict[str, float]]) -> Path:
    """A PNG of each figure, minute by minute."""
    import matplotlib.pyplot as plt

    _, axes = plt.subplots(3, 3, figsize=(13, 6.5), sharex=True)
    for axis, name in zip(axes.ravel(), rows[0], strict=False):
        axis.plot(np.arange(1, len(rows) + 1), [row[name] for row in rows], lw=1)
        axis.set_ylim(bottom=0)
        axis.set_title(name, fontsize=9)
    plt.tight_layout()
    plt.savefig(folder / "hour.png", dpi=80)
    plt.close()
    return folder / "hour.png"
