"""The names of the training and the test part of data: of folders, files and Hugging Face splits."""

from __future__ import annotations

from collections.abc import Callable, Collection

from fastssl.data.columns import find_column
from fastssl.data.source import Source

PARTS = {"train": ("train", "training"), "test": ("test", "dev", "validation", "valid", "val")}
OF_IMAGES = "val"  # whose test part has no labels, as ImageNet's


def find_part(names: Collection[str], part: str, before: str = "test", any_case: bool = True) -> str | None:
    """The name of a part: of exactly a known name, else in another case; None: there is none.

    Args:
        names: the names that there are.
        part: "train" or "test".
        before: the name that goes before all others, where there are several.
        any_case: accept names in another case.

    Example:
        >>> from fastssl.data.parts import find_part
        >>> find_part(["Train", "Val", "Test"], "test"), find_part(["train", "val", "test"], "test", before="val")
        ('Test', 'val')
    """
    return next(iter(_find_parts(names, part, before, any_case)), None)


def find_labelled(
    names: Collection[str], part: str, source_of: Callable[[str], Source], before: str = "test"
) -> str | None:
    """The name of a part (:func:`find_part`); of several parts to test on the first with labels, if the training part
    has some: that of GLUE is "dev" or "validation", as the labels of its "test" are not public.

    Args:
        names, part, before: as of :func:`find_part`.
        source_of: opens the part of a name.
    """
    found = _find_parts(names, part, before)
    train = find_part(names, "train", before)
    if part == "train" or len(found) < 2 or train is None or not _has_labels(source_of(train)):
        return next(iter(found), None)
    return next((name for name in found if _has_labels(source_of(name))), found[0])


def _find_parts(names: Collection[str], part: str, before: str, any_case: bool = True) -> list[str]:
    wanted = sorted(PARTS[part], key=lambda name: name != before)
    exact = [name for name in wanted if name in names]
    if exact or not any_case:
        return exact
    return list(dict.fromkeys(filter(None, (find_column(names, name) for name in wanted))))


def _has_labels(source: Source) -> bool:
    labels = source.labels
    return labels is not None and bool((labels >= 0).any() if labels.dtype.kind in "iu" else (labels == labels).any())
