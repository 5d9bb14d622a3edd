"""`visavis serve`: arguments to a running server."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import signal
from pathlib import Path

from aiohttp import web
from visavis.engine.errors import VisavisError
from visavis.server.app import create_app
from visavis.server.config import ServerConfig

SHUTDOWN_S = 5.0


class ServeError(VisavisError):
    """Arguments that a server cannot be started with."""

    code = "serve"


def config_of(args: argparse.Namespace) -> ServerConfig:
    """Checked arguments; ServeError says what is wrong."""
    paths = tuple(Path(path) for path in args.avatar)
    for path in paths:
        if not path.is_file():
            raise ServeError(f"no such avatar or photo: {path}")
        _check_person(path)
    if not 0 <= args.port <= 65535:
        raise ServeError(f"--port {args.port} must be from 0 to 65535")
    if not 1 <= args.sessions <= 1000:
        raise ServeError(f"--sessions {args.sessions} must be from 1 to 1000")
    if not 1 <= args.workers <= 64:
        raise ServeError(f"--workers {args.workers} must be from 1 to 64")
    if not 256 <= args.size <= 1024 or args.size % 16:
        raise ServeError(f"--size {args.size} must be a multiple of 16 from 256 to 1024")
    for url in args.ice_server:
        if not url.startswith(("stun:", "turn:", "turns:")):
            raise ServeError(f"--ice-server {url} must begin with stun:, turn: or turns:")
    return ServerConfig(
        host=args.host,
        port=args.port,
        avatars=paths,
        demo=not args.no_demo,
        size=args.size,
        lookahead=args.lookahead,
        max_sessions=args.sessions,
        workers=args.workers,
        allowed_hosts=tuple(name.lower() for name in args.allow_host),
        ice_servers=tuple(args.ice_server),
    )


def _check_person(path: Path) -> None:
    """A file that is neither an avatar nor a usable photo ends the start, not the first call: VisavisError says what is wrong."""
    from visavis.engine.avatar import Avatar
    from visavis.engine.body.detect import find_face
    from visavis.engine.body.photo import load_photo

    if path.suffix.lower() == ".avatar":
        Avatar.load(path)
    else:
        find_face(load_photo(path).rgb)


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; returns the exit code."""
    config = config_of(args)
    logging.getLogger("visavis").setLevel(logging.INFO)
    if args.verbose:
        logging.getLogger("aiohttp.access").setLevel(logging.INFO)
    try:
        asyncio.run(_serve(config))
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise ServeError(
            f"cannot listen on {config.host}:{config.port} ({reason}); try another --port"
        ) from None
    return 0


async def _serve(config: ServerConfig) -> None:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises instead
            loop.add_signal_handler(number, stop.set)
    runner = web.AppRunner(create_app(config), access_log_format='%a "%r" %s %b', shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.host, config.port)
        await site.start()
        host, port = runner.addresses[0][:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"visavis is at http://{shown}:{port}   (Ctrl-C ends it)", flush=True)
        if not config.loopback:
            print(
                "Browsers give the microphone only to https or localhost: put a TLS proxy in front.",
                flush=True,
            )
        # Networks and avatars make a large, lasting heap: without this the garbage collector walks it in the middle of calls.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        await stop.wait()
        print("ending the calls", flush=True)
    finally:
        await runner.cleanup()
