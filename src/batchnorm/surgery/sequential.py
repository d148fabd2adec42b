"""Neighbours in a Sequential: a layer, and the activation that is called with what the layer gives."""

from __future__ import annotations

from itertools import islice

from torch import nn

from batchnorm.surgery.activations import activation_of, is_nothing, looks_like_activation, why_not_fused
from batchnorm.surgery.fusion import Candidates, Ending, Fusion
from batchnorm.surgery.places import Place


def find(candidates: Candidates) -> None:
    """Accept every pair of neighbours that can be fused; an Identity between them is passed over."""
    for module, name in candidates.places.names.items():
        if not isinstance(module, nn.Sequential) or not _runs_in_order(module):
            continue
        for position, layer in enumerate(module):
            if layer not in candidates:
                continue
            following = islice(module._modules.items(), position + 1, None)
            attribute, activation = next(((a, m) for a, m in following if not is_nothing(m)), ("", None))
            if activation is None or not (activation_of(activation) or looks_like_activation(activation)):
                continue
            reason = candidates.why_not(layer) or why_not_fused(activation)
            if reason is not None:
                candidates.refuse(layer, f"{type(activation).__name__} after it", reason)
                continue
            what = activation_of(activation)
            assert what is not None
            place = Place(module, attribute, f"{name}.{attribute}" if name else attribute)
            candidates.accept(Fusion((Ending(layer, what),), (place,), "neighbours in Sequential"))


def _runs_in_order(module: nn.Sequential) -> bool:
    """Whether the module is called as Sequential is: a subclass may add to it, but not replace its forward."""
    return type(module).forward is nn.Sequential.forward and "forward" not in vars(module)
