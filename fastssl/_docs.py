"""Docstrings that are whole at run time: what arguments of many functions mean is written once.

A docstring says what is its own; :func:`complete` adds the arguments it leaves out, in the order of the signature, and
the usual results, errors and examples, when the package is imported.
"""

from __future__ import annotations

import inspect
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

_SECTIONS = ("Args", "Inputs", "Returns", "Raises", "Example", "Source")
_HEADING = re.compile(rf"\n(?=(?:{'|'.join(_SECTIONS)}):)")


def entries(texts: Mapping[str, str]) -> dict[str, str]:
    """Names and their texts as lines of a section."""
    lines = {name: f"    {name}: {text}" for name, text in texts.items()}
    wrap = textwrap.TextWrapper(112, subsequent_indent=" " * 8)
    return {name: line if len(line) <= 112 else wrap.fill(line) for name, line in lines.items()}


@dataclass
class Docstring:
    """A docstring by its sections, each with its text as it stands; arguments and errors by their names."""

    text: str  # the summary, the formula, remarks
    entries: dict[str, dict[str, str]] = field(default_factory=dict)  # of "Args", "Inputs" and "Raises"
    bodies: dict[str, str] = field(default_factory=dict)  # of the others

    @classmethod
    def parse(cls, docstring: str) -> Docstring:
        text, *sections = _HEADING.split("\n" + inspect.cleandoc(docstring))
        result = cls(text.strip())
        for section in sections:
            name, _, body = section.rstrip().partition(":")
            if name in ("Args", "Inputs", "Raises"):
                entries = re.split(r"\n(?= {4}\w)", body.lstrip("\n"))
                result.entries[name] = {entry.split(":")[0].strip(): entry for entry in entries}
            else:
                result.bodies[name] = body
        return result

    def __str__(self) -> str:
        parts = [self.text]
        for name in _SECTIONS:
            if self.entries.get(name):
                parts.append("\n".join([f"{name}:", *self.entries[name].values()]))
            elif name in self.bodies:
                parts.append(f"{name}:{self.bodies[name]}")
        return "\n\n".join(parts) + "\n"


def parameters(documented: Callable[..., Any]) -> tuple[str, ...]:
    """The names in a signature: quicker than :func:`inspect.signature`, as this runs when the package is imported."""
    method = isinstance(documented, type)
    code = inspect.unwrap(documented.__init__ if method else documented).__code__
    starred = bool(code.co_flags & inspect.CO_VARARGS) + bool(code.co_flags & inspect.CO_VARKEYWORDS)
    return code.co_varnames[int(method) : code.co_argcount + code.co_kwonlyargcount + starred]


def complete(
    documented: Iterable[Callable[..., Any]],
    arguments: Mapping[str, str],
    errors: Mapping[str, str],
    *,
    returns: Callable[[Docstring], str] | None = None,
    example: Callable[[Any], str] | None = None,
) -> None:
    """Adds to each docstring what it leaves out.

    Args:
        documented: functions and classes.
        arguments: lines by their names, of :func:`entries`.
        errors: the same for exceptions.
        returns: makes the section "Returns" of a docstring; None: left out.
        example: makes the section "Example" of a function or class; None: left out.
    """
    if sys.flags.optimize > 1:  # no docstrings, but those that dataclasses make
        return
    for each in documented:
        doc = Docstring.parse(each.__doc__ or "")
        own = doc.entries.get("Args", {})
        known = {**arguments, **own}
        if undescribed := [name for name in parameters(each) if name not in known]:
            raise TypeError(f"{each.__name__}: expected a description of {', '.join(undescribed)} under Args")
        doc.entries["Args"] = {name: known[name] for name in parameters(each)}
        doc.entries["Raises"] = {**errors, **doc.entries.get("Raises", {})}
        if returns is not None and "Returns" not in doc.bodies:
            doc.bodies["Returns"] = returns(doc)
        if example is not None and "Example" not in doc.bodies:
            doc.bodies["Example"] = example(each)
        each.__doc__ = str(doc)
