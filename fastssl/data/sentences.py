"""Sentences of a text, by rules."""

from __future__ import annotations

import re

# Before a period they end no sentence: titles, and what is followed by a name or a number.
ABBREVIATIONS = frozenset({
    "mr", "mrs", "ms", "dr", "prof", "rev", "hon", "gen", "col", "maj", "capt", "lt", "sgt", "gov", "sen", "rep",
    "pres", "st", "mt", "messrs", "jr", "sr", "no", "nos", "vol", "vols", "art", "sec", "secs", "fig", "figs", "pp",
    "cf", "vs", "viz", "al", "e.g", "i.e", "etc", "inc", "ltd", "co", "corp", "u.s", "u.n", "d.c", "a.m", "p.m",
    "jan", "feb", "mar", "apr", "jun", "jul", "aug", "sept", "sep", "oct", "nov", "dec",
})  # fmt: skip
_OPENING, _CLOSING = "\"'\u201c\u2018([\u00ab\u00bf\u00a1\u2014-", "\"'\u201d\u2019)]\u00bb"
# A full stop, what closes behind it, white space, and what may begin a sentence.
# Full stops and question marks of Arabic, Urdu and Devanagari among them.
# Or a full-width mark, behind which no space stands.
_END = re.compile(
    rf"[.!?…\u061f\u06d4\u0964\u0965]+[{re.escape(_CLOSING)}]*\s+(?=[{re.escape(_OPENING)}]*[^\W_a-zß-öø-ÿ])"
    rf"|[\u3002\uff01\uff1f]+[\u300d\u300f\uff09{re.escape(_CLOSING)}]*"
)
_LAST_WORD = re.compile(rf"[^\s{re.escape(_OPENING)}]+$")


def sentences(text: str) -> list[str]:
    """Splits a text into sentences.

    A sentence ends at a line break, and after ``.``, ``!``, ``?`` or ``…`` (with the quotes and brackets that close
    behind it) if white space and then a capital letter, a digit or a letter without case follows. A period after an
    abbreviation (``ABBREVIATIONS``: "Mr.", "U.S.", "No.") or a single capital letter ("John F. Kennedy") ends none.
    So do the question mark of Arabic, the full stop of Urdu and the dandas of Hindi; the full-width marks of Chinese
    and Japanese end one without white space.
    Texts whose lines are wrapped should be unwrapped first.

    Args:
        text: a document.

    Returns:
        Sentences without surrounding white space; empty for a text of white space.

    Example:
        >>> from fastssl.data import sentences
        >>> sentences("Mr. Polk spoke. “Why?” He did not say.")
        ['Mr. Polk spoke.', '“Why?”', 'He did not say.']
    """
    found = []
    for line in text.splitlines():
        begin = 0
        for match in _END.finditer(line):
            if not _abbreviates(line, match.start()):
                found.append(line[begin : match.end()].strip())
                begin = match.end()
        rest = line[begin:].strip()
        if rest:
            found.append(rest)
    return found


def _abbreviates(line: str, stop: int) -> bool:
    """Whether what stands before the mark at ``stop`` is an abbreviation, and the mark its period."""
    if line[stop] != "." or line[stop + 1 : stop + 2] in (".", "!", "?"):
        return False
    word = _LAST_WORD.search(line, max(0, stop - 16), stop)
    if word is None:
        return False
    last = word.group()
    return (len(last) == 1 and last.isupper() and last != "I") or last.lower() in ABBREVIATIONS
