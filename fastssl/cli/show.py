"""What the commands show: live progress and tables."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

console = Console()


def run_pretraining(
    model: Any,
    images: Any,
    options: Any,
    out: Path,
    encoder_options: dict[str, Any],
    resume: bool,
    method_options: dict[str, Any] | None = None,
) -> None:
    """Pretrains with a live line of progress; Ctrl-C leaves a checkpoint."""
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    from fastssl.train import pretrain as train

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed}/{task.total} steps"),
        TextColumn("loss {task.fields[loss]:.3f}"),
        TextColumn("{task.fields[rate]:.0f} images/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(images.name, total=None, loss=float("nan"), rate=0.0)

        def show(p: Any) -> None:
            progress.update(
                task, completed=p.step, total=p.total_steps if p.epochs else None, loss=p.loss, rate=p.images_per_second
            )

        try:
            train(
                model,
                images,
                options,
                out=out,
                encoder_options=encoder_options,
                method_options=method_options,
                resume=resume,
                on_step=show,
            )
        except KeyboardInterrupt:
            console.print(f"stopped; checkpoint in {out / 'checkpoint'}; continue with --resume")
            raise


def print_measures(table: dict[str, Any]) -> None:
    rows = [k for k, v in table.items() if isinstance(v, dict) and not k.endswith("_std")]
    columns = list(dict.fromkeys(c for r in rows for c in table[r]))
    shown = Table("", *columns)
    for measure in rows:
        spread = table.get(measure + "_std", {})
        cells = [
            f"{table[measure][c]:.2f}" + (f" ± {spread[c]:.1f}" if c in spread else "") if c in table[measure] else "-"
            for c in columns
        ]
        shown.add_row(measure, *cells)
    console.print(shown)
