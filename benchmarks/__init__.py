"""visavis.benchmarks: what is measured, each a command whose last line is JSON."""
