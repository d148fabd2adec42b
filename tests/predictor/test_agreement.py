"""The folded network against the same network in torch.nn: to float64 where it was trained in it, to float32 else."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from tests.model_cases import model
from tests.predictor.unfolded import expected_scores, inputs, wide

from batchnorm.errors import ModelFileError
from batchnorm.model_file import ModelFile
from batchnorm.model_file.spec import ACTIVATIONS
from batchnorm.predictor import Predictor

TINY = 1e-12  # for float64
SMALL = 2e-5  # for float32, of values of order 1 behind up to four layers


@pytest.mark.parametrize("regression", [False, True])
@pytest.mark.parametrize("input_norm", [True, False])
@pytest.mark.parametrize("norm", ["batch", None])
@pytest.mark.parametrize("placement", ["before", "after"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_predictor_agrees_with_torch(
    activation: str, placement: str, norm: str | None, input_norm: bool, regression: bool
) -> None:
    for hidden in [(), (7,), (7, 4, 6)]:
        choices = {"activation": activation, "placement": placement, "norm": norm, "input_norm": input_norm}
        file = model(len(hidden), regression=regression, hidden=hidden, **choices)
        x = inputs(33)
        expected = expected_scores(file, x)
        np.testing.assert_allclose(Predictor(file).decision_scores(x), expected, rtol=SMALL, atol=SMALL)
        predictor = Predictor(wide(file))
        np.testing.assert_allclose(predictor.decision_scores(x), expected, rtol=TINY, atol=TINY)
        if regression:
            mean, std = float(file.tensors["target.mean"]), float(file.tensors["target.std"])
            np.testing.assert_allclose(predictor.predict(x), expected[:, 0] * std + mean, rtol=TINY, atol=TINY)
        else:
            chances = torch.softmax(torch.tensor(expected), dim=1).numpy()
            np.testing.assert_allclose(predictor.predict_proba(x), chances, rtol=1e-11, atol=1e-14)
            assert predictor.predict(x).tolist() == [f"class {number}" for number in expected.argmax(axis=1)]


@pytest.mark.parametrize("hidden", [(16,), (100, 100, 100), (300,)])
@pytest.mark.parametrize("placement", ["before", "after"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_predictor_in_float32_is_as_accurate_as_torch_in_float32(
    activation: str, placement: str, hidden: tuple[int, ...]
) -> None:
    """Folding and homogeneous coordinates must cost no digits: root mean squares of the errors, against float64."""
    file = model(3, inputs=30, hidden=hidden, activation=activation, placement=placement)
    x = inputs(300, 30)
    exact = expected_scores(file, x)
    ours, theirs = (
        float(np.sqrt(np.mean((found - exact) ** 2)))
        for found in (Predictor(file).decision_scores(x), expected_scores(file, x, torch.float32))
    )
    assert ours < 1.5 * theirs + 1e-9


@pytest.mark.parametrize("eps", [1e-12, 1e-3, 10.0])
@pytest.mark.parametrize("placement", ["before", "after"])
def test_predictor_with_any_eps_and_variances_of_zero_agrees_with_torch(eps: float, placement: str) -> None:
    file = model(eps=eps, placement=placement, activation="tanh")
    file.tensors["layers.0.norm.running_var"][:3] = 0
    found = Predictor(wide(file)).decision_scores(inputs(20))
    np.testing.assert_allclose(found, expected_scores(file, inputs(20)), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(("mean", "std", "step"), [(1e9, 1.0, 0.25), (1e9, 1e-3, 2.0**-9), (1e5, 1.0, 0.25)])
def test_predictor_with_inputs_far_from_zero_keeps_their_differences(mean: float, std: float, step: float) -> None:
    """float32 rows, or the input normalization folded into float32 weights, would lose 1 % at 1e5 and all at 1e9."""
    file = model()
    file.tensors["input_norm.mean"][:] = mean
    file.tensors["input_norm.std"][:] = std
    x = mean + np.arange(20.0).reshape(4, 5) * step
    expected = expected_scores(file, x)
    assert np.ptp(expected, axis=0).min() > 0.01
    np.testing.assert_allclose(Predictor(file).decision_scores(x), expected, rtol=SMALL, atol=SMALL)
    np.testing.assert_allclose(Predictor(wide(file)).decision_scores(x), expected, rtol=TINY, atol=TINY)


def test_predictor_maps_a_constant_feature_to_zero_whatever_comes() -> None:
    file = model()
    file.tensors["input_norm.std"][2] = 0
    x = inputs(6)
    other = x.copy()
    other[:, 2] = [0, 1, -1e9, 1e30, file.tensors["input_norm.mean"][2], 1e-30]
    assert np.array_equal(Predictor(file).decision_scores(x), Predictor(file).decision_scores(other))
    np.testing.assert_allclose(Predictor(wide(file)).decision_scores(x), expected_scores(file, x), rtol=TINY, atol=TINY)


@pytest.mark.parametrize(("outputs", "features"), [(3, 9000), (700, 700), (1, 20_000)])
def test_predictor_of_layers_too_large_for_one_product_agrees_with_torch(outputs: int, features: int) -> None:
    file = wide(model(inputs=features, hidden=(outputs,), activation="tanh"))
    x = inputs(3, features)
    np.testing.assert_allclose(Predictor(file).decision_scores(x), expected_scores(file, x), rtol=1e-11, atol=1e-11)


def test_predictor_of_weights_that_float32_cannot_hold_folded_is_refused() -> None:
    file = model(eps=1e-12)
    file.tensors["layers.0.norm.running_var"][:] = 0
    file.tensors["layers.0.norm.weight"][:] = 1e35
    with pytest.raises(ModelFileError, match=r"layers\.0 expected weights that float32 can hold once normalized"):
        Predictor(file)
    assert np.isfinite(Predictor(wide(file)).decision_scores(inputs(2))).all()


def test_predictor_of_weights_that_float64_cannot_hold_folded_is_refused() -> None:
    file = model(eps=1e-300)
    file.tensors["layers.0.norm.running_var"][:] = 0
    large = {**file.tensors, "layers.0.norm.weight": np.full(7, 1e300)}
    with pytest.raises(ModelFileError, match=r"layers\.0 expected weights that float\d\d can hold once normalized"):
        Predictor(ModelFile(large, file.network, file.schema, {}))
