"""fit: what it learns, what it leaves behind, when it stops, and what it must not touch."""

from __future__ import annotations

import math
import re
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning, DataConversionWarning, NotFittedError
from tests.estimators.problems import DIABETES, IRIS, classifier, raw, regressor, some

from batchnorm import BatchNormClassifier, BatchNormRegressor
from batchnorm.errors import DataError, SettingsError
from batchnorm.estimators.base import BatchNormEstimator
from batchnorm.estimators.watch import Watch

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")
BOTH = pytest.mark.parametrize(("make", "problem"), [(classifier, IRIS), (regressor, DIABETES)])


def test_classifier_on_digits_learns_them() -> None:
    x, y = load_digits(return_X_y=True)
    model = BatchNormClassifier(random_state=0, early_stopping=True).fit(x[:1200], y[:1200])
    assert model.score(x[1200:], y[1200:]) > 0.9
    assert model.classes_.tolist() == list(range(10))
    assert (model.n_features_in_, model.n_outputs_, model.n_layers_, model.out_activation_) == (64, 10, 4, "softmax")


def test_regressor_in_any_units_learns_the_same() -> None:
    x, y = DIABETES
    model = BatchNormRegressor((16,), random_state=0, max_iter=60).fit(x, y)
    larger = BatchNormRegressor((16,), random_state=0, max_iter=60).fit(x, 1e6 * y + 1e8)
    assert model.score(x, y) > 0.45
    np.testing.assert_allclose(larger.predict(x), 1e6 * model.predict(x) + 1e8, rtol=1e-6)
    np.testing.assert_allclose(larger.loss_curve_, model.loss_curve_, rtol=1e-5)


@BOTH
def test_fit_with_the_same_seed_reproduces_bit_by_bit(make: Any, problem: Any) -> None:
    for choice in ({}, {"early_stopping": True}, {"batch_size": 16, "dropout": 0.2}):
        first, second = make(**choice).fit(*problem), make(**choice).fit(*problem)
        assert (raw(first, problem[0]) == raw(second, problem[0])).all()
        assert first.loss_curve_ == second.loss_curve_


@BOTH
def test_fit_without_a_seed_differs_from_fit_to_fit(make: Any, problem: Any) -> None:
    first, second = (make(random_state=None).fit(*problem) for _ in range(2))
    assert (raw(first, problem[0]) != raw(second, problem[0])).any()


@BOTH
@pytest.mark.parametrize("seed", [None, 3])
def test_fit_whatever_the_seed_leaves_global_random_states_alone(make: Any, problem: Any, seed: int | None) -> None:
    of_torch, of_numpy = torch.get_rng_state(), np.random.get_state()
    make(random_state=seed, dropout=0.2).fit(*problem)
    assert torch.equal(torch.get_rng_state(), of_torch)
    assert (np.random.get_state()[1] == of_numpy[1]).all()
    assert np.random.get_state()[2] == of_numpy[2]


@BOTH
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_network_has_the_dtype_of_the_rows(make: Any, problem: Any, dtype: Any) -> None:
    model = make().fit(problem[0].astype(dtype), problem[1])
    assert {p.dtype for p in model.network_.parameters()} == {torch.from_numpy(np.zeros(1, dtype)).dtype}


def test_single_row_gets_what_it_gets_inside_a_batch() -> None:
    x, y = IRIS
    model = classifier().fit(x, y)
    together = model.predict_proba(x)
    alone = np.vstack([model.predict_proba(row[None]) for row in x])
    np.testing.assert_allclose(alone, together, atol=1e-12)


def test_log_probabilities_of_certain_rows_stay_finite() -> None:
    x, y = IRIS
    model = classifier().fit(x, y)
    with torch.no_grad():
        model.network_.head.weight.mul_(1e5)
    logarithms = model.predict_log_proba(x)
    assert np.isfinite(logarithms).all()
    assert logarithms.min() < -1000
    assert (model.predict_proba(x) == 0).any()


def test_fit_that_reaches_max_iter_warns() -> None:
    with pytest.warns(ConvergenceWarning, match=re.escape("(max_iter=3)")):
        model = classifier(max_iter=3).fit(*IRIS)
    assert (model.n_iter_, len(model.loss_curve_), model.t_) == (3, 3, 450)


def test_fit_that_converges_stops_and_does_not_warn(recwarn: Any) -> None:
    model = classifier(tol=0.05, n_iter_no_change=2, max_iter=1000).fit(*IRIS)
    assert model.n_iter_ < 200
    assert model.loss_ == model.loss_curve_[-1]
    assert model.best_loss_ == min(model.loss_curve_)
    falls = -np.diff(model.loss_curve_)
    assert falls[-3:].max() < 0.05
    assert not recwarn.list


