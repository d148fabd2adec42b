"""Neighbours in a Sequential are fused where that changes nothing that anybody can see."""

from __future__ import annotations

import copy

import pytest
import torch
from tests.surgery.small import assert_same_step, fields, images, perceptron, rows
from torch import nn

from batchnorm import BatchNorm1d, convert, revert

ACTIVATIONS = {
    "relu": nn.ReLU(),
    "leaky_relu": nn.LeakyReLU(),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "gelu": nn.GELU(),
    "silu": nn.SiLU(inplace=True),
}
OTHERS = [nn.ReLU6(), nn.LeakyReLU(0.2), nn.GELU(approximate="tanh"), nn.Hardswish(), nn.PReLU(), nn.Softmax(1)]


@pytest.mark.parametrize("name", ACTIVATIONS)
def test_activation_that_layers_have_is_fused(name: str) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), ACTIVATIONS[name], nn.Conv2d(3, 2, 1))
    reference = copy.deepcopy(model)
    record = convert(model)
    assert [(e.name, e.what, e.reason) for e in record.fused] == [("0", name, "neighbours in Sequential")]
    assert (model[0].activation, type(model[1])) == (name, nn.Identity)
    assert_same_step(model, reference, images())


@pytest.mark.parametrize("activation", OTHERS, ids=lambda m: type(m).__name__)
def test_other_activation_stays_with_a_reason(activation: nn.Module) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), activation)
    record = convert(model)
    assert (record.fused, model[0].activation, model[1]) == ((), None, activation)
    (entry,) = record.not_fused
    assert (entry.name, entry.what) == ("0", f"{type(activation).__name__} after it")
    assert "is none of the activations that a layer can end in" in entry.reason


def test_subclass_of_an_activation_stays() -> None:
    class Mine(nn.ReLU):
        pass

    model = nn.Sequential(nn.BatchNorm1d(3), Mine())
    assert convert(model).fused == ()


def test_without_fuse_layers_alone_are_converted() -> None:
    model, reference = perceptron(), perceptron()
    assert convert(model, fuse=False).counts == {"converted": 2, "fused": 0, "not_fused": 0, "left_alone": 0}
    assert type(model[2]) is nn.ReLU
    assert convert(model).counts == {"converted": 0, "fused": 2, "not_fused": 0, "left_alone": 2}
    assert_same_step(model, reference, rows())
    revert(model)
    assert [type(m) for m in model] == [type(m) for m in reference]


def test_layer_of_ours_that_was_there_is_fused_and_stays_when_reverted() -> None:
    model = nn.Sequential(BatchNorm1d(3), nn.Tanh(), BatchNorm1d(3, activation="relu"), nn.ReLU())
    reference = copy.deepcopy(model)
    record = convert(model)
    assert record.counts == {"converted": 0, "fused": 1, "not_fused": 0, "left_alone": 2}
    assert_same_step(model, reference, rows())
    revert(model)
    assert [type(m) for m in model] == [BatchNorm1d, nn.Tanh, BatchNorm1d, nn.ReLU]
    assert [model[0].activation, model[2].activation] == [None, "relu"]


def test_identity_between_is_passed_over_and_anything_else_is_not() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Identity(), nn.ReLU(), nn.BatchNorm1d(3), nn.Dropout(), nn.ReLU())
    assert [entry.name for entry in convert(model).fused] == ["0"]
    assert [type(m) for m in model][1:3] == [nn.Identity] * 2


@pytest.mark.parametrize("where", ["layer", "activation", "identity"])
@pytest.mark.parametrize("kind", ["forward_hook", "full_backward_hook", "full_backward_pre_hook"])
def test_hooks_that_would_see_other_values_prevent_a_fusion(where: str, kind: str) -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.Identity(), nn.ReLU())
    hooked = model[{"layer": 0, "identity": 1, "activation": 2}[where]]
    getattr(hooked, f"register_{kind}")(lambda *args: None)
    record = convert(model)
    assert record.counts["converted"] == 1
    assert record.fused == ()
    assert type(model[2]) is nn.ReLU
    if where != "identity":
        assert "has hooks, which would see other values" in record.not_fused[0].reason


def test_hook_before_an_activation_prevents_a_fusion_and_before_a_layer_does_not() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(), nn.BatchNorm1d(3), nn.ReLU())
    model[1].register_forward_pre_hook(lambda *args: None)
    model[2].register_forward_pre_hook(lambda *args: None)
    assert [entry.name for entry in convert(model).fused] == ["2"]


def test_activation_with_a_forward_of_its_own_stays() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.ReLU())
    model[1].forward = torch.abs
    record = convert(model)
    assert [entry.reason for entry in record.not_fused] == ["ReLU has a forward of its own"]


def test_activation_in_several_places_is_fused_in_each_and_comes_back_to_each() -> None:
    relu = nn.ReLU(inplace=True)
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), relu, nn.Linear(4, 4), relu, nn.BatchNorm1d(4), relu)
    reference, before = copy.deepcopy(model), fields(model)
    assert [entry.name for entry in convert(model).fused] == ["1", "5"]
    assert model[4] is relu
    assert_same_step(model, reference, rows())
    revert(model)
    assert fields(model) == before


def test_subclass_that_keeps_the_forward_is_fused_and_one_that_replaces_it_is_not() -> None:
    class Named(nn.Sequential):
        pass

    class Backwards(nn.Sequential):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self[0](self[1](x))

    model = nn.ModuleList([Named(nn.BatchNorm1d(3), nn.ReLU()), Backwards(nn.BatchNorm1d(3), nn.ReLU())])
    model.append(nn.Sequential(nn.BatchNorm1d(3), nn.ReLU()))
    model[2].forward = lambda x: x
    assert [entry.name for entry in convert(model).fused] == ["0.0"]


def test_neighbours_in_a_list_are_not_fused() -> None:
    assert convert(nn.ModuleList([nn.BatchNorm1d(3), nn.ReLU()])).fused == ()
