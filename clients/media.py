"""Reading speech and writing movies, over PyAV: frame by frame, so that memory does not grow with length."""

from __future__ import annotations

import fractions
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import av
import av.error
import numpy as np
import numpy.typing as npt
from visavis.engine.errors import AudioError, VideoError
from visavis.engine.timing import FPS, PLAYBACK_RATE

MIN_RATE, MAX_RATE = 8_000, 48_000
AUDIO_BITRATE = 160_000
AAC_FRAME = 1024
Pcm = npt.NDArray[np.int16]


@dataclass
class Speech:
    """A sound file opened for reading: `rate` in Hz, `seconds` as the file claims (0 where it does not), mono blocks."""

    rate: int
    seconds: float
    blocks: Iterator[Pcm]


@contextmanager
def open_speech(path: str | Path) -> Iterator[Speech]:
    """Open any sound (or video with sound) that FFmpeg reads; rates outside 8 to 48 kHz come out at 48 kHz.

    Raises AudioError for a file that is missing, holds no sound or is broken (also later, from the blocks).
    """
    path = Path(path)
    if not path.is_file():
        raise AudioError(f"no such file: {path}")
    try:
        container: Any = av.open(str(path))
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise AudioError(f"{path} is no sound file that can be read ({_reason(error)})") from None
    with container:
        if not container.streams.audio:
            raise AudioError(f"{path} holds no sound")
        stream = container.streams.audio[0]
        if not stream.rate or not stream.codec_context:
            raise AudioError(f"{path}: the sound's format is not known")
        rate = int(stream.rate)
        if not MIN_RATE <= rate <= MAX_RATE:
            rate = MAX_RATE
        seconds = container.duration / av.time_base if container.duration else 0.0
        yield Speech(rate, max(0.0, seconds), _blocks(path, container, rate))


def _blocks(path: Path, container: Any, rate: int) -> Iterator[Pcm]:
    resampler: Any = av.AudioResampler(format="s16", layout="mono", rate=rate)
    decoded = False
    frames = container.decode(audio=0)
    while True:
        try:
            frame = next(frames)
        except StopIteration:
            break
        except (av.error.FFmpegError, ValueError) as error:
            raise AudioError(f"{path} is broken ({_reason(error)})") from None
        decoded = True
        frame.pts = None  # gaps in a file's stamps are no silence
        for part in resampler.resample(frame):
            yield part.to_ndarray().reshape(-1)
    if decoded:
        for part in resampler.resample(None):
            yield part.to_ndarray().reshape(-1)


def read_speech(path: str | Path) -> tuple[Pcm, int]:
    """All of a short sound file: mono int16 (n,), rate. AudioError also where it is empty."""
    with open_speech(path) as speech:
        blocks = list(speech.blocks)
    pcm = np.concatenate(blocks) if blocks else np.zeros(0, np.int16)
    if not len(pcm):
        raise AudioError(f"{path} holds no sound: it is 0 s long")
    return pcm, speech.rate


def _reason(error: BaseException) -> str:
    return (getattr(error, "strerror", None) or str(error) or type(error).__name__).strip().lower()


def check_output(path: Path, suffixes: tuple[str, ...] = (".mp4", ".m4v", ".mov")) -> Path:
    """The output path, if a file can be made there. VideoError says why not."""
    if path.suffix.lower() not in suffixes:
        raise VideoError(f"the output {path} must end in {' or '.join(suffixes)}")
    if path.is_dir():
        raise VideoError(f"the output {path} is a folder")
    if not path.parent.is_dir():
        raise VideoError(f"the folder of the output does not exist: {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise VideoError(f"the folder of the output cannot be written to: {path.parent}")
    return path


class MovieWriter:
    """An MP4 with H.264 (crf 18, yuv420p) and, if wanted, mono AAC. Written beside its place and moved there when whole.

    Use it as a context manager: leaving it by an exception (Ctrl-C too) leaves no file behind.
    """

    def __init__(
        self, path: Path, width: int, height: int, *, fps: float = FPS, sound: bool = True, crf: int = 18
    ) -> None:
        self._path = path
        self._part = path.with_name(f".{path.stem}.part{os.getpid()}.mp4")
        try:
            self._container: Any = av.open(str(self._part), "w", options={"movflags": "+faststart"})
        except (av.error.FFmpegError, OSError) as error:
            raise VideoError(f"{path} cannot be written ({_reason(error)})") from None
        rate = fractions.Fraction(fps).limit_denominator(1001)
        self._video = self._container.add_stream("libx264", rate=rate)
        self._video.width, self._video.height, self._video.pix_fmt = width, height, "yuv420p"
        self._tick = 1 / rate
        # The pictures are converted by BT.601 (as on the wire); saying so keeps players from guessing.
        self._video.options = {
            "crf": str(crf),
            "preset": "veryfast",
            "x264-params": "colormatrix=smpte170m:colorprim=smpte170m:transfer=smpte170m:range=tv",
        }
        self._audio: Any = None
        if sound:
            self._audio = self._container.add_stream("aac", rate=PLAYBACK_RATE)
            self._audio.bit_rate = AUDIO_BITRATE
            self._audio.layout = "mono"
        self._frames = 0
        self._samples = 0
        self._pending = np.zeros(0, np.int16)

    @property
    def frames(self) -> int:
        """Video frames written so far."""
        return self._frames

    def __enter__(self) -> MovieWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if kind is None:
                self._finish()
                self._container.close()
                os.replace(self._part, self._path)
            else:
                self._container.close()
        finally:
            self._part.unlink(missing_ok=True)

    def add_i420(self, i420: npt.NDArray[np.uint8]) -> None:
        """One frame, uint8 (H * 3 / 2, W)."""
        self.add_frame(av.VideoFrame.from_ndarray(i420, format="yuv420p"))

    def add_frame(self, frame: av.VideoFrame) -> None:
        """One frame; its stamp is replaced by its number."""
        frame.pts = self._frames
        frame.time_base = self._tick
        frame.pict_type = av.video.frame.PictureType.NONE
        self._frames += 1
        self._container.mux(self._video.encode(frame))

    def add_audio(self, pcm: Pcm) -> None:
        """Mono int16 samples at 48 kHz, any number."""
        self._pending = np.concatenate([self._pending, pcm])
        whole = len(self._pending) // AAC_FRAME * AAC_FRAME
        self._write_audio(self._pending[:whole])
        self._pending = self._pending[whole:]

    def _write_audio(self, pcm: Pcm) -> None:
        for start in range(0, len(pcm), AAC_FRAME):
            block = np.ascontiguousarray(pcm[None, start : start + AAC_FRAME])
            frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono")
            frame.sample_rate = PLAYBACK_RATE
            frame.pts = self._samples
            frame.time_base = fractions.Fraction(1, PLAYBACK_RATE)
            self._samples += block.shape[1]
            self._container.mux(self._audio.encode(frame))

    def _finish(self) -> None:
        if self._audio is not None:
            self._write_audio(self._pending)
            self._container.mux(self._audio.encode(None))
        self._container.mux(self._video.encode(None))
