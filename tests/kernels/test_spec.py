"""The specification against the exact oracle: forward and backward, every combination of what may be absent."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from tests.reference.exact import ACTIVATIONS, Problem, differentiate, solve
from tests.reference.problems import SHAPES, draw, tensor

from batchnorm.kernels import spec
from batchnorm.kernels.spec import Affine, Centre, Deviation, Gradients

ACTIVATION_NAMES = [None, *ACTIVATIONS]


def centre(problem: Problem, dtype: torch.dtype = torch.float64) -> tuple[Centre, Deviation]:
    x, weights = tensor(problem.x, dtype), tensor(problem.counts)
    if problem.running is None:
        return spec.training_centre(x, weights=weights, eps=problem.eps)
    return spec.evaluation_centre(x, *map(tensor, problem.running), weights=weights, eps=problem.eps)


def affine(problem: Problem) -> Affine:
    return Affine(tensor(problem.gamma), tensor(problem.beta), tensor(problem.residual), problem.activation)


def forward(problem: Problem, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    found, deviation = centre(problem, dtype)
    return spec.normalize(deviation, found, affine(problem), weights=tensor(problem.counts), dtype=dtype)


def backward(problem: Problem, dy: np.ndarray, **keywords: object) -> Gradients:
    found, _ = centre(problem)
    counts = tensor(problem.counts)
    return spec.backward(tensor(dy), tensor(problem.x), found, affine(problem), weights=counts, **keywords)


def assert_near(found: torch.Tensor, exact: np.ndarray, *, tolerance: float = 1e-13) -> None:
    largest = max(float(np.abs(exact).max(initial=0)), 1.0)
    np.testing.assert_allclose(found.double().numpy(), exact.astype(float), rtol=0, atol=tolerance * largest)


flags = pytest.mark.parametrize(
    ("running", "residual", "masked", "with_affine"),
    list(itertools.product([False, True], repeat=4)),
    ids=lambda value: str(int(value)),
)


@flags
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_forward_equals_the_oracle(
    activation: str | None, running: bool, residual: bool, masked: bool, with_affine: bool
) -> None:
    for seed, shape in enumerate(SHAPES):
        problem = draw(
            shape,
            activation=activation,
            running=running,
            residual=residual,
            masked=masked,
            affine=with_affine,
            seed=seed,
        )
        assert_near(forward(problem), solve(problem).y)


@flags
@pytest.mark.parametrize("activation", ACTIVATION_NAMES)
def test_backward_equals_the_oracle(
    activation: str | None, running: bool, residual: bool, masked: bool, with_affine: bool
) -> None:
    for seed, shape in enumerate(SHAPES):
        problem = draw(
            shape,
            activation=activation,
            running=running,
            residual=residual,
            masked=masked,
            affine=with_affine,
            seed=seed,
        )
        dy = np.random.default_rng(seed + 100).normal(size=shape)
        found, exact = backward(problem, dy), differentiate(problem, dy)
        assert_near(found.x, exact.x)
        if with_affine:
            assert_near(found.weight, exact.gamma)
            assert_near(found.bias, exact.beta)
        else:
            assert found.weight is None
            assert found.bias is None
        if residual:
            assert_near(found.residual, exact.residual)
        else:
            assert found.residual is None


@pytest.mark.parametrize("running", [False, True], ids=["train", "eval"])
@pytest.mark.parametrize("needs", list(itertools.product([False, True], repeat=4)), ids=str)
def test_backward_computes_what_is_asked_for_and_nothing_else(
    needs: tuple[bool, bool, bool, bool], running: bool
) -> None:
    problem = draw((5, 3, 2), residual=True, running=running, activation="tanh")
    dy = np.random.default_rng(1).normal(size=problem.x.shape)
    for asked, found, exact in zip(needs, backward(problem, dy, needs=needs), backward(problem, dy), strict=True):
        if asked:
            torch.testing.assert_close(found, exact, rtol=0, atol=0)
        else:
            assert found is None


@pytest.mark.parametrize("counts", [[2.0, 1.0, 1.0], [0.5, 0.25, 3.0], [0.0, 2.0, 5.0]])
def test_weights_other_than_zero_and_one_equal_the_oracle(counts: list[float]) -> None:
    plain = draw((3, 2), activation="silu")
    problem = Problem(**{**vars(plain), "counts": np.array(counts)[:, None]})
    dy = np.random.default_rng(2).normal(size=(3, 2))
    assert_near(forward(problem), solve(problem).y)
    found, exact = backward(problem, dy), differentiate(problem, dy)
    for mine, theirs in ((found.x, exact.x), (found.weight, exact.gamma), (found.bias, exact.beta)):
        assert_near(mine, theirs)


@pytest.mark.parametrize("mean", [1e4, 1e7, 1e10])
def test_mean_of_float64_values_is_kept_as_a_pair(mean: float) -> None:
    """Without the shift this is wrong in the digits that mean / std takes."""
    problem = draw((200, 3), mean=mean, affine=False)
    found, _ = centre(problem)
    assert found.shift is not None
    assert_near(forward(problem), solve(problem).y, tolerance=2e-15)
    dy = np.random.default_rng(3).normal(size=problem.x.shape)
    assert_near(backward(problem, dy).x, differentiate(problem, dy).x, tolerance=1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_narrower_values_need_no_pair(dtype: torch.dtype) -> None:
    assert centre(draw((4, 3)), dtype)[0].shift is None


@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e7 + 0.1, -1e-30, 12345.678])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_constant_channel_is_centred_to_exactly_zero(value: float, dtype: torch.dtype) -> None:
    value = min(value, 6e4) if dtype == torch.float16 else value
    for shape in [(1001, 1), (7, 1, 11, 13)]:
        found, deviation = spec.training_centre(torch.full(shape, value, dtype=dtype), weights=None, eps=1e-5)
        assert not deviation.value.any()
        assert found.m2.item() == 0


def test_moments_of_a_centre_are_the_batchs() -> None:
    problem = draw((5, 3, 4), masked=True)
    moments = centre(problem)[0].moments()
    exact = solve(problem)
    assert_near(moments.mean, exact.mean)
    assert_near(moments.variance(), exact.variance)
    assert_near(moments.count.expand(3), exact.count)


def test_test_time_has_no_batch_statistics() -> None:
    found, _ = centre(draw((5, 3), running=True))
    with pytest.raises(AssertionError, match="test time has no batch statistics"):
        found.moments()


def test_test_time_centre_is_a_constant() -> None:
    """Running statistics get no gradient, in torch.nn as here."""
    mean = torch.zeros(2, dtype=torch.float64, requires_grad=True)
    found, _ = spec.evaluation_centre(torch.ones(3, 2), mean, torch.ones(2), weights=None, eps=1e-5)
    assert not found.anchor.requires_grad
    assert not found.rstd.requires_grad
