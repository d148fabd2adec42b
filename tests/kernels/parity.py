"""What any kernel makes of a case, and how near that must be to the exact answer.

The exact one is `tests.reference.exact`, NumPy's long double. What may be lacking follows from the dtypes: rows of
float32 and narrower are computed in float32 in the last steps, whatever their sums are in, and rounded once, so that a
result is off by a few roundings of the largest number that went into its channel. Channels that hold NaN or infinities
have no exact answer: there the specification's is the one.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass, fields, replace
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from tests.kernels.cases import F32, F64, Case, Given, given, problem
from tests.reference.exact import Gradients, Solution, differentiate, solve
from torch import Tensor

from batchnorm.kernels import choice, native, spec
from batchnorm.kernels.layout import laid_out
from batchnorm.kernels.running import Running
from batchnorm.kernels.spec import Affine

MOMENTUM = 0.25

Array = NDArray[np.floating]


@dataclass(frozen=True)
class Answer:
    """What a kernel gave; None where nobody asked, or where there is none."""

    y: Tensor  # (N, C, *)
    mean: Tensor  # (C,) of the batch, float64
    m2: Tensor | None
    running_mean: Tensor
    running_var: Tensor
    refused: Tensor | None  # (C,) bool
    dx: Tensor | None  # (N, C, *)
    dgamma: Tensor | None  # (C,)
    dbeta: Tensor | None
    dresidual: Tensor | None

    def tensors(self) -> dict[str, Tensor]:
        """All that there are, by name."""
        named = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: t for name, t in named.items() if t is not None}


def kernels() -> list[str]:
    """Every kernel that can run here: spec, and the instruction sets of the native ones."""
    with choice.using("auto"):
        module = choice.native()
    return ["spec", *(name.replace("_", "-") for name in ([] if module is None else module.instruction_sets()))]


def answer(case: Case, kernel: str, found: Given | None = None) -> Answer:
    """A case's answer by one kernel, which must take it."""
    found = found or given(case)
    affine = Affine(found.gamma, found.beta, found.residual, case.activation)
    running = Running(found.mean.clone(), found.var.clone(), MOMENTUM)
    asked = (True, found.gamma is not None, found.beta is not None, found.residual is not None)
    with choice.using(kernel) as chosen:
        if chosen.kernel == "spec":
            x, dy = laid_out(found.x), found.dy
            if case.training:
                centre, deviation = spec.training_centre(x, weights=found.weights, eps=found.eps)
            else:
                constants = (running.mean, running.var)
                centre, deviation = spec.evaluation_centre(x, *constants, weights=found.weights, eps=found.eps)
            y = spec.normalize(deviation, centre, affine, weights=found.weights, dtype=x.dtype)
            refused = running.update(centre) if case.training else None
            gradients = spec.backward(dy, x, centre, affine, weights=found.weights, needs=asked)
        else:
            assert chosen.instruction_set == kernel
            assert native.covers(found.x, found.gamma, found.beta)
            y, settled, refused = native.forward(
                found.x, affine, weights=found.weights, eps=found.eps, running=running, training=case.training
            )
            gradients = native.backward(found.dy, found.x, settled, affine, weights=found.weights, needs=asked)
            centre = settled.centre()
    mean = centre.anchor if centre.shift is None else centre.anchor + centre.shift
    return Answer(y, mean, centre.m2, running.mean, running.var, refused, *gradients)


class Exact(NamedTuple):
    """The oracle's answer, and what roundings are measured by."""

    solution: Solution
    gradients: Gradients
    entering: Array  # (N, C, *) the activation
    normal: Array  # (N, C, *) (x - mean) / sqrt(variance + eps), 0 where masked
    scale: Array  # (C,) |gamma| / sqrt(variance + eps)


