"""Weights of rows and of classes: a row that counts twice is two rows, and balanced classes weigh the same."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.training.small import Examples, assembled, changed, clouds, differing, plane, state, trained
from torch.testing import assert_close

from batchnorm.errors import SettingsError
from batchnorm.training.objective import Task
from batchnorm.training.run import Run

ONE_BATCH = changed(batch_size=1000, steps=4, optimizer="gd", learning_rate=0.2)


def uneven() -> Examples:
    """Sixty rows of class 0, twelve of class 1, three of class 2."""
    whole = clouds(180)
    rows = np.concatenate([np.flatnonzero(whole.y == c)[:n] for c, n in enumerate((60, 12, 3))])
    return Examples(whole.x[rows], whole.y[rows])


def per_class(run: Run) -> list[float]:
    assert run.loss_weights is not None
    return [float(run.loss_weights[run.train.y == c].sum()) for c in range(3)]


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_row_that_counts_twice_is_the_same_as_two_rows(task: Task) -> None:
    rows = clouds(30) if task == "classification" else plane(30)
    counts = np.resize([1.0, 2.0, 0.0, 3.0], 30)
    weighted = Examples(rows.x, rows.y, counts)
    repeated = Examples(np.repeat(rows.x, counts.astype(int), 0), np.repeat(rows.y, counts.astype(int)))
    first = state(trained(ONE_BATCH, task=task, train=weighted, dtype=torch.float64))
    second = state(trained(ONE_BATCH, task=task, train=repeated, dtype=torch.float64))
    for name, value in first.items():
        assert_close(value, second[name], rtol=1e-9, atol=1e-9, msg=lambda text, n=name: f"{n}: {text}")


def test_weights_of_1_are_the_same_as_none() -> None:
    rows = clouds()
    first, second = (state(trained(train=Examples(rows.x, rows.y, w))) for w in (None, np.ones(len(rows))))
    assert not differing(first, second)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (np.ones(5), "expected 75 finite numbers"),
        (np.full(75, -1.0), "finite numbers >= 0"),
        (np.full(75, np.nan), "finite numbers >= 0"),
        (np.zeros(75), "at least one row that counts"),
        (np.r_[1e300, np.ones(74)], r"sample_weight expected whole numbers, .*, got 1e\+300 among them: divide"),
    ],
)
def test_impossible_weights_are_refused(weights: np.ndarray, message: str) -> None:
    rows = clouds()
    with pytest.raises(SettingsError, match=message):
        assembled(train=Examples(rows.x, rows.y, weights))


def test_balanced_classes_weigh_the_same_in_the_loss() -> None:
    run = assembled(changed(class_weight="balanced"), train=uneven()).run
    assert per_class(run) == pytest.approx([25.0, 25.0, 25.0], rel=1e-6)
    assert run.train.weights is None  # the statistics see the rows as they are


def test_balanced_classes_take_the_weights_of_rows_into_account() -> None:
    rows = uneven()
    counts = np.resize([1.0, 2.0], len(rows))
    run = assembled(changed(class_weight="balanced"), train=Examples(rows.x, rows.y, counts)).run
    assert per_class(run) == pytest.approx([counts.sum() / 3] * 3, rel=1e-6)


def test_class_weights_as_numbers_weigh_each_row_of_a_class() -> None:
    run = assembled(changed(class_weight=(1.0, 5.0, 0.0)), train=uneven()).run
    assert per_class(run) == pytest.approx([60.0, 60.0, 0.0])


def test_balanced_classes_help_the_rare_class() -> None:
    """Overlapping clouds, 95 to 5: without balance the rare class is all but never named."""
    random = np.random.default_rng(0)
    y = (np.arange(400) % 20 == 0).astype(np.int64)
    rows = Examples(random.normal(size=(400, 2)) + y[:, None] * 1.0, y)
    recalls = []
    for weight in (None, "balanced"):
        assembly = trained(changed(class_weight=weight, epochs=15), train=rows)
        assembly.network.eval()
        with torch.no_grad():
            named = assembly.network.body(assembly.run.train.x).argmax(1).numpy()
        recalls.append(float((named[y == 1] == 1).mean()))
    assert recalls[0] < 0.3
    assert recalls[1] > 0.6


def test_class_weights_that_do_not_fit_are_refused() -> None:
    with pytest.raises(SettingsError, match="class_weight expected a classification target, got a regression target"):
        assembled(changed(class_weight="balanced"), task="regression")
    with pytest.raises(SettingsError, match="class_weight expected 3 numbers, got 2"):
        assembled(changed(class_weight=(1.0, 2.0)))
