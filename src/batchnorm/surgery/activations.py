"""Which modules are an activation that a layer can end in, exactly."""

from __future__ import annotations

import torch.nn.functional as F
from torch import nn

from batchnorm.kernels.activations import LEAK

# By class, and by full name where a library of its own has the class: nothing is imported to find out.
_PLAIN: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.Sigmoid: "sigmoid", nn.Tanh: "tanh", nn.SiLU: "silu"}
_ELSEWHERE = {
    "timm.layers.activations.Sigmoid": "sigmoid",
    "timm.layers.activations.Tanh": "tanh",
    "timm.layers.activations.Swish": "silu",
    "timm.layers.activations.GELU": "gelu",
    "transformers.activations.SiLUActivation": "silu",
}
_HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def activation_of(module: nn.Module) -> str | None:
    """The name of the activation that `module` is, or None. Approximations are others: tanh GELU, hard sigmoid."""
    kind = type(module)
    if kind in _PLAIN:
        return _PLAIN[kind]
    if kind is nn.LeakyReLU:
        return "leaky_relu" if module.negative_slope == LEAK else None
    if kind is nn.GELU:
        return "gelu" if module.approximate == "none" else None
    name = f"{kind.__module__}.{kind.__qualname__}"
    if name == "transformers.activations.GELUActivation":
        return "gelu" if getattr(module, "act", None) is F.gelu else None
    return _ELSEWHERE.get(name)


def looks_like_activation(module: nn.Module) -> bool:
    """Whether to explain that this module is not fused: torch's activations, by their place."""
    return type(module).__module__ == "torch.nn.modules.activation" and not isinstance(module, nn.MultiheadAttention)


def why_not_fused(module: nn.Module) -> str | None:
    """Why this module cannot become part of the layer before it; None where it can."""
    name = type(module).__name__
    if activation_of(module) is None:
        settings = module.extra_repr()
        return f"{name}({settings}) is none of the activations that a layer can end in"
    return why_not_removed(module)


def why_not_removed(module: nn.Module) -> str | None:
    """Why calls of this activation or Identity cannot be left out; None where they can."""
    name = type(module).__name__
    if any(getattr(module, hooks) for hooks in _HOOKS):
        return f"{name} has hooks, which would see other values"
    if "forward" in vars(module):
        return f"{name} has a forward of its own"
    if any(True for _ in module.parameters()) or any(True for _ in module.buffers()):
        return f"{name} has parameters or buffers"
    return None


def is_nothing(module: nn.Module | None) -> bool:
    """Whether this module passes its input on, and nobody looks."""
    return module is None or (type(module) is nn.Identity and why_not_removed(module) is None)
