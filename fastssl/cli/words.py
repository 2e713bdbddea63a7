"""Word vectors on the command line: pretrain word2vec, nearest, evaluate."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastssl.cli.generation import check_kinds, parse_settings
from fastssl.cli.show import PLAIN_SECONDS, console, echo, item_progress

# Options of ``fastssl pretrain`` that word2vec takes.
OPTIONS = {"method", "data", "epochs", "minutes", "out", "resume", "overwrite", "lr", "seed", "set_", "on_error"}


def settings_of(given: list[str], **own: Any) -> dict[str, Any]:
    """Keyword arguments of ``Word2Vec``: ``NAME=VALUE``, whose values are JSON or else strings, and what is not None.

    Raises:
        ValueError: no such setting, or none at all.
    """
    import inspect

    from fastssl.methods import Word2Vec

    known = [name for name in inspect.signature(Word2Vec).parameters if name not in own]
    found = {name: value for name, value in own.items() if value is not None}
    for name, value in parse_settings(given).items():
        if name not in known:
            raise ValueError(f"set: expected NAME=VALUE with a name of {', '.join(known)}, got {name!r}")
        found[name] = value
    check_kinds(inspect.signature(Word2Vec).parameters, found)
    return found


def pretrain_words(
    data: str | None,
    out: Path,
    settings: dict[str, Any],
    minutes: float | None,
    state: dict[str, Any] | None,
    *,
    resume: bool,
    overwrite: bool,
) -> None:
    """Trains word vectors with progress; ``state``: of the checkpoint to resume, whose data and settings are taken
    where none are given."""
    from fastssl.cli.evaluation import data_of
    from fastssl.methods import Word2Vec
    from fastssl.models.folder import holds_run
    from fastssl.train.resuming import check_given

    if state is not None:
        check_given(state, {"method": Word2Vec.name})
        data, settings = data or data_of(state), {**state["options"], **settings}
    data = data or "sotu"
    method = Word2Vec(**settings)
    echo(repr(method))
    try:
        with item_progress(f"{data}: documents counted") as count, word_progress(data) as show:
            vectors = method.fit(
                data, minutes=minutes, out=out, resume=resume, overwrite=overwrite, on_step=show, on_count=count
            )
    except KeyboardInterrupt:
        if holds_run(out):
            echo(f"stopped; checkpoint in {out / 'checkpoint'}; continue with --resume")
        raise
    losses = [f"{loss:.3f}" for loss in method.history]
    shown = losses if len(losses) <= 10 else [*losses[:5], "...", *losses[-5:]]
    echo(f"{vectors!r}, loss per epoch: {', '.join(shown)}")
    echo(f"checkpoint: {out / 'checkpoint'}\nnext: fastssl nearest {out} {vectors.words[min(100, len(vectors) - 1)]}")


@contextmanager
def word_progress(name: str) -> Iterator[Any]:
    """Yields what shows a :class:`WordProgress`: a progress bar on a terminal, else a line every 30 seconds."""
    last = time.monotonic()

    def lines(p: Any) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last < PLAIN_SECONDS and p.words < p.total:
            return
        last = now
        echo(
            f"{name}: {p.words:,} of {p.total:,} words, loss {p.loss:.3f}, {p.rate / 1e3:,.0f} k words/s, "
            f"{p.seconds_left:.0f} seconds left"
        )

    if not (console.is_terminal or console.is_jupyter):
        yield lines
        return
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    columns = (
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("loss {task.fields[loss]:.3f}  {task.fields[rate]:,.0f} k words/s"),
        TimeElapsedColumn(),
        TextColumn("left"),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(name, total=None, loss=float("nan"), rate=0.0)
        yield lambda p: progress.update(task, completed=p.words, total=p.total, loss=p.loss, rate=p.rate / 1e3)


def nearest_words(run: Path, words: list[str], minus: list[str], k: int) -> list[tuple[str, float]]:
    """The words nearest to the mean of some, less that of others.

    Raises:
        ValueError: no such run, or an unknown word.
    """
    from fastssl.methods import load_word_vectors
    from fastssl.models import UnknownWordError

    vectors = load_word_vectors(run)
    try:
        return vectors.most_similar(words, k, negative=minus)
    except UnknownWordError as error:
        raise ValueError(str(error)) from error


def export_words(run: Path, to: str | None, out: Path | None) -> Path:
    """Writes the vectors of a run as a file of word2vec: text, or float32 bytes if the name ends in ``.bin``.

    Raises:
        ValueError: another format, no file to write to, or a word that the files cannot hold.
    """
    from fastssl.methods import load_word_vectors

    if to not in (None, "word2vec"):
        raise ValueError(f"to: expected word2vec for word vectors, got {to!r}")
    if run.is_file() and out is None:
        raise ValueError("out: expected a file to write the vectors to (--out)")
    vectors, path = load_word_vectors(run), out or run / "word2vec.txt"
    vectors.save(path)
    return path


def is_word_run(path: Path) -> bool:
    """Whether a path is a run of word2vec, or a file of vectors."""
    from fastssl.models.folder import STATE, find_checkpoint

    if path.is_file():
        return True
    try:
        return bool(json.loads((find_checkpoint(path) / STATE).read_text()).get("method") == "word2vec")
    except ValueError:
        return False


def evaluate_words(run: Path, data: str | None) -> dict[str, Any]:
    """The table of a run: similarities and analogies of the files named in ``data``, and classes of glosses.

    Raises:
        ValueError: data that is neither "glosses" nor a file of pairs or analogies.
    """
    from fastssl.data.opening import names_of
    from fastssl.evaluate import gloss_classes, word_analogies, word_similarity
    from fastssl.evaluate.words import holds_analogies
    from fastssl.methods import load_word_vectors
    from fastssl.models.folder import load_state

    vectors = load_word_vectors(run)
    table: dict[str, Any] = {}
    for name in names_of(data or "glosses"):
        if name == "glosses":
            trained = "" if run.is_file() else str(load_state(run)["source"]["where"])
            if "glosses" in names_of(trained):
                echo("trained on all glosses: the held-out ones were seen, without labels (glosses-train)", "yellow")
            table |= gloss_classes(vectors, note=echo)
            continue
        path = Path(name)
        if not path.is_file():
            raise ValueError(f"data: expected glosses, or files of word pairs or analogies, no file {name!r}")
        if holds_analogies(path):
            for method in ("3cosadd", "3cosmul"):
                for section, value in word_analogies(vectors, path, method=method).items():
                    table.setdefault(f"{path.stem}: {section}", {})[method] = value
        else:
            for measure, value in word_similarity(vectors, path).items():
                table[f"{path.stem}: {measure}"] = {"word vectors": value}
    return table
