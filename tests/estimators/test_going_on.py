"""Going on from the last fit: warm_start over the same rows, partial_fit over a stream."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.estimators.problems import DIABETES, IRIS, classifier, raw, regressor, some

from batchnorm.errors import DataError, SettingsError

pytestmark = pytest.mark.filterwarnings("ignore:Maximum iterations:sklearn.exceptions.ConvergenceWarning")
BOTH = pytest.mark.parametrize(("make", "problem"), [(classifier, IRIS), (regressor, DIABETES)])


def stream(model: Any, x: np.ndarray, y: np.ndarray, *, rows: int = 30, passes: int = 1) -> Any:
    """partial_fit over chunks."""
    first = {"classes": np.unique(y)} if hasattr(model, "predict_proba") else {}
    order = np.random.default_rng(0).permutation(len(x))
    for start in [*range(0, len(x), rows)] * passes:
        model.partial_fit(x[order[start : start + rows]], y[order[start : start + rows]], **first)
    return model


@BOTH
def test_warm_start_goes_on_where_the_last_fit_ended(make: Any, problem: Any) -> None:
    model = make(warm_start=True).fit(*problem)
    first, network = list(model.loss_curve_), model.network_
    model.fit(*problem)
    assert model.loss_curve_[:20] == first
    assert model.loss_curve_[20] < first[5]
    assert (len(model.loss_curve_), model.n_iter_, model.t_) == (40, 20, 40 * len(problem[0]))
    assert model.network_ is not network


@BOTH
def test_fit_without_warm_start_begins_anew(make: Any, problem: Any) -> None:
    model = make().fit(*problem)
    said = raw(model, problem[0])
    assert (raw(model.fit(*problem), problem[0]) == said).all()


def test_warm_start_with_early_stopping_appends_the_scores() -> None:
    model = classifier(warm_start=True, early_stopping=True).fit(*IRIS)
    scores = list(model.validation_scores_)
    model.fit(*IRIS)
    assert model.validation_scores_[: len(scores)] == scores
    assert len(model.validation_scores_) == len(model.loss_curve_)


@pytest.mark.parametrize(
    ("name", "value"),
    [("hidden_layer_sizes", (9,)), ("norm", None), ("eps", 0.1), ("activation", "tanh"), ("dropout", 0.1)],
)
def test_warm_start_with_another_network_raises_by_name(name: str, value: object) -> None:
    model = classifier(warm_start=True).fit(*IRIS)
    with pytest.raises(SettingsError, match=f"^{name} expected .* as in the last fit"):
        model.set_params(**{name: value}).fit(*IRIS)
    with pytest.raises(SettingsError, match=f"^{name} expected .* as in the last fit"):
        model.partial_fit(*IRIS)


def test_warm_start_with_a_new_class_raises_and_with_fewer_does_not() -> None:
    x, y = IRIS
    model = classifier(warm_start=True).fit(x, y)
    with pytest.raises(DataError, match="among 0, 1, 2, got 3"):
        model.fit(x, y + 1)
    assert model.fit(x[y < 2], y[y < 2]).classes_.tolist() == [0, 1, 2]


@BOTH
def test_stream_is_learnt(make: Any, problem: Any) -> None:
    model = stream(make(learning_rate_init=0.01), *problem, passes=25)
    assert model.score(*problem) > (0.93 if make is classifier else 0.45)
    assert model.t_ == 25 * len(problem[0])


@BOTH
def test_stream_keeps_running_statistics_and_what_the_optimizer_knows(make: Any, problem: Any) -> None:
    x, y = problem
    model = stream(make(), x[:90], y[:90])
    before = model.network_.layers[0].norm
    mean, batches = before.running_mean.clone(), int(before.num_batches_tracked)
    model.partial_fit(x[:30], y[:30])
    after = model.network_.layers[0].norm
    assert int(after.num_batches_tracked) == batches + 1 == 4
    assert 0 < float((after.running_mean - mean).abs().max()) < 1
    assert torch.equal(before.running_mean, mean)
    steps = [int(state["step"]) for state in model._trained.optimizer.values()]
    assert set(steps) == {4}


@BOTH
def test_inputs_of_a_stream_are_normalized_by_all_rows_so_far(make: Any, problem: Any) -> None:
    x, y = problem
    model = stream(make(), x, y)
    np.testing.assert_allclose(model.network_.input_norm.mean.numpy(), x.mean(0))
    np.testing.assert_allclose(model.network_.input_norm.std.numpy(), x.std(0))
    np.testing.assert_allclose([column.fill for column in model.model_file.schema.columns], x.mean(0))


def test_new_targets_rescale_the_head_and_keep_predictions() -> None:
    x, y = DIABETES
    model = stream(regressor(input_norm=False, hidden_layer_sizes=(), learning_rate_init=1e-12), x[:100], y[:100])
    said = model.predict(x)
    model.partial_fit(x[:100], 1e6 * y[:100] - 5e7)
    mean, std = model._trained.scale
    seen = np.concatenate([y[:100], 1e6 * y[:100] - 5e7])
    np.testing.assert_allclose([mean, std], [seen.mean(), seen.std()])
    np.testing.assert_allclose(model.predict(x), said, rtol=1e-4, atol=0.1)


@BOTH
def test_stream_after_fit_goes_on_with_its_network(make: Any, problem: Any) -> None:
    model = make().fit(*problem)
    losses = list(model.loss_curve_)
    model.partial_fit(*problem)
    assert model.loss_curve_[:-1] == losses
    assert model.loss_ < losses[5]
    assert model.n_iter_ == 1


@BOTH
def test_last_row_alone_takes_no_step_and_says_so(make: Any, problem: Any) -> None:
    x, y = problem
    model = stream(make(), x[:60], y[:60])
    weight = model.network_.layers[0].linear.weight.clone()
    with pytest.warns(UserWarning, match="partial_fit expected at least two rows, got n_samples=1"):
        model.partial_fit(x[60:61], y[60:61])
    assert torch.equal(model.network_.layers[0].linear.weight, weight)
    np.testing.assert_allclose(model.network_.input_norm.mean.numpy(), x[:61].mean(0))
    assert (
        make(norm=None)
        .partial_fit(x[:2], y[:2], **({"classes": [0, 1, 2]} if make is classifier else {}))
        .partial_fit(x[:1], y[:1])
    )


@BOTH
def test_failed_partial_fit_leaves_the_estimator_as_it_was(make: Any, problem: Any) -> None:
    x, y = problem
    model = stream(make(), x, y)
    before, said = dict(vars(model)), raw(model, x)
    for rows in (np.full_like(x[:5], np.nan), x[:5, :-1]):
        with pytest.raises(ValueError, match=r"NaN|features"):
            model.partial_fit(rows, y[:5])
    assert vars(model) == before
    assert (raw(model, x) == said).all()


def test_partial_fit_that_diverges_leaves_the_estimator_as_it_was() -> None:
    x, y = DIABETES
    model = stream(regressor(norm=None, solver="sgd"), x[:60], y[:60])
    model.learning_rate_init = 1e300
    before, said = dict(vars(model)), raw(model, x)
    with pytest.raises(ValueError, match="diverged"):
        model.partial_fit(x, y)
    assert vars(model) == before
    assert (raw(model, x) == said).all()


def test_stream_with_the_same_seed_reproduces_bit_by_bit() -> None:
    x, y = some(IRIS, 120)
    one, other = stream(classifier(), x, y), stream(classifier(), x, y)
    assert (raw(one, x) == raw(other, x)).all()


def test_partial_fit_of_classes() -> None:
    x, y = IRIS
    with pytest.raises(SettingsError, match="classes must be passed on the first call to partial_fit"):
        classifier().partial_fit(x, y)
    model = classifier().partial_fit(x[y < 2], y[y < 2], classes=[2, 1, 0])
    assert model.classes_.tolist() == [0, 1, 2]
    assert model.predict_proba(x).shape == (150, 3)
    with pytest.raises(SettingsError, match="as in the first call"):
        model.partial_fit(x, y, classes=[0, 1])
    with pytest.raises(DataError, match="got 5: fit anew"):
        model.partial_fit(x, np.full(150, 5))
    with pytest.raises(SettingsError, match="expected a dict in partial_fit, got 'balanced'"):
        classifier(class_weight="balanced").partial_fit(x, y, classes=[0, 1, 2])
    assert classifier(class_weight={0: 2.0}).partial_fit(x, y, classes=[0, 1, 2]).t_ == 150


def test_there_is_no_partial_fit_with_early_stopping() -> None:
    for model in (classifier(early_stopping=True), regressor(early_stopping=True)):
        assert not hasattr(model, "partial_fit")
        with pytest.raises(AttributeError, match="partial_fit"):
            model.partial_fit(*IRIS)
