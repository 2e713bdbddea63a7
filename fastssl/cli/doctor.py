"""``fastssl doctor``: runs a script with patched libraries, and reports what ran fused, why not, and what it saves."""

from __future__ import annotations

import functools
import importlib.util
import runpy
import statistics
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from rich.table import Table
from torch import Tensor
from torch.utils import _pytree as pytree

from fastssl import compat
from fastssl._words import amount
from fastssl.cli.show import console, echo

FIRST, GROWTH = 64, 8  # rows of the first measurement; twice the rows take at most this many times as much
SECONDS, MEMORY = 10.0, 0.25  # limits of one call of the original: time, and share of the available memory
REPEATS = 3


@dataclass
class Observed:
    """Calls of a patched method.

    Args:
        method: the patched method.
        original: the library's.
        fused: number of calls that ran fused.
        reasons: number of other calls by reason.
        last: arguments of the last fused call.
    """

    method: Callable[..., Any]
    original: Callable[..., Any]
    fused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    last: tuple[tuple[Any, ...], dict[str, Any]] | None = None


@contextmanager
def observed(libraries: Sequence[str]) -> Iterator[dict[str, Observed]]:
    """Patches libraries, and records the calls of every patched class, by "library.Class"."""
    found: dict[str, Observed] = {}
    recorders: list[tuple[type, str, Any, Any]] = []
    for name in libraries:
        compat.patch(name)
        for owner, method, original, calls in compat.replaced(name):
            wrapper = vars(owner)[method]
            record = Observed(wrapper, original)
            found[f"{name}.{owner.__name__}"] = record
            recorder = _recorded(record, calls)
            recorders.append((owner, method, wrapper, recorder))
            setattr(owner, method, recorder)
    try:
        yield found
    finally:
        for owner, method, wrapper, recorder in recorders:
            if vars(owner).get(method) is recorder:
                setattr(owner, method, wrapper)
        for name in libraries:
            compat.unpatch(name)


def _recorded(record: Observed, calls: compat.Calls) -> Callable[..., Any]:
    @functools.wraps(record.method)
    def method(*args: Any, **kwargs: Any) -> Any:
        if torch.compiler.is_compiling():
            return record.method(*args, **kwargs)
        fused, reasons = calls.fused, calls.original.copy()
        try:
            return record.method(*args, **kwargs)
        finally:
            ran = calls.fused - fused
            record.fused += ran
            record.reasons += calls.original - reasons
            if ran:
                record.last = args, kwargs

    return method


def _now(args: Any) -> float:
    if any(isinstance(t, Tensor) and t.is_cuda for t in pytree.tree_leaves(args)):
        torch.cuda.synchronize()
    return time.perf_counter()


@dataclass(frozen=True)
class Saving:
    """Medians of a forward and backward pass on the last inputs.

    Args:
        rows: number of rows.
        whole: whether these are all of them.
        seconds: of the original and of the patched method.
        mebibytes: kept for the backward pass by both.
    """

    rows: int
    whole: bool
    seconds: tuple[float, float]
    mebibytes: tuple[float, float]


def saving(record: Observed) -> Saving | None:
    """Times the original against the patched method on the last inputs, on twice as many rows each time while the
    original stays within limits of time and memory; None if it cannot be called again."""
    assert record.last is not None
    (module, *args), kwargs = record.last
    leaves, tree = pytree.tree_flatten((args, kwargs))
    total = max((len(t) for t in leaves if isinstance(t, Tensor) and t.dim() == 2), default=0)
    available = MEMORY * _available()
    found, rows = None, min(FIRST, total)
    while total:
        results = []
        try:
            for method in (record.original, record.method):
                runs = [_run(method, module, leaves, tree, total, rows) for _ in range(REPEATS if rows < total else 5)]
                results.append((statistics.median(r[0] for r in runs), runs[-1][1]))
        except Exception:
            return found
        (a, kept), (b, ours) = results
        found = Saving(rows, rows == total, (a, b), (kept / 2**20, ours / 2**20))
        if rows == total or a * GROWTH > SECONDS or kept * GROWTH > available:
            return found
        rows = min(2 * rows, total)
    return found


def _available() -> float:
    if torch.cuda.is_available():
        return float(torch.cuda.mem_get_info()[0])
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return float(lines["MemAvailable"].split()[0]) * 1024


