"""How far a folded model is from the model: on the example, and with statistics and parameters drawn at random."""

from __future__ import annotations

import math
from collections.abc import Callable, Container
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves, tree_map

from batchnorm.randomness import same_randomness
from batchnorm.surgery.fold_layers import norms
from batchnorm.surgery.verify import call, copied

ALLOWED = 1e-5
_ROUNDINGS = 4.0  # times the error that the model itself has in its own dtype, which deep networks make larger
_DRAWN = 0.2  # how far, in standard deviations or as a share, statistics are moved


@dataclass(frozen=True)
class Measured:
    """The largest relative differences between a model's outputs and the folded model's.

    Attributes:
        example: with the model's own statistics.
        randomized: with others.
        own: in the model's own dtype, both against float64.
        unfolded: the model's own error there, which rounding makes; nan where the model does not run in float64.
        dtype: in which the first two were computed.
    """

    example: float
    randomized: float
    own: float
    unfolded: float
    dtype: str

    @property
    def fits(self) -> bool:
        """Whether all that is left is rounding."""
        exact = max(self.example, self.randomized) <= ALLOWED
        return exact and self.own <= max(ALLOWED, _ROUNDINGS * (0 if math.isnan(self.unfolded) else self.unfolded))

    def __str__(self) -> str:
        return (
            f"relative differences in {self.dtype}: {self.example:.1e} on the example, {self.randomized:.1e} with "
            f"randomized statistics; {self.own:.1e} in the model's own dtype"
        )


def measure(
    model: nn.Module, change: Callable[[nn.Module], None], example: Any, *, kept: Container[str] = ()
) -> Measured:
    """Compare a model with what `change` makes of it; all on copies, at test time.

    Args:
        model: as it is.
        change: folds a model in place.
        example: as for `fold`.
        kept: names of layers whose statistics are not to be randomized.
    """
    own = _compared(copied(model), change, example, None)
    try:
        exact = _compared(copied(model), change, example, torch.float64)
    except Exception:  # the model runs in its own dtype alone: no reason to fail
        allowed = _compared(randomized(copied(model), kept=kept), change, example, None)
        name = str(next((p.dtype for p in model.parameters()), torch.float32)).removeprefix("torch.")
        return Measured(_apart(*own), _apart(*allowed), _apart(*own), math.nan, name)
    drawn = _compared(randomized(copied(model), kept=kept), change, example, torch.float64)
    truth = exact[0]
    return Measured(_apart(*exact), _apart(*drawn), _apart(truth, own[1]), _apart(truth, own[0]), "float64")


def checked(verb: str, model: nn.Module, change: Callable[[nn.Module], None], example: Any) -> Measured:
    """What `measure` finds; raises ValueError where `change` would not leave the outputs as they are."""
    check_comparable(verb, model, example)
    try:
        measured = measure(model, change, example)
    except Exception as error:  # whatever a user's model raises once it is changed
        raise ValueError(f"{verb} would make the model fail on the example, so nothing was changed: {error}") from error
    if not measured.fits:
        raise ValueError(f"{verb} would change the outputs, so nothing was changed: {measured}")
    return measured


@torch.no_grad()
def randomized(model: nn.Module, *, kept: Container[str] = ()) -> nn.Module:
    """The model with other statistics, scales and shifts, the same each time; in place. kept: layers to spare."""
    random = torch.Generator().manual_seed(0)
    for name, layer in norms(model):
        known: Any = layer
        if name in kept or known.running_mean is None or known.running_var is None:
            continue
        mean, var = known.running_mean, known.running_var
        mean += _DRAWN * var.sqrt() * _normal(mean, random)
        var *= torch.exp(_DRAWN * _normal(var, random))
        for tensor in (getattr(known, "weight", None), getattr(known, "bias", None)):
            if tensor is not None:  # moved away from 0, too: a scale of 0 would hide the layer
                tensor.data += _DRAWN * (1 + tensor.abs()) * _normal(tensor, random)
    return model


def check_comparable(verb: str, model: nn.Module, example: Any) -> None:
    """Raise ValueError for an example whose outputs would be alike whatever is done to the model."""
    if not any(bool(torch.isfinite(tensor).any()) for tensor in outputs(copied(model), example)):
        raise ValueError(
            f"{verb} expected an example on which the model gives tensors of finite numbers, to compare by, got none: "
            "look for NaN, for an example without rows, or hand over the part of the model that gives scores"
        )


def _normal(like: Tensor, random: torch.Generator) -> Tensor:
    return torch.randn(like.shape, generator=random, dtype=torch.float64).to(like)


def _compared(
    model: nn.Module, change: Callable[[nn.Module], None], example: Any, dtype: torch.dtype | None
) -> tuple[list[Tensor], list[Tensor]]:
    """What the model gives, and what it gives once changed. Uses the model up."""
    if dtype is not None:
        model.to(dtype)
    before = outputs(model, example, dtype)
    change(model)
    return before, outputs(model, example, dtype)


def outputs(model: nn.Module, example: Any, dtype: torch.dtype | None = None) -> list[Tensor]:
    """All tensors of numbers that the model gives on the example, at test time."""
    model.eval()
    given = tree_map(lambda leaf: _as_input(leaf, dtype), example)
    with torch.inference_mode(False), torch.no_grad(), same_randomness():
        found = [leaf for leaf in tree_leaves(call(model, given)) if isinstance(leaf, Tensor)]
    found = [torch.view_as_real(tensor) if tensor.is_complex() else tensor for tensor in found]
    return [tensor for tensor in found if tensor.is_floating_point()]


def _as_input(leaf: Any, dtype: torch.dtype | None) -> Any:
    if not isinstance(leaf, Tensor):
        return leaf
    leaf = leaf.detach().clone()
    return leaf.to(dtype) if dtype is not None and leaf.is_floating_point() else leaf


def _apart(expected: list[Tensor], got: list[Tensor]) -> float:
    """The largest difference of a tensor, in units of its largest value; inf where they are of other kinds."""
    if len(expected) != len(got):
        return math.inf
    return max((_difference(a, b) for a, b in zip(expected, got, strict=True)), default=0.0)


def _difference(expected: Tensor, got: Tensor) -> float:
    if expected.shape != got.shape:
        return math.inf
    a, b = expected.double(), got.double()
    finite = torch.isfinite(a)
    if not torch.equal(finite, torch.isfinite(b)):
        return math.inf
    a, b = a[finite], b[finite]
    if a.numel() == 0:
        return 0.0
    apart, peak = float((a - b).abs().max()), float(a.abs().max())
    return apart if peak == 0 else apart / peak
