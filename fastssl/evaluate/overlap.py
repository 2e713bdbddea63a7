"""Texts that were written against references: BLEU and chrF (sacrebleu's), ROUGE-L."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple


class TextScores(NamedTuple):
    """Scores of texts against references, in percent.

    Args:
        bleu: BLEU of the corpus (Papineni et al. 2002).
        chrf: chrF2, an F-score of character n-grams (Popovic 2015).
        rouge_l: mean ROUGE-L (:func:`rouge_l`).
        signatures: sacrebleu's, of BLEU and of chrF: with the same signature, figures compare.

    Example:
        >>> from fastssl.evaluate import TextScores
        >>> TextScores(20.0, 45.0, 50.0, ("", "")).bleu
        20.0
    """

    bleu: float
    chrf: float
    rouge_l: float
    signatures: tuple[str, str]


def text_scores(predictions: Sequence[str], references: Sequence[str]) -> TextScores:
    """BLEU and chrF with the default settings of sacrebleu (Post 2018), and ROUGE-L.

    Args:
        predictions: the texts to score.
        references: one text each that they should be.

    Raises:
        ImportError: without the extra ``text``.
        ValueError: no texts, or unequally many.

    Example:
        >>> from fastssl.evaluate import text_scores
        >>> found = text_scores(["God created the heavens."], ["God created the heavens and the earth."])
        >>> round(found.rouge_l)
        73
    """
    _check(predictions, references)
    try:
        from sacrebleu.metrics import BLEU, CHRF
    except ImportError as error:
        raise ImportError("BLEU and chrF need the extra: pip install fastssl[text]") from error
    bleu, chrf = BLEU(), CHRF()
    scores = [metric.corpus_score(list(predictions), [list(references)]).score for metric in (bleu, chrf)]
    signatures = str(bleu.get_signature()), str(chrf.get_signature())
    return TextScores(scores[0], scores[1], rouge_l(predictions, references), signatures)


def rouge_l(predictions: Sequence[str], references: Sequence[str]) -> float:
    """Mean ROUGE-L (Lin 2004), in percent: F1 of the longest common subsequence of words, in lower case.

    .. math:: P = \\frac{LCS(x, y)}{|x|}, \\quad R = \\frac{LCS(x, y)}{|y|}, \\quad F = \\frac{2 P R}{P + R}

    Args:
        predictions: the texts to score.
        references: one text each that they should be.

    Raises:
        ValueError: no texts, or unequally many.

    Example:
        >>> from fastssl.evaluate import rouge_l
        >>> rouge_l(["the cat sat"], ["The cat, the mat."])
        57.14285714285714
    """
    _check(predictions, references)
    total = 0.0
    for x, y in zip(predictions, references):
        a, b = (re.findall(r"\w+", text.lower()) for text in (x, y))
        total += 2 * _common(a, b) / max(len(a) + len(b), 1)  # F is 2 LCS / (|x| + |y|)
    return 100 * total / len(predictions)


def _common(a: Sequence[str], b: Sequence[str]) -> int:
    """Length of the longest common subsequence."""
    row = [0] * (len(b) + 1)  # of the prefix of ``a`` and every prefix of ``b``
    for word in a:
        before = row
        row = [0]
        for k, other in enumerate(b):
            row.append(before[k] + 1 if word == other else max(row[k], before[k + 1]))
    return row[-1]


def _check(predictions: Sequence[str], references: Sequence[str]) -> None:
    for name, texts in (("predictions", predictions), ("references", references)):
        if isinstance(texts, str):
            raise TypeError(f"{name}: expected a list of texts, got one text")
    if not len(predictions) or len(predictions) != len(references):
        raise ValueError(
            f"references: expected one for each prediction, at least one, got {len(references)} for {len(predictions)}"
        )
