"""Batches for stage 2 from the shards that `video_data.py` writes: short clips of consecutive frames, cut to windows around mouth and eyes.

Windows cost a tenth of the crop and hold what the network is for; whole crops come in between, so that it knows the rest.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from visavis.engine.video.generator_inputs import part_masks

Bytes = npt.NDArray[np.uint8]
FIELDS = ("target", "warp", "part", "coverage", "position", "photo", "photo_part", "photo_position")
COLOURS = ("target", "warp", "photo")
"""What light and colour change together."""
PICTURES = ("target", "warp", "masks", "position", "photo", "photo_masks", "photo_position")
WINDOW = 80
"""Side of the windows in pixels."""
_MOUTH, _EYES = (np.isin(np.arange(256), ids) for ids in ((2, 5, 6, 7), (3, 4)))
GRAIN = 16
"""Windows lie on this grid: the size of the coarsest cells."""


@dataclass(frozen=True)
class Run:
    """Consecutive frames of one clip: rows `start` to `stop` of a shard's arrays."""

    shard: dict[str, Any]
    start: int
    stop: int
    speaker: str


@dataclass(frozen=True)
class Batch:
    """Clips of frames, flattened (B = clips x frames): pictures (B, C, H, W) float in 0..1, `origin` (B, 2) of the window in -1..1.

    `weight` (B, 1, H, W): how much each pixel counts; `mouth` (B, 2): the mouth's middle in window pixels; `follows` (B,) is 1 where the row before
    shows the frame before.
    """

    target: Tensor
    warp: Tensor
    masks: Tensor
    position: Tensor
    photo: Tensor
    photo_masks: Tensor
    photo_position: Tensor
    origin: Tensor
    weight: Tensor
    mouth: Tensor
    follows: Tensor
    frames: int
    painted: Tensor | None = None
    """(B,): 1 where all of the mouth's inside is to be the network's own colour."""


def read_runs(folder: Path, least: int) -> list[Run]:
    """All runs of at least `least` frames in a folder of shards."""
    runs = []
    for path in sorted(folder.glob("**/*.npz")):
        with np.load(path) as data:
            runs += runs_of({name: data[name] for name in data.files}, least)
    return runs


def runs_of(shard: dict[str, Any], least: int) -> list[Run]:
    """All runs of at least `least` frames of one shard's arrays."""
    clips = shard["clip"]
    count = len(shard["target"])
    marks = np.broadcast_to(clips, (count,)) if np.ndim(clips) == 0 else clips
    frames = shard.get("frame")
    for name in ("photo", "photo_part", "photo_position"):
        if len(shard[name]) == count and shard[name].ndim == (3 if name == "photo_part" else 4):
            shard[f"{name}_many"] = True
    starts = [0]
    for k in range(1, count):
        if marks[k] != marks[k - 1] or (frames is not None and frames[k] != frames[k - 1] + 1):
            starts.append(k)
    speakers = np.broadcast_to(shard["speaker"], (count,))
    return [
        Run(shard, start, stop, str(speakers[start]))
        for start, stop in zip(starts, [*starts[1:], count], strict=True)
        if stop - start >= least
    ]


@dataclass(frozen=True)
class Variety:
    """How much batches differ from what was filmed: how far the light and the shape of the face are changed (1: as between people and rooms), the share of
    clips with less colour, of those with another laid over them (mixup, Zhang et al. 2018), and of windows that lie elsewhere than on the mouth."""

    light: float = 1.0
    less_colour: float = 0.3
    elsewhere: float = 0.2
    shape: float = 1.0
    mixed: float = 0.5


ONE_FILM = Variety(light=0.35, less_colour=0.0, elsewhere=0.0, shape=0.0, mixed=0.0)
"""For one film of one person, whose light and shape are what they are."""


