"""Messages of other libraries."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def errors_alone(name: str) -> Iterator[None]:
    """Context in which a library's logger reports errors alone, where what it says is said by us or is no news.

    Example:
        >>> import logging
        >>> from fastssl._logs import errors_alone
        >>> with errors_alone("library"):
        ...     logging.getLogger("library").isEnabledFor(logging.WARNING)
        False
    """
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
