"""The oracle against fractions, decimals and differences: it may be slow, it may not be wrong."""

from __future__ import annotations

from decimal import Decimal, getcontext, localcontext
from fractions import Fraction

import numpy as np
import pytest
from tests.reference.exact import ACTIVATIONS, IS_WIDER, Problem, differentiate, solve

TOLERANCE = 1e-18 if IS_WIDER else 1e-14


def by_fractions(values: list[float], gamma: float, beta: float, eps: float) -> list[float]:
    """gamma * (z - mu) / sqrt(sigma2 + eps) + beta with nothing rounded but the root, to 60 digits."""
    z = [Fraction(v) for v in values]
    mean = sum(z) / len(z)
    variance = sum((v - mean) ** 2 for v in z) / len(z)
    with localcontext() as context:
        context.prec = 60

        def decimal(fraction: Fraction) -> Decimal:
            return Decimal(fraction.numerator) / Decimal(fraction.denominator)

        root = decimal(variance + Fraction(eps)).sqrt()
        return [np.longdouble(str(Decimal(gamma) * decimal(v - mean) / root + Decimal(beta))) for v in z]


@pytest.mark.parametrize("mean", [0.0, 1.0, 1e4, 1e7, 1e12])
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e18])
def test_solution_of_one_channel_equals_fractions(mean: float, scale: float) -> None:
    values = np.random.default_rng(3).normal(mean, 1, 31) * scale
    gamma, beta = 1.7, 0.0
    found = solve(Problem(values[:, None], np.array([gamma]), np.array([beta]), eps=1e-5)).y[:, 0]
    expected = np.array(by_fractions(values.tolist(), gamma, beta, 1e-5))
    assert np.abs(found - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_decimal_precision_of_the_process_is_left_alone() -> None:
    before = getcontext().prec
    by_fractions([1.0, 2.0], 1.0, 0.0, 1e-5)
    assert getcontext().prec == before


def problem(activation: str | None, *, running: bool, counted: bool) -> Problem:
    random = np.random.default_rng(5)
    return Problem(
        random.normal(2, 3, (4, 2, 3)),
        random.normal(1, 0.5, 2),
        random.normal(0, 1, 2),
        eps=1e-3,
        activation=activation,
        running=(random.normal(2, 1, 2), random.uniform(1, 2, 2)) if running else None,
        residual=random.normal(0, 1, (4, 2, 3)),
        counts=random.integers(0, 3, (4, 1, 3)).astype(float) if counted else None,
    )


def replaced(problem: Problem, name: str, place: tuple[int, ...], step: float) -> Problem:
    changed = getattr(problem, name).astype(np.longdouble)
    changed[place] += step
    return Problem(**{**vars(problem), name: changed})


@pytest.mark.parametrize("counted", [False, True], ids=["all", "counted"])
@pytest.mark.parametrize("running", [False, True], ids=["train", "eval"])
@pytest.mark.parametrize("activation", [None, *ACTIVATIONS])
def test_gradients_equal_central_differences(activation: str | None, running: bool, counted: bool) -> None:
    given = problem(activation, running=running, counted=counted)
    dy = np.random.default_rng(6).normal(size=given.x.shape)
    found = differentiate(given, dy)
    step = 1e-5
    # A position that counts twice stands there once: the loss that the formulas differentiate has it once, too.
    for name in ("x", "gamma", "beta", "residual"):
        gradient = getattr(found, name)
        for place in np.ndindex(*gradient.shape):
            above, below = (solve(replaced(given, name, place, s)).y for s in (step, -step))
            difference = (dy * (above - below)).sum() / (2 * step)
            assert abs(gradient[place] - difference) < 1e-7, (name, place)


def test_dropped_positions_hold_zeros_and_count_in_nothing() -> None:
    given = problem("gelu", running=False, counted=True)
    assert given.counts is not None
    dropped = np.broadcast_to(given.counts == 0, given.x.shape)
    poisoned = Problem(**{**vars(given), "x": np.where(dropped, np.nan, given.x)})
    found = solve(poisoned)
    assert (found.y[dropped] == 0).all()
    assert np.isfinite(found.y).all()
    np.testing.assert_array_equal(found.y, solve(given).y)


def test_position_that_counts_twice_is_that_position_twice() -> None:
    x = np.random.default_rng(7).normal(size=(3, 2))
    twice = solve(Problem(x, counts=np.array([[2.0], [1.0], [1.0]])))
    repeated = solve(Problem(np.concatenate([x[:1], x])))
    np.testing.assert_allclose(twice.y.astype(float), repeated.y[1:].astype(float), rtol=1e-15)
