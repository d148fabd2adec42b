"""What the pages of the guide show alike: percentages, tables, axes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

from batchnorm.lab.charts import Axis

Found: TypeAlias = dict[str, Any]
"""What a run measured: plain numbers, in lists and by names. Accuracies are shares, one for each seed."""
Page: TypeAlias = str

ACCURACY = Axis("test accuracy", percent=True)


def percents(shares: Sequence[float], *, bold: bool = False) -> str:
    """The mean over the seeds, in percent.

    >>> percents([0.98, 0.99])
    '98.5'
    """
    said = f"{100 * sum(shares) / len(shares):.1f}"
    return f"**{said}**" if bold else said


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of Markdown.

    >>> print(table(("a", "b"), [("1", "2")]))
    | a | b |
    |---|---|
    | 1 | 2 |
    """
    lines = [head, *rows]
    drawn = ["| " + " | ".join(cells) + " |" for cells in lines]
    return "\n".join([drawn[0], "|" + "---|" * len(head), *drawn[1:]])
