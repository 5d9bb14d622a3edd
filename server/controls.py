"""The manner of a person as it crosses the wire: JSON of the five controls, checked whole before any of it is used.

The controls themselves are the engine's: `visavis.engine.motion.diffusion.Controls`. An object may name any subset of them; the others
stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, fields, replace
from typing import Any, Protocol

from visavis.engine.errors import VisavisError
from visavis.engine.motion.diffusion import GAZE_LIMIT, Controls
from visavis.engine.motion.layout import MOODS

LARGEST = 2.0
"""Of expressiveness and head movement; 1 is as the networks have them, 0 none."""
YAW_LIMIT, PITCH_LIMIT = (round(float(limit), 6) for limit in GAZE_LIMIT)
"""How far from the viewer the gaze may rest, in radians: to the person's left or right, up or down."""
NAMES = tuple(field.name for field in fields(Controls))

Changes = dict[str, Any]
"""Controls as JSON has them, some or all: names of NAMES; `gaze` is a list [yaw, pitch]."""


class ControlsError(VisavisError):
    """An object that names no controls, or gives one a value that it cannot have."""

    code = "bad_value"


class Controllable(Protocol):
    """A session that can be steered."""

    @property
    def controls(self) -> Controls: ...
    @controls.setter
    def controls(self, controls: Controls) -> None: ...


def parse_controls(value: Any) -> Changes:
    """The changes that a JSON value asks for, numbers as floats. ControlsError with one message where any part of it cannot be used."""
    if not isinstance(value, dict):
        raise ControlsError(f"The controls must be an object with any of {', '.join(NAMES)}.")
    unknown = [name for name in value if name not in _CHECKS]
    if unknown:
        raise ControlsError(f"There is no control {str(unknown[0])[:40]!r}; there are {', '.join(NAMES)}.")
    return {name: _CHECKS[name](name, given) for name, given in value.items()}


def change(session: Controllable, changes: Changes) -> Changes:
    """Make parsed changes to a session, from its next frame on; all controls now in force, as JSON."""
    if changes:
        values = changes | ({"gaze": tuple(changes["gaze"])} if "gaze" in changes else {})
        session.controls = replace(session.controls, **values)
    return asdict(session.controls) | {"gaze": list(session.controls.gaze)}


def _number(value: Any, low: float, high: float) -> float | None:
    """The value, if it is a number in the range (NaN is in none; True is no number)."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high:
        return None
    return float(value)


def _share(name: str, value: Any) -> float:
    number = _number(value, 0.0, LARGEST)
    if number is None:
        raise ControlsError(f"'{name}' must be a number from 0 to {LARGEST:g}.")
    return number


def _gaze(name: str, value: Any) -> list[float]:
    if isinstance(value, list) and len(value) == 2:
        yaw = _number(value[0], -YAW_LIMIT, YAW_LIMIT)
        pitch = _number(value[1], -PITCH_LIMIT, PITCH_LIMIT)
        if yaw is not None and pitch is not None:
            return [yaw, pitch]
    raise ControlsError(
        f"'{name}' must be [yaw, pitch] in radians, yaw from -{YAW_LIMIT:g} to {YAW_LIMIT:g}, "
        f"pitch from -{PITCH_LIMIT:g} to {PITCH_LIMIT:g}."
    )


def _mood(name: str, value: Any) -> str:
    if not isinstance(value, str) or value not in MOODS:
        raise ControlsError(f"'{name}' must be one of {', '.join(MOODS)}.")
    return value


def _switch(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise ControlsError(f"'{name}' must be true or false.")
    return value


_CHECKS: dict[str, Callable[[str, Any], Any]] = {
    "expressiveness": _share,
    "head_motion": _share,
    "gaze": _gaze,
    "mood": _mood,
    "listening": _switch,
}
