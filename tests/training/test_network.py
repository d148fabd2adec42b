"""The network's shape and first weights: what each choice builds, and that it builds nothing else."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
import torch
from tests.training.small import QUICK, assembled, changed, differing, state
from torch import nn
from torch.testing import assert_close

from batchnorm.nn import BatchNorm1d
from batchnorm.training.network import HiddenLayer, Network
from batchnorm.training.settings import ACTIVATIONS, Settings

TORCH = {
    "relu": nn.ReLU,
    "leaky_relu": nn.LeakyReLU,
    "sigmoid": nn.Sigmoid,
    "tanh": nn.Tanh,
    "gelu": nn.GELU,
    "silu": nn.SiLU,
}


def in_plain_torch(network: Network, settings: Settings) -> nn.Sequential:
    """The same network from torch.nn's own layers, with the same weights and statistics."""
    parts: list[nn.Module] = []
    for layer in network.layers:
        assert isinstance(layer, HiddenLayer)
        linear = nn.Linear(layer.linear.in_features, layer.linear.out_features, bias=layer.linear.bias is not None)
        linear.load_state_dict(layer.linear.state_dict())
        activation: list[nn.Module] = [TORCH[settings.activation](), nn.Dropout(settings.dropout)]
        norm: list[nn.Module] = []
        if layer.norm is not None:
            plain = nn.BatchNorm1d(linear.out_features, settings.eps, settings.momentum)
            plain.load_state_dict(layer.norm.state_dict())
            norm = [plain]
        behind = settings.placement == "after"
        parts += [linear, *([] if behind else norm), activation[0], *(norm if behind else []), activation[1]]
    return nn.Sequential(*parts, network.head)


@pytest.mark.parametrize("norm", ["batch", None])
@pytest.mark.parametrize("placement", ["before", "after"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_body_equals_plain_torch(activation: str, placement: str, norm: str | None) -> None:
    settings = changed(activation=activation, placement=placement, norm=norm, eps=1e-3, momentum=0.3)
    network = Network(4, 3, settings)
    plain = in_plain_torch(network, settings)
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(1)) * 3 + 1
    for training in (True, True, False):
        assert_close(network.train(training).body(x), plain.train(training)(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("norm", ["batch", None])
@pytest.mark.parametrize("placement", ["before", "after"])
def test_entering_activations_are_what_the_activations_take(placement: str, norm: str | None) -> None:
    settings = changed(placement=placement, norm=norm)
    network = Network(4, 3, settings).train()
    plain, seen = in_plain_torch(network, settings), []
    for module in plain:
        if isinstance(module, nn.Tanh):
            module.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    x = torch.randn(20, 4, generator=torch.Generator().manual_seed(1))
    plain(x)
    before = {k: v.clone() for k, v in network.state_dict().items()}
    for mine, theirs in zip(network.entering_activations(x), seen, strict=True):
        assert_close(mine, theirs, rtol=1e-5, atol=1e-5)
    assert not differing(before, network.state_dict())


def test_linear_maps_have_biases_only_where_no_normalization_follows() -> None:
    with_norm, without = Network(4, 3, QUICK), Network(4, 3, changed(norm=None))
    assert [name for name, _ in with_norm.named_parameters() if name.endswith("linear.bias")] == []
    assert [name for name, _ in without.named_parameters() if name.endswith("linear.bias")] == [
        "layers.0.linear.bias",
        "layers.1.linear.bias",
    ]
    assert not [m for m in without.modules() if isinstance(m, BatchNorm1d)]
    assert with_norm.head.bias is not None


def test_the_twin_without_normalization_starts_from_the_same_weights() -> None:
    first, twin = (Network(4, 3, changed(norm=norm)).state_dict() for norm in ("batch", None))
    weights = [name for name in twin if name.endswith("weight")]
    assert len(weights) == 3
    assert all(torch.equal(first[name], twin[name]) for name in weights)


def test_every_bias_starts_at_0_and_every_gamma_at_1() -> None:
    for name, value in [
        *Network(4, 3, QUICK).named_parameters(),
        *Network(4, 3, changed(norm=None)).named_parameters(),
    ]:
        if name.endswith("bias"):
            assert not value.any()
        elif "norm" in name:
            assert (value == 1).all()


@pytest.mark.parametrize("scale", [0.01, 0.1, 3.0])
def test_weight_scale_is_the_standard_deviation(scale: float) -> None:
    network = Network(300, 50, changed(hidden=(200, 100), weight_scale=scale))
    for linear in (m for m in network.modules() if isinstance(m, nn.Linear)):
        n = linear.weight.numel()
        assert float(linear.weight.detach().std()) == pytest.approx(scale, rel=5 / math.sqrt(2 * n))
        assert float(linear.weight.detach().mean()) == pytest.approx(0, abs=5 * scale / math.sqrt(n))


@pytest.mark.parametrize(("activation", "gain"), [("relu", 2.0), ("tanh", 1.0), ("sigmoid", 1.0), ("silu", 2.0)])
def test_without_weight_scale_the_standard_deviation_follows_the_inputs(activation: str, gain: float) -> None:
    sizes = (300, 200, 100)
    network = Network(300, 50, changed(hidden=sizes[1:], activation=activation))
    for layer, (inputs, _) in zip(network.layers, pairwise(sizes), strict=True):
        assert isinstance(layer, HiddenLayer)
        assert float(layer.linear.weight.detach().std()) == pytest.approx(math.sqrt(gain / inputs), rel=0.03)
    assert float(network.head.weight.detach().std()) == pytest.approx(math.sqrt(1 / 100), rel=0.05)


def test_the_seed_says_the_weights_in_any_precision() -> None:
    narrow, wide = assembled(), assembled(dtype=torch.float64)
    for name, value in state(narrow).items():
        if name.endswith("weight"):
            assert torch.equal(value.double(), state(wide)[name])


def test_dropout_acts_in_training_alone_and_keeps_the_mean() -> None:
    network = Network(4, 3, changed(dropout=0.3, hidden=(400,), activation="sigmoid"))
    plain = Network(4, 3, changed(hidden=(400,), activation="sigmoid"))
    x = torch.randn(50, 4, generator=torch.Generator().manual_seed(1))
    torch.manual_seed(0)
    dropped, whole = network.layers[0](x), plain.layers[0](x)
    assert float((dropped == 0).float().mean()) == pytest.approx(0.3, abs=0.02)
    assert_close(dropped[dropped != 0], (whole / 0.7)[dropped != 0])
    assert torch.equal(network.eval().body(x), plain.eval().body(x))
