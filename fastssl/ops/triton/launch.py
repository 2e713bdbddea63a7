"""Launching Triton kernels: whether they can run, on what sizes of tiles, and how rows are handed to them."""

from __future__ import annotations

import contextlib
import functools
import json
import struct
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from fastssl.ops.gpu import INTERPRETING
from fastssl.ops.types import least_length

ALIGNMENT = 16  # bytes, of what the copy engine reads: the first element and the step from row to row
MAX_ROWS = 2**31 - 2**16
# The block of gradient rows that a program keeps: up to this many features in registers.
WIDEST_RESIDENT = 256
WIDE = 512  # the depth under which the table has tiles that are read in steps
INTERPRETED_PROCESSORS = 3  # so that the interpreter goes through several splits


@functools.cache
def _table() -> dict[str, dict[str, Any]]:
    import fastssl.kernels

    path = Path(str(fastssl.kernels.__file__)).parent / "configs.json"
    if not path.exists():  # while they are chosen for the first time
        return {}
    table: dict[str, dict[str, Any]] = json.loads(path.read_text())["configs"]
    return table


@dataclass(frozen=True)
class Config:
    """Sizes of tiles (rows of A, rows of B, features a step) and how a program runs them."""

    BM: int
    BN: int
    BK: int
    num_warps: int
    num_stages: int
    specialize: bool = False  # warps that copy apart from warps that compute
    split: bool = False  # every other exponential by polynomial
    name: str = ""  # the key under which they were found

    def smaller(self) -> Config | None:
        """What takes less shared memory and fewer registers; columns still divide rows."""
        if self.num_stages > 1:
            return replace(self, num_stages=self.num_stages - 1)
        if max(self.BM, self.BN) == 16:
            return None
        if self.BN >= self.BM:
            return replace(self, BN=self.BN // 2)
        return replace(self, BM=self.BM // 2)


def bucket(d: int) -> int:
    """The depth for which tiles were chosen: 64, 128, 256, or 512 for all that is read in steps."""
    return next((b for b in (64, 128, WIDEST_RESIDENT) if d <= b), WIDE)


def key(architecture: str, kernel: str, dtype: torch.dtype, depth: int) -> str:
    bits = 32 if dtype == torch.float32 else 16
    return f"{architecture}/{kernel}/{bits}/{depth}"


@functools.cache
def architecture(index: int) -> str:
    """The architecture whose table a device uses: the newest that it can run."""
    major, _ = torch.cuda.get_device_capability(index)
    if major in (10, 11):
        return "sm_100"
    return "sm_90" if major == 9 else "sm_80"  # 12: Blackwell without tensor memory


class Observer:
    """Told of launches on the meta device instead of a GPU: to compile what would be launched, and count its bytes.

    Args:
        architecture: whose tiles are asked for.
        processors: how many that GPU has.
        tiles: in place of the table, by key.
    """

    def __init__(self, architecture: str, processors: int, tiles: dict[str, Config] | None = None) -> None:
        self.architecture, self.processors, self.tiles = architecture, processors, tiles or {}

    def launch(self, kernel: Any, grid: Sequence[Any], arguments: tuple[Any, ...], constants: dict[str, Any]) -> None:
        pass

    def __enter__(self) -> Observer:
        global _observer
        _observer = self
        return self

    def __exit__(self, *_: object) -> None:
        global _observer
        _observer = None


_observer: Observer | None = None


def config(kernel: str, x: Tensor, d: int) -> Config:
    depth = bucket(d)
    if _observer is not None:
        name = key(_observer.architecture, kernel, x.dtype, depth)
        return _observer.tiles.get(name) or _tabled(name, key(_observer.architecture, kernel, x.dtype, WIDE))
    if x.device.type != "cuda":  # interpreted
        resident = max(16, 1 << (d - 1).bit_length()) if depth <= WIDEST_RESIDENT else 16  # (WIDE: in steps)
        return Config(16, 16, resident, 4, 1, split=kernel == "reduce")
    name = key(architecture(x.device.index or 0), kernel, x.dtype, depth)
    chosen = CHOSEN.get(name)
    if chosen is None:
        chosen = CHOSEN[name] = _tabled(name, key(architecture(x.device.index or 0), kernel, x.dtype, WIDE))
    return chosen


# The tiles that a GPU has used, by key: the table's, or smaller ones where those did not fit it.
CHOSEN: dict[str, Config] = {}


class TooLarge(Exception):
    """Tiles did not fit this GPU; there are smaller ones now."""


def with_smaller_tiles(function: Callable[..., Any]) -> Callable[..., Any]:
    """Calls a function that launches kernels until its tiles fit."""

    @functools.wraps(function)
    def call(*arguments: Any) -> Any:
        while True:
            try:
                return function(*arguments)
            except TooLarge:
                continue

    return call


def _tabled(name: str, otherwise: str) -> Config:
    """Tiles that hold rows of this depth whole, or where there are none those that read them in steps."""
    return Config(**(_table().get(name) or _table()[otherwise]), name=name)


def has_config(kernel: str, x: Tensor, d: int) -> bool:
    """Whether an architecture can keep rows of this depth (in fp32 some cannot)."""
    if _observer is None and x.device.type != "cuda":
        return True
    name = key(_observer.architecture if _observer else architecture(x.device.index or 0), kernel, x.dtype, bucket(d))
    return name in (_observer.tiles if _observer else {}) or name in _table()


def processors(device: torch.device) -> int:
    if device.type != "cuda":
        return _observer.processors if _observer is not None else INTERPRETED_PROCESSORS
    return _processors_of(device)


@functools.cache
def _processors_of(device: torch.device) -> int:
    return int(torch.cuda.get_device_properties(device).multi_processor_count)


def copies_add(out: Tensor) -> bool:
    """Whether the copy engine can add to these rows: from Hopper on, rows of whole 16 bytes."""
    if out.stride(0) * out.element_size() % ALIGNMENT or out.storage_offset() * out.element_size() % ALIGNMENT:
        return False
    if _observer is not None:
        return _observer.architecture != "sm_80"
    return out.device.type == "cuda" and architecture(out.device.index or 0) != "sm_80"


def precision(dtype: torch.dtype, narrow: bool) -> str:
    """How products of fp32 are made: six of bf16, three pieces of each number, which keep fp32's digits (three of tf32
    err twice as much at the same speed), unless torch was told to save or the digits are few (``Side.narrow``)."""
    if dtype != torch.float32 or narrow:
        return "tf32"
    # (torch.get_float32_matmul_precision raises where the newer setting was used.)
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else _exact()


@functools.cache
def _exact() -> str:
    from triton.backends.nvidia.compiler import CUDAOptions

    if INTERPRETING:  # which makes all products in fp32, and does not know the name
        return "tf32x3"
    return "bf16x6" if "bf16x6" in CUDAOptions.allowed_dot_input_precisions else "tf32x3"


def _scratch(size: int, alignment: int, stream: int | None) -> Tensor:
    """Memory for a kernel's descriptors, which goes back after the launch: that of a CUDA graph is its own."""
    return torch.empty(size, dtype=torch.int8, device="cuda")


def use_scratch() -> None:
    """For the launches of this thread: autograd has its own."""
    import triton

    triton.set_allocator(_scratch)


recording = threading.local()  # .recorder: what is told of this thread's launches (fastssl/ops/triton/replay.py)

_compiled: dict[tuple[Any, ...], tuple[Any, tuple[Any, ...]]] = {}


def _traits(argument: Any) -> Any:
    """All that a compiled kernel may depend on."""
    if argument is None:
        return None
    if isinstance(argument, Tensor):
        return argument.dtype, argument.data_ptr() % ALIGNMENT
    if isinstance(argument, int):
        return (argument == 1) + 2 * (argument % 16 == 0) + 4 * (argument >= 2**31)
    return float


def _launch(kernel: Any, grid: Any, arguments: tuple[Any, ...], constants: dict[str, Any], device: int) -> Any:
    """Triton's own look-up of the compiled kernel takes longer than most of these kernels run: ours comes first.
    Returns the compiled kernel and its last arguments."""
    key = (kernel, device, *constants.values(), *map(_traits, arguments))
    found = _compiled.get(key)
    if found is None:
        compiled = kernel[grid](*arguments, **constants)
        found = _compiled[key] = compiled, tuple(constants[name] for name in kernel.arg_names[len(arguments) :])
        return found
    launch_compiled(found, grid, torch._C._cuda_getCurrentRawStream(device), arguments)
    return found


def launch_compiled(found: Any, grid: Sequence[Any], stream: int, arguments: Sequence[Any]) -> None:
    """Launches what :func:`_launch` found, on a stream of the current device."""
    compiled, tail = found
    head = (*grid, stream, compiled.function, compiled.packed_metadata, None, None, None)
    compiled.run(*head, *arguments, *tail)


def current_device(index: int) -> contextlib.AbstractContextManager[Any]:
    """Within it a device is the current one."""
    return contextlib.nullcontext() if index == torch._C._cuda_getDevice() else torch.cuda.device(index)


def run(kernel: Any, grid: Sequence[Any], *arguments: Any, config: Config | None = None, **constants: Any) -> None:
    """Launches a kernel on the current stream; nothing waits for it."""
    constants["enable_fp_fusion"] = True  # tiles were chosen for it; newer versions of Triton default to False
    if config is not None:
        constants |= {"num_warps": config.num_warps, "num_stages": config.num_stages}
    if any(isinstance(g, int) and g == 0 for g in grid):
        return
    if _observer is not None:
        _observer.launch(kernel, grid, arguments, constants)
        return
    recorder = getattr(recording, "recorder", None)
    if recorder is None:
        _run(kernel, grid, arguments, config, constants)
        return
    with recorder.pause():
        found = _run(kernel, grid, arguments, config, constants)
    recorder.launched(kernel, grid, arguments, constants, found)


def _run(kernel: Any, grid: Sequence[Any], arguments: tuple[Any, ...], config: Config | None, constants: Any) -> Any:
    """The compiled kernel and its last arguments."""
    import triton
    from triton.runtime.errors import PTXASError

    if INTERPRETING:
        kernel[tuple(grid)](*arguments, **constants)
        return None
    device = next(t for t in arguments if isinstance(t, Tensor)).device
    use_scratch()
    try:
        with current_device(device.index):
            return _launch(kernel, whole_grid(grid), arguments, constants, device.index)
    except (triton.OutOfResources, PTXASError, RuntimeError) as error:
        compiler = not isinstance(error, RuntimeError) or "PassManager" in str(error)
        smaller = None if config is None or not compiler else config.smaller()
        if smaller is None:
            raise
        CHOSEN[smaller.name] = smaller
        raise TooLarge from error


def whole_grid(grid: Sequence[Any]) -> tuple[Any, ...]:
    return (*grid, 1, 1)[:3]


def _mend_interpreter() -> None:
    """Triton's interpreter holds bf16 as bits, multiplies the bits, and truncates fp32 to them: products of bf16 are
    made in fp32 instead, and fp32 is rounded to the nearest, as GPUs do. Numbers are fp32, as in compiled kernels."""
    import numpy as np
    import triton.language as tl
    from triton.runtime import interpreter
    from triton.runtime.interpreter import InterpreterBuilder, TensorHandle

    dot, cast = InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl

    def widened(t: Any) -> Any:
        if t.dtype.scalar != tl.bfloat16:
            return t
        bits = np.ascontiguousarray(t.data).view(np.uint16).astype(np.uint32) << 16
        return TensorHandle(bits.view(np.float32), tl.float32)

    def create_dot(self: Any, a: Any, b: Any, d: Any, *rest: Any) -> Any:
        if a.dtype.scalar != b.dtype.scalar:  # as the compiler says
            raise TypeError(f"both operands must be of the same dtype, got {a.dtype} and {b.dtype}")
        return dot(self, widened(a), widened(b), d, *rest)

    def cast_impl(self: Any, source: Any, to: Any) -> Any:
        if source.dtype.scalar == tl.bfloat16 and to.scalar == tl.float32:
            return widened(source)
        if source.dtype.scalar == tl.float32 and to.scalar == tl.bfloat16:
            values = np.ascontiguousarray(source.data)
            bits = values.view(np.uint32)
            rounded = (bits + 0x7FFF + ((bits >> 16) & 1)) >> 16
            rounded = np.where(np.isnan(values), 0x7FC0, rounded).astype(np.uint16)
            return TensorHandle(rounded, tl.bfloat16)
        return cast(self, source, to)

    convert = interpreter._implicit_cvt

    def converted(value: Any) -> Any:
        if isinstance(value, float):
            return tl.tensor(TensorHandle(np.array([value], dtype=np.float32), tl.float32), tl.float32)
        return convert(value)

    interpreter._implicit_cvt = converted
    InterpreterBuilder.create_dot, InterpreterBuilder.cast_impl = create_dot, cast_impl
    for name in ("create_fp_trunc", "create_fp_ext"):
        setattr(InterpreterBuilder, name, cast_impl)


if INTERPRETING:
    _mend_interpreter()


def cdiv(a: Any, b: int) -> Any:
    return (a + b - 1) // b


def packed(x: Tensor) -> Tensor:
    """Rows as the copy engine reads them: features side by side, rows 16 bytes apart or a multiple. A copy only where
    they are not."""
    size = x.element_size()
    unit = ALIGNMENT // size
    if x.stride(1) == 1 and x.stride(0) % unit == 0 and x.stride(0) >= x.shape[1] and x.data_ptr() % ALIGNMENT == 0:
        return x
    return _packed_like(x).copy_(x)


def _packed_like(x: Tensor) -> Tensor:
    unit = ALIGNMENT // x.element_size()
    n, d = x.shape
    return torch.empty((n, cdiv(d, unit) * unit), dtype=x.dtype, device=x.device)[:, :d]


@dataclass(frozen=True)
class Side:
    """Rows of one side of a pair matrix: ``factor`` 1 / length where they are normalised in the tile, ``square`` their
    squared lengths where distances need them; ``unit`` 1 / length where the rows are normalised already; ``narrow``:
    fp16 as fp32, whose digits tf32 holds; ``least``: what lengths are at least taken for, 0 without normalisation."""

    rows: Tensor
    factor: Tensor | None
    square: Tensor | None
    unit: Tensor | None = None
    narrow: bool = False
    least: float = 0.0

    @property
    def n(self) -> int:
        return self.rows.shape[0]

    @property
    def d(self) -> int:
        return self.rows.shape[1]

    @property
    def stride(self) -> int:
        return self.rows.stride(0)


@functools.lru_cache
def _as_float32(value: float) -> float:
    """A number as a kernel compares with it."""
    return float(struct.unpack("f", struct.pack("f", value))[0])


def side(x: Tensor, normalize: float, squares: bool, gradient: bool = False) -> Side:
    """fp32 rows are normalised once, which costs a copy of them and saves every score two roundings.

    16-bit rows stay as they are, since their products are exact: their scores are multiplied by the lengths. For a
    ``gradient`` fp16 becomes fp32: weights of pairs fall below fp16's range.
    """
    from fastssl.kernels.ends import lengths_kernel

    narrow = gradient and x.dtype == torch.float16
    copied = normalize and x.dtype == torch.float32
    rows = x if copied else packed(x.float() if narrow else x)
    if not normalize and not squares:
        return Side(rows, None, None, None, narrow)
    n, d = x.shape
    least = _as_float32(least_length(normalize, x.dtype))  # as the kernels see it
    factor = torch.empty((n,), dtype=torch.float32, device=x.device) if normalize else None
    square = torch.empty((n,), dtype=torch.float32, device=x.device) if squares else None
    unit = _packed_like(x) if copied else None
    run(
        lengths_kernel,
        (cdiv(n, 16),),
        *(rows, factor, square, unit, n, d, rows.stride(0), rows.stride(1), unit.stride(0) if unit is not None else 0),
        LEAST=least,
        BLOCK=16,
        CHUNK=64,
    )
    if unit is not None:
        return Side(unit, None, square, factor, least=least)
    return Side(rows, factor, square, None, narrow, least)
