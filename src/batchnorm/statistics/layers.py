"""Which layers of a model have running statistics that may be touched, and which have not."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.optim.swa_utils import AveragedModel

from batchnorm.nn import freezing

BatchNorm = nn.modules.batchnorm._BatchNorm  # torch's layers and ours, Sync, subclasses


@dataclass(frozen=True)
class Layers:
    """A model's batch norm layers by what may be done to them, each once, with names as in `model.named_modules()`.

    Attributes:
        tracked: layers whose running statistics may be touched.
        frozen: layers that `freeze` froze, or that are in eval mode inside a model in train mode.
        untracked: layers that keep no running statistics, or do not use theirs in training.
    """

    tracked: dict[nn.Module, str]
    frozen: tuple[str, ...]
    untracked: tuple[str, ...]

    @classmethod
    def of(cls, tool: str, model: nn.Module) -> Layers:
        """The layers of `model`, for the tool of this name.

        Raises:
            TypeError: no torch.nn.Module.
            ValueError: no batch norm layer, or one without a size or numbers.
        """
        if not isinstance(model, nn.Module):
            raise TypeError(f"{tool} expected a torch.nn.Module, got {type(model).__name__}")
        tracked: dict[nn.Module, str] = {}
        frozen, untracked = [], []
        is_training = _unwrapped(model).training
        for name, module in model.named_modules():
            if not isinstance(module, BatchNorm):
                continue
            if not module.track_running_stats or module.running_mean is None or module.running_var is None:
                untracked.append(name)
            elif isinstance(module, nn.modules.lazy.LazyModuleMixin):
                raise ValueError(
                    f"{tool} expected layers that have a size, got {name!r}: run a batch through the model"
                )
            elif module.running_mean.is_meta:
                raise ValueError(
                    f"{tool} expected layers with numbers in them, got {name!r} on the meta device: load the model's "
                    "weights first"
                )
            elif freezing.statistics_are_frozen(module) or (is_training and not module.training):
                frozen.append(name)
            else:
                tracked[module] = name
        if not (tracked or frozen or untracked):
            hides = any(isinstance(m, (torch.jit.ScriptModule, fx.GraphModule)) for m in model.modules())
            hint = ": programs that torch has exported or scripted hide theirs; hand over the module before that"
            raise ValueError(
                f"{tool} expected a model with batch norm layers, got {type(model).__name__} without any"
                + (hint if hides else "")
            )
        return cls(tracked, tuple(frozen), tuple(untracked))


def _unwrapped(model: nn.Module) -> nn.Module:
    """The model in a wrapper, which is made in train mode around a model in eval mode, too."""
    while isinstance(model, (nn.DataParallel, nn.parallel.DistributedDataParallel, AveragedModel)):
        model = model.module
    return model


@dataclass(frozen=True, eq=False)
class Statistics:
    """Running statistics by value.

    Attributes:
        mean: (C,).
        var: (C,).
    """

    mean: Tensor
    var: Tensor


@dataclass(frozen=True, eq=False)
class Kept:
    """What a layer's buffers held, so that it can be put back."""

    layer: Any
    statistics: Statistics
    counter: Tensor | None
    refusals: Tensor | None

    @classmethod
    def of(cls, layer: Any) -> Kept:
        """A copy of what is there now."""
        counter, refusals = layer.num_batches_tracked, getattr(layer, "_refusals", None)
        return cls(
            layer,
            Statistics(layer.running_mean.detach().clone(), layer.running_var.detach().clone()),
            None if counter is None else counter.clone(),
            None if refusals is None else refusals.clone(),
        )

    @torch.no_grad()
    def put_back(self) -> None:
        """In place, wherever the layer is by now."""
        write(self.layer, self.statistics)
        if self.counter is not None and self.layer.num_batches_tracked is not None:
            self.layer.num_batches_tracked.copy_(self.counter)
        if hasattr(self.layer, "_refusals"):
            self.layer._refusals = None if self.refusals is None else self.refusals.clone()


@torch.no_grad()
def write(layer: Any, statistics: Statistics) -> None:
    """Put statistics into a layer's buffers, in place: whoever holds the buffers goes on holding them."""
    layer.running_mean.copy_(statistics.mean)
    layer.running_var.copy_(statistics.var)
