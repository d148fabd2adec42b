"""A progress bar over a training run: steps, loss, metric, rows per second, time left; silent when piped."""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from batchnorm.training.progress import Evaluation, Observer

_PERIOD = 0.1  # seconds between two drawings


class Bars(AbstractContextManager["Bars"]):
    """Bars for the networks of one experiment, one below the other, on standard error.

    Args:
        metric_name: of the validation metric.
        quiet: draw nothing; nothing is drawn either where standard error is no terminal.
    """

    def __init__(self, metric_name: str, *, quiet: bool) -> None:
        self.metric_name = metric_name
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TextColumn("{task.fields[loss]}{task.fields[metric]}{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=console,
            disable=quiet or not console.is_terminal,
            refresh_per_second=10,
        )

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._progress.stop()

    def observer(self, label: str) -> Observer:
        """The observer of one network."""
        return Observer() if self._progress.disable else _Bar(self._progress, label, self.metric_name)


class _Bar(Observer):
    def __init__(self, progress: Progress, label: str, metric_name: str) -> None:
        self._progress, self._label, self._metric_name = progress, label, metric_name
        self._task: TaskID | None = None
        self._drawn = self._began = time.monotonic()
        self._rows = 0

    def started(self, *, step: int, steps: int) -> None:
        """Show the bar, where a resumed run stands already."""
        self._task = self._progress.add_task(self._label, total=steps, completed=step, loss="", metric="", rate="")
        self._began = time.monotonic()

    def stepped(self, step: int, rows: int) -> None:
        """Move the bar now and then."""
        self._rows += rows
        now = time.monotonic()
        if self._task is not None and now - self._drawn >= _PERIOD:
            self._drawn = now
            self._progress.update(self._task, completed=step, rate=self._rate(now))

    def evaluated(self, evaluation: Evaluation) -> None:
        """Show loss and metric."""
        if self._task is None:
            return
        metric = "" if evaluation.valid_metric is None else f"  {self._metric_name} {evaluation.valid_metric:.3f}"
        loss = f"loss {evaluation.train_loss:.4f}"
        self._progress.update(self._task, completed=evaluation.step, loss=loss, metric=metric)

    def ended(self, *, step: int, reason: str) -> None:
        """Leave the bar full where training ended of itself; a run too short for one move has its speed from here."""
        if self._task is not None:
            total = None if reason == "interrupted" else step
            description, rate = f"{self._label} ({reason})", self._rate(time.monotonic())
            self._progress.update(self._task, completed=step, total=total, description=description, rate=rate)

    def _rate(self, now: float) -> str:
        return f"  {self._rows / max(now - self._began, 1e-9):,.0f} rows/s"
