"""Docstrings that are whole at run time: what arguments of many losses mean is written once, here.

A docstring says what is its own: the formula, the arguments that no other loss has, the example and the paper.
:func:`complete` adds the arguments it leaves out, in the order of the signature, and the usual results and errors.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

_FLOATS = "float32, float64, bfloat16 or float16 (computed in fp32), any strides"
_BY_DEFAULT = {
    "embeddings": f"[N, D], {_FLOATS}.",
    "labels": "[N], integers; rows with equal labels are positives of each other.",
    "z0": f"[N, D], the first view of each example, {_FLOATS}.",
    "z1": "[N, D], the second view; row i of both views is the same example.",
    "x": f"[N, D], {_FLOATS}.",
    "y": "[M, D]; None: x itself.",
    "image_features": f"[N, D], {_FLOATS}.",
    "text_features": "[N, D]; row i belongs to image i.",
    "logit_scale": "s, the factor itself and not its logarithm; a number or a tensor of one element.",
    "weight": "[C, D], one centre per class.",
    "proxies": "[C, D], one per class.",
    "center": "[K], a running mean of the teacher's logits.",
    "temperature": "tau > 0; a number or a tensor of one element, which receives a gradient.",
    "scale": "s > 0, the inverse of a temperature.",
    "normalize": "divide each row by its Euclidean norm first.",
    "reduction": '"mean" | "sum" | "none".',
    "indices_tuple": "only these pairs, as miners return them: (anchors, positives, anchors, negatives) or (anchors, "
    "positives, negatives); a pair that is listed twice counts once.",
    "ref_emb": "[M, D]: rows to compare with instead of ``embeddings``, such as a memory of past batches; None: "
    "``embeddings``, each row without itself.",
    "ref_labels": "[M], integers: the labels of ``ref_emb``.",
    "metric": "as :func:`pairwise_distance`.",
    "backend": '"reference" | "cpu" | "triton"; None: by device and dtype.',
    "group": '"world", a ProcessGroup or one dimension of a DeviceMesh: the loss of the rows of all its processes, of '
    "which each passes its own (:func:`fastssl.distributed.sharded` says what the gradients are); None: of these rows "
    "alone.",
    "schedule": 'with ``group``: "all_gather" | "ring" | "auto", by the memory budget.',
    # of modules
    "learnable": "learn the temperature, as its logarithm ``log_temperature``, from ``temperature`` on.",
    "num_classes": "C, the number of classes.",
    "embedding_size": "D, the number of features per row.",
}
_ERRORS = {
    "TypeError": "an argument of the wrong type or dtype.",
    "ValueError": "wrong shape, device or length, a value out of range, or an unknown option.",
}
_SECTIONS = ("Args", "Inputs", "Returns", "Raises", "Example", "Source")
_HEADING = re.compile(rf"\n(?=(?:{'|'.join(_SECTIONS)}):)")


def _entry(name: str, text: str) -> str:
    return textwrap.fill(f"{name}: {text}", 112, initial_indent="    ", subsequent_indent=" " * 8)


ARGUMENTS = {name: _entry(name, text) for name, text in _BY_DEFAULT.items()}
ERRORS = {name: _entry(name, text) for name, text in _ERRORS.items()}


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


def parameters(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names in a signature: quicker than :func:`inspect.signature`, as this runs when the package is imported."""
    code = inspect.unwrap(function).__code__
    return code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]


def complete(functions: Iterable[Callable[..., Any]]) -> None:
    """Adds to each docstring the arguments, results and errors that it leaves out."""
    for function in functions:
        if function.__doc__ is None:  # python -OO
            continue
        doc = Docstring.parse(function.__doc__)
        own = doc.entries.get("Args", {})
        doc.entries["Args"] = {name: own.get(name) or ARGUMENTS[name] for name in parameters(function)}
        each = ', or [N] for "none"' if '"none"' in doc.entries["Args"].get("reduction", "") else ""
        doc.bodies.setdefault("Returns", f"\n    A scalar{each}; float64 for float64 inputs, else float32.")
        doc.entries["Raises"] = ERRORS | doc.entries.get("Raises", {})
        function.__doc__ = str(doc)
