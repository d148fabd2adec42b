"""insert(model, batch): batch norm layers where a network has none, which change nothing until it is trained."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.optim import Optimizer

from batchnorm.moments import Moments
from batchnorm.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d
from batchnorm.progress_bar import Bar
from batchnorm.surgery.activations import activation_of, looks_like_activation
from batchnorm.surgery.bias import check_model, without_bias
from batchnorm.surgery.fold_check import Measured, checked
from batchnorm.surgery.fold_flow import Call, observe
from batchnorm.surgery.fold_layers import linears_in, why_not_linear
from batchnorm.surgery.fold_proof import Proofs
from batchnorm.surgery.optimizer_groups import Exchange, check_optimizer, exchange
from batchnorm.surgery.places import Places
from batchnorm.surgery.record import Entry, grouped
from batchnorm.surgery.runnable import check_runnable
from batchnorm.surgery.stand_ins import UnprovenError
from batchnorm.surgery.verify import copied

_PLACEMENTS = ("before", "after")
_KINDS = {2: BatchNorm1d, 3: BatchNorm1d, 4: BatchNorm2d, 5: BatchNorm3d}  # by dimensions of what they normalize
_NO_ACTIVATIONS = (nn.Softmax, nn.LogSoftmax, nn.Softmax2d, nn.Softmin)
_FUNCTIONS = frozenset(
    (
        *("relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "silu", "mish", "hardtanh", "hardswish"),
        *("hardsigmoid", "softplus", "softsign", "sigmoid", "tanh", "rrelu", "logsigmoid", "tanhshrink", "prelu"),
    )
)


@dataclass(frozen=True)
class Insertion:
    """What `insert` did.

    Attributes:
        inserted: where layers now stand, and what they are.
        left_alone: linear maps before an activation that got none, with the reason.
        measured: how far outputs on the calibration batch are from before.
    """

    inserted: tuple[Entry, ...]
    left_alone: tuple[Entry, ...]
    measured: Measured

    def __str__(self) -> str:
        count = len(self.inserted)
        lines = [f"inserted {count} batch norm layer{'' if count == 1 else 's'}, {self.measured}"]
        return "\n".join([*lines, *grouped("inserted", self.inserted), *grouped("alone", self.left_alone)])


@dataclass(frozen=True, eq=False)
class _Site:
    """Where a layer goes, by names: behind `wrapped`, whose features are `linear`'s; and what it normalizes there."""

    wrapped: str
    linear: str
    drops_bias: bool
    dimensions: int
    moments: Moments


