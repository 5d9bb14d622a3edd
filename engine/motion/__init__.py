"""Stage 1: speech becomes motion."""
