"""Layers of every kind, and what must be the same about a model afterwards."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

import batchnorm


class Doubled(nn.BatchNorm1d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


class Rebinding(nn.BatchNorm1d):
    """Puts new tensors where its statistics were, instead of writing into them."""

    def forward(self, input: Tensor) -> Tensor:
        y = super().forward(input)
        self.running_mean, self.running_var = self.running_mean.clone(), self.running_var.clone()
        return y


LAYERS: dict[str, Callable[[], Any]] = {
    "torch.BatchNorm1d": lambda: nn.BatchNorm1d(3),
    "torch.BatchNorm2d": lambda: nn.BatchNorm2d(3),
    "torch.BatchNorm3d": lambda: nn.BatchNorm3d(3),
    "torch.SyncBatchNorm": lambda: nn.SyncBatchNorm(3),
    "torch.cumulative": lambda: nn.BatchNorm1d(3, momentum=None),
    "BatchNorm1d": lambda: batchnorm.BatchNorm1d(3),
    "BatchNorm2d": lambda: batchnorm.BatchNorm2d(3, activation="relu"),
    "BatchNorm3d": lambda: batchnorm.BatchNorm3d(3, affine=False),
    "cumulative": lambda: batchnorm.BatchNorm1d(3, momentum=None),
    "debiased": lambda: batchnorm.BatchNorm1d(3, debias=True),
    "GhostBatchNorm1d": lambda: batchnorm.GhostBatchNorm1d(3, virtual_batch_size=2),
    "BatchRenorm1d": lambda: batchnorm.BatchRenorm1d(3),
    "SyncBatchNorm1d": lambda: batchnorm.SyncBatchNorm1d(3),
    "subclass": lambda: Doubled(3),
    "rebinding": lambda: Rebinding(3),
}


def input_of(layer: nn.Module, rows: int, seed: int = 0) -> Tensor:
    sizes = {"2d": (2, 2), "3d": (2, 2, 2)}.get(type(layer).__name__[-2:], ())
    return torch.randn(rows, 3, *sizes, generator=torch.Generator().manual_seed(seed)) * 3 + 5


def everything(model: nn.Module, *, statistics: bool = True) -> dict[str, Any]:
    """All that a model is: attributes by value, tensors too, hooks and modes; `statistics` or not."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules():
        for key, value in vars(module).items():
            if isinstance(value, dict):
                found[f"{name}:{key}"] = list(value)
            elif not isinstance(value, Tensor):
                found[f"{name}:{key}"] = value if isinstance(value, (int, float, str, bool)) else id(value)
        for key, parameter in module.named_parameters(recurse=False):
            found[f"{name}:{key}"] = (parameter.tolist(), parameter.requires_grad, str(parameter.dtype))
        for key, buffer in module.named_buffers(recurse=False):
            if statistics or ("running" not in key and "tracked" not in key):
                found[f"{name}:{key}"] = buffer.tolist()
    return found


class _Raising:
    """Can be read again, and raises again."""

    def __init__(self, batches: Iterable[Any], error: Exception) -> None:
        self.batches, self.error = list(batches), error

    def __iter__(self) -> Iterator[Any]:
        yield from self.batches
        raise self.error


def raising_after(batches: Iterable[Any], error: Exception) -> Iterable[Any]:
    return _Raising(batches, error)
