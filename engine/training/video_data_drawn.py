"""Photos that speak, drawn finer than a live call can: three times as many pixels a side, averaged, and light that reaches the mouth's inside only
through its opening. The product's own warp of the same motion is what the network sees; so it learns to mend the warp's margins and light in photos
sharper than any film of the training data.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from visavis.engine.avatar import Avatar
from visavis.engine.body.detect import FaceTracker
from visavis.engine.body.model import load_body
from visavis.engine.motion.channels import ARKIT, FACE_SLICE, GAZE_SLICE, HEAD_SLICE, FloatArray
from visavis.engine.training.video_data import Job, Shard, read_curves
from visavis.engine.video.drive import Bytes, Driven, Float64
from visavis.engine.video.figure import Figure
from visavis.engine.video.renderer import mesh_of
from visavis.kernels import PoseRig, Target

FINER = 3
"""Pixels along a side of each pixel of the frame."""
RUN = 10
"""Consecutive frames a photo."""
OPENING_BLUR, LIGHT_FROM = 0.0022, 0.0012
"""Metres: how far light spreads behind the lips, and from how much further up it comes."""
TEETH, FLESH = (0.68, 0.40), (0.58, 0.50)
"""Brightness of teeth, and of tongue and cavity: deep behind closed lips, and what an opening wider than the blur adds."""
MARGIN = 2
"""Pixels of lips and lids on either side of an opening that are taken from the finer picture."""


@dataclass
class FineRenderer:
    """Draws one avatar `FINER` times as large, with shade in the mouth."""

    avatar: Avatar

    def __post_init__(self) -> None:
        self._figure = Figure.of(self.avatar)
        self._drawn = [
            (part, mesh_of(part), PoseRig(part.vertices, part.shapes, part.weights))
            for part in self._figure.parts
        ]
        w, h = self.avatar.width * FINER, self.avatar.height * FINER
        self._target = Target(w, h)
        self._plate = np.ascontiguousarray(
            cv2.resize(self.avatar.plate, (w, h), interpolation=cv2.INTER_CUBIC)
        )
        fx, fy, cx, cy = self._figure.camera
        self._camera = (fx * FINER, fy * FINER, cx * FINER, cy * FINER)
        body = load_body()
        self._teeth = [body.part_id("upperTeeth"), body.part_id("lowerTeeth")]
        self._tongue = body.part_id("tongue")
        self._pixels_a_metre = self._camera[0] / float(np.median(-self.avatar.surface.vertices[:, 2]))

    def over(self, warp: Bytes, motion: FloatArray) -> Bytes:
        """The warp (H, W, 3) at `motion` with openings and their margins as they look when drawn finely."""
        figure, target = self._figure, self._target
        units, bones = figure.units(motion), figure.transforms(motion)
        target.begin(self._plate)
        lines: list[Float64] = []
        for k, (part, mesh, rig) in enumerate(self._drawn):
            posed = rig.pose(units[part.units], bones[part.bones], self._camera)
            target.draw(mesh, posed)
            if k == figure.surface:
                lines = [
                    posed[ids, :2] / FINER for s in self.avatar.surface.seams for ids in (s.upper, s.lower)
                ]
        size = (warp.shape[1], warp.shape[0])
        fine = cv2.resize(self._shaded(), size, interpolation=cv2.INTER_AREA)
        mouth = np.isin(target.part, [*self._teeth, self._tongue]).astype(np.float32)
        share = (cv2.resize(mouth, size, interpolation=cv2.INTER_AREA) > 0.02).astype(np.uint8)
        for line in lines:
            cv2.polylines(
                share, [np.round((line - 0.5) * 16).astype(np.int32)], False, (1,), 1, cv2.LINE_8, 4
            )
        share = cv2.dilate(share, np.ones((2 * MARGIN + 1, 2 * MARGIN + 1), np.uint8))
        soft = cv2.GaussianBlur(share.astype(np.float32), (0, 0), 1.0)[..., None]
        return np.asarray(np.round(warp + soft * (fine - warp)), np.uint8)

    def _shaded(self) -> FloatArray:
        target = self._target
        teeth = np.isin(target.part, self._teeth)
        flesh = target.part == self._tongue
        inside = (teeth | flesh).astype(np.float32)
        out = target.rgb.astype(np.float32)
        ys, xs = np.nonzero(inside)
        if not len(ys):
            return out
        sigma = OPENING_BLUR * self._pixels_a_metre
        pad = int(4 * sigma) + 1
        box = slice(max(ys.min() - pad, 0), ys.max() + pad), slice(max(xs.min() - pad, 0), xs.max() + pad)
        up = np.array([[1, 0, 0], [0, 1, LIGHT_FROM * self._pixels_a_metre]])
        opening = cv2.GaussianBlur(inside[box], (0, 0), sigma)
        opening = cv2.warpAffine(opening, up, (opening.shape[1], opening.shape[0]))
        light = np.where(teeth[box], TEETH[0] + TEETH[1] * opening, FLESH[0] + FLESH[1] * opening)
        light = np.where(inside[box] > 0, light, 1.0)
        out[box] = np.clip(out[box] * light[..., None], 0, 255)
        return out


def motions(curve: Float64, neutral: FloatArray, rng: np.random.Generator) -> list[FloatArray]:
    """RUN motions along a piece of a tracked curve (T, 52), from the avatar's neutral face."""
    start = int(rng.integers(5, max(6, len(curve) - RUN - 5)))
    gain = rng.uniform(1.0, 1.9)
    drift, base = rng.normal(0, 0.006, 3), rng.normal(0, [0.05, 0.10, 0.04])
    look, blink = rng.normal(0, 0.1, 2), int(rng.integers(-RUN, RUN))
    out = []
    for k in range(RUN):
        motion = neutral.copy()
        motion[FACE_SLICE] += (gain * np.maximum(curve[start + k] - 0.03, 0)).clip(0, 1)
        for side in ("Left", "Right"):
            shut = max(0.0, 1 - abs(k - blink) / 3) if blink >= 0 else 0.0
            motion[FACE_SLICE.start + ARKIT.index(f"eyeBlink{side}")] = shut
        motion[GAZE_SLICE] = np.tile(look, 2)
        motion[HEAD_SLICE] = base + drift * k
        out.append(motion.astype(np.float32))
    return out


def drawn_shard(photo: Bytes, tracker: FaceTracker, curves: list[Float64], speaker: str, seed: int) -> Shard:
    """One photo that speaks: warp, and the finer picture as its target."""
    rng = np.random.default_rng(seed)
    driven = Driven(photo, tracker)
    fine = FineRenderer(driven.avatar)
    shard = Shard.of(driven, speaker, f"{speaker}-{seed}")
    for k, motion in enumerate(
        motions(curves[rng.integers(len(curves))], driven.avatar.neutral_motion(), rng)
    ):
        shard.add(driven, motion, fine.over(driven.renderer.render(motion), motion), 0.0, k)
    return shard


def drawn_jobs(data: Path, tracker: FaceTracker, count: int) -> list[Job]:
    """A shard each of `count` portraits."""
    from PIL import Image

    curves = [curve for curve in read_curves(data) if len(curve) > RUN + 12]
    photos = sorted(p for p in (data / "portraits").iterdir() if p.suffix in (".jpg", ".png"))

    def job(path: Path, seed: int) -> Job:
        def make() -> Shard:
            return drawn_shard(np.asarray(Image.open(path).convert("RGB")), tracker, curves, path.stem, seed)

        return Job(path.stem, make)

    return [job(path, 5000 + k) for k, path in enumerate(photos[:: max(1, len(photos) // count)][:count])]
