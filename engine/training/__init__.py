"""Data, training and export of the networks; needs the [train] extra."""
