"""drop_redundant_bias(model): biases that a batch norm layer subtracts again."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.optim import Optimizer

from batchnorm.nn import freezing
from batchnorm.progress_bar import Bar
from batchnorm.surgery.fold_check import Measured, checked
from batchnorm.surgery.fold_flow import observe
from batchnorm.surgery.fold_layers import is_linear, linears_in, why_not_linear, why_not_norm
from batchnorm.surgery.fold_proof import Proofs
from batchnorm.surgery.layers import is_batch_norm
from batchnorm.surgery.optimizer_groups import Exchange, check_optimizer, exchange
from batchnorm.surgery.places import Places
from batchnorm.surgery.record import Entry, grouped
from batchnorm.surgery.runnable import check_runnable, check_sized
from batchnorm.surgery.stand_ins import UnprovenError
from batchnorm.surgery.verify import copied


@dataclass(frozen=True)
class Dropping:
    """What `drop_redundant_bias` did.

    Attributes:
        dropped: layers whose bias is gone.
        left_alone: layers before a batch norm layer that keep theirs, with the reason.
        measured: how far outputs at test time are from before, on the example; None without one.
    """

    dropped: tuple[Entry, ...]
    left_alone: tuple[Entry, ...]
    measured: Measured | None = None

    def __str__(self) -> str:
        count = len(self.dropped)
        lines = [f"dropped {count} bias{'' if count == 1 else 'es'}"]
        return "\n".join([*lines, *grouped("dropped", self.dropped), *grouped("kept", self.left_alone)])


def drop_redundant_bias(
    model: nn.Module, example: Any = None, *, optimizer: Optimizer | None = None, progress: bool = True
) -> Dropping:
    """Remove biases of Linear and convolutions whose output goes straight into a batch norm layer, in place.

    Batch norm subtracts the mean, and a bias with it: in training the bias does nothing, its gradient is 0, and weight
    decay and momentum move it all the same. At test time the running mean has it in it: running_mean - bias gives the
    same outputs without.

    Args:
        model: changed in place; layers of torch.nn and of this package.
        example: an input of the model, a tuple of its arguments, or a dictionary of them by name. With it outputs
            before and after are compared, and a Linear is seen to give (N, C). Without it a Linear before a BatchNorm1d
            of as many features is taken to.
        optimizer: the model's: biases leave its groups and its state.
        progress: show a bar on standard error, where that is a terminal, when this takes longer than two seconds.

    Returns:
        What was dropped and what was not, with reasons.

    Raises:
        TypeError: no torch.nn.Module, no optimizer.
        ValueError: an optimizer of another model; a model in DistributedDataParallel; it does not run on the example;
            outputs would differ: then nothing has changed.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    >>> print(drop_redundant_bias(model))
    dropped 1 bias
    dropped  1 x Linear: BatchNorm1d after it subtracts it [0]
    >>> model[0]
    Linear(in_features=3, out_features=4, bias=False)
    """
    check_model("drop_redundant_bias", model)
    check_optimizer("drop_redundant_bias", optimizer, model)
    if example is not None:
        check_runnable("drop_redundant_bias", model)
    with closing(Bar("looking for biases", len(list(model.modules())), shown=progress)) as bar:
        pairs, alone = _find(model, example, bar)
    names = [(entry.name, norm) for entry, norm in pairs]
    measured = None
    if example is not None and pairs:
        measured = checked("drop_redundant_bias", model, partial(_changed, names=names), example)
    exchange(optimizer, _drop(model, names))
    return Dropping(tuple(entry for entry, _ in pairs), tuple(alone), measured)


def check_model(verb: str, model: Any) -> None:
    """Raise for what cannot get or lose parameters."""
    if not isinstance(model, nn.Module):
        raise TypeError(f"{verb} expected a torch.nn.Module, got {type(model).__name__}")
    if any(isinstance(module, DistributedDataParallel) for module in model.modules()):
        raise ValueError(
            f"{verb} expected a model that is not wrapped in DistributedDataParallel, which has settled already which "
            f"parameters get gradients: {verb} first and wrap then"
        )
    check_sized(verb, model)


def without_bias(linear: Any) -> nn.Parameter:
    """Take the bias of a linear map away; returns it."""
    bias: nn.Parameter = linear.bias
    linear.bias = None
    return bias


def _find(model: nn.Module, example: Any, bar: Bar) -> tuple[list[tuple[Entry, str]], list[Entry]]:
    """Layers to change, each with the name of the batch norm layer after it; and those that keep their bias."""
    places, pairs, alone = Places.in_model(model), [], []
    wrong = set() if example is None else _over_other_dimensions(model, example)
    for linear, norm, problem in _followed(model, places, bar):
        reason = problem
        if norm is not None:
            reason = reason or _why_not(linear, norm, places, in_training=model.training)
            if reason is None and places.names[linear] in wrong:
                reason = f"{type(norm).__name__} normalizes another dimension than the one that the bias lies along"
            if reason is None:
                entry = Entry(
                    places.names[linear], type(linear).__name__, f"{type(norm).__name__} after it subtracts it"
                )
                pairs.append((entry, places.names[norm]))
                continue
        alone.append(Entry(places.names[linear], type(linear).__name__, reason or ""))
    return pairs, alone


def _followed(model: nn.Module, places: Places, bar: Bar) -> Iterator[tuple[Any, Any, str | None]]:
    """Each linear map with a bias and the batch norm layer after it, if that is certain, else why it is not."""
    proofs = Proofs()
    for module in bar.over(places.names):
        norms = {m for m in module.modules() if m is not module and is_batch_norm(m)}
        linears = [m for m in linears_in(module) if getattr(m, "bias", None) is not None] if norms else []
        for linear in linears:
            try:
                users = proofs.users(module, linear)
                proofs.check_untouched(model, places, linear)
            except UnprovenError as error:
                if norms & set(module.children()):
                    yield linear, None, str(error)
                continue
            found = [module.get_submodule(str(n.target)) if n.op == "call_module" else None for n in users]
            if found and found[0] in norms:
                same = all(other is found[0] for other in found)
                yield linear, found[0], None if same else "what comes after it depends on how the model is called"


def _why_not(linear: Any, norm: Any, places: Places, *, in_training: bool) -> str | None:
    name, other = type(linear).__name__, type(norm).__name__
    if places.is_shared(linear) or places.is_shared(norm):
        return f"{name} or {other} is shared"
    owners = [m for m in places.names if any(p is linear.bias for p in m._parameters.values())]
    if len(owners) > 1:
        return f"{name} shares its bias with another module"
    if freezing.statistics_are_frozen(norm):
        return f"{other} is frozen: it does not subtract the batch's mean"
    if in_training and not norm.training:
        return f"{other} is in eval mode while the model trains: it does not subtract the batch's mean"
    features = linear.out_features if isinstance(linear, nn.Linear) else linear.out_channels
    if norm.num_features != features:
        return f"{other} normalizes another dimension than the one that the bias lies along"
    if norm.running_mean is None:
        return why_not_linear(linear, padding_may_vary=True)
    return why_not_linear(linear, padding_may_vary=True) or why_not_norm(norm)


def _over_other_dimensions(model: nn.Module, example: Any) -> set[str]:
    """Names of linear maps that give something else than (N, C) or (N, C, *) with as many dimensions as they have."""
    other = copied(model).eval()
    names = {module: name for name, module in other.named_modules() if is_linear(module)}
    flow = observe("drop_redundant_bias", other, example, set(names))
    found = set()
    for module, name in names.items():
        wanted = 2 if isinstance(module, nn.Linear) else len(module.kernel_size) + 2
        if any(call.output is None or call.output[0].dim() != wanted for call in flow.of(module)):
            found.add(name)
    return found


def _changed(model: nn.Module, names: list[tuple[str, str]]) -> None:
    _drop(model, names)


@torch.no_grad()
def _drop(model: nn.Module, names: list[tuple[str, str]]) -> list[Exchange]:
    """Remove the biases, in place."""
    changes = []
    for linear_name, norm_name in names:
        linear: Any = model.get_submodule(linear_name)
        norm: Any = model.get_submodule(norm_name)
        bias = without_bias(linear)
        if norm.running_mean is not None:
            norm.running_mean -= bias.to(norm.running_mean)
        changes.append(Exchange(linear.weight, gone=(bias,)))
    return changes
