"""Whether a converted model computes what the model computed before: outputs, gradients, running statistics.

On deep copies, in float64 where the model runs in it: there a difference is a fault, not rounding.
"""

from __future__ import annotations

import copy
import itertools
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import keystr, tree_flatten_with_path, tree_map

from batchnorm.errors import BatchnormError
from batchnorm.randomness import same_randomness
from batchnorm.surgery.record import Verified

# Gradients of deep networks in float32 are no better than that; and some models compute in float32 here and there,
# whatever they are given. A fault in what is computed shows in the third digit, or before.
_RTOL = {torch.float64: 1e-5, torch.float32: 1e-2}
_RTOL_NARROW = 0.1
# A tensor of zeros has no digits to compare: all of one kind are measured in units of at least this part of the largest
# value of any, or of so many of its roundings as are allowed.
_PART, _ROUNDINGS = 1e-4, 1e5


class VerificationError(BatchnormError, RuntimeError):
    """A converted model did not compute what it had computed before; the model is as it was."""


@dataclass(frozen=True)
class _Results:
    """What a model gave on the example: tensors by name."""

    outputs: dict[str, Tensor]
    gradients: dict[str, Tensor]
    statistics: dict[str, Tensor]


def verify(before: nn.Module, after: nn.Module, example: Any, *, rtol: float | None = None) -> Verified:
    """Compare two models on an example, at test time and then in one training step. Neither is changed.

    Args:
        before: the model as it was.
        after: the converted model.
        example: the model's input; a tuple of its arguments; or a dictionary of them by name.
        rtol: the largest difference allowed, in units of the compared tensor's largest value; 1e-5 by default where
            the model runs in float64, 0.01 where it runs in float32 alone, 0.1 in half precision.

    Raises:
        VerificationError: something differs by more: what, and by how much.
        ValueError: the model does not run on the example, or gives no tensor.
    """
    example = dict(example) if isinstance(example, Mapping) else example
    problem: Exception | None = None
    # Some models run in their own dtype alone; some set requires_grad of what they are given.
    for dtype, wants_inputs in itertools.product((torch.float64, None), (True, False)):
        # Autograd must see everything, whatever mode the caller is in.
        with torch.inference_mode(False), torch.enable_grad():
            first, second = copied(before), copied(after)
            try:
                expected = _run(first, example, dtype, wants_inputs=wants_inputs)
            except Exception as error:  # whatever a user's model raises
                problem = error
                continue
            try:
                got = _run(second, example, dtype, wants_inputs=wants_inputs)
            except Exception as error:
                raise VerificationError(
                    f"the converted model fails on the example, where the model did not: {error}"
                ) from error
            return _compared(expected, got, dtype or _own_dtype(before), rtol)
    raise ValueError(
        f"example expected an input that the model itself runs on, in training too (two rows or more), got: {problem}"
    ) from problem


def copied(model: nn.Module) -> nn.Module:
    """A deep copy of the model, for comparison."""
    try:
        return copy.deepcopy(model)
    except Exception as error:  # whatever a user's model raises
        raise ValueError(
            f"verification needs a deep copy of the model, which fails: {error}; convert without an example, and "
            "compare outputs by hand"
        ) from error


def _own_dtype(model: nn.Module) -> torch.dtype:
    return next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)


def _run(model: nn.Module, example: Any, dtype: torch.dtype | None, *, wants_inputs: bool) -> _Results:
    """At test time, then in training, with gradients of the inputs or of parameters alone. Uses the model up."""
    if dtype is not None:
        model.to(dtype)
    outputs: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}
    for mode, training in (("at test time", False), ("in training", True)):
        model.train(training)
        inputs = tree_map(lambda leaf: _as_input(leaf, dtype, wants_inputs), example)
        # A copy of what gradients are asked for: a model may change its input in place.
        given = tree_map(lambda leaf: leaf.clone() if isinstance(leaf, Tensor) else leaf, inputs)
        with same_randomness():
            y = call(model, given)
        found = {f"output{path} {mode}": t for path, t in _tensors(y).items()}
        if not found:
            raise ValueError(f"the model's output holds no tensor: {type(y).__name__}")
        outputs |= {name: t.detach() for name, t in found.items()}
        asked: dict[str, Tensor] = {}
        asked |= {f"gradient of {name} {mode}": p for name, p in model.named_parameters() if p.requires_grad}
        asked |= {f"gradient of input{k} {mode}": t for k, t in _tensors(inputs).items() if t.requires_grad}
        gradients |= _gradients([t for t in found.values() if t.requires_grad], asked)
    return _Results(outputs, gradients, {f"buffer {name}": t for name, t in model.named_buffers()})


