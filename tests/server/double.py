"""A small engine with the real one's interface: an ellipse of a mouth that opens with the loudness of pushed speech."""

from __future__ import annotations

import dataclasses
import os
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
from visavis.engine.errors import AudioError, PhotoError, QueueFullError, VideoError
from visavis.engine.footage import HEAD, film_format
from visavis.engine.motion.diffusion import Controls
from visavis.engine.timing import PLAYBACK_SAMPLES_PER_FRAME, SAMPLE_RATE, SAMPLES_PER_FRAME
from visavis.server.engines import VisavisEngine

SIZE = 256
MOUTH = (SIZE // 2, 180)
REST_HEIGHT, OPEN_HEIGHT = 2, 30
MARK = 16
"""Side of the corner of each picture that tells the session's mood by its grey."""
GREYS = {"neutral": 128, "warm": 250, "serious": 10}
SLOW_SEED, CRASH_SEED = 7, 13
"""Sessions of these seeds take half a second a frame, or take their process with them after some frames."""


@dataclass
class DoubleAvatar:
    name: str = "double"
    consent: str = ""
    width: int = SIZE
    height: int = SIZE
    learned: bool = False


@dataclass(frozen=True)
class DoubleFrame:
    index: int
    image: np.ndarray
    audio: np.ndarray
    speech_index: int | None
    speaking: bool
    repeated: bool = False


@dataclass
class DoubleSession:
    """Speech at 16 kHz inside; one frame of look-ahead nothing, so that tests see what they pushed at once."""

    max_queue_s: float = 60.0
    step_s: float = 0.0
    queue: np.ndarray = field(default_factory=lambda: np.zeros(0, np.int16))
    index: int = 0
    speech: int = 0
    closed: bool = False
    committed: int = 0
    threads: set[int] = field(default_factory=set)
    overlaps: int = 0
    """Steps that began while another ran."""
    pushed_seconds: float = 0.0
    inside: bool = False
    crash_at: int | None = None
    reduced: bool = True
    """No video network; where there is one, a frame of it takes `network_s` longer."""
    network_s: float = 0.0
    halved: bool = False
    controls: Controls = field(default_factory=Controls)

    def push_audio(self, pcm, rate, *, live=False):
        pcm = np.asarray(pcm)
        self.pushed_seconds += len(pcm) / rate
        if pcm.dtype != np.int16 or not 8000 <= rate <= 48000:
            raise AudioError(f"cannot use {pcm.dtype} at {rate} Hz")
        samples = np.interp(
            np.arange(0, len(pcm) * SAMPLE_RATE / rate) * rate / SAMPLE_RATE, np.arange(len(pcm)), pcm
        )
        queue = np.concatenate([self.queue, samples.astype(np.int16)])
        if live:
            queue = queue[-SAMPLE_RATE // 4 :]
        elif len(queue) > self.max_queue_s * SAMPLE_RATE:
            raise QueueFullError(
                f"{len(queue) / SAMPLE_RATE:.1f} s would be queued, {self.max_queue_s:g} s is the bound"
            )
        self.queue = queue

    def commit(self):
        self.committed += 1

    def clear(self):
        dropped, self.queue = len(self.queue), self.queue[:0]
        return dropped

    @property
    def queued_seconds(self):
        return len(self.queue) / SAMPLE_RATE

    def step(self):
        self.threads.add(threading.get_ident())
        if self.crash_at is not None and self.index >= self.crash_at:
            os._exit(3)
        self.overlaps += self.inside
        self.inside = True
        repeated = self.halved and self.index % 2 == 1
        time.sleep(0.0 if repeated else self.step_s + (0.0 if self.reduced else self.network_s))
        self.inside = False
        block, self.queue = self.queue[:SAMPLES_PER_FRAME], self.queue[SAMPLES_PER_FRAME:]
        speech_index = None
        if len(block):
            speech_index, self.speech = self.speech, self.speech + 1
        else:
            self.speech = 0
        padded = np.zeros(SAMPLES_PER_FRAME, np.int16)
        padded[: len(block)] = block
        loudness = float(np.sqrt(np.mean(padded.astype(np.float32) ** 2)) / 6000)
        image = draw(min(1.0, loudness))
        image[:MARK, :MARK] = GREYS[self.controls.mood]
        frame = DoubleFrame(
            self.index, image, np.repeat(padded, 3), speech_index, speech_index is not None, repeated
        )
        assert frame.audio.shape == (PLAYBACK_SAMPLES_PER_FRAME,)
        self.index += 1
        return frame

    def close(self):
        self.closed = True


def draw(opening: float) -> np.ndarray:
    """A face whose dark mouth is `opening` (0..1) open."""
    image = np.full((SIZE, SIZE, 3), (90, 120, 160), np.uint8)
    cv2.ellipse(image, (SIZE // 2, SIZE // 2), (80, 110), 0, 0, 360, (230, 190, 160), -1)
    for x in (-35, 35):
        cv2.circle(image, (SIZE // 2 + x, 100), 9, (250, 250, 250), -1)
        cv2.circle(image, (SIZE // 2 + x, 100), 4, (40, 60, 90), -1)
    height = round(REST_HEIGHT + opening * (OPEN_HEIGHT - REST_HEIGHT))
    cv2.ellipse(image, MOUTH, (34, height), 0, 0, 360, (20, 5, 5), -1)
    return image


def mood_of(i420: np.ndarray) -> str:
    """The mood that a drawn picture tells, from its planes (H * 3 / 2, W)."""
    grey = float(i420[2 : MARK - 2, 2 : MARK - 2].mean())
    return min(GREYS, key=lambda mood: abs(GREYS[mood] - grey))


def opening(image: np.ndarray) -> float:
    """How far the mouth of a drawn face is open, 0 to about 1, from its dark pixels (any size of picture)."""
    height, width = image.shape[:2]
    column = image[height // 2 :, int(width * 0.47) : int(width * 0.53)].astype(np.int32).sum(axis=-1)
    dark = (column < 240).sum(axis=0).mean() / height * SIZE
    return float((dark / 2 - REST_HEIGHT) / (OPEN_HEIGHT - REST_HEIGHT))


@dataclass
class DoubleEngine:
    """`sessions` holds every session made, so that tests can look inside."""

    enroll_s: float = 0.0
    step_s: float = 0.0
    network_s: float | None = None
    """None: there is no video network."""
    demo: Path | None = Path(__file__)
    sessions: list[DoubleSession] = field(default_factory=list)
    generators: list[bool] = field(default_factory=list)
    films: list[bytes] = field(default_factory=list)
    avatars: list[DoubleAvatar] = field(default_factory=list)
    """Those that sessions were made of."""

    def enroll(self, photo, *, face, size, consent, name, progress):
        for k in range(5):
            progress("fit", k / 5)
            time.sleep(self.enroll_s / 5)
        if isinstance(photo, bytes):
            if photo.startswith(b"boom"):
                raise RuntimeError("/secret/path")
            if film_format(photo[:HEAD]):
                self.films.append(photo)
                return DoubleAvatar(name, consent)
            if cv2.imdecode(np.frombuffer(photo, np.uint8), cv2.IMREAD_COLOR) is None:
                raise PhotoError("this is no picture: send a JPEG, PNG or WebP", "not_a_picture")
        return DoubleAvatar(name, consent)

    def learning_obstacle(self):
        return None

    def learn(self, avatar, film, *, progress):
        """What comes of it is in the person's name. The stage tells the process and where its temporary files are."""
        assert film_format(film[:HEAD])
        Path(tempfile.mkstemp()[1]).write_bytes(film)  # left behind
        progress(f"{os.getpid()} {tempfile.gettempdir()}", 0.5)
        if avatar.name == "crash":
            os._exit(3)
        if avatar.name == "short":
            raise VideoError("too short to learn from", "too_short")
        while avatar.name == "slow":
            time.sleep(0.05)
        if avatar.name == "known":
            return None, "taught nothing"
        return dataclasses.replace(avatar, learned=True), "learned well"

    def load(self, path):
        return DoubleAvatar(path.stem)

    def demo_photo(self):
        return self.demo

    def sample_speech(self):
        return VisavisEngine().sample_speech()

    def picture(self, avatar):
        return draw(0.0)

    def session(self, avatar, *, seed, lookahead, max_queue_s, generator=True):
        self.generators.append(generator)
        self.avatars.append(avatar)
        session = DoubleSession(max_queue_s, 0.5 if seed == SLOW_SEED else self.step_s)
        if self.network_s is not None:
            session.reduced, session.network_s = not generator, self.network_s
        if seed == CRASH_SEED:
            session.crash_at = 20
        self.sessions.append(session)
        return session
