"""HTML reports, each a single self-contained file."""

from fastssl.report.html import write_report

__all__ = ["write_report"]
