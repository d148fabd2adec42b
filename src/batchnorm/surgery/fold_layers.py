"""Which layers can be folded, and what is left of a batch norm layer that was: nothing, or the activation inside it."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.nn.modules.lazy import LazyModuleMixin

from batchnorm.kernels.activations import ACTIVATIONS, LEAK
from batchnorm.surgery.activations import is_nothing
from batchnorm.surgery.layers import is_batch_norm, is_timm
from batchnorm.surgery.timm_layer import BatchNormAct2d

Convolution: TypeAlias = nn.Conv1d | nn.Conv2d | nn.Conv3d
Transposed: TypeAlias = nn.ConvTranspose1d | nn.ConvTranspose2d | nn.ConvTranspose3d
CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)
TRANSPOSED = (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)

_TORCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
# Subclasses whose forward pads the input and hands weight and bias to torch's convolution as they are.
_PADDING_ALONE = ("timm.layers.conv2d_same.Conv2dSame", "timm.layers.conv2d_same.Conv2dSameExport")
_FROZEN = ("torchvision.ops.misc.FrozenBatchNorm2d", "timm.layers.norm_act.FrozenBatchNormAct2d")
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
_MODULES: dict[str, nn.Module] = {
    "relu": nn.ReLU(),
    "leaky_relu": nn.LeakyReLU(LEAK),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "gelu": nn.GELU(),
    "silu": nn.SiLU(),
}


class Folded(nn.Identity):
    """Where a folded layer was that takes (N, C) and (N, C, L): its input, as long as it is what the example's was.

    The channels of (N, L, C) are not those of a linear map: what was folded for the one would be wrong for the other,
    and silently where L is C.
    """

    def __init__(self, dimensions: int) -> None:
        super().__init__()
        self.dimensions = dimensions

    def forward(self, input: Tensor) -> Tensor:
        """The input. Raises ValueError where it has more or fewer dimensions."""
        _check_dimensions(input, self.dimensions)
        return input

    def extra_repr(self) -> str:
        """How many dimensions it expects."""
        return f"dimensions={self.dimensions}"


class AddThenActivate(nn.Module):
    """What is left of a folded layer that adds a residual before its activation: activation(input + residual).

    dimensions: that the input must have, as in Folded; None where that is no question.
    """

    def __init__(self, activation: str | None, dimensions: int | None) -> None:
        super().__init__()
        self.activation, self.dimensions = activation, dimensions

    def forward(self, input: Tensor, *, residual: Tensor | None = None) -> Tensor:
        """Add and activate. input, residual: of one shape; comes back in the input's dtype."""
        if self.dimensions is not None:
            _check_dimensions(input, self.dimensions)
        z = input if residual is None else input + residual
        return z if self.activation is None else ACTIVATIONS[self.activation].value(z)

    def extra_repr(self) -> str:
        """The activation."""
        return f"activation={self.activation}"


def _check_dimensions(input: Tensor, expected: int) -> None:
    if input.dim() != expected:
        raise ValueError(
            f"this model was folded for {expected} dimensions here, got input of shape {tuple(input.shape)}: fold the "
            "original on an example like that"
        )


def is_linear(module: nn.Module) -> bool:
    """Whether this module and a batch norm layer beside it make a pair: linear maps, convolutions, subclasses."""
    return isinstance(module, (nn.Linear, *CONVOLUTIONS, *TRANSPOSED))


def linears_in(module: nn.Module) -> Iterator[nn.Module]:
    """The linear maps that a module's forward can call: its children, in lists and dictionaries too."""
    for child in module.children():
        if type(child) in (nn.ModuleList, nn.ModuleDict):
            yield from linears_in(child)
        elif is_linear(child):
            yield child


