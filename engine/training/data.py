"""GRID as training data: sound, and what the mouth of our rig does with it.

MediaPipe's coefficients know which shape a mouth takes but undershoot how far (through our rig their lip
aperture is 0.75 of the real one). So each frame's coefficients are refined: ridge regression of the lip and
chin landmarks' displacement from rest onto the rig's own face units, with MediaPipe's coefficients as the
prior. All is relative to the clip's rest, so zero is the silent, closed mouth, and left and right are
averaged: a person's asymmetry is not speech.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from visavis.engine.audio.decode import read_sound
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.motion.channels import ARKIT
from visavis.engine.motion.speech import SPEECH_CHANNELS, spread
from visavis.engine.timing import FPS, SAMPLES_PER_FRAME

BODY = Path(__file__).parent.parent / "weights" / "body.npz"
"""The baked body, whose face units the lips are read through."""
HELD_OUT = ("s26", "s31")
"""Speakers that no training may see."""

_RIGID = (33, 133, 362, 263, 168, 6, 197, 195, 8, 9, 151, 10, 127, 356, 70, 300)
LIPS = (
    *(61, 146, 91, 181, 84, 17, 314, 405, 321, 375, 291, 185, 40, 39, 37, 0, 267, 269, 270, 409),
    *(78, 95, 88, 178, 87, 14, 317, 402, 318, 324, 308, 191, 80, 81, 82, 13, 312, 311, 310, 415),
)
_CHIN = (152, 148, 377, 176, 400, 18, 200, 199)
INNER_PAIRS = ((13, 14), (82, 87), (312, 317))
CORNERS = (61, 291)
_OUTER_EYES = (33, 263)


@dataclass
class Clip:
    """One clip: sound at 16 kHz and, a video frame (T = 75), the mouth.

    `target` (T, len(SPEECH_CHANNELS)); `aperture`, `width` (T,) in distances between the outer eye corners,
    relative to rest; `silent` (T,) marks frames well away from speech, `voiced` (T,) those in which the
    mouth may speak; `valid` (T,) those with a face.
    """

    key: str
    speaker: str
    sound: FloatArray
    target: FloatArray
    aperture: FloatArray
    width: FloatArray
    silent: npt.NDArray[np.bool_]
    voiced: npt.NDArray[np.bool_]
    valid: npt.NDArray[np.bool_]


@dataclass
class MouthRig:
    """The rig's face units seen from the front, in distances between the outer eye corners.

    `units` (52, 478, 2) x to the person's left, y up; `aperture`, `width` (52,) are linear read-outs of the
    ARKit channels.
    """

    units: FloatArray
    aperture: FloatArray
    width: FloatArray

    @classmethod
    def load(cls, path: Path) -> MouthRig:
        with np.load(path) as body:
            vertices = body["vertices"].astype(np.float64)
            deltas = np.zeros((len(ARKIT), *vertices.shape))
            deltas[:, body["unit_index"]] = body["unit_deltas"]
            corners = body["triangles"][body["landmark_triangle"]]
            bary = body["landmark_bary"].astype(np.float64)[..., None]
        points = (vertices[corners] * bary).sum(axis=1)
        units = (deltas[:, corners] * bary).sum(axis=2)[..., :2]
        units /= np.linalg.norm(points[_OUTER_EYES[0]] - points[_OUTER_EYES[1]])
        aperture = np.mean([units[:, a, 1] - units[:, b, 1] for a, b in INNER_PAIRS], axis=0)
        width = units[:, CORNERS[1], 0] - units[:, CORNERS[0], 0]
        return cls(units.astype(np.float32), aperture.astype(np.float32), width.astype(np.float32))


def stabilise(landmarks: FloatArray, reference: FloatArray) -> FloatArray:
    """Landmarks (T, 478, 2) with the head's movement removed: a similarity per frame onto `reference` (478,
    2)."""
    rigid = list(_RIGID)
    target = reference[rigid] - reference[rigid].mean(axis=0)
    target_c = target[:, 0] + 1j * target[:, 1]
    points = landmarks[..., 0] + 1j * landmarks[..., 1]
    centre = points[:, rigid].mean(axis=1, keepdims=True)
    source = points[:, rigid] - centre
    turn = (np.conj(source) * target_c).sum(axis=1) / (np.abs(source) ** 2).sum(axis=1)
    moved = (points - centre) * turn[:, None]
    return np.stack([moved.real, moved.imag], axis=-1).astype(np.float32)


def frame_level(sound: FloatArray, n: int) -> FloatArray:
    """RMS level in dB of n video frames."""
    padded = np.zeros(n * SAMPLES_PER_FRAME, np.float32)
    padded[: min(len(sound), len(padded))] = sound[: len(padded)]
    power = np.square(padded.reshape(n, SAMPLES_PER_FRAME)).mean(axis=1)
    return (10 * np.log10(power + 1e-10)).astype(np.float32)


def speech_frames(sound: FloatArray, n: int, before: int, after: int) -> npt.NDArray[np.bool_]:
    """Frames from `before` frames ahead of sound to `after` frames behind it, (n,). For clean recordings
    only."""
    level = frame_level(sound, n)
    # Noise floor and speech level of this clip; 40 % of the way up in dB counts as sound.
    floor, top = np.percentile(level, 5), np.percentile(level, 95)
    loud = level > floor + 0.4 * (top - floor)
    out = loud.copy()
    for shift in range(1, before + 1):
        out[:-shift] |= loud[shift:]
    for shift in range(1, after + 1):
        out[shift:] |= loud[:-shift]
    return out


def _symmetric(values: FloatArray) -> FloatArray:
    """ARKit coefficients (T, 52) with left and right averaged."""
    out = values.copy()
    for k, name in enumerate(ARKIT):
        if name.endswith("Left") and name not in ("jawLeft", "mouthLeft"):
            other = ARKIT.index(name[:-4] + "Right")
            out[:, k] = out[:, other] = (values[:, k] + values[:, other]) / 2
    return out


def refine(prior: FloatArray, displacement: FloatArray, rig: MouthRig, strength: float = 0.05) -> FloatArray:
    """Speech channels (T, C) in 0..1 whose rig meets the landmark `displacement` (T, 478, 2), staying near
    `prior` (T, C).

    Ridge regression within bounds (a negative coefficient would be a shape that no face makes), by
    coordinate descent.
    """
    points = list(LIPS + _CHIN)
    basis = spread(np.eye(len(SPEECH_CHANNELS), dtype=np.float32))  # (C, 52)
    design = np.einsum("ck,kpd->cpd", basis, rig.units[:, points]).reshape(len(SPEECH_CHANNELS), -1).T
    observed = displacement[:, points].reshape(len(displacement), -1)
    # The openings are what the eye reads: they enter once more with more weight.
    weight = np.array([[6.0], [3.0]], np.float32)
    openness = np.stack([basis @ rig.aperture, basis @ rig.width]) * weight
    opening = np.mean([displacement[:, a, 1] - displacement[:, b, 1] for a, b in INNER_PAIRS], axis=0)
    widening = displacement[:, CORNERS[1], 0] - displacement[:, CORNERS[0], 0]
    design = np.concatenate([design, openness])
    observed = np.concatenate([observed, (np.stack([opening, widening]) * weight).T], axis=1)
    normal = design.T @ design + strength * np.eye(len(SPEECH_CHANNELS))
    wanted = observed @ design + strength * prior
    values = np.clip(prior, 0, 1)
    for _ in range(100):
        for k in range(len(SPEECH_CHANNELS)):
            values[:, k] += (wanted[:, k] - values @ normal[:, k]) / normal[k, k]
            np.clip(values[:, k], 0, 1, out=values[:, k])
    return values.astype(np.float32)


def openings(landmarks: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Inner lip aperture and mouth width (T,) in distances between the outer eye corners."""
    points = landmarks.astype(np.float64)[..., :2]
    scale = np.linalg.norm(points[:, _OUTER_EYES[0]] - points[:, _OUTER_EYES[1]], axis=1)
    aperture = np.mean([np.linalg.norm(points[:, a] - points[:, b], axis=1) for a, b in INNER_PAIRS], axis=0)
    width = np.linalg.norm(points[:, CORNERS[0]] - points[:, CORNERS[1]], axis=1)
    return (aperture / scale).astype(np.float32), (width / scale).astype(np.float32)


