"""A worker in a process of its own: `python -m visavis.server.worker_process FD MODULE:ENGINE NICE LIVE`, started by the server.

FD is the inherited socket of its link; the worker ends when the other side does. LIVE is 1 where it carries calls, 0 where it only enrols
photos or learns. NICE 19 is more than its number: such a worker runs when no other wants to, and yields at once. A folder of its own for temporary files
(OWN_FOLDER in the environment) goes with it: a server that was killed cannot clean up.
"""

from __future__ import annotations

import contextlib
import gc
import logging
import os
import shutil
import signal
import socket
import sys

LOWEST_NICE = 19
OWN_FOLDER = "VISAVIS_OWN_FOLDER"


def main() -> None:
    """Serve the link until it closes."""
    from visavis.server.engines import make_engine
    from visavis.server.host import WorkerHost
    from visavis.server.link import Link

    descriptor, factory, nice, live = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's: it lets calls end first
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    with contextlib.suppress(OSError):
        os.nice(nice)
        if nice >= LOWEST_NICE and hasattr(os, "SCHED_IDLE"):
            os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    engine = make_engine(factory)
    warm = getattr(engine, "warm", None)
    if live and warm is not None:
        warm()
    # Networks and avatars make a large, lasting heap: the collector need not walk it in the middle of calls.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    try:
        WorkerHost(engine, Link(socket.socket(fileno=descriptor))).run()
    finally:
        if OWN_FOLDER in os.environ:
            shutil.rmtree(os.environ[OWN_FOLDER], ignore_errors=True)


if __name__ == "__main__":
    main()
