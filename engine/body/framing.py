"""Which part of a photo becomes the avatar's frame, and everything found in the photo carried over into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
import numpy.typing as npt
from visavis.engine.body.detect import BodyPose, Face
from visavis.engine.body.detect_hands import Hand

Bytes = npt.NDArray[np.uint8]
FACE_SHARE = 0.36
"""Height of the face in a frame (brow to chin) that the crop aims at, where the photo is large enough to choose."""
LEAST_FACE_SHARE = 0.2
"""The same where hands are seen: the frame grows to hold them, down to this."""


@dataclass(frozen=True)
class Frame:
    """A part of a photo scaled to a frame of `width` x `height`: frame pixel = (photo pixel - (x, y)) * scale, both counted with pixel
    centres at half-integers."""

    x: int
    y: int
    scale: float
    width: int
    height: int

    def image(self, image: Bytes) -> Bytes:
        """The frame cut out of a photo (H, W) or (H, W, C)."""
        size, scale = (self.width, self.height), self.scale
        if scale < 1:  # area averaging first: no aliasing when shrinking
            down, across = round(self.height / scale), round(self.width / scale)
            region = image[self.y : self.y + down, self.x : self.x + across]
            return np.asarray(cv2.resize(region, size, interpolation=cv2.INTER_AREA), np.uint8)
        matrix = np.array([
            [scale, 0, -self.x * scale + (scale - 1) * 0.5], [0, scale, -self.y * scale + (scale - 1) * 0.5]
        ])  # fmt: skip
        flags, border = cv2.INTER_CUBIC, cv2.BORDER_REPLICATE
        return np.asarray(cv2.warpAffine(image, matrix, size, flags=flags, borderMode=border), np.uint8)

    def face(self, face: Face) -> Face:
        """A face found in the photo, in the frame's pixels."""
        shift, scale = np.array([self.x, self.y, 0], np.float32), self.scale
        box = replace(
            face.box, x=(face.box.x - self.x) * scale, y=(face.box.y - self.y) * scale, w=face.box.w * scale, h=face.box.h * scale,
            keypoints=(face.box.keypoints - shift[:2]) * np.float32(scale),
        )  # fmt: skip
        return replace(face, landmarks=(face.landmarks - shift) * np.float32(scale), box=box)

    def pose(self, pose: BodyPose) -> BodyPose:
        """A body pose found in the photo, in the frame's pixels, without its mask."""
        shift = np.array([self.x, self.y, 0], np.float32)
        return replace(pose, landmarks=(pose.landmarks - shift) * np.float32(self.scale), mask=None)

    def hand(self, hand: Hand) -> Hand:
        """A hand found in the photo, in the frame's pixels."""
        return hand.moved(self.scale, (self.x, self.y))

    def holds(self, hand: Hand) -> bool:
        """Whether nearly all of a hand (in the frame's pixels) lies inside the frame."""
        marks = hand.landmarks[:, :2]
        return bool(((marks > 0) & (marks < [self.width, self.height])).all(1).mean() > 0.8)


def frame_of_person(photo_size: tuple[int, int], face: Face, size: int, hands: Sequence[Hand] = ()) -> Frame:
    """The part of a photo of (width, height) to take so that the face is large enough and the hands are inside; its longer side
    becomes `size`, sides are multiples of 16.

    A small face in a large photo is brought closer; the photo's own shape is kept up to 4:3 or 3:4.
    """
    width, height = photo_size
    marks = face.landmarks
    face_height = float(np.ptp(marks[:468, 1]))
    aspect = float(np.clip(width / height, 3 / 4, 4 / 3))
    crop_height = min(height, width / aspect, max(face_height / FACE_SHARE, 1))
    crop_height = max(crop_height, min(height, face_height * 1.5))
    centre_x = float(marks[:468, 0].min() + marks[:468, 0].max()) / 2
    top = float(marks[:468, 1].min()) - 0.62 * face_height  # room for hair
    if hands:
        reach = np.concatenate([
            hand.landmarks[:, :2] + np.array(step) * 0.35 * hand.size for hand in hands for step in ((-1, -1), (1, 1))
        ])  # fmt: skip
        low, high = np.clip(reach.min(0), 0, photo_size), np.clip(reach.max(0), 0, photo_size)
        top = min(top, float(low[1]))
        down = float(high[1]) - max(top, 0)
        across = 2 * max(float(high[0]) - centre_x, centre_x - float(low[0]))
        wanted = min(max(down, min(across, width) / aspect), face_height / LEAST_FACE_SHARE)
        crop_height = min(height, width / aspect, max(crop_height, wanted))
    crop_width = min(width, crop_height * aspect)
    longer = max(crop_width, crop_height)
    out_width, out_height = (
        max(16, round(side / longer * size / 16) * 16) for side in (crop_width, crop_height)
    )
    # one scale for both sides: the crop takes the exact shape of the frame
    scale = max(out_width / crop_width, out_height / crop_height)
    crop_width, crop_height = out_width / scale, out_height / scale
    x0 = float(np.clip(centre_x - crop_width / 2, 0, width - crop_width))
    y0 = float(np.clip(top, 0, height - crop_height))
    return Frame(round(x0), round(y0), scale, out_width, out_height)
