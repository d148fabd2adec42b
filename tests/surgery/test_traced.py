"""trace=True: an activation is fused in any forward where it is proven to follow a layer, and nowhere else."""

from __future__ import annotations

import copy
import operator
import pickle
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.surgery.small import assert_same_step, fields, images
from torch import Tensor, nn

from batchnorm import convert, revert


class Block(nn.Module):
    """A convolution, a layer, and what a test does with them."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.conv = nn.Conv2d(3, 3, 1)
        self.bn = nn.BatchNorm2d(3)
        self.bn2 = nn.BatchNorm2d(3)
        self.act = nn.ReLU(inplace=True)
        self.nothing = nn.Identity()
        self.scale = nn.Parameter(torch.ones(1))
        self.register_buffer("limit", torch.ones(1))


class _Function(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(self.conv(x)), inplace=True)


class _Method(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)).relu_() * self.scale


class _Slope(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.nothing(self.bn(x)), 0.01, True) + 1


class _Exact(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.gelu(self.bn(x), approximate="none")


class _Twice(Block):
    """One module for two layers: no place where an Identity could stand."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn2(self.act(self.bn(x))))


class _Module(Block):
    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.nothing(self.bn(self.conv(x))))


class _Optional(Block):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        if mask is not None:
            x = x * mask
        return self.act(self.bn(x))


