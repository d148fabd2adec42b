"""torch's own converters, which copy a layer into one of theirs: an activation is kept or refused, never lost."""

from __future__ import annotations

import re

import pytest
import torch
from torch import nn
from torch.testing import assert_close

import batchnorm
from batchnorm.nn import BatchNorm1d, BatchNorm2d

convert = nn.SyncBatchNorm.convert_sync_batchnorm
NAMES = ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")


def text(name: str, activation: str) -> str:
    return (
        f"convert_sync_batchnorm would drop activation='{activation}' of this {name}: before converting, give the "
        "layer activation=None and put the activation in a module after it"
    )


@pytest.mark.parametrize("name", NAMES)
def test_sync_conversion_of_a_layer_with_an_activation_is_refused(name: str) -> None:
    layer = getattr(batchnorm, name)(3, activation="relu")
    for module in (layer, nn.Sequential(nn.Linear(3, 3), layer), nn.Sequential(nn.Sequential(layer))):
        with pytest.raises(ValueError, match=f"^{re.escape(text(name, 'relu'))}$"):
            convert(module)


@pytest.mark.parametrize("name", NAMES)
def test_sync_conversion_of_a_layer_without_one_keeps_everything(name: str) -> None:
    layer = getattr(batchnorm, name)(3, eps=0.01, momentum=0.3)
    with torch.no_grad():
        for value in (*layer.parameters(), layer.running_mean, layer.running_var):
            value.add_(torch.rand_like(value))
    converted = convert(nn.Sequential(layer))[0]
    assert type(converted) is nn.SyncBatchNorm
    assert (converted.eps, converted.momentum, converted.num_features) == (0.01, 0.3, 3)
    assert_close(converted.state_dict(), layer.state_dict(), rtol=0, atol=0)
    assert converted.weight is layer.weight


def test_way_out_that_the_error_names_works() -> None:
    network = nn.Sequential(BatchNorm1d(3, activation="relu"))
    x = torch.randn(6, 3)
    before = network(x).detach()
    network[0].activation = None
    network.append(nn.ReLU())
    assert_close(network(x), before)
    assert type(convert(network)[0]) is nn.SyncBatchNorm


def test_children_are_asked_for_everywhere_else_as_usual() -> None:
    layer = BatchNorm1d(3, activation="relu")
    assert list(layer.named_children()) == []
    network = nn.Sequential(layer)
    assert [name for name, _ in network.named_modules()] == ["", "0"]
    network.apply(lambda module: module)
    assert list(network.children()) == [layer]
    assert convert(nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()))[0].num_features == 3


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_fx_fusion_leaves_the_layers_alone() -> None:
    """It takes torch.nn's own classes only, not their subclasses: nothing is folded, nothing lost."""
    from torch.fx.experimental.optimization import fuse

    network = nn.Sequential(nn.Conv2d(1, 3, 3), BatchNorm2d(3, activation="relu")).eval()
    x = torch.randn(2, 1, 5, 5)
    fused = fuse(network)
    assert_close(fused(x), network(x))
    assert any(isinstance(module, BatchNorm2d) for module in fused.modules())
