"""Following a run for an estimator: its curves, when it has converged, and a line an epoch where one is asked for."""

from __future__ import annotations

import math

from batchnorm.training.progress import Evaluation, Observer
from batchnorm.training.run import Rows, Run

_SCORED = 10_000  # training rows at most, for a line that is only looked at


class Watch(Observer):
    """Keeps the curves of a run and says when it has converged: after more than `patience` epochs without improvement.

    Without validation rows an epoch improves on the best before it by a training loss at least `tol` lower, as in
    scikit-learn. With them, by a score at least `tol` higher, or, unlike there, by the same score within `tol` and a
    validation loss at least `tol` lower: of few rows the accuracy stands still long before learning does.

    Args:
        run: that is about to turn.
        tol, patience: as above.
        verbose: print a line after each epoch.
    """

    def __init__(self, run: Run, *, tol: float, patience: int, verbose: bool) -> None:
        self._run, self._tol, self._patience, self._verbose = run, tol, patience, verbose
        self.losses: list[float] = []
        self.scores: list[float] = []
        self.rows = 0  # that went through, repetitions over the epochs included
        self._best = -math.inf, math.inf  # score, and the lowest loss at that score
        self._since_best = 0
        self._rows_before, self._seconds_before = 0, 0.0

    @property
    def has_converged(self) -> bool:
        """Whether there is nothing more to be had."""
        return self._since_best > self._patience

    def stepped(self, step: int, rows: int) -> None:
        """Count the rows."""
        self.rows += rows

    def evaluated(self, evaluation: Evaluation) -> None:
        """One more point on the curves."""
        self.losses.append(evaluation.train_loss)
        score, loss = 0.0, evaluation.train_loss
        if evaluation.valid_metric is not None and evaluation.valid_loss is not None:
            score, loss = evaluation.valid_metric, evaluation.valid_loss
            self.scores.append(score)
        best_score, best_loss = self._best
        is_as_good = score > best_score - self._tol
        improved = score >= best_score + self._tol or (is_as_good and loss <= best_loss - self._tol)
        self._since_best = 0 if improved else self._since_best + 1
        self._best = max(score, best_score), min(loss, best_loss) if is_as_good else best_loss
        if self._verbose:
            print(self._line(evaluation), flush=True)

    def ended(self, *, step: int, reason: str) -> None:
        """Say why, where epochs are told of at all."""
        if not self._verbose:
            return
        what = "validation score" if self.scores else "training loss"
        if self.has_converged:
            reason = f"the {what} has not improved by {self._tol:g} for {self._since_best} epochs"
        print(f"Stopped after {len(self.losses)} epochs: {reason}.", flush=True)

    def _line(self, evaluation: Evaluation) -> str:
        epochs = self._run.steps // len(self._run.cuts)
        seconds = evaluation.seconds - self._seconds_before
        speed = (self.rows - self._rows_before) / max(seconds, 1e-9)
        self._rows_before, self._seconds_before = self.rows, evaluation.seconds
        whose, score = "validation", evaluation.valid_metric
        if score is None:
            whose, score = "training", self._training_score()
        metric = self._run.objective.metric_name
        return (
            f"Epoch {len(self.losses):>{len(str(epochs))}} of {epochs}: loss {evaluation.train_loss:.6f}, "
            f"{whose} {metric} {score:.4f}, {speed:,.0f} rows/s"
        )

    def _training_score(self) -> float:
        """Of rows evenly spaced, few enough to cost little."""
        rows = self._run.train
        every = slice(None, None, -(-len(rows) // _SCORED))
        weights = None if rows.weights is None else rows.weights[every]
        _, score = self._run.judge(Rows(rows.x[every], rows.y[every], weights))
        return score
