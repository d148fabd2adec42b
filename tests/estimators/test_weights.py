"""Weighting a row and repeating it are one thing; a batch of all rows is a set."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.estimators.problems import DIABETES, IRIS, classifier, raw, regressor, some

from batchnorm.estimators.rows import canonical, set_aside
from batchnorm.training.examples import Examples

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")
BOTH = pytest.mark.parametrize(("make", "problem"), [(classifier, IRIS), (regressor, DIABETES)])
CHOICES = [
    {},
    {"early_stopping": True, "validation_fraction": 0.3},
    {"dropout": 0.3, "norm": None},
    {"placement": "after", "input_norm": False},
    {"solver": "rmsprop", "alpha": 0.1, "batch_size": 150},
]


def weights_of(rows: int) -> np.ndarray:
    return np.random.default_rng(1).integers(0, 4, rows)


@BOTH
@pytest.mark.parametrize("choice", CHOICES)
def test_weighted_fit_in_one_batch_is_bitwise_the_repeated_one(make: Any, problem: Any, choice: dict[str, Any]) -> None:
    x, y = some(problem, 60)
    weights = weights_of(60)
    weighted = make(**choice).fit(x, y, sample_weight=weights)
    repeated = make(**choice).fit(x.repeat(weights, 0), y.repeat(weights))
    assert (raw(weighted, x) == raw(repeated, x)).all()
    assert weighted.loss_curve_ == repeated.loss_curve_


@BOTH
@pytest.mark.parametrize("choice", CHOICES)
def test_fit_in_one_batch_takes_rows_in_any_order(make: Any, problem: Any, choice: dict[str, Any]) -> None:
    x, y = some(problem, 60)
    assert (raw(make(**choice).fit(x, y), x) == raw(make(**choice).fit(x[::-1], y[::-1]), x)).all()


@BOTH
def test_fractional_weights_say_only_how_rows_compare(make: Any, problem: Any) -> None:
    x, y = some(problem, 60)
    weights = np.random.default_rng(1).uniform(0.1, 2, 60)
    one, other = make().fit(x, y, sample_weight=weights), make().fit(x, y, sample_weight=1000 * weights)
    np.testing.assert_allclose(raw(one, x), raw(other, x), rtol=1e-6)
    assert (raw(one, x) != raw(make().fit(x, y), x)).any()
    halves = make().fit(x, y, sample_weight=np.full(60, 0.5))
    assert (raw(halves, x) == raw(make().fit(x, y), x)).all()


@BOTH
def test_rows_of_weight_zero_are_not_there_in_mini_batches_either(make: Any, problem: Any) -> None:
    x, y = problem
    weights = np.ones(len(x))
    weights[::3] = 0
    kept = weights > 0
    weighted = make(batch_size=16).fit(x, y, sample_weight=weights)
    without = make(batch_size=16).fit(x[kept], y[kept])
    assert (raw(weighted, x) == raw(without, x)).all()


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        (np.zeros(150), "at least one row that counts, got only zeros"),
        (np.ones(149), "150 finite numbers >= 0"),
        (np.ones((150, 2)), "150 finite numbers >= 0"),
        (np.full(150, np.nan), "150 finite numbers >= 0"),
        (-np.ones(150), "150 finite numbers >= 0"),
    ],
)
def test_weights_that_are_none_raise(weights: np.ndarray, expected: str) -> None:
    with pytest.raises(ValueError, match=expected):
        classifier().fit(*IRIS, sample_weight=weights)


counts = st.lists(st.integers(1, 4), min_size=2, max_size=12)


@given(counts, st.integers(0, 2**32 - 1))
@settings(max_examples=60, deadline=None)
def test_canonical_rows_of_any_order_and_writing_are_equal(repeats: list[int], seed: int) -> None:
    random = np.random.default_rng(seed)
    x = random.integers(-1, 2, (len(repeats), 2)).astype(np.float64) * random.choice([1.0, -1.0], (len(repeats), 1))
    y = random.integers(0, 2, len(repeats))
    shuffled = random.permutation(np.repeat(np.arange(len(repeats)), repeats))
    weighted = canonical(Examples(x, y, np.array(repeats, dtype=np.float64)))
    repeated = canonical(Examples(x[shuffled], y[shuffled]))
    assert weighted.x.tobytes() == repeated.x.tobytes()
    assert weighted.y.tolist() == repeated.y.tolist()
    assert weighted.count == repeated.count == sum(repeats)
    assert (weighted.weights is None) == (repeated.weights is None)
    if weighted.weights is not None and repeated.weights is not None:
        assert weighted.weights.tolist() == repeated.weights.tolist()


@given(counts, st.floats(0.05, 0.95), st.integers(0, 2**32 - 1), st.booleans(), st.booleans())
@settings(max_examples=60, deadline=None)
def test_rows_set_aside_and_rows_left_are_all_the_rows(
    repeats: list[int], fraction: float, seed: int, stratified: bool, by_copy: bool
) -> None:
    number = np.arange(len(repeats))
    weights = np.array(repeats, dtype=np.float64)
    examples = Examples(number[:, None] * 1.0, np.zeros(len(number), dtype=np.int64), weights)
    train, valid = set_aside(examples, fraction, seed=seed, stratified=stratified, by_copy=by_copy)
    total = np.zeros(len(number))
    for part in (train, valid):
        total[part.x[:, 0].astype(int)] += np.ones(len(part)) if part.weights is None else part.weights
    assert total.tolist() == repeats
    assert train.count >= 1
    assert valid.count >= 1
    if not by_copy:
        assert not set(train.x[:, 0]) & set(valid.x[:, 0])
