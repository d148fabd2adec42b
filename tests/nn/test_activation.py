"""activation= and residual=: what torch gives in separate steps, forward and backward, in one node."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.testing import assert_close

import batchnorm
from batchnorm.functional import batch_norm
from batchnorm.nn import BatchNorm1d

TORCHS = {
    None: lambda z: z,
    "relu": F.relu,
    "leaky_relu": F.leaky_relu,
    "sigmoid": torch.sigmoid,
    "tanh": torch.tanh,
    "gelu": F.gelu,
    "silu": F.silu,
}
SHAPES = {"BatchNorm1d": [(6, 3), (4, 3, 5)], "BatchNorm2d": [(3, 3, 2, 4)], "BatchNorm3d": [(2, 3, 2, 3, 2)]}
CASES = [(name, shape) for name, shapes in SHAPES.items() for shape in shapes]

each_case = pytest.mark.parametrize(("name", "shape"), CASES, ids=str)
each_activation = pytest.mark.parametrize("activation", list(TORCHS))
each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def values(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2 + 0.5


def prepared(layer: nn.Module, training: bool) -> nn.Module:
    with torch.no_grad():
        layer.weight.copy_(torch.tensor([0.5, 1.5, -1.0]))
        layer.bias.copy_(torch.tensor([0.1, -0.2, 0.3]))
    return layer.double().train(training)


@pytest.mark.parametrize("with_residual", [False, True], ids=["alone", "residual"])
@each_mode
@each_activation
@each_case
def test_layer_equals_torchs_norm_sum_and_activation(
    name: str, shape: tuple[int, ...], activation: str | None, training: bool, with_residual: bool
) -> None:
    ours = prepared(getattr(batchnorm, name)(3, activation=activation), training)
    torchs = prepared(getattr(nn, name)(3), training)
    outcomes = []
    for layer in (ours, torchs):
        x, residual = values(shape, 0).requires_grad_(), values(shape, 1).requires_grad_()
        if layer is ours:
            y = layer(x, residual=residual if with_residual else None)
        else:
            y = TORCHS[activation](layer(x) + residual if with_residual else layer(x))
        wanted = [x, *layer.parameters(), *([residual] if with_residual else [])]
        outcomes.append((y, *torch.autograd.grad(y, wanted, values(shape, 2))))
    assert_close(outcomes[0], outcomes[1], rtol=1e-11, atol=1e-12)
    assert_close(ours.state_dict(), torchs.state_dict(), rtol=1e-12, atol=1e-13)


@each_mode
@each_activation
def test_whole_layer_is_one_node(activation: str | None, training: bool) -> None:
    layer = prepared(BatchNorm1d(3, activation=activation), training)
    x, residual = values((6, 3), 0).requires_grad_(), values((6, 3), 1).requires_grad_()
    node = layer(x, residual=residual).grad_fn
    assert node.name() == "FusedBatchNormBackward"
    assert {child.name() for child, _ in node.next_functions if child} == {"torch::autograd::AccumulateGrad"}


@each_mode
@each_activation
def test_function_equals_the_layer(activation: str | None, training: bool) -> None:
    layer = prepared(BatchNorm1d(3, activation=activation), training)
    mean, var = layer.running_mean.clone(), layer.running_var.clone()
    x, residual = values((6, 3), 0), values((6, 3), 1)
    y = batch_norm(x, mean, var, layer.weight, layer.bias, training, activation=activation, residual=residual)
    assert_close(y, layer(x, residual=residual), rtol=0, atol=0)
    assert_close((mean, var), (layer.running_mean, layer.running_var), rtol=0, atol=0)


@pytest.mark.parametrize("wanted", list(itertools.product([False, True], repeat=4))[1:], ids=str)
def test_each_gradient_is_the_same_whichever_others_are_wanted(wanted: tuple[bool, ...]) -> None:
    layer = BatchNorm1d(3, activation="gelu").double()
    given = [values((6, 3), 0), values((6, 3), 1), layer.weight.detach().clone(), layer.bias.detach().clone()]

    def gradients(flags: tuple[bool, ...]) -> list[Tensor | None]:
        leaves = [t.clone().requires_grad_(flag) for t, flag in zip(given, flags, strict=True)]
        x, residual, weight, bias = leaves
        batch_norm(x, None, None, weight, bias, True, residual=residual, activation="gelu").pow(2).sum().backward()
        return [leaf.grad for leaf in leaves]

    for flag, found, expected in zip(wanted, gradients(wanted), gradients((True,) * 4), strict=True):
        assert_close(found, expected, rtol=1e-12, atol=1e-14) if flag else None
        assert (found is not None) == flag


def test_residual_may_be_the_input_itself() -> None:
    layer = prepared(BatchNorm1d(3, activation="relu"), True)
    x, separate = values((6, 3), 0).requires_grad_(), values((6, 3), 0).requires_grad_()
    layer(x, residual=x).sum().backward()
    layer(separate, residual=separate * 1).sum().backward()
    assert_close(x.grad, separate.grad)


def test_activation_may_be_changed_and_taken_away() -> None:
    layer = prepared(BatchNorm1d(3, activation="relu"), False)
    x = values((6, 3), 0)
    activated = layer(x)
    layer.activation = None
    assert_close(F.relu(layer(x)), activated, rtol=0, atol=0)


def test_repr_shows_the_activation_where_there_is_one() -> None:
    assert "activation" not in repr(BatchNorm1d(3))
    assert repr(BatchNorm1d(3, activation="silu")).endswith(", activation=silu)")


def test_leaky_relu_has_torchs_default_slope() -> None:
    x = values((6, 3), 0)
    ours, torchs = BatchNorm1d(3, activation="leaky_relu").double(), nn.BatchNorm1d(3).double()
    assert_close(ours(x), nn.LeakyReLU()(torchs(x)))


def test_activation_is_no_part_of_the_state() -> None:
    assert list(BatchNorm1d(3, activation="relu").state_dict()) == list(nn.BatchNorm1d(3).state_dict())
