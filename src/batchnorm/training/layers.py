"""A network's tensors, looked up once instead of at every step; gradients stay in place."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import Tensor, nn, zeros_like

from batchnorm.kernels.running import Running
from batchnorm.nn import BatchNorm1d
from batchnorm.training.network import HiddenLayer, Network


class Norm(NamedTuple):
    """A batch norm layer's tensors, each (C,)."""

    layer: BatchNorm1d
    gamma: Tensor
    beta: Tensor
    dgamma: Tensor
    dbeta: Tensor
    running: Running


class Linear(NamedTuple):
    """A linear map's tensors, weight (outputs, inputs) and bias (outputs,), and their gradients."""

    weight: Tensor
    transposed: Tensor  # a view of it
    dweight: Tensor
    bias: Tensor | None
    dbias: Tensor | None


@dataclass(frozen=True)
class Hidden:
    """A hidden layer: a linear map, then normalization before or after the activation, or none, then dropout."""

    linear: Linear
    norm: Norm | None
    activation: str
    before: bool
    dropout: float


class Layers(NamedTuple):
    """A whole network: hidden layers, then the head."""

    hidden: tuple[Hidden, ...]
    head: Linear

    @classmethod
    def of(cls, network: Network) -> Layers:
        """Of a network on its device; every parameter gets a gradient that is written in place from now on."""
        return cls(tuple(_hidden(h) for h in network.layers if isinstance(h, HiddenLayer)), _linear(network.head))


def _hidden(layer: HiddenLayer) -> Hidden:
    norm = None
    if layer.norm is not None:
        n = layer.norm
        assert n.running_mean is not None
        assert n.running_var is not None
        running = Running(n.running_mean, n.running_var, n.momentum, n.num_batches_tracked)
        norm = Norm(n, n.weight.detach(), n.bias.detach(), _gradient(n.weight), _gradient(n.bias), running)
    return Hidden(_linear(layer.linear), norm, layer.activation, layer.before, layer.dropout)


def _linear(linear: nn.Linear) -> Linear:
    weight, bias = linear.weight.detach(), None if linear.bias is None else linear.bias.detach()
    dbias = None if bias is None else _gradient(linear.bias)
    return Linear(weight, weight.t(), _gradient(linear.weight), bias, dbias)


def _gradient(parameter: Tensor) -> Tensor:
    parameter.grad = zeros_like(parameter)
    return parameter.grad
