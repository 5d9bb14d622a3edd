"""A person's own weights of the video network: what it learned of this mouth from a film (`visavis enroll FILM --learn`).

They are numbers only, as long as the shipped networks' weights and in their order; the graphs stay the shipped ones. Made for other shipped networks they
are no use, and the shipped ones are taken.
"""

from __future__ import annotations

import hashlib
import logging
import shutil
import tempfile
from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
from visavis.engine.runtime.digest import digest_of
from visavis.engine.runtime.onnx_weights import spans, weights_of, with_weights

log = logging.getLogger(__name__)

LEARNED = ("video_frame", "video_step")
"""The networks that learn, in the order of their weights. The photo's network stays: what it says of a photo is the same for all."""


@dataclass(frozen=True, eq=False)
class PersonalWeights:
    """`weights` (N,) float16 of the networks named by LEARNED; `base`: which shipped ones they were learned from."""

    weights: npt.NDArray[np.float16]
    base: str

    def __post_init__(self) -> None:
        """ValueError where these can be no network's weights."""
        if self.weights.dtype != np.float16 or self.weights.ndim != 1:
            raise ValueError(f"weights are {self.weights.dtype} {self.weights.shape}, expected float16 (N,)")
        if not np.isfinite(self.weights).all():
            raise ValueError("weights that are not finite")


def base_of(shipped: Path) -> str:
    """Which networks lie in a folder: a digest of those that learn."""
    return digest_of(shipped, LEARNED)


def learned(exported: Path, shipped: Path) -> PersonalWeights:
    """The weights of networks that were exported into the folder `exported` after training on from those in `shipped`."""
    parts = [weights_of(exported.joinpath(f"{name}.onnx").read_bytes()) for name in LEARNED]
    known = [weights_of(shipped.joinpath(f"{name}.onnx").read_bytes()) for name in LEARNED]
    if [len(part) for part in parts] != [len(part) for part in known]:
        raise ValueError("the exported networks are of another shape than the shipped ones")
    return PersonalWeights(np.concatenate(parts), base_of(shipped))


FOLDERS = 8
"""People whose files a process keeps; those of the one unused for longest make room."""
_folders: OrderedDict[str, tempfile.TemporaryDirectory[str]] = OrderedDict()


def folder(personal: PersonalWeights | None, shipped: Path) -> Path:
    """A folder of network files as `shipped` is, with a person's own weights in them; `shipped` itself where there are none or they do not fit.

    Made once a process and person; it goes when the process ends, or when FOLDERS others were asked for. Networks that are loaded need it no more.
    """
    if personal is None:
        return shipped
    if personal.base != base_of(shipped):
        log.warning(
            "this person's own video network was learned with another version: enrol the film again; the shared one is used"
        )
        return shipped
    key = hashlib.sha256(personal.weights.tobytes()).hexdigest() + str(shipped)
    if key not in _folders:
        made = tempfile.TemporaryDirectory(prefix="visavis-person-")
        try:
            _write(personal, shipped, Path(made.name))
        except ValueError as error:
            made.cleanup()
            log.warning("this person's own video network cannot be used (%s): the shared one is", error)
            return shipped
        _folders[key] = made
        while len(_folders) > FOLDERS:
            _folders.popitem(last=False)[1].cleanup()
    _folders.move_to_end(key)
    return Path(_folders[key].name)


def _write(personal: PersonalWeights, shipped: Path, out: Path) -> None:
    # those of a part of the crop read their weights out of the others, by name
    for path in shipped.glob("video_*.onnx"):
        if path.stem not in LEARNED:
            shutil.copyfile(path, out / path.name)
    at = 0
    for name in LEARNED:
        content = shipped.joinpath(f"{name}.onnx").read_bytes()
        count = sum(stop - start for start, stop in spans(content)) // 2
        (out / f"{name}.onnx").write_bytes(with_weights(content, personal.weights[at : at + count]))
        at += count
    if at != len(personal.weights):
        raise ValueError(f"{len(personal.weights)} weights for networks of {at}")
