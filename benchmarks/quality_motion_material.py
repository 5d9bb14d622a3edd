"""What the motion benchmark plays: films of unseen speakers with their lips measured, synthetic voices, silence, and sound that is no speech."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.errors import VideoError
from visavis.engine.timing import SAMPLE_RATE

SPEAKERS = ("s26", "s31")
"""Validation speakers, never trained on."""


@dataclass(frozen=True)
class Film:
    """A clip: `sound` at 16 kHz, `mouth` (T, 2) aperture and width of the real lips relative to closed and to rest, in distances between the outer
    eye corners (NaN without a face), `lips` (T, 40, 2) displacement of the lips' landmarks from rest, `voiced` (T,) frames in which the mouth speaks, `phones` at 100 Hz or None."""

    key: str
    sound: FloatArray
    mouth: FloatArray
    lips: FloatArray
    voiced: npt.NDArray[np.bool_]
    phones: npt.NDArray[np.int8] | None


@dataclass(frozen=True)
class Voice:
    """A synthetic sentence: `language`, `sound` at 16 kHz, `phones` classes at 100 Hz."""

    language: str
    sound: FloatArray
    phones: npt.NDArray[np.int8]


def measure(path: Path) -> FloatArray:
    """Landmarks (T, 478, 2) of a film, NaN without a face."""
    from visavis.engine.body.detect import FaceTracker
    from visavis.engine.footage import read_frames

    tracker, face, out = FaceTracker(), None, []
    for frame, _ in read_frames(path):
        face = tracker.track(frame, face) if face is not None else tracker.detect(frame)
        out.append(np.full((478, 2), np.nan) if face is None else face.landmarks[:, :2])
    return np.asarray(out, np.float32)


def film(path: Path, landmarks: FloatArray, phones: npt.NDArray[np.int8] | None) -> Film:
    """One clip from its landmarks (T, 478, 2)."""
    from visavis.engine.audio.decode import read_sound
    from visavis.engine.training.data import LIPS, openings, speech_frames, stabilise

    known = np.isfinite(landmarks).all((1, 2))
    if known.mean() < 0.5:
        raise VideoError(f"{path}: a face in {known.mean():.0%} of the frames only")
    sound = read_sound(path)
    at = np.flatnonzero(known)  # frames without a face take the nearest one's
    points = landmarks[at[np.abs(np.arange(len(landmarks))[:, None] - at).argmin(1)]]
    aperture, width = openings(points)
    # rest as in training: lips are closed at the clip's most closed moments, the width rests where nobody speaks
    closed = aperture <= np.percentile(aperture, 12)
    silent = ~speech_frames(sound, len(points), before=6, after=6)
    rest = silent if silent.sum() >= 4 else closed
    steady = stabilise(
        points * np.array([1, -1], np.float32), points[closed].mean(0) * np.array([1, -1], np.float32)
    )
    scale = np.linalg.norm(steady[:, 33] - steady[:, 263], axis=1).mean()
    lips = (steady - np.median(steady[closed], axis=0))[:, list(LIPS)] / scale
    mouth = np.stack([aperture - np.median(aperture[closed]), width - np.median(width[rest])], 1)
    mouth[~known] = np.nan
    voiced = speech_frames(sound, len(points), before=5, after=2)
    return Film(
        f"{path.parent.name}/{path.stem}",
        sound,
        mouth.astype(np.float32),
        lips.astype(np.float32),
        voiced,
        phones,
    )


def load_films(
    folders: list[Path], cache: Path | None, aligned: bool, most: int | None, progress: Callable[[str], None]
) -> list[Film]:
    """Films of all clips in `folders`; landmarks and phonemes are kept in the file `cache`."""
    from visavis.engine.audio.decode import read_sound

    kept: dict[str, npt.NDArray[np.generic]] = {}
    if cache is not None and cache.exists():
        with np.load(cache) as data:
            kept = {name: data[name] for name in data.files}
    before, aligner, films = len(kept), None, []
    for folder in folders:
        for path in sorted(folder.glob("*.mkv"))[:most]:
            key = f"{path.parent.name}/{path.stem}"
            progress(key)
            if f"{key}/landmarks" not in kept:
                kept[f"{key}/landmarks"] = measure(path)
            if aligned and f"{key}/phones" not in kept:
                from visavis.engine.training.motion_align import Aligner, sentence

                aligner = aligner or Aligner()
                found = aligner(read_sound(path), sentence(path.stem))
                kept[f"{key}/phones"] = np.zeros(0, np.int8) if found is None else found
            phones = kept.get(f"{key}/phones")
            films.append(
                film(
                    path, np.asarray(kept[f"{key}/landmarks"], np.float32),
                    None if phones is None or not len(phones) else np.asarray(phones, np.int8),
                )
            )  # fmt: skip
    if cache is not None and len(kept) > before:
        cache.parent.mkdir(parents=True, exist_ok=True)
        partial = cache.with_suffix(f".{os.getpid()}.part")
        with open(partial, "wb") as file:
            np.savez_compressed(file, **kept)  # type: ignore[arg-type]
        os.replace(partial, cache)
    return films


def load_voices(path: Path, most: int | None = None) -> list[Voice]:
    """Sentences of a file made by `engine.training.voices` or `voices_espeak`: NUMBER_VOICE_NAME[_LANGUAGE]."""
    from visavis.engine.training.data import tidy_phones

    voices = []
    with np.load(path) as made:
        for name in sorted(n for n in made.files if n.endswith("/sound")):
            key = name[: -len("/sound")]
            parts = key.split("_")
            sound = made[name].astype(np.float32) / 32768
            language = parts[3] if len(parts) > 3 else "en"
            if parts[1] == "espeak":
                language = f"espeak {language}"
            voices.append(Voice(language, sound, tidy_phones(sound, made[f"{key}/phones"])))
    return voices[:most]


def not_speech(seconds: float = 15.0, seed: int = 0) -> dict[str, FloatArray]:
    """Sounds that nobody speaks, at -25 dB of full scale: hiss, hum, a single tone, music (chords with a beat), clatter."""
    rng = np.random.default_rng(seed)
    n = int(seconds * SAMPLE_RATE)
    t = np.arange(n) / SAMPLE_RATE
    sounds = {
        "hiss": rng.standard_normal(n),
        "hum": sum(np.sin(2 * np.pi * 50 * k * t + k) / k for k in range(1, 9))
        + 0.05 * rng.standard_normal(n),
        "tone": np.sin(2 * np.pi * 440 * t),
    }
    music = np.zeros(n)
    for start in np.arange(0, seconds - 0.5, 0.5):
        since = np.clip(t - start, 0, None)
        ring = np.where(t >= start, np.exp(-3 * since) * np.minimum(since / 0.01, 1), 0)
        for note in rng.choice([0, 3, 5, 7, 10, 12, 15, 17], 3, replace=False):
            for k in (1, 2, 3, 4):
                music += ring * np.sin(2 * np.pi * 220 * 2 ** (note / 12) * k * t) / k**1.5
    sounds["music"] = music
    clatter = 0.003 * rng.standard_normal(n)
    for start in rng.integers(0, n - 4000, int(4 * seconds)):
        length = int(rng.integers(100, 3000))
        clatter[start : start + length] += rng.standard_normal(length) * np.exp(
            -6 * np.arange(length) / length
        )
    sounds["clatter"] = clatter
    return {
        name: (0.056 * sound / np.sqrt(np.mean(np.square(sound)))).clip(-1, 1).astype(np.float32)
        for name, sound in sounds.items()
    }
