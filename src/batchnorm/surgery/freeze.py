"""freeze(model), thaw(model): batch norm layers that stay as they are while the rest of the model trains."""

from __future__ import annotations

import fnmatch
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin
from torch.nn.parallel import DistributedDataParallel

from batchnorm.nn import freezing
from batchnorm.surgery.record import Entry

_BatchNorm = nn.modules.batchnorm._BatchNorm
Where: TypeAlias = str | nn.Module | Iterable[str | nn.Module] | Callable[[str, nn.Module], bool] | None


@dataclass(frozen=True)
class Freezing:
    """What `freeze` or `thaw` did.

    Attributes:
        changed: layers, and what of them is frozen, or was.
        left_alone: layers that were asked for and stay as they were, with the reason.
    """

    changed: tuple[Entry, ...]
    left_alone: tuple[Entry, ...]

    def __str__(self) -> str:
        lines = [f"{entry.name or '(the model)'}: {entry.what}, {entry.reason}" for entry in self.changed]
        alone = [f"{entry.name or '(the model)'}: left alone, {entry.reason}" for entry in self.left_alone]
        return "\n".join([*lines, *alone]) or "nothing changed"


def freeze(model: nn.Module, where: Where = None, *, parameters: bool = True, statistics: bool = True) -> Freezing:
    """Keep batch norm layers as they are, through train(), deepcopy, pickle, DDP and loading.

    A layer whose statistics are frozen normalizes by its running statistics and never moves them, in every mode. Frozen
    parameters get no gradient, and an optimizer leaves them as they are. Layers, parameters and buffers stay the same
    objects, and state_dict keeps its keys. `thaw` takes it back.

    Args:
        model: with layers of torch.nn or of this package: 1d, 2d, 3d, Sync and subclasses.
        where: which layers; None is all. A name of `model.named_modules()`, with wildcards or without, means the layers
            of that name or below it: "encoder", "layer4.*.bn1". A module means itself and what is below it. Several of
            these in a list; or a function of name and layer that says whether.
        parameters: freeze weight and bias. A gradient that is waiting in them is dropped.
        statistics: freeze running mean and variance, and normalize by them.

    Returns:
        What was frozen and what was not, with reasons. Freezing twice changes nothing more.

    Raises:
        TypeError: no torch.nn.Module, or a `where` of another kind.
        ValueError: no such layer; neither parameters nor statistics; a layer without a size; parameters of a model that
            is wrapped in DistributedDataParallel already, which would wait for their gradients forever.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4))
    >>> print(freeze(model))
    1: parameters and statistics, frozen
    >>> model.train()[1].training, model[1].weight.requires_grad
    (False, False)
    >>> print(thaw(model))
    1: parameters and statistics, thawed
    >>> model[1].training, model[1].weight.requires_grad
    (True, True)
    """
    everywhere = _layers("freeze", model, parameters=parameters, statistics=statistics)
    chosen = _chosen("freeze", model, everywhere, where)
    for layer, name in chosen.items():
        if isinstance(layer, LazyModuleMixin):
            raise ValueError(f"freeze expected layers that have a size, got {name!r}: run a batch through the model")
    if parameters:
        _refuse_distributed(model, chosen)
    new_parameters = [
        layer for layer in chosen if parameters and _has_parameters(layer) and not freezing.parameters_are_frozen(layer)
    ]
    new_statistics = [
        layer for layer in chosen if statistics and _has_statistics(layer) and not freezing.statistics_are_frozen(layer)
    ]
    freezing.freeze_parameters(new_parameters, beside=everywhere)
    for layer in new_statistics:
        freezing.freeze_statistics(layer)
    left_alone = []
    for layer, name in chosen.items():
        if statistics and not _has_statistics(layer):
            left_alone.append(Entry(name, type(layer).__name__, "it has no running statistics to normalize by"))
        elif layer not in new_parameters and layer not in new_statistics:
            reason = "it is frozen already" if _is_frozen(layer) else "it has no parameters"
            left_alone.append(Entry(name, type(layer).__name__, reason))
    return Freezing(_entries(chosen, new_parameters, new_statistics, "frozen"), tuple(left_alone))


