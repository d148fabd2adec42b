"""Small models for the tests of surgery, and what must hold of a converted one."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d

OURS = (BatchNorm1d, BatchNorm2d, BatchNorm3d)


def perceptron() -> nn.Sequential:
    """Two layers in a row: (N, 3) -> (N, 2)."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 5),
        nn.BatchNorm1d(5),
        nn.ReLU(inplace=True),
        nn.Linear(5, 4),
        nn.BatchNorm1d(4),
        nn.SiLU(),
        nn.Linear(4, 2),
    )


def rows(count: int = 8) -> Tensor:
    return torch.randn(count, 3, generator=torch.Generator().manual_seed(1))


def images(*shape: int) -> Tensor:
    return torch.randn(*(shape or (4, 3, 8, 8)), generator=torch.Generator().manual_seed(2))


def fields(model: nn.Module) -> dict[str, Any]:
    """Everything about a model that must come back: classes, order of children, and objects by identity."""
    found: dict[str, Any] = {}
    for name, module in model.named_modules(remove_duplicate=False):
        found[f"{name}:class"] = type(module)
        for key, value in vars(module).items():
            is_container = isinstance(value, dict)
            found[f"{name}:{key}"] = [(k, id(v)) for k, v in value.items()] if is_container else id(value)
    return found


def step(model: nn.Module, x: Tensor) -> dict[str, Tensor]:
    """One training step's output, gradients and statistics, then the output at test time; on a copy, in float64."""
    model = copy.deepcopy(model).double().train()
    x = x.double()
    y = model(x)
    (y * torch.linspace(0, 1, y.numel(), dtype=y.dtype).view_as(y)).sum().backward()
    grads = {f"gradient of {name}": p.grad for name, p in model.named_parameters() if p.grad is not None}
    with torch.no_grad():
        return {"y": y.detach(), **grads, **dict(model.named_buffers()), "y at test time": model.eval()(x)}


def assert_same_step(model: nn.Module, reference: nn.Module, x: Tensor) -> None:
    torch.testing.assert_close(step(model, x), step(reference, x), rtol=1e-9, atol=1e-11)
