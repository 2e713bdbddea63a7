"""The tasks of GLUE, read from their unpacked folders, with their metrics."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from fastssl.data.corpus import Corpus, utf8
from fastssl.data.embedded_text import ParallelCorpus


class GlueTask(NamedTuple):
    """How a task of GLUE is stored, and what it is judged by.

    Args:
        texts: names of the columns of texts; numbers where the files have no heading.
        label: name or number of the column of labels.
        metrics: names of ``fastssl.evaluate.METRICS``, the first of which selects.
        classes: the labels, in the order of their numbers; (): scores.
        test: the file with labels that is not trained on.
    """

    texts: tuple[str | int, ...]
    label: str | int
    metrics: tuple[str, ...]
    classes: tuple[str, ...] = ("0", "1")
    test: str = "dev.tsv"


_ENTAILMENT = ("not_entailment", "entailment")
GLUE = {
    "cola": GlueTask((3,), 1, ("Matthews",)),
    "sst-2": GlueTask(("sentence",), "label", ("top-1",)),
    "mrpc": GlueTask(("#1 String", "#2 String"), "Quality", ("F1", "top-1")),
    "sts-b": GlueTask(("sentence1", "sentence2"), "score", ("Spearman", "Pearson"), ()),
    "qqp": GlueTask(("question1", "question2"), "is_duplicate", ("F1", "top-1")),
    "mnli": GlueTask(
        ("sentence1", "sentence2"),
        "gold_label",
        ("top-1",),
        ("contradiction", "neutral", "entailment"),
        "dev_matched.tsv",
    ),
    "qnli": GlueTask(("question", "sentence"), "label", ("top-1",), _ENTAILMENT),
    "rte": GlueTask(("sentence1", "sentence2"), "label", ("top-1",), _ENTAILMENT),
    "wnli": GlueTask(("sentence1", "sentence2"), "label", ("top-1",)),
}


def glue_task(folder: str | Path) -> GlueTask:
    """The task that a folder is named after: CoLA, SST-2, MRPC, STS-B, QQP, MNLI, QNLI, RTE or WNLI.

    Raises:
        ValueError: another name.
    """
    name = Path(folder).expanduser().resolve().name.lower()
    if name not in GLUE:
        raise ValueError(f"glue: expected a folder named {', '.join(GLUE)}, got {str(folder)!r}")
    return GLUE[name]


def glue(folder: str | Path, part: str = "train") -> Corpus:
    """A task of GLUE (Wang et al. 2019): sentences with labels, or pairs of them (a :class:`ParallelCorpus`).

    Args:
        folder: the unpacked folder of the task, named after it (``CoLA``, ``MRPC``, ...), with ``train.tsv`` and
            ``dev.tsv`` (MNLI: ``dev_matched.tsv``).
        part: "train", or "test": the development set, as the labels of the test set are not public.

    Returns:
        A corpus whose labels are classes, or floats for STS-B. Lines without all columns are counted in ``skipped``
        (some of QQP).

    Raises:
        FileNotFoundError: no such file.
        ValueError: a folder with another name, a heading without the columns, or a label that is none.

    Example:
        >>> import tempfile
        >>> from pathlib import Path
        >>> from fastssl.data import glue
        >>> folder = Path(tempfile.mkdtemp()) / "SST-2"
        >>> folder.mkdir()
        >>> _ = (folder / "train.tsv").write_text("sentence\\tlabel\\na gem\\t1\\na bore\\t0\\n")
        >>> glue(folder).labels.tolist()
        [1, 0]
    """
    task, path = glue_task(folder), Path(folder).expanduser()
    path = path / ("train.tsv" if part == "train" else task.test)
    if not path.is_file():
        raise FileNotFoundError(f"glue: expected {path.name} in {str(path.parent)!r}")
    lines = utf8(str(path)).split("\n")
    lines = [line.rstrip("\r") for line in lines if line.strip()]
    columns = [*task.texts, task.label]
    if any(isinstance(column, str) for column in columns):
        heading, lines = (lines[0].split("\t") if lines else []), lines[1:]
        missing = [column for column in columns if column not in heading]
        if missing:
            raise ValueError(f"{path}: expected columns {missing}, got {heading}")
        places, first = [heading.index(column) for column in columns], 2  # type: ignore[arg-type]
    else:
        places, first = [int(column) for column in columns], 1
    texts: list[list[str]] = [[] for _ in task.texts]
    labels: list[float] = []
    short = 0
    for number, line in enumerate(lines, first):
        fields = line.split("\t")
        if len(fields) <= max(places):
            short += 1
            continue
        labels.append(_label(fields[places[-1]], task.classes, f"{path}: line {number}"))
        for side, place in zip(texts, places):
            side.append(fields[place])
    name = path.parent.resolve().name
    own = np.array(labels, dtype=np.float64 if not task.classes else np.int64)
    corpus = Corpus(texts[0], name, labels=own, classes=task.classes, language="en")
    if len(texts) > 1:
        corpus = ParallelCorpus(corpus, Corpus(texts[1], name, language="en"))
    if short:
        corpus.skipped = {"lines without all columns": short}
    return corpus


def _label(text: str, classes: Sequence[str], where: str) -> float:
    if classes:
        if text not in classes:
            raise ValueError(f"{where}: expected a label of {', '.join(classes)}, got {text!r}")
        return classes.index(text)
    try:
        return float(text)
    except ValueError as error:
        raise ValueError(f"{where}: expected a score, got {text!r}") from error
