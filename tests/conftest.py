"""What several test folders share: the demo person, enrolled once a run."""

from __future__ import annotations

import ctypes
import sys
from pathlib import Path

import numpy as np
import pytest
import visavis.engine.enroll as enrolment
from visavis.engine.avatar import Avatar
from visavis.engine.body.detect import find_face
from visavis.engine.body.photo import load_photo

DEMO_PHOTO = Path(enrolment.__file__).parent / "assets" / "astronaut.png"


@pytest.fixture(scope="session")
def demo_photo() -> Path:
    """The public-domain portrait that ships with the engine."""
    return DEMO_PHOTO


@pytest.fixture(scope="session")
def avatar(demo_photo: Path) -> Avatar:
    """The demo person as an avatar of 512 pixels."""
    return enrolment.enroll(demo_photo, name="demo", consent="public domain")


@pytest.fixture(scope="session")
def photo_as_framed(demo_photo: Path) -> np.ndarray:
    """The part of the demo photo that the avatar shows, (512, 512, 3)."""
    photo = load_photo(demo_photo)
    rgb, _, _ = enrolment.crop_to_person(photo.rgb, photo.alpha, find_face(photo.rgb), 512)
    return rgb


@pytest.fixture(scope="session")
def cuda_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """All CUDA sources in one library that runs on the CPU."""
    sys.path.insert(0, str(Path(__file__).parent / "kernels"))
    from cuda_build import build

    return build(tmp_path_factory.mktemp("cuda"))


@pytest.fixture(scope="session")
def cuda(cuda_library: Path) -> ctypes.CDLL:
    """The same, loaded."""
    return ctypes.CDLL(str(cuda_library))
