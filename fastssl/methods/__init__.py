"""Methods by name. One file a method: views, networks, loss, and nothing else."""

from __future__ import annotations

from fastssl.methods.simclr import SimCLR

METHODS = {"simclr": SimCLR}


def get(name: str) -> type[SimCLR]:
    """Returns the class of a method.

    Raises:
        ValueError: unknown name.
    """
    if name not in METHODS:
        raise ValueError(f"method: expected one of {sorted(METHODS)}, got {name!r}")
    return METHODS[name]


__all__ = ["METHODS", "SimCLR", "get"]
