"""What a training run leaves behind to be looked at: frozen records, JSON in and out, no drawing and no torch."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Curve:
    """How a run went: one entry per evaluation. Losses are means per row; `metric` is accuracy (0..1) or R2."""

    steps: tuple[int, ...] = ()
    seconds: tuple[float, ...] = ()  # spent training, evaluations not counted
    train_loss: tuple[float, ...] = ()  # mean over the mini-batches since the entry before
    valid_loss: tuple[float, ...] = ()
    valid_metric: tuple[float, ...] = ()


@dataclass(frozen=True)
class LayerTrace:
    """What enters one hidden layer's activations over training: percentiles over probe rows and neurons."""

    name: str
    steps: tuple[int, ...]
    p15: tuple[float, ...]
    p50: tuple[float, ...]
    p85: tuple[float, ...]


@dataclass(frozen=True)
class LayerStatistics:
    """One batch norm layer at the end: each tuple is (C,), one entry per neuron."""

    name: str
    gamma: tuple[float, ...]
    beta: tuple[float, ...]
    running_mean: tuple[float, ...]
    running_var: tuple[float, ...]
    true_mean: tuple[float, ...]  # over the whole training set, at the final weights
    true_var: tuple[float, ...]


@dataclass(frozen=True)
class Confusion:
    """counts[i][j]: test rows of class i that were called class j."""

    classes: tuple[str, ...]
    counts: tuple[tuple[int, ...], ...]


@dataclass(frozen=True)
class Residuals:
    """True and predicted test targets in the user's units (at most a few thousand rows)."""

    true: tuple[float, ...]
    predicted: tuple[float, ...]


@dataclass(frozen=True)
class Run:
    """One network's training: with normalization (`norm="batch"`) or without (`norm=None`)."""

    label: str
    norm: Literal["batch"] | None
    curve: Curve
    traces: tuple[LayerTrace, ...]
    statistics: tuple[LayerStatistics, ...]  # empty without normalization
    test_metric: float  # accuracy or R2, running statistics
    test_loss: float
    test_metric_batch_statistics: float | None  # the same rows, each test batch normalized by its own statistics
    steps: int
    best_step: int
    seconds: float
    steps_to_goal: int | None  # first evaluation whose valid_metric reached `Record.goal`
    confusion: Confusion | None
    residuals: Residuals | None
    ended: str = "all steps"  # or "no improvement", or "diverged": then the best epoch before it is what is shown


@dataclass(frozen=True)
class SinglePrediction:
    """One test row predicted alone."""

    row: int  # its number within the test rows
    true: str
    predicted: str
    probability: float | None


@dataclass(frozen=True)
class Record:
    """Everything the report shows."""

    title: str
    data_name: str
    rows_train: int
    rows_valid: int
    rows_test: int
    features: int
    task: Literal["classification", "regression"]
    metric_name: str  # "accuracy" or "R2"
    target_name: str
    goal: float | None
    runs: tuple[Run, ...]  # the main run first; with --compare its twin without normalization second
    singles: tuple[SinglePrediction, ...]
    settings: dict[str, Any] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    seed: int = 0

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)
