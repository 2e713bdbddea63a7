"""The report of a demo run: one HTML file that needs nothing beside it."""

from fastssl.report.html import write_report

__all__ = ["write_report"]
