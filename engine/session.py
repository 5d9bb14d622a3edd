"""One live avatar: push speech at any pace, take frames at one clock, each with the sound that belongs to it.

Sound and image never part: a frame's sound travels with its motion through the same queue. Look-ahead
delays both.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt
from visavis.engine.audio.pace import LivePace
from visavis.engine.audio.pcm import FloatArray, check_rate, to_int16, to_mono
from visavis.engine.audio.resample import Resampler
from visavis.engine.audio.vad import VoiceActivity
from visavis.engine.errors import MotionError, QueueFullError
from visavis.engine.motion.articulation import usable
from visavis.engine.motion.channels import zero_motion
from visavis.engine.motion.diffusion import WEIGHTS, Controls, DiffusionMotion
from visavis.engine.motion.director import MotionSource
from visavis.engine.timing import (
    FPS,
    PLAYBACK_RATE,
    PLAYBACK_SAMPLES_PER_FRAME,
    SAMPLE_RATE,
    SAMPLES_PER_FRAME,
)

if TYPE_CHECKING:
    from visavis.engine.avatar import Avatar
    from visavis.engine.video.generator import Generator

PATIENCE = 2
"""Steps without new sound after which an utterance is taken to be over."""
LIVE_BACKLOG = 2
"""Frames of live sound that may wait; beyond that, silent ones are skipped at once. (Less than that is `LivePace`'s to take out.)"""
LIVE_LIMIT = FPS
"""Frames of live sound that may wait at all; beyond that, the oldest are dropped."""


class FrameRenderer(Protocol):
    """What a session needs of a renderer."""

    def render(self, motion: FloatArray) -> npt.NDArray[np.uint8]:
        """Motion (N_CHANNELS,) -> image (H, W, 3)."""
        ...


@dataclass(frozen=True)
class Frame:
    """One frame of the call, 40 ms."""

    index: int
    """Number of this frame since the session began."""
    image: npt.NDArray[np.uint8]
    """(H, W, 3) RGB."""
    audio: npt.NDArray[np.int16]
    """(1920,) mono at 48 kHz, to be played with this frame."""
    speech_index: int | None
    """Which frame of all pushed speech this is; None when nothing is played."""
    speaking: bool
    """Within an utterance."""
    motion: FloatArray
    """(N_CHANNELS,)."""
    repeated: bool = False
    """The image is that of the frame before: see `Session.halved`."""


@dataclass(frozen=True)
class Plan:
    """What one step of a session's clock decides before anything is computed."""

    heard: FloatArray
    """(n, 640): what stage 1 hears in this step; see `MotionSource.step`."""
    audio: npt.NDArray[np.int16]
    """(1920,) mono at 48 kHz: the sound of the frame to be shown."""
    speech_index: int | None
    speaking: bool


_NO_SOUND = np.zeros(PLAYBACK_SAMPLES_PER_FRAME, np.int16)
_NOTHING_HEARD = np.zeros((0, SAMPLES_PER_FRAME), np.float32)


@dataclass(eq=False)
class _Block:
    """One frame of pushed speech at both rates, or of silence."""

    heard: FloatArray
    played: npt.NDArray[np.int16] | None = None
    """At 48 kHz; None while the resampler waits for the millisecond that follows. Needed only when the
    frame is shown."""
    speech_index: int | None = None
    samples: int = 0
    """How many of the 16 kHz samples were pushed; the rest is padding."""
    voiced: bool = False
    ends: bool = False
    """The last frame of an utterance: what follows need not be waited for."""


_SILENCE = _Block(np.zeros(SAMPLES_PER_FRAME, np.float32), _NO_SOUND)


@dataclass
class _Ingest:
    """Speech on its way from the caller's rate to whole frames at both of ours."""

    rate: int
    hear: Resampler = field(init=False)
    play: Resampler = field(init=False)
    heard: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
    played: FloatArray = field(default_factory=lambda: np.zeros(0, np.float32))
    unsounded: deque[_Block] = field(default_factory=deque)
    """Blocks given out whose sound at 48 kHz is still to come."""

    def __post_init__(self) -> None:
        self.hear, self.play = Resampler(self.rate, SAMPLE_RATE), Resampler(self.rate, PLAYBACK_RATE)

    def push(self, samples: FloatArray) -> list[_Block]:
        """Take mono samples at `rate`, give the frames that they complete."""
        self.heard = np.concatenate([self.heard, self.hear.push(samples)])
        self.played = np.concatenate([self.played, self.play.push(samples)])
        return self._take()

    def flush(self) -> list[_Block]:
        """End of an utterance: complete the last frame with silence."""
        heard = np.concatenate([self.heard, self.hear.flush()])
        n = -(-len(heard) // SAMPLES_PER_FRAME)
        self.heard = _pad(heard, n * SAMPLES_PER_FRAME)
        played = np.concatenate([self.played, self.play.flush()])
        self.played = _pad(played, (len(self.unsounded) + n) * PLAYBACK_SAMPLES_PER_FRAME)
        blocks = self._take()
        if blocks:
            blocks[-1].samples = len(heard) - (n - 1) * SAMPLES_PER_FRAME
        return blocks

    def _take(self) -> list[_Block]:
        whole = len(self.heard) // SAMPLES_PER_FRAME * SAMPLES_PER_FRAME
        frames, self.heard = self.heard[:whole].reshape(-1, SAMPLES_PER_FRAME), self.heard[whole:]
        blocks = [_Block(frame, samples=SAMPLES_PER_FRAME) for frame in frames]
        self.unsounded.extend(blocks)
        whole = (
            min(len(self.played) // PLAYBACK_SAMPLES_PER_FRAME, len(self.unsounded))
            * PLAYBACK_SAMPLES_PER_FRAME
        )
        sounds, self.played = to_int16(self.played[:whole]), self.played[whole:]
        for sound in sounds.reshape(-1, PLAYBACK_SAMPLES_PER_FRAME):
            self.unsounded.popleft().played = sound
        return blocks


def _pad(samples: FloatArray, n: int) -> FloatArray:
    return np.concatenate([samples, np.zeros(max(0, n - len(samples)), np.float32)])[:n]


class Session:
    """One avatar in one call. Not for several threads at once."""

    def __init__(
        self,
        avatar: Avatar | None,
        *,
        seed: int = 0,
        lookahead: int = 2,
        max_queue_s: float = 60.0,
        renderer: FrameRenderer | None = None,
        source: MotionSource | None = None,
        generator_steps: int | None = None,
    ) -> None:
        """`avatar` may be None when a `renderer` is given. `lookahead` is 0 to 2 frames. `source` replaces
        stage 1. `generator_steps`: sampler steps a frame of stage 2; None as many as this machine does in real
        time, 0 the warp alone."""
        self._generator: Generator | None = None
        self._resting = False  # the generator
        self._halved = False
        self._drawn: npt.NDArray[np.uint8] | None = None  # the last image, where frames are left out
        if renderer is None:
            if avatar is None:
                raise ValueError("a session needs an avatar or a renderer")
            from visavis.engine.video.generator import generator_for
            from visavis.engine.video.renderer import Renderer

            renderer = warp = Renderer(avatar)
            self._generator = generator_for(warp, steps=generator_steps, seed=seed)
        self._renderer: FrameRenderer = renderer
        # stage 1 moves a resting face; a photo may show a smile or an open mouth, taken back first
        self.neutral = zero_motion() if avatar is None else avatar.neutral_motion()
        if source is None:
            own = usable(None if avatar is None else avatar.articulation, WEIGHTS)
            source = DiffusionMotion(seed, lookahead, articulation=own)
        self._source: MotionSource = source
        self.lookahead = self._source.lookahead
        self._max_samples = int(max_queue_s * SAMPLE_RATE)
        self._vad = VoiceActivity()
        self._ingest: _Ingest | None = None
        self._queue: deque[_Block] = deque()
        self._pipe: deque[_Block] = deque([_SILENCE] * self.lookahead)  # heard by stage 1, not shown yet
        self._speaking = False  # an utterance has started and was not shown to its end
        self._complete = True  # the frame heard last was the last of its utterance
        self._starved = 0  # steps without new sound while an utterance is open and too little is queued
        self._pace: LivePace | None = None  # of a live source
        self._voiced = False  # the last frame pushed
        self._held = False  # the last step had too little sound for a frame of speech
        self._index = 0
        self._speech_frames = 0
        self._closed = False

    @property
    def controls(self) -> Controls:
        """Expressiveness, head motion, gaze target, mood, listening; assign a new one to change them from the next frame
        on. A `source` without controls has the default ones and takes no others."""
        return getattr(self._source, "controls", Controls())

    @controls.setter
    def controls(self, controls: Controls) -> None:
        if not hasattr(self._source, "controls"):
            raise MotionError("this session's motion source has no controls")
        self._source.controls = controls

    @property
    def reduced(self) -> bool:
        """The warp alone, without the video network, from the next frame on: for a machine that does not keep up."""
        return self._generator is None or self._resting

    @reduced.setter
    def reduced(self, reduced: bool) -> None:
        if self._generator is not None and self._resting and not reduced:
            self._generator.reset()  # its last frames are long gone
        self._resting = reduced

    @property
    def halved(self) -> bool:
        """Every second frame repeats the image before it: half the frame rate, with all of the sound and of the movement, for a machine that does
        not even keep up with the warp alone."""
        return self._halved

    @halved.setter
    def halved(self, halved: bool) -> None:
        self._halved, self._drawn = halved, None

    @property
    def queued_seconds(self) -> float:
        """Pushed speech that was not shown yet, in seconds."""
        return self._unplayed() / SAMPLE_RATE

    def push_audio(
        self, pcm: npt.NDArray[np.int16] | npt.NDArray[np.float32], rate: int, *, live: bool = False
    ) -> None:
        """Add speech: int16 or float32 in -1..1, (n,) or (n, channels of one or two), at 8 to 48 kHz.

        With `live` (a microphone) the backlog stays short: silent frames that wait are skipped, what is left over all
        the time is taken out of quiet moments (`LivePace`), above 1 s the oldest is dropped. Raises AudioError for
        what cannot be used and QueueFullError when more would wait than `max_queue_s`; in both cases nothing is taken.
        """
        self._check_open()
        rate = check_rate(rate)
        samples = to_mono(pcm)
        coming = len(samples) * SAMPLE_RATE / rate
        if not live and self._unplayed() + coming > self._max_samples:
            raise QueueFullError(
                f"{coming / SAMPLE_RATE:.1f} s of speech pushed onto {self.queued_seconds:.1f} s that wait: "
                f"the limit is {self._max_samples / SAMPLE_RATE:.1f} s; push more slowly, or clear()"
            )
        if not len(samples):
            return
        if self._ingest is not None and self._ingest.rate != rate:
            self._flush()
        if live != (self._pace is not None):
            self._pace = LivePace() if live else None
        if self._pace is not None and not self._voiced:
            samples = self._pace.shorten(samples, rate)
        # A block of live sound longer than the limit would be dropped anyway: never hold it all at once.
        for start in range(0, len(samples), rate):
            if self._ingest is None:
                self._ingest = _Ingest(rate)
            self._enqueue(self._ingest.push(samples[start : start + rate]))
            if live:
                self._catch_up()
        self._starved = 0

    def commit(self) -> None:
        """End of an utterance: what is buffered is spoken without waiting for more."""
        self._check_open()
        self._flush()

    def clear(self) -> int:
        """Barge-in: drop all speech that was not shown; the mouth closes. Returns the dropped samples at 16
        kHz."""
        self._check_open()
        dropped = self._unplayed()
        if self._speaking or self._queue or self._ingest is not None:
            self._source.hush()
            self._pipe = deque([_SILENCE] * self.lookahead)
        self._queue.clear()
        self._ingest = None
        self._vad.reset()
        self._speaking, self._complete, self._starved = False, True, 0
        return dropped

    def step(self) -> Frame:
        """The next frame. Never waits: without speech the person lives on in silence."""
        plan = self.plan()
        return self.show(plan, self._source.step(plan.heard))

    def plan(self) -> Plan:
        """The first half of `step`, for those who advance many sessions at once: moves the clock and says what stage 1 hears.
        The motion that it makes of it goes to `show` or `frame`, before the next plan."""
        self._check_open()
        self._held = False
        shown, heard, speaking = self._advance()
        if self._pace is not None and self._ingest is not None:
            self._pace.step(self._left(), held=self._held)
        played = _NO_SOUND if shown.played is None else shown.played
        return Plan(heard, played, shown.speech_index, speaking)

    def show(self, plan: Plan, motion: FloatArray) -> Frame:
        """The second half of `step`: draws what stage 1 made (N_CHANNELS,) of the plan."""
        motion = motion + self.neutral
        if self._drawn is not None and self._index % 2:
            return self.frame(plan, motion, self._drawn, repeated=True)
        image = self._renderer.render(motion)
        if self._generator is not None and not self._resting:
            image = self._generator.render(image, motion)
        if self._halved:
            self._drawn = image
        return self.frame(plan, motion, image)

    def frame(
        self, plan: Plan, motion: FloatArray, image: npt.NDArray[np.uint8], *, repeated: bool = False
    ) -> Frame:
        """In place of `show` where the picture was made elsewhere; `motion` (N_CHANNELS,) with the neutral face in it."""
        frame = Frame(self._index, image, plan.audio, plan.speech_index, plan.speaking, motion, repeated)
        self._index += 1
        return frame

    def frames(self, n: int | None = None) -> Iterator[Frame]:
        """`n` frames, or frames without end, one `step()` each."""
        done = 0
        while n is None or done < n:
            yield self.step()
            done += 1

    def close(self) -> None:
        """Give everything back; the session cannot be used after."""
        self._queue.clear()
        self._pipe.clear()
        self._ingest = None
        self._closed = True

    def __enter__(self) -> Session:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this session is closed")

    def _unplayed(self) -> int:
        waiting = sum(block.samples for block in self._queue) + sum(block.samples for block in self._pipe)
        return waiting + (len(self._ingest.heard) if self._ingest is not None else 0)

    def _left(self) -> float:
        """Seconds of sound that no frame has heard."""
        waiting = len(self._queue) * SAMPLES_PER_FRAME
        if self._ingest is not None:
            waiting += len(self._ingest.heard)
        return waiting / SAMPLE_RATE

    def _advance(self) -> tuple[_Block, FloatArray, bool]:
        """One step of the clock: the block to play, the frames to hear (n, 640), whether that is within an
        utterance."""
        if self._ingest is not None and not self._ready():
            if self._starved >= PATIENCE:
                self._flush()
            self._starved += 1
        ready = self._ready()
        if ready and not self._speaking:
            # Skip the silence between: the first frame of speech is shown in this very step.
            heard = [self._queue.popleft() if self._queue else _SILENCE for _ in range(1 + self.lookahead)]
            self._pipe.clear()
            self._speaking = True
        elif ready:
            heard = [self._queue.popleft()]
        elif self._speaking and not self._complete:
            # Speech is on its way: hold what is in the pipe, so that its look-ahead stays true.
            self._held = True
            return _SILENCE, _NOTHING_HEARD, True
        else:
            heard = [_SILENCE]
        spoken = [block for block in heard if block.samples]
        if spoken:
            self._complete = spoken[-1].ends
        self._pipe.extend(heard)
        shown, speaking = self._pipe.popleft(), self._speaking
        if self._complete and not self._queue and not any(block.samples for block in self._pipe):
            self._speaking = False
        return shown, np.stack([block.heard for block in heard]), speaking

    def _ready(self) -> bool:
        """Can the next frame of speech be heard, and is the sound of the frame to be shown complete?"""
        if not self._queue:
            return False
        if self._speaking:
            shown = self._pipe[0] if self._pipe else self._queue[0]
            return shown.played is not None
        complete = len(self._queue) > self.lookahead or any(block.ends for block in self._queue)
        return complete and self._queue[0].played is not None

    def _enqueue(self, blocks: list[_Block]) -> None:
        for block in blocks:
            block.voiced = self._voiced = self._vad.push(block.heard)
            block.speech_index = self._speech_frames
            self._speech_frames += 1
        self._queue.extend(blocks)

    def _flush(self) -> None:
        """End the open utterance, if any: its last frame is filled up with silence."""
        if self._ingest is None:
            return
        self._enqueue(self._ingest.flush())
        if self._queue:
            self._queue[-1].ends = True
        else:
            self._complete = True
        self._ingest = None
        self._starved = 0

    def _catch_up(self) -> None:
        """Shorten the backlog of a live source: first by its silences, then, when it is far behind, by its
        oldest frames."""
        excess = len(self._queue) - LIVE_BACKLOG
        if excess > 0:
            kept: deque[_Block] = deque()
            for block in self._queue:
                if excess > 0 and not block.voiced and not block.ends:
                    excess -= 1
                else:
                    kept.append(block)
            self._queue = kept
        while len(self._queue) > LIVE_LIMIT:
            self._complete = self._queue.popleft().ends


def render_offline(
    avatar: Avatar | None,
    pcm: npt.NDArray[np.int16] | npt.NDArray[np.float32],
    rate: int,
    *,
    seed: int = 0,
    lookahead: int = 2,
    renderer: FrameRenderer | None = None,
    source: MotionSource | None = None,
    generator_steps: int | None = 2,
) -> Iterator[Frame]:
    """All frames of a recording, as fast as they can be made: exactly as many as it is long, the last one
    filled up with silence.

    `pcm` and `rate` as in `Session.push_audio`. Frame k holds samples 640 k to 640 k + 639 at 16 kHz.
    """
    check_rate(rate)
    samples = to_mono(pcm)
    n = -(-len(samples) * FPS // rate)
    with Session(
        avatar,
        seed=seed,
        lookahead=lookahead,
        renderer=renderer,
        source=source,
        generator_steps=generator_steps,
    ) as session:
        pushed = 0
        for _ in range(n):
            while session.queued_seconds < 1 and pushed < len(samples):
                session.push_audio(samples[pushed : pushed + rate], rate)
                pushed += rate
                if pushed >= len(samples):
                    session.commit()
            yield session.step()
