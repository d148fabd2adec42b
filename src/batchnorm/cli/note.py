"""A line for a person, beside what is meant for programs."""

from __future__ import annotations

import sys

from batchnorm.errors import legible

_LONGEST = 2000  # characters: names of columns may be of any length and number


def note(message: str) -> None:
    """Write it to standard error, where it can write nothing else than itself."""
    sys.stderr.write(f"note: {legible(message, most=_LONGEST)}\n")
