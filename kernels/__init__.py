"""visavis.kernels: CUDA kernels, their CPU twins and the thin Python face over both."""
