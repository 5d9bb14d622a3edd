"""The square around the face that the video network sees, cut out of a frame and put back.

The crop is a similarity without rotation: its scale is the avatar's own, fixed by the size of the fitted head, and its centre follows the
head as a pure function of the motion. Data building cuts with `crop`, the product with `cut`: the same but for the rounding of places.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from visavis import kernels
from visavis.engine.avatar import PIVOTS, Avatar
from visavis.engine.body.fit import FLIP, Fit
from visavis.engine.body.model import FloatArray, load_body, rotation_matrix
from visavis.engine.motion.channels import HEAD_SLICE, NECK_SLICE, SPINE_SLICE, TRANSLATION_SLICE
from visavis.kernels import CropPlace

Bytes = npt.NDArray[np.uint8]

CROP = 256
"""Side of the crop in pixels."""
FACE_FILL = 0.55
"""Height from brow to chin as a share of the crop."""
FEATHER = 20
"""Width in crop pixels over which what is put back fades out towards the crop's border."""
_BROWS, _CHIN = (105, 334), 152
_SOFT = 10
"""Width in crop pixels over which a part of the crop fades out towards the rest of it."""
_INWARD = 0.03  # the point that is followed lies behind the face's surface, where turns move it less
POSITION_LOW = np.array([-0.14, -0.20, -0.16], np.float32)
POSITION_HIGH = np.array([0.14, 0.16, 0.06], np.float32)
"""Box in the body model's rest coordinates (metres) that quantised positions cover: head and throat."""


@dataclass(frozen=True)
class Area:
    """The part of the crop that the video network works on: `width` x `height` pixels from (`left`, `top`), all multiples of 16.

    Training sees such parts more often than whole crops, and the cost is in proportion.
    """

    name: str
    left: int = 0
    top: int = 0
    width: int = CROP
    height: int = CROP

    @property
    def cut(self) -> tuple[slice, slice]:
        """Rows and columns."""
        return slice(self.top, self.top + self.height), slice(self.left, self.left + self.width)

    def feather(self) -> FloatArray:
        """(height, width): 1 inside, falling to 0 at those sides where the crop goes on."""

        def side(start: int, size: int) -> FloatArray:
            at = np.arange(size) + 0.5
            near = at / _SOFT if start else np.ones(size)
            far = (size - at) / _SOFT if start + size < CROP else np.ones(size)
            ramp = np.clip(np.minimum(near, far), 0, 1)
            return np.asarray(ramp * ramp * (3 - 2 * ramp), np.float32)

        return np.outer(side(self.top, self.height), side(self.left, self.width)).astype(np.float32)


WHOLE = Area("whole")
MOUTH = Area("mouth", 64, 112, 128, 96)
"""Where the crop shows the mouth, wide open too: a fifth of it. In 93 portraits that speak lips and mouth lie in rows 129 to 186 and columns 85 to 170,
in films in 133 to 189 and 97 to 162."""


