"""Word vectors against judgements of people, analogies, and classes of glosses."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from fastssl.data.corpus import utf8
from fastssl.data.embedded_text import glosses
from fastssl.data.words import words_of
from fastssl.evaluate.text_labels import balanced
from fastssl.models import WordVectors

_QUESTIONS = 512  # analogies at a time
_COMMON = 1e-3  # relative frequency from which on words count less in a mean


def word_similarity(vectors: WordVectors, path: str | Path) -> dict[str, float]:
    """Spearman's correlation of cosines with judged similarities, such as WordSim-353 and SimLex-999.

    Args:
        vectors: the vectors.
        path: a file of lines "word, word, score", separated by tabs, commas or spaces; lines with ``#`` and a heading
            are skipped. Words are taken in lower case if they are not known as they are.

    Returns:
        "rho" in percent over the pairs whose words are known, "pairs" (how many) and "unknown" (pairs left out).

    Raises:
        ValueError: a line without two words and a score, or fewer than two known pairs.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from fastssl.evaluate import word_similarity
        >>> from fastssl.models import WordVectors
        >>> vectors = WordVectors(["king", "man", "queen", "woman"], torch.tensor([[2., 1], [0, 1], [2, -1], [0, -1]]))
        >>> path = Path(tempfile.mkdtemp()) / "pairs.tsv"
        >>> _ = path.write_text("king\\tqueen\\t8.5\\nking\\twoman\\t3\\nking\\tprince\\t9\\n")
        >>> found = word_similarity(vectors, path)
        >>> round(found["rho"]), found["unknown"]
        (100, 1)
    """
    judged, rows, unknown = [], [], 0
    for place, (number, fields) in enumerate(_lines(path)):
        score = _number(fields[2]) if len(fields) > 2 else None
        if score is None:
            if place == 0:
                continue  # a heading
            raise ValueError(f"{path}: line {number}: expected two words and a score, got {fields}")
        pair = [_known(vectors, word) for word in fields[:2]]
        if None in pair:
            unknown += 1
            continue
        judged.append(score)
        rows.append(pair)
    if len(rows) < 2:
        raise ValueError(f"{path}: expected pairs of known words, got {len(rows)} of {len(rows) + unknown}")
    if len(set(judged)) < 2:
        raise ValueError(f"{path}: expected scores that differ, got {judged[0]:g} for all of {len(judged)} pairs")
    from scipy.stats import spearmanr

    a, b = vectors.unit[torch.tensor(rows).T]
    rho = float(spearmanr(judged, (a * b).sum(1).numpy()).statistic)
    return {"rho": 100 * rho, "pairs": len(rows), "unknown": unknown}


def word_analogies(vectors: WordVectors, path: str | Path, *, method: str = "3cosadd") -> dict[str, float]:
    """Accuracy on analogies: "Athens Greece Baghdad Iraq" is right if Iraq is the nearest word but for the other three.

    Args:
        vectors: the vectors.
        path: a file of four words per line, in sections that begin with ``: name`` (``questions-words.txt``).
        method: "3cosadd" or "3cosmul", see :meth:`WordVectors.analogy`.

    Returns:
        Percent right for "all", and for each section ("section all" where one has such a name); "asked" and "unknown":
        questions with and without known words.

    Raises:
        ValueError: a line of other than four words, or no question whose words are known.

    Example:
        >>> import tempfile, torch
        >>> from pathlib import Path
        >>> from fastssl.evaluate import word_analogies
        >>> from fastssl.models import WordVectors
        >>> vectors = WordVectors(["king", "man", "queen", "woman"], torch.tensor([[2., 1], [0, 1], [2, -1], [0, -1]]))
        >>> path = Path(tempfile.mkdtemp()) / "questions.txt"
        >>> _ = path.write_text(": family\\nman king woman queen\\n")
        >>> word_analogies(vectors, path)["family"]
        100.0
    """
    section, unknown = "without a heading", 0
    asked: list[tuple[str, list[int]]] = []
    for number, fields in _lines(path):
        if fields[0] == ":":
            section = " ".join(fields[1:])
            section = f"section {section}" if section in ("all", "asked", "unknown") else section
            continue
        if len(fields) != 4:
            raise ValueError(f"{path}: line {number}: expected four words, got {fields}")
        known = [_known(vectors, word) for word in fields]
        if None in known:
            unknown += 1
        else:
            asked.append((section, known))  # type: ignore[arg-type]
    if not asked:
        raise ValueError(f"{path}: expected questions of known words, got none of {unknown}")
    right: list[bool] = []
    for begin in range(0, len(asked), _QUESTIONS):
        rows = torch.tensor([row for _, row in asked[begin : begin + _QUESTIONS]])
        scores = vectors.analogy_scores(rows[:, :3], method)
        scores.scatter_(1, rows[:, :3], -torch.inf)
        right += (scores.argmax(1) == rows[:, 3]).tolist()
    table = {"all": 100 * float(np.mean(right))}
    for name in dict.fromkeys(name for name, _ in asked):
        table[name] = 100 * float(np.mean([r for r, (section, _) in zip(right, asked) if section == name]))
    return table | {"asked": len(asked), "unknown": unknown}


def holds_analogies(path: str | Path) -> bool:
    """Whether a file has sections or lines of four words, as of :func:`word_analogies`, instead of judged pairs.

    The second line decides where there is no section, as the first one may be a heading.
    """
    lines = [fields for _, fields in islice(_lines(path), 2)]
    return any(fields[0] == ":" for fields in lines) or (
        bool(lines) and len(lines[-1]) == 4 and _number(lines[-1][2]) is None
    )


def _number(text: str) -> float | None:
    """A finite number; None: the text is none."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _lines(path: str | Path) -> Iterator[tuple[int, list[str]]]:
    for number, line in enumerate(utf8(str(path)).splitlines(), 1):
        if line.strip() and not line.startswith("#"):
            separator = "\t" if "\t" in line else "," if "," in line else None
            yield number, [field.strip() for field in line.split(separator)]


