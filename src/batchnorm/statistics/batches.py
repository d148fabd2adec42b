"""How a batch of any loader goes to a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_map

Call: TypeAlias = Callable[[Any, Any], Any]


def caller(model: nn.Module, call: Call | None) -> Callable[[Any], Any]:
    """What runs the model on a batch.

    Of a tuple or list the first element goes to the model, anything else as it is, on the model's device where all of
    the model is on one. With `call` the batch is handed over untouched: call(model, batch).

    Raises:
        TypeError: `call` cannot be called.
    """
    if call is not None:
        if not callable(call):
            raise TypeError(f"call expected a function of model and batch, got {type(call).__name__}")
        return lambda batch: call(model, batch)
    places = {t.device for t in (*model.parameters(), *model.buffers())}
    device = places.pop() if len(places) == 1 else None

    def run(batch: Any) -> Any:
        return model(_on(device, first_of(batch)))

    return run


def first_of(batch: Any) -> Any:
    """What of a batch goes to the model: the first element of a tuple or list; else all of it."""
    if not isinstance(batch, (tuple, list)):
        return batch
    if not batch:
        raise ValueError("a batch expected at least one element for the model, got an empty tuple or list")
    return batch[0]


def _on(device: torch.device | None, value: Any) -> Any:
    if device is None or device.type == "meta":
        return value
    if isinstance(value, Tensor):
        return value if value.device == device else value.to(device)
    if isinstance(value, Mapping) and hasattr(value, "to"):  # as tokenizers return it: more than a dictionary
        return value.to(device)
    return tree_map(lambda leaf: leaf.to(device) if isinstance(leaf, Tensor) else leaf, value)
