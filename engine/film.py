"""A film of one person as the material of an avatar: the frame that makes the best photo, and all others to learn from.

Films are gone through frame by frame; what is kept does not grow with their length but for the landmarks.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from visavis.engine.articulate import learn_articulation
from visavis.engine.avatar import Avatar
from visavis.engine.body.detect import Face, FaceTracker
from visavis.engine.body.person import aperture, eye_openness
from visavis.engine.body.photo import as_png
from visavis.engine.enroll import enroll
from visavis.engine.errors import PhotoError, VideoError
from visavis.engine.footage import MAX_PIXELS, Footage, Source, film_name, read_frames
from visavis.engine.video.capture import follow_face

Bytes = npt.NDArray[np.uint8]
CANDIDATES = 12
"""Frames that are looked at for sharpness: the calmest faces."""
OPEN_WEIGHT, LID_WEIGHT, YAW_WEIGHT = 8.0, 3.0, 2.0
"""What a frame loses by lips that are apart (in distances between the eyes' corners), by lids lower than usual, and by a turn (in radians)."""


def check_film(path: Path, most: int = 50) -> None:
    """VideoError where a film cannot be read or shows no face in its first `most` frames."""
    tracker = FaceTracker()
    for frame, _ in itertools.islice(read_frames(path), most):
        if tracker.detect(frame) is not None:
            return
    raise VideoError(f"no face found in the first {most} frames of {path}", "no_face")


@dataclass(frozen=True)
class FilmLimits:
    """How long a film may be, in seconds."""

    least_s: float = 0.0
    most_s: float = math.inf

    def check(self, footage: Footage, name: str) -> None:
        """VideoError `too_short`, `too_long` or `too_large` (a frame's pixels)."""
        if footage.seconds < self.least_s:
            raise VideoError(
                f"{name} is {footage.seconds:.1f} s long; {self.least_s:g} s at least are needed, 8 to 15 s are good",
                "too_short",
            )
        if footage.seconds > self.most_s:
            raise VideoError(
                f"{name} is {footage.seconds:.0f} s long, more than the limit of {self.most_s:g} s: 8 to 15 s are enough",
                "too_long",
            )
        if footage.width * footage.height > MAX_PIXELS:
            raise VideoError(
                f"{name} has frames of {footage.width}x{footage.height} pixels, more than the limit of {MAX_PIXELS}",
                "too_large",
            )


@dataclass(frozen=True, eq=False)
class Film:
    """A film and the person's face in each of its frames (None: not found), with the detector's jitter taken off; `times`: seconds at which they are
    shown, from the first."""

    source: Source
    faces: list[Face | None]
    times: npt.NDArray[np.float64]

    @classmethod
    def read(
        cls,
        source: Source,
        tracker: FaceTracker | None = None,
        *,
        progress: Callable[[int], None] = lambda done: None,
    ) -> Film:
        """Look for the face in every frame; `progress` is told how many are done. VideoError where the film cannot be read or shows no face."""

        footage = Footage.of(source)
        rates: list[float] = []

        def counted() -> Iterator[Bytes]:
            for k, (frame, rate) in enumerate(read_frames(source)):
                progress(k)
                rates[:] = [rate]
                yield frame

        faces = follow_face(counted(), tracker or FaceTracker(), film_name(source))
        # some packets hold no frame of their own, or two
        same = footage.frames == len(faces)
        return cls(source, faces, footage.times if same else np.arange(len(faces)) / rates[0])

    def frames(self, numbers: Iterable[int]) -> Iterator[tuple[int, Bytes]]:
        """Some of the frames (H, W, 3), in the film's order, with their numbers."""
        wanted = set(numbers)
        last = max(wanted, default=-1)
        for k, (frame, _) in enumerate(read_frames(self.source)):
            if k in wanted:
                yield k, frame
            if k >= last:
                return

    def photo(self) -> Bytes:
        """The frame that makes the best photo: lips together, eyes open, the face to the viewer, and of such frames the sharpest."""
        best: tuple[float, Bytes] | None = None
        for k, frame in self.frames(calmest(self.faces)):
            face = self.faces[k]
            assert face is not None
            score = _sharpness(frame, face)
            if best is None or score > best[0]:
                best = score, frame
        assert best is not None
        return best[1]


def calmest(faces: list[Face | None], count: int = CANDIDATES) -> list[int]:
    """Numbers of the frames whose faces are most like a portrait's, best first: lips together, eyes open, not turned. Of `count` at most, none much
    worse than the best."""
    seen = [(k, face) for k, face in enumerate(faces) if face is not None]
    marks = np.stack([face.landmarks for _, face in seen])
    lids = eye_openness(marks).mean(1)
    usual = float(np.quantile(lids, 0.6))
    yaw = np.array([face.yaw for _, face in seen])
    loss = (
        OPEN_WEIGHT * np.maximum(aperture(marks), 0)
        + LID_WEIGHT * np.maximum(usual - lids, 0) / max(usual, 1e-3)
        + YAW_WEIGHT * np.abs(yaw)
    )
    order = np.argsort(loss, kind="stable")[:count]
    return [seen[k][0] for k in order if loss[k] <= loss[order[0]] + 0.15]


def _sharpness(frame: Bytes, face: Face) -> float:
    """Spread of the Laplacian over the face."""
    low, high = face.landmarks[:468, :2].min(0), face.landmarks[:468, :2].max(0)
    x0, y0 = np.maximum(low, 0).astype(int)
    x1, y1 = np.minimum(high + 1, [frame.shape[1], frame.shape[0]]).astype(int)
    if x1 - x0 < 3 or y1 - y0 < 3:
        return 0.0
    grey = cv2.cvtColor(np.ascontiguousarray(frame[y0:y1, x0:x1]), cv2.COLOR_RGB2GRAY)
    return float(cv2.Laplacian(grey, cv2.CV_32F).std())


def enroll_film(
    source: Source,
    *,
    size: int = 512,
    consent: str = "",
    name: str = "",
    limits: FilmLimits | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> Avatar:
    """Make an avatar of the frame of a film (its path or its content) that makes the best photo; where the film has sound, how the mouth goes with it is
    learned.

    Parameters as for `enroll`. VideoError where the film cannot be read, is not within its limits, shows no face or several; PhotoError where its
    best frame cannot be used otherwise.
    """
    report = progress or (lambda what, share: None)
    report("looking for the face", 0.0)
    footage = Footage.of(source)
    (limits or FilmLimits()).check(footage, film_name(source))
    film = Film.read(
        source, progress=lambda done: report("looking for the face", 0.5 * min(1.0, done / footage.frames))
    )
    try:
        avatar = enroll(
            as_png(film.photo()),
            size=size,
            consent=consent,
            name=name,
            progress=lambda what, share: report(
                what if share < 1 else "learning how the mouth moves", 0.5 + 0.35 * share
            ),
        )
    except PhotoError as error:
        if error.code != "several_faces":
            raise
        raise VideoError(
            f"{film_name(source)} shows several faces: use one of one person alone", error.code
        ) from None
    lesson = learn_articulation(source, film.faces, film.times)
    avatar.metadata["articulation"] = str(lesson)
    report("done", 1.0)
    return replace(avatar, articulation=lesson.articulation)
