"""Each option changes what it should and nothing else."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.training.small import QUICK, assembled, changed, clouds, differing, state, trained, turned

from batchnorm.errors import SettingsError

BASE = changed(norm="batch", activation="tanh", input_norm=False, epochs=2)
WEIGHTS = {"layers.0.linear.weight", "layers.1.linear.weight", "head.weight"}
STATISTICS = {f"layers.{i}.norm.running_{kind}" for i in range(2) for kind in ("mean", "var")}


def toggled(**change: Any) -> tuple[set[str], set[str]]:
    """What a change of one option makes different: before the first step, and after the last."""
    rows = clouds(features=2)
    first = [assembled(BASE, train=rows), assembled(changed(**vars(BASE) | change), train=rows)]
    before = differing(*map(state, first))
    return before, differing(*(state(turned(assembly)) for assembly in first))


@pytest.mark.parametrize(
    "change",
    [
        {"placement": "after"},
        {"eps": 0.1},
        {"dropout": 0.3},
        {"weight_decay": 0.1},
        {"optimizer": "gd"},
        {"optimizer": "rmsprop"},
        {"learning_rate": 0.1},
        {"batch_size": 25},
        {"activation": "sigmoid"},
        {"class_weight": (1.0, 2.0, 3.0)},
    ],
    ids=str,
)
def test_an_option_of_the_computation_leaves_the_first_weights_and_changes_the_last(change: dict[str, Any]) -> None:
    before, after = toggled(**change)
    assert before == set()
    assert after >= WEIGHTS


@pytest.mark.parametrize("change", [{"momentum": 0.5}, {"warm_statistics": True}], ids=str)
def test_an_option_of_the_running_statistics_changes_them_alone(change: dict[str, Any]) -> None:
    assert toggled(**change) == (set(), STATISTICS)


def test_weight_scale_changes_the_first_weights() -> None:
    before, after = toggled(weight_scale=0.5)
    assert before == WEIGHTS
    assert after >= WEIGHTS


def test_seed_changes_the_first_weights() -> None:
    before, after = toggled(seed=1)
    assert before == WEIGHTS
    assert after >= WEIGHTS


@pytest.mark.parametrize(
    "change", [{"device": "auto"}, {"patience": 50}, {"evaluate_every": 1}, {"evaluate_every": 1000}], ids=str
)
def test_an_option_that_computes_nothing_changes_nothing(change: dict[str, Any]) -> None:
    if change == {"device": "auto"} and torch.cuda.is_available():
        pytest.skip("auto is the GPU here")
    assert toggled(**change) == (set(), set())


def test_fitted_input_normalization_is_the_training_rows_mean_and_deviation() -> None:
    rows = clouds()
    network = assembled(train=rows).network
    assert network.input_norm is not None
    torch.testing.assert_close(network.input_norm.mean, torch.from_numpy(rows.x.mean(0)))
    torch.testing.assert_close(network.input_norm.std, torch.from_numpy(rows.x.std(0)))
    assert assembled(BASE).network.input_norm is None


def test_divided_inputs_are_the_inputs_divided() -> None:
    rows = clouds()
    run = assembled(changed(input_norm=False, divide_by=16.0), train=rows).run
    torch.testing.assert_close(run.train.x, torch.from_numpy(rows.x / 16).float())


def test_a_constant_feature_is_0_whatever_comes_later() -> None:
    rows = clouds()
    rows.x[:, 1] = 3.0
    assembly = assembled(train=rows)
    assert not assembly.run.train.x[:, 1].any()
    rows.x[:, 1] = 1e6
    assert not assembly.rows(rows).x[:, 1].any()


def test_steps_override_epochs_and_are_a_beginning_of_the_longer_run() -> None:
    short, long = assembled(changed(steps=7, epochs=1)), assembled(changed(epochs=3))
    assert turned(short).run.progress.step == 7
    assert not differing(state(short), state(turned(long, after=7)))


@pytest.mark.parametrize(("epochs", "steps"), [(1, 5), (4, 20)])
def test_epochs_are_passes_over_the_rows(epochs: int, steps: int) -> None:
    run = trained(changed(epochs=epochs)).run
    assert run.progress.step == steps == epochs * len(run.cuts)
    assert [e.epoch for e in run.progress.curve] == list(range(1, epochs + 1))


@pytest.mark.parametrize(("every", "steps"), [(None, [5, 10, 15]), (4, [4, 8, 12, 15]), (100, [15])])
def test_evaluate_every_says_where_the_curve_has_points_and_the_end_has_one(
    every: int | None, steps: list[int]
) -> None:
    run = trained(changed(evaluate_every=every)).run
    assert [e.step for e in run.progress.curve] == steps
    assert run.progress.trace_steps == steps


def test_training_loss_of_a_point_is_the_mean_over_the_steps_since_the_one_before() -> None:
    each = [e.train_loss for e in trained(changed(evaluate_every=1)).run.progress.curve]
    every = [e.train_loss for e in trained(changed(evaluate_every=5)).run.progress.curve]
    assert every == pytest.approx([sum(each[i : i + 5]) / 5 for i in (0, 5, 10)], rel=1e-12)


def test_a_single_training_row_is_too_few_for_batch_normalization_alone() -> None:
    with pytest.raises(SettingsError, match="batch normalization expected at least 2 training rows, got n_samples=1"):
        assembled(QUICK, train=clouds(1, classes=1))
    assert trained(changed(norm=None), train=clouds(1, classes=1)).run.progress.ended == "all steps"


def test_no_rows_at_all_are_refused() -> None:
    with pytest.raises(SettingsError, match="at least one row"):
        assembled(QUICK, train=clouds(0), task="regression")


@pytest.mark.parametrize("name", ["nope", "cuda:99", "meta", "cpu:x", ""])
def test_a_device_that_is_not_here_is_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="device expected auto, cpu or a device of this machine"):
        assembled(changed(device=name))
