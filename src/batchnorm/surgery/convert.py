"""convert(model), revert(model): torch.nn's batch norm layers become this package's, and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from torch import nn

from batchnorm.surgery import families, sequential
from batchnorm.surgery.activations import is_nothing
from batchnorm.surgery.changes import Changes, all_or_nothing, restore, restore_child
from batchnorm.surgery.fusion import Candidates, Fusion
from batchnorm.surgery.layers import Becoming, fate, is_batch_norm, is_ours
from batchnorm.surgery.places import Places
from batchnorm.surgery.record import Conversion, Entry, Reversion
from batchnorm.surgery.timm_layer import BatchNormAct2d
from batchnorm.surgery.traced import find as find_by_tracing
from batchnorm.surgery.verify import copied, verify


def convert(
    model: nn.Module, example: Any = None, *, trace: bool = False, fuse: bool = True, rtol: float | None = None
) -> Conversion:
    """Turn every torch.nn.BatchNorm1d, 2d and 3d of a model into this package's, in place, and fuse what follows.

    A layer stays the same object and changes its class: parameters, buffers, hooks, mode, dtype, device and state_dict
    keys stay what they are. (Running statistics in half precision become float32.) An activation that is fused away
    leaves an Identity in its place. `revert` takes all of it back.

    Args:
        model: any module; changed in place.
        example: an input of the model, a tuple of its arguments, or a dictionary of them by name. The converted model
            is then compared with the model as it was, on copies, at test time and in training: outputs, gradients and
            running statistics.
        trace: also look into the forward of other modules, by torch.fx, and rewrite those where an activation is proven
            to follow a layer. Such a forward is fixed from then on: attributes that it read when it was traced do not
            count any more. A residual add is only fused with an example, which shows that shapes are equal.
        fuse: let layers end in the activations that follow them: neighbours in a Sequential, and blocks of torchvision
            and timm that are known. Without, layers alone are converted.
        rtol: the largest difference that the comparison allows, in units of the compared tensor's largest value; by
            default 1e-5 where the model runs in float64, 0.01 in float32, 0.1 in half precision.

    Returns:
        What was converted, fused, not fused and left alone, with reasons. Converting twice changes nothing more.

    Raises:
        TypeError: no torch.nn.Module.
        ValueError: the model does not run on the example, or cannot be copied; options that contradict each other.
        VerificationError: outputs or gradients differ; the model is as it was, as after any other error.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4), torch.nn.BatchNorm1d(4), torch.nn.ReLU())
    >>> print(convert(model))
    converted 1 layer, fused 1
    converted   1 x torch.nn.BatchNorm1d -> batchnorm.BatchNorm1d: same parameters and buffers [1]
    fused       1 x relu: neighbours in Sequential [1]
    >>> type(model[1]), model[1].activation, model[2]
    (<class 'batchnorm.nn.batch_norm.BatchNorm1d'>, 'relu', Identity())
    """
    _check_model("convert", model)
    if trace and not fuse:
        raise ValueError("convert expected fuse=True with trace=True: tracing only looks for what can be fused")
    if rtol is not None and (example is None or not 0 < rtol < float("inf")):
        raise ValueError(f"convert expected a number > 0 for rtol, and an example to compare on; got rtol={rtol}")
    places = Places.in_model(model)
    layers = [module for module in places.names if is_batch_norm(module)]
    fates = {layer: fate(layer, places, fuse=fuse) for layer in layers}
    candidates = Candidates(places, [layer for layer in layers if _can_end_in_activation(layer, fates[layer])])
    if fuse:
        sequential.find(candidates)
        families.find(candidates)
    if trace:
        find_by_tracing(candidates, model, example)
    before = None if example is None else copied(model)
    record = _record(places, fates, candidates)
    with all_or_nothing() as changes:
        for layer, becoming in fates.items():
            if isinstance(becoming, Becoming):
                _convert_layer(layer, becoming, changes)
        for fusion in candidates.fusions:
            _fuse(fusion, changes)
        if before is None:
            return record
        return replace(record, verified=verify(before, model, example, rtol=rtol))


def revert(model: nn.Module) -> Reversion:
    """Take back what `convert` did to a model, or to the model that it is a copy of.

    Classes, activations and their places become what they were; parameters and statistics keep their present values.
    Layers of this package that were there before `convert` stay.

    Raises:
        TypeError: no torch.nn.Module.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.BatchNorm1d(4), torch.nn.ReLU())
    >>> _ = convert(model)
    >>> print(revert(model))
    restored 2 modules
    restored    1 x ReLU: as before convert [1]
    restored    1 x BatchNorm1d: as before convert [0]
    >>> type(model[0]) is torch.nn.BatchNorm1d
    True
    """
    _check_model("revert", model)
    restored = []
    for place in [place for places in Places.in_model(model).of.values() for place in places]:
        kind = restore_child(place.parent, place.attribute)
        if kind is not None:
            restored.append(Entry(place.name, kind, "as before convert"))
    for name, module in list(model.named_modules()):
        kind = restore(module)
        if kind is not None:
            restored.append(Entry(name, kind, "as before convert"))
    return Reversion(tuple(restored))


def _can_end_in_activation(layer: nn.Module, becoming: Becoming | str) -> bool:
    if isinstance(becoming, Becoming):
        return becoming.own_activation is None and becoming.kind is not BatchNormAct2d
    return is_ours(layer) and type(layer) is not BatchNormAct2d and getattr(layer, "activation", None) is None


def _convert_layer(layer: nn.Module, becoming: Becoming, changes: Changes) -> None:
    if becoming.own_activation is not None:
        changes.remove(layer, "act")
    changes.become(layer, becoming.kind, becoming.attributes | {"activation": becoming.own_activation})
    changes.widen_statistics(layer)


def _fuse(fusion: Fusion, changes: Changes) -> None:
    for ending in fusion.endings:
        changes.become(ending.layer, type(ending.layer), {"activation": ending.activation})
    for place in fusion.removed:
        changes.remove(place.parent, place.attribute)
    if fusion.block is not None and fusion.becomes is not None:
        changes.become(fusion.block, fusion.becomes)


def _record(places: Places, fates: dict[nn.Module, Becoming | str], candidates: Candidates) -> Conversion:
    converted, fused, left_alone = [], [], []
    for layer, becoming in fates.items():
        name, kind = places.names[layer], type(layer)
        if isinstance(becoming, str):
            left_alone.append(Entry(name, f"{_library(kind)}.{kind.__name__}", becoming))
            continue
        what = f"{_library(kind)}.{kind.__name__} -> batchnorm.{becoming.kind.__name__}"
        kept = f", {_kept(layer)} as before" if becoming.kind is BatchNormAct2d else ""
        converted.append(Entry(name, what, f"same parameters and buffers{kept}"))
        if becoming.own_activation is not None:
            fused.append(Entry(name, becoming.own_activation, f"inside {_library(kind)}'s {kind.__name__}"))
    fused += candidates.entries()
    return Conversion(tuple(converted), tuple(fused), tuple(candidates.refusals), tuple(left_alone))


def _kept(layer: Any) -> str:
    """What stays a module in a layer of timm's."""
    return " and ".join(type(part).__name__ for part in (layer.drop, layer.act) if not is_nothing(part))


def _library(kind: type[nn.Module]) -> str:
    """How a class's home is usually called."""
    return "torch.nn" if kind.__module__.startswith("torch.nn.") else kind.__module__.split(".")[0]


def _check_model(name: str, model: nn.Module) -> None:
    if not isinstance(model, nn.Module):
        raise TypeError(f"{name} expected a torch.nn.Module, got {type(model).__name__}")
