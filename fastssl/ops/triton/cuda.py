"""The compiled CUDA kernels."""


def reason() -> str:
    return "to come"
