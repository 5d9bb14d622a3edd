"""The seam between the wire and the engine: what the server asks of it, and the real one, imported when first needed."""

from __future__ import annotations

import dataclasses
import importlib
import importlib.resources
import importlib.util
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt
from visavis.server.config import FILM_S

if TYPE_CHECKING:
    from visavis.engine.motion.diffusion import Controls

ImageArray = npt.NDArray[np.uint8]
PcmArray = npt.NDArray[np.int16] | npt.NDArray[np.float32]
Progress = Callable[[str, float], None]


LEARNING_NEEDS = ("torch", "onnx", "onnxscript")
"""Packages that training on and exporting need."""


class FrameLike(Protocol):
    """One frame with its sound: see `visavis.engine.session.Frame`."""

    @property
    def image(self) -> ImageArray: ...  # (H, W, 3) RGB, or I420 (H * 3 / 2, W)
    @property
    def audio(self) -> npt.NDArray[np.int16]: ...  # (1920,) at 48 kHz
    @property
    def speech_index(self) -> int | None: ...
    @property
    def speaking(self) -> bool: ...


class SessionLike(Protocol):
    """One live avatar: see `visavis.engine.session.Session`."""

    def push_audio(self, pcm: Any, rate: int, *, live: bool = False) -> None: ...
    def commit(self) -> None: ...
    def clear(self) -> int: ...
    def step(self) -> FrameLike: ...
    @property
    def controls(self) -> Controls: ...
    @controls.setter
    def controls(self, controls: Controls) -> None: ...
    @property
    def reduced(self) -> bool: ...
    @reduced.setter
    def reduced(self, reduced: bool) -> None: ...
    @property
    def queued_seconds(self) -> float: ...
    def close(self) -> None: ...


class Engine(Protocol):
    """Makes avatars and sessions. All methods block and are called in worker threads. A `photo` may be a film, bytes by their content."""

    def enroll(
        self, photo: bytes | Path, *, face: int | None, size: int, consent: str, name: str, progress: Progress
    ) -> Any: ...
    def load(self, path: Path) -> Any: ...
    def demo_photo(self) -> Path | None: ...
    def sample_speech(self) -> Path | None: ...
    def picture(self, avatar: Any) -> ImageArray: ...
    def session(
        self, avatar: Any, *, seed: int, lookahead: int, max_queue_s: float, generator: bool = True
    ) -> SessionLike: ...


class BatchEngine(Engine, Protocol):
    """An engine whose sessions advance together on one device. A worker calls it from one thread only, but for `enroll`, `load` and `picture`."""

    def tick(self, sessions: Sequence[SessionLike]) -> list[FrameLike | BaseException]: ...


class LearningEngine(Engine, Protocol):
    """An engine that can learn a person's mouth from a film, in a process that does nothing else."""

    def learning_obstacle(self) -> str | None:
        """Why it cannot, in words for callers; None where it can. Says so without loading what learning needs."""

    def learn(self, avatar: Any, film: bytes, *, progress: Progress) -> tuple[Any | None, str]:
        """The avatar that has learned, None where nothing was gained; and what came of it in words. VisavisError where the film cannot be used."""


def make_engine(factory: str) -> Any:
    """The engine that "module:class" names."""
    module, _, name = factory.partition(":")
    return getattr(importlib.import_module(module), name)()


def _asset(name: str) -> Path | None:
    path = importlib.resources.files("visavis.engine") / "assets" / name
    return Path(str(path)) if path.is_file() else None


