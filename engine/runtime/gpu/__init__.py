"""Many sessions on one GPU: slots of batched arrays, kernels between engines on one stream.

`device` says what a device must do; `cuda` is the real one, `emulated` runs the same kernels' text and the same
networks on the CPU. Everything else here is host logic that knows no difference.
"""
