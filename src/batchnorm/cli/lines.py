"""Bytes in, lists of whole lines out: all that are waiting at once, a lone one at once too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

from batchnorm.errors import DataError

_CHUNK = 1 << 18  # bytes asked for at a time; what is there is taken, be it less
_LONGEST = 1 << 24  # bytes of one line; a longer one is not kept


class Stream(Protocol):
    """Standard input, or any buffered stream of bytes."""

    def read1(self, size: int, /) -> bytes:
        """At most `size` bytes, as soon as there are any; none at the end."""


def waiting_lines(stream: Stream) -> Iterator[list[bytes | DataError]]:
    """The lines of `stream` without their ends, as many at a time as have come; an error for one that is too long.

    >>> import io
    >>> list(waiting_lines(io.BytesIO(b"one\\ntwo\\nthr")))
    [[b'one', b'two'], [b'thr']]
    """
    held: list[bytes] = []  # the line whose end has not come yet
    size = 0
    while chunk := stream.read1(_CHUNK):
        *ended, rest = chunk.split(b"\n")
        if ended:
            lines: list[bytes | DataError] = [*ended]
            if size:
                lines[0] = _joined([*held, ended[0]], size + len(ended[0]))
                held, size = [], 0
            yield lines
        if rest:
            size += len(rest)
            if size > _LONGEST:
                held = []
            else:
                held.append(rest)
    if size:
        yield [_joined(held, size)]


def _joined(parts: list[bytes], size: int) -> bytes | DataError:
    return b"".join(parts) if size <= _LONGEST else DataError(f"expected lines of up to {_LONGEST} bytes")
