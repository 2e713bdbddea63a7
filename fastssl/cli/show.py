"""Output of the commands: messages, progress and tables, without interpretation of markup."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from fastssl._words import amount

console = Console(markup=False, highlight=False)
SHOWN = ("knn", "linear", "knn_r2", "linear_r2")  # of what is measured during training
FEW = 8  # items whose sizes are read before training
PLAIN_SECONDS = 30  # between two lines of progress without a terminal


def echo(text: str, style: str = "") -> None:
    """Prints a message without wrapping it."""
    console.print(Text(text, style), soft_wrap=True)


def check_file(path: Path | None, name: str = "out") -> None:
    """Checks that a file can be written to a path, before what it is to hold is computed and torch is imported.

    Raises:
        ValueError: there is a folder.
    """
    if path is not None and path.is_dir():
        raise ValueError(f"{name}: expected a file, {str(path)!r} is a folder")


class _Plain:
    """Progress of a run as lines of a log: the first step, one every 30 seconds, and the last."""

    def __init__(self, name: str) -> None:
        self.name, self.last = name, -PLAIN_SECONDS - 1.0

    def __call__(self, p: Any) -> None:
        now = time.monotonic()
        if now - self.last < PLAIN_SECONDS and p.step != p.total_steps:
            return
        self.last = now
        total = p.total_steps if p.epochs else "?"
        left = f", {p.seconds_left / 60:.1f} minutes left" if p.epochs else ""
        echo(
            f"{self.name}: step {p.step}/{total}, loss {p.loss:.3f}, {p.rate:.0f} {p.unit}/s, "
            f"{100 * p.waiting:.0f} % waiting for data{_probed(p)}{left}"
        )


def _probed(p: Any) -> str:
    text = "".join(f", {name} {p.measured[name]:.1f}" for name in SHOWN if name in p.measured)
    return text + (f", {p.skipped} unreadable" if p.skipped else "")


@contextmanager
def _progress(name: str) -> Iterator[Any]:
    """Yields a function that shows the progress of a run: a progress bar on a terminal, else log lines."""
    if not (console.is_terminal or console.is_jupyter):
        yield _Plain(name)
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps"),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TextColumn("{task.fields[rate]:.0f} {task.fields[unit]}/s{task.fields[probed]}"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=None, loss=float("nan"), rate=0.0, unit="items", probed="")

        def show(p: Any) -> None:
            total = p.total_steps if p.epochs else None
            more = {"loss": p.loss, "rate": p.rate, "unit": p.unit, "probed": _probed(p)}
            progress.update(task, completed=p.step, total=total, **more)

        yield show


@contextmanager
def item_progress(name: str) -> Iterator[Callable[..., None]]:
    """Yields a function of (done, total=None) that shows the progress of a pass over data: a progress bar on a
    terminal, else a log line every 30 seconds."""
    if not (console.is_terminal or console.is_jupyter):
        began = last = time.monotonic()

        def lines(done: int, total: int | None = None) -> None:
            nonlocal last
            now = time.monotonic()
            if now - last < PLAIN_SECONDS or not done:
                return
            last = now
            rate = done / (now - began)
            left = "" if total is None else f" of {total:,}"
            more = "" if total is None else f", {rate:.1f}/s, {(total - done) / rate / 60:.1f} minutes left"
            echo(f"{name}: {done:,}{left}{more}")

        yield lines
        return
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task(name, total=None)
        yield lambda done, total=None: progress.update(task, completed=done, total=total)


def open_data(data: str, **options: Any) -> Any:
    """:func:`fastssl.data.open` with progress of the files or shards found."""
    from fastssl.data import open as open_source

    with item_progress(f"{data}: files found") as show:
        return open_source(data, progress=show, **options)


def open_training(data: str, kind: Any, **options: Any) -> Any:
    """The data that a method trains on: all, or the training split (``Method.held_out``)."""
    from fastssl.train.run import training_split

    return training_split(data, **options) if kind.held_out else open_data(data, **options)


def run_pretraining(model: Any, source: Any, options: Any, out: Path, **more: Any) -> None:
    """Pretrains with progress; ``more``: arguments of ``pretrain``."""
    from fastssl.models.folder import holds_run
    from fastssl.train import is_rank_zero, pretrain

    try:
        with _progress(source.name) as show:
            pretrain(model, source, options, out=out, on_step=show, **more)
    except KeyboardInterrupt:
        if is_rank_zero() and holds_run(out):
            echo(f"stopped; checkpoint in {out / 'checkpoint'}; continue with --resume")
        raise


def describe_source(source: Any) -> str:
    """One line: number of items and classes, sizes of a few images, files that were left out."""
    from fastssl.data import Corpus, TokenFile

    texts = isinstance(source, (Corpus, TokenFile))
    parts = [f"{source.name}: {amount(len(source), 'document' if texts else 'item')}"]
    if isinstance(source, TokenFile):
        parts.append(f"{amount(source.total, 'token')}")
    if len(source.classes):
        parts.append(f"{amount(len(source.classes), 'class')}")
    from fastssl.data.summary import sizes_of
    from fastssl.data.value_range import described_range

    sizes = [] if texts else sizes_of(source, FEW)
    if sizes:
        (low, high), (least, most) = ((min(side), max(side)) for side in zip(*sizes))
        parts.append(
            f"{low} x {least}"
            + (f" to {high} x {most} pixels in a sample" if (low, least) != (high, most) else " pixels")
        )
    if (columns := getattr(source, "columns", None)) is not None:
        parts.append(str(columns))
    if source.value_range is not None:
        parts.append(described_range(source.value_range))
    left = ", ".join(f"{count:,} {why}" for why, count in source.skipped.items())
    return ", ".join(parts) + (f" (left out: {left})" if left else "")


def note_part(source: Any, data: str) -> None:
    """Says which part of the data a source is, where it has two."""
    if source.part is not None:
        echo(f"{data} has two parts, of which this is {source.part} (--part)", "yellow")


def _figure(value: float) -> str:
    """A value with two digits behind the point, or of one below 0.1, such as a mean absolute error, two that count;
    a count as it is."""
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.2g}" if 0 < abs(value) < 0.1 else f"{value:.2f}"


def print_measures(table: dict[str, Any]) -> None:
    """Prints tables with one row per measure and one column per encoder; measures of other columns are another table,
    where they have but one in common."""
    groups: list[tuple[list[str], list[str]]] = []
    for measure, values in table.items():
        if not isinstance(values, dict) or measure.endswith(("_std", "_se")):
            continue
        if groups and (len(set(groups[-1][1]) & set(values)) > 1 or set(groups[-1][1]) == set(values)):
            groups[-1][0].append(measure)
            groups[-1][1].extend(column for column in values if column not in groups[-1][1])
        else:
            groups.append(([measure], list(values)))
    for measures, columns in groups:
        shown = Table("", *columns)
        for measure in measures:
            spread = table.get(measure + "_std") or table.get(measure + "_se") or {}
            cells = [
                _figure(table[measure][c]) + (f" ± {_figure(spread[c])}" if c in spread else "")
                if c in table[measure]
                else "-"
                for c in columns
            ]
            shown.add_row(measure, *cells)
        console.print(shown)
