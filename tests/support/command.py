"""The command line in a process of its own."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from fastssl import cli


def main(arguments: list[str], folder: Path) -> None:
    """``fastssl ARGUMENTS`` in ``folder``."""
    os.chdir(folder)
    sys.argv = ["fastssl", *arguments]
    cli.main()


def embed_rank(rank: int, arguments: list[str]) -> None:
    """``fastssl embed ARGUMENTS`` as one process of a launcher."""
    sys.argv = ["fastssl", "embed", *arguments]
    cli.main()
