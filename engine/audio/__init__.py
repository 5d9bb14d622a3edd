"""Sound in: resampling, log-mel stream, voice activity."""
