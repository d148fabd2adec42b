"""Problems to normalize, drawn at random, and the library's answers to them."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tests.reference.exact import Problem
from torch import Tensor

from batchnorm.functional import batch_norm

SHAPES = [(7, 3), (4, 3, 5), (3, 4, 2, 3), (2, 3, 2, 3, 2), (2, 1), (1, 2, 3), (6, 1, 1, 1)]


def draw(
    shape: tuple[int, ...],
    *,
    activation: str | None = None,
    affine: bool = True,
    running: bool = False,
    residual: bool = False,
    masked: bool = False,
    mean: float = 2.0,
    seed: int = 0,
) -> Problem:
    """A problem of x: (N, C, *) with mean about 2 and standard deviation 3; masked leaves out about a third."""
    random = np.random.default_rng(seed)
    channels = shape[1]
    places = (shape[0], 1, *shape[2:])
    counts = random.random(places) < 0.65
    counts.flat[:2] = True  # the batch's own statistics need two values
    return Problem(
        random.normal(mean, 3, shape),
        random.normal(1, 0.5, channels) if affine else None,
        random.normal(0, 1, channels) if affine else None,
        eps=1e-3,
        activation=activation,
        running=(random.normal(mean, 1, channels), random.uniform(1, 4, channels)) if running else None,
        residual=random.normal(0, 1, shape) if residual else None,
        counts=counts.astype(np.float64) if masked else None,
    )


def tensor(values: NDArray[Any] | None, dtype: torch.dtype = torch.float64) -> Tensor | None:
    """An array as a tensor of its own; None stays None."""
    return None if values is None else torch.from_numpy(np.array(values, dtype=np.float64)).to(dtype)


def leaves(problem: Problem) -> dict[str, Tensor]:
    """x, weight, bias and residual as float64 tensors that want gradients; without those that the problem lacks."""
    named = {"x": problem.x, "weight": problem.gamma, "bias": problem.beta, "residual": problem.residual}
    return {name: tensor(values).requires_grad_() for name, values in named.items() if values is not None}


def answer(problem: Problem, given: dict[str, Tensor]) -> Tensor:
    """batch_norm of the problem with `leaves` in place of its arrays."""
    mean, variance = (None, None) if problem.running is None else map(tensor, problem.running)
    mask = None if problem.counts is None else tensor(problem.counts) > 0
    return batch_norm(
        given["x"],
        mean,
        variance,
        given.get("weight"),
        given.get("bias"),
        training=problem.running is None,
        eps=problem.eps,
        activation=problem.activation,
        residual=given.get("residual"),
        mask=mask,
    )
