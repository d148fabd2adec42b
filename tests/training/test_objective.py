"""Loss, its gradient and the score, against formulas in NumPy and autograd."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.testing import assert_close

from batchnorm.training.objective import Objective, Task

N, CLASSES = 7, 3


def problem(task: Task) -> tuple[Tensor, Tensor, Tensor]:
    random = np.random.default_rng(0)
    if task == "classification":
        scores, y = random.normal(size=(N, CLASSES)) * 3, random.integers(0, CLASSES, N)
    else:
        scores, y = random.normal(size=(N, 1)), random.normal(size=N)
    return torch.from_numpy(scores), torch.from_numpy(y), torch.tensor([1.0, 2, 0, 0.5, 1, 3, 1], dtype=torch.float64)


def reference(task: Task, scores: Tensor, y: Tensor, weights: Tensor) -> tuple[float, float]:
    s, t, w = scores.numpy(), y.numpy(), weights.numpy()
    if task == "classification":
        p = np.exp(s) / np.exp(s).sum(1, keepdims=True)
        loss = -np.log(p[np.arange(N), t])
        return float(np.average(loss, weights=w)), float(np.average(s.argmax(1) == t, weights=w))
    errors = (s[:, 0] - t) ** 2
    spread = (t - np.average(t, weights=w)) ** 2
    return float(np.average(errors, weights=w)), float(1 - (w * errors).sum() / (w * spread).sum())


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_loss_and_metric_equal_their_formulas(task: Task, weighted: bool) -> None:
    scores, y, w = problem(task)
    given = w if weighted else None
    loss, metric = reference(task, scores, y, w if weighted else torch.ones(N, dtype=torch.float64))
    assert float(Objective(task).loss(scores, y, given)) == pytest.approx(loss, rel=1e-12)
    assert Objective(task).metric(scores, y, given) == pytest.approx(metric, rel=1e-12)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("task", ["classification", "regression"])
def test_value_and_gradient_equal_autograd(task: Task, weighted: bool) -> None:
    scores, y, w = problem(task)
    given = w if weighted else None
    leaf = scores.clone().requires_grad_()
    expected = Objective(task).loss(leaf, y, given)
    expected.backward()
    assert leaf.grad is not None
    value, gradient = Objective(task).value_and_gradient(scores.clone(), y, given)
    assert_close(value, expected.detach(), rtol=1e-12, atol=1e-14)
    assert_close(gradient, leaf.grad, rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_a_batch_of_rows_that_weigh_nothing_teaches_nothing(task: Task) -> None:
    """A class weight of 0 can fill a whole batch: 0 / 0 would end the run in NaN."""
    scores, y, w = problem(task)
    value, gradient = Objective(task).value_and_gradient(scores, y, torch.zeros_like(w))
    assert float(value) == 0
    assert not gradient.any()


def test_accuracy_counts_no_row_whose_scores_are_not_numbers() -> None:
    scores = torch.tensor([[torch.nan, 0.0], [1.0, 0.0], [torch.inf, 0.0]])
    assert Objective("classification").metric(scores, torch.zeros(3, dtype=torch.int64)) == pytest.approx(1 / 3)


def test_r2_of_a_constant_target_is_0() -> None:
    assert Objective("regression").metric(torch.tensor([[1.0], [2.0]]), torch.tensor([1.0, 1.0])) == 0.0


def test_scores_too_large_for_exp_have_a_finite_loss() -> None:
    scores = torch.tensor([[1e30, 0.0], [-1e30, 0.0]])
    value, gradient = Objective("classification").value_and_gradient(scores, torch.tensor([0, 1]))
    assert float(value) == 0
    assert torch.isfinite(gradient).all()
