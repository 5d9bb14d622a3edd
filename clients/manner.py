"""The options that say in what manner a person speaks: mood, expressiveness, head movement."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from visavis.engine.errors import VisavisError

if TYPE_CHECKING:
    from visavis.server.controls import Changes

OPTIONS = ("mood", "expressiveness", "head_motion")


class MannerError(VisavisError):
    """An option with a value that it cannot have."""

    code = "input"


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a command that makes a person speak."""
    parser.add_argument("--mood", help="neutral, warm or serious (default: neutral)")
    parser.add_argument(
        "--expressiveness",
        type=float,
        metavar="X",
        help="how far brows, smile and mouth move, 0 to 2 (default: 1)",
    )
    parser.add_argument(
        "--head-motion", type=float, metavar="X", help="how far head and shoulders move, 0 to 2 (default: 1)"
    )


def controls_of(args: argparse.Namespace) -> Changes:
    """The controls that were named on the command line. MannerError for a value that cannot be used."""
    from visavis.server.controls import ControlsError, parse_controls  # with numpy: not for --help

    changes = {name: value for name in OPTIONS if (value := getattr(args, name)) is not None}
    for name, value in changes.items():
        try:
            parse_controls({name: value})
        except ControlsError as error:
            option = "--" + name.replace("_", "-")
            what = str(error).removeprefix(f"'{name}' ").removesuffix(".")
            raise MannerError(f"{option} {value} {what}") from None
    return changes
