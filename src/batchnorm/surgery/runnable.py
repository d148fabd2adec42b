"""What a model must have before it can be run and compared: sizes and numbers."""

from __future__ import annotations

from torch import nn


def check_sized(verb: str, model: nn.Module) -> None:
    """Raise ValueError for a model with a layer that is to learn its size from a first batch."""
    for name, module in model.named_modules():
        own = (*module._parameters.values(), *module._buffers.values())
        if any(nn.parameter.is_lazy(tensor) for tensor in own):
            raise ValueError(f"{verb} expected layers that have a size, got {name!r}: run a batch through the model")


def check_runnable(verb: str, model: nn.Module) -> None:
    """Raise ValueError for such a model, and for one whose tensors have shapes alone."""
    check_sized(verb, model)
    for name, tensor in (*model.named_parameters(), *model.named_buffers()):
        if tensor.is_meta:
            raise ValueError(
                f"{verb} expected a model with numbers in it, got {name!r} on the meta device: load its weights first"
            )
