"""Where drawables live: on this processor, or on a device that a kit stands for.

A renderer makes meshes, rigs and a target once and then poses and draws. Within `building_for(kit)` the names `Mesh`,
`PoseRig` and `Target` make the kit's objects instead, which take the same calls: one renderer serves every device.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any, Protocol


class Kit(Protocol):
    """Makes drawables; arguments as those of `Mesh`, `PoseRig` and `Target`."""

    def mesh(self, *args: Any, **kwargs: Any) -> Any:
        """In place of `Mesh`."""
        ...

    def rig(self, *args: Any, **kwargs: Any) -> Any:
        """In place of `PoseRig`."""
        ...

    def target(self, *args: Any, **kwargs: Any) -> Any:
        """In place of `Target`."""
        ...


current: ContextVar[Kit | None] = ContextVar("visavis_kit", default=None)


@contextmanager
def building_for(kit: Kit) -> Iterator[None]:
    """Make drawables of `kit` in this context (thread or task)."""
    token = current.set(kit)
    try:
        yield
    finally:
        current.reset(token)
