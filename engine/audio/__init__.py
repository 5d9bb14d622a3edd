"""Sound on its way in: checking, resampling, log-mel features and voice activity, all block by block."""