def _gradients(outputs: list[Tensor], asked: dict[str, Tensor]) -> dict[str, Tensor]:
    """Of a weighted sum of all outputs, with weights that are drawn alike each time."""
    if not outputs or not asked:
        return {}
    random = torch.Generator().manual_seed(0)
    weights = [torch.randn(t.shape, generator=random, dtype=torch.float64).to(t) for t in outputs]
    grads = torch.autograd.grad(outputs, list(asked.values()), weights, allow_unused=True)
    return {name: g for name, g in zip(asked, grads, strict=True) if g is not None}


def call(model: nn.Module, example: Any) -> Any:
    """The model's output. example: its input, a tuple of its arguments, or a dictionary of them by name."""
    with ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # a compiled model would be compiled again for each copy, and fail at hooks
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        if isinstance(example, Mapping):
            return model(**example)
        return model(*example) if isinstance(example, tuple) else model(example)


def _as_input(leaf: Any, dtype: torch.dtype | None, wants_gradient: bool) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    if not leaf.is_floating_point():
        return leaf.detach().clone()
    return leaf.detach().clone().to(dtype or leaf.dtype).requires_grad_(wants_gradient)


def _tensors(tree: Any) -> dict[str, Tensor]:
    leaves, _ = tree_flatten_with_path(tree)
    return {keystr(path): leaf for path, leaf in leaves if isinstance(leaf, Tensor)}


def _compared(expected: _Results, got: _Results, dtype: torch.dtype, rtol: float | None) -> Verified:
    allowed = _RTOL.get(dtype, _RTOL_NARROW) if rtol is None else rtol
    part = max(_PART, _ROUNDINGS * torch.finfo(dtype).eps / allowed)
    return Verified(
        str(dtype).removeprefix("torch."),
        outputs=_largest(expected.outputs, got.outputs, allowed, part),
        gradients=_largest(expected.gradients, got.gradients, allowed, part),
        statistics=_largest(expected.statistics, got.statistics, allowed, part),
    )


def _largest(expected: dict[str, Tensor], got: dict[str, Tensor], allowed: float, part: float) -> float:
    """The largest relative difference; raises VerificationError for the worst that is not allowed."""
    if expected.keys() != got.keys():
        names = ", ".join(sorted(expected.keys() ^ got.keys()))
        raise VerificationError(f"the converted model gives other tensors than the model: {names}")
    peak = max((_peak(t) for t in expected.values() if t.is_floating_point()), default=0.0)
    differences = {name: _difference(t, got[name], part * peak) for name, t in expected.items()}
    name, worst = max(differences.items(), key=lambda item: item[1], default=("", 0.0))
    if not worst <= allowed:
        raise VerificationError(
            f"the converted model differs from the model: {name} by {worst:.2g} of its largest value, where "
            f"{allowed:g} is allowed (rtol); the model is as it was"
        )
    return worst


def _difference(expected: Tensor, got: Tensor, floor: float) -> float:
    """max|expected - got| in units of max|expected|, or of `floor` where that is larger; inf for other shapes."""
    if expected.shape != got.shape or (expected.is_floating_point() != got.is_floating_point()):
        return float("inf")
    if not expected.is_floating_point():
        return 0.0 if torch.equal(expected, got) else float("inf")
    if expected.numel() == 0:
        return 0.0
    a, b = expected.double(), got.double()
    if not torch.equal(torch.isfinite(a), torch.isfinite(b)):
        return float("inf")
    a, b = (torch.nan_to_num(t, posinf=0.0, neginf=0.0) for t in (a, b))
    return float((a - b).abs().max()) / max(_peak(a), floor, torch.finfo(torch.float64).tiny)


def _peak(t: Tensor) -> float:
    finite = torch.nan_to_num(t.detach().double(), posinf=0.0, neginf=0.0)
    return float(finite.abs().max()) if finite.numel() else 0.0
