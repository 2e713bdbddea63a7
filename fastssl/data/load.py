"""Data sets by name."""

from __future__ import annotations

from pathlib import Path

from fastssl.data.embedded import digits, emoji
from fastssl.data.folder import folder
from fastssl.data.images import Images


def load(name: str, size: int = 64) -> Images:
    """Returns a data set by name: for pretraining or evaluation.

    Args:
        name: "emoji" (the 1,497 training items: 374 stay unseen for retrieval), "emoji-heldout" (these), "emoji-all",
            "digits", or the path of a folder of images.
        size: of the images of a folder, pixels.

    Raises:
        ValueError: no such data set or folder.
    """
    if name == "emoji":
        return emoji("train")
    if name == "emoji-all":
        return emoji()
    if name == "emoji-heldout":
        return emoji("heldout")
    if name == "digits":
        return digits()
    if Path(name).is_dir():
        return folder(name, size)
    raise ValueError(f"name: expected 'emoji', 'emoji-all', 'digits' or a folder of images, got {name!r}")