@functools.lru_cache(maxsize=16)
def exact(case: Case) -> Exact:
    """The oracle's answer."""
    found = given(case)
    asked = problem(case, found)
    with np.errstate(all="ignore"):
        solution = solve(asked)
        plain = replace(asked, activation=None)
        entering = solution.y if case.activation is None else solve(plain).y
        normal = solve(replace(plain, gamma=None, beta=None, residual=None)).y
        gradients = differentiate(asked, found.dy.double().numpy())
        gamma = 1.0 if asked.gamma is None else np.abs(asked.gamma)
        scale = gamma / np.sqrt(solution.variance + np.longdouble(asked.eps))
    return Exact(solution, gradients, entering, normal, scale)


def check(case: Case, kernel: str) -> None:
    """Raise AssertionError where a kernel's answer is further from the exact one than rounding explains."""
    try:
        compare(case, answer(case, kernel))
    except AssertionError as wrong:
        raise AssertionError(f"{kernel}, {case}: {wrong}") from None


def compare(case: Case, got: Answer) -> None:
    """The same of an answer that is there already."""
    found = given(case)
    counted = torch.ones_like(found.x[:, :1]) if found.weights is None else found.weights
    counted = (counted > 0).expand(found.x.shape)
    lost = (counted & ~found.x.isfinite()).transpose(0, 1).flatten(1).any(1).numpy()
    if counted.any():
        with np.errstate(all="ignore"):
            _check_values(case, got, ~lost)
            if case.training:
                _check_statistics(case, got, ~lost)
    if lost.any():
        _check_lost(got, answer(case, "spec"), torch.from_numpy(lost))
    assert got.y[found.x.isnan().logical_and(counted)].isnan().all(), "y of NaN"
    assert not got.y[~counted].any(), "y where masked"


def _check_values(case: Case, got: Answer, sound: NDArray[np.bool_]) -> None:
    found, true = given(case), exact(case)
    work = eps(F64 if case.dtype == F64 else F32) / 2
    beta = np.zeros(case.shape[1]) if found.beta is None else np.abs(found.beta.double().numpy())
    residual = 0 if found.residual is None else found.residual.double().numpy()
    size = np.maximum(_largest(np.maximum(np.abs(true.entering), np.abs(residual))), beta)
    size = np.maximum(size, _largest(true.solution.y))
    _near("y", got.y, true.solution.y, 4 * work * size, sound)
    # How far the slope is off where its argument is off by a rounding.
    bend = 1 if case.activation in (None, "relu", "leaky_relu") else 1 + 4 * size
    dy = per_channel(np.abs(found.dy.double().numpy()) * (1 if found.weights is None else found.weights.numpy() > 0))
    normal = per_channel(np.abs(true.normal))
    sums, products = dy.sum(1) * bend, (dy * normal).sum(1) * bend
    _near("dresidual", got.dresidual, true.gradients.residual, 3 * work * bend * dy.max(1), sound)
    _near("dgamma", got.dgamma, true.gradients.gamma, 5 * work * products, sound)
    _near("dbeta", got.dbeta, true.gradients.beta, (3 * work if case.activation else _sum(case)) * sums, sound)
    steps = bend * dy.max(1)
    if case.training:
        heaviest = 1.0 if found.weights is None else max(1.0, float(found.weights.max()))
        steps = steps + heaviest * (sums + normal.max(1) * products) / true.solution.count
    _near("dx", got.dx, true.gradients.x, 5 * work * true.scale * steps, sound)