def _run(
    method: Callable[..., Any], module: Any, leaves: list[Any], tree: Any, total: int, rows: int
) -> tuple[float, int]:
    """Seconds, and bytes kept for the backward pass."""
    copies: dict[int, Tensor] = {}
    kept: dict[int, int] = {}

    def cut(t: Any) -> Any:
        if not isinstance(t, Tensor):
            return t
        if id(t) not in copies:
            part = t.detach()[:rows] if t.dim() and len(t) == total else t.detach()
            copies[id(t)] = part.clone().requires_grad_(t.requires_grad)
        return copies[id(t)]

    def keep(t: Tensor) -> Tensor:
        kept[t.untyped_storage().data_ptr()] = t.untyped_storage().nbytes()
        return t

    args, kwargs = pytree.tree_unflatten([cut(leaf) for leaf in leaves], tree)
    begin = _now(args)
    with torch.enable_grad(), torch.autograd.graph.saved_tensors_hooks(keep, lambda t: t):
        result = method(module, *args, **kwargs)
    values = [t for t in pytree.tree_leaves(getattr(result, "loss", result)) if isinstance(t, Tensor)]
    values = [t for t in values if t.requires_grad]
    if values:
        torch.autograd.backward([v.sum() for v in values])
    return _now(args) - begin, sum(kept.values())


def doctor(script: Path, arguments: Sequence[str], libraries: Sequence[str]) -> int:
    """Runs a script with patched libraries, prints the report, and returns the script's exit status."""
    if not script.is_file():
        raise FileNotFoundError(f"script: no such file: {script}")
    names, failed = _patchable([compat.known_library(name, "library") for name in libraries])
    if not names:
        raise ImportError(f"library: none can be patched: {'; '.join(failed.values()) or 'none is installed'}")
    with observed(names) as records:
        status = _run_script(script, arguments)
        _report(records)
    for message in failed.values():
        echo(f"not patched: {message}")
    return status


def _patchable(libraries: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    names, failed = [], {}
    for name in libraries or [peer for peer in compat.PEERS if importlib.util.find_spec(peer) is not None]:
        try:
            compat.patch(name)
        except ImportError as error:
            failed[name] = str(error).removeprefix("name: ")
        else:
            compat.unpatch(name)
            names.append(name)
    return names, failed


def _run_script(script: Path, arguments: Sequence[str]) -> int:
    before = sys.argv, sys.path[:]
    sys.argv, sys.path[0:0] = [str(script), *arguments], [str(script.resolve().parent)]
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return end.code or 0
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        echo("stopped")
        return 130
    except Exception:
        traceback.print_exc()
        return 1
    finally:
        sys.argv, sys.path[:] = before
    return 0


def _report(records: dict[str, Observed]) -> None:
    called = {name: r for name, r in records.items() if r.fused or r.reasons}
    if not called:
        echo("no loss of a patched library was called")
        return
    table = Table(title="fastssl doctor: forward + backward on the last inputs", title_justify="left")
    table.add_column("loss", overflow="fold")
    for title in ("fused", "original", "library", "patched", "kept MiB"):
        table.add_column(title, justify="right", no_wrap=True)
    notes: list[str] = []
    gained = 0.0
    library = ""
    for name, record in called.items():
        if library != name.split(".")[0]:
            library = name.split(".")[0]
            table.add_section()
            table.add_row(library)
        made = saving(record) if record.fused else None
        cells = [""] * 3
        if made is not None:
            cells = [*(f"{1e3 * s:,.2f} ms" for s in made.seconds), " -> ".join(f"{m:,.1f}" for m in made.mebibytes)]
            gained += record.fused * (made.seconds[0] - made.seconds[1]) if made.whole else 0
            if not made.whole:
                notes.append(
                    f"{name}: measured on the first {amount(made.rows, 'row')}; all would take the library too much"
                )
        elif record.fused:
            notes.append(f"{name}: not measured: the last call cannot be repeated")
        table.add_row(
            f"  {name.removeprefix(f'{library}.')}", f"{record.fused:,}", f"{sum(record.reasons.values()):,}", *cells
        )
        notes += [
            f"{name}: original code in {amount(n, 'call')}: {reason}" for reason, n in record.reasons.most_common()
        ]
    console.print(table)
    for note in notes:
        echo(note)
    if gained:
        echo(f"estimated time {'saved' if gained > 0 else 'lost'} in this run: {abs(gained):,.1f} s")
