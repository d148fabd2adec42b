"""Without hidden layers the network is linear or logistic regression; numbers are predicted in the user's units."""

from __future__ import annotations

import warnings

import numpy as np
import pytest
import torch
from sklearn.linear_model import LogisticRegression
from tests.training.small import Examples, assembled, changed, clouds, plane, trained

from batchnorm.training.assemble import Assembly


def predicted(assembly: Assembly, rows: Examples) -> np.ndarray:
    mean, std = assembly.target
    assembly.network.eval()
    with torch.no_grad():
        return assembly.network.body(assembly.rows(rows).x)[:, 0].numpy() * std + mean


def test_no_hidden_layer_is_linear_regression() -> None:
    rows, later = plane(100, noise=5.0), plane(20, seed=1)
    settings = changed(hidden=(), optimizer="gd", learning_rate=0.2, batch_size=100, epochs=300)
    assembly = trained(settings, task="regression", train=rows, dtype=torch.float64)
    with_ones = np.column_stack([rows.x, np.ones(len(rows))])
    coefficients = np.linalg.lstsq(with_ones, rows.y, rcond=None)[0]
    expected = later.x @ coefficients[:-1] + coefficients[-1]
    np.testing.assert_allclose(predicted(assembly, later), expected, rtol=1e-9)


def test_no_hidden_layer_is_logistic_regression() -> None:
    rows = clouds(120, spread=3.0)
    decay = 0.01
    settings = changed(hidden=(), optimizer="gd", learning_rate=1.0, batch_size=200, epochs=1500, weight_decay=decay)
    assembly = trained(settings, train=rows, dtype=torch.float64, traced=False)
    x = (rows.x - rows.x.mean(0)) / rows.x.std(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        reference = LogisticRegression(C=1 / (decay * len(rows)), tol=1e-10, max_iter=10_000).fit(x, rows.y)
    with torch.no_grad():
        found = torch.softmax(assembly.network.body(assembly.rows(rows).x), 1).numpy()
    np.testing.assert_allclose(found, reference.predict_proba(x), atol=1e-5)


@pytest.mark.parametrize("hidden", [(), (5,)], ids=str)
def test_targets_are_standardized_by_the_training_rows(hidden: tuple[int, ...]) -> None:
    rows = plane()
    assembly = assembled(changed(hidden=hidden), task="regression", train=rows)
    assert assembly.target == pytest.approx((rows.y.mean(), rows.y.std()), rel=1e-12)
    y = assembly.run.train.y.double()
    assert float(y.mean()) == pytest.approx(0, abs=1e-6)
    assert float(y.std(correction=0)) == pytest.approx(1, rel=1e-6)


@pytest.mark.parametrize(("scale", "shift"), [(1e-9, 0.0), (1.0, 1e9), (1e12, -5e12)])
def test_predictions_are_in_the_units_of_the_targets(scale: float, shift: float) -> None:
    """The same targets in other units: the same training, the same score, predictions in those units."""
    rows = plane()
    other = Examples(rows.x, rows.y * scale + shift)
    settings = changed(epochs=20)
    first, second = (trained(settings, task="regression", train=r, dtype=torch.float64) for r in (rows, other))
    np.testing.assert_allclose(
        predicted(second, other), predicted(first, rows) * scale + shift, rtol=1e-5, atol=1e-6 * scale
    )


@pytest.mark.parametrize("constant", [42.0, 0.1, 1e12 / 3, -1e-9 / 7])
def test_a_constant_target_is_predicted_as_it_is(constant: float) -> None:
    """Its deviation is 0 or, by rounding, next to it: dividing by that would make targets of noise."""
    rows = Examples(plane().x, np.full(75, constant))
    assembly = trained(changed(epochs=60), task="regression", train=rows)
    assert assembly.target == (pytest.approx(constant, rel=1e-15), 1.0)
    np.testing.assert_allclose(predicted(assembly, rows), constant, atol=0.1)


def test_a_network_learns_what_a_line_cannot() -> None:
    random = np.random.default_rng(0)
    x = random.uniform(-2, 2, size=(300, 2))
    rows = Examples(x, x[:, 0] * x[:, 1] * 50 + 300)
    assembly = trained(changed(hidden=(32, 32), epochs=40, activation="relu"), task="regression", train=rows)
    assert assembly.run.judge(assembly.run.train)[1] > 0.9
