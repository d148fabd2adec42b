"""Which batch norm layers can become ours, and which cannot, with the reason."""

from __future__ import annotations

import functools
import sys
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch.nn.modules.lazy import LazyModuleMixin

from batchnorm.nn import BatchNorm1d, BatchNorm2d, BatchNorm3d
from batchnorm.surgery.activations import activation_of, is_nothing, why_not_fused
from batchnorm.surgery.fingerprint import fingerprint
from batchnorm.surgery.places import Places
from batchnorm.surgery.record import ALREADY
from batchnorm.surgery.timm_layer import BatchNormAct2d

_AnyBatchNorm = nn.modules.batchnorm._BatchNorm
_OURS: dict[type[nn.Module], type[nn.Module]] = {
    nn.BatchNorm1d: BatchNorm1d,
    nn.BatchNorm2d: BatchNorm2d,
    nn.BatchNorm3d: BatchNorm3d,
}
_TIMM_FORWARD = "b1e6468008c61792"  # fingerprint of BatchNormAct2d.forward


@dataclass(frozen=True)
class Becoming:
    """What a layer is to become.

    Attributes:
        kind: the class.
        attributes: what ours has and torch's has not, as a new layer has it.
        own_activation: the activation that a layer of timm's has inside and that can be fused; None for torch.nn's.
    """

    kind: type[nn.Module]
    attributes: dict[str, Any]
    own_activation: str | None


def is_batch_norm(module: nn.Module) -> bool:
    """Whether the record should speak of this module: torch's layers, their subclasses, and other people's own."""
    if isinstance(module, _AnyBatchNorm):
        return True
    kind = module.original_name if isinstance(module, torch.jit.ScriptModule) else type(module).__name__
    return "BatchNorm" in kind and isinstance(getattr(module, "running_mean", None), torch.Tensor)


def is_ours(module: nn.Module) -> bool:
    """Whether the module is exactly one of this package's layers, or timm's that was converted."""
    return type(module) in _OURS.values() or type(module) is BatchNormAct2d


def fate(layer: nn.Module, places: Places, *, fuse: bool) -> Becoming | str:
    """What a batch norm layer is to become, or why it is left alone; with `fuse` timm's activation is part of it."""
    reason = _why_not(layer)
    if reason is not None:
        return reason
    if places.is_shared(layer):
        return "is shared: it stands at " + " and ".join(place.name for place in places.of[layer])
    base: Any = nn.BatchNorm2d if is_timm(layer) else type(layer)
    known: Any = layer
    settings = (known.num_features, known.eps, known.momentum, known.affine, known.track_running_stats)
    try:
        ours = _OURS[base](*settings, device="meta")
    except (TypeError, ValueError) as error:
        return f"has settings that are refused here: {error}"
    new = {name: value for name, value in vars(ours).items() if name not in _attributes(base)}
    taken = [name for name in new if hasattr(layer, name)]
    if taken:
        return f"has an attribute {taken[0]!r} of its own"
    if not is_timm(layer) or (is_nothing(known.drop) and is_nothing(known.act)):
        return Becoming(type(ours), new, None)
    if fuse and is_nothing(known.drop) and why_not_fused(known.act) is None:
        return Becoming(type(ours), new, activation_of(known.act))
    return Becoming(BatchNormAct2d, new, None)


def _why_not(layer: nn.Module) -> str | None:
    if is_ours(layer):
        return ALREADY
    if isinstance(layer, torch.jit.ScriptModule):
        return "is compiled by torch.jit: convert the model before scripting it"
    if isinstance(layer, nn.SyncBatchNorm):
        return "takes its statistics over several processes"
    if isinstance(layer, LazyModuleMixin):
        return "has no size yet: run one batch through the model first"
    if not isinstance(layer, _AnyBatchNorm):
        return "is no layer of torch.nn, but a class of its own"
    if nn.utils.parametrize.is_parametrized(layer):
        return "has parametrizations: remove them first"
    if "forward" in vars(layer):
        return "has a forward of its own, set on the object"
    if is_timm(layer):
        is_known = fingerprint(type(layer).forward) == _TIMM_FORWARD
        return None if is_known else "is of a version of timm that is not known"
    return None if type(layer) in _OURS else "is a subclass: what it does differently is not known"


def is_timm(layer: nn.Module) -> bool:
    """Whether the layer is timm's BatchNormAct2d; timm is asked only where it is loaded."""
    home = sys.modules.get("timm.layers.norm_act")
    return home is not None and type(layer) is getattr(home, "BatchNormAct2d", None)


@functools.cache
def _attributes(base: type[Any]) -> frozenset[str]:
    return frozenset(vars(base(1, device="meta")))
