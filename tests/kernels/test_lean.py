"""The lean kernel is the specification in the rows' own dtype: same results in float64, near ones in float32."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import pytest
import torch
from tests.reference.exact import Problem, differentiate, solve
from tests.reference.problems import draw, tensor
from torch import Tensor
from torch.testing import assert_close

from batchnorm.kernels import lean, spec
from batchnorm.kernels.spec import Affine

SHAPES = [(2, 1), (5, 3), (60, 100), (3, 1)]
COUNTS = {"once": None, "mask": [1, 0, 1, 1, 1], "counts": [2, 1, 3, 1, 5]}


class Answer(NamedTuple):
    y: Tensor
    dz: Tensor
    dgamma: Tensor
    dbeta: Tensor


def problem(shape: tuple[int, int], counts: str) -> Problem:
    given = COUNTS[counts]
    column = None if given is None else np.resize(np.array(given, dtype=float), (shape[0], 1))
    return Problem(**{**vars(draw(shape)), "counts": column})


def by_lean(given: Problem, dy: np.ndarray, dtype: torch.dtype) -> Answer:
    z, gamma, beta, up = (tensor(v, dtype) for v in (given.x, given.gamma, given.beta, dy))
    weights = tensor(given.counts, dtype)
    kept = lean.forward(z, gamma, beta, eps=given.eps, weights=weights)
    dgamma, dbeta = torch.full_like(gamma, torch.nan), torch.full_like(beta, torch.nan)
    dz = lean.backward(up, kept, weights, dgamma=dgamma, dbeta=dbeta)
    return Answer(kept.y, dz, dgamma, dbeta)


def by_spec(given: Problem, dy: np.ndarray) -> Answer:
    x, weights = tensor(given.x), tensor(given.counts)
    affine = Affine(tensor(given.gamma), tensor(given.beta), None, None)
    centre, deviation = spec.training_centre(x, weights=weights, eps=given.eps)
    y = spec.normalize(deviation, centre, affine, weights=None, dtype=x.dtype)
    g = spec.backward(tensor(dy), x, centre, affine, weights=weights)
    return Answer(y, g.x, g.weight, g.bias)


@pytest.mark.parametrize("counts", ["once", "counts"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float64_equals_the_specification(shape: tuple[int, int], counts: str) -> None:
    given, dy = problem(shape, counts), np.random.default_rng(1).normal(size=shape)
    for found, expected in zip(by_lean(given, dy, torch.float64), by_spec(given, dy), strict=True):
        assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("counts", ["once", "counts"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_float32_equals_the_oracle(shape: tuple[int, int], counts: str) -> None:
    given, dy = problem(shape, counts), np.random.default_rng(1).normal(size=shape)
    found, exact = by_lean(given, dy, torch.float32), differentiate(given, dy)
    for mine, theirs in zip(found, (solve(given).y, exact.x, exact.gamma, exact.beta), strict=True):
        scale = max(1.0, float(np.abs(theirs).max()))
        np.testing.assert_allclose(mine.numpy(), theirs.astype(float), rtol=0, atol=2e-5 * scale)


def test_row_that_does_not_count_has_no_part_in_the_others() -> None:
    """Its own output is what its values give; training gives such rows a gradient of 0 at the loss."""
    given = problem((5, 3), "mask")
    dy = np.random.default_rng(1).normal(size=(5, 3)) * given.counts
    found, exact = by_lean(given, dy, torch.float64), differentiate(given, dy)
    kept = given.counts[:, 0] > 0
    np.testing.assert_allclose(found.y.numpy()[kept], solve(given).y[kept].astype(float), rtol=0, atol=1e-13)
    np.testing.assert_allclose(found.dz.numpy(), exact.x.astype(float), rtol=0, atol=1e-13)
    np.testing.assert_allclose(found.dgamma.numpy(), exact.gamma.astype(float), rtol=0, atol=1e-13)


def test_centre_holds_the_batchs_moments() -> None:
    given = problem((5, 3), "counts")
    z, gamma, beta = (tensor(v) for v in (given.x, given.gamma, given.beta))
    moments = lean.forward(z, gamma, beta, eps=given.eps, weights=tensor(given.counts)).centre.moments()
    exact = solve(given)
    np.testing.assert_allclose(moments.mean.numpy(), exact.mean.astype(float), rtol=1e-13)
    np.testing.assert_allclose(moments.variance().numpy(), exact.variance.astype(float), rtol=1e-13)


def test_given_rows_are_left_as_they_were() -> None:
    given = problem((5, 3), "once")
    z, up = tensor(given.x), torch.ones(5, 3, dtype=torch.float64)
    before = z.clone()
    kept = lean.forward(z, tensor(given.gamma), tensor(given.beta), eps=1e-5, weights=None)
    lean.backward(up, kept, None, dgamma=torch.empty(3).double(), dbeta=torch.empty(3).double())
    assert torch.equal(z, before)
    assert torch.equal(up, torch.ones_like(up))
