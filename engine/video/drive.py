"""An avatar driven to meet other pictures of the same person: capture of a film, and the pairs (warp, target) that the video network learns from.

The avatar is the product's own (its enrolment, its renderer, with their faults). Only the motion is found here: expression, head and gaze are
fitted through the avatar's own rig to the landmarks of the target, so that warp and target lie on each other pixel by pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
from visavis.engine.avatar import PIVOTS
from visavis.engine.body.detect import Face, FaceTracker, find_face
from visavis.engine.body.fit import FACE_OVAL, IRIS, LIDS, LIPS_LOWER_INNER, LIPS_OUTER, LIPS_UPPER_INNER
from visavis.engine.body.model import FloatArray, load_body, rotation_matrix
from visavis.engine.body.photo import as_png
from visavis.engine.enroll import crop_to_person, enroll
from visavis.engine.motion.channels import (
    ARKIT,
    FACE_SLICE,
    GAZE_SLICE,
    HEAD_SLICE,
    TRANSLATION_SLICE,
    zero_motion,
)
from visavis.engine.video.align import Alignment
from visavis.engine.video.crop import CropTransform, FaceCrop, crop, quantised_position
from visavis.engine.video.point_rig import PointRig, turned
from visavis.engine.video.renderer import Renderer

Bytes = npt.NDArray[np.uint8]
Float64 = npt.NDArray[np.float64]
_BLINKS = tuple(ARKIT.index(f"eyeBlink{side}") for side in ("Left", "Right"))


def find(rgb: Bytes, tracker: FaceTracker) -> Face | None:
    """The face of a single picture, its landmarks refined twice."""
    face = tracker.detect(rgb)
    return face if face is None else tracker.track(rgb, face) or face


@dataclass(frozen=True)
class Views:
    """What the network sees of one frame: warp (256, 256, 3), coverage, part (256, 256), position (256, 256, 3), all uint8."""

    warp: Bytes
    coverage: Bytes
    part: Bytes
    position: Bytes


class Driven:
    """An avatar of `photo` (H, W, 3) and the way from other pictures in the photo's own pixels to its motion."""

    def __init__(
        self, photo: Bytes, tracker: FaceTracker, *, size: int = 512, exact: Face | None = None
    ) -> None:
        """`exact`: the face's landmarks in the photo where they are known better than the detector sees them."""
        face = exact or find(photo, tracker)
        if face is None:
            raise ValueError("no face in the photo")
        framed_by = find_face(photo)  # as enrolment does
        self.avatar = enroll(as_png(photo), size=size)
        framed, _, moved = crop_to_person(photo, None, framed_by, size)
        if framed.shape[:2] != (self.avatar.height, self.avatar.width):
            raise ValueError("enrolment framed the photo otherwise")
        old, new = (
            framed_by.landmarks[:468, :2].astype(np.float64),
            moved.landmarks[:468, :2].astype(np.float64),
        )
        centred = old - old.mean(0)
        self.zoom = float((centred * (new - new.mean(0))).sum() / (centred**2).sum())
        self._shift = new.mean(0) - self.zoom * old.mean(0)
        self.renderer = Renderer(self.avatar)
        self.crops = FaceCrop(self.avatar)
        self._rig = _LandmarkRig.of(self.renderer)
        # What the detector sees of the framed photo is where zero motion must lie.
        self.rest = self._in_frame(face)
        self._rest_blendshapes = face.blendshapes
        self._bias = self.rest - self._rig.points.project(zero_motion())
        self._alignment = Alignment.of(self.avatar, self.frame(photo))

    @property
    def scale(self) -> float:
        """Pixels of the source's own resolution a crop pixel: below 1, the crop is an enlargement."""
        return 1 / (self.zoom * self.crops.scale)

    def _in_frame(self, face: Face) -> Float64:
        return face.landmarks[:, :2].astype(np.float64) * self.zoom + self._shift

    def frame(self, source: Bytes) -> Bytes:
        """A picture in the photo's pixels, resampled to the avatar's frame as enrolment does it."""
        half = 0.5 * (self.zoom - 1)
        matrix = np.array([[self.zoom, 0, self._shift[0] + half], [0, self.zoom, self._shift[1] + half]])
        size = (self.avatar.width, self.avatar.height)
        if self.zoom < 0.67:
            by = round(1 / self.zoom)
            source = cv2.resize(
                source[: source.shape[0] // by * by, : source.shape[1] // by * by], None, fx=1 / by, fy=1 / by,
                interpolation=cv2.INTER_AREA,
            ).astype(np.uint8)  # fmt: skip
            zoom = self.zoom * by
            half = 0.5 * (zoom - 1)
            matrix = np.array([[zoom, 0, self._shift[0] + half], [0, zoom, self._shift[1] + half]])
        out = cv2.warpAffine(source, matrix, size, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REPLICATE)
        return np.asarray(out, np.uint8)

    def motion_to(self, face: Face, start: FloatArray | None = None) -> tuple[FloatArray, float]:
        """Motion that brings the avatar's face onto `face` (in the photo's pixels), and the mean landmark distance left, in frame pixels.

        `start`: the motion of the frame before, which is then part of the prior.
        """
        target = self._in_frame(face)
        prior = np.zeros(52)
        if face.blendshapes is not None and self._rest_blendshapes is not None:
            prior = 0.8 * (face.blendshapes.astype(np.float64) - self._rest_blendshapes)
        motion = zero_motion() if start is None else start.copy()
        if start is None:
            motion[FACE_SLICE] = prior
        motion, error = self._rig.solve(motion, target - self._bias, prior)
        motion[GAZE_SLICE] = self._gaze(motion, target)
        for side, k in enumerate(_BLINKS):  # under a shut lid the iris is a guess
            shut = float(np.clip((self.avatar.fit.expression[k] + motion[k] - 0.35) / 0.3, 0, 1))
            motion[GAZE_SLICE.start + 2 * side : GAZE_SLICE.start + 2 * side + 2] *= 1 - shut
        return motion, error

    def aligned(self, picture: Bytes, motion: FloatArray) -> FloatArray:
        """`motion` moved on until the mouth lies on `picture`, a frame as `frame` gives it (`align.py`)."""
        return self._alignment.refine(picture, motion)

    def _gaze(self, motion: FloatArray, target: Float64) -> Float64:
        out = np.zeros(4)
        turn = rotation_matrix(motion[HEAD_SLICE])
        head = self.avatar.pivots[PIVOTS.index("head")].astype(np.float64)
        for layer in self.avatar.layers:
            if not layer.side:
                continue
            iris = IRIS[layer.side][0]
            centre = layer.centre.astype(np.float64)
            radius = float(layer.vertices[:, 2].max()) - centre[2]
            pupil = self._ray(self.rest[iris], centre[2] + 0.97 * radius)
            moved = turn @ (pupil - head) + head + motion[TRANSLATION_SLICE]
            wanted = self._ray(target[iris], moved[2])
            local = turn.T @ (wanted - moved)
            reach = max(float(np.linalg.norm(pupil - centre)), 1e-4)
            angles = np.arcsin(np.clip(local[:2] / reach, -0.5, 0.5))
            at = 0 if layer.side == "Left" else 2
            out[at : at + 2] = angles
        return out

    def _ray(self, px: Float64, z: float) -> Float64:
        camera = self.avatar.fit.camera
        return np.array(
            [(px[0] - camera.cx) / camera.focal * -z, -(px[1] - camera.cy) / camera.focal * -z, z]
        )

    def views(self, motion: FloatArray) -> tuple[Views, CropTransform]:
        """What the network sees at `motion`, and where in the frame."""
        transform = self.crops.transform(motion)
        warp = crop(self.renderer.render(motion), transform)
        target = self.renderer.target
        part = crop(target.part, transform, nearest=True)
        position = quantised_position(crop(target.position, transform, nearest=True), part)
        return Views(warp, crop(target.coverage, transform), part, position), transform


@dataclass(frozen=True)
class _LandmarkRig:
    """The avatar's surface at MediaPipe's landmarks, and which of them are known (478,)."""

    known: npt.NDArray[np.bool_]
    weight: Float64
    points: PointRig
    face_px: float
    lowest: Float64
    highest: Float64

    @classmethod
    def of(cls, renderer: Renderer) -> _LandmarkRig:
        """The landmarks that lie on the surface's face."""
        avatar = renderer.avatar
        body, surface = load_body(), avatar.surface
        local = np.full(len(body.vertices), -1)
        local[surface.face_of] = np.arange(len(surface.face_of))
        corners = local[body.triangles[body.landmark_triangle]]
        known = body.landmark_known & (corners >= 0).all(1)
        known[468:] = False
        weight = np.ones(478)
        weight[list(FACE_OVAL)] = 0.3
        for k in (
            *LIPS_UPPER_INNER,
            *LIPS_LOWER_INNER,
            *LIPS_OUTER,
            *(j for lids in LIDS.values() for side in lids for j in side),
        ):
            weight[k] = 2.5
        own = avatar.fit.expression
        return cls(
            known, weight * known,
            PointRig.on(avatar, np.where(known[:, None], corners, 0), body.landmark_bary),
            float(np.ptp(surface.uv[: len(surface.face_of), 1])), -own - 0.15, np.maximum(1 - own, 0.5),
        )  # fmt: skip

    def solve(
        self, motion: FloatArray, target: Float64, prior: Float64, iterations: int = 5
    ) -> tuple[FloatArray, float]:
        """Gauss-Newton on expression, head rotation and translation from `motion`; the prior is on expression alone."""
        x = motion.astype(np.float64)
        sigma_px = 0.006 * self.face_px
        loose = np.full(52, 1 / 0.18)
        start = x[FACE_SLICE].copy()
        for _ in range(iterations):
            world, turn = self.points.world(x)
            miss = target - self.points.pixels(world)
            robust = self.weight / (1 + (np.linalg.norm(miss, axis=1) / (4 * sigma_px)) ** 2)
            root = (np.sqrt(robust) / sigma_px)[:, None]
            jacobian = (self.points.derivatives(x, world, turn) * root).reshape(58, -1).T
            residual = (miss * root).ravel()
            pull = np.concatenate(
                [(prior - x[FACE_SLICE]) * loose**2 + (start - x[FACE_SLICE]) * 4, np.zeros(6)]
            )
            ridge = np.concatenate([loose**2 + 4, np.full(3, 1.0), np.full(3, 100.0)])
            step = np.linalg.solve(jacobian.T @ jacobian + np.diag(ridge), jacobian.T @ residual + pull)
            x[FACE_SLICE] = np.clip(x[FACE_SLICE] + step[:52], self.lowest, self.highest)
            turned(x, step[52:55])
            x[TRANSLATION_SLICE] = np.clip(x[TRANSLATION_SLICE] + step[55:], -0.08, 0.08)
        miss = np.linalg.norm(target - self.points.project(x), axis=1)
        error = float((miss * self.weight).sum() / self.weight.sum())
        return x.astype(np.float32), error


def smooth_faces(faces: list[Face | None], sigma: float = 0.5) -> list[Face | None]:
    """Landmarks with the detector's jitter taken off: a narrow Gaussian over time, without delay."""
    out: list[Face | None] = []
    share = float(np.exp(-0.5 / sigma**2))
    for k, face in enumerate(faces):
        if face is None:
            out.append(None)
            continue
        near = [
            (f, share)
            for f in (faces[k - 1] if k else None, faces[k + 1] if k + 1 < len(faces) else None)
            if f is not None
        ]
        total = 1 + sum(w for _, w in near)
        marks = (face.landmarks + sum(w * f.landmarks for f, w in near)) / total
        out.append(replace(face, landmarks=marks.astype(np.float32)))
    return out
