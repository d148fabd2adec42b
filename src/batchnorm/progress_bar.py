"""A progress bar over batches or layers: on standard error, where that is a terminal and the work is long."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar

_PATIENCE = 2.0  # seconds of work before there is a bar
_PERIOD = 0.1  # seconds between two drawings
_Item = TypeVar("_Item")


def length(batches: Any) -> int | None:
    """How many batches there are, where that is known: loaders over streams have no length."""
    try:
        return len(batches)
    except TypeError:
        return None


class Bar:
    """One bar over all passes of one piece of work.

    Args:
        label: what is being done.
        total: items of all passes; None where nobody knows.
        shown: False for none whatever happens.
    """

    def __init__(self, label: str, total: int | None, *, shown: bool = True) -> None:
        self._label, self._total, self._done = label, total, 0
        self._due = time.monotonic() + _PATIENCE if shown and sys.stderr.isatty() else float("inf")
        self._progress: Any = None

    def over(self, items: Iterable[_Item]) -> Iterator[_Item]:
        """The items themselves; the bar moves as they are used up."""
        if self._due == float("inf"):
            yield from items
            return
        for item in items:
            yield item
            self._done += 1
            if time.monotonic() >= self._due:
                self._draw()

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self._progress is not None:
            self._progress.update(self._task, completed=self._done)
            self._progress.stop()

    def _draw(self) -> None:
        if self._progress is None:
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

            columns = (TextColumn("{task.description}"), BarColumn(24), MofNCompleteColumn(), TimeRemainingColumn())
            self._progress = Progress(*columns, console=Console(stderr=True), transient=True)
            self._progress.start()
            self._task = self._progress.add_task(self._label, total=self._total)
        self._progress.update(self._task, completed=self._done)
        self._due = time.monotonic() + _PERIOD