@dataclass(frozen=True)
class CropTransform:
    """A pixel (x, y) of the frame lies at (scale * x + x0, scale * y + y0) of the crop; pixel centres at halves."""

    scale: float
    x0: float
    y0: float

    def forward(self) -> npt.NDArray[np.float64]:
        """The (2, 3) matrix from frame to crop in OpenCV's coordinates (pixel centres at whole numbers)."""
        half = 0.5 * (self.scale - 1)
        return np.array([[self.scale, 0, self.x0 + half], [0, self.scale, self.y0 + half]])

    def points(self, px: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Frame points (..., 2) in crop pixels."""
        return np.asarray(px, np.float64) * self.scale + [self.x0, self.y0]

    def box(self, width: int, height: int, area: Area = WHOLE) -> tuple[int, int, int, int]:
        """The frame's pixels (x from, y from, x to, y to) whose centres lie in an area of the crop, clipped to the frame."""
        across, down = (area.left, area.left + area.width), (area.top, area.top + area.height)
        at = [
            (edge - at0) / self.scale - 0.5
            for at0, edges in ((self.x0, across), (self.y0, down))
            for edge in edges
        ]
        x0, x1 = int(np.ceil(at[0])), int(np.floor(at[1])) + 1
        y0, y1 = int(np.ceil(at[2])), int(np.floor(at[3])) + 1
        return (
            min(max(x0, 0), width), min(max(y0, 0), height), min(max(x1, 0), width), min(max(y1, 0), height)
        )  # fmt: skip


class FaceCrop:
    """Crop transforms of one avatar."""

    def __init__(self, avatar: Avatar) -> None:
        fit = avatar.fit
        brow, chin = _brow_and_chin(fit)
        middle = (brow + chin) / 2 - rotation_matrix(fit.rotation) @ [0, 0, _INWARD]
        self.point = middle
        self._focal, self._cx, self._cy = fit.camera.focal, fit.camera.cx, fit.camera.cy
        height_px = float(np.linalg.norm(brow - chin)) * fit.camera.focal / -middle[2]
        self.scale = FACE_FILL * CROP / height_px
        pivots = dict(zip(PIVOTS, avatar.pivots.astype(np.float64), strict=True))
        self._joints = (pivots["spine"], pivots["neck"], pivots["head"])
        self._last: tuple[bytes, CropTransform] | None = None

    def transform(self, motion: FloatArray) -> CropTransform:
        """Where the crop lies for one motion vector (N_CHANNELS,)."""
        last, key = self._last, motion.tobytes()  # a frame asks for it before, while and after it is drawn
        if last is None or last[0] != key:
            last = self._last = key, self._found(motion)
        return last[1]

    def _found(self, motion: FloatArray) -> CropTransform:
        motion = np.nan_to_num(np.asarray(motion, np.float64))
        shift = np.clip(motion[TRANSLATION_SLICE], -0.08, 0.08) / 2
        point = self.point
        turns = (motion[SPINE_SLICE], motion[NECK_SLICE], motion[HEAD_SLICE])
        for joint, turn, move in reversed(list(zip(self._joints, turns, (0, shift, shift), strict=True))):
            most = 0.35 if joint is self._joints[0] else 0.56
            angle = float(np.linalg.norm(turn))
            turn = turn if angle <= most else turn * (most / angle)
            point = joint + rotation_matrix(turn) @ (point - joint) + move
        depth = max(-float(point[2]), 0.05)
        x = self._cx + self._focal * point[0] / depth
        y = self._cy - self._focal * point[1] / depth
        return CropTransform(self.scale, CROP / 2 - self.scale * x, CROP / 2 - self.scale * y)


def _brow_and_chin(fit: Fit) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """Middle of the brows and point of the chin with a neutral expression, in world axes (3,) each."""
    body = load_body()
    ids = body.landmark_triangle[[*_BROWS, _CHIN]]
    corners = body.triangles[ids]
    shaped = body.vertices[corners] + np.tensordot(fit.shape, body.shape[:, corners], 1)
    marks = np.einsum("lck,lc->lk", shaped, body.landmark_bary[[*_BROWS, _CHIN]])
    world = fit.to_camera(marks) @ FLIP.T
    return world[:2].mean(0), world[2]


def crop(image: npt.NDArray[Any], transform: CropTransform, *, nearest: bool = False) -> npt.NDArray[Any]:
    """The crop (CROP, CROP) or (CROP, CROP, C) of an image (H, W) or (H, W, C), uint8 or float32, of the same type.

    Outside the frame the border is repeated. `nearest` for labels and positions, which must not mix.
    """
    scale = transform.scale
    if not nearest and scale < 0.67:  # average first: no aliasing when shrinking
        image, transform = _reduced(image, transform)
    flags = cv2.INTER_NEAREST if nearest else cv2.INTER_LINEAR
    out = cv2.warpAffine(
        image, transform.forward(), (CROP, CROP), flags=flags, borderMode=cv2.BORDER_REPLICATE
    )
    return np.asarray(out, image.dtype)


def place_of(transform: CropTransform, width: int, height: int) -> CropPlace:
    """Where the crop lies in a frame of width x height, and what of it is averaged first: nothing where it is not shrunk much."""
    scale, by = transform.scale, 1
    left, top, columns, rows = 0, 0, width, height
    if scale < 0.67:
        x0, y0, x1, y1 = transform.box(width, height)
        squares = round(1 / scale)
        x_from, y_from = max(x0 - squares, 0), max(y0 - squares, 0)
        across = (min(x1 + 2 * squares, width) - x_from) // squares
        down = (min(y1 + 2 * squares, height) - y_from) // squares
        if x1 > x0 and y1 > y0 and across > 0 and down > 0:
            by, left, top, columns, rows = squares, x_from, y_from, across, down
    return CropPlace(scale, transform.x0, transform.y0, by, left, top, columns, rows)


def _reduced(image: npt.NDArray[Any], transform: CropTransform) -> tuple[npt.NDArray[Any], CropTransform]:
    """Where the crop lies, the image averaged as `place_of` says, and the transform of that piece."""
    height, width = image.shape[:2]
    place = place_of(transform, width, height)
    if place.by == 1:
        return image, transform
    by, x0, y0 = place.by, place.left, place.top
    piece = image[y0 : y0 + by * place.rows, x0 : x0 + by * place.columns]
    piece = cv2.resize(piece, (place.columns, place.rows), interpolation=cv2.INTER_AREA)
    scale = transform.scale
    return np.asarray(piece, image.dtype), CropTransform(
        scale * by, transform.x0 + scale * x0, transform.y0 + scale * y0
    )


def cut(
    target: kernels.Target, transform: CropTransform, area: Area = WHOLE
) -> tuple[Bytes, Bytes, Bytes, Bytes]:
    """What the video network sees of a drawn frame in an area (H, W) of the crop: colour (H, W, 3), coverage (H, W), labels (H, W), quantised rest
    positions (H, W, 3). `crop` and `quantised_position` in one pass, within the rounding of places."""
    height, width = target.rgb.shape[:2]
    return kernels.face_crop(
        target.rgb, target.coverage, target.part, target.position, place_of(transform, width, height), CROP, _FACTOR, _OFFSET,
        (area.left, area.top, area.width, area.height),
    )  # fmt: skip


_QUANTUM = 254 / (POSITION_HIGH - POSITION_LOW)
_FACTOR, _OFFSET = _QUANTUM.tolist(), (1.5 - POSITION_LOW * _QUANTUM).tolist()
_FACTORS = np.tile(_QUANTUM, CROP).astype(np.float32)
_OFFSETS = np.tile(1.5 - POSITION_LOW * _QUANTUM, CROP).astype(np.float32)


def quantised_position(position: FloatArray, part: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
    """Rest positions (CROP, CROP, 3) in metres as uint8: POSITION_LOW is 1, POSITION_HIGH 255, and 0 where `part` is background."""
    flat = np.asarray(position, np.float32).reshape(
        CROP, 3 * CROP
    )  # long rows: numpy is slow at rows of three
    unit = flat * _FACTORS
    unit += _OFFSETS
    np.clip(unit, 1, 255, out=unit)
    quantised = unit.astype(np.uint8).reshape(CROP, CROP, 3)
    return np.asarray(cv2.bitwise_and(quantised, quantised, mask=part), np.uint8)


def _ramp() -> FloatArray:
    """(CROP,): 1 inside, falling to 0 at either end."""
    at = np.minimum(np.arange(CROP) + 0.5, CROP - 0.5 - np.arange(CROP)) / FEATHER
    ramp = np.clip(at - 0.1, 0, 1)
    return (ramp * ramp * (3 - 2 * ramp)).astype(np.float32)


RAMP = _ramp()
"""The feather along either side of the crop."""
WINDOW = np.outer(RAMP, RAMP)


def paste(
    frame: npt.NDArray[np.uint8],
    under: npt.NDArray[np.uint8],
    colour: npt.NDArray[Any],
    mask: npt.NDArray[np.floating],
    transform: CropTransform,
) -> npt.NDArray[np.uint8]:
    """Put `colour` (CROP, CROP, 3), uint8 or float32 in 0..255, by `mask` (CROP, CROP) in 0..1 over `frame` (H, W, 3) uint8, in place.

    `under` (CROP, CROP, 3) uint8 is the crop of the frame that was painted on. What changes is added, bilinearly and feathered towards the
    crop's border; what the frame has finer than a crop shows stays as far as the painting kept the crop's own finest details
    (kernels/cuda/paste_plan.cu). Pixels about which the mask is 0 keep their bits. Returns `frame`.
    """
    if colour.shape != (CROP, CROP, 3) or under.shape != colour.shape or mask.shape != (CROP, CROP):
        raise ValueError(
            f"crop {under.shape}, colour {colour.shape}, mask {mask.shape}: expected twice ({CROP}, {CROP}, 3) and ({CROP}, {CROP})"
        )
    if colour.dtype != np.uint8:
        colour = np.clip(np.rint(colour), 0, 255).astype(np.uint8)
    placement = (transform.scale, transform.x0, transform.y0)
    square = kernels.Square(colour, under, np.asarray(mask, np.float32), RAMP, placement)
    kernels.paste(frame, square)
    return frame
