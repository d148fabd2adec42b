"""batch_norm(): what the function adds to the kernels. The layers' tests (nn/) run it in every mode and layout."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from tests.reference.exact import Problem, solve
from tests.reference.problems import SHAPES, draw, tensor
from torch import Tensor
from torch.nn import functional
from torch.testing import assert_close

import batchnorm
from batchnorm.functional import batch_norm, normalize_and_update
from batchnorm.kernels.running import Running

each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def given(shape: tuple[int, ...] = (6, 3)) -> dict[str, Any]:
    problem = draw(shape, running=True)
    assert problem.running is not None
    names = ("input", "running_mean", "running_var", "weight", "bias")
    return dict(zip(names, map(tensor, (problem.x, *problem.running, problem.gamma, problem.beta)), strict=True))


def test_it_is_the_packages_batch_norm() -> None:
    assert batchnorm.batch_norm is batch_norm


@each_mode
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_output_and_statistics_equal_torch(shape: tuple[int, ...], training: bool) -> None:
    ours, torchs = given(shape), given(shape)
    y = batch_norm(**ours, training=training, momentum=0.3, eps=1e-3)
    assert_close(y, functional.batch_norm(**torchs, training=training, momentum=0.3, eps=1e-3))
    for name in ("running_mean", "running_var"):
        assert_close(ours[name], torchs[name])


def test_statistics_are_updated_in_place_in_training_only() -> None:
    arguments = given()
    before = {name: arguments[name].clone() for name in ("running_mean", "running_var")}
    batch_norm(**arguments)
    for name, value in before.items():
        assert torch.equal(arguments[name], value)
    batch_norm(**arguments, training=True)
    exact = solve(Problem(arguments["input"].numpy()))
    expected = 0.9 * before["running_mean"].numpy() + 0.1 * exact.mean.astype(float)
    np.testing.assert_allclose(arguments["running_mean"].numpy(), expected, rtol=1e-14)


def test_given_tensors_are_otherwise_left_alone() -> None:
    arguments = given()
    before = {name: value.clone() for name, value in arguments.items()}
    batch_norm(**arguments, training=True, activation="relu", residual=torch.ones(6, 3).double())
    for name in ("input", "weight", "bias"):
        assert torch.equal(arguments[name], before[name])


def test_statistics_may_be_views_of_any_strides() -> None:
    arguments, strided = given(), given()
    for name in ("running_mean", "running_var"):
        strided[name] = torch.stack([strided[name], strided[name]], 1)[:, 0]
    for training in (True, False):
        y, expected = batch_norm(**strided, training=training), batch_norm(**arguments, training=training)
        assert_close(y, expected, rtol=0, atol=0)
    assert_close(strided["running_var"], arguments["running_var"], rtol=0, atol=0)


@each_mode
def test_statistics_that_want_gradients_are_treated_as_torch_treats_them(training: bool) -> None:
    """A leaf that wants gradients cannot be updated in place; at test time it is a constant."""
    outcomes = []
    for function in (batch_norm, functional.batch_norm):
        arguments = given()
        arguments["running_mean"].requires_grad_()
        arguments["input"].requires_grad_()
        try:
            y = function(**arguments, training=training)
            y.sum().backward()
            outcomes.append((y.detach().numpy().round(12).tolist(), arguments["running_mean"].grad))
        except Exception as error:
            outcomes.append((type(error).__name__, str(error)[:60]))
    assert outcomes[0] == outcomes[1]


@each_mode
def test_gradient_goes_to_what_wants_one_and_nothing_else(training: bool) -> None:
    for name in ("input", "weight", "bias"):
        arguments = given()
        arguments[name].requires_grad_()
        batch_norm(**arguments, training=training).sum().backward()
        assert arguments[name].grad is not None
        assert all(value.grad is None for other, value in arguments.items() if other != name)


def test_subclass_with_a_torch_function_sees_the_call() -> None:
    seen = []

    class Watched(Tensor):
        @classmethod
        def __torch_function__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            seen.append(func)
            return super().__torch_function__(func, types, args, kwargs or {})

    x = torch.randn(6, 3).as_subclass(Watched)
    y = batch_norm(x, None, None, training=True)
    assert batch_norm in seen
    assert_close(torch.Tensor(y), functional.batch_norm(torch.Tensor(x), None, None, training=True))


@pytest.mark.parametrize("activation", [None, "relu"])
def test_float32_batch_normalized_with_nothing_else_is_exact(activation: str | None) -> None:
    x = torch.randn(50, 3, generator=torch.Generator().manual_seed(0)) * 3 + 1000
    y = batch_norm(x, None, None, training=True, activation=activation)
    exact = solve(Problem(x.double().numpy(), activation=activation)).y
    np.testing.assert_allclose(y.numpy(), exact.astype(float), rtol=2e-7, atol=1e-7)


def test_counts_of_rows_are_rows_repeated() -> None:
    """What training uses for a sample weight in the statistics."""
    x = tensor(draw((4, 3)).x)
    counts = torch.tensor([2.0, 1.0, 3.0, 1.0], dtype=torch.float64)[:, None]
    running, repeated = (Running(torch.zeros(3).double(), torch.ones(3).double(), 0.1) for _ in range(2))
    y, _ = normalize_and_update(x, running, None, None, training=True, eps=1e-5, weights=counts)
    rows = torch.repeat_interleave(torch.arange(4), counts[:, 0].long())
    expected, _ = normalize_and_update(x[rows], repeated, None, None, training=True, eps=1e-5)
    assert_close(y[rows], expected)
    assert_close((running.mean, running.var), (repeated.mean, repeated.var))


def test_test_time_needs_statistics() -> None:
    with pytest.raises(AssertionError, match="test time needs running statistics"):
        normalize_and_update(torch.ones(2, 3), None, None, None, training=False, eps=1e-5)
