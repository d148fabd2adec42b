"""Digits, small networks for them, and how they are trained: what the tests of statistics measure on."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split
from torch import Tensor, nn

import batchnorm

SEEDS = range(5)


@dataclass(frozen=True)
class Digits:
    """Pixels in 0..1, (N, 64), and labels, of one split: 70 % to train on."""

    x: Tensor
    y: Tensor
    test_x: Tensor
    test_y: Tensor


@functools.cache
def digits(seed: int) -> Digits:
    pixels, labels = load_digits(return_X_y=True)
    parts = train_test_split(pixels / 16, labels, test_size=0.3, random_state=seed, stratify=labels)
    x, test_x, y, test_y = (torch.tensor(part) for part in parts)
    return Digits(x.float(), y, test_x.float(), test_y)


def perceptron(depth: int, width: int, activation: str) -> nn.Sequential:
    layers: list[nn.Module] = []
    inputs = 64
    for _ in range(depth):
        layers += [nn.Linear(inputs, width, bias=False), batchnorm.BatchNorm1d(width, activation=activation)]
        inputs = width
    return nn.Sequential(*layers, nn.Linear(inputs, 10))


def trained(
    model: nn.Module, data: Digits, *, batch: int, epochs: int, rate: float = 0.02, momentum: float = 0.9
) -> nn.Module:
    """Plain mini-batch descent, on batches of one size; the model comes back in eval mode."""
    optimizer = torch.optim.SGD(model.parameters(), rate, momentum=momentum)
    model.train()
    for _ in range(epochs):
        for rows in torch.randperm(len(data.x)).split(batch):
            if len(rows) == batch:
                optimizer.zero_grad(set_to_none=True)
                nn.functional.cross_entropy(model(data.x[rows]), data.y[rows]).backward()
                optimizer.step()
    return model.eval()


@functools.cache
def usual(seed: int, activation: str) -> nn.Module:
    """6 x 64 ReLU or 3 x 100 sigmoid, well trained on usual batches; copy it before you change it."""
    torch.manual_seed(seed)
    if activation == "relu":
        return trained(perceptron(6, 64, "relu"), digits(seed), batch=32, epochs=20)
    return trained(perceptron(3, 100, "sigmoid"), digits(seed), batch=64, epochs=40, rate=0.3)


@torch.no_grad()
def accuracy(model: nn.Module, x: Tensor, y: Tensor) -> float:
    """In percent."""
    return 100 * float((model(x).argmax(1) == y).double().mean())


def batches(x: Tensor, size: int, seed: int = 0) -> Iterator[Tensor]:
    """Rows in random order; the last batch is what is left."""
    order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed))
    return iter(x[order].split(size))
