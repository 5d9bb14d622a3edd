"""visavis bench quality: how good is what is seen? One stage at a time; lips is the default.

visavis bench quality --data DATA                  # lips: rendered lips against the real ones
visavis bench quality --stage motion --data DATA   # the motion itself, beside baselines and a peer
visavis bench quality --stage video --data DATA    # the generator's pictures
visavis bench quality --stage drift                # half an hour of film: same colours, same person, same memory
visavis bench quality --stage motion --help        # a stage's own options
"""

from __future__ import annotations

import argparse
import importlib
import sys

STAGES = ("lips", "motion", "video", "drift")


def main(argv: list[str] | None = None) -> int:
    """Command line: hands over to the stage's own module."""
    parser = argparse.ArgumentParser(
        prog="visavis bench quality",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        add_help=False,
    )
    parser.add_argument("--stage", choices=STAGES, default="lips")
    arguments = sys.argv[1:] if argv is None else list(argv)
    if arguments in (["-h"], ["--help"]):
        parser.print_help()
        return 0
    args, rest = parser.parse_known_args(arguments)
    module = importlib.import_module(f"visavis.benchmarks.quality_{args.stage}")
    return int(module.main(rest) or 0)


if __name__ == "__main__":
    sys.exit(main())
