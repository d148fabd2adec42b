"""The mark of a frozen layer, by itself: what it keeps, what it survives, what it costs."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import batchnorm
from batchnorm.errors import StatisticsWarning
from batchnorm.nn import freezing

LAYERS: dict[str, Callable[[], nn.Module]] = {
    "torch.BatchNorm1d": lambda: nn.BatchNorm1d(3),
    "torch.BatchNorm2d": lambda: nn.BatchNorm2d(3),
    "torch.BatchNorm3d": lambda: nn.BatchNorm3d(3),
    "torch.SyncBatchNorm": lambda: nn.SyncBatchNorm(3),
    "BatchNorm1d": lambda: batchnorm.BatchNorm1d(3),
    "BatchNorm2d": lambda: batchnorm.BatchNorm2d(3, activation="relu"),
    "BatchNorm3d": lambda: batchnorm.BatchNorm3d(3),
    "cumulative": lambda: batchnorm.BatchNorm1d(3, momentum=None),
    "subclass": lambda: Doubled(3),
}


class Doubled(nn.BatchNorm1d):
    def forward(self, input: Tensor) -> Tensor:
        return 2 * super().forward(input)


def input_of(layer: nn.Module) -> Tensor:
    sizes = {"1d": (), "2d": (2, 2), "3d": (2, 2, 2)}.get(type(layer).__name__[-2:], ())
    return torch.randn(6, 3, *sizes, generator=torch.Generator().manual_seed(0)) * 3 + 5


def frozen(name: str) -> nn.Module:
    layer = LAYERS[name]()
    layer(input_of(layer))
    freezing.freeze_statistics(layer)
    return layer


@pytest.mark.parametrize("name", LAYERS)
def test_frozen_layer_normalizes_by_running_statistics_in_training(name: str) -> None:
    layer = frozen(name)
    before = copy.deepcopy(layer.state_dict())
    expected = copy.deepcopy(layer).eval()(input_of(layer))
    torch.testing.assert_close(layer.train()(input_of(layer)), expected, rtol=0, atol=0)
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("how", [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))], ids=["deepcopy", "pickle"])
def test_copy_is_frozen_and_a_layer_of_its_own(name: str, how: Callable[[nn.Module], nn.Module]) -> None:
    layer = frozen(name)
    twin = how(layer)
    assert freezing.statistics_are_frozen(twin)
    assert not twin.train().training
    freezing.thaw_statistics(twin)
    assert twin.training
    assert freezing.statistics_are_frozen(layer)
    assert not layer.training
    twin(input_of(twin) + 1)
    assert not torch.equal(twin.running_mean, layer.running_mean)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", LAYERS)
def test_thawed_layer_has_nothing_left_of_it(name: str) -> None:
    layer = LAYERS[name]()
    before = dict(vars(layer))
    freezing.freeze_statistics(layer)
    freezing.freeze_parameters([layer], beside=[layer])
    freezing.thaw_parameters([layer], beside=[layer])
    freezing.thaw_statistics(layer)
    assert vars(layer) == before
    assert all(parameter.requires_grad for parameter in layer.parameters())


@pytest.mark.parametrize("asked", [True, False])
def test_thawed_layer_is_in_the_mode_that_was_asked_for_last(asked: bool) -> None:
    layer = frozen("BatchNorm1d")
    nn.Sequential(layer).train(asked)
    freezing.thaw_statistics(layer)
    assert layer.training is asked


def test_module_inside_a_frozen_layer_follows_the_mode() -> None:
    """Layers of timm have their activation and its dropout inside."""
    layer = nn.BatchNorm1d(3)
    layer.inner = nn.Dropout()
    freezing.freeze_statistics(layer)
    layer.eval()
    assert not layer.inner.training
    layer.train()
    assert layer.inner.training
    assert not layer.training


def test_update_bn_leaves_a_frozen_layer_as_it_is() -> None:
    layer = frozen("torch.BatchNorm1d")
    before = copy.deepcopy(layer.state_dict())
    with pytest.warns(StatisticsWarning, match="^BatchNorm1d is frozen: reset_running_stats"):
        torch.optim.swa_utils.update_bn([input_of(layer)], nn.Sequential(layer))
    torch.testing.assert_close(layer.state_dict(), before, rtol=0, atol=0)


def test_sync_conversion_of_a_frozen_layer_is_refused() -> None:
    with pytest.raises(
        ValueError, match=r"^convert_sync_batchnorm would make a layer that is not frozen of this Batch"
    ):
        nn.SyncBatchNorm.convert_sync_batchnorm(nn.Sequential(frozen("torch.BatchNorm1d")))


def test_method_that_an_object_had_of_its_own_comes_back() -> None:
    layer = nn.BatchNorm1d(3)
    own = layer.train
    vars(layer)["train"] = own
    freezing.freeze_statistics(layer)
    freezing.thaw_statistics(layer)
    assert vars(layer)["train"] is own


def test_layer_that_is_not_frozen_carries_nothing() -> None:
    layer = batchnorm.BatchNorm1d(3)
    assert not {"_frozen", "train"} & set(vars(layer))
    assert not freezing.statistics_are_frozen(layer)
    assert not freezing.parameters_are_frozen(layer)


def test_shared_parameter_stays_frozen_as_long_as_one_layer_is() -> None:
    first, second = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
    second.weight = first.weight
    both = [first, second]
    freezing.freeze_parameters([first], beside=both)
    freezing.freeze_parameters([second], beside=both)
    freezing.thaw_parameters([first], beside=both)
    assert not first.weight.requires_grad
    assert first.bias.requires_grad
    freezing.thaw_parameters([second], beside=both)
    assert first.weight.requires_grad


def test_compiled_model_freezes_too() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3))
    compiled = torch.compile(model, backend="eager")
    compiled(input_of(model[0]))
    freezing.freeze_statistics(model[0])
    before = copy.deepcopy(model.state_dict())
    compiled.train()
    expected = copy.deepcopy(model)(input_of(model[0]))
    torch.testing.assert_close(compiled(input_of(model[0])), expected)
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)