def test_early_stopping_keeps_scores_and_the_best_epoch() -> None:
    model = classifier(early_stopping=True, max_iter=300, validation_fraction=0.3, learning_rate_init=0.1).fit(*IRIS)
    assert len(model.validation_scores_) == len(model.loss_curve_) == model.n_iter_ < 300
    assert model.best_validation_score_ == max(model.validation_scores_)
    assert model.best_loss_ is None


def test_without_early_stopping_there_are_no_validation_scores() -> None:
    model = classifier().fit(*IRIS)
    assert model.validation_scores_ is None
    assert model.best_validation_score_ is None


def test_early_stopping_with_one_row_per_class_raises() -> None:
    with pytest.raises(SettingsError, match="expected rows to set aside, got n_samples=3"):
        classifier(early_stopping=True).fit(np.eye(3), ["a", "b", "c"])


@BOTH
def test_failed_fit_leaves_the_fitted_estimator_as_it_was(make: Any, problem: Any) -> None:
    x, y = problem
    model = make().fit(x, y)
    before, said = dict(vars(model)), raw(model, x)
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.full((7, 2), np.nan), y[:7])
    with pytest.raises(SettingsError, match="sample_weight"):
        model.fit(x[:, :2], y, sample_weight=-np.ones(len(x)))
    assert vars(model) == before
    assert (raw(model, x) == said).all()


def test_failed_first_fit_leaves_the_estimator_unfitted() -> None:
    model = classifier()
    with pytest.raises(ValueError, match="NaN"):
        model.fit(np.full((7, 2), np.nan), np.arange(7) % 2)
    with pytest.raises(NotFittedError):
        model.predict(np.zeros((1, 2)))
    with pytest.raises(NotFittedError):
        _ = model.model_file


@pytest.mark.filterwarnings("ignore::batchnorm.errors.StatisticsWarning")
def test_fit_that_diverges_raises_and_names_the_rate() -> None:
    model = regressor(norm=None, solver="sgd", learning_rate_init=1e6, max_iter=200)
    with pytest.raises(ValueError, match=r"training diverged: .* set learning_rate_init below 1e\+06"):
        model.fit(*DIABETES)
    assert not hasattr(model, "network_")


