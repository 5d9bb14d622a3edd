"""Stage 1: speech to motion."""
