"""One node for a layer of ours under torch.fx, which takes layers in torch.nn for leaves but looks into others."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx


def as_leaf(layer: torch.nn.Module, input: fx.Proxy, **kwargs: Any) -> Any:
    """A call_module node of `layer`; keyword arguments that are None are left out."""
    given = {name: value for name, value in kwargs.items() if value is not None}
    tracer: Any = input.tracer
    return tracer.create_proxy("call_module", tracer.path_of_module(layer), (input,), given)