class Loader:
    """Draws batches without end. `sets`: name of a folder under `root`, or of runs in memory, to its share of the clips; within a set speakers count
    alike."""

    def __init__(
        self,
        root: Path | Mapping[str, Sequence[Run]],
        sets: dict[str, float],
        *,
        clips: int,
        frames: int,
        seed: int = 0,
        augment: bool = True,
        mouthless: tuple[str, ...] = (),
        painted: tuple[str, ...] = (),
        variety: Variety = Variety(),
    ) -> None:
        self.variety = variety
        self.mouthless, self.painted = mouthless, painted
        self.clips, self.frames, self.augment = clips, frames, augment
        self.rng = np.random.default_rng(seed)
        self.sets: dict[str, dict[str, list[Run]]] = {}
        for name in sets:
            by_speaker: dict[str, list[Run]] = {}
            for run in read_runs(root / name, 1) if isinstance(root, Path) else root[name]:
                by_speaker.setdefault(run.speaker, []).append(run)
            if by_speaker:
                self.sets[name] = by_speaker
        if not self.sets:
            raise FileNotFoundError(
                f"no shards of {', '.join(sets)} under {root}: make them with video_data.py"
            )
        share = np.array([sets[name] for name in self.sets])
        self.share = share / share.sum()

    def __iter__(self) -> Iterator[Batch]:
        while True:
            yield self.batch()

    def batch(self, whole: float = 0.12) -> Batch:
        """The next batch; a share `whole` of them are whole crops (a quarter as many clips)."""
        rng = self.rng
        if rng.random() < whole:
            return self._collate([self._clip(256) for _ in range(max(1, self.clips // 4))])
        clips = [self._clip(WINDOW) for _ in range(self.clips)]
        return self._collate(self._mixed(clips) if self.augment and self.variety.mixed else clips)

    def _mixed(
        self, clips: list[dict[str, npt.NDArray[np.float32]]]
    ) -> list[dict[str, npt.NDArray[np.float32]]]:
        """Some of the clips with the next one laid over them, at most half: between ten speakers there are more than ten."""
        out = []
        for clip, other in zip(clips, [*clips[1:], clips[0]], strict=True):
            share = np.float32(0)
            if self.rng.random() < self.variety.mixed:
                share = np.float32(self.rng.beta(0.5, 0.5))
            share = min(share, 1 - share)
            out.append(
                {**clip, **{name: clip[name] + share * (other[name] - clip[name]) for name in PICTURES}}
            )
        return out

    def _clip(self, side: int) -> dict[str, npt.NDArray[np.float32]]:
        rng = self.rng
        name = list(self.sets)[rng.choice(len(self.share), p=self.share)]
        by_speaker = self.sets[name]
        own = by_speaker[list(by_speaker)[rng.integers(len(by_speaker))]]
        run = own[rng.integers(len(own))]
        first = int(rng.integers(run.start, max(run.start, run.stop - self.frames) + 1))
        rows = np.minimum(np.arange(first, first + self.frames), run.stop - 1)
        shard = run.shard
        part = shard["part"][rows]
        x0, y0, mouth = self._window(part, side)
        cut = (slice(None), slice(y0, y0 + side), slice(x0, x0 + side))
        shape = None
        if self.augment and self.variety.shape:
            shape = np.ascontiguousarray(_random_shape(rng, self.variety.shape, mouth)[cut[1:]])

        def take(name: str) -> Bytes:
            if name.startswith("photo"):
                value = shard[name]
                value = (
                    value[rows]
                    if shard.get(f"{name}_many")
                    else np.broadcast_to(value, (len(rows), *value.shape))
                )
            else:
                value = shard[name][rows]
            if shape is not None:
                return _reshaped(value, shape, smooth=name in COLOURS)
            return np.ascontiguousarray(value[cut])

        raw = {name: take(name) for name in FIELDS if name in shard}
        masks = part_masks(raw["part"], raw["coverage"])
        photo_masks = part_masks(raw["photo_part"], np.where(raw["photo_part"] > 0, 255, 0).astype(np.uint8))
        if self.augment:
            _relight(raw, rng, self.variety.light)
        out = {
            "target": raw["target"], "warp": raw["warp"], "position": raw["position"], "photo": raw["photo"],
            "photo_position": raw["photo_position"],
        }  # fmt: skip
        floats = {k: np.multiply(v.transpose(0, 3, 1, 2), np.float32(1 / 255)) for k, v in out.items()}
        floats["masks"], floats["photo_masks"] = masks, photo_masks
        floats["origin"] = np.full((len(rows), 2), (x0 / 128 - 1, y0 / 128 - 1), np.float32)
        floats["mouth"] = np.broadcast_to(np.asarray(mouth, np.float32) - [x0, y0], (len(rows), 2)).astype(
            np.float32
        )
        floats["trusted"] = np.full(len(rows), name not in self.mouthless, np.float32)
        floats["painted"] = np.full(len(rows), name in self.painted, np.float32)
        floats["follows"] = np.concatenate([[0], np.diff(rows) == 1]).astype(np.float32)
        if self.augment:
            _augment(floats, rng, side, self.variety.less_colour)
        return floats

    def _window(self, part: Bytes, side: int) -> tuple[int, int, tuple[float, float]]:
        rng = self.rng
        small = part[:1, ::2, ::2]
        mouth = _middle(_MOUTH[small], (128.0, 175.0))
        if side == 256:
            return 0, 0, mouth
        kind = rng.random()
        if kind < 1 - self.variety.elsewhere:
            centre, spread = mouth, 8.0
        elif kind < 1 - self.variety.elsewhere / 2:
            centre, spread = _middle(_EYES[small], (128.0, 95.0)), 20.0
        else:
            centre, spread = (128.0, 128.0), 60.0
        at = np.asarray(centre) + rng.normal(0, spread, 2) - side / 2
        x0, y0 = (np.clip(np.round(at / GRAIN), 0, (256 - side) // GRAIN) * GRAIN).astype(int)
        return int(x0), int(y0), mouth

    def _collate(self, clips: list[dict[str, npt.NDArray[np.float32]]]) -> Batch:
        joined = {k: torch.from_numpy(np.concatenate([clip[k] for clip in clips])) for k in clips[0]}
        masks = joined["masks"]
        near = torch.from_numpy(_widened(masks[:, :3].numpy()))
        # the mouth's inside is a seventh of the lips' region and holds half of the warp's error
        weight = 1 + 5 * torch.maximum(near[:, :1], near[:, 1:2]) + 3 * near[:, 2:3] + 8 * masks[:, :1]
        # where the target's mouth is not to be believed: nothing is asked for in it, nor at its margins
        weight = torch.where(joined["trusted"][:, None, None, None] > 0, weight, weight * (1 - near[:, :1]))
        return Batch(
            joined["target"], joined["warp"], masks, joined["position"], joined["photo"], joined["photo_masks"],
            joined["photo_position"], joined["origin"], weight, joined["mouth"], joined["follows"], self.frames,
            joined["painted"],
        )  # fmt: skip


def _widened(masks: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Masks (B, C, H, W) grown by six pixels; OpenCV does it twenty times as fast as pooling."""
    flat = masks.reshape(-1, *masks.shape[2:])
    return np.stack([cv2.dilate(mask, np.ones((13, 13), np.uint8)) for mask in flat]).reshape(masks.shape)


def _middle(where: npt.NDArray[np.bool_], otherwise: tuple[float, float]) -> tuple[float, float]:
    _, y, x = np.nonzero(where)
    return (2 * float(x.mean()), 2 * float(y.mean())) if len(x) > 5 else otherwise


def _relight(raw: dict[str, Bytes], rng: np.random.Generator, far: float) -> None:
    """The same change of light for target, warp and photo, by one table a channel."""
    gain = (rng.uniform(0.75, 1.2) * rng.uniform(0.9, 1.1, 3)) ** far
    gamma = rng.uniform(0.8, 1.3) ** far
    ramp = np.clip(np.arange(256)[:, None] / 255 * gain, 0, 1) ** gamma
    table = np.round(ramp * 255).astype(np.uint8).reshape(256, 1, 3)
    for name in COLOURS:
        flat = np.ascontiguousarray(raw[name]).reshape(-1, raw[name].shape[2], 3)
        raw[name] = np.asarray(cv2.LUT(flat, table), np.uint8).reshape(raw[name].shape)


def _augment(
    clip: dict[str, npt.NDArray[np.float32]], rng: np.random.Generator, side: int, less_colour: float
) -> None:
    """Less colour at times; a mirror image at times."""
    if rng.random() < less_colour:
        grey = np.float32(rng.uniform(-0.15, 0.5))
        for name in COLOURS:
            x = clip[name]
            clip[name] = np.clip(x + grey * (x.mean(1, keepdims=True) - x), 0, 1)
    if rng.random() < 0.5:
        for name in PICTURES:
            clip[name] = np.ascontiguousarray(clip[name][..., ::-1])
        for name in ("position", "photo_position"):
            known = clip[name].max(1) > 0
            clip[name][:, 0] = np.where(known, 256 / 255 - clip[name][:, 0], 0)
        clip["origin"][:, 0] = -clip["origin"][:, 0] - side / 128
        clip["mouth"][:, 0] = side - clip["mouth"][:, 0]


def _random_shape(
    rng: np.random.Generator, far: float, mouth: tuple[float, float]
) -> npt.NDArray[np.float32]:
    """Where each pixel of the crop (256, 256, 2) is read, x y, for a face of another shape: stretched and slanted about the mouth, and bent slowly."""
    y, x = np.mgrid[0:256, 0:256].astype(np.float32)
    stretch = np.exp(far * (rng.normal(0, 0.1, 2) + rng.normal(0, 0.06)))
    slant = far * rng.normal(0, 0.06, 2)
    dx, dy = x - mouth[0], y - mouth[1]
    at = np.stack(
        [mouth[0] + stretch[0] * dx + slant[0] * dy, mouth[1] + stretch[1] * dy + slant[1] * dx], -1
    )
    bend = rng.normal(0, 5 * far, (6, 6, 2)).astype(np.float32)
    return np.asarray(at + cv2.resize(bend, (256, 256), interpolation=cv2.INTER_CUBIC), np.float32)


def _reshaped(pictures: Bytes, at: npt.NDArray[np.float32], *, smooth: bool) -> Bytes:
    """Pictures (N, H, W[, C]) read at `at` (h, w, 2); labels and positions, which have no in-between at their edges, are not smooth."""
    how = cv2.INTER_LINEAR if smooth else cv2.INTER_NEAREST
    read = [
        cv2.remap(np.ascontiguousarray(one), at, None, how, borderMode=cv2.BORDER_REPLICATE)
        for one in pictures
    ]  # type: ignore[call-overload]
    return np.stack(read)