def thaw(model: nn.Module, where: Where = None, *, parameters: bool = True, statistics: bool = True) -> Freezing:
    """Take back what `freeze` did to a model, or to the model that it is a copy of.

    requires_grad is what it was before; the mode is the one that the layer would be in had it never been frozen.

    Args:
        model, where, parameters, statistics: as for `freeze`.

    Returns:
        What was thawed; a layer that was not frozen is left alone.

    Raises:
        TypeError, ValueError: as for `freeze`.
    """
    everywhere = _layers("thaw", model, parameters=parameters, statistics=statistics)
    chosen = _chosen("thaw", model, everywhere, where)
    old_parameters = [layer for layer in chosen if parameters and freezing.parameters_are_frozen(layer)]
    old_statistics = [layer for layer in chosen if statistics and freezing.statistics_are_frozen(layer)]
    if old_parameters:
        _refuse_distributed(model, dict.fromkeys(old_parameters, ""), verb="thaw")
    freezing.thaw_parameters(old_parameters, beside=everywhere)
    for layer in old_statistics:
        freezing.thaw_statistics(layer)
    alone = (layer for layer in chosen if layer not in old_parameters and layer not in old_statistics)
    left_alone = tuple(Entry(chosen[layer], type(layer).__name__, "it was not frozen") for layer in alone)
    return Freezing(_entries(chosen, old_parameters, old_statistics, "thawed"), left_alone)


def _layers(verb: str, model: nn.Module, *, parameters: bool, statistics: bool) -> dict[nn.Module, str]:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{verb} expected a torch.nn.Module, got {type(model).__name__}")
    if not (parameters or statistics):
        raise ValueError(f"{verb} expected parameters, statistics or both, got neither: leave one of them True")
    layers: dict[nn.Module, str] = {m: name for name, m in model.named_modules() if isinstance(m, _BatchNorm)}
    if not layers:
        raise ValueError(f"{verb} expected a model with batch norm layers, got {type(model).__name__} without any")
    return layers


def _chosen(verb: str, model: nn.Module, layers: dict[nn.Module, str], where: Where) -> dict[nn.Module, str]:
    if where is None:
        return layers
    if callable(where) and not isinstance(where, nn.Module):
        chosen = {layer for layer, name in layers.items() if where(name, layer)}
        if not chosen:
            raise ValueError(f"{verb} expected where to choose a layer, but it chose none of {_some(layers.values())}")
    else:
        if not isinstance(where, (str, nn.Module, Iterable)):
            raise TypeError(f"{verb} expected names, modules or a function for where, got {type(where).__name__}")
        one = isinstance(where, (str, nn.Module))  # a Sequential is a module first, and not a list of them
        parts: list[Any] = [where] if one else list(where)  # type: ignore[arg-type]
        chosen = set()
        for part in parts:
            found = _below(verb, model, layers, part)
            if not found:
                shown = repr(part) if isinstance(part, str) else f"this {type(part).__name__}"
                raise ValueError(f"{verb} found no batch norm layer at {shown}: there are {_some(layers.values())}")
            chosen |= found
        if not parts:
            raise ValueError(f"{verb} expected at least one name or module for where, got none; None means every layer")
    return {layer: name for layer, name in layers.items() if layer in chosen}


def _below(verb: str, model: nn.Module, layers: dict[nn.Module, str], part: Any) -> set[nn.Module]:
    """The layers that a name or a module stands for."""
    if isinstance(part, nn.Module):
        return {module for module in part.modules() if module in layers}
    if not isinstance(part, str):
        raise TypeError(f"{verb} expected a name or a module in where, got {type(part).__name__}")
    # A layer that is registered in several places answers to each of its names.
    return {
        layer
        for name, layer in model.named_modules(remove_duplicate=False)
        if layer in layers and (fnmatch.fnmatchcase(name, part) or fnmatch.fnmatchcase(name, f"{part}.*"))
    }


def _refuse_distributed(model: nn.Module, layers: dict[nn.Module, str], *, verb: str = "freeze") -> None:
    """Its reducer was told at the start which gradients to expect."""
    for module in model.modules():
        if isinstance(module, DistributedDataParallel) and any(layer in layers for layer in module.modules()):
            raise ValueError(
                f"{verb} expected a model that is not wrapped in DistributedDataParallel, which has settled already "
                f"which parameters get gradients: {verb} first and wrap then, or {verb} with parameters=False"
            )


def _entries(
    chosen: dict[nn.Module, str], parameters: list[nn.Module], statistics: list[nn.Module], verb: str
) -> tuple[Entry, ...]:
    found = []
    for layer, name in chosen.items():
        parts = ["parameters"] * (layer in parameters) + ["statistics"] * (layer in statistics)
        if parts:
            found.append(Entry(name, " and ".join(parts), verb))
    return tuple(found)


def _has_parameters(layer: nn.Module) -> bool:
    return any(True for _ in layer.parameters())


def _has_statistics(layer: Any) -> bool:
    return layer.running_mean is not None and layer.running_var is not None


def _is_frozen(layer: nn.Module) -> bool:
    return freezing.parameters_are_frozen(layer) or freezing.statistics_are_frozen(layer)


def _some(names: Iterable[str]) -> str:
    found = [name or "(the model)" for name in names]
    return ", ".join(found[:5]) + (f" and {len(found) - 5} more" if len(found) > 5 else "")
