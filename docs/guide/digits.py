"""Networks for the digits, and training that can be looked at on its way: what the guide's runs have in common.

Data, the usual networks and accuracy are those of the tests that hold the guide's numbers to what it promises.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
from tests.statistics.networks import SEEDS, Digits, digits, perceptron, usual
from tests.statistics.networks import accuracy as percent
from tests.statistics.networks import batches as in_random_order
from torch import Tensor, nn

__all__ = ["SEEDS", "Digits", "digits", "in_random_order", "network", "perceptron", "share", "steps", "usual"]


def network(depth: int, width: int, layer: Callable[[int], nn.Module], *, bias: bool = False) -> nn.Sequential:
    """depth times Linear(..., width) and layer(width), then a Linear layer to 10 classes."""
    layers: list[nn.Module] = []
    for i in range(depth):
        layers += [nn.Linear(width if i else 64, width, bias=bias), layer(width)]
    return nn.Sequential(*layers, nn.Linear(width, 10))


def steps(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    batch: int,
    epochs: int,
    rate: float = 0.02,
    optimizer: torch.optim.Optimizer | None = None,
) -> Iterator[int]:
    """Train on whole batches in random order, SGD with momentum 0.9, and say after each step how many were done."""
    optimizer = optimizer or torch.optim.SGD(model.parameters(), rate, momentum=0.9)
    done = 0
    for _ in range(epochs):
        for rows in torch.randperm(len(x)).split(batch):
            if len(rows) == batch:
                model.train()
                optimizer.zero_grad(set_to_none=True)
                nn.functional.cross_entropy(model(x[rows]), y[rows]).backward()
                optimizer.step()
                done += 1
                yield done


def share(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """Of the rows that the model, put in eval mode, gets right."""
    return percent(model.eval(), x, y) / 100
