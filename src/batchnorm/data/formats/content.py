"""The bytes of a file, unpacked where it is gzipped: what can go wrong with any file is said here once."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from batchnorm.errors import DataError


def content(path: Path) -> bytes:
    """All of a file; a .gz file comes unpacked, whatever it is called.

    Raises:
        DataError: it cannot be read, it is empty, or the gzip stream is damaged.
    """
    try:
        data = path.read_bytes()
    except OSError as problem:
        raise DataError(f"{path} cannot be read: {problem.strerror or problem}.") from problem
    if data[:2] == b"\x1f\x8b":
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as problem:
            raise DataError(f"{path.name} is a damaged gzip file ({problem}): fetch or copy it again.") from problem
    if not data:
        raise DataError(f"{path.name} is empty: expected a table or an array, got 0 bytes.")
    return data