def _fill(values: FloatArray, valid: npt.NDArray[np.bool_]) -> FloatArray:
    """Frames without a face take the nearest frame's values."""
    if valid.all():
        return values
    known = np.flatnonzero(valid)
    nearest = known[np.abs(np.arange(len(values))[:, None] - known).argmin(axis=1)]
    return values[nearest]


def load_grid(data: Path, landmarks: Path, rig: MouthRig) -> list[Clip]:
    """All GRID clips. Speakers without curves (the held-out ones) get refined landmarks with a zero prior."""
    curves = np.load(data / "grid" / "arkit_curves.npz")
    names = [str(name) for name in curves["names"]]
    order = [names.index(name) if name in names else names.index("_neutral") for name in ARKIT]
    tracks = np.load(landmarks)
    first = {name: ARKIT.index(name if name in ARKIT else name + "Left") for name in SPEECH_CHANNELS}
    clips = []
    for path in sorted((data / "grid").glob("*/*/*.mkv")):
        speaker = path.parent.name
        key = f"{speaker}/{path.stem}"
        points = tracks[key]
        valid = np.isfinite(points).all(axis=(1, 2))
        if valid.mean() < 0.8:
            continue
        points = _fill(points, valid)
        n = len(points)
        sound = read_sound(path)
        silent = ~speech_frames(sound, n, before=6, after=6)
        rest = silent if silent.sum() >= 4 else np.arange(n) < 4
        aperture, width = openings(points)
        prior = np.zeros((n, len(SPEECH_CHANNELS)), np.float32)
        if f"{key}/blendshapes" in curves.files:
            blend = curves[f"{key}/blendshapes"].astype(np.float32)[:, order]
            known = np.isfinite(blend).all(axis=1)
            valid &= known
            blend = _symmetric(_fill(blend, known))
            blend -= np.median(blend[rest], axis=0)
            prior = blend[:, list(first.values())]
        # Lips rest closed even where this speaker's are parted in the silence: rest is the clip's most
        # closed moment.
        closed = aperture <= np.percentile(aperture, 12)
        flipped = points[..., :2] * np.array([1, -1], np.float32)  # y up
        steady = stabilise(flipped, flipped[rest].mean(axis=0))
        scale = np.linalg.norm(steady[:, 33] - steady[:, 263], axis=1).mean()
        displacement = (steady - np.median(steady[closed], axis=0)) / scale
        target = refine(prior, displacement, rig)
        clips.append(
            Clip(
                key, speaker, sound, target,
                aperture - np.median(aperture[closed]), width - np.median(width[rest]),
                silent, speech_frames(sound, n, before=5, after=2), valid,
            )
        )  # fmt: skip
    return clips


