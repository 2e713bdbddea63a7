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
