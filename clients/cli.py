"""The command `visavis`. Exit codes: 0 done, 1 a fault of ours, 2 bad input (one line says what), 130 interrupted."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import importlib
import json
import logging
import os
import pkgutil
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from visavis.clients.manner import add_options, controls_of
from visavis.engine.errors import VisavisError

if TYPE_CHECKING:
    from visavis.engine.avatar import Avatar
    from visavis.engine.training.video_personal import Lesson

EXIT_FAULT = 1
EXIT_INPUT = 2
EXIT_INTERRUPTED = 130
TRAINERS = {
    ("train", "speech"): "speech",
    ("train", "encoder"): "motion_encoder",
    ("train", "motion"): "motion",
    ("distill", "motion"): "motion_distil",
}
"""What is trained or distilled by which module of engine/training."""
BENCHMARK_HELPERS = {"browser", "browser_call", "clip_engine", "relay", "throughput_peers", "viewers"}


class InputError(VisavisError):
    """Bad arguments."""

    code = "input"


class Parser(argparse.ArgumentParser):
    """argparse with one clear line instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        raise InputError(f"{message} (see {self.prog} --help)")


def _parser() -> Parser:
    parser = Parser(
        prog="visavis",
        description="One photo and a voice become a live, speaking person.",
        epilog="example: visavis serve   then open http://127.0.0.1:8080",
    )
    parser.add_argument("--version", action="version", version=f"visavis {version('visavis')}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", parser_class=Parser)

    def command(name: str, run: Callable[[argparse.Namespace], int], help: str, example: str) -> Parser:
        sub = commands.add_parser(
            name,
            help=help,
            description=help[0].upper() + help[1:] + ".",
            epilog="example:\n  " + example,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        sub.set_defaults(run=run)
        return sub

    sub = command(
        "serve", serve, "live avatars in the browser", "visavis serve --avatar me.avatar --port 8080"
    )
    sub.add_argument(
        "--avatar",
        action="append",
        default=[],
        metavar="A.avatar|PHOTO|FILM",
        help="a person to offer (repeatable)",
    )
    sub.add_argument("--no-demo", action="store_true", help="do not offer the demo person")
    sub.add_argument("--host", default="127.0.0.1", help="address to listen on (default: this machine only)")
    sub.add_argument(
        "--port", type=int, default=8080, help="port to listen on, 0 for a free one (default: 8080)"
    )
    sub.add_argument(
        "--size", type=int, default=512, help="longer side of the video in pixels (default: 512)"
    )
    sub.add_argument(
        "--sessions",
        type=int,
        default=16,
        help="sessions at the same time at most; fewer where the measured cost of a frame says so (default: 16)",
    )
    sub.add_argument(
        "--no-generator", action="store_true", help="the moved photo alone: more sessions on the same machine"
    )
    sub.add_argument("--workers", type=int, default=1, help="processes that make frames (default: 1)")
    sub.add_argument(
        "--device",
        choices=("cpu", "gpu"),
        default="cpu",
        help="where frames are made; gpu: all sessions of a worker as one batch on a CUDA device (default: cpu)",
    )
    sub.add_argument(
        "--lookahead", type=int, default=2, choices=(0, 1, 2), help="frames of look-ahead (default: 2)"
    )
    sub.add_argument(
        "--allow-host", action="append", default=[], metavar="NAME", help="further name of a local server"
    )
    sub.add_argument(
        "--ice-server", action="append", default=[], metavar="URL", help="STUN or TURN server (repeatable)"
    )
    sub.add_argument(
        "--allow-origin",
        action="append",
        default=[],
        metavar="URL",
        help="web origin whose pages may call (repeatable)",
    )
    sub.add_argument("--tls-cert", type=Path, metavar="PEM", help="certificate chain: serve https")
    sub.add_argument("--tls-key", type=Path, metavar="PEM", help="its key")
    sub.add_argument(
        "--no-auth",
        action="store_true",
        help="ask for no access token beyond localhost (tokens are signed with $VISAVIS_SECRET)",
    )
    sub.add_argument(
        "--max-minutes", type=float, default=240, help="longest call, 0 for no limit (default: 240)"
    )
    sub.add_argument(
        "--drain", type=float, default=20, help="seconds that calls may go on after SIGTERM (default: 20)"
    )
    sub.add_argument("--log", choices=("text", "json"), default="text", help="form of log lines")
    sub.add_argument("--verbose", action="store_true", help="log every request")

    sub = command(
        "enroll",
        enroll,
        "make an avatar of a photo, or of a film's best frame",
        "visavis enroll me.jpg -o me.avatar",
    )
    sub.add_argument("photo", type=Path, metavar="PHOTO|FILM")
    sub.add_argument("-o", "--out", type=Path, required=True, metavar="A.avatar")
    sub.add_argument(
        "--face", type=int, metavar="N", help="which face, counted from the left, where there are several"
    )
    sub.add_argument(
        "--size", type=int, default=512, help="longer side of the video in pixels (default: 512)"
    )
    sub.add_argument("--name", default="", help="the person's name, kept in the file")
    sub.add_argument("--consent", default="", help="a statement that the person agrees, kept in the file")
    sub.add_argument(
        "--learn", action="store_true",
        help="let the video network learn this person's mouth from a FILM in which it speaks; minutes (needs: pip install 'visavis[train]')",
    )  # fmt: skip

    sub = command(
        "render",
        render,
        "make a movie of a person speaking",
        "visavis render me.jpg speech.wav -o out.mp4 --seed 7",
    )
    sub.add_argument("avatar", type=Path, metavar="A.avatar|PHOTO|FILM")
    sub.add_argument(
        "speech", type=Path, nargs="?", metavar="SPEECH", help="WAV, MP3, FLAC, a video with sound, ..."
    )
    sub.add_argument("--motion", type=Path, metavar="M.npz", help="play a motion file instead of speech")
    sub.add_argument("-o", "--out", type=Path, required=True, metavar="OUT.mp4")
    sub.add_argument(
        "--seed", type=int, default=0, help="blinks, gaze and head sway follow from it (default: 0)"
    )
    add_options(sub)
    sub.add_argument("--face", type=int, metavar="N", help="which face of the photo, counted from the left")
    sub.add_argument("--size", type=int, default=512, help="longer side for a photo in pixels (default: 512)")
    sub.add_argument(
        "--no-generator", action="store_true", help="show the moved photo alone, without the video network"
    )

    sub = command(
        "track", track, "fit the body to every frame of a video", "visavis track talk.mp4 -o talk.npz"
    )
    sub.add_argument("video", type=Path, metavar="VIDEO")
    sub.add_argument("-o", "--out", type=Path, required=True, metavar="M.npz")
    sub.add_argument(
        "--enroll", type=Path, metavar="A.avatar",
        help="also enrol the person from the first frame, and lay the motion on that avatar itself: closer, for it alone",
    )  # fmt: skip
    sub.add_argument(
        "--size", type=int, default=512, help="with --enroll: longer side in pixels (default: 512)"
    )

    sub = command(
        "call",
        call,
        "call a server, send speech and record the avatar",
        "visavis call http://127.0.0.1:8080 --speech speech.wav --record out.mp4",
    )
    sub.add_argument("url", metavar="URL")
    sub.add_argument("--speech", type=Path, required=True, metavar="S.wav", help="WAV, MP3, FLAC, ...")
    sub.add_argument("--record", type=Path, metavar="OUT.mp4")
    sub.add_argument("--avatar", metavar="ID", help="default: the first that the server offers")
    sub.add_argument("--token", default="", help="access token (default: $VISAVIS_TOKEN)")
    sub.add_argument(
        "--ingest", choices=("microphone", "websocket"), default="microphone", help="how the speech goes in"
    )
    sub.add_argument(
        "--seed", type=int, default=0, help="blinks, gaze and head sway follow from it (default: 0)"
    )
    add_options(sub)
    sub.add_argument("--json", action="store_true", help="figures as JSON on the last line")

    sub = command(
        "train",
        train,
        "train a network (needs the extra: pip install 'visavis[train]')",
        "visavis train motion --part face --minutes runs/motion/minutes.npz --out runs/motion/face --resume",
    )
    sub.add_argument("what", choices=[what for verb, what in TRAINERS if verb == "train"])
    sub.add_argument(
        "rest", nargs=argparse.REMAINDER, metavar="...", help="the trainer's own options; --help lists them"
    )

    sub = command(
        "distill",
        train,
        "make a few-step student of a trained teacher (needs: pip install 'visavis[train]')",
        "visavis distill motion --teacher runs/motion/face/final.pt --guidance 1.5 --out runs/motion/face_student",
    )
    sub.add_argument("what", choices=[what for verb, what in TRAINERS if verb == "distill"])
    sub.add_argument(
        "rest", nargs=argparse.REMAINDER, metavar="...", help="the distiller's own options; --help lists them"
    )

    sub = command(
        "compile",
        compile,
        "build TensorRT engines ahead of time, with or without a GPU (needs: pip install 'visavis[gpu]')",
        "visavis compile --target sm86,sm89,sm120 -o engines",
    )
    sub.add_argument("--target", required=True, metavar="SM,...", help="GPUs: sm80, sm86, sm89, sm120, ...")
    sub.add_argument("-o", "--out", type=Path, required=True, metavar="DIR")
    sub.add_argument(
        "--precision", default="bf16,fp16", metavar="P,...", help="bf16, fp16, fp32 (default: bf16,fp16)"
    )
    sub.add_argument(
        "--network", type=Path, metavar="ONNX|DIR", help="instead of the networks that are shipped"
    )
    sub.add_argument("--builder", default="auto", choices=("auto", "tensorrt-rtx", "tensorrt"))
    sub.add_argument("--again", action="store_true", help="build also what is there and matches")

    sub = command("bench", bench, "measure: " + ", ".join(benchmarks()), "visavis bench latency")
    sub.add_argument("name", metavar="NAME", help="one of: " + ", ".join(benchmarks()))
    sub.add_argument(
        "rest", nargs=argparse.REMAINDER, metavar="...", help="the benchmark's own options; --help lists them"
    )
    return parser


def benchmarks() -> list[str]:
    """Names of the measurements that are installed."""
    import visavis.benchmarks

    names = {module.name for module in pkgutil.iter_modules(visavis.benchmarks.__path__)}
    return sorted(n for n in names - BENCHMARK_HELPERS if not n.startswith("quality_"))


def _bar(total: float | None, description: str, unit: str, **options: Any) -> Any:
    from tqdm import tqdm

    return tqdm(
        total=total, desc=description, unit=unit, leave=False, dynamic_ncols=True, disable=None, **options
    )


def _check_seed(seed: int) -> int:
    if not 0 <= seed < 2**31:
        raise InputError(f"--seed {seed} must be from 0 to {2**31 - 1}")
    return seed


def _enroll(photo: Path, *, face: int | None, size: int, name: str = "", consent: str = "") -> Avatar:
    """Enrol a photo, or a film's best frame, with a progress bar."""
    from visavis.engine.enroll import enroll
    from visavis.engine.film import enroll_film
    from visavis.engine.footage import is_film

    if not photo.is_file():
        raise InputError(f"no such photo: {photo}")
    if face is not None and face < 1:
        raise InputError(f"--face {face}: faces are counted from 1, from the left")
    if is_film(photo) and face is not None:
        raise InputError(f"--face goes with a photo; of the film {photo} the face that is nearest is taken")
    with _stages("enrolling") as progress:
        if is_film(photo):
            return enroll_film(photo, size=size, name=name, consent=consent, progress=progress)
        return enroll(photo, face=face, size=size, name=name, consent=consent, progress=progress)


@contextlib.contextmanager
def _stages(first: str) -> Iterator[Callable[[str, float], None]]:
    """A bar for what reports stages and the share (0..1) that is done."""
    with _bar(100, first, "%", bar_format="{desc} {bar} {percentage:3.0f} %") as bar:

        def progress(stage: str, share: float) -> None:
            bar.set_description(stage, refresh=False)
            bar.update(max(0.0, 100 * share - bar.n))

        yield progress


def _avatar(path: Path, *, face: int | None, size: int) -> Avatar:
    """An avatar file, or a photo enrolled on the spot."""
    from visavis.engine.avatar import Avatar

    if not path.is_file():
        raise InputError(f"no such avatar or photo: {path}")
    if path.suffix.lower() == ".avatar":
        return Avatar.load(path)
    return _enroll(path, face=face, size=size)


def serve(args: argparse.Namespace) -> int:
    """visavis serve"""
    from visavis.server.serve import run

    return run(args)


def enroll(args: argparse.Namespace) -> int:
    """visavis enroll"""
    out: Path = args.out
    if out.suffix.lower() != ".avatar":
        raise InputError(f"the output {out} must end in .avatar")
    if not out.parent.is_dir() or out.is_dir():
        raise InputError(f"the output cannot be written: {out}")
    teacher = _teacher(args.photo) if args.learn else None
    avatar = _enroll(args.photo, face=args.face, size=args.size, name=args.name, consent=args.consent)
    said = f"{out}: {avatar.width}x{avatar.height}, landmarks within {avatar.metadata.get('landmark_error_px', '?')} px"
    if "articulation" in avatar.metadata:
        said += f"\n{avatar.metadata['articulation']}"
    if teacher is not None:
        with _stages("fitting the film") as progress:
            lesson = teacher(args.photo, size=args.size, progress=progress)
        avatar = dataclasses.replace(avatar, personal=lesson.weights)
        said += f"\n{lesson}"
    avatar.save(out)
    print(said)
    return 0


def _teacher(film: Path) -> Callable[..., Lesson]:
    """What learns from a film; InputError where this is none or where the packages are missing, before any work is done."""
    from visavis.engine.footage import is_film

    if not is_film(film):
        raise InputError(f"--learn needs a film of the person speaking; {film} is not called one")
    try:
        from visavis.engine.training.video_personal import learn
    except ModuleNotFoundError as error:
        raise InputError(f"--learn needs {error.name}: pip install 'visavis[train]'") from None
    return learn


def render(args: argparse.Namespace) -> int:
    """visavis render"""
    from visavis.clients.media import check_output
    from visavis.clients.render import DEFAULT_STEPS, render_motion, render_speech
    from visavis.engine.motion.channels import MotionClip
    from visavis.engine.motion.diffusion import Controls

    if (args.speech is None) == (args.motion is None):
        raise InputError("give either SPEECH or --motion M.npz (see visavis render --help)")
    check_output(args.out)
    seed, changes = _check_seed(args.seed), controls_of(args)
    if changes and args.motion is not None:
        raise InputError(
            "a motion file is played as it is: --mood, --expressiveness and --head-motion go with SPEECH"
        )
    clip = MotionClip.load(args.motion) if args.motion is not None else None
    if args.speech is not None and not args.speech.is_file():
        raise InputError(f"no such speech file: {args.speech}")
    avatar = _avatar(args.avatar, face=args.face, size=args.size)
    steps = 0 if args.no_generator else DEFAULT_STEPS
    began = time.monotonic()
    with _bar(None, "rendering", "frame") as bar:

        def progress(done: int, total: int) -> None:
            if total:
                bar.total = max(total, done)
            bar.update(done - bar.n)

        if clip is not None:
            frames = render_motion(avatar, clip, args.out, progress=progress, generator_steps=steps)
        else:
            frames = render_speech(
                avatar,
                args.speech,
                args.out,
                seed=seed,
                progress=progress,
                generator_steps=steps,
                controls=Controls(**changes),
            )
    print(f"{args.out}: {frames} frames, {frames / (time.monotonic() - began):.1f} a second")
    return 0


def track(args: argparse.Namespace) -> int:
    """visavis track"""
    out: Path = args.out
    if out.suffix.lower() != ".npz":
        raise InputError(f"the output {out} must end in .npz")
    if not out.parent.is_dir() or out.is_dir():
        raise InputError(f"the output cannot be written: {out}")
    if not args.video.is_file():
        raise InputError(f"no such video: {args.video}")
    person: Path | None = args.enroll
    if person is not None:
        if person.suffix.lower() != ".avatar":
            raise InputError(f"the avatar {person} must end in .avatar")
        if not person.parent.is_dir() or person.is_dir():
            raise InputError(f"the avatar cannot be written: {person}")
    with _bar(100, "tracking", "%", bar_format="{desc} {bar} {percentage:3.0f} %") as bar:

        def progress(stage: str, share: float) -> None:
            bar.update(max(0.0, 100 * share - bar.n))

        if person is None:
            from visavis.engine.body.track import track as fit_video

            clip = fit_video(args.video, progress=progress)
        else:
            from visavis.engine.video.capture import capture

            captured = capture(args.video, size=args.size, progress=progress)
            captured.avatar.save(person)
            clip = captured.clip
    clip.save(out)
    print(f"{out}: {len(clip.motion)} frames at {clip.fps:g} a second")
    return 0


def call(args: argparse.Namespace) -> int:
    """visavis call"""
    from visavis.clients.call import call as make_call

    seed, controls = _check_seed(args.seed), controls_of(args)
    with _bar(1, "calling", "s", bar_format="{desc} {bar} {n:.0f}/{total:.0f} s") as bar:

        def progress(what: str, done: float, total: float) -> None:
            bar.set_description("preparing the avatar" if what == "prepare" else "calling", refresh=False)
            bar.total = total
            bar.n = done
            bar.refresh()

        result = asyncio.run(
            make_call(
                args.url,
                args.speech,
                avatar=args.avatar,
                record=args.record,
                ingest=args.ingest,
                seed=seed,
                controls=controls,
                token=args.token or os.environ.get("VISAVIS_TOKEN", ""),
                progress=progress,
            )
        )
    print(
        f"{result.frames} frames in {result.seconds:.1f} s: {result.fps:.1f} a second, "
        f"{100 * result.on_time_share:.1f} % without a missed frame; first frame after {result.first_frame_ms:.0f} ms; "
        f"picture against sound {result.av_skew_ms:+.0f} ms"
    )
    if args.record:
        print(f"recorded in {args.record}")
    if args.json:
        print(json.dumps(result.as_dict()))
    return 0


def train(args: argparse.Namespace) -> int:
    """visavis train, visavis distill"""
    try:
        module = importlib.import_module(f"visavis.engine.training.{TRAINERS[args.command, args.what]}")
    except ModuleNotFoundError as error:
        raise InputError(f"training needs {error.name}: pip install 'visavis[train]'") from None
    module.main(args.rest)
    return 0


def compile(args: argparse.Namespace) -> int:
    """visavis compile"""
    from visavis.clients.compile import run

    def bar(total: int) -> tuple[Callable[[str], None], Callable[[], None]]:
        shown = _bar(total, "engines", "engine")

        def advance(name: str) -> None:
            shown.set_postfix_str(name)
            shown.update()

        return advance, shown.close

    return run(
        args.out,
        targets=args.target,
        precisions=args.precision,
        source=args.network,
        builder=args.builder,
        again=args.again,
        bar=bar,
    )


def bench(args: argparse.Namespace) -> int:
    """visavis bench"""
    if args.name not in benchmarks():
        raise InputError(f"no benchmark {args.name!r}; there are: {', '.join(benchmarks())}")
    module = importlib.import_module(f"visavis.benchmarks.{args.name}")
    return int(module.main(args.rest) or 0)


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s %(message)s")
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        parser = _parser()
        args = parser.parse_args(arguments)
        if args.command is None:
            parser.print_help()
            return 0
        return int(args.run(args))
    except VisavisError as error:
        return _complain(str(error))
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()
        return EXIT_INPUT
    except OSError as error:
        where = f"{error.filename}: " if error.filename else ""
        return _complain(f"{where}{(error.strerror or str(error)).lower()}")
    except Exception as error:
        if os.environ.get("VISAVIS_DEBUG"):
            raise
        print(
            f"visavis: a fault of visavis itself: {type(error).__name__}: {error} (VISAVIS_DEBUG=1 shows where)",
            file=sys.stderr,
        )
        return EXIT_FAULT


def _complain(message: str) -> int:
    print("visavis: " + " ".join(message.split()), file=sys.stderr)
    return EXIT_INPUT


if __name__ == "__main__":
    sys.exit(main())