_FACEGOOD: dict[str, tuple[tuple[str, float], ...]] = {
    "mouth_stretch_c": (("jawOpen", 0.6),),
    "mouth_oh_c": (("jawOpen", 0.25), ("mouthFunnel", 0.5), ("mouthPucker", 0.2)),
    "mouth_oo_c": (("mouthPucker", 0.8),),
    "mouth_funnel_dl": (("mouthFunnel", 0.4),),
    "mouth_funnel_ul": (("mouthFunnel", 0.4),),
    "mouth_pucker_l": (("mouthPucker", 0.8),),
    "mouth_lowerLipDepress_l": (("mouthLowerDown", 0.8),),
    "mouth_upperLipRaise_l": (("mouthUpperUp", 0.8),),
    "mouth_lipCornerPull_l": (("mouthSmile", 0.8),),
    "mouth_suck_dl": (("mouthRollLower", 0.7),),
    "mouth_suck_ul": (("mouthRollUpper", 0.7),),
    "mouth_press_l": (("mouthPress", 0.6),),
    "mouth_chinRaise_u": (("mouthShrugLower", 0.6),),
}
"""FACEGOOD's rig channels that move (left equals right) and what they are in ours, by eye."""


def load_facegood(data: Path, rig: MouthRig, seconds: int = 4) -> list[Clip]:
    """The FACEGOOD takes in pieces: another voice, another language; openings are those of our rig."""
    names = json.loads((data / "facegood" / "channel_names.json").read_text())
    matrix = np.zeros((len(names), len(SPEECH_CHANNELS)), np.float32)
    for name, parts in _FACEGOOD.items():
        for channel, share in parts:
            matrix[names.index(name), SPEECH_CHANNELS.index(channel)] = share
    clips = []
    for path in sorted((data / "facegood").glob("*.flac")):
        sound = read_sound(path)
        curve = np.load(path.with_suffix(".npy")).astype(np.float32) @ matrix
        n = min(len(curve) * FPS // 30, len(sound) // SAMPLES_PER_FRAME)
        at = ((np.arange(n) + 0.5) * 30 / FPS - 0.5).clip(0, len(curve) - 1)
        target = np.stack([np.interp(at, np.arange(len(curve)), column) for column in curve.T], axis=1)
        target = target.clip(0, 1).astype(np.float32)
        full = spread(target)
        silent, voiced = (
            ~speech_frames(sound, n, before=6, after=6),
            speech_frames(sound, n, before=5, after=2),
        )
        for start in range(0, n - seconds * FPS + 1, seconds * FPS):
            part = slice(start, start + seconds * FPS)
            clips.append(
                Clip(
                    f"facegood/{path.stem}_{start}",
                    "facegood",
                    sound[part.start * SAMPLES_PER_FRAME : part.stop * SAMPLES_PER_FRAME],
                    target[part],
                    (full @ rig.aperture)[part],
                    (full @ rig.width)[part],
                    silent[part],
                    voiced[part],
                    np.ones(seconds * FPS, bool),
                )
            )
    return clips


@dataclass
class Spoken:
    """A synthetic sentence: sound at 16 kHz and the class of phoneme at 100 Hz (see `voices`)."""

    sound: FloatArray
    phones: npt.NDArray[np.int8]
    robot: bool = False
    """Spoken by espeak-ng."""


def runs_of(mask: npt.NDArray[np.bool_]) -> list[tuple[int, int]]:
    """Start and end of each run of True."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.astype(np.int8), [0]])))
    return list(zip(edges[::2].tolist(), edges[1::2].tolist(), strict=True))


def tidy_phones(sound: FloatArray, phones: npt.NDArray[np.int8]) -> npt.NDArray[np.int8]:
    """Classes at 100 Hz with silence exactly where 100 ms or more are silent: the synthesiser gives the space
    between two words a length though nobody pauses there, and stretches last phonemes over the end."""
    n = min(len(phones), len(sound) // 160)
    out = phones[:n].copy()
    level = 10 * np.log10(np.square(sound[: n * 160].reshape(n, 160)).mean(axis=1) + 1e-10)
    quiet = np.zeros(n, bool)
    for start, end in runs_of(level < level.max() - 45):
        quiet[start:end] = end - start >= 10
    for start, end in runs_of((out == 0) & ~quiet):
        before, after = int(out[start - 1]) if start else 0, int(out[end]) if end < n else 0
        out[start:end] = before if before > 1 else after  # never a longer closure than was said
    out[quiet] = 0
    return out


def load_voices(path: Path) -> list[Spoken]:
    """The sentences of a file made by `engine.training.voices`."""
    sentences = []
    with np.load(path) as made:
        for name in sorted(made.files):
            if name.endswith("/sound"):
                sound = made[name].astype(np.float32) / 32768
                phones = tidy_phones(sound, made[name[: -len("sound")] + "phones"])
                sentences.append(Spoken(sound, phones, "_espeak_" in name))
    return sentences


def split(clips: list[Clip], data: Path) -> tuple[list[Clip], list[Clip]]:
    """Training clips (grid/train) and clips of speakers that no training sees."""
    in_train = {f"{p.parent.name}/{p.stem}" for p in (data / "grid" / "train").glob("*/*.mkv")}
    trained = [c for c in clips if c.key in in_train and c.speaker not in HELD_OUT]
    return trained, [c for c in clips if c.speaker in HELD_OUT]


def held_back(clips: list[Clip], data: Path) -> list[Clip]:
    """Clips of known speakers that were not trained on (grid/val/s1)."""
    names = {f"{p.parent.name}/{p.stem}" for p in (data / "grid" / "val").glob("*/*.mkv")}
    return [c for c in clips if c.key in names and c.speaker not in HELD_OUT]
