"""Class weights as one number for each class, and which of two evaluations is the better one."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from batchnorm.errors import SettingsError
from batchnorm.training.assemble import assemble
from batchnorm.training.examples import Examples
from batchnorm.training.progress import Evaluation
from batchnorm.training.run import Run
from batchnorm.training.settings import Settings

X = np.random.default_rng(0).normal(size=(30, 3))
Y = np.repeat([0, 1, 2], [15, 10, 5])


def run(class_weight: object, weights: np.ndarray | None = None) -> Run:
    settings = Settings(hidden=(4,), batch_size=30, class_weight=class_weight)  # type: ignore[arg-type]
    examples = Examples(X, Y, weights)
    return assemble(examples, examples, settings, task="classification", outputs=3, dtype=torch.float64).run


def test_class_weight_for_each_class_gives_the_gradients_of_weighted_rows() -> None:
    by_class, balanced = run((1 / 15, 1 / 10, 1 / 5)), run("balanced")
    for taken in (by_class, balanced):
        taken.step()
    for mine, theirs in zip(by_class.network.parameters(), balanced.network.parameters(), strict=True):
        torch.testing.assert_close(mine, theirs)


def test_batch_of_classes_of_weight_zero_changes_no_gradient_to_nan() -> None:
    taken = run((0.0, 0.0, 0.0))
    taken.step()
    assert all(bool(torch.isfinite(p).all()) and not p.grad.any() for p in taken.network.parameters())


@pytest.mark.parametrize("weights", [(1.0, 2.0), (1.0, -1.0, 1.0), (), "equal", (1.0, float("nan"), 1.0)])
def test_class_weight_that_does_not_fit_raises(weights: object) -> None:
    with pytest.raises(SettingsError, match="class_weight expected"):
        run(weights)


@pytest.mark.parametrize(
    ("metric", "loss", "expected"),
    [(0.9, 9.0, True), (0.8, 0.4, True), (0.8 - 1e-9, 0.4, True), (0.8 + 1e-9, 0.6, False), (0.7, 0.1, False)],
)
def test_evaluation_is_better_by_its_metric_then_by_its_loss(metric: float, loss: float, expected: bool) -> None:
    taken = run(None)
    for point in (Evaluation(1, 1, 0.0, 1.0, 0.5, 0.8), Evaluation(2, 2, 0.0, 1.0, loss, metric)):
        taken.progress.step = point.step
        taken._keep_best(point)
    assert (taken.progress.best_step == 2) is expected
