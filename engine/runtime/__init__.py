"""Where a network runs: one interface over OpenVINO (CPU) and, later, TensorRT (GPU)."""
