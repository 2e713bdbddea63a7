"""The GPU backend: what launches the Triton kernels of ``fastssl.kernels`` and the CUDA kernels of csrc/cuda/."""
