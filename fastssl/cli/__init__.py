"""The command ``fastssl``."""

from fastssl.cli.main import app, main

__all__ = ["app", "main"]
