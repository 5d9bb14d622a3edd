"""The one clock: 25 frames a second, 16 kHz inside, 48 kHz out. Frame k covers samples 640k to 640k+639."""

from __future__ import annotations

FPS = 25
SAMPLE_RATE = 16_000
"""Rate in Hz of the audio that the networks hear."""
SAMPLES_PER_FRAME = SAMPLE_RATE // FPS  # 640
PLAYBACK_RATE = 48_000
"""Rate in Hz of the audio that leaves with the frames."""
PLAYBACK_SAMPLES_PER_FRAME = PLAYBACK_RATE // FPS  # 1920
