"""Reading a photo: any file that Pillow decodes, to RGB in its upright orientation.

The size is checked before any pixel is decoded (a picture of a few kilobytes can unpack to gigabytes).
"""

from __future__ import annotations

import contextlib
import functools
import hashlib
import io
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageCms, ImageOps
from visavis.engine.errors import PhotoError

MAX_BYTES = 256 * 1024 * 1024
"""Largest file that is read at all."""
MAX_SIDE = 30_000
"""Longest side in pixels; OpenCV's warps count in 16 bits."""

# Formats of photos. Pillow reads many more; some of them run other programs (EPS).
_FORMATS = (
    "JPEG",
    "PNG",
    "WEBP",
    "AVIF",
    "TIFF",
    "MPO",
    "GIF",
    "BMP",
    "DIB",
    "PPM",
    "TGA",
    "JPEG2000",
    "QOI",
    "HEIF",
)

try:  # what telephones save; its wheels are not made for every machine
    import pi_heif
except ImportError:
    pi_heif = None


@dataclass(frozen=True, eq=False)
class Photo:
    """A decoded photo: `rgb` (H, W, 3) sRGB, straight `alpha` (H, W) or None when opaque, and the file's
    sha256."""

    rgb: npt.NDArray[np.uint8]
    alpha: npt.NDArray[np.uint8] | None
    sha256: str


def load_photo(source: Path | str | bytes, max_pixels: int = 40_000_000) -> Photo:
    """Decode a photo from a path or from a file's bytes.

    EXIF orientation is applied, an embedded colour profile converted to sRGB, 16 bits reduced to 8, palettes,
    greys and CMYK expanded; of an animation the first frame is taken.

    Raises PhotoError: `not_a_picture` for what cannot be read or decoded, `too_large` beyond `max_pixels`.
    """
    data, name = _read(source)
    with warnings.catch_warnings():
        # Pillow's own bomb warning: the limit here is `max_pixels`, checked below.
        warnings.simplefilter("ignore")
        try:
            image = Image.open(io.BytesIO(data), formats=_formats())
        except Image.DecompressionBombError:
            raise PhotoError(f"{name} has far more than {max_pixels} pixels", "too_large") from None
        except Exception:
            raise PhotoError(
                f"{name} is not a picture that can be read: use a JPEG, PNG or WebP file", "not_a_picture"
            ) from None
        width, height = image.size
        if width * height > max_pixels or max(width, height) > MAX_SIDE:
            raise PhotoError(
                f"{name} has {width}x{height} pixels, more than the limit of {max_pixels}"
                f" ({MAX_SIDE} a side): reduce it first",
                "too_large",
            )
        try:
            rgb, alpha = _decode(image)
        except Exception as error:  # decoders raise nearly anything on damaged files
            reason = " ".join(str(error).split())
            raise PhotoError(f"{name} is damaged or cut short: {reason}", "not_a_picture") from None
    return Photo(rgb, alpha, hashlib.sha256(data).hexdigest())


def as_png(picture: npt.NDArray[np.uint8]) -> bytes:
    """A picture (H, W, 3) as bytes that `load_photo` reads back without loss."""
    buffer = io.BytesIO()
    Image.fromarray(picture).save(buffer, "png", compress_level=1)
    return buffer.getvalue()


@functools.cache
def _formats() -> tuple[str, ...]:
    Image.init()
    if pi_heif is not None:
        pi_heif.register_heif_opener(thumbnails=False)
    return tuple(name for name in _FORMATS if name in Image.OPEN)


def _read(source: Path | str | bytes) -> tuple[bytes, str]:
    if isinstance(source, bytes | bytearray | memoryview):
        data, name = bytes(source), "the file"
    else:
        path, name = Path(source), str(source)
        try:
            if path.stat().st_size > MAX_BYTES:
                raise PhotoError(f"{name} is larger than {MAX_BYTES >> 20} MB: reduce it first", "too_large")
            data = path.read_bytes()
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
            raise PhotoError(f"cannot read {name}: {reason}", "not_a_picture") from None
    if not data:
        raise PhotoError(f"{name} is empty", "not_a_picture")
    if len(data) > MAX_BYTES:
        raise PhotoError(f"{name} is larger than {MAX_BYTES >> 20} MB: reduce it first", "too_large")
    return data, name


def _decode(image: Image.Image) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.uint8] | None]:
    image.seek(0)
    image.load()
    profile = image.info.get("icc_profile")
    with contextlib.suppress(Exception):  # broken EXIF data says nothing about the picture
        image = ImageOps.exif_transpose(image)
    if image.mode == "LAB":
        image = _convert(image, ImageCms.createProfile("LAB")) or image
    if image.mode.startswith(("I", "F")):
        image = _to_8_bits(image)
    alpha = None
    if image.has_transparency_data:
        image = image.convert("RGBA")
        alpha = np.array(image.getchannel("A"), np.uint8)
        if alpha.min() == 255:
            alpha = None
    if profile:
        image = _to_srgb(image, profile)
    return np.array(image.convert("RGB"), np.uint8), alpha


def _to_8_bits(image: Image.Image) -> Image.Image:
    """Greys of 16 or 32 bits, or floats, to 8 bits: 16-bit files by their full scale, others by their
    range."""
    values = np.nan_to_num(np.asarray(image, np.float64), posinf=0.0, neginf=0.0)
    if image.mode.startswith("I"):
        high, low = (65535.0 if values.max() > 255 else 255.0), 0.0
        high = max(high, float(values.max()))
    else:
        low, high = float(values.min()), float(values.max())
        if low >= 0 and high <= 1:
            low, high = 0.0, 1.0
    scaled = (values - low) * (255 / max(high - low, 1e-9))
    return Image.fromarray(np.clip(np.round(scaled), 0, 255).astype(np.uint8))


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image:
    """The picture's colours by its own profile; a broken or unfitting profile is ignored, as viewers do."""
    mode = "RGB" if image.mode in ("RGBA", "P", "PA", "LA") else image.mode
    try:
        return _convert(image.convert(mode), ImageCms.ImageCmsProfile(io.BytesIO(profile))) or image
    except (ImageCms.PyCMSError, OSError, ValueError):
        return image


def _convert(image: Image.Image, profile: Any) -> Image.Image | None:
    return ImageCms.profileToProfile(image, profile, ImageCms.createProfile("sRGB"), outputMode="RGB")
