"""The activations of the predictor against torch's, at any value."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tests.predictor.unfolded import ACTIVATIONS

from batchnorm.model_file import spec
from batchnorm.predictor.activations import activation_of
from batchnorm.predictor.quiet import quiet


def activated(values: list[float], activation: str, dtype: str = "float64") -> NDArray[np.float64]:
    z = np.array([values], dtype)
    quiet().run(activation_of(activation), z)
    assert z.dtype == dtype
    return z.astype(np.float64)


@pytest.mark.parametrize("activation", spec.ACTIVATIONS)
@pytest.mark.parametrize(("dtype", "largest", "rtol"), [("float64", 1e308, 1e-15), ("float32", 3e38, 3e-7)])
def test_activation_at_large_values_is_quiet_and_right(
    activation: str, dtype: str, largest: float, rtol: float
) -> None:
    z = [-largest, -1e4, -800.0, -100.0, -40.0, -1.0, -0.0, 0.0, 1e-30, 1.0, 40.0, 100.0, 800.0, 1e4, largest]
    with np.errstate(all="raise"):
        found = activated(z, activation, dtype)
    expected = ACTIVATIONS[activation](torch.tensor([z], dtype=torch.float64)).numpy()
    np.testing.assert_allclose(found, expected, rtol=rtol, atol=1e-14 if dtype == "float64" else 1e-7)


@pytest.mark.parametrize(("dtype", "rel"), [("float64", 1e-13), ("float32", 2e-6)])
@pytest.mark.parametrize("z", [-30.0, -12.0, -8.0, -3.0, -0.5])
def test_activation_keeps_its_digits_in_the_lower_tail(z: float, dtype: str, rel: float) -> None:
    """1 + erf and 1 - sigmoid lose them all there."""
    exact = {"silu": z * math.exp(z) / (1 + math.exp(z)), "sigmoid": math.exp(z) / (1 + math.exp(z))}
    if dtype == "float64" or z > -13:  # beyond, the result is too small for float32
        exact["gelu"] = 0.5 * z * math.erfc(-z / math.sqrt(2))
    for activation, expected in exact.items():
        assert activated([z], activation, dtype)[0, 0] == pytest.approx(expected, rel=rel)


@pytest.mark.parametrize("activation", spec.ACTIVATIONS)
def test_activation_keeps_nan(activation: str) -> None:
    assert np.isnan(activated([np.nan], activation)).all()
