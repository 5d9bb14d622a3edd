"""Avatar: one enrolled person, saved as one `.avatar` file (safetensors with JSON metadata).

Everything that the live loop needs is precomputed: photo layers, background plate, the portrait surface and what lies behind its openings,
camera and pivots. Nothing of the file is executed, and a file that is cut short, of another version or no avatar is refused.
"""

from __future__ import annotations

import json
import os
import tempfile
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from visavis.engine.body.fit import Camera, Fit
from visavis.engine.body.limbs import Limb
from visavis.engine.body.rig import SIDES, arm_bones
from visavis.engine.body.surface import Seam, Surface
from visavis.engine.errors import AvatarError
from visavis.engine.motion.articulation import Articulation
from visavis.engine.motion.channels import ARKIT, FloatArray, zero_motion
from visavis.engine.video.interior import Layer
from visavis.engine.video.personal import PersonalWeights

FORMAT = "visavis-avatar"
VERSION = 2
PIVOTS = ("spine", "neck", "head", "clavicleLeft", "clavicleRight")
Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class Avatar:
    """One person.

    texture (H, W, 4) the person's layer, straight RGBA; plate (H, W, 3) the background filled behind; surface and layers (back to front) in
    world axes; limbs: arms with visible hands, in front of the surface, back to front; pivots (5, 3) joint positions named by PIVOTS; fit: the photo's own shape, expression and pose;
    metadata: name, photo_sha256, created (ISO 8601), consent, landmark_error_px, ...; personal: what the video network learned of this person from
    a film, if it did; articulation: how its mouth goes with speech, if a film told.
    """

    texture: Bytes
    plate: Bytes
    surface: Surface
    layers: tuple[Layer, ...]
    pivots: FloatArray
    fit: Fit
    metadata: dict[str, Any] = field(default_factory=dict)
    limbs: tuple[Limb, ...] = ()
    personal: PersonalWeights | None = None
    articulation: Articulation | None = None

    @property
    def width(self) -> int:
        """Width of its frames in pixels."""
        return int(self.plate.shape[1])

    @property
    def height(self) -> int:
        """Height of its frames in pixels."""
        return int(self.plate.shape[0])

    def neutral_motion(self) -> FloatArray:
        """Motion (N_CHANNELS,) that takes the photo's face to a closed, neutral mouth; the other channels are 0."""
        motion = zero_motion()
        motion[: len(ARKIT)] = self.surface.rest_motion
        return motion

    def save(self, path: str | Path) -> None:
        """Write the file, whole or not at all."""
        from safetensors.numpy import save

        arrays: dict[str, npt.NDArray[Any]] = {
            "texture": self.texture,
            "plate": self.plate,
            "pivots": self.pivots,
        }
        _flatten("surface.", self.surface, arrays, skip=("seams", "residual_px"))
        for k, seam in enumerate(self.surface.seams):
            _flatten(f"seam{k}.", seam, arrays, skip=("name", "share"))
        for k, layer in enumerate(self.layers):
            _flatten(f"layer{k}.", layer, arrays, skip=("name", "side", "part", "front"))
        for k, limb in enumerate(self.limbs):
            _flatten(f"limb{k}.", limb, arrays, skip=("side",))
        for name in ("shape", "expression", "rotation", "translation"):
            arrays[f"fit.{name}"] = np.asarray(getattr(self.fit, name), np.float32)
        arrays["surface.units"] = arrays["surface.units"].astype(np.float16)
        if self.personal is not None:
            arrays["personal"] = self.personal.weights
        own = self.articulation
        if own is not None:
            arrays["articulation.weights"], arrays["articulation.offset"] = own.weights, own.offset
        header = {
            "format": FORMAT,
            "version": VERSION,
            "residual_px": self.surface.residual_px,
            "seams": [{"name": s.name, "share": s.share} for s in self.surface.seams],
            "layers": [
                {"name": layer.name, "side": layer.side, "part": layer.part, "front": layer.front}
                for layer in self.layers
            ],
            "limbs": [limb.side for limb in self.limbs],
            "camera": [self.fit.camera.focal, self.fit.camera.cx, self.fit.camera.cy],
            "fit_error": self.fit.error,
            "personal_base": None if self.personal is None else self.personal.base,
            "articulation": None if own is None else {"reach": own.reach, "base": own.base},
            "metadata": self.metadata,
        }
        content = save(
            {k: np.ascontiguousarray(v) for k, v in arrays.items()}, {"visavis": json.dumps(header)}
        )
        path = Path(path)
        handle, temporary = tempfile.mkstemp(dir=path.parent or ".", prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as file:
                file.write(content)
            os.chmod(temporary, 0o644)
            os.replace(temporary, path)
        except BaseException:
            Path(temporary).unlink(missing_ok=True)
            raise

    @classmethod
    def load(cls, path: str | Path) -> Avatar:
        """Read an avatar; AvatarError when the file is missing, cut short, of another version or not an avatar."""
        from safetensors import SafetensorError, safe_open

        path = Path(path)
        if not path.is_file():
            raise AvatarError(f"no such avatar file: {path}")
        try:
            with safe_open(path, "numpy") as file:
                text = (file.metadata() or {}).get("visavis")
                if text is None:
                    raise AvatarError(f"{path} is a safetensors file but not an avatar")
                header = json.loads(text)
                if header.get("format") != FORMAT:
                    raise AvatarError(f"{path} is not an avatar file")
                if header.get("version") != VERSION:
                    raise AvatarError(
                        f"{path} is an avatar of version {header.get('version')}; this program reads version {VERSION}: "
                        "enrol the photo again"
                    )
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            return cls._from(arrays, header)
        except AvatarError:
            raise
        except (SafetensorError, OSError) as error:
            raise AvatarError(f"{path} is cut short or not an avatar file ({error})") from None
        except Exception as error:  # a well-formed container with wrong content
            raise AvatarError(f"{path} is a damaged avatar file ({type(error).__name__}: {error})") from None

    @classmethod
    def _from(cls, arrays: dict[str, npt.NDArray[Any]], header: dict[str, Any]) -> Avatar:
        arrays["surface.units"] = arrays["surface.units"].astype(np.float32)
        seams = tuple(
            Seam(name=s["name"], share=float(s["share"]), **_unflatten(f"seam{k}.", arrays))
            for k, s in enumerate(header["seams"])
        )
        layers = tuple(
            Layer(
                name=v["name"],
                side=v["side"],
                part=int(v["part"]),
                front=bool(v.get("front", False)),
                **_unflatten(f"layer{k}.", arrays),
            )
            for k, v in enumerate(header["layers"])
        )
        limbs = tuple(
            Limb(side=side, **_unflatten(f"limb{k}.", arrays)) for k, side in enumerate(header["limbs"])
        )
        surface = Surface(
            seams=seams, residual_px=float(header["residual_px"]), **_unflatten("surface.", arrays)
        )
        fit = Fit(
            **{k: v.astype(np.float64) for k, v in _unflatten("fit.", arrays).items()},
            camera=Camera(*(float(v) for v in header["camera"])),
            error=float(header["fit_error"]),
        )
        avatar = cls(
            arrays["texture"],
            arrays["plate"],
            surface,
            layers,
            arrays["pivots"],
            fit,
            dict(header["metadata"]),
            limbs,
            PersonalWeights(arrays["personal"], str(header["personal_base"]))
            if "personal" in arrays
            else None,
            _articulation(arrays, header),
        )
        height, width = avatar.plate.shape[:2]
        n = len(surface.vertices)
        if (
            avatar.texture.shape != (height, width, 4)
            or surface.units.shape != (len(ARKIT), n, 3)
            or surface.uv.shape != (n, 2)
            or surface.weights.shape not in ((n, 4), (n, 5))  # 4: made before the frame held anything
            or (surface.triangles.size and not 0 <= surface.triangles.min() <= surface.triangles.max() < n)
            or not np.isfinite(surface.vertices).all()
            or not all(_fits(limb) for limb in limbs)
        ):
            raise AvatarError("the avatar file's arrays do not fit together")
        return avatar


def _articulation(arrays: dict[str, npt.NDArray[Any]], header: dict[str, Any]) -> Articulation | None:
    told = header.get("articulation")
    if told is None:
        return None
    reach = None if told["reach"] is None else float(told["reach"])
    weights, offset = (
        arrays[f"articulation.{name}"].astype(np.float32, copy=False) for name in ("weights", "offset")
    )
    return Articulation(weights, offset, reach, str(told["base"]))


def _fits(limb: Limb) -> bool:
    n = len(limb.vertices)
    return (
        limb.side in SIDES
        and limb.weights.shape == (n, 1 + len(arm_bones(limb.side)))
        and limb.uv.shape == (n, 2)
        and limb.axes.shape == (len(arm_bones(limb.side)), 3, 3)
        and bool(limb.triangles.size == 0 or 0 <= limb.triangles.min() <= limb.triangles.max() < n)
        and bool(
            np.isfinite(limb.vertices).all()
            and np.isfinite(limb.axes).all()
            and np.isfinite(limb.pivots).all()
        )
    )


def _flatten(prefix: str, value: Any, into: dict[str, npt.NDArray[Any]], skip: tuple[str, ...]) -> None:
    for entry in fields(value):
        if entry.name not in skip:
            into[prefix + entry.name] = getattr(value, entry.name)


def _unflatten(prefix: str, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, npt.NDArray[Any]]:
    return {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
