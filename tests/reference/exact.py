"""Batch normalization as the paper writes it, in NumPy's long double: an oracle that shares no code with the library.

Rows that do not count are dropped, literally, before anything is computed; one channel is done after the other. The
mean is kept as two numbers, so that z - mu loses nothing where the mean is large beside the deviations; with that a
result is right to about 1e-18 of the channel's largest. `test_exact` holds it against fractions.

Where long double is no wider than double (some Arm machines) it is still right to a few 1e-16: `IS_WIDER` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.longdouble]

IS_WIDER = np.finfo(np.longdouble).eps < 1e-18


@dataclass(frozen=True)
class Problem:
    """Everything that goes into a batch normalization, as arrays of any float dtype.

    Attributes:
        x: (N, C, *).
        gamma, beta: (C,) or None.
        running: (mean, variance), each (C,), to normalize by; None for the batch's own.
        residual: (N, C, *) or None.
        counts: (N, 1, *) how often each position counts; None is once.
    """

    x: NDArray[np.floating]
    gamma: NDArray[np.floating] | None = None
    beta: NDArray[np.floating] | None = None
    eps: float = 1e-5
    activation: str | None = None
    running: tuple[NDArray[np.floating], NDArray[np.floating]] | None = None
    residual: NDArray[np.floating] | None = None
    counts: NDArray[np.floating] | None = None


@dataclass(frozen=True)
class Solution:
    """y: (N, C, *), and the batch's mean, biased variance and number of values, each (C,)."""

    y: Array
    mean: Array
    variance: Array
    count: Array


@dataclass(frozen=True)
class Gradients:
    """Of sum(dy * y): x and residual (N, C, *), gamma and beta (C,)."""

    x: Array
    gamma: Array
    beta: Array
    residual: Array


@dataclass(frozen=True)
class _Channel:
    """One channel's values that count, and how they are normalized."""

    normal: Array  # (M,) (z - mu) / sqrt(sigma2 + eps)
    scale: np.longdouble  # gamma / sqrt(sigma2 + eps)
    gamma: np.longdouble
    pre: Array  # (M,) what enters the activation
    counts: Array  # (M,)
    mean: np.longdouble
    variance: np.longdouble


def solve(problem: Problem) -> Solution:
    """Equations (1) to (5) of `kernels/spec.py`."""
    y = np.zeros(problem.x.shape, np.longdouble)
    found = []
    for c, kept in _kept(problem):
        channel = _channel(problem, c, kept)
        y[:, c][kept] = channel.pre if problem.activation is None else ACTIVATIONS[problem.activation][0](channel.pre)
        found.append((channel.mean, channel.variance, channel.counts.sum()))
    mean, variance, count = np.array(found, np.longdouble).reshape(-1, 3).T
    return Solution(y, mean, variance, count)


def differentiate(problem: Problem, dy: NDArray[np.floating]) -> Gradients:
    """Equations (6) to (9) of `kernels/spec.py`. dy: (N, C, *)."""
    dx, dresidual = np.zeros((2, *problem.x.shape), np.longdouble)
    dgamma, dbeta = np.zeros((2, problem.x.shape[1]), np.longdouble)
    for c, kept in _kept(problem):
        channel = _channel(problem, c, kept)
        g = _long(dy[:, c][kept])
        if problem.activation is not None:
            g = g * ACTIVATIONS[problem.activation][1](channel.pre)
        dresidual[:, c][kept] = g
        dgamma[c], dbeta[c] = (g * channel.normal).sum(), g.sum()
        if problem.running is None:
            total = channel.counts.sum()
            g = g - channel.counts * (dbeta[c] + channel.normal * dgamma[c]) / total
        dx[:, c][kept] = channel.scale * g
    return Gradients(dx, dgamma, dbeta, dresidual)


def _kept(problem: Problem) -> Iterator[tuple[int, NDArray[np.bool_]]]:
    """Channel numbers with the places, (N, *), that count; channels without any are left out."""
    n, channels, *spatial = problem.x.shape
    kept = np.ones((n, *spatial), bool)
    if problem.counts is not None:
        kept = np.broadcast_to(problem.counts, (n, 1, *spatial))[:, 0] > 0
    for c in range(channels):
        if kept.any():
            yield c, kept


def _channel(problem: Problem, c: int, kept: NDArray[np.bool_]) -> _Channel:
    z = _long(problem.x[:, c][kept])
    counts = np.ones_like(z)
    if problem.counts is not None:
        n, _, *spatial = problem.x.shape
        counts = _long(np.broadcast_to(problem.counts, (n, 1, *spatial))[:, 0][kept])
    if problem.running is None:
        total = counts.sum()
        near = np.longdouble(np.float64((counts * z).sum() / total))
        rest = (counts * (z - near)).sum() / total
        deviation = (z - near) - rest
        mean, variance = near + rest, (counts * deviation * deviation).sum() / total
    else:
        mean, variance = (np.longdouble(statistic[c]) for statistic in problem.running)
        deviation = z - mean
    rstd = 1 / np.sqrt(variance + np.longdouble(problem.eps))
    gamma = np.longdouble(1 if problem.gamma is None else problem.gamma[c])
    beta = np.longdouble(0 if problem.beta is None else problem.beta[c])
    normal = deviation * rstd
    pre = gamma * normal + beta
    if problem.residual is not None:
        pre = pre + _long(problem.residual[:, c][kept])
    return _Channel(normal, gamma * rstd, gamma, pre, counts, mean, variance)


def _long(values: NDArray[np.floating]) -> Array:
    return np.ascontiguousarray(values).astype(np.longdouble)


def _sigmoid(z: Array) -> Array:
    small = np.exp(-np.abs(z))
    return np.where(z >= 0, 1, small) / (1 + small)


def _phi(z: Array) -> Array:
    """The normal distribution function; in double, which is what math.erfc gives."""
    return _long(np.array([0.5 * math.erfc(-float(v) / math.sqrt(2)) for v in z.ravel()])).reshape(z.shape)


def _density(z: Array) -> Array:
    return np.exp(-z * z / 2) / np.sqrt(2 * np.longdouble(math.pi))


Function = Callable[[Array], Array]

ACTIVATIONS: dict[str, tuple[Function, Function]] = {
    "relu": (lambda z: np.where(z > 0, z, 0), lambda z: np.where(z > 0, 1, 0)),
    "leaky_relu": (
        lambda z: np.where(z > 0, z, z * np.longdouble(0.01)),
        lambda z: np.where(z > 0, 1, np.longdouble(0.01)),
    ),
    "sigmoid": (_sigmoid, lambda z: _sigmoid(z) * _sigmoid(-z)),
    "tanh": (np.tanh, lambda z: 1 / np.cosh(z) ** 2),
    "gelu": (lambda z: z * _phi(z), lambda z: _phi(z) + z * _density(z)),
    "silu": (lambda z: z * _sigmoid(z), lambda z: _sigmoid(z) * (1 + z * _sigmoid(-z))),
}