class VisavisEngine:
    """The real engine. Its modules are imported on first use: the server answers before OpenVINO is loaded."""

    def enroll(
        self, photo: bytes | Path, *, face: int | None, size: int, consent: str, name: str, progress: Progress
    ) -> Any:
        from visavis.engine.enroll import enroll
        from visavis.engine.film import FilmLimits, enroll_film
        from visavis.engine.footage import HEAD, film_format, is_film

        if is_film(photo) if isinstance(photo, Path) else film_format(photo[:HEAD]):
            limits = None if isinstance(photo, Path) else FilmLimits(*FILM_S)
            return enroll_film(photo, size=size, consent=consent, name=name, limits=limits, progress=progress)
        return enroll(photo, face=face, size=size, consent=consent, name=name, progress=progress)

    def load(self, path: Path) -> Any:
        from visavis.engine.avatar import Avatar

        return Avatar.load(path)

    def demo_photo(self) -> Path | None:
        """The photo of the demo person that ships with the engine."""
        return _asset("astronaut.png")

    def sample_speech(self) -> Path | None:
        """The speech sample that ships with the engine."""
        return _asset("speech.wav")

    def picture(self, avatar: Any) -> ImageArray:
        from visavis.engine.motion.channels import zero_motion
        from visavis.engine.video.renderer import Renderer

        return Renderer(avatar).render(zero_motion())

    def session(
        self, avatar: Any, *, seed: int, lookahead: int, max_queue_s: float, generator: bool = True
    ) -> SessionLike:
        from visavis.engine.session import Session

        options: dict[str, Any] = {} if generator else {"generator_steps": 0}
        return TimedSession(
            Session(avatar, seed=seed, lookahead=lookahead, max_queue_s=max_queue_s, **options)
        )

    def learning_obstacle(self) -> str | None:
        """Which packages are missing, if any."""
        missing = [name for name in LEARNING_NEEDS if importlib.util.find_spec(name) is None]
        if missing:
            return f"This server cannot learn from films: {', '.join(missing)} is not installed (pip install 'visavis[train]')."
        return None

    def learn(self, avatar: Any, film: bytes, *, progress: Progress) -> tuple[Any | None, str]:
        """Train the video network on for this person, on one thread: minutes."""
        from visavis.engine.training.video_personal import learn

        lesson = learn(film, size=max(avatar.width, avatar.height), progress=progress)
        if lesson.weights is None:
            return None, str(lesson)
        return dataclasses.replace(avatar, personal=lesson.weights), str(lesson)

    def warm(self) -> None:
        """Load and compile what sessions need, and find what this machine affords, before anybody waits for it."""
        import visavis.engine.session
        import visavis.engine.video.renderer  # noqa: F401
        from visavis.engine.motion.diffusion import DiffusionMotion
        from visavis.engine.timing import SAMPLES_PER_FRAME
        from visavis.engine.video.generator import live_plan

        DiffusionMotion().step(np.zeros((1, SAMPLES_PER_FRAME), np.float32))
        live_plan()


class TimedSession:
    """A session that says where the time of its last step went: `stages`, seconds by the name of the stage."""

    def __init__(self, session: Any) -> None:
        self._session = session
        self.stages: dict[str, float] = {}
        for attribute, method, stage in (
            ("_source", "step", "motion"),
            ("_renderer", "render", "raster"),
            ("_generator", "render", "video"),
        ):
            part = getattr(session, attribute, None)
            if hasattr(part, method):
                setattr(session, attribute, _Timed(part, method, stage, self.stages))
        self.push_audio = session.push_audio
        self.commit = session.commit
        self.clear = session.clear
        self.close = session.close

    def step(self) -> FrameLike:
        """The next frame."""
        self.stages.clear()
        return self._session.step()

    @property
    def controls(self) -> Controls:
        """See `visavis.engine.session.Session.controls`."""
        return self._session.controls

    @controls.setter
    def controls(self, controls: Controls) -> None:
        self._session.controls = controls

    @property
    def halved(self) -> bool:
        """At half the frame rate."""
        return self._session.halved

    @halved.setter
    def halved(self, halved: bool) -> None:
        self._session.halved = halved

    @property
    def queued_seconds(self) -> float:
        """Pushed speech that was not shown yet."""
        return self._session.queued_seconds

    @property
    def reduced(self) -> bool:
        """Without the video network."""
        return self._session.reduced

    @reduced.setter
    def reduced(self, reduced: bool) -> None:
        self._session.reduced = reduced


class _Timed:
    """A part whose one method is timed; everything else of it shows through, to be read and to be set."""

    def __init__(self, part: Any, method: str, stage: str, stages: dict[str, float]) -> None:
        vars(self)["_part"] = part
        call = getattr(part, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                stages[stage] = stages.get(stage, 0.0) + time.perf_counter() - began

        vars(self)[method] = timed

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._part, name, value)  # what is set is meant for the part: its controls