def _known(vectors: WordVectors, word: str) -> int | None:
    return vectors.index.get(word, vectors.index.get(word.lower()))


def mean_vectors(vectors: WordVectors, texts: Sequence[str]) -> Tensor:
    """Texts as weighted means of word vectors, where a word of relative frequency p weighs a / (a + p), a = 0.001.

    Args:
        vectors: the vectors; without ``counts`` all words weigh the same.
        texts: texts; words without a vector do not count, and a text of no others is zero.

    Returns:
        [N, D] of unit length.

    Example:
        >>> import torch
        >>> from fastssl.evaluate import mean_vectors
        >>> from fastssl.models import WordVectors
        >>> mean_vectors(WordVectors(["a", "rose"], torch.eye(2)), ["A rose is a rose.", ""]).shape
        torch.Size([2, 2])

    Source: Arora et al., A Simple but Tough-to-Beat Baseline for Sentence Embeddings, 2017 (without the principal
    component).
    """
    weights = torch.ones(len(vectors))
    if vectors.counts is not None:
        share = torch.from_numpy(vectors.counts / vectors.counts.sum()).float()
        weights = _COMMON / (_COMMON + share)
    weighted = vectors.unit * weights[:, None]
    sums = torch.zeros(len(texts), vectors.vectors.shape[1])
    for row, text in enumerate(texts):
        known = [vectors.index[word] for word in words_of(text) if word in vectors.index]
        if known:
            sums[row] = weighted[known].sum(0)
    return torch.nn.functional.normalize(sums, dim=1)


def gloss_classes(
    vectors: WordVectors,
    labels_per_class: Sequence[int] = (10, 50),
    *,
    seeds: int = 3,
    note: Callable[[str], None] = lambda _: None,
) -> dict[str, dict[str, float]]:
    """Classes of WordNet's glosses from few labels: the weighted mean of word vectors beside TF-IDF and random vectors.

    A logistic regression, whose regularisation is chosen by cross-validation among its labels, predicts which of the 26
    classes of nouns each of 4,000 held-out glosses belongs to. Vectors should not be trained on the held-out glosses:
    ``glosses-train`` leaves them out.

    Args:
        vectors: the vectors.
        labels_per_class: numbers of labels per class.
        seeds: draws of the labels, over which accuracies are averaged.
        note: called with progress messages.

    Returns:
        Measure -> row -> accuracy in percent; with ``_std`` the deviation over the seeds.
    """
    from sklearn.feature_extraction.text import TfidfVectorizer

    nouns = glosses("nouns")
    test = np.isin(nouns.names, glosses("test").names)
    texts, labels = list(nouns.texts), nouns.labels
    assert labels is not None
    rng = np.random.default_rng(0)
    noise = WordVectors(vectors.words, rng.normal(size=tuple(vectors.vectors.shape)).astype(np.float32), vectors.counts)
    table: dict[str, dict[str, float]] = {}
    for count in labels_per_class:
        found: dict[str, list[float]] = {}
        for seed in range(seeds):
            chosen = balanced(labels, np.flatnonzero(~test), count, seed)
            asked = np.flatnonzero(test)
            few, others = [texts[k] for k in chosen], [texts[k] for k in asked]
            counted = TfidfVectorizer(sublinear_tf=True)
            rows: dict[str, tuple[Any, Any]] = {
                "word vectors": (mean_vectors(vectors, few).numpy(), mean_vectors(vectors, others).numpy()),
                "TF-IDF": (counted.fit_transform(few), counted.transform(others)),
                "random vectors": (mean_vectors(noise, few).numpy(), mean_vectors(noise, others).numpy()),
            }
            for name, (x, y) in rows.items():
                found.setdefault(name, []).append(_accuracy(x, labels[chosen], y, labels[asked]))
            note(f"glosses, {count} labels per class, draw {seed + 1} of {seeds}")
        measure = f"glosses_{count}_labels"
        table[measure] = {name: float(np.mean(values)) for name, values in found.items()}
        table[measure + "_std"] = {name: float(np.std(values)) for name, values in found.items()}
    return table


def _accuracy(x: Any, labels: np.ndarray, y: Any, wanted: np.ndarray) -> float:
    from sklearn.linear_model import LogisticRegression
    from sklearn.model_selection import GridSearchCV

    search = GridSearchCV(LogisticRegression(max_iter=300), {"C": [1.0, 10.0, 100.0]}, cv=3)
    return 100 * float((search.fit(x, labels).predict(y) == wanted).mean())