def _check_statistics(case: Case, got: Answer, sound: NDArray[np.bool_]) -> None:
    """The batch's own, float64 whatever the rows are in, and the running ones."""
    found, solution = given(case), exact(case).solution
    deviation = np.sqrt(solution.variance)
    size = np.maximum(np.abs(solution.mean), deviation)
    about = 4e-16 * size + _sum(case) * deviation
    _near("mean", got.mean, solution.mean, about, sound)
    m2 = solution.variance * solution.count
    losing = 1e-14 if case.dtype == F64 else 6 * _sum(case)
    _near("m2", got.m2, m2, losing * m2 + (4e-16 * size) ** 2, sound)
    unbiased = m2 / np.maximum(solution.count - 1, 1)
    limit = float(torch.finfo(found.mean.dtype).max)
    is_kept = ~((np.abs(solution.mean) <= limit) & (unbiased <= limit)) | (solution.count < 2)
    for name, old, new, batch, off in (
        ("running_mean", found.mean, got.running_mean, solution.mean, about),
        ("running_var", found.var, got.running_var, unbiased, losing * unbiased),
    ):
        before = old.double().numpy()
        moved = np.where(is_kept, before, before + MOMENTUM * (batch - before))
        tolerance = 2 * eps(old.dtype) * np.maximum(np.abs(before), np.abs(batch)) + off
        _near(name, new, moved, np.where(is_kept, 0, tolerance), sound)
    refused = np.zeros(case.shape[1], bool) if got.refused is None else got.refused.numpy()
    assert (refused == (is_kept | ~sound) & (solution.count >= 2)).all(), "refused"


def _sum(case: Case) -> float:
    """What a sum may lack, in units of its terms' size: float32 adds a few values at a time before it widens."""
    return 4e-16 if case.dtype == F64 else eps(F32) / 2


def _check_lost(got: Answer, by_spec: Answer, lost: Tensor) -> None:
    """Channels that hold NaN or infinities: what the specification makes of them, wherever that is a number.

    Where it is none, a kernel may know the limit, as of gelu(-inf); y of NaN is NaN.
    """
    for name, theirs in by_spec.tensors().items():
        mine = got.tensors()[name]
        mine, theirs = (t[lost].double() if t.dim() == 1 else t[:, lost].double() for t in (mine, theirs))
        tolerance = 16 * eps(got.tensors()[name].dtype) if name != "refused" else 0.0
        known = torch.isfinite(theirs)
        assert torch.allclose(mine[known], theirs[known], rtol=tolerance, atol=tolerance), f"{name} of lost channels"
        if name in ("mean", "m2"):
            assert not torch.isfinite(mine[~known]).any(), f"{name} of lost channels"


def _near(name: str, got: Tensor | None, true: Array, tolerance: Array, sound: NDArray[np.bool_]) -> None:
    """got is within tolerance, (C,), and one rounding to its dtype, of true: (C,) or (N, C, *), in sound channels."""
    if got is None:
        return
    limits, found = torch.finfo(got.dtype), per_channel(got.double().numpy())
    true, most = per_channel(true), float(limits.max) * (1 + limits.eps / 4)
    true = np.where(np.abs(true) > most, np.sign(true) * np.inf, true)  # what the dtype cannot hold
    rounding = np.where(np.isfinite(true), np.abs(true), 0) * (limits.eps * 0.501) + limits.smallest_normal * limits.eps
    allowed = np.asarray(tolerance, np.longdouble)[:, None] + rounding
    at_the_end = np.isinf(found) & (np.abs(true) * (1 + 4 * limits.eps) > most)
    wrong = ~((found == true) | at_the_end | (np.abs(found - true) <= allowed)) & sound[:, None]
    if wrong.any():
        c, i = np.unravel_index(int(np.argmax(wrong)), wrong.shape)
        off = float(abs(found[c, i] - true[c, i]) / allowed[c, i])
        raise AssertionError(
            f"{name}: {int(wrong.sum())} of {wrong.size} wrong; value {i} of channel {c} is {float(found[c, i])!r} "
            f"instead of {float(true[c, i])!r}, {off:.3g} of what may be"
        )


def eps(dtype: torch.dtype) -> float:
    """The spacing of numbers from 1 on."""
    return torch.finfo(dtype).eps


def per_channel(values: Array) -> Array:
    """(N, C, *) or (C,) -> (C, M)."""
    return values[:, None] if values.ndim == 1 else np.moveaxis(values, 1, 0).reshape(values.shape[1], -1)


def _largest(values: Array) -> Array:
    """The largest finite size of each channel, (C,)."""
    sizes = np.abs(per_channel(values))
    return np.where(np.isfinite(sizes), sizes, 0).max(1)