class _ByMode(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.act(self.bn(x))
        return self.conv(y) if self.training else self.conv(self.conv(y))


class _Listed(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = torch.tanh(layer(x))
        return x


REWRITTEN = [(_Function, ["relu"]), (_Method, ["relu"]), (_Slope, ["leaky_relu"]), (_Exact, ["gelu"])]
REWRITTEN += [(_Twice, ["relu", "relu"]), (_Listed, ["tanh", "tanh"])]
IN_PLACE = [(_Module, ["relu"]), (_Optional, ["relu"]), (_ByMode, ["relu"])]


@pytest.mark.parametrize(("kind", "names"), REWRITTEN, ids=lambda v: getattr(v, "__name__", None))
def test_forward_is_rewritten_where_an_activation_is_no_module(kind: type[nn.Module], names: list[str]) -> None:
    model = nn.Sequential(kind())
    reference, before = copy.deepcopy(model), fields(model)
    assert convert(model).fused == ()
    revert(model)
    record = convert(model, images(), trace=True)
    assert [entry.what for entry in record.fused] == names
    assert {entry.reason for entry in record.fused} == {f"traced and rewritten forward of {kind.__name__}"}
    assert (type(model[0]).__name__, isinstance(model[0], kind)) == (f"Fused{kind.__name__}", True)
    assert_same_step(model, reference, images())
    assert convert(model, trace=True).counts["fused"] == 0
    revert(model)
    assert fields(model) == before


@pytest.mark.parametrize(("kind", "names"), IN_PLACE, ids=lambda v: getattr(v, "__name__", None))
def test_forward_stays_where_an_identity_can_stand_for_the_activation(kind: type[nn.Module], names: list[str]) -> None:
    model = kind()
    reference, before = copy.deepcopy(model), fields(model)
    record = convert(model, images(), trace=True)
    assert [(entry.what, entry.reason) for entry in record.fused] == [
        (name, f"traced forward of {kind.__name__}") for name in names
    ]
    assert type(model) is kind
    assert_same_step(model, reference, images())
    revert(model)
    assert fields(model) == before


def _residual(add: Callable[[Tensor, Tensor], Tensor]) -> type[nn.Module]:
    class Residual(Block):
        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.nothing(add(self.nothing(self.bn(self.conv(x))), x)))

    return Residual


ADDS: list[Callable[[Tensor, Tensor], Tensor]] = [
    operator.add,
    operator.iadd,
    lambda a, b: b + a,
    lambda a, b: a.add_(b),
    lambda a, b: torch.add(a, b),
]


@pytest.mark.parametrize("add", ADDS)
def test_residual_add_is_fused_where_an_example_shows_equal_shapes(add: Callable[[Tensor, Tensor], Tensor]) -> None:
    model = nn.Sequential(_residual(add)())
    reference = copy.deepcopy(model)
    record = convert(model, trace=True)
    assert record.fused == ()
    (entry,) = record.not_fused
    assert entry.reason == "only an example can show that what is added has the layer's shape and dtype"
    record = convert(model, images(), trace=True)
    assert [entry.what for entry in record.fused] == ["residual add and relu"]
    assert_same_step(model, reference, images())


def test_example_that_the_model_does_not_run_on_is_refused() -> None:
    model = _residual(operator.add)()
    with pytest.raises(ValueError, match=r"^example expected an input that the model itself runs on, got: "):
        convert(model, torch.ones(3), trace=True)
    assert type(model.bn) is nn.BatchNorm2d


class _AddedToEachOther(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn(x))
        return F.relu(self.bn2(self.conv(y)) + y)


class _TwoBranches(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.silu(self.bn(self.conv(x)) + self.bn2(x))


@pytest.mark.parametrize(
    ("kind", "fused"),
    [
        (_AddedToEachOther, [("bn", "relu"), ("bn2", "residual add and relu")]),
        (_TwoBranches, [("bn2", "residual add and silu")]),
    ],
)
def test_layers_that_depend_on_each_other_are_fused_in_order(
    kind: type[nn.Module], fused: list[tuple[str, str]]
) -> None:
    model = kind()
    reference = copy.deepcopy(model)
    record = convert(model, images(), trace=True)
    assert [(entry.name, entry.what) for entry in record.fused] == fused
    assert_same_step(model, reference, images())


class _ChangesItsInput(Block):
    """torch.fx would write the sum to a new tensor, and whoever called would find x as it was."""

    def forward(self, x: Tensor) -> Tensor:
        y = x
        y += 1
        y -= self.scale
        y *= 2
        return F.relu(self.bn(x))


def test_operators_in_place_stay_in_place() -> None:
    model, reference = _ChangesItsInput(), _ChangesItsInput()
    assert len(convert(model, images(), trace=True).fused) == 1
    x, y = images(), images()
    torch.testing.assert_close(model(x), reference(y), rtol=1e-4, atol=1e-5)
    assert torch.equal(x, y)
    assert not torch.equal(x, images())


class _OptionalResidual(Block):
    """A graph of the other case cannot run on the example; it was once tried."""

    def forward(self, x: Tensor, shortcut: Tensor | None = None) -> Tensor:
        if shortcut is None:
            return F.relu(self.bn(x) + x)
        return F.relu(self.bn(x) + shortcut)


class _Broadcast(Block):
    def forward(self, x: Tensor) -> Tensor:
        mean = x.mean((2, 3), keepdim=True)
        return F.relu(self.bn(x) + mean)


class _IntoTheOther(Block):
    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.conv(x)
        shortcut += self.bn(x)
        return F.relu(shortcut)


class _Weighted(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(torch.add(self.bn(x), x, alpha=2))


class _ChangedLater(Block):
    def forward(self, x: Tensor) -> Tensor:
        shortcut = self.conv(x)
        y = F.relu(self.bn(self.conv(x)) + shortcut)
        return y + shortcut.mul_(2)


class _UsedTwice(Block):
    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(x)
        return F.relu(y) + y


class _CalledTwice(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(F.relu(self.bn(x))))


class _Between(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.conv(self.bn(x)))


class _Other(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.leaky_relu(self.bn(F.gelu(self.bn2(x), approximate="tanh")), 0.2)


@pytest.mark.parametrize(
    "kind",
    [
        _OptionalResidual,
        _Broadcast,
        _IntoTheOther,
        _Weighted,
        _ChangedLater,
        _UsedTwice,
        _CalledTwice,
        _Between,
        _Other,
    ],
)
def test_what_is_no_such_pattern_is_not_fused(kind: type[nn.Module]) -> None:
    model = kind()
    reference = copy.deepcopy(model)
    record = convert(model, images(), trace=True)
    assert (record.fused, type(model)) == ((), kind)
    assert record.counts["converted"] == 2
    assert_same_step(model, reference, images())


class _AsksForType(Block):
    def forward(self, x: Any) -> Tensor:
        return F.relu(self.bn(x if isinstance(x, Tensor) else x[0]))


class _AsksTorchForType(Block):
    def forward(self, x: Any) -> Tensor:
        return F.relu(self.bn(x if torch.is_tensor(x) else x[0]))


class _AsksForSize(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(x)) if x.shape[0] > 2 else self.bn(x)


class _Draws(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(x)) if random.random() < 2 else self.bn(x)


class _DrawsWithTorch(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(x)) if torch.rand(()).item() < 2 else self.bn(x)


class _Remembers(Block):
    def forward(self, x: Tensor) -> Tensor:
        self.last = F.relu(self.bn(x))
        return self.last


class _Counts(Block):
    calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        return F.relu(self.bn(x))


class _Switches(Block):
    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            y = F.relu(self.bn(x))
        return self.conv(y)


class _Casts(Block):
    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast("cpu", enabled=True, dtype=torch.bfloat16):
            return F.relu(self.bn(x))


class _Makes(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(x)) + torch.ones(3, 1, 1)


class _ByNumbers(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(x)) if self.limit > 0 else x


class _Wrapped(Block):
    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(x))


class _Many(Block):
    def forward(self, *x: Tensor) -> Tensor:
        return F.relu(self.bn(x[0]))


class _OptionalFunction(Block):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        return F.relu(self.bn(x if mask is None else x * mask))


class _OtherInTraining(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(x)) if self.training else self.bn(x)


class _ModuleInTraining(Block):
    """Where the activation is a module, but not always called after the layer."""

    def forward(self, x: Tensor) -> Tensor:
        return self.act(self.bn(x)) if self.training else self.act(self.conv(self.bn(x)))


class _ByGradient(Block):
    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.bn(x)) if torch.is_grad_enabled() else self.bn(x)


class _Copied(_Function):
    def __deepcopy__(self, memo: Any) -> Any:
        other = _Copied()
        other.load_state_dict(self.state_dict())
        return other.train(self.training)


class _Called(_Function):
    def __call__(self, x: Tensor) -> Tensor:
        return super().__call__(x)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (_AsksForType, "it asks for the type of a value"),
        (_AsksTorchForType, "it asks for the type of a value"),
        (_AsksForSize, "it asks whether a value is true"),
        (_Draws, "its forward draws random numbers in Python"),
        (_DrawsWithTorch, "its forward draws random numbers in Python"),
        (_Remembers, "its forward changes the module itself"),
        (_Counts, "its forward changes the module itself"),
        (_Switches, "it switches gradients or autocast on or off"),
        (_Casts, "it switches gradients or autocast on or off"),
        (_Makes, "its forward makes tensors that a trace would keep as they are"),
        (_ByNumbers, "its forward cannot be traced"),
        (_Wrapped, "its forward is wrapped or set on the object"),
        (_Many, "its forward has arguments that are not fixed in number or go by name alone"),
        (_OptionalFunction, "its forward has an optional argument, mask"),
        (_OtherInTraining, "its forward does otherwise in training than at test time, or without gradients"),
        (_ModuleInTraining, "its forward does otherwise in training than at test time, or without gradients"),
        (_ByGradient, "its forward does otherwise in training than at test time, or without gradients"),
        (_Copied, "its class has a way of its own to be copied"),
        (_Called, "it is called in a way of its own"),
    ],
    ids=lambda v: getattr(v, "__name__", None),
)
@pytest.mark.filterwarnings("ignore:.*autocast.*")
def test_forward_that_is_more_than_a_graph_is_left_as_it_is(kind: type[nn.Module], reason: str) -> None:
    model = nn.ModuleList([kind()])
    before = fields(model)
    record = convert(model, trace=True)
    assert record.fused == ()
    (entry,) = record.not_fused
    assert entry.reason.startswith(reason)
    assert record.counts["converted"] == 2
    revert(model)
    assert fields(model) == before


