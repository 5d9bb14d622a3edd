"""The sound of a whole media file, for what goes over it more than once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.errors import AudioError
from visavis.engine.timing import SAMPLE_RATE


def read_sound(path: Path) -> FloatArray:
    """Mono 16 kHz sound (n,) of a media file; AudioError where there is none."""
    import av

    blocks = []
    try:
        with av.open(str(path)) as container:
            if not container.streams.audio:
                raise AudioError(f"{path} holds no sound")
            resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE)
            for frame in container.decode(audio=0):
                blocks += [out.to_ndarray()[0] for out in resampler.resample(frame)]
            blocks += [out.to_ndarray()[0] for out in resampler.resample(None)]
    except (av.error.FFmpegError, OSError, ValueError) as error:
        raise AudioError(f"the sound of {path} cannot be read ({error})") from None
    if not blocks:
        raise AudioError(f"{path} holds no sound")
    return np.concatenate(blocks).astype(np.float32)
