"""Words of what is printed."""

from __future__ import annotations


def amount(number: int, noun: str) -> str:
    """A number of things, with the noun in the singular or plural.

    Example:
        >>> from fastssl._words import amount
        >>> amount(1, "query"), amount(2304, "query"), amount(0, "class"), amount(3, "labelled item")
        ('1 query', '2,304 queries', '0 classes', '3 labelled items')
    """
    if number == 1:
        return f"1 {noun}"
    if noun.endswith("y") and noun[-2] not in "aeiou":
        return f"{number:,} {noun[:-1]}ies"
    return f"{number:,} {noun}{'es' if noun.endswith('s') else 's'}"


def between(least: int, most: int) -> str:
    """A range of counts, or the one count that it is.

    Example:
        >>> from fastssl._words import between
        >>> between(90, 1590), between(40, 40)
        ('90 to 1,590', '40')
    """
    return f"{least:,}" if least == most else f"{least:,} to {most:,}"
