"""What enters the activations, as the report shows it: the normalized z itself, before the activation."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from batchnorm.training.network import HiddenLayer, Network
from batchnorm.training.settings import Settings


@pytest.mark.parametrize("activation", ["sigmoid", "relu", "gelu"])
def test_entering_activation_with_norm_before_is_normalized_z(activation: str) -> None:
    """by_batch() once applied the fused activation too, so that the report showed sigmoids of sigmoids."""
    network = Network(5, 2, Settings(hidden=(4, 3), activation=activation))
    x = torch.randn(50, 5)
    first, second = network.entering_activations(x)
    reference = nn.BatchNorm1d(4)
    z = nn.functional.linear(x, network.layers[0].linear.weight)
    torch.testing.assert_close(first, reference(z))
    torch.testing.assert_close(second.mean(0), torch.zeros(3), atol=1e-5, rtol=0)


def test_entering_activation_with_norm_after_is_plain_z() -> None:
    network = Network(5, 2, Settings(hidden=(4,), placement="after"))
    x = torch.randn(50, 5)
    (z,) = network.entering_activations(x)
    torch.testing.assert_close(z, nn.functional.linear(x, network.layers[0].linear.weight))


def test_entering_activation_output_is_what_training_gives_and_updates_nothing() -> None:
    network = Network(5, 2, Settings(hidden=(4,), activation="tanh"))
    layer = network.layers[0]
    assert isinstance(layer, HiddenLayer)
    x = torch.randn(50, 5)
    _, a = layer.entering_activation(x)
    assert int(layer.norm.num_batches_tracked) == 0
    torch.testing.assert_close(a, layer(x))
