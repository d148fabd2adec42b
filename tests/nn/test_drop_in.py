"""Drop-in for torch.nn: the same arguments, defaults, state and results, step by step, in every setting."""

from __future__ import annotations

import copy
import inspect
import io
import itertools
import pickle
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import batchnorm
from batchnorm.functional import batch_norm

PAIRS = [(getattr(batchnorm, name), getattr(nn, name)) for name in ("BatchNorm1d", "BatchNorm2d", "BatchNorm3d")]
SHAPES: dict[str, list[tuple[int, ...]]] = {
    "BatchNorm1d": [(6, 3), (4, 3, 5)],
    "BatchNorm2d": [(3, 3, 2, 4)],
    "BatchNorm3d": [(2, 3, 2, 3, 2)],
}

each_pair = pytest.mark.parametrize(("ours", "torchs"), PAIRS, ids=lambda c: c.__name__ if c in dict(PAIRS) else "")
SETTINGS: list[dict[str, Any]] = [
    {"momentum": momentum, "affine": affine, "track_running_stats": track}
    for momentum, affine, track in itertools.product([0.1, 0.7, 0.0, 1.0, None], [True, False], [True, False])
] + [{"bias": False}, {"bias": False, "momentum": None}, {"eps": 0.5}, {"affine": False, "bias": False}]


def batches(shape: tuple[int, ...], count: int = 3) -> list[Tensor]:
    random = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=random, dtype=torch.float64) * 3 + step for step in range(count)]


def twins(ours: type[nn.Module], torchs: type[nn.Module], **settings: Any) -> tuple[nn.Module, nn.Module]:
    """A layer of each kind with equal parameters, off 1 and 0."""
    mine, theirs = ours(3, **settings).double(), torchs(3, **settings).double()
    for layer in (mine, theirs):
        for name, parameter in layer.named_parameters():
            nn.init.normal_(parameter, 1.0 if name == "weight" else 0.0, generator=torch.Generator().manual_seed(2))
    return mine, theirs


@each_pair
def test_arguments_and_defaults_are_torchs_in_torchs_order(ours: type[nn.Module], torchs: type[nn.Module]) -> None:
    mine, theirs = inspect.signature(ours).parameters, inspect.signature(torchs).parameters
    assert list(mine)[: len(theirs)] == list(theirs)
    for name, parameter in theirs.items():
        assert (mine[name].kind, mine[name].default) == (parameter.kind, parameter.default), name
    new = {name: parameter for name, parameter in mine.items() if name not in theirs}
    assert list(new) == ["activation", "debias"]
    assert all(parameter.kind is inspect.Parameter.KEYWORD_ONLY for parameter in new.values())


@each_pair
def test_forward_takes_torchs_argument_and_new_ones_by_keyword_alone(
    ours: type[nn.Module], torchs: type[nn.Module]
) -> None:
    mine, theirs = inspect.signature(ours.forward).parameters, inspect.signature(torchs.forward).parameters
    assert list(mine) == [*theirs, "residual", "mask"]
    assert all(mine[name].kind is inspect.Parameter.KEYWORD_ONLY for name in ("residual", "mask"))


def test_function_takes_torchs_arguments_and_new_ones_by_keyword_alone() -> None:
    mine = inspect.signature(batch_norm).parameters
    theirs = inspect.signature(nn.functional.batch_norm).parameters
    assert list(mine) == [*theirs, "activation", "residual", "mask"]
    for name, parameter in theirs.items():
        assert (mine[name].kind, mine[name].default) == (parameter.kind, parameter.default), name
    assert all(mine[name].kind is inspect.Parameter.KEYWORD_ONLY for name in ("activation", "residual", "mask"))


@each_pair
def test_layer_is_an_instance_of_torchs(ours: type[nn.Module], torchs: type[nn.Module]) -> None:
    assert isinstance(ours(3), torchs)
    assert isinstance(ours(3), nn.modules.batchnorm._BatchNorm)
    assert ours.__name__ == torchs.__name__


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@each_pair
def test_training_then_evaluation_equals_torch_step_by_step(
    ours: type[nn.Module], torchs: type[nn.Module], settings: dict[str, Any]
) -> None:
    for shape in SHAPES[ours.__name__]:
        mine, theirs = twins(ours, torchs, **settings)
        for x in batches(shape):
            assert_close(mine(x), theirs(x), rtol=1e-12, atol=1e-12)
            assert_close(mine.state_dict(), theirs.state_dict(), rtol=1e-12, atol=1e-13)
        x = batches(shape)[0]
        assert_close(mine.eval()(x), theirs.eval()(x), rtol=1e-12, atol=1e-12)
        assert_close(mine.train()(x), theirs.train()(x), rtol=1e-12, atol=1e-12)
        assert repr(mine) == repr(theirs)


@pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@each_pair
def test_gradients_equal_torch(
    ours: type[nn.Module], torchs: type[nn.Module], settings: dict[str, Any], training: bool
) -> None:
    for shape in SHAPES[ours.__name__]:
        mine, theirs = twins(ours, torchs, **settings)
        found = []
        for layer in (mine, theirs):
            x = batches(shape)[0].requires_grad_()
            y = layer.train(training)(x)
            wanted = [x, *layer.parameters()]
            upstream = torch.randn(shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
            found.append(torch.autograd.grad(y, wanted, upstream))
        assert_close(found[0], found[1], rtol=1e-11, atol=1e-12)


@each_pair
def test_frozen_parameters_get_no_gradient_and_the_input_still_does(
    ours: type[nn.Module], torchs: type[nn.Module]
) -> None:
    for frozen in ("weight", "bias"):
        mine, theirs = twins(ours, torchs)
        gradients = []
        for layer in (mine, theirs):
            getattr(layer, frozen).requires_grad_(False)
            x = batches(SHAPES[ours.__name__][0])[0].requires_grad_()
            layer(x).square().sum().backward()
            assert getattr(layer, frozen).grad is None
            gradients.append((x.grad, *(p.grad for p in layer.parameters() if p.requires_grad)))
        assert_close(gradients[0], gradients[1], rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("assign", [False, True])
@pytest.mark.parametrize("settings", SETTINGS, ids=str)
@each_pair
def test_state_dict_loads_strictly_each_way(
    ours: type[nn.Module], torchs: type[nn.Module], settings: dict[str, Any], assign: bool
) -> None:
    mine, theirs = twins(ours, torchs, **settings)
    x = batches(SHAPES[ours.__name__][0])[0]
    mine(x)
    theirs(x + 1)
    assert list(mine.state_dict()) == list(theirs.state_dict())
    for source, target in ((mine, torchs), (theirs, ours)):
        fresh = target(3, **settings).double()
        fresh.load_state_dict(source.state_dict(), strict=True, assign=assign)
        assert_close(fresh.state_dict(), source.state_dict(), rtol=0, atol=0)
        assert_close(fresh.eval()(x), source.eval()(x), rtol=1e-12, atol=1e-13)


@each_pair
def test_state_of_before_batches_were_counted_loads(ours: type[nn.Module], torchs: type[nn.Module]) -> None:
    """Version 1 of torch's layers had no num_batches_tracked; torch fills in 0."""
    old = {name: value for name, value in torchs(3).state_dict().items() if name != "num_batches_tracked"}
    counters = []
    for target in (ours, torchs):
        layer = target(3)
        layer.num_batches_tracked.fill_(5)
        layer.load_state_dict(old, strict=True)
        counters.append(int(layer.num_batches_tracked))
    assert counters[0] == counters[1]


def _saved(layer: nn.Module) -> nn.Module:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize(
    "duplicate",
    [copy.deepcopy, lambda layer: pickle.loads(pickle.dumps(layer)), _saved],
    ids=["deepcopy", "pickle", "save"],
)
@each_pair
def test_copies_have_everything_and_share_nothing(
    ours: type[nn.Module], torchs: type[nn.Module], duplicate: Any
) -> None:
    layer = ours(3, momentum=None, activation="silu").double()
    first, second, _ = batches(SHAPES[ours.__name__][0])
    layer(first)
    twin = duplicate(layer)
    assert (twin.activation, twin.momentum) == ("silu", None)
    assert_close(twin.state_dict(), layer.state_dict(), rtol=0, atol=0)
    assert_close(twin(second), layer(second), rtol=0, atol=0)
    assert_close(twin.state_dict(), layer.state_dict(), rtol=0, atol=0)
    twin(first)
    assert int(twin.num_batches_tracked) == int(layer.num_batches_tracked) + 1


@each_pair
def test_reset_forgets_what_was_seen(ours: type[nn.Module], torchs: type[nn.Module]) -> None:
    layer = ours(3)
    layer(batches(SHAPES[ours.__name__][0])[0].float())
    layer.reset_running_stats()
    assert_close(layer.state_dict(), torchs(3).state_dict(), rtol=0, atol=0)
    layer.reset_parameters()
    assert_close(layer.state_dict(), torchs(3).state_dict(), rtol=0, atol=0)


@each_pair
def test_tracking_switched_off_later_behaves_as_torchs(ours: type[nn.Module], torchs: type[nn.Module]) -> None:
    """Users freeze layers by setting the attribute: training then uses the batch and updates nothing."""
    mine, theirs = twins(ours, torchs)
    for layer in (mine, theirs):
        layer.track_running_stats = False
    x = batches(SHAPES[ours.__name__][0])[0]
    for training in (True, False):
        assert_close(mine.train(training)(x), theirs.train(training)(x), rtol=1e-12, atol=1e-12)
        assert_close(mine.state_dict(), theirs.state_dict(), rtol=0, atol=0)


@pytest.mark.parametrize("name", ["running_mean", "running_var", "num_batches_tracked"])
def test_statistics_set_to_none_behave_as_torchs(name: str) -> None:
    x = batches((6, 3))[0]
    outcomes = []
    for build in (batchnorm.BatchNorm1d, nn.BatchNorm1d):
        layer = build(3).double()
        setattr(layer, name, None)
        try:
            outcomes.append(("gives", layer(x).detach().numpy().round(12).tolist()))
        except Exception as error:
            outcomes.append((type(error).__name__, str(error)))
    assert outcomes[0] == outcomes[1]


def test_layers_made_without_memory_get_it_later() -> None:
    layer = batchnorm.BatchNorm1d(3, device="meta", dtype=torch.float64)
    assert all(value.is_meta for value in layer.state_dict().values())
    layer.to_empty(device="cpu").reset_parameters()
    x = batches((6, 3))[0]
    assert_close(layer(x), nn.BatchNorm1d(3).double()(x))
