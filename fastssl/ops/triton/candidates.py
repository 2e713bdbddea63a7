"""Sizes of tiles worth trying for each kernel: what registers and shared memory of an architecture can hold."""

from __future__ import annotations

import torch

from fastssl.ops.triton.launch import Config

ARCHITECTURES = ("sm_80", "sm_90", "sm_100")
# Of one block, in bytes. sm_80's table serves every GPU from Ampere on that is none of the others: 99 KiB is the least.
SHARED = {"sm_80": 101_376, "sm_90": 232_448, "sm_100": 232_448}
KERNELS = (
    *("reduce", "gradient", "weights", "free_reduce", "free_gradient", "free_weights"),
    *("row_reduce", "row_gradient", "row_weights", "product", "histogram"),
)


def depths(kernel: str) -> tuple[int, ...]:
    if kernel.endswith("gradient"):
        return (64, 128, 256)
    return (64, 128, 256, 512) if kernel.endswith("reduce") else (512,)


def candidates(architecture: str, kernel: str, dtype: torch.dtype, depth: int) -> list[Config]:
    """Best guess first. Columns of a tile divide its rows (triangles need that)."""
    wide = dtype == torch.float32
    old = architecture == "sm_80"
    specialize = False  # sm_100's warp specialisation: off until it was measured (triton's issue 8311: wrong results)
    if kernel.startswith("free_"):
        plain = candidates(architecture, kernel.removeprefix("free_"), dtype, depth)
        step = plain[-1].BK
        return [
            *plain,
            Config(64, 64, step, 8, 2),
            Config(64, 32, step, 8, 2),
            Config(32, 32, step, 4, 2),
            Config(32, 16, step, 4, 2),
        ]
    if kernel.startswith("row_"):
        step = depth if kernel != "row_weights" and depth <= 256 else 32
        if wide and step >= 128:
            return [
                Config(32, 32, step, 8, 2),
                Config(32, 16, step, 4, 2),
                Config(16, 16, step, 4, 2),
                Config(16, 16, step, 8, 2),
            ]
        large = [] if old or wide else [Config(128, 64, step, 8, 2), Config(64, 64, step, 4, 2)]
        return [
            *large,
            Config(64, 64, step, 8, 2),
            Config(64, 32, step, 8, 2),
            Config(64, 32, step, 4, 2),
            Config(32, 32, step, 4, 2),
            Config(32, 16, step, 4, 2),
        ]
    if kernel == "histogram":
        return [Config(32, 32, 32, 4, 2), Config(64, 32, 32, 4, 2), Config(64, 64, 64, 4, 2), Config(128, 64, 64, 8, 2)]
    if kernel == "product":
        if wide:
            return [Config(64, 64, 32, 4, 3), Config(64, 64, 32, 8, 2), Config(32, 64, 32, 4, 2)]
        if old:
            return [Config(128, 128, 32, 8, 3), Config(128, 64, 32, 4, 3)]
        return [
            *((Config(128, 256, 64, 8, 3, specialize=True),) if specialize else ()),
            Config(128, 256, 64, 8, 4),
            Config(128, 256, 64, 8, 3),
            Config(128, 128, 64, 8, 4),
        ]
    if kernel == "weights":  # never resident: one tile a program
        step = 32 if wide else 64
        if wide:
            return [Config(64, 64, step, 8, 2), Config(64, 64, step, 4, 2), Config(32, 64, step, 4, 2)]
        if old:
            return [Config(128, 64, step, 8, 3), Config(64, 64, step, 4, 3)]
        return [
            Config(128, 256, step, 8, 4),
            Config(128, 256, step, 8, 3),
            Config(128, 128, step, 8, 4),
            Config(128, 64, step, 8, 3),
        ]
    if kernel == "reduce":
        if depth == 512:
            if wide:
                return [Config(64, 64, 32, 8, 3), Config(64, 64, 32, 4, 2), Config(64, 32, 32, 4, 2)]
            if old:
                return [Config(128, 128, 32, 8, 3), Config(128, 64, 64, 8, 3), Config(64, 64, 64, 4, 3)]
            return [
                Config(256, 128, 64, 8, 3),
                Config(128, 128, 64, 8, 4),
                Config(128, 128, 64, 8, 3),
                Config(128, 64, 64, 8, 3),
                Config(64, 64, 64, 4, 3),
            ]
        # exp is the bound of narrow rows: a share of it on the FMA units
        split = depth <= 128 and not wide
        if wide:
            return [
                Config(64, 64, depth, 8, 2),
                Config(64, 32, depth, 8, 2),
                Config(32, 32, depth, 4, 2),
                Config(32, 16, depth, 4, 2),
            ]
        if old:
            return [Config(128, 64, depth, 8, 3), Config(64, 64, depth, 4, 2), Config(64, 32, depth, 4, 2)]
        return [
            *((Config(128, 128, depth, 8, 3, split=True), Config(128, 64, depth, 8, 3, split=True)) if split else ()),
            Config(128, 128, depth, 8, 3),
            Config(128, 64, depth, 8, 3),
            Config(128, 64, depth, 8, 2),
            Config(64, 64, depth, 4, 2),
        ]
    if wide:
        return [
            Config(64, 32, depth, 8, 2),
            Config(32, 32, depth, 8, 2),
            Config(32, 32, depth, 4, 2),
            Config(16, 16, depth, 4, 2),
        ]
    if old:
        return [Config(64, 64, depth, 8, 2), Config(64, 32, depth, 8, 2), Config(64, 32, depth, 4, 2)]
    return [
        *(
            (Config(128, 128, depth, 8, 2, specialize=True), Config(128, 64, depth, 8, 3, specialize=True))
            if specialize
            else ()
        ),
        *((Config(128, 64, depth, 8, 2, split=True),) if depth <= 128 else ()),
        Config(128, 128, depth, 8, 2),
        Config(128, 64, depth, 8, 3),
        Config(128, 64, depth, 8, 2),
        Config(64, 64, depth, 8, 2),
        Config(64, 64, depth, 4, 2),
        Config(64, 32, depth, 4, 2),
    ]
