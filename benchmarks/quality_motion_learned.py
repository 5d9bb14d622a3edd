"""What film of the person adds to the motion: each film spoken with an articulation that was learned from the same speaker's other films."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from visavis.benchmarks.quality_motion_material import Film
from visavis.benchmarks.quality_motion_sources import spoken
from visavis.engine.articulate import Lesson, Lips, listen, regress
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.motion.diffusion import DiffusionMotion


def lessons_of(films: list[Film], most: int, progress: Callable[[str], None]) -> list[Lesson]:
    """For each film, what `most` others of its speaker, those after it, taught."""
    heard = []
    for film in films:
        progress(f"listening to {film.key}")
        heard.append(listen(film.sound, len(film.mouth)))
    lessons = []
    for k, film in enumerate(films):
        own = [j for j in range(len(films)) if films[j].key.split("/")[0] == film.key.split("/")[0]]
        at = own.index(k)
        others = [own[(at + 1 + j) % len(own)] for j in range(min(most, len(own) - 1))]
        mouth = np.concatenate([films[j].mouth for j in others]).astype(np.float64)
        real = np.nan_to_num(mouth)
        lips = Lips(real[:, 0], real[:, 1], np.isfinite(mouth[:, 0]))
        past, gate = (np.concatenate([heard[j][part] for j in others]) for part in (0, 1))
        lessons.append(regress(lips, past, gate))
    return lessons


def learned_runs(
    films: list[Film], lookahead: int, most: int, progress: Callable[[str], None]
) -> list[FloatArray]:
    """Motion of each film by its lesson."""
    return [
        spoken(DiffusionMotion(0, lookahead, articulation=lesson.articulation), film.sound)
        for film, lesson in zip(films, lessons_of(films, most, progress), strict=True)
    ]
