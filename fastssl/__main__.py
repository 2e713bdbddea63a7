"""``python -m fastssl``."""

from fastssl.cli import main

main()
