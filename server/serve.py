"""`visavis serve`: arguments to a running server."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import gc
import logging
import os
import signal
import ssl
import subprocess
import sys
from pathlib import Path

from aiohttp import web
from visavis.engine.errors import VisavisError
from visavis.server.app import create_app
from visavis.server.config import ServerConfig
from visavis.server.logs import set_up
from visavis.server.routes import GUARD, SESSIONS
from visavis.server.tokens import GRANTS

SHUTDOWN_S = 5.0
ENGINES = {"cpu": "visavis.server.engines:VisavisEngine", "gpu": "visavis.server.gpu_engine:GpuEngine"}
"""What `--device` makes workers of."""
SECRET_VARIABLE = "VISAVIS_SECRET"
"""Environment variable with the secret that signs tokens; without it tokens end with the server."""
TURN_VARIABLE = "VISAVIS_TURN_SECRET"
"""Environment variable with the secret shared with the TURN server."""
TOKEN_LIFE_S = 30 * 24 * 3600.0


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
    if bool(args.tls_cert) != bool(args.tls_key):
        raise ServeError("--tls-cert and --tls-key go together")
    for path in filter(None, (args.tls_cert, args.tls_key)):
        if not path.is_file():
            raise ServeError(f"no such file: {path}")
    if not 0 <= args.drain <= 3600:
        raise ServeError(f"--drain {args.drain:g} must be from 0 to 3600 seconds")
    if not 0 <= args.max_minutes <= 7 * 24 * 60:
        raise ServeError(f"--max-minutes {args.max_minutes:g} must be from 0 (no limit) to {7 * 24 * 60}")
    if args.device == "gpu":
        _check_gpu()
    secret = os.environ.get(SECRET_VARIABLE, "")
    if secret and len(secret) < 16:
        raise ServeError(f"the secret in {SECRET_VARIABLE} must have 16 characters or more")
    for origin in args.allow_origin:
        if not origin.startswith(("http://", "https://")):
            raise ServeError(f"--allow-origin {origin} must begin with http:// or https://")
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
        engine_factory=ENGINES[args.device],
        generator=not args.no_generator,
        allowed_hosts=tuple(name.lower() for name in args.allow_host),
        allowed_origins=tuple(origin.rstrip("/") for origin in args.allow_origin),
        ice_servers=tuple(args.ice_server),
        turn_secret=os.environ.get(TURN_VARIABLE, ""),
        auth=False if args.no_auth else None,
        secret=secret,
        tls=(args.tls_cert, args.tls_key) if args.tls_cert else None,
        drain_s=args.drain,
        max_session_s=60 * args.max_minutes,
    )


def _check_person(path: Path) -> None:
    """A file that is neither an avatar nor a usable photo or film ends the start, not the first call: VisavisError says what is wrong."""
    from visavis.engine.avatar import Avatar
    from visavis.engine.body.detect import find_face
    from visavis.engine.body.photo import load_photo
    from visavis.engine.film import check_film
    from visavis.engine.footage import is_film

    if path.suffix.lower() == ".avatar":
        Avatar.load(path)
    elif is_film(path):
        check_film(path)
    else:
        find_face(load_photo(path).rgb)


def _check_gpu() -> None:
    """A GPU that is not there ends the start; engines that are not built yet are built, in a process whose device memory ends with it."""
    from visavis.engine.runtime.gpu.cuda import missing

    why = missing()
    if why is not None:
        raise ServeError(f"--device gpu: {why}")
    print("building TensorRT engines for this GPU where there are none yet", flush=True)
    done = subprocess.run([sys.executable, "-m", "visavis.server.gpu_engine"], capture_output=True, text=True)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["no reason given"])[-1]
        raise ServeError(f"--device gpu: the engines cannot be built: {last[:300]}")


def run(args: argparse.Namespace) -> int:
    """Serve until Ctrl-C or SIGTERM; returns the exit code."""
    config = config_of(args)
    set_up(args.log)
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


def _tls(config: ServerConfig) -> ssl.SSLContext | None:
    if config.tls is None:
        return None
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(*config.tls)
    except (ssl.SSLError, OSError) as error:
        raise ServeError(f"the certificate or its key cannot be used: {error}") from None
    return context


async def _serve(config: ServerConfig) -> None:
    tls = _tls(config)
    stop, now = asyncio.Event(), asyncio.Event()
    loop = asyncio.get_running_loop()

    def end(at_once: bool) -> None:
        if at_once or stop.is_set():  # asked twice: no more waiting
            now.set()
        stop.set()

    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows: Ctrl-C raises instead
            loop.add_signal_handler(number, end, number == signal.SIGINT)
    app = create_app(config)
    runner = web.AppRunner(app, access_log_format='%a "%r" %s %b', shutdown_timeout=SHUTDOWN_S)
    await runner.setup()
    try:
        site = web.TCPSite(runner, config.host, config.port, ssl_context=tls)
        await site.start()
        host, port = runner.addresses[0][:2]
        shown = f"[{host}]" if ":" in host else host
        scheme = "https" if tls else "http"
        fragment = ""
        if app[GUARD].auth:
            fragment = "/#token=" + app[GUARD].access_token("owner", frozenset(GRANTS), TOKEN_LIFE_S)
        print(f"visavis is at {scheme}://{shown}:{port}{fragment}   (Ctrl-C ends it)", flush=True)
        if not config.loopback and not tls:
            print(
                "Browsers give the microphone only to https or localhost: give --tls-cert and --tls-key, or put a proxy in front.",
                flush=True,
            )
        # Lasting objects: without this the garbage collector walks them in the middle of calls.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 20, 50)
        await stop.wait()
        if not now.is_set() and len(app[SESSIONS]):
            print(f"no new calls; those that run may end within {config.drain_s:g} s", flush=True)
            drained = asyncio.create_task(app[SESSIONS].drain(config.drain_s))
            hurried = asyncio.create_task(now.wait())
            await asyncio.wait({drained, hurried}, return_when=asyncio.FIRST_COMPLETED)
            for task in (drained, hurried):
                task.cancel()
        print("ending the calls", flush=True)
    finally:
        await runner.cleanup()
