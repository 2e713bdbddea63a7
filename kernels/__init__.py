"""Triton kernels (installed as ``fastssl.kernels``). None in this version: the GPU backends follow."""
