"""Stage 2: motion and avatar to frame."""
