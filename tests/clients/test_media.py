"""Sound in, movies out."""

from __future__ import annotations

import av
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_cli import write_wav
from visavis.clients.media import MovieWriter, check_output, open_speech, read_speech
from visavis.engine.errors import AudioError, VideoError


def encode(path, codec, rate, seconds=1.0, channels=1):
    tone = (8000 * np.sin(2 * np.pi * 440 * np.arange(int(rate * seconds)) / rate)).astype(np.int16)
    with av.open(str(path), "w") as file:
        stream = file.add_stream(codec, rate=rate)
        stream.layout = "mono" if channels == 1 else "stereo"
        resampler = av.AudioResampler(
            format=stream.format, layout=stream.layout, rate=rate, frame_size=stream.frame_size or 1024
        )
        frame = av.AudioFrame.from_ndarray(
            np.repeat(tone, channels)[None], format="s16", layout=stream.layout
        )
        frame.sample_rate = rate
        for part in resampler.resample(frame) + resampler.resample(None):
            file.mux(stream.encode(part))
        file.mux(stream.encode(None))
    return path


@pytest.mark.parametrize(
    ("name", "codec", "rate", "channels", "heard"),
    [("a.wav", "pcm_s16le", 16000, 1, 16000), ("a.wav", "pcm_s16le", 44100, 2, 44100), ("a.flac", "flac", 22050, 1, 22050),
     ("a.mp3", "libmp3lame", 44100, 2, 44100), ("a.ogg", "libopus", 48000, 1, 48000), ("a.wav", "pcm_s16le", 96000, 1, 48000),
     ("a.wav", "pcm_s16le", 4000, 1, 48000)],
)  # fmt: skip
def test_any_usual_sound_is_read(tmp_path, name, codec, rate, channels, heard):
    pcm, got = read_speech(encode(tmp_path / name, codec, rate, channels=channels))
    assert got == heard and pcm.dtype == np.int16 and pcm.ndim == 1
    assert abs(len(pcm) / got - 1.0) < 0.06
    middle = pcm[got // 4 : got // 4 * 3].astype(float)
    spectrum = np.abs(np.fft.rfft(middle * np.hanning(len(middle))))
    assert abs(np.argmax(spectrum) * got / len(middle) - 440) < 5


def test_what_is_no_sound_is_refused(tmp_path):
    text = tmp_path / "a.wav"
    text.write_bytes(b"RIFF....WAVEnot really" * 20)
    with pytest.raises(AudioError):
        read_speech(text)
    with pytest.raises(AudioError, match="no such file"):
        read_speech(tmp_path / "none.wav")
    with pytest.raises(AudioError, match="no such file"):
        read_speech(tmp_path)
    with pytest.raises(AudioError, match="0 s long"):
        read_speech(write_wav(tmp_path / "empty.wav", np.zeros(0, "<i2")))
    silent = tmp_path / "silent.mp4"
    with MovieWriter(silent, 64, 64, sound=False) as movie:
        movie.add_i420(np.full((96, 64), 128, np.uint8))
    with pytest.raises(AudioError, match="no sound"):
        read_speech(silent)


@settings(deadline=None, max_examples=30)
@given(st.data())
def test_broken_sound_is_read_or_refused(tmp_path_factory, data):
    path = tmp_path_factory.mktemp("broken") / "a.flac"
    whole = encode(path, "flac", 16000).read_bytes()
    bad = bytearray(whole[: data.draw(st.integers(0, len(whole)))])
    for at, value in data.draw(
        st.lists(st.tuples(st.integers(0, max(0, len(bad) - 1)), st.integers(0, 255)), max_size=8)
    ):
        if bad:
            bad[at] = value
    path.write_bytes(bad)
    try:
        read_speech(path)
    except AudioError as error:
        assert "\n" not in str(error)


def test_long_sound_comes_in_blocks(tmp_path):
    with open_speech(write_wav(tmp_path / "a.wav", np.zeros(16000 * 60, "<i2"))) as speech:
        sizes = [len(block) for block in speech.blocks]
    assert sum(sizes) == 16000 * 60 and max(sizes) < 16000 and speech.seconds == pytest.approx(60, abs=0.1)


def test_a_movie_has_the_frames_and_the_samples_given(tmp_path):
    out = tmp_path / "o.mp4"
    rng = np.random.default_rng(0)
    sound = (6000 * np.sin(np.arange(48000 * 2 - 777) / 15)).astype(np.int16)
    with MovieWriter(out, 64, 48) as movie:
        for k in range(50):
            movie.add_i420(np.full((72, 64), 16 + 4 * k, np.uint8))
        for part in np.array_split(sound, sorted(rng.integers(0, len(sound), 20))):
            movie.add_audio(part)
    assert list(tmp_path.iterdir()) == [out]
    with av.open(str(out)) as movie:
        video, audio = movie.streams.video[0], movie.streams.audio[0]
        assert (video.width, video.height, float(video.average_rate)) == (64, 48, 25.0)
        assert (
            video.codec_context.name == "h264"
            and video.pix_fmt == "yuv420p"
            and audio.codec_context.name == "aac"
        )
        stamps = [frame.time for frame in movie.decode(video)]
        assert np.allclose(stamps, np.arange(50) / 25)
    with av.open(str(out)) as movie:
        assert (
            abs(
                float(movie.streams.audio[0].duration * movie.streams.audio[0].time_base) - len(sound) / 48000
            )
            < 0.003
        )


def test_a_movie_that_fails_leaves_no_file(tmp_path):
    out = tmp_path / "o.mp4"
    out.write_bytes(b"what was there before")
    with pytest.raises(KeyboardInterrupt), MovieWriter(out, 64, 64) as movie:
        movie.add_i420(np.zeros((96, 64), np.uint8))
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == [out] and out.read_bytes() == b"what was there before"


def test_outputs_that_cannot_be_written(tmp_path):
    for path in (tmp_path / "a.avi", tmp_path / "no" / "a.mp4", tmp_path):
        with pytest.raises(VideoError):
            check_output(path)
    (tmp_path / "d.mp4").mkdir()
    with pytest.raises(VideoError):
        check_output(tmp_path / "d.mp4")
