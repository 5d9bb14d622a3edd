"""A worker in a process of its own: `python -m visavis.server.worker_process FD MODULE:ENGINE NICE LIVE`, started by the server.

FD is the inherited socket of its link; the worker ends when the other side does. LIVE is 1 where it carries calls, 0 where it only enrols photos.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import logging
import os
import signal
import socket
import sys


def main() -> None:
    """Serve the link until it closes."""
    from visavis.server.host import WorkerHost
    from visavis.server.link import Link

    descriptor, factory, nice, live = int(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4] == "1"
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the server's: it lets calls end first
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s %(message)s", stream=sys.stderr)
    with contextlib.suppress(OSError):
        os.nice(nice)
    module, _, name = factory.partition(":")
    engine = getattr(importlib.import_module(module), name)()
    warm = getattr(engine, "warm", None)
    if live and warm is not None:
        warm()
    # Networks and avatars make a large, lasting heap: the collector need not walk it in the middle of calls.
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 20, 50)
    WorkerHost(engine, Link(socket.socket(fileno=descriptor))).run()


if __name__ == "__main__":
    main()
