"""Activations and their slopes against torch's own functions and autograd."""

from __future__ import annotations

import math
import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tests.reference import exact
from torch.testing import assert_close

from batchnorm.kernels.activations import ACTIVATIONS, LEAK, check_activation

TORCHS = {
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
}

Z = torch.cat([torch.linspace(-12, 12, 97), torch.tensor([0.0, -0.0, 1e-8, -1e-8, 80.0, -80.0])]).double()

each_activation = pytest.mark.parametrize("name", list(TORCHS))


def test_names_are_those_of_the_design() -> None:
    assert list(ACTIVATIONS) == ["relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu"]
    assert LEAK == 0.01


@each_activation
def test_value_equals_torchs_function(name: str) -> None:
    assert_close(ACTIVATIONS[name].value(Z), TORCHS[name](Z), rtol=0, atol=0)


@each_activation
def test_value_and_slope_equal_the_oracle(name: str) -> None:
    value, derivative = exact.ACTIVATIONS[name]
    z = Z[Z != 0]
    wide = z.numpy().astype(np.longdouble)
    found = ACTIVATIONS[name]
    # torch's gelu has 1 + erf, which knows no tail: right to 1e-16 of 1, not of itself.
    absolute = 1e-15 if name == "gelu" else 1e-300
    np.testing.assert_allclose(found.value(z), value(wide).astype(float), rtol=1e-13, atol=absolute)
    np.testing.assert_allclose(
        found.slope(z, torch.ones_like(z)), derivative(wide).astype(float), rtol=1e-12, atol=1e-14
    )


@each_activation
def test_slope_equals_torchs_autograd(name: str) -> None:
    z, dy = Z.clone().requires_grad_(), torch.linspace(-2, 2, len(Z)).double()
    (expected,) = torch.autograd.grad(TORCHS[name](z), z, dy)
    assert_close(ACTIVATIONS[name].slope(z.detach(), dy), expected, rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", ["relu", "leaky_relu", "sigmoid", "tanh"])
def test_slope_at_output_equals_slope_at_input(name: str) -> None:
    activation, dy = ACTIVATIONS[name], torch.linspace(-2, 2, len(Z)).double()
    assert activation.slope_at_output is not None
    assert_close(activation.slope_at_output(activation.value(Z), dy), activation.slope(Z, dy), rtol=1e-13, atol=1e-15)


@pytest.mark.parametrize("name", ["gelu", "silu"])
def test_activations_that_are_not_monotone_have_no_slope_at_output(name: str) -> None:
    assert ACTIVATIONS[name].slope_at_output is None


@each_activation
def test_value_and_slope_of_nan_are_nan_and_of_infinities_are_finite_or_infinite(name: str) -> None:
    activation, nan = ACTIVATIONS[name], torch.tensor([math.nan], dtype=torch.float64)
    assert activation.value(nan).isnan().all()
    assert activation.value(torch.tensor([math.inf])).item() in (math.inf, 1.0)


def test_none_and_every_known_name_pass_the_check() -> None:
    for name in (None, *ACTIVATIONS):
        check_activation(name)


@pytest.mark.parametrize("name", ["ReLU", "softmax", "", "gelu_tanh"])
def test_unknown_activation_is_refused_with_the_known_ones(name: str) -> None:
    text = f"activation expected one of relu, leaky_relu, sigmoid, tanh, gelu, silu, or None; got {name!r}"
    with pytest.raises(ValueError, match=f"^{re.escape(text)}$"):
        check_activation(name)
