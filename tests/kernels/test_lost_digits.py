"""What rounding takes from a channel's scale, against decimals of 60 digits."""

from __future__ import annotations

from decimal import Decimal, localcontext

import numpy as np
import pytest
import torch
from torch import Tensor

from batchnorm.functional import batch_norm
from batchnorm.kernels import lost_digits

EPS = 1e-5


def exact_scale(weight: float, variance: float, rest: float, eps: float) -> Decimal:
    with localcontext() as context:
        context.prec = 60
        return Decimal(weight) / (Decimal(variance) + Decimal(rest) + Decimal(eps)).sqrt()


def relative_errors(weight: Tensor, variance: Tensor, rest: Tensor, eps: float = EPS) -> list[float]:
    """Of weight / sqrt(variance + rest + eps), kept as a rounded number and what it lost."""
    rstd = torch.rsqrt(variance + rest + eps)
    of_rstd = lost_digits.of_root(variance, rest, eps, rstd)
    scale = weight * rstd
    lost = lost_digits.of_scale(weight, rstd, of_rstd)
    errors = []
    with localcontext() as context:
        context.prec = 60
        for w, v, r, s, rest_of_s in zip(*(t.tolist() for t in (weight, variance, rest, scale, lost)), strict=True):
            exact = exact_scale(w, v, r, eps)
            errors.append(float(abs((Decimal(s) + Decimal(rest_of_s) - exact) / exact)))
    return errors


@pytest.mark.parametrize("scale", [1e-60, 1e-5, 1.0, 1e36, 1e100])
def test_scale_and_what_it_lost_are_right_to_24_digits(scale: float) -> None:
    random = np.random.default_rng(0)
    variance = torch.from_numpy(random.uniform(0.1, 10, 50) * scale)
    rest = variance * torch.from_numpy(random.uniform(-1e-9, 1e-9, 50))
    weight = torch.from_numpy(random.normal(size=50))
    assert max(relative_errors(weight, variance, rest)) < 1e-24


def test_scale_alone_is_not() -> None:
    variance = torch.rand(50, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) + 0.1
    rstd = torch.rsqrt(variance + EPS)
    lost = lost_digits.of_root(variance, torch.zeros_like(variance), EPS, rstd)
    assert (lost / rstd).abs().max() > 1e-17


def test_without_a_weight_the_scale_is_the_root() -> None:
    lost = torch.tensor([1e-20], dtype=torch.float64)
    assert lost_digits.of_scale(None, torch.ones(1), lost) is lost


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_head_keeps_half_the_digits(dtype: torch.dtype) -> None:
    values = torch.randn(1000, dtype=dtype, generator=torch.Generator().manual_seed(0))
    head = lost_digits.head(values)
    assert ((values - head).abs() <= values.abs() * 2.0 ** (-26 if dtype == torch.float64 else -11)).all()
    wide = head.numpy().astype(np.longdouble)
    assert (wide * wide == (head * head).numpy()).all()


@pytest.mark.parametrize("variance", [0.0, 1e300, 1e-320, float("inf"), float("nan")])
@pytest.mark.parametrize("eps", [1e-300, 1e-5])
def test_where_something_overflows_nothing_is_found(variance: float, eps: float) -> None:
    v = torch.tensor([variance], dtype=torch.float64)
    lost = lost_digits.of_root(v, torch.zeros_like(v), eps, torch.rsqrt(v + eps))
    assert torch.isfinite(lost).all()
    assert torch.isfinite(lost_digits.of_scale(torch.tensor([1e300]).double(), torch.rsqrt(v + eps), lost)).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_infinite_values_stay_infinite_at_test_time(dtype: torch.dtype) -> None:
    x = torch.tensor([[float("inf")], [float("-inf")], [float("nan")], [1.0]], dtype=dtype)
    for weight in (0.7, -0.3, 1.1, -1.9):
        given = torch.zeros(1, dtype=dtype), torch.full((1,), 0.37, dtype=dtype)
        affine = torch.full((1,), weight, dtype=dtype), torch.ones(1, dtype=dtype)
        y = batch_norm(x, *given, *affine)
        torch.testing.assert_close(y, torch.nn.functional.batch_norm(x, *given, *affine), equal_nan=True)


def test_what_is_found_is_a_constant_to_autograd() -> None:
    v = torch.ones(2, dtype=torch.float64, requires_grad=True)
    rstd = torch.rsqrt(v + EPS)
    lost = lost_digits.of_root(v, torch.zeros_like(v), EPS, rstd)
    assert not lost.requires_grad
    assert not lost_digits.of_scale(v, rstd, lost).requires_grad


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
def test_float64_results_are_within_four_roundings_of_exact(training: bool) -> None:
    """One scale for thousands of values: without its lost digits one channel in thirty is further off."""
    from tests.reference.exact import IS_WIDER, Problem, solve

    if not IS_WIDER:
        pytest.skip("long double is no wider than double here: nothing could tell what is exact")
    random = np.random.default_rng(0)
    x = random.normal(1, 1, (1024, 500))
    gamma, beta = random.uniform(0.5, 2, 500), random.normal(0, 1, 500)
    running = (random.normal(1, 0.1, 500), random.uniform(0.5, 2, 500))
    problem = Problem(x, gamma, beta, EPS, running=None if training else running)
    tensors = [torch.from_numpy(a.copy()) for a in (x, *running, gamma, beta)]
    y = batch_norm(*tensors, training=training, eps=EPS).numpy()
    exact = solve(problem).y
    floor = np.abs(exact.astype(np.float64) - exact).max(0)
    assert (np.abs(y - exact).max(0) <= 4 * floor).all()


@pytest.mark.parametrize("with_bias", [True, False])
def test_start_and_what_it_lost_are_right_to_24_digits(with_bias: bool) -> None:
    random = np.random.default_rng(0)
    bias, shift, scale = (torch.from_numpy(random.normal(size=50)) for _ in range(3))
    of_scale = scale * 1e-17
    start = bias - shift * scale if with_bias else -shift * scale
    lost = lost_digits.of_start(bias if with_bias else None, shift, scale, of_scale)
    given = bias if with_bias else torch.zeros_like(bias)
    with localcontext() as context:
        context.prec = 60
        for b, t, s, rest, found, more in zip(
            *(v.tolist() for v in (given, shift, scale, of_scale, start, lost)), strict=True
        ):
            exact = Decimal(b) - Decimal(t) * (Decimal(s) + Decimal(rest))
            assert abs(Decimal(found) + Decimal(more) - exact) <= Decimal("1e-31")


def test_difference_and_what_it_lost_are_exact() -> None:
    random = np.random.default_rng(0)
    a = torch.from_numpy(random.normal(size=(40, 3)) * 10.0 ** random.integers(-8, 8, (40, 1)))
    b = torch.from_numpy(random.normal(size=3))
    lost = lost_digits.of_difference(a, b, a - b)
    with localcontext() as context:
        context.prec = 60
        for row, differences, rests in zip(a.tolist(), (a - b).tolist(), lost.tolist(), strict=True):
            for x, y, d, rest in zip(row, b.tolist(), differences, rests, strict=True):
                assert Decimal(d) + Decimal(rest) == Decimal(x) - Decimal(y)
