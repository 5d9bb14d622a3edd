"""The sound of a whole media file, for what goes over it more than once."""

from __future__ import annotations

import numpy as np
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.errors import AudioError, VideoError
from visavis.engine.footage import Source, film_name, opened
from visavis.engine.timing import SAMPLE_RATE


def read_sound(source: Source) -> FloatArray:
    """Mono 16 kHz sound (n,) of a media file, or of its content; AudioError where there is none."""
    import av

    name = film_name(source)
    blocks = []
    try:
        with opened(source) as container:
            if not container.streams.audio or container.streams.audio[0].codec_context is None:
                raise AudioError(f"{name} holds no sound that can be read")
            resampler = av.AudioResampler("flt", "mono", SAMPLE_RATE)
            for frame in container.decode(audio=0):
                blocks += [out.to_ndarray()[0] for out in resampler.resample(frame)]
            blocks += [out.to_ndarray()[0] for out in resampler.resample(None)]
    except VideoError as error:
        raise AudioError(f"the sound of {name} cannot be read ({error})") from None
    if not blocks:
        raise AudioError(f"{name} holds no sound")
    return np.concatenate(blocks).astype(np.float32)
