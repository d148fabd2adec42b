"""What is asked of memory and is not there: one message that says what to lower."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from batchnorm.errors import SettingsError

# torch has no error of its own for the processor's memory: its words tell it from other RuntimeErrors.
_WORDS = re.compile(r"can't allocate memory|not enough memory|out of memory|bad_alloc", re.IGNORECASE)
_BYTES = re.compile(r"tried to allocate (\d+) bytes")


@contextmanager
def enough_memory() -> Iterator[None]:
    """Turn what Python, NumPy and torch say of memory that is not there into one error that the user can mend.

    >>> with enough_memory():
    ...     raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 6400000000 bytes.")
    Traceback (most recent call last):
    batchnorm.errors.SettingsError: expected more memory than there is (6.4 GB in one piece): lower --hidden or
    --batch-size, or give fewer rows or columns
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and not _WORDS.search(str(error)):
            raise
        asked = _BYTES.search(str(error))
        piece = f" ({int(asked[1]) / 1e9:.1f} GB in one piece)" if asked else ""
        raise SettingsError(
            f"expected more memory than there is{piece}: lower --hidden or --batch-size, or give fewer rows or columns"
        ) from error
