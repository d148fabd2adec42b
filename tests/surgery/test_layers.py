"""Layers become ours and stay the same objects; those that cannot are left alone, and it is said why."""

from __future__ import annotations

import copy
from collections.abc import Callable

import pytest
import torch
from tests.surgery.small import OURS, assert_same_step, fields, images, perceptron, rows
from torch import nn
from torch.nn.utils import prune

import batchnorm
from batchnorm import convert, revert

PAIRS = [(getattr(nn, ours.__name__), ours) for ours in OURS]


@pytest.mark.parametrize(("theirs", "ours"), PAIRS)
def test_every_layer_becomes_ours_and_computes_the_same(theirs: type[nn.Module], ours: type[nn.Module]) -> None:
    shape = {"BatchNorm1d": (6, 3), "BatchNorm2d": (4, 3, 5, 5), "BatchNorm3d": (2, 3, 3, 3, 3)}[theirs.__name__]
    model = nn.Sequential(theirs(3, eps=0.01, momentum=0.3), theirs(3, affine=False), theirs(3, momentum=None))
    reference = copy.deepcopy(model)
    record = convert(model)
    assert [type(layer) for layer in model] == [ours] * 3
    assert [entry.name for entry in record.converted] == ["0", "1", "2"]
    assert_same_step(model, reference, images(*shape))


def test_layer_that_is_the_model_itself_is_converted() -> None:
    layer = nn.BatchNorm2d(3)
    assert convert(layer).counts == {"converted": 1, "fused": 0, "not_fused": 0, "left_alone": 0}
    assert type(layer) is batchnorm.BatchNorm2d


def test_modules_parameters_buffers_hooks_and_modes_stay() -> None:
    model = perceptron()
    layer = model[1]
    layer.eval()
    layer.bias.requires_grad_(False)
    seen: list[torch.Size] = []
    layer.register_forward_pre_hook(lambda module, args: seen.append(args[0].shape))
    before = {name: id(t) for name, t in (*model.named_parameters(), *model.named_buffers())}
    convert(model)
    assert model[1] is layer
    assert {name: id(t) for name, t in (*model.named_parameters(), *model.named_buffers())} == before
    assert [module.training for module in model] == [True, False, True, True, True, True, True]
    assert not layer.bias.requires_grad
    model(rows())
    assert seen == [(8, 5)]


def test_optimizer_goes_on_with_the_same_parameters() -> None:
    model, reference = perceptron(), perceptron()
    ours, theirs = (torch.optim.SGD(m.parameters(), lr=0.01, momentum=0.9) for m in (model, reference))
    for number in range(4):
        if number == 2:
            convert(model)
        for m, optimizer in ((model, ours), (reference, theirs)):
            optimizer.zero_grad()
            m(rows()).pow(2).sum().backward()
            optimizer.step()
    torch.testing.assert_close(model.state_dict(), reference.state_dict(), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("make", [perceptron, lambda: nn.Sequential(nn.BatchNorm2d(3), nn.ReLU())])
def test_state_dicts_load_strictly_in_both_directions(make: Callable[[], nn.Module]) -> None:
    plain, converted = make(), make()
    convert(converted)
    assert list(converted.state_dict()) == list(plain.state_dict())
    converted.load_state_dict(plain.state_dict())
    plain.load_state_dict(converted.state_dict())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_statistics_in_half_precision_become_float32_and_narrow_again(dtype: torch.dtype) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.BatchNorm2d(3, affine=False)).to(dtype)
    saved = copy.deepcopy(model.state_dict())
    convert(model)
    for layer in model:
        assert layer.running_mean.dtype == layer.running_var.dtype == torch.float32
    assert model[0].weight.dtype == dtype
    model.load_state_dict(saved)
    assert model(images().to(dtype)).dtype == dtype
    revert(model)
    assert [layer.running_mean.dtype for layer in model] == [dtype, dtype]


def test_statistics_follow_a_cast_between_convert_and_revert() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3))
    convert(model)
    model.bfloat16()
    revert(model)
    assert {t.dtype for t in model[0].state_dict().values()} == {torch.bfloat16, torch.int64}
    model[0](images().bfloat16())


def test_device_stays() -> None:
    model = perceptron().to("meta")
    assert convert(model).counts["converted"] == 2
    assert all(t.is_meta for t in (*model.parameters(), *model.buffers()))


