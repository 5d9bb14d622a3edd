"""`visavis render`: speech or a motion file to a movie, offline, in constant memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from visavis.clients.media import MovieWriter, Pcm, check_output, open_speech
from visavis.engine.errors import AudioError
from visavis.engine.motion.channels import MotionClip
from visavis.engine.timing import FPS, PLAYBACK_RATE
from visavis.kernels import rgb_to_i420

if TYPE_CHECKING:
    from visavis.engine.avatar import Avatar
    from visavis.engine.motion.diffusion import Controls

DEFAULT_STEPS = 2
"""Sampler steps a frame of the video network offline, where time is no matter."""
AHEAD_S = 1.0
"""Seconds of speech that are decoded ahead of the frames."""
Progress = Callable[[int, int], None]
"""Called with frames done and frames in all (0 where that is not known)."""
Image = npt.NDArray[np.uint8]


def speech_frames(
    avatar: Avatar,
    blocks: Iterator[Pcm],
    rate: int,
    *,
    seed: int = 0,
    generator_steps: int = DEFAULT_STEPS,
    controls: Controls | None = None,
    watch: Callable[[npt.NDArray[np.float32]], None] | None = None,
) -> Iterator[tuple[Image, Pcm]]:
    """Images (H, W, 3) with their sound (1920,) at 48 kHz, exactly as many as the speech is long; the last sound is cut to length.

    `blocks` are mono int16 at `rate` Hz and are read as they are needed; `watch` is told each frame's motion (N_CHANNELS,).
    """
    from visavis.engine.session import Session

    with Session(avatar, seed=seed, generator_steps=generator_steps) as session:
        if controls is not None:
            session.controls = controls
        pushed = made = 0
        done = False
        while True:
            while not done and session.queued_seconds < AHEAD_S:
                block = next(blocks, None)
                if block is None:
                    session.commit()
                    done = True
                else:
                    session.push_audio(block, rate)
                    pushed += len(block)
            if done and made >= -(-pushed * FPS // rate):
                return
            frame = session.step()
            if watch is not None:
                watch(frame.motion)
            played = made * PLAYBACK_RATE // FPS
            made += 1
            left = round(pushed * PLAYBACK_RATE / rate) - played if done else len(frame.audio)
            yield frame.image, frame.audio[: max(0, left)]


def render_speech(
    avatar: Avatar,
    speech_path: Path,
    out: Path,
    *,
    seed: int,
    progress: Progress,
    generator_steps: int = DEFAULT_STEPS,
    controls: Controls | None = None,
) -> int:
    """Speech to MP4 with sound; returns the number of frames. `generator_steps` 0: the moved photo alone. `controls`: the manner, the
    usual one if None."""
    check_output(out)
    with open_speech(speech_path) as speech:
        total = int(np.ceil(speech.seconds * FPS))
        frames = speech_frames(
            avatar,
            speech.blocks,
            speech.rate,
            seed=seed,
            generator_steps=generator_steps,
            controls=controls,
        )
        first = next(frames, None)
        if first is None:
            raise AudioError(f"{speech_path} holds no sound: it is 0 s long")
        with MovieWriter(out, avatar.width, avatar.height) as movie:
            for image, sound in (frame for part in ([first], frames) for frame in part):
                movie.add_i420(rgb_to_i420(image))
                movie.add_audio(sound)
                progress(movie.frames, total)
            return movie.frames


def render_motion(
    avatar: Avatar, clip: MotionClip, out: Path, *, progress: Progress, generator_steps: int = DEFAULT_STEPS
) -> int:
    """A motion curve to a silent MP4 at the curve's own frame rate; returns the number of frames."""
    from visavis.engine.video.generator import generator_for
    from visavis.engine.video.renderer import Renderer

    check_output(out)
    renderer = Renderer(avatar)
    generator = generator_for(renderer, steps=generator_steps)
    with MovieWriter(out, avatar.width, avatar.height, fps=clip.fps, sound=False) as movie:
        for motion in clip.motion:
            image = renderer.render(motion)
            if generator is not None:
                image = generator.render(image, motion)
            movie.add_i420(rgb_to_i420(image))
            progress(movie.frames, len(clip.motion))
        return movie.frames
