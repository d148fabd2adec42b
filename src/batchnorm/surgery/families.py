"""Blocks of torchvision and timm whose forward has been read: which activation follows which layer there.

Neither library is imported for this; a block is recognized where it is exactly the known class and its methods are, to
the statement, the known ones (see `fingerprint`). What is not is left as it is.
"""

from __future__ import annotations

import functools
import importlib
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from batchnorm.surgery.activations import activation_of, is_nothing, why_not_fused
from batchnorm.surgery.fingerprint import fingerprint
from batchnorm.surgery.fusion import Candidates, Ending, Fusion
from batchnorm.surgery.places import Place


@dataclass(frozen=True)
class Use:
    """All that the known methods do with one activation module.

    Attributes:
        activation: its attribute.
        layers: after which it is called, each time at once.
        passing: attributes that are called in between and must be nothing: an Identity, or None.
        residual: which of the layers has something added to it first; needs the block's fused class.
    """

    activation: str
    layers: tuple[str, ...]
    passing: tuple[str, ...] = ()
    residual: str | None = None


@dataclass(frozen=True)
class Family:
    """A class that is known.

    Attributes:
        methods: the fingerprint of each method that decides.
        uses: its activations.
        fused: where the class stands whose forward hands the residual to the layer.
    """

    methods: Mapping[str, str]
    uses: tuple[Use, ...]
    fused: str | None = None


_HERE = "batchnorm.surgery"
_FAMILIES: dict[str, Family] = {
    "torchvision.models.resnet.BasicBlock": Family(
        {"forward": "3dc6cc10fd1c00be"},
        (Use("relu", ("bn1", "bn2"), residual="bn2"),),
        f"{_HERE}.torchvision_blocks.FusedBasicBlock",
    ),
    "torchvision.models.resnet.Bottleneck": Family(
        {"forward": "afb5737210b6780c"},
        (Use("relu", ("bn1", "bn2", "bn3"), residual="bn3"),),
        f"{_HERE}.torchvision_blocks.FusedBottleneck",
    ),
    "torchvision.models.resnet.ResNet": Family(
        {"forward": "0194853ff50241bf", "_forward_impl": "785290f028179672"}, (Use("relu", ("bn1",)),)
    ),
    "torchvision.models.densenet._DenseLayer": Family(
        {
            "bn_function": "2b8ea7d1bbad8c62",
            "call_checkpoint_bottleneck": "1f624006e62eecf6",
            "forward": "cf71f285f84a0e25",
        },
        (Use("relu1", ("norm1",)), Use("relu2", ("norm2",))),
    ),
    "timm.models.resnet.BasicBlock": Family(
        {"forward": "30ffe319d2c42dcf"},
        (
            Use("act1", ("bn1",), passing=("drop_block",)),
            Use("act2", ("bn2",), passing=("se", "drop_path"), residual="bn2"),
        ),
        f"{_HERE}.timm_blocks.FusedBasicBlock",
    ),
    "timm.models.resnet.Bottleneck": Family(
        {"forward": "0d600af7f83c7bc8"},
        (
            Use("act1", ("bn1",)),
            Use("act2", ("bn2",), passing=("drop_block",)),
            Use("act3", ("bn3",), passing=("se", "drop_path"), residual="bn3"),
        ),
        f"{_HERE}.timm_blocks.FusedBottleneck",
    ),
    "timm.models.resnet.ResNet": Family(
        {"forward_features": "fbf65d89acd21438", "forward_intermediates": "c556304699a085c8"}, (Use("act1", ("bn1",)),)
    ),
    "timm.models.hrnet.HighResolutionNet": Family(
        {
            "stages": "202eb1b8b328b12e",
            "forward_features": "1a2d9c9250c289d1",
            "forward_intermediates": "c57f3834b316d8f2",
        },
        (Use("act1", ("bn1",)), Use("act2", ("bn2",))),
    ),
    "timm.models.hgnet.ConvBNAct": Family({"forward": "f40bad994056a19f"}, (Use("act", ("bn",)),)),
    "timm.models.nextvit.ConvNormAct": Family({"forward": "ddf9f04cd476a740"}, (Use("act", ("norm",)),)),
    "timm.models.efficientvit_mit.ConvNormAct": Family({"forward": "c7e5a5eec9f8699e"}, (Use("act", ("norm",)),)),
    "timm.layers.squeeze_excite.SEModule": Family({"forward": "f00a50099ef20178"}, (Use("act", ("bn",)),)),
}


def find(candidates: Candidates) -> None:
    """Accept what can be fused in blocks that are known."""
    for module in candidates.places.names:
        kind: Any = type(module)
        family = _FAMILIES.get(f"{kind.__module__}.{kind.__qualname__}")
        if family is None or not any(child in candidates for child in module.children()):
            continue
        if not _is_as_known(kind) or "forward" in vars(module):
            library = kind.__module__.split(".")[0]
            reason = f"its forward is not the one of {library} that is known; trace=True looks at any"
            candidates.refuse(module, kind.__name__, reason)
            continue
        for use in family.uses:
            _consider(use, family, module, candidates)


def _consider(use: Use, family: Family, block: nn.Module, candidates: Candidates) -> None:
    activation = block._modules.get(use.activation)
    layers = [block._modules.get(name) for name in use.layers]
    if activation is None or is_nothing(activation) or not any(layer in candidates for layer in layers):
        return
    reason = _why_not(use, activation, layers, block, candidates)
    what = activation_of(activation)
    if reason is not None or what is None:
        candidates.refuse(block, f"{use.activation} after {', '.join(use.layers)}", reason or "")
        return
    endings = tuple(
        Ending(layer, what, has_residual=name == use.residual)
        for name, layer in zip(use.layers, layers, strict=True)
        if layer is not None
    )
    name = candidates.places.names[block]
    place = Place(block, use.activation, f"{name}.{use.activation}" if name else use.activation)
    library, kind = type(block).__module__.split(".")[0], type(block).__name__
    fusion = Fusion(endings, (place,), f"{library}'s {kind}")
    if use.residual is not None:
        fusion = Fusion(endings, (place,), fusion.how, block, _fused_class(family))
    candidates.accept(fusion)


def _why_not(
    use: Use,
    activation: nn.Module,
    layers: list[nn.Module | None],
    block: nn.Module,
    candidates: Candidates,
) -> str | None:
    for name, layer in zip(use.layers, layers, strict=True):
        if layer is None or layer not in candidates:
            return f"{name} is {type(layer).__name__}, no layer that can end in an activation"
        reason = candidates.why_not(layer)
        if reason is not None:
            return reason
    for name in use.passing:
        if not is_nothing(getattr(block, name)):
            return f"{name} stands between {use.layers[-1]} and {use.activation}: {type(getattr(block, name)).__name__}"
    return why_not_fused(activation)


def _fused_class(family: Family) -> type[nn.Module]:
    assert family.fused is not None
    module, _, name = family.fused.rpartition(".")
    found: type[nn.Module] = getattr(importlib.import_module(module), name)
    return found


@functools.cache
def _is_as_known(kind: type[Any]) -> bool:
    """Whether the class is the library's own, not one of the same name, and its methods are the known ones."""
    home = sys.modules.get(kind.__module__)
    if getattr(home, kind.__name__, None) is not kind:
        return False
    family = _FAMILIES[f"{kind.__module__}.{kind.__qualname__}"]
    return all(fingerprint(getattr(kind, name)) == known for name, known in family.methods.items())