def test_pruned_layer_goes_on_being_pruned() -> None:
    model, reference = nn.Sequential(nn.BatchNorm2d(3)), nn.Sequential(nn.BatchNorm2d(3))
    for m in (model, reference):
        prune.custom_from_mask(m[0], "weight", torch.tensor([1.0, 0.0, 1.0]))
    assert convert(model).counts["converted"] == 1
    torch.testing.assert_close(model(images()), reference(images()))


class _Doubled(nn.BatchNorm2d):
    """Somebody's layer, with a forward of its own."""

    def forward(self, input: torch.Tensor) -> torch.Tensor:
        return 2 * super().forward(input)


class FrozenBatchNorm2d(nn.Module):
    """As several libraries have it: no layer of torch.nn."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("running_mean", torch.zeros(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x - self.running_mean.view(-1, 1, 1)


def _with_own_forward() -> nn.Module:
    layer = nn.BatchNorm2d(3)
    layer.forward = lambda x: x
    return layer


def _with_own_attribute() -> nn.Module:
    layer = nn.BatchNorm2d(3)
    layer.activation = nn.Tanh()
    return layer


@pytest.mark.parametrize(
    ("make", "reason"),
    [
        (lambda: _Doubled(3), "is a subclass: what it does differently is not known"),
        (lambda: nn.SyncBatchNorm(3), "takes its statistics over several processes"),
        (lambda: nn.LazyBatchNorm2d(), "has no size yet: run one batch through the model first"),
        (FrozenBatchNorm2d, "is no layer of torch.nn, but a class of its own"),
        (
            lambda: nn.utils.parametrize.register_parametrization(nn.BatchNorm2d(3), "bias", nn.Softplus()),
            "has parametrizations: remove them first",
        ),
        (_with_own_forward, "has a forward of its own, set on the object"),
        (_with_own_attribute, "has an attribute 'activation' of its own"),
        (
            lambda: nn.BatchNorm2d(3, momentum=1.5),
            "has settings that are refused here: BatchNorm2d momentum expected a number in [0, 1], the weight of the "
            "new batch, or None for the plain average; got 1.5",
        ),
        (
            lambda: torch.jit.script(nn.BatchNorm2d(3)),
            "is compiled by torch.jit: convert the model before scripting it",
        ),
    ],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_other_layer_is_left_alone_with_the_reason(make: Callable[[], nn.Module], reason: str) -> None:
    model = nn.ModuleList([make(), nn.ReLU()])
    before = fields(model)
    record = convert(model)
    assert [(entry.name, entry.reason) for entry in record.left_alone] == [("0", reason)]
    assert fields(model) == before


def test_shared_layer_is_left_alone_in_all_its_places() -> None:
    layer = nn.BatchNorm1d(4)
    model = nn.ModuleDict({"a": nn.Sequential(layer, nn.ReLU()), "b": nn.Sequential(nn.ReLU(), layer)})
    before = fields(model)
    record = convert(model)
    assert [entry.reason for entry in record.left_alone] == ["is shared: it stands at a.0 and b.1"]
    assert fields(model) == before


def test_layer_of_a_shared_block_is_not_shared() -> None:
    block = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU())
    model = nn.Sequential(block, block)
    reference = copy.deepcopy(model)
    assert convert(model).counts == {"converted": 1, "fused": 1, "not_fused": 0, "left_alone": 0}
    assert_same_step(model, reference, rows())


def test_layers_that_share_a_parameter_are_converted() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3), nn.BatchNorm1d(3))
    model[1].weight = model[0].weight
    convert(model)
    assert [type(layer) for layer in model] == [batchnorm.BatchNorm1d] * 2
    assert model[1].weight is model[0].weight


def test_converting_twice_changes_nothing_and_says_so() -> None:
    model = perceptron()
    convert(model)
    before = fields(model)
    record = convert(model)
    assert fields(model) == before
    assert record.counts == {"converted": 0, "fused": 0, "not_fused": 0, "left_alone": 2}
    assert str(record).startswith("nothing converted: this model is converted already (2 layers of batchnorm)")


def test_model_without_batch_norm_is_left_as_it_is() -> None:
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    before = fields(model)
    assert str(convert(model)) == "nothing converted: no layer of torch.nn that can be"
    assert fields(model) == before


def test_what_is_no_module_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^convert expected a torch\.nn\.Module, got list$"):
        convert([nn.BatchNorm1d(3)])
    with pytest.raises(TypeError, match=r"^revert expected a torch\.nn\.Module, got dict$"):
        revert({})


def test_class_alone_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^convert expected a torch\.nn\.Module, got type$"):
        convert(nn.BatchNorm1d)
