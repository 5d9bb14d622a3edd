"""Avatar files: what is saved comes back; anything else is refused with one clear error."""

from __future__ import annotations

import io
import json
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw
from safetensors.numpy import save_file
from visavis.engine.avatar import VERSION, Avatar
from visavis.engine.enroll import enroll
from visavis.engine.errors import AvatarError, PhotoError
from visavis.engine.motion.channels import zero_motion
from visavis.engine.video.renderer import Renderer


@pytest.fixture(scope="module")
def saved(avatar, tmp_path_factory):
    path = tmp_path_factory.mktemp("avatar") / "demo.avatar"
    avatar.save(path)
    return path


def test_round_trip_gives_the_same_picture(avatar, saved):
    again = Avatar.load(saved)
    assert again.metadata == avatar.metadata
    assert again.metadata["consent"] == "public domain" and len(again.metadata["photo_sha256"]) == 64
    assert (again.width, again.height) == (512, 512)
    motion = zero_motion()
    motion[24] = 0.3
    assert np.abs(Renderer(again).render(motion).astype(int) - Renderer(avatar).render(motion)).mean() < 0.05


def test_a_file_of_before_layers_went_with_the_face_is_read(avatar, saved, tmp_path):
    from safetensors.numpy import safe_open, save_file

    with safe_open(saved, "numpy") as file:
        header, arrays = file.metadata(), {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    older = {k: v for k, v in arrays.items() if not (k.startswith("layer") and k.endswith(".units"))}
    assert len(older) < len(arrays)
    save_file(older, tmp_path / "older.avatar", header)
    again = Avatar.load(tmp_path / "older.avatar")
    assert [layer.name for layer in again.layers] == [layer.name for layer in avatar.layers]
    Renderer(again).render(zero_motion())


@pytest.mark.parametrize(("columns", "good"), [(4, True), (3, False), (6, False)])
def test_files_of_before_the_frame_held_anything_are_read_and_others_are_not(avatar, tmp_path, columns, good):
    weights = np.zeros((len(avatar.surface.vertices), columns), np.float32)
    weights[:, : min(columns, 4)] = avatar.surface.weights[:, : min(columns, 4)]
    replace(avatar, surface=replace(avatar.surface, weights=weights)).save(tmp_path / "a.avatar")
    if good:
        np.testing.assert_array_equal(Avatar.load(tmp_path / "a.avatar").surface.weights, weights)
    else:
        with pytest.raises(AvatarError, match="do not fit together"):
            Avatar.load(tmp_path / "a.avatar")


def test_saving_leaves_nothing_half_written(avatar, saved, monkeypatch, tmp_path):
    target = tmp_path / "new.avatar"
    monkeypatch.setattr("os.replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        avatar.save(target)
    assert list(tmp_path.iterdir()) == []


@settings(max_examples=30, deadline=None)
@given(cut=st.floats(0, 0.999))
def test_cut_short_is_refused(saved, tmp_path_factory, cut):
    content = saved.read_bytes()
    path = tmp_path_factory.getbasetemp() / "cut.avatar"
    path.write_bytes(content[: int(len(content) * cut)])
    with pytest.raises(AvatarError):
        Avatar.load(path)


@given(content=st.binary(max_size=400))
def test_noise_is_refused(tmp_path_factory, content):
    path = tmp_path_factory.getbasetemp() / "noise.avatar"
    path.write_bytes(content)
    with pytest.raises(AvatarError):
        Avatar.load(path)


def test_other_files_and_versions_are_refused(tmp_path):
    path = tmp_path / "other.avatar"
    with pytest.raises(AvatarError, match="no such"):
        Avatar.load(path)
    save_file({"a": np.zeros(3, np.float32)}, path)
    with pytest.raises(AvatarError, match="not an avatar"):
        Avatar.load(path)
    header = {"format": "visavis-avatar", "version": 99}
    save_file({"a": np.zeros(3, np.float32)}, path, {"visavis": json.dumps(header)})
    with pytest.raises(AvatarError, match="version 99"):
        Avatar.load(path)
    header["version"] = VERSION
    save_file({"a": np.zeros(3, np.float32)}, path, {"visavis": json.dumps(header)})
    with pytest.raises(AvatarError, match="damaged"):
        Avatar.load(path)


@pytest.mark.parametrize("size", [100, 250, 500, 4096])
def test_unusable_sizes(demo_photo, size):
    with pytest.raises(PhotoError, match="multiple of 16"):
        enroll(demo_photo, size=size)


def test_a_cut_out_keeps_its_own_alpha(demo_photo, avatar):
    """A PNG with transparency: its alpha is the matte, and behind it lies an even backdrop."""
    photo = Image.open(demo_photo).convert("RGB")
    alpha = Image.new("L", photo.size, 0)
    ImageDraw.Draw(alpha).ellipse((120, 0, 340, 500), fill=255)
    photo.putalpha(alpha)
    buffer = io.BytesIO()
    photo.save(buffer, "png")
    cut = enroll(buffer.getvalue(), size=256)
    matte = cut.texture[..., 3]
    assert matte[-20:, :10].max() == 0 and matte[100:120, 120:136].min() == 255
    frame = Renderer(cut).render(zero_motion())
    assert np.abs(frame[-20:, :6].astype(int) - [226, 228, 230]).max() <= 2


def test_progress_is_told_in_order(demo_photo):
    told = []
    enroll(demo_photo, size=256, progress=lambda what, share: told.append((what, share)))
    shares = [share for _, share in told]
    assert shares == sorted(shares) and shares[-1] == 1.0 and len({what for what, _ in told}) > 4