def insert(
    model: nn.Module,
    batch: Any,
    *,
    placement: str = "before",
    optimizer: Optimizer | None = None,
    progress: bool = True,
) -> Insertion:
    """Put batch norm between linear maps and their activations, or after those, in place.

    Each layer begins as the identity on the calibration batch: with gamma = sqrt(sigma2 + eps) and beta = mu of what it
    normalizes there, and these statistics as its running ones. So outputs stay what they were, and training goes on
    from there, normalized. Before an activation the linear map's bias has become redundant and is removed.

    The linear map (before) or the activation (after) becomes nn.Sequential(linear=..., norm=...) or
    nn.Sequential(activation=..., norm=...) in its place: its keys in state_dict get that word.

    Args:
        model: changed in place. A linear map gets a layer where it is certain, by tracing, that its output goes to one
            activation alone and nowhere else; the last one of a network, which has none after it, does not.
        batch: an input of the model, a tuple of its arguments, or a dictionary of them by name, with rows enough to
            take statistics from: what was in the training batches.
        placement: "before" the activation, as in the paper, or "after" it, which must then be a module.
        optimizer: the model's: it gets gamma and beta in the groups of the layers that they belong to, and loses the
            biases; other state stays.
        progress: show a bar on standard error, where that is a terminal, when this takes longer than two seconds.

    Returns:
        What was inserted and what was not, with reasons.

    Raises:
        TypeError: no torch.nn.Module, no optimizer.
        ValueError: another placement; no place found; an optimizer of another model; a model in
            DistributedDataParallel; it does not run on the batch; outputs would differ: then nothing has changed.

    Source: Ioffe and Szegedy 2015, section 3 (gamma and beta can represent the identity), and 3.2 (placement).

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.ReLU(), torch.nn.Linear(4, 2))
    >>> x = torch.randn(32, 3)
    >>> before = model(x)
    >>> insert(model, x).inserted
    (Entry(name='0', what='BatchNorm1d', reason='after Linear, whose bias it has taken over'),)
    >>> torch.allclose(model(x), before, atol=1e-6)
    True
    """
    check_model("insert", model)
    if placement not in _PLACEMENTS:
        raise ValueError(f"insert expected placement='before' or 'after', got {placement!r}")
    check_optimizer("insert", optimizer, model)
    check_runnable("insert", model)
    sites, alone = _find(model, batch, placement, progress)
    if not sites:
        reasons = "\n".join(grouped("alone", tuple(alone)))
        raise ValueError(
            "insert found no linear map whose output goes to one activation alone; nothing was changed"
            + (f":\n{reasons}" if reasons else "")
        )
    measured = checked("insert", model, partial(_changed, sites=sites), batch)
    kinds = {site.wrapped: type(model.get_submodule(site.wrapped)).__name__ for site in sites}
    exchange(optimizer, _insert(model, sites))
    entries = []
    for site in sites:
        reason = f"after {kinds[site.wrapped]}" + (", whose bias it has taken over" if site.drops_bias else "")
        entries.append(Entry(site.wrapped, _KINDS[site.dimensions].__name__, reason))
    return Insertion(tuple(entries), tuple(alone), measured)


def _find(model: nn.Module, batch: Any, placement: str, progress: bool) -> tuple[list[_Site], list[Entry]]:
    other = copied(model).eval()
    places = Places.in_model(other)
    found: list[tuple[Any, nn.Module | None]] = []
    alone: list[Entry] = []
    with closing(Bar("inserting", len(places.names), shown=progress)) as bar:
        for linear, activation, problem in _activated(other, places, bar):
            if problem is None:
                found.append((linear, activation))
            else:
                alone.append(Entry(places.names[linear], type(linear).__name__, problem))
    wanted = {linear if placement == "before" else activation for linear, activation in found}
    # Values as they were: an activation in place would leave its own there.
    flow = observe("insert", other, batch, {module for module in wanted if module is not None}, keeps_values=True)
    sites = []
    for linear, activation in found:
        normalized = linear if placement == "before" else activation
        calls = [] if normalized is None else flow.of(normalized)
        reason = _why_not(linear, normalized, calls, places)
        if reason is not None:
            alone.append(Entry(places.names[linear], type(linear).__name__, reason))
            continue
        assert normalized is not None
        assert calls[0].output is not None
        z = calls[0].output[0]
        moments = Moments.of(z.double(), dims=tuple(d for d in range(z.dim()) if d != 1))
        drops = placement == "before" and linear.bias is not None
        sites.append(_Site(places.names[normalized], places.names[linear], drops, z.dim(), moments))
    return sites, alone


def _activated(model: nn.Module, places: Places, bar: Bar) -> Iterator[tuple[Any, nn.Module | None, str | None]]:
    """Linear maps whose output goes to an activation: with that, where it is a module; or why it is not certain."""
    proofs = Proofs()
    for module in bar.over(places.names):
        if isinstance(module, nn.MultiheadAttention):
            continue  # uses its linear map's weights itself
        for linear in linears_in(module):
            try:
                users = proofs.users(module, linear)
                proofs.check_untouched(model, places, linear)
            except UnprovenError as error:
                yield linear, None, str(error)
                continue
            activations = [_activation(node, module) for node in users]
            if users and all(known for known, _ in activations):
                same = all(part is activations[0][1] for _, part in activations)
                problem = None if same else "what comes after it depends on how the model is called"
                yield linear, activations[0][1], problem


