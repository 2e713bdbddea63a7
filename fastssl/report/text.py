"""Renders the report of language runs: nearest words, masked words, generated texts, scores and curves."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from fastssl._version import __version__
from fastssl.bench.run import write_atomically
from fastssl.data.corruption import IGNORED
from fastssl.data.windows import Windows
from fastssl.methods import TextMethod
from fastssl.models import WordVectors
from fastssl.models.modes import evaluation_mode
from fastssl.report import figures
from fastssl.report.html import template

Line = list[dict[str, Any]]  # of the tokens of a text
QUERIES = ("president", "war", "tax", "river", "physician", "king")
ANALOGIES = (("man", "king", "woman"), ("father", "mother", "son"), ("one", "two", "three"))  # a is to b as c is to ?
NEAREST, WINDOWS = 6, 4


def nearest_words(vectors: WordVectors) -> dict[str, Any]:
    """The nearest words of some words, and answers to analogies, as far as the vectors know them."""
    queries = {word: vectors.most_similar(word, NEAREST) for word in QUERIES if word in vectors}
    asked = [words for words in ANALOGIES if all(word in vectors for word in words)]
    answers = [{"words": words, "answers": vectors.analogy(*words, 3)} for words in asked]
    return {"queries": queries, "analogies": answers}


@torch.no_grad()
def masked_words(
    method: TextMethod, windows: Windows, count: int = WINDOWS, seed: int = 0
) -> list[list[dict[str, Any]]]:
    """Some windows as lists of tokens: ``text``, ``joined`` (continues a word), and of those that were to be predicted
    ``predicted``, ``right`` and ``shown`` (the input)."""
    ids = np.linspace(0, len(windows) - 1, min(count, len(windows))).astype(np.int64)
    batch = method.examples(windows.items(ids), seed, 0, ids)
    with evaluation_mode(method):
        rows, _ = method.rows(method.hidden(batch), batch.targets)
        weight, bias = method.network.head()
        scores = rows @ weight.T if bias is None else rows @ weight.T + bias
    predicted = torch.full_like(batch.targets, IGNORED)
    predicted[batch.targets != IGNORED] = scores.argmax(1)
    t = method.tokenizer
    shown = []
    for tokens, targets, guesses in zip(batch.tokens.tolist(), batch.targets.tolist(), predicted.tolist()):
        line = []
        for token, target, guess in zip(tokens, targets, guesses):
            if token in (t.pad, t.cls, t.sep):
                continue
            name = t.text_of(token if target == IGNORED else target)
            entry = {"text": name.removeprefix("##"), "joined": name.startswith("##")}
            if target != IGNORED:
                entry |= {"predicted": t.text_of(guess), "right": guess == target, "shown": t.text_of(token)}
            line.append(entry)
        shown.append(line)
    return shown


def write_text_report(out: Path, report: dict[str, Any]) -> Path:
    """Writes ``report.html`` to ``out`` and returns its path.

    Raises:
        ImportError: the extra is missing: ``pip install fastssl[report]``.
    """
    curve = figures.learning_curve(report["training"], "nats per predicted token")
    page = template("text.html").render(version=__version__, report=report, machine=report["machine"], curve=curve)
    path = out / "report.html"
    write_atomically(path, page)
    return path