def norms(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every batch norm layer by its first name: torch's, ours, and other people's."""
    for name, module in model.named_modules():
        if is_batch_norm(module) and not isinstance(module, torch.jit.ScriptModule):
            yield name, module


def why_not_linear(module: nn.Module, *, padding_may_vary: bool) -> str | None:
    """Why weight and bias of a linear map cannot be changed; None where they can.

    Args:
        padding_may_vary: whether subclasses that only pad otherwise are as good: where the batch norm comes after.
    """
    kind = type(module)
    name = kind.__name__
    if isinstance(module, LazyModuleMixin):
        return f"{name} has no size yet: run one batch through the model first"
    if nn.utils.parametrize.is_parametrized(module):
        return _parametrized(name)
    if not _computes_as_torch(kind):
        if f"{kind.__module__}.{kind.__qualname__}" not in _PADDING_ALONE:
            return f"{name} is a subclass: what it does with its weights is not known"
        if not padding_may_vary:
            return f"{name} pads with zeros, which the layer before it would have shifted"
    return _why_not_changed(module, what=name)


def why_not_norm(layer: Any) -> str | None:
    """Why a batch norm layer is no fixed affine map at test time, or not known to be; None where it is."""
    kind = type(layer)
    name = kind.__name__
    if isinstance(layer, LazyModuleMixin):
        return f"{name} has no size yet: run one batch through the model first"
    if nn.utils.parametrize.is_parametrized(layer):
        return _parametrized(name)
    is_known = kind in _TORCH_NORMS or kind.__module__.startswith("batchnorm.nn.") or is_timm(layer)
    if not (is_known or kind is BatchNormAct2d or _is_frozen_kind(kind)):
        return f"{name} is a class of its own: what it does differently is not known"
    if layer.running_mean is None or layer.running_var is None:
        return f"{name} keeps no running statistics: it normalizes by the batch at test time too"
    if kind in _TORCH_NORMS and not layer.track_running_stats:
        return f"{name} has track_running_stats=False"
    return _why_not_changed(layer, what=name)


def has_activation(layer: Any) -> bool:
    """Whether the layer does something after normalizing."""
    inside = (getattr(layer, "drop", None), getattr(layer, "act", None))
    return getattr(layer, "activation", None) is not None or not all(is_nothing(part) for part in inside)


def what_is_left(layer: Any, *, has_residual: bool, dimensions: int) -> nn.Module:
    """What stands in the place of a folded layer, whose input had so many dimensions on the example."""
    activation: str | None = getattr(layer, "activation", None)
    is_either = isinstance(layer, (nn.BatchNorm1d, nn.SyncBatchNorm))
    if has_residual:
        return AddThenActivate(activation, dimensions if is_either else None)
    inside: list[Any] = [getattr(layer, "drop", None), getattr(layer, "act", None)]
    parts = [part for part in inside if not is_nothing(part)]
    if is_either:
        parts.insert(0, Folded(dimensions))
    if activation is not None:
        parts.append(copy.deepcopy(_MODULES[activation]))
    if not parts:
        return nn.Identity()
    return parts[0] if len(parts) == 1 else nn.Sequential(*parts)


def _is_frozen_kind(kind: type[nn.Module]) -> bool:
    """Libraries' layers of constants, which are batch norm at test time in every mode."""
    return f"{kind.__module__}.{kind.__qualname__}" in _FROZEN or (
        kind.__module__.startswith("transformers.models.") and kind.__name__.endswith("FrozenBatchNorm2d")
    )


def _computes_as_torch(kind: type[nn.Module]) -> bool:
    """Whether a class is one of torch's, or has no forward and no attributes of its own."""
    base = next(known for known in (nn.Linear, *CONVOLUTIONS, *TRANSPOSED) if issubclass(kind, known))
    methods = ("__call__", "forward", "_conv_forward", "__getattr__", "__getattribute__", "_output_padding")
    own = any(name in vars(k) for k in kind.__mro__ if not issubclass(base, k) for name in ("weight", "bias"))
    return not own and all(getattr(kind, name, None) is getattr(base, name, None) for name in methods)


def has_hooks(module: nn.Module) -> bool:
    """Whether somebody looks at what goes into the module or comes out of it."""
    return any(getattr(module, hooks) for hooks in _HOOKS)


def _parametrized(what: str) -> str:
    return f"{what} has parametrizations: remove them first (torch.nn.utils.parametrize.remove_parametrizations)"


def _why_not_changed(module: nn.Module, *, what: str) -> str | None:
    if has_hooks(module):
        return f"{what} has hooks, which would see other values"
    if "forward" in vars(module):
        return f"{what} has a forward of its own, set on the object"
    return None
