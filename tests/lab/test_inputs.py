"""Normalized inputs: a rounder bowl, and fewer steps down it."""

from __future__ import annotations

import math

import numpy as np
import pytest

from batchnorm.lab import Experiment
from batchnorm.lab.bowl import steepest_inputs
from batchnorm.lab.questions.inputs import EVERY, KINDS, NETWORKS, _first


def test_inputs_on_digits_are_learnt_from_in_fewer_steps_with_every_seed(carried_out):
    record = carried_out("inputs", quick=True)
    condition, logistic, deep, *_ = record.effects
    assert record.verdict == "holds"
    assert len(logistic.values) == 3
    assert min(condition.values) > 10
    assert min(logistic.values) > 2
    assert min(deep.values) > 1.5


def test_condition_numbers_are_those_that_numpy_finds(carried_out, digits):
    numbers = carried_out("inputs", quick=True).numbers
    for seed in range(3):
        x = digits.of(seed).x_train.astype(float)
        x = x[:, x.std(0) > 0]
        for kind, values in (("raw", x - x.mean(0)), ("normalized", (x - x.mean(0)) / x.std(0))):
            sizes = np.linalg.svd(values, compute_uv=False)
            sizes = sizes[sizes > 1e-5 * sizes[0]]
            assert numbers.condition[kind][seed] == pytest.approx((sizes[0] / sizes[-1]) ** 2, rel=1e-2)


def test_best_rate_is_that_which_reaches_the_goal_and_curves_are_whole(carried_out):
    numbers = carried_out("inputs", quick=True).numbers
    for name in NETWORKS:
        for kind in KINDS:
            key = f"{name} {kind}"
            assert {len(curve) for curve in numbers.curve[key]} == {numbers.most_steps[name] // EVERY}
            for curve, steps in zip(numbers.curve[key], numbers.steps[key], strict=True):
                assert _first(curve, numbers.goal[name]) == steps < math.inf


def test_contour_is_rounder_without_the_means(carried_out):
    panels = carried_out("inputs", quick=True).charts[0].panels
    curvatures = [float(panel.label.split("curvatures ")[1].split(" to")[0].replace(",", "")) for panel in panels]
    assert max(curvatures[1:]) < curvatures[0] / 3


def test_inputs_where_a_curve_runs_away_after_the_goal_are_measured_all_the_same():
    """Raw wine has inputs of a thousand times another's size: the best rate reached the goal and diverged after it."""
    record = Experiment("inputs")("wine", quick=True, seeds=1)
    assert record.verdict == "undecided"
    for key, curves in record.numbers.curve.items():
        assert len(curves[0]) == record.numbers.most_steps[key.split()[0]] // EVERY


def test_table_with_a_constant_and_a_yes_or_no_column_is_measured():
    """The constant has the largest mean, and the two columns of yes and no say the same: no bowl, but an answer."""
    random = np.random.default_rng(0)
    yes = random.integers(2, size=200)
    x = np.stack([np.full(200, 9.0), yes, 1 - yes, 0.1 * random.normal(size=200)], axis=1)
    record = Experiment("inputs")((x, yes ^ (x[:, 3] > 0)), quick=True, seeds=1)
    kinds = [panel.label.partition(":")[0] for chart in record.charts for panel in chart.panels]
    assert kinds == ["raw", "", "logistic regression", "deep network"]


def test_single_input_is_measured_without_a_picture_over_two():
    x = np.random.default_rng(0).normal(size=(200, 1))
    record = Experiment("inputs")((x, (x[:, 0] > 0).astype(int)), quick=True, seeds=1)
    assert record.charts[0].title == "The curvatures of the bowl"
    assert steepest_inputs(x) is None


def test_steps_that_were_not_enough_are_not_said_to_have_been_needed():
    random = np.random.default_rng(0)
    record = Experiment("inputs")((random.normal(size=(200, 2)), random.integers(2, size=200)), quick=True, seeds=1)
    assert "logistic regression needs more than 500 steps" in record.finding
    assert record.effects[1].note == "not even normalized inputs always got there in 500 steps"
