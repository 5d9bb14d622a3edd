"""Photos: orientation, alpha, colour modes, limits; and anything at all gives a Photo or a PhotoError."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from heif import heic
from hypothesis import given, settings
from hypothesis import strategies as st
from pictures import ASTRONAUT, astronaut
from PIL import Image, ImageCms
from visavis.engine.body.photo import load_photo
from visavis.engine.errors import PhotoError


def encoded(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    out = io.BytesIO()
    image.save(out, kind, **options)
    return out.getvalue()


def corners(height: int = 24, width: int = 40) -> np.ndarray:
    """Red, green, blue and white quarters, in reading order."""
    out = np.zeros((height, width, 3), np.uint8)
    top, left = slice(0, height // 2), slice(0, width // 2)
    bottom, right = slice(height // 2, None), slice(width // 2, None)
    out[top, left], out[top, right], out[bottom, left] = (255, 0, 0), (0, 255, 0), (0, 0, 255)
    out[bottom, right] = 255
    return out


def png(width: int, height: int, body: bytes = b"\0" * 64) -> bytes:
    """A PNG that says to be of any size."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(body))
        + chunk(b"IEND", b"")
    )


def test_demo_photo_by_path_and_by_bytes() -> None:
    photo = load_photo(ASTRONAUT)
    assert photo.rgb.shape == (512, 512, 3) and photo.rgb.dtype == np.uint8 and photo.alpha is None
    again = load_photo(ASTRONAUT.read_bytes())
    assert again.sha256 == photo.sha256 and len(photo.sha256) == 64
    assert (again.rgb == photo.rgb).all()
    assert photo.rgb.flags.c_contiguous and photo.rgb.flags.writeable


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation: int) -> None:
    upright = corners()
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(Image.fromarray(np.ascontiguousarray(stored)), exif=exif)
    assert (load_photo(data).rgb == upright).all()


def test_alpha_is_kept_straight() -> None:
    rgba = np.dstack([corners(), np.full((24, 40), 255, np.uint8)])
    rgba[:6, :, 3] = np.linspace(0, 255, 40).astype(np.uint8)
    photo = load_photo(encoded(Image.fromarray(rgba)))
    assert photo.alpha is not None and (photo.alpha == rgba[..., 3]).all()
    assert (photo.rgb == rgba[..., :3]).all()
    rgba[..., 3] = 255
    assert load_photo(encoded(Image.fromarray(rgba))).alpha is None


def test_palette_with_transparency() -> None:
    image = Image.fromarray(corners()).quantize(8)
    transparent = image.getpixel((0, 0))
    photo = load_photo(encoded(image, transparency=transparent))
    assert photo.alpha is not None
    assert photo.alpha[0, 0] == 0 and photo.alpha[-1, -1] == 255
    assert np.abs(photo.rgb[-1, -1].astype(int) - 255).max() < 8


@pytest.mark.parametrize("mode", ["L", "LA", "1", "P", "CMYK", "YCbCr", "LAB", "RGBA", "RGBX"])
def test_colour_modes(mode: str) -> None:
    source = Image.fromarray(corners())
    if mode == "LAB":
        source = ImageCms.profileToProfile(
            source, ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), outputMode="LAB"
        )
    else:
        source = source.convert(mode)
    photo = load_photo(encoded(source, "TIFF"))
    assert photo.rgb.shape == (24, 40, 3)
    assert photo.rgb[-1, -1].min() > 240  # white stays white
    if mode not in ("L", "LA", "1"):
        red = photo.rgb[0, 0].astype(int)
        assert red[0] > 200 and max(red[1], red[2]) < 60


def test_cmyk_jpeg() -> None:
    photo = load_photo(encoded(Image.fromarray(corners(64, 64)).convert("CMYK"), "JPEG", quality=95))
    assert photo.rgb[-8, -8].min() > 230 and photo.rgb[8, 8, 0] > 200 > 60 > photo.rgb[8, 8, 1]


def test_sixteen_bits_and_floats() -> None:
    ramp = np.linspace(0, 65535, 256).astype(np.uint16)[None].repeat(8, 0)
    sixteen = load_photo(encoded(Image.fromarray(ramp)))
    assert np.abs(sixteen.rgb[0, :, 1].astype(int) - np.arange(256)).max() <= 1
    floats = load_photo(encoded(Image.fromarray((ramp / 65535).astype(np.float32)), "TIFF"))
    assert np.abs(floats.rgb[0, :, 1].astype(int) - np.arange(256)).max() <= 1


