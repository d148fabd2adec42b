"""A line for a person, beside what is meant for programs."""

from __future__ import annotations

import sys


def note(message: str) -> None:
    """Write it to standard error."""
    sys.stderr.write(f"note: {message}\n")