@BOTH
@pytest.mark.parametrize("early_stopping", [False, True])
def test_interrupted_fit_keeps_what_it_has(
    make: Any, problem: Any, early_stopping: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    counted = Watch.stepped

    def interrupt(self: Watch, step: int, rows: int) -> None:
        counted(self, step, rows)
        if step == 14:
            raise KeyboardInterrupt

    monkeypatch.setattr(Watch, "stepped", interrupt)
    model = make(early_stopping=early_stopping, batch_size=40)
    with pytest.warns(UserWarning, match="Training interrupted by user"):
        model.fit(*problem)
    assert 1 <= model.n_iter_ < 20
    assert math.isfinite(model.loss_)
    assert np.isfinite(raw(model, problem[0])).all()
    assert torch.is_grad_enabled()


def test_verbose_prints_a_line_an_epoch_and_why_it_ended(capsys: pytest.CaptureFixture[str]) -> None:
    classifier(verbose=True, max_iter=2).fit(*IRIS)
    regressor(verbose=1, max_iter=12, early_stopping=True).fit(*DIABETES)
    lines = capsys.readouterr().out.splitlines()
    assert re.fullmatch(r"Epoch 1 of 2: loss \d\.\d{6}, training accuracy \d\.\d{4}, [\d,]+ rows/s", lines[0])
    assert lines[2] == "Stopped after 2 epochs: all steps."
    assert re.fullmatch(r"Epoch  1 of 12: loss \d\.\d{6}, validation R2 -?\d\.\d{4}, [\d,]+ rows/s", lines[3])


def test_fit_is_silent_unless_asked(capfd: pytest.CaptureFixture[str]) -> None:
    classifier().fit(*IRIS)
    assert capfd.readouterr() == ("", "")


def test_target_with_two_columns_raises() -> None:
    x, y = DIABETES
    for model in (classifier(), regressor()):
        with pytest.raises(ValueError, match="y should be a 1d array"):
            model.fit(x, np.column_stack([y, y]).astype(int))


def test_target_as_a_column_warns_and_is_taken() -> None:
    x, y = IRIS
    with pytest.warns(DataConversionWarning):
        model = classifier().fit(x, y.reshape(-1, 1))
    assert (raw(model, x) == raw(classifier().fit(x, y), x)).all()


@pytest.mark.parametrize(
    ("factor", "said"),
    [
        (1e200, r"^y expected numbers up to 1e\+150, .*, got 3.46e\+202: change its unit"),
        (-1e200, r"got -3.46e\+202"),
        (1e-300, r"^y expected numbers that differ by 1e-150 or more, .* differences up to 3.21e-298: change the unit"),
    ],
)
def test_target_whose_squares_overflow_or_vanish_raises(factor: float, said: str) -> None:
    """1e200 ended as if training had diverged; 1e-300 was trained on as if it were constant."""
    x, y = DIABETES
    with pytest.raises(DataError, match=said):
        regressor().fit(x, y * factor)
    with pytest.raises(DataError, match=said):
        regressor().partial_fit(x, y * factor)


def test_target_of_very_small_or_large_numbers_is_learnt_like_any() -> None:
    x, y = DIABETES
    usual = regressor().fit(x, y).predict(x)
    for exponent in (-400, 400):  # powers of two change no digit
        scaled = regressor().fit(x, np.ldexp(y, exponent)).predict(x)
        np.testing.assert_array_equal(np.ldexp(scaled, -exponent), usual)


def test_batch_of_a_stream_may_hold_targets_that_hardly_differ() -> None:
    x, y = DIABETES
    model = regressor().partial_fit(x, y)
    model.partial_fit(x[:9], np.resize([0.0, 1e-200], 9))
    assert np.isfinite(model.predict(x)).all()
    with pytest.raises(DataError, match="numbers up to"):
        model.partial_fit(x[:9], y[:9] * 1e200)


def test_estimator_of_no_kind_of_target_cannot_be_made() -> None:
    with pytest.raises(TypeError, match="abstract"):
        BatchNormEstimator()


@BOTH
def test_one_row_cannot_be_normalized(make: Any, problem: Any) -> None:
    x, y = problem
    with pytest.raises(ValueError, match=r"one class|at least 2 training rows, got n_samples=1"):
        make().fit(x[:1], y[:1])


def test_one_row_without_normalization_is_learnt() -> None:
    x, y = some(DIABETES, 1)
    assert regressor(norm=None).fit(x, y).predict(x) == pytest.approx(y, rel=0.2)


def test_no_hidden_layer_is_linear_regression() -> None:
    x, y = DIABETES
    model = regressor(hidden_layer_sizes=(), learning_rate_init=0.1, batch_size=500, max_iter=500, tol=0).fit(x, y)
    exact = np.linalg.lstsq(np.column_stack([x, np.ones(len(x))]), y, rcond=None)[0]
    np.testing.assert_allclose(model.predict(x), x @ exact[:-1] + exact[-1], atol=1.0)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("hidden_layer_sizes", (8, 0), "whole numbers >= 1"),
        ("hidden_layer_sizes", "8", "whole numbers >= 1"),
        ("hidden_layer_sizes", 8.5, "whole numbers >= 1"),
        ("activation", "identity", "one of relu"),
        ("norm", "layer", "'batch' or None"),
        ("placement", "inside", "'before' or 'after'"),
        ("momentum", 1.5, r"a number in \[0, 1\]"),
        ("eps", 0, "a number > 0"),
        ("input_norm", 1, "True or False"),
        ("dropout", 1.0, r"a number in \[0, 1\)"),
        ("solver", "lbfgs", "one of adam, sgd, momentum, rmsprop"),
        ("alpha", -1e-4, "a number >= 0"),
        ("alpha", "0.1", "a number >= 0"),
        ("batch_size", "all", "'auto' or a whole number >= 1"),
        ("batch_size", 2.0, "'auto' or a whole number >= 1"),
        ("batch_size", 1, "at least 2"),
        ("learning_rate_init", 0, "None or a number > 0"),
        ("learning_rate_init", math.nan, "None or a number > 0"),
        ("max_iter", 0, "a whole number >= 1"),
        ("early_stopping", "yes", "True or False"),
        ("validation_fraction", 1.0, "a number between 0 and 1"),
        ("n_iter_no_change", None, "a whole number >= 1"),
        ("tol", -1, "a number >= 0"),
        ("verbose", -1, "True, False or a whole number >= 0"),
        ("warm_start", None, "True or False"),
        ("device", 0, "the name of a torch device"),
        ("device", "abacus", "auto, cpu or a device of this machine"),
    ],
)
def test_parameter_that_makes_no_sense_raises_by_its_name(name: str, value: object, expected: str) -> None:
    with pytest.raises(SettingsError, match=f"^{name} expected .*{expected}"):
        regressor(**{name: value}).fit(*DIABETES)


def test_parameters_as_numpy_numbers_are_taken() -> None:
    sizes = np.array([8, 4])
    model = classifier(hidden_layer_sizes=sizes, alpha=np.float32(0.1), batch_size=np.int64(50), norm=np.str_("batch"))
    assert model.set_params(early_stopping=np.bool_(True)).fit(*IRIS).n_layers_ == 4
    assert classifier(hidden_layer_sizes=5).fit(*IRIS).n_layers_ == 3


def test_logistic_is_sigmoid() -> None:
    x, y = IRIS
    logistic, sigmoid = (classifier(activation=name).fit(x, y) for name in ("logistic", "sigmoid"))
    assert (raw(logistic, x) == raw(sigmoid, x)).all()


def test_batch_size_beyond_the_rows_is_all_of_them() -> None:
    x, y = IRIS
    assert (raw(classifier(batch_size=10_000).fit(x, y), x) == raw(classifier(batch_size=150).fit(x, y), x)).all()
