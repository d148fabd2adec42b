"""What the accuracy benchmark asks: inputs that are hard to normalize, in every layout, and what is exact for them."""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from tests.reference.exact import IS_WIDER, Problem, solve
from torch import Tensor

EPS = 1e-5

Floats = NDArray[np.float64]
Array = NDArray[np.floating]
Draw = Callable[[np.random.Generator, tuple[int, int]], Floats]


@dataclass(frozen=True)
class Inputs:
    """Values (M, C) to normalize.

    Attributes:
        draw: makes them, in float64; the case rounds them to its dtype.
        affine: with gamma and beta other than 1 and 0; without where beta would hide the rest.
        dtypes: those that can hold such values.
    """

    draw: Draw
    affine: bool
    dtypes: tuple[torch.dtype, ...]


FLOAT, DOUBLE, BF16, HALF = torch.float32, torch.float64, torch.bfloat16, torch.float16


def _normal(mean: float, scale: float = 1.0) -> Draw:
    return lambda random, shape: random.normal(mean, 1.0, shape) * scale


def _ulps(dtype: torch.dtype) -> Draw:
    return lambda random, shape: 1 + random.integers(-3, 4, shape) * torch.finfo(dtype).eps


def _constants(random: np.random.Generator, shape: tuple[int, int]) -> Floats:
    values = np.array([0.1, 1 / 3, 1.0, 3.3, -7.7, 123.456, 2047.7, 1e4 / 3])
    return np.broadcast_to(np.resize(values, shape[1]), shape).copy()


INPUTS: dict[str, Inputs] = {
    **{f"mean {mean:g}, std 1": Inputs(_normal(mean), True, (FLOAT, DOUBLE)) for mean in (0.0, 1e2, 1e4, 1e6, 1e7)},
    **{f"mean {mean:g}, std 1 ": Inputs(_normal(mean), True, (BF16, HALF)) for mean in (0.0, 1e1, 1e2)},
    **{
        f"a few ulps around 1 ({str(dtype).removeprefix('torch.')})": Inputs(_ulps(dtype), False, (dtype,))
        for dtype in (FLOAT, DOUBLE, BF16, HALF)
    },
    **{
        f"scale {scale:g}": Inputs(_normal(0.5, scale), False, (FLOAT, DOUBLE, BF16))
        for scale in (1e-30, 1e-20, 1e-10, 1e-3, 1e3, 1e9, 1e18)
    },
    **{f"scale {scale:g} ": Inputs(_normal(0.5, scale), False, (HALF,)) for scale in (1e-2, 1e3)},
    "constant channels": Inputs(_constants, True, (FLOAT, DOUBLE, BF16, HALF)),
}

LAYOUTS = ("(N, C)", "(N, C, L)", "NCHW", "NCHW channels-last", "NCDHW", "NCDHW channels-last")


@dataclass(frozen=True)
class Question:
    """One input in one layout, to be normalized by its batch or by running statistics, and the exact answer.

    Attributes:
        x: (N, C, *) of the case's dtype and layout.
        gamma, beta: (C,); float32 where x is narrower, else as x.
        running: (mean, variance), each (C,) like gamma: what the batch itself has, rounded.
        exact: (M, C), in the order of the positions of x; in double where x is narrower, else in long double.
    """

    inputs: str
    layout: str
    training: bool
    x: Tensor
    gamma: Tensor
    beta: Tensor
    running: tuple[Tensor, Tensor]
    exact: Array

    @property
    def dtype(self) -> str:
        """As in `float32`."""
        return str(self.x.dtype).removeprefix("torch.")

    @property
    def mode(self) -> str:
        """As in the tables."""
        return "training" if self.training else "evaluation"

    def errors(self, y: Array) -> Array:
        """max|y - exact| / max|exact| of each channel, (C,). y: (N, C, *)."""
        rows = np.moveaxis(y, 1, -1).reshape(self.exact.shape)
        largest = np.abs(self.exact).max(0)
        with np.errstate(invalid="ignore"):
            difference = np.abs(rows - self.exact)
        error = np.where(np.isfinite(rows), difference, np.inf).max(0)
        return error / np.where(largest > 0, largest, 1)

    def floor(self) -> Array:
        """errors() of the exact result rounded to the dtype: what nobody can beat."""
        return self.errors(as_array(torch.from_numpy(self.exact.astype(np.float64)).to(self.x.dtype)))


def ratios(errors: Array, floor: Array) -> Array:
    """errors in units of the floor: 0 where there is none, infinite where there need be none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(errors == 0, 0, errors / floor)


def as_array(t: Tensor) -> Array:
    """A tensor's values in double, float64 ones in long double: room for their distance from the exact ones."""
    values = t.detach().double().numpy()
    return values.astype(np.longdouble) if t.dtype == DOUBLE else values


def questions(
    *, rows: int, channels: int, layouts: tuple[str, ...] = LAYOUTS, inputs: dict[str, Inputs] = INPUTS
) -> Iterator[Question]:
    """All of them. rows: values per channel M, a multiple of 512."""
    for name, given in inputs.items():
        for dtype in given.dtypes:
            if dtype == DOUBLE and not IS_WIDER:
                continue  # nothing here could tell what is exact
            random = np.random.default_rng(zlib.crc32(name.encode()))
            values = given.draw(random, (rows, channels))
            yield from _of_values(name, values, given.affine, dtype, layouts)


def _of_values(
    name: str, values: Floats, affine: bool, dtype: torch.dtype, layouts: tuple[str, ...]
) -> Iterator[Question]:
    channels = values.shape[1]
    own = dtype if dtype in (FLOAT, DOUBLE) else FLOAT
    # Multiples of 1/8 are the same in every dtype.
    gamma = torch.arange(channels, dtype=own) % 7 / 8 + 0.5 if affine else torch.ones(channels, dtype=own)
    beta = torch.arange(channels, dtype=own) % 5 / 8 - 0.25 if affine else torch.zeros(channels, dtype=own)
    rows = torch.from_numpy(values).to(dtype)
    problem = Problem(rows.double().numpy(), gamma.double().numpy(), beta.double().numpy(), EPS)
    batch = solve(problem)
    mean, variance = (torch.from_numpy(s.astype(np.float64)).to(own) for s in (batch.mean, batch.variance))
    at_test_time = replace(problem, running=(mean.double().numpy(), variance.double().numpy()))
    for training, solution in ((True, batch), (False, solve(at_test_time))):
        exact = solution.y if dtype == DOUBLE else solution.y.astype(np.float64)
        for layout in layouts:
            x = _laid_out(rows, layout)
            yield Question(name, layout, training, x, gamma, beta, (mean, variance), exact)


def _laid_out(values: Tensor, layout: str) -> Tensor:
    """(M, C) -> the same values, channel by channel, as (N, C, *)."""
    rows, channels = values.shape
    rank = {"(N, C)": 2, "(N, C, L)": 3, "NCHW": 4, "NCDHW": 5}[layout.removesuffix(" channels-last")]
    if rank == 2:
        return values
    # A third of the factors of two, or half, go to each spatial dimension of at most 1024 positions.
    batch = max(2, rows // 2**20) if rows >= 2**20 else rows // 512
    side = round((rows // batch) ** (1 / (rank - 2)))
    spatial = [2 ** round(math.log2(side))] * (rank - 2)
    spatial[-1] = rows // batch // math.prod(spatial[:-1])
    x = values.reshape(batch, *spatial, channels).movedim(-1, 1).contiguous()
    if not layout.endswith("channels-last"):
        return x
    return x.contiguous(memory_format=torch.channels_last if rank == 4 else torch.channels_last_3d)