def test_tracing_touches_neither_numbers_nor_random_numbers() -> None:
    class Careless(Block):
        def forward(self, x: Tensor) -> Tensor:
            self.limit.add_(1)
            return F.relu(self.bn(x) + torch.rand(1))

    model = Careless()
    state, numbers = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    convert(model, trace=True)
    torch.testing.assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), numbers)


def test_trace_without_fuse_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^convert expected fuse=True with trace=True"):
        convert(_Function(), trace=True, fuse=False)


@pytest.mark.parametrize("copied", [copy.deepcopy, copy.copy, lambda model: pickle.loads(pickle.dumps(model))])
def test_copy_of_a_rewritten_module_computes_the_same_and_can_be_reverted(copied: Callable[[Any], Any]) -> None:
    model, reference = _Function(), _Function()
    convert(model, trace=True)
    other = copied(model)
    assert type(other) is type(model)
    assert_same_step(other, reference, images())
    other = copy.deepcopy(other)
    revert(other)
    assert type(other) is _Function
    assert_same_step(other, reference, images())


def test_rewritten_module_keeps_what_the_forward_does_not_use() -> None:
    model = _Function()
    model.note = "mine"
    keys = list(model.state_dict())
    convert(model, trace=True)
    assert (list(model.state_dict()), model.note, type(model.act)) == (keys, "mine", nn.ReLU)


def test_rewritten_module_can_be_compiled_and_traced_again() -> None:
    model = nn.Sequential(_residual(operator.add)(), _Function())
    reference = copy.deepcopy(model).eval()
    convert(model, images(), trace=True)
    model.eval()
    expected = reference(images())
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(images()), expected, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.fx.symbolic_trace(model)(images()), expected, rtol=1e-4, atol=1e-5)
    program = torch.export.export(model, (images(),))
    torch.testing.assert_close(program.module()(images()), expected, rtol=1e-4, atol=1e-5)
    torch._dynamo.reset()