def test_colour_profile_is_applied() -> None:
    """A profile with red and green exchanged: the picture comes out exchanged."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = range(132, 132 + 12 * int.from_bytes(data[128:132], "big"), 12)
    entries = {bytes(data[at : at + 4]): at for at in tags}
    red, green = entries[b"rXYZ"], entries[b"gXYZ"]
    data[red : red + 4], data[green : green + 4] = b"gXYZ", b"rXYZ"
    photo = load_photo(encoded(Image.fromarray(corners()), icc_profile=bytes(data)))
    assert photo.rgb[0, 0, 1] > 150 > photo.rgb[0, 0, 0]
    broken = load_photo(encoded(Image.fromarray(corners()), icc_profile=b"not a profile"))
    assert (broken.rgb == corners()).all()


@pytest.mark.parametrize("kind", ["GIF", "WEBP", "PNG", "TIFF"])
def test_first_frame_of_an_animation(kind: str) -> None:
    first, second = Image.fromarray(corners()), Image.fromarray(255 - corners())
    options = {"lossless": True} if kind == "WEBP" else {}
    data = encoded(first, kind, save_all=True, append_images=[second], **options)
    assert np.abs(load_photo(data).rgb.astype(int) - corners()).max() < 8


@pytest.mark.parametrize(("width", "height"), [(20_000, 20_000), (100_000, 100_000), (40_000, 10)])
def test_bombs_are_refused_undecoded(width: int, height: int) -> None:
    with pytest.raises(PhotoError) as caught:
        load_photo(png(width, height))
    assert caught.value.code == "too_large"
    assert "40000000" in str(caught.value)


@pytest.mark.parametrize("turned", range(4))
def test_a_photo_of_a_telephone_is_read_upright(turned: int) -> None:
    picture = np.kron(corners(), np.ones((4, 4, 1), np.uint8))
    read = load_photo(heic(picture, turned=turned)).rgb.astype(int)
    expected = np.rot90(picture, turned)
    assert read.shape == expected.shape
    assert np.abs(read - expected).mean() < 8 and np.abs(read[::95, ::95] - expected[::95, ::95]).max() < 30


def test_a_photo_of_a_telephone_that_says_to_be_huge_is_refused() -> None:
    with pytest.raises(PhotoError) as caught:
        load_photo(heic(np.kron(corners(), np.ones((4, 4, 1), np.uint8)), stated=(30_000, 20_000)))
    assert caught.value.code in ("too_large", "not_a_picture")


def test_limit_is_the_callers() -> None:
    data = encoded(Image.fromarray(corners()))
    assert load_photo(data, max_pixels=24 * 40).rgb.shape == (24, 40, 3)
    with pytest.raises(PhotoError, match="40x24 pixels, more than the limit of 959"):
        load_photo(data, max_pixels=959)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"hello",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n",
        b"RIFF\0\0\0\0WEBPVP8 ",
        encoded(Image.fromarray(corners()))[:70],
        encoded(Image.fromarray(astronaut()), "JPEG")[:9000],
        png(64, 64),
        heic(astronaut())[:4000],
    ],
    ids=["empty", "text", "eps", "webp", "cut png", "cut jpeg", "short body", "cut heic"],
)
def test_broken_files(data: bytes, tmp_path: Path) -> None:
    path = tmp_path / "photo.jpg"
    path.write_bytes(data)
    for source in (data, path):
        with pytest.raises(PhotoError) as caught:
            load_photo(source)
        assert caught.value.code == "not_a_picture"
        assert "\n" not in str(caught.value)
    assert str(path) in str(caught.value)


def test_unreadable_paths(tmp_path: Path) -> None:
    for path in (tmp_path / "missing.png", tmp_path, "no\0name"):
        with pytest.raises(PhotoError, match="cannot read") as caught:
            load_photo(path)
        assert caught.value.code == "not_a_picture"


@settings(max_examples=150, deadline=None)
@given(st.binary(max_size=400))
def test_random_bytes(data: bytes) -> None:
    with pytest.raises(PhotoError):
        load_photo(data)


SAMPLES = [
    encoded(Image.fromarray(corners()), kind)
    for kind in ("PNG", "JPEG", "GIF", "WEBP", "TIFF", "BMP", "PPM", "TGA")
] + [heic(np.kron(corners(), np.ones((4, 4, 1), np.uint8)))]


@settings(max_examples=250, deadline=None)
@given(st.sampled_from(SAMPLES), st.data())
def test_damaged_files_decode_or_are_refused(sample: bytes, data: st.DataObject) -> None:
    damaged = bytearray(sample)
    for _ in range(data.draw(st.integers(1, 6))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    cut = data.draw(st.one_of(st.none(), st.integers(1, len(damaged))))
    try:
        photo = load_photo(bytes(damaged[:cut]))
    except PhotoError as error:
        assert error.code in ("not_a_picture", "too_large")
    else:
        assert photo.rgb.ndim == 3 and photo.rgb.shape[2] == 3 and photo.rgb.dtype == np.uint8
