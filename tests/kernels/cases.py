"""Batch normalizations to ask of every kernel: shapes, memory orders, dtypes, what may be absent, and hard values."""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from tests.reference.exact import Problem, solve
from torch import Tensor

F32, F64, BF16, F16 = torch.float32, torch.float64, torch.bfloat16, torch.float16

Shape = tuple[int, ...]
Draw = Callable[[np.random.Generator, Shape], NDArray[np.float64]]


@dataclass(frozen=True)
class Case:
    """What is normalized, and how.

    Attributes:
        shape: (N, C, *).
        last: channels-last in memory.
        weights: None; "mask", about a third of the positions left out; "counts", each 0, 1, 2 or 2.5 times; "nothing",
            all of them left out.
        affine: which parameters there are: "both", "weight", "bias" or "".
        parameters: their dtype; None for the rows'.
        draw: how x is drawn, of DRAWS.
    """

    shape: Shape
    dtype: torch.dtype = F32
    activation: str | None = None
    last: bool = False
    residual: bool = False
    weights: str | None = None
    affine: str = "both"
    training: bool = True
    parameters: torch.dtype | None = None
    draw: str = "normal"

    def __str__(self) -> str:
        said = ["x".join(map(str, self.shape)), str(self.dtype).removeprefix("torch.")]
        said += [name for name in ("last", "residual") if getattr(self, name)]
        said += [v for v in (self.activation, self.weights) if v is not None]
        said += [] if self.affine == "both" else [f"affine {self.affine or 'none'}"]
        said += [] if self.training else ["eval"]
        said += [] if self.parameters is None else [f"parameters {self.parameters}".replace("torch.", "")]
        said += [] if self.draw == "normal" else [self.draw]
        return "-".join(said)


@dataclass(frozen=True)
class Given:
    """A case's tensors, each as a kernel gets it."""

    x: Tensor  # (N, C, *)
    dy: Tensor
    residual: Tensor | None
    gamma: Tensor | None  # (C,)
    beta: Tensor | None
    weights: Tensor | None  # (N, 1, *)
    mean: Tensor  # (C,) running
    var: Tensor
    eps: float = 1e-5


def _normal(mean: float, std: float, scale: float = 1.0) -> Draw:
    return lambda random, shape: random.normal(mean, std, shape) * scale


def _with_one(value: float) -> Draw:
    """One value of the second channel, or of the only one, is no number."""

    def draw(random: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
        x = random.normal(2, 3, shape)
        x[(shape[0] // 2, min(1, shape[1] - 1), *(size // 2 for size in shape[2:]))] = value
        return x

    return draw


def _channelwise(values: NDArray[np.float64], shape: Shape) -> NDArray[np.float64]:
    return values.reshape((1, -1) + (1,) * (len(shape) - 2))


def _uneven(random: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    """Every channel another size and another mean."""
    size = _channelwise(10.0 ** random.uniform(-3, 3, shape[1]), shape)
    return size * (random.normal(0, 1, shape) + _channelwise(random.normal(0, 10, shape[1]), shape))


def _constant(random: np.random.Generator, shape: Shape) -> NDArray[np.float64]:
    values = np.resize([0.1, 1 / 3, -7.7, 123.456, 2047.7, 1e-7], shape[1])
    return np.broadcast_to(_channelwise(values, shape), shape).copy()


DRAWS: dict[str, Draw] = {
    "normal": _normal(2.0, 3.0),
    "uneven": _uneven,
    "constant": _constant,
    "mean 1e4": _normal(1e4, 1.0),
    "mean 1e7": _normal(1e7, 1.0),
    "1e-30": _normal(0.5, 1.0, 1e-30),
    "1e-20": _normal(0.5, 1.0, 1e-20),
    "1e18": _normal(0.5, 1.0, 1e18),
    "3e38": lambda random, shape: random.uniform(-3e38, 3e38, shape),
    "one nan": _with_one(np.nan),
    "one inf": _with_one(np.inf),
    "one -inf": _with_one(-np.inf),
}


@functools.lru_cache(maxsize=64)
def given(case: Case) -> Given:
    """The case's tensors, drawn."""
    random = np.random.default_rng(0)
    channels, own = case.shape[1], case.parameters or case.dtype

    def tensor(values: NDArray[np.float64], dtype: torch.dtype) -> Tensor:
        return torch.from_numpy(values).to(dtype)

    def laid(values: NDArray[np.float64]) -> Tensor:
        order = {4: torch.channels_last, 5: torch.channels_last_3d}[values.ndim] if case.last else None
        return tensor(values, case.dtype).contiguous(memory_format=order or torch.contiguous_format)

    x = laid(DRAWS[case.draw](random, case.shape))
    dy, residual = laid(random.normal(0.3, 1, case.shape)), laid(random.normal(0, 1, case.shape))
    gamma, beta = tensor(random.normal(1, 0.5, channels), own), tensor(random.normal(0, 1, channels), own)
    weights = None
    if case.weights is not None:
        drawn = random.choice(
            {"mask": [0.0, 1.0, 1.0], "counts": [0.0, 1.0, 2.0, 2.5], "nothing": [0.0]}[case.weights],
            (case.shape[0], 1, *case.shape[2:]),
        )
        drawn.flat[-2:] = 0.0 if case.weights == "nothing" else 1.0  # training needs two
        weights = torch.from_numpy(drawn)
    kept = F64 if case.dtype == F64 else F32
    mean, var = tensor(random.normal(2, 1, channels), kept), tensor(random.uniform(1, 12, channels), kept)
    found = Given(
        x,
        dy,
        residual if case.residual else None,
        gamma if case.affine in ("both", "weight") else None,
        beta if case.affine in ("both", "bias") else None,
        weights,
        mean,
        var,
    )
    return _without_bends(case, found) if case.activation in ("relu", "leaky_relu") else found


def _without_bends(case: Case, found: Given) -> Given:
    """The same, with dy = 0 where rounding decides on which side of the activation's bend a value lies."""
    with np.errstate(all="ignore"):
        size = np.abs(solve(replace(problem(case, found), activation=None)).y.astype(float))
        largest = np.where(np.isfinite(size), size, 0).max(initial=0)
        return replace(found, dy=found.dy.masked_fill(torch.from_numpy((size < 1e-4 * largest) & (size > 0)), 0))


def problem(case: Case, found: Given) -> Problem:
    """The same for the oracle."""

    def array(t: Tensor) -> NDArray[np.float64]:
        return t.double().numpy()

    return Problem(
        array(found.x),
        None if found.gamma is None else array(found.gamma),
        None if found.beta is None else array(found.beta),
        eps=found.eps,
        activation=case.activation,
        running=None if case.training else (array(found.mean), array(found.var)),
        residual=None if found.residual is None else array(found.residual),
        counts=None if found.weights is None else array(found.weights),
    )
