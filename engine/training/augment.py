"""Augmentation of speech for voices, rooms and lines that the data does not hold.

All of it works on power spectrograms, where speed, pitch and formants can be changed apart from each other
without a vocoder: windows are read at another pace (speed), and the cepstrally smoothed envelope (formants)
and what is left (harmonics, pitch) are stretched along frequency each by its own factor.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from visavis.engine.audio.mel import FLOOR, HOP, N_FFT, WINDOW, mel_filters
from visavis.engine.audio.pcm import FloatArray
from visavis.engine.timing import SAMPLE_RATE

_BINS = N_FFT // 2 + 1
_FILTERS = mel_filters()
_HANN = (0.5 - 0.5 * np.cos(2 * np.pi * (np.arange(WINDOW) + 0.5) / WINDOW)).astype(np.float32)
_SCALE = float(4 / _HANN.sum() ** 2)
_ENVELOPE_QUEFRENCY = 40  # samples: below the period of a 400 Hz voice


@dataclass(frozen=True)
class Voice:
    """One way of changing a recording; the defaults change nothing."""

    speed: float = 1.0
    pitch: float = 1.0
    formant: float = 1.0
    reverb: float = 0.0
    """Reverberation time in seconds."""
    tilt: float = 0.0
    """dB per octave about 1 kHz."""
    bumps: tuple[float, ...] = ()
    """dB at points evenly spaced in mel: the colour of a microphone and a room."""
    band: tuple[float, float] = (0.0, SAMPLE_RATE / 2)
    """Hz that the line lets through."""


def random_voice(rng: np.random.Generator) -> Voice:
    """A voice unlike the recorded one: men, women and children, near and far, over telephones."""
    telephone = rng.random() < 0.15
    return Voice(
        speed=float(np.exp(rng.uniform(np.log(0.8), np.log(1.3)))),
        pitch=float(np.exp(rng.uniform(np.log(0.75), np.log(2.2)))),
        formant=float(np.exp(rng.uniform(np.log(0.84), np.log(1.25)))),
        reverb=float(rng.uniform(0.1, 0.6)) if rng.random() < 0.4 else 0.0,
        tilt=float(rng.normal(0, 2.0)),
        bumps=tuple(rng.normal(0, 3.0, 8).tolist()),
        band=(float(rng.uniform(150, 350)), float(rng.uniform(3200, 4000)))
        if telephone
        else (0.0, SAMPLE_RATE / 2),
    )


def _reverberate(sound: FloatArray, seconds: float, rng: np.random.Generator) -> FloatArray:
    n = int(seconds * SAMPLE_RATE)
    response = rng.standard_normal(n) * np.exp(-6.9 * np.arange(n) / n)
    response *= rng.uniform(0.2, 0.8) / np.sqrt(np.square(response).sum())
    response[0] += 1  # the direct sound arrives at once: lips keep their time
    size = 1 << (len(sound) + n).bit_length()
    out = np.fft.irfft(np.fft.rfft(sound, size) * np.fft.rfft(response, size), size)[: len(sound)]
    return out.astype(np.float32)


def _stretch(spectrum: FloatArray, factor: float) -> FloatArray:
    """Values at f / factor for each bin f, along the last axis."""
    position = np.arange(_BINS) / factor
    left = np.minimum(position.astype(int), _BINS - 1)
    right = np.minimum(left + 1, _BINS - 1)
    share = (position - left).astype(np.float32)
    out = spectrum[..., left] * (1 - share) + spectrum[..., right] * share
    return np.where(position <= _BINS - 1, out, out[..., -1:])


def log_mel(sound: FloatArray, voice: Voice, rng: np.random.Generator) -> FloatArray:
    """Log-mel features (n, N_MELS) of `sound` (16 kHz) spoken as `voice`, on the grid of `audio.mel`; n =
    samples / HOP / speed."""
    if voice.reverb:
        sound = _reverberate(sound, voice.reverb, rng)
    n = int(len(sound) / HOP / voice.speed)
    ends = np.rint((np.arange(n) + 1) * HOP * voice.speed).astype(int)
    padded = np.concatenate([np.zeros(WINDOW, np.float32), sound, np.zeros(HOP, np.float32)])
    windows = padded[ends[:, None] + np.arange(WINDOW)] * _HANN
    power = (np.abs(np.fft.rfft(windows, N_FFT)) ** 2 * _SCALE).astype(np.float32)
    if voice.pitch != 1 or voice.formant != 1:
        logs = np.log(power + 1e-9)
        cepstrum = np.fft.irfft(logs, N_FFT)
        cepstrum[:, _ENVELOPE_QUEFRENCY : N_FFT - _ENVELOPE_QUEFRENCY + 1] = 0
        envelope = np.fft.rfft(cepstrum).real.astype(np.float32)
        power = np.exp(_stretch(envelope, voice.formant) + _stretch(logs - envelope, voice.pitch))
    frequency = np.linspace(0, SAMPLE_RATE / 2, _BINS)
    decibels = voice.tilt * np.log2((frequency + 100) / 1000)
    if voice.bumps:
        mel = np.log1p(frequency / 700)
        decibels += np.interp(mel, np.linspace(0, mel[-1], len(voice.bumps)), voice.bumps)
    low, high = voice.band
    decibels = decibels - np.where(frequency < low, 40, 0) - np.where(frequency > high, 70, 0)
    mels = (power * 10 ** (decibels / 10)).astype(np.float32) @ _FILTERS
    return np.log1p(mels / FLOOR).astype(np.float32)


def noise(rng: np.random.Generator, n: int) -> FloatArray:
    """Sound that is not speech, as log-mel (n, N_MELS) at about unit power: hiss, hum, clatter or
    music-like tones."""
    samples = n * HOP
    kind = rng.integers(5)
    time = np.arange(samples) / SAMPLE_RATE
    if kind <= 1:  # coloured noise, steady or in gusts
        spectrum = np.fft.rfft(rng.standard_normal(samples))
        frequency = np.fft.rfftfreq(samples, 1 / SAMPLE_RATE)
        sound = np.fft.irfft(spectrum * (frequency + 50) ** -rng.uniform(0, 1.2), samples)
        if kind == 1:
            gusts = np.interp(time, np.linspace(0, time[-1], 12), rng.uniform(-4, 1, 12))
            sound *= np.exp(gusts)
    elif kind == 2:  # hum
        base = rng.uniform(45, 130)
        sound = sum(
            rng.uniform(0, 1) / k * np.sin(2 * np.pi * base * k * time + rng.uniform(0, 6))
            for k in range(1, 9)
        )
        sound = np.asarray(sound) + 0.02 * rng.standard_normal(samples)
    elif kind == 3:  # clatter: short bursts
        sound = np.zeros(samples)
        for _ in range(int(rng.integers(3, 25))):
            start, length = int(rng.integers(samples)), int(rng.integers(80, 2400))
            burst = rng.standard_normal(length) * np.exp(-6 * np.arange(length) / length)
            if rng.random() < 0.5:
                burst *= np.sin(2 * np.pi * rng.uniform(300, 4000) * np.arange(length) / SAMPLE_RATE)
            end = min(samples, start + length)
            sound[start:end] += burst[: end - start] * rng.uniform(0.3, 2)
        sound += 0.003 * rng.standard_normal(samples)
    else:  # notes with harmonics, chords, a beat
        sound = np.zeros(samples)
        held = rng.random() < 0.4  # a flute or an organ rather than strings
        beat = rng.uniform(0.12, 0.6)
        for start in np.arange(0, time[-1], beat):
            for _ in range(int(rng.integers(1, 4))):
                pitch = 55 * 2 ** (rng.integers(0, 48) / 12)
                since = np.clip(time - start, 0, None)
                fade = (since < beat) if held else np.exp(-since * rng.uniform(1, 8))
                shape = np.where(time >= start, fade * np.minimum(since / 0.01, 1), 0)
                for k in range(1, int(rng.integers(2, 9))):
                    sound += shape * np.sin(2 * np.pi * pitch * k * time) / k ** rng.uniform(0.7, 2)
    sound = sound / (np.sqrt(np.mean(np.square(sound))) + 1e-9)
    return log_mel(sound.astype(np.float32), Voice(bumps=tuple(rng.normal(0, 4, 8).tolist())), rng)


def mix(*parts: tuple[FloatArray, float]) -> FloatArray:
    """Log-mel of a sum of sounds, each (features, gain in dB): powers add."""
    total = sum(np.expm1(features) * np.float32(10 ** (gain / 10)) for features, gain in parts)
    return np.log1p(total).astype(np.float32)


def resample_curve(values: FloatArray, speed: float, n: int) -> FloatArray:
    """Curve (T, ...) played at `speed`: n frames, linear in between."""
    position = np.clip(np.arange(n) * speed + (speed - 1) / 2, 0, len(values) - 1)
    left = position.astype(int)
    right = np.minimum(left + 1, len(values) - 1)
    share = (position - left).reshape(-1, *([1] * (values.ndim - 1)))
    return (values[left] * (1 - share) + values[right] * share).astype(np.float32)
