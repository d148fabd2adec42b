"""Runs that diverge: they end, say so, keep the best finite weights, and spoil no other run."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.small import assembled, changed, clouds, plane, state, trained, turned

from batchnorm.data import Prepared
from batchnorm.errors import SettingsError
from batchnorm.training.experiment import perform
from batchnorm.training.objective import Task
from batchnorm.training.plan import Plan
from batchnorm.training.run import Run

pytestmark = pytest.mark.filterwarnings("ignore::batchnorm.errors.StatisticsWarning")

EXPLODING = changed(norm=None, activation="relu", optimizer="gd", learning_rate=1e30, epochs=4)


def poisoned_after(run: Run, step: int) -> None:
    """From `step` on every gradient is NaN."""
    gradients = run.formulas.gradients_of

    def poisoned(*args: Any, **more: Any) -> torch.Tensor:
        loss = gradients(*args, **more)
        if run.progress.step + 1 < step:
            return loss
        for parameter in run.network.parameters():
            assert parameter.grad is not None
            parameter.grad.fill_(math.nan)
        return loss * math.nan

    run.formulas.gradients_of = poisoned  # type: ignore[method-assign]


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("with_valid", [True, False])
def test_a_run_that_explodes_ends_as_diverged(task: Task, with_valid: bool) -> None:
    valid = (clouds(20) if task == "classification" else plane(20)) if with_valid else None
    progress = trained(EXPLODING, task=task, valid=valid).run.progress
    assert progress.ended == "diverged"
    assert progress.step < 20


@pytest.mark.parametrize("task", ["classification", "regression"])
def test_the_best_finite_weights_stay(task: Task) -> None:
    make = clouds if task == "classification" else plane
    assembly = assembled(changed(epochs=6), task=task, train=make(), valid=make(30, seed=1))
    poisoned_after(assembly.run, 12)
    progress = turned(assembly).run.progress
    assert (progress.ended, progress.step) == ("diverged", 15)
    assert progress.best_step in (5, 10)
    assert any(not torch.isfinite(t).all() for t in state(assembly).values())
    assembly.run.take_best()
    assert all(torch.isfinite(t).all() for t in state(assembly).values())


@pytest.mark.parametrize("first", [(math.nan, math.nan), (math.inf, -math.inf), (math.nan, 0.0)])
def test_an_evaluation_that_is_not_finite_is_never_the_best(first: tuple[float, float]) -> None:
    """NaN compares as neither more nor less: taken once for the best, it would stay the best for ever."""
    assembly = assembled(changed(epochs=2), valid=clouds(20))
    answers = iter([first, (3.0, 0.1)])
    assembly.run.judge = lambda rows: next(answers)  # type: ignore[method-assign]
    progress = turned(assembly).run.progress
    assert (progress.best_step, progress.best_metric) == (10, 0.1)


def test_weights_that_are_not_finite_are_never_the_best_even_where_scores_are() -> None:
    """relu turns a weight of -inf into 0: scores are finite, but no model file can hold such a weight."""
    assembly = assembled(changed(activation="relu", norm=None), valid=clouds(20))
    with torch.no_grad():
        assembly.network.layers[0].linear.bias[0] = -math.inf  # type: ignore[union-attr,index]
    assembly.run.evaluate()
    assert assembly.run.progress.best_step == 0
    assert not assembly.run.best


def test_a_diverged_experiment_keeps_the_best_epoch_and_says_why_it_ended(diabetes: Plan) -> None:
    settings = replace(diabetes.settings, activation="tanh", optimizer="gd", learning_rate=3.0, dropout=0.0, epochs=8)
    finished = perform(Plan(diabetes.data, settings))
    assert finished is not None
    run = finished.record.runs[0]
    assert run.ended == "diverged"
    assert 0 < run.best_step < run.steps
    assert all(np.isfinite(tensor).all() for tensor in finished.model_file.tensors.values())
    assert math.isfinite(run.test_metric)


def test_an_experiment_without_any_finite_weights_says_what_to_do(wine: Plan) -> None:
    for valid in (True, False):
        data = wine.data if valid else without_validation(wine.data)
        settings = replace(wine.settings, norm=None, optimizer="gd", learning_rate=1e30)
        with pytest.raises(SettingsError, match=r"training diverged .* smaller learning rate than 1e\+30"):
            perform(Plan(data, settings))


def test_a_twin_that_diverges_does_not_spoil_the_main_run(wine: Plan) -> None:
    """First weights that batch normalization bears and the plain network does not: what --compare is there to show."""
    settings = replace(wine.settings, optimizer="gd", weight_scale=1e5, dropout=0.0, epochs=8)
    alone = perform(Plan(wine.data, settings, goal=0.9))
    finished = perform(Plan(wine.data, settings, compare=True, goal=0.9))
    assert alone is not None
    assert finished is not None
    main, twin = finished.record.runs
    assert twin.ended == "diverged"
    assert main.ended == "all steps"
    assert main.test_metric == alone.record.runs[0].test_metric
    for name, tensor in finished.model_file.tensors.items():
        np.testing.assert_array_equal(tensor, alone.model_file.tensors[name])
    json.dumps(finished.model_file.trained, allow_nan=False)


def without_validation(data: Prepared) -> Prepared:
    return replace(data, x_valid=data.x_valid[:0], y_valid=data.y_valid[:0])
