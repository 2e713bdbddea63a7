"""The names of the training and the test part of data: of folders, files and Hugging Face splits."""

from __future__ import annotations

from collections.abc import Collection

from fastssl.data.columns import first_column

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
    wanted = sorted(PARTS[part], key=lambda name: name != before)
    exact = next((name for name in wanted if name in names), None)
    return first_column(names, wanted) if exact is None and any_case else exact
