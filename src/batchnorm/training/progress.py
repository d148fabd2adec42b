"""What a training run tells whoever watches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Evaluation:
    """One look at the network during training: a point of the learning curves.

    Attributes:
        step: optimizer steps so far; epoch: passes begun so far.
        seconds: spent training, evaluations not counted.
        train_loss: mean over the steps since the evaluation before.
        valid_loss, valid_metric: None where there are no validation rows.
    """

    step: int
    epoch: int
    seconds: float
    train_loss: float
    valid_loss: float | None
    valid_metric: float | None


class Observer:
    """Watches a run; every method may be overridden, none must be."""

    def started(self, *, step: int, steps: int) -> None:
        """Training is about to run from `step` to at most `steps`."""

    def stepped(self, step: int, rows: int) -> None:
        """One optimizer step on `rows` rows is done; called often, so be quick."""

    def evaluated(self, evaluation: Evaluation) -> None:
        """The network has been looked at."""

    def ended(self, *, step: int, reason: str) -> None:
        """Training is over: "all steps", "no improvement", "diverged" or "interrupted"."""
