"""Which networks lie in a folder: what was learned with some is no use with others."""

from __future__ import annotations

import hashlib
from functools import lru_cache
from pathlib import Path


def digest_of(folder: Path, names: tuple[str, ...]) -> str:
    """A digest of `folder`/NAME.onnx of each name; read once as long as the files stay as they are."""
    return _digest(folder, names, *(folder.joinpath(f"{name}.onnx").stat().st_mtime_ns for name in names))


@lru_cache(maxsize=8)
def _digest(folder: Path, names: tuple[str, ...], *_modified: int) -> str:
    digest = hashlib.sha256()
    for name in names:
        digest.update(folder.joinpath(f"{name}.onnx").read_bytes())
    return digest.hexdigest()
