"""What is said of a trained network, against NumPy on the same rows."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from tests.training.small import Examples, changed, clouds, plane, state, trained
from torch import nn

from batchnorm.training.assemble import Assembly
from batchnorm.training.summary import layer_statistics, summarize

CLASSES = ["a", "b", "c"]


def in_numpy(assembly: Assembly, *, own: bool) -> tuple[list[tuple[np.ndarray, np.ndarray]], np.ndarray]:
    """What enters each batch norm layer over all training rows (mean, unbiased variance), and the scores, in float64.

    own: whether each layer normalizes by these, or by its running statistics.
    """
    tensors = {name: t.double().numpy() for name, t in state(assembly).items()}
    settings, a, found = assembly.run.settings, assembly.run.train.x.double().numpy(), []
    for layer in range(len(settings.hidden)):
        z = a @ tensors[f"layers.{layer}.linear.weight"].T
        z = np.tanh(z) if settings.placement == "after" else z
        found.append((z.mean(0), z.var(0, ddof=1)))
        norm = {k: tensors[f"layers.{layer}.norm.{k}"] for k in ("weight", "bias", "running_mean", "running_var")}
        mean, var = (z.mean(0), z.var(0)) if own else (norm["running_mean"], norm["running_var"])
        z = (z - mean) / np.sqrt(var + settings.eps) * norm["weight"] + norm["bias"]
        a = np.tanh(z) if settings.placement == "before" else z
    return found, a @ tensors["head.weight"].T + tensors["head.bias"]


@pytest.mark.parametrize("placement", ["before", "after"])
def test_true_statistics_are_those_of_all_training_rows_as_one_batch(
    placement: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchnorm.training.summary._CHUNK", 20)  # rows at a time: chunks must not show
    assembly = trained(changed(placement=placement))
    expected, _ = in_numpy(assembly, own=True)
    found = layer_statistics(assembly.network, assembly.run.train)
    tensors = state(assembly)
    for layer, (statistics, (mean, var)) in enumerate(zip(found, expected, strict=True)):
        np.testing.assert_allclose(statistics.true_mean, mean, atol=1e-5)
        np.testing.assert_allclose(statistics.true_var, var, rtol=1e-4)
        for name, field in (("weight", "gamma"), ("bias", "beta"), ("running_mean", "running_mean")):
            assert getattr(statistics, field) == tuple(tensors[f"layers.{layer}.norm.{name}"].tolist())


def test_without_normalization_there_are_no_statistics() -> None:
    assembly = trained(changed(norm=None))
    assert layer_statistics(assembly.network, assembly.run.train) == ()


@pytest.mark.parametrize("placement", ["before", "after"])
def test_test_metrics_with_running_and_with_batch_statistics(placement: Any) -> None:
    """The training rows as test rows, as one batch: NumPy knows both numbers."""
    assembly = trained(changed(placement=placement, batch_size=1000, epochs=6, learning_rate=0.05))
    record = summarize(assembly, clouds(), label="x", goal=None, classes=CLASSES)
    for own, metric in ((False, record.test_metric), (True, record.test_metric_batch_statistics)):
        scores = in_numpy(assembly, own=own)[1]
        assert metric == pytest.approx(float((scores.argmax(1) == clouds().y).mean()), abs=1e-9)


def test_confusion_counts_every_test_row_at_its_class_and_its_prediction() -> None:
    assembly, test = trained(changed(epochs=1)), clouds(50, seed=3, spread=3.0)
    record = summarize(assembly, test, label="x", goal=None, classes=CLASSES)
    assert record.confusion is not None
    counts = np.array(record.confusion.counts)
    np.testing.assert_array_equal(counts.sum(1), np.bincount(test.y))
    assert counts.trace() / 50 == pytest.approx(record.test_metric)
    assert record.confusion.classes == ("a", "b", "c")


def test_residuals_are_in_the_users_units() -> None:
    test = plane(50, seed=3)
    assembly = trained(changed(hidden=(), epochs=80, learning_rate=0.05), task="regression")
    record = summarize(assembly, test, label="x", goal=None, classes=[])
    assert record.residuals is not None
    assert record.residuals.true == tuple(test.y)
    np.testing.assert_allclose(record.residuals.predicted, test.y, rtol=0.02)
    assert record.confusion is None


@pytest.mark.parametrize("rows", [2999, 3000, 3001, 5999, 10_000])
def test_residuals_are_no_more_than_a_picture_holds(rows: int) -> None:
    record = summarize(trained(changed(epochs=1), task="regression"), plane(rows), label="x", goal=None, classes=[])
    assert record.residuals is not None
    assert min(rows, 1500) <= len(record.residuals.true) <= 3000


@pytest.mark.parametrize(("goal", "steps"), [(0.0, 5), (1.1, None), (None, None)])
def test_steps_to_the_goal_are_those_of_the_first_evaluation_that_reached_it(
    goal: float | None, steps: int | None
) -> None:
    assembly = trained(changed(), valid=clouds(30, seed=1))
    assert summarize(assembly, clouds(), label="x", goal=goal, classes=CLASSES).steps_to_goal == steps


def test_steps_to_the_goal_are_known_however_the_run_went_on() -> None:
    assembly = trained(changed(epochs=8), valid=clouds(30, seed=1))
    curve = [(e.step, e.valid_metric) for e in assembly.run.progress.curve]
    goal = sorted(m for _, m in curve if m is not None)[4]
    first = next(step for step, metric in curve if metric is not None and metric >= goal)
    assert summarize(assembly, clouds(), label="x", goal=goal, classes=CLASSES).steps_to_goal == first


def test_traces_are_percentiles_of_what_enters_the_activations() -> None:
    assembly = trained(changed(norm=None, evaluate_every=15), valid=clouds(30, seed=1))
    record = summarize(assembly, clouds(), label="x", goal=None, classes=CLASSES)
    assert assembly.run.valid is not None
    a = assembly.run.valid.x
    for layer, trace in zip(assembly.network.layers, record.traces, strict=True):
        assert isinstance(layer, nn.Module)
        z = layer.linear(a).detach()  # type: ignore[operator,union-attr]
        assert trace.steps == (15,)
        for got, share in ((trace.p15, 15), (trace.p50, 50), (trace.p85, 85)):
            assert got[0] == pytest.approx(np.percentile(z.numpy(), share), abs=1e-5)
        a = torch.tanh(z)


def test_no_test_rows_are_no_numbers_and_no_crash() -> None:
    record = summarize(trained(), Examples(clouds(0).x, clouds(0).y), label="x", goal=None, classes=CLASSES)
    assert math.isnan(record.test_metric)
    assert record.confusion is None
    assert record.test_metric_batch_statistics is None
