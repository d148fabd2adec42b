"""The L-layer network: InputNorm -> [Linear -> BatchNorm1d -> activation -> dropout] x L -> Linear."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from batchnorm.kernels.activations import ACTIVATIONS
from batchnorm.nn import BatchNorm1d, InputNorm
from batchnorm.training.settings import Settings

# Variance times inputs that keeps a layer's output as wide as its input: He et al. 2015, Glorot and Bengio 2010.
_GAIN = {"relu": 2.0, "leaky_relu": 2.0, "gelu": 2.0, "silu": 2.0, "sigmoid": 1.0, "tanh": 1.0}


class HiddenLayer(nn.Module):
    """One hidden layer; W without a bias where normalization follows, which would subtract it again."""

    def __init__(self, inputs: int, outputs: int, settings: Settings) -> None:
        super().__init__()
        self.activation = settings.activation
        self.before = settings.placement == "before"
        self.dropout = settings.dropout
        self.linear = nn.Linear(inputs, outputs, bias=settings.norm is None)
        fused = settings.activation if self.before else None
        self.norm = (
            BatchNorm1d(outputs, settings.eps, settings.momentum, activation=fused)
            if settings.norm == "batch"
            else None
        )

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """x: (N, inputs) -> (N, outputs). weights: (N, 1), how often each row counts in the batch statistics."""
        z = self.linear(x)
        if self.norm is None or not self.before:
            z = ACTIVATIONS[self.activation].value(z)
        a: Tensor = z if self.norm is None else self.norm.forward_weighted(z, weights)
        return F.dropout(a, self.dropout, self.training) if self.dropout else a

    def entering_activation(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """What enters the activation for x: (N, inputs), and the output, as a training batch; nothing is updated."""
        z = self.linear(x)
        if self.norm is not None and self.before:
            z = self.norm.by_batch(z)
        a = ACTIVATIONS[self.activation].value(z)
        return z, a if self.norm is None or self.before else self.norm.by_batch(a)


class Network(nn.Module):
    """The whole network; `body` is what is trained, `input_norm` is fitted before.

    Args:
        inputs: features of a row.
        outputs: classes, or 1 for regression.
        settings: its shape and its layers.
        input_norm: fitted, or None.
    """

    def __init__(self, inputs: int, outputs: int, settings: Settings, *, input_norm: InputNorm | None = None) -> None:
        super().__init__()
        sizes = (inputs, *settings.hidden)
        self.input_norm = input_norm
        with torch.random.fork_rng(devices=[]):  # nn.Linear draws weights of its own from the caller's generator
            self.layers = nn.ModuleList(HiddenLayer(i, o, settings) for i, o in pairwise(sizes))
            self.head = nn.Linear(sizes[-1], outputs)
        initialize(self, settings)

    def forward(self, x: Tensor) -> Tensor:
        """Raw rows (N, inputs) -> scores (N, outputs)."""
        return self.body(x if self.input_norm is None else self.input_norm(x))

    def body(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """Normalized rows (N, inputs) -> scores (N, outputs). weights: (N, 1) or None."""
        for layer in self.layers:
            x = layer(x, weights)
        scores: Tensor = self.head(x)
        return scores

    def entering_activations(self, x: Tensor) -> Iterator[Tensor]:
        """What enters each hidden layer's activation, (N, neurons), given normalized rows as one training batch."""
        for layer in self.layers:
            assert isinstance(layer, HiddenLayer)
            z, x = layer.entering_activation(x)
            yield z

    def decay_groups(self, weight_decay: float) -> list[dict[str, object]]:
        """Parameter groups for an optimizer: weight decay on W alone; one group, which is quicker, without."""
        if weight_decay == 0:
            return [{"params": list(self.parameters()), "weight_decay": 0.0}]
        decayed = [m.weight for m in self.modules() if isinstance(m, nn.Linear)]
        kept = {id(p) for p in decayed}
        others = [p for p in self.parameters() if id(p) not in kept]
        groups: list[dict[str, object]] = [{"params": decayed, "weight_decay": weight_decay}]
        return [*groups, {"params": others, "weight_decay": 0.0}]


@torch.no_grad()
def initialize(network: Network, settings: Settings) -> None:
    """Draw the weights from the seed: the same W with and without normalization, so that the two compare."""
    generator = torch.Generator().manual_seed(settings.seed)
    linears = [m for m in network.modules() if isinstance(m, nn.Linear)]
    for linear in linears:
        gain = 1.0 if linear is network.head else _GAIN[settings.activation]
        scale = settings.weight_scale or math.sqrt(gain / max(1, linear.in_features))
        # Drawn in float32 whatever the dtype: the seed says the weights, not the precision.
        linear.weight.copy_(torch.randn(linear.weight.shape, generator=generator) * scale)
        if linear.bias is not None:
            linear.bias.zero_()
