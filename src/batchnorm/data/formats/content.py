"""The bytes of a file, unpacked where it is gzipped: what can go wrong with any file is said here once."""

from __future__ import annotations

import gzip
import zlib
from pathlib import Path

from batchnorm.errors import DataError


def is_regular(path: Path) -> bool:
    """Whether there is a regular file at `path`; raises DataError where that cannot be known."""
    try:
        return path.is_file()
    except OSError as problem:
        raise DataError(f"{path} cannot be read: {problem.strerror or problem}.") from problem


def instead_of_a_file(path: Path) -> str | None:
    """What is at `path` where it is no regular file: "a directory", "a pipe", "a device"; None where nothing is.

    A pipe is not read, although it could be: a resumed run reads its table again, and a file's name says its format.

    >>> instead_of_a_file(Path("/")), instead_of_a_file(Path("/dev/null")), instead_of_a_file(Path("/nothing"))
    ('a directory', 'a device', None)
    """
    if str(path) == "-" and not path.exists():
        return "standard input"
    if not path.exists() or path.is_file():
        return None
    kinds = ((path.is_dir, "a directory"), (path.is_fifo, "a pipe"), (path.is_socket, "a socket"))
    return next((kind for holds, kind in kinds if holds()), "a device")


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