def _activation(node: fx.Node, module: nn.Module) -> tuple[bool, nn.Module | None]:
    """Whether a node is an activation, and the module that it calls, if it does."""
    if node.op == "call_module":
        child = module.get_submodule(str(node.target))
        known = looks_like_activation(child) or activation_of(child) is not None
        return known and not isinstance(child, _NO_ACTIVATIONS), child
    if node.op not in ("call_function", "call_method"):
        return False, None
    name = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", "")
    return name.removesuffix("_") in _FUNCTIONS, None


def _why_not(linear: Any, normalized: nn.Module | None, calls: list[Call], places: Places) -> str | None:
    if normalized is None:
        return "its activation is a function and no module: placement='before' can"
    name = type(normalized).__name__
    for module in (linear, normalized):
        if places.is_shared(module):
            return f"{type(module).__name__} is shared"
    if len(calls) != 1 or calls[0].output is None:
        return f"{name} is called {len(calls)} times with the batch"
    wanted = 2 if isinstance(linear, nn.Linear) else len(linear.kernel_size) + 2
    z = calls[0].output[0]
    features = linear.out_features if isinstance(linear, nn.Linear) else linear.out_channels
    if z.dim() != wanted or z.shape[1] != features:
        return f"gives {tuple(z.shape)}, where batch norm would take dimension 1 for its {features} features"
    if z.numel() <= z.shape[1]:
        few = "one value" if z.numel() else "no value"
        return f"gives {few} per channel on the batch: statistics need two rows or more"
    if not bool(torch.isfinite(z).all()):
        return "gives values on the batch that are not finite"
    return why_not_linear(linear, padding_may_vary=True)


def _changed(model: nn.Module, sites: list[_Site]) -> None:
    _insert(model, sites)


@torch.inference_mode(False)  # layers that are made inside it could not be trained
@torch.no_grad()
def _insert(model: nn.Module, sites: list[_Site]) -> list[Exchange]:
    """Put the layers in place; what changes for an optimizer."""
    changes = []
    for site in sites:
        wrapped, linear = model.get_submodule(site.wrapped), model.get_submodule(site.linear)
        norm = _layer(site, linear)
        gone: tuple[nn.Parameter, ...] = ()
        if site.drops_bias:
            bias = without_bias(linear)
            gone = (bias,)
            assert isinstance(norm.running_mean, Tensor)
            norm.running_mean -= bias.to(norm.running_mean)
        norm.train(wrapped.training)
        word = "linear" if site.wrapped == site.linear else "activation"
        both = nn.Sequential(OrderedDict([(word, wrapped), ("norm", norm)])).train(wrapped.training)
        parent, _, attribute = site.wrapped.rpartition(".")
        model.get_submodule(parent)._modules[attribute] = both
        new = {f"{site.wrapped}.norm.{name}": parameter for name, parameter in norm.named_parameters()}
        changes.append(Exchange(linear.weight, gone, new))  # type: ignore[arg-type]
    return changes


def _layer(site: _Site, linear: Any) -> nn.modules.batchnorm._BatchNorm:
    """The identity on what the moments are of, with these for running statistics."""
    weight = linear.weight
    mean, variance = site.moments.mean, site.moments.variance()
    layer = _KINDS[site.dimensions](len(mean), device=weight.device, dtype=weight.dtype)
    layer.weight.copy_(torch.sqrt(variance + layer.eps))
    layer.bias.copy_(mean)
    for buffer, value in ((layer.running_mean, mean), (layer.running_var, variance)):
        assert buffer is not None
        buffer.copy_(value)
    layer.requires_grad_(weight.requires_grad)
    assert layer.num_batches_tracked is not None
    layer.num_batches_tracked.fill_(1)
    return layer
