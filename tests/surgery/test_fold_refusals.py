"""What fold must not touch: shared, called twice, branching, data-dependent, over another dimension, unknown."""

from __future__ import annotations

import copy
import sys
import warnings
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.surgery.test_fold import lived_in, report
from torch import Tensor, arange, nn

import batchnorm
from batchnorm.surgery import drop_redundant_bias, fold, fold_check, insert
from batchnorm.surgery.fold_plan import Pair, fold_pairs


class Pieces(nn.Module):
    """A convolution and a layer, for forwards of all kinds."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)
        self.bn = nn.BatchNorm2d(3)


class CalledTwice(Pieces):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(self.bn(self.conv(x))))  # type: ignore[no-any-return]


class Branching(Pieces):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.bn(y) + y  # type: ignore[no-any-return]


class ByData(Pieces):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.bn(y) if x.mean() > 0 else y  # type: ignore[no-any-return]


class ByDataElsewhere(Pieces):
    """Another input takes the layer's input from elsewhere."""

    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.bn(torch.where(x.sum() > 0, y, x))  # type: ignore[no-any-return]


class BySize(Pieces):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        return self.bn(y) if x.shape[0] > 1 else y  # type: ignore[no-any-return]


class ByArgument(Pieces):
    def forward(self, x: Tensor, normalize: bool = True) -> Tensor:
        y = self.conv(x)
        return self.bn(y) if normalize else y  # type: ignore[no-any-return]


class ByOption(Pieces):
    def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
        y = self.conv(x)
        return self.bn(y) if mask is None else self.bn(y * mask)  # type: ignore[no-any-return]


class ByKind(Pieces):
    def forward(self, x: Tensor) -> Tensor:
        if isinstance(x, Tensor):
            return self.bn(self.conv(x))  # type: ignore[no-any-return]
        return self.conv(x)  # type: ignore[no-any-return]


class InPlaceBetween(Pieces):
    def forward(self, x: Tensor) -> Tensor:
        y = self.conv(x)
        y += x
        return self.bn(y)  # type: ignore[no-any-return]


class Returned(Pieces):
    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        y = self.conv(x)
        return self.bn(y), y


class WeightReadBesides(Pieces):
    def forward(self, x: Tensor) -> Tensor:
        return self.bn(self.conv(x)) + self.conv.weight.sum()  # type: ignore[no-any-return]


class Kept(Pieces):
    def forward(self, x: Tensor) -> Tensor:
        self.latest = self.conv(x)
        return self.bn(self.latest)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (CalledTwice(), "BatchNorm2d is called 2 times"),
        (Branching(), "the value in between is also used by add"),
        (ByData(), "ByData does not always call both once"),
        (BySize(), "BySize does not always call both once"),
        (ByArgument(), "ByArgument does not always call both once"),
        (ByOption(), "ByOption does not always hand the one's output to the other"),
        (ByKind(), "ByKind does not always call both once"),
        (Returned(), "the value in between is also used by whoever calls Returned"),
        (WeightReadBesides(), "WeightReadBesides reads the parameters of Conv2d itself"),
        (Kept(), "the forward of Kept is not certain: its forward changes the module itself"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_is_not_certain_is_refused_with_the_reason(model: nn.Module, reason: str) -> None:
    state = copy.deepcopy(model.state_dict())
    with pytest.raises(ValueError, match=r"^fold found no batch norm layer that can be folded") as raised:
        fold(lived_in(model), torch.ones(2, 3, 6, 6))
    assert reason in str(raised.value)
    assert state.keys() == model.state_dict().keys()


@pytest.mark.parametrize("model", [ByDataElsewhere(), InPlaceBetween()], ids=lambda m: type(m).__name__)
def test_what_stands_beside_no_linear_map_is_listed_as_alone(model: nn.Module) -> None:
    with pytest.raises(ValueError, match=r"alone .*no Linear or convolution stands directly before or after it"):
        fold(lived_in(model), torch.ones(2, 3, 6, 6))


def shared_layer() -> nn.Module:
    norm = nn.BatchNorm1d(3)
    return nn.Sequential(nn.Linear(3, 3), norm, nn.Linear(3, 3), norm)


def shared_weight() -> nn.Module:
    model: Any = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 3))
    model[3].weight = model[0].weight
    return model  # type: ignore[no-any-return]


def normalized_weight() -> nn.Module:
    return nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(3, 3)), nn.BatchNorm1d(3))


def hooked() -> nn.Module:
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    model[0].register_forward_hook(lambda *_: None)
    return model


def subclassed() -> nn.Module:
    class Standardized(nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return F.linear(x, self.weight / self.weight.norm(), self.bias)

    return nn.Sequential(Standardized(3, 3), nn.BatchNorm1d(3))


def subclassed_norm() -> nn.Module:
    class Squared(nn.BatchNorm1d):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) ** 2  # type: ignore[no-any-return]

    return nn.Sequential(nn.Linear(3, 3), Squared(3))


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (shared_layer(), "BatchNorm1d is shared: it stands at 1 and 3"),
        (shared_weight(), "Linear shares its weight with another module"),
        (normalized_weight(), "ParametrizedLinear has parametrizations: remove them first"),
        (hooked(), "Linear has hooks, which would see other values"),
        (subclassed(), "Standardized is a subclass: what it does with its weights is not known"),
        (subclassed_norm(), "Squared is a class of its own: what it does differently is not known"),
        (
            nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3, track_running_stats=False)),
            "BatchNorm1d keeps no running statistics: it normalizes by the batch at test time too",
        ),
        (
            nn.Sequential(batchnorm.BatchNorm1d(3, activation="relu"), nn.Linear(3, 3)),
            "no Linear or convolution stands directly before or after it",
        ),
    ],
    ids=[
        *("shared layer", "shared weight", "weight norm", "hook", "subclass", "subclass of norm"),
        *("no statistics", "activation between"),
    ],
)
def test_layers_that_cannot_be_folded_are_refused_with_the_reason(model: nn.Module, reason: str) -> None:
    with pytest.raises(ValueError, match=r"^fold found no batch norm layer") as raised:
        fold(lived_in(model), torch.randn(5, 3))
    assert reason in str(raised.value)


def test_layer_that_a_module_further_out_may_call_by_itself_is_refused() -> None:
    class Reaching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.block = nn.Sequential(nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3))

        def forward(self, x: Tensor, features: bool = False) -> Tensor:
            return self.block[0](x) if features else self.block(x)  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match="Reaching may call Conv2d by itself"):
        fold(lived_in(Reaching()), torch.randn(2, 3, 6, 6))


def test_layer_called_with_a_mask_is_refused() -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.bn = nn.Linear(3, 3), batchnorm.BatchNorm1d(3)

        def forward(self, x: Tensor, mask: Tensor) -> Tensor:
            return self.bn(self.linear(x), mask=mask)  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match="BatchNorm1d is called with mask"):
        fold(lived_in(Masked()), (torch.randn(5, 3), torch.tensor([True, True, False, True, True])))


def test_layer_that_may_be_called_with_a_mask_is_refused_although_the_example_has_none() -> None:
    class MayMask(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.bn = nn.Linear(3, 3), batchnorm.BatchNorm1d(3)

        def forward(self, x: Tensor, mask: Tensor | None = None) -> Tensor:
            return self.bn(self.linear(x), mask=mask)  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match="MayMask may call BatchNorm1d with further arguments"):
        fold(lived_in(MayMask()), torch.randn(5, 3))


def test_linear_on_three_dimensions_is_refused_where_fx_is_silently_wrong() -> None:
    """torch.fx's fuse takes BatchNorm1d's channels, dimension 1 of (N, L, C), for Linear's features, the last."""
    torch.manual_seed(0)
    model = lived_in(nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)))
    x = torch.randn(2, 4, 4)
    expected = model(x).detach()
    assert float((_fused_by_fx(model)(x).detach() - expected).abs().max()) > 0.1
    with pytest.raises(ValueError, match=r"normalizes over dimension 1 of \(2, 4, 4\), Linear's features are the last"):
        fold(model, x)
    turned = nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4))
    with pytest.raises(ValueError, match="normalizes over dimension 1"):
        fold(lived_in(turned), x)


def test_pair_called_twice_is_refused_where_fx_is_silently_wrong() -> None:
    """torch.fx's fuse folds the layer into the convolution once for every call."""
    torch.manual_seed(0)
    model = lived_in(CalledTwice())
    x = torch.randn(2, 3, 6, 6)
    expected = model(x).detach()
    assert float((_fused_by_fx(model)(x).detach() - expected).abs().max()) > 0.1
    with pytest.raises(ValueError, match="BatchNorm2d is called 2 times"):
        fold(model, x)


def _fused_by_fx(model: nn.Module) -> nn.Module:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torch's own module, where it is imported
        from torch.fx.experimental import optimization

        return optimization.fuse(model)


def test_unbatched_images_whose_rows_would_be_channels_are_refused() -> None:
    """Conv1d takes (C, L) for one sequence, BatchNorm1d for C rows of L features."""
    model = nn.Sequential(nn.Conv1d(3, 5, 1), nn.BatchNorm1d(5))
    with pytest.raises(ValueError, match="Conv1d runs without a batch"):
        fold(lived_in(model), torch.randn(3, 5))


def test_the_rest_is_folded_where_one_pair_cannot_be() -> None:
    model = lived_in(nn.Sequential(nn.Conv2d(3, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), Branching()))
    x = torch.randn(2, 3, 6, 6)
    folded = fold(model, x)
    found = report(folded)
    assert [entry.name for entry in found.folded] == ["1"]
    assert [entry.name for entry in found.refused] == ["3.bn"]
    torch.testing.assert_close(folded(x), model(x))


def test_a_pair_whose_fold_is_not_equivalent_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is measured has the last word, pair by pair."""
    model = lived_in(nn.Sequential(*(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3), nn.Tanh()) for _ in range(5))))
    x = torch.randn(5, 3)

    def slightly_wrong(other: nn.Module, pairs: tuple[Pair, ...]) -> None:
        fold_pairs(other, pairs)
        if any(pair.norm == "3.1" for pair in pairs):
            other.get_submodule("3.0").bias.data += 1e-3  # type: ignore[union-attr, operator]

    # batchnorm.surgery.fold is the function; its module has to be asked for.
    monkeypatch.setattr(sys.modules[fold.__module__], "fold_pairs", slightly_wrong)
    found = report(fold(model, x))
    assert [entry.name for entry in found.folded] == ["0.1", "1.1", "2.1", "4.1"]
    assert [(entry.name, entry.reason[:14]) for entry in found.refused] == [("3.1", "outputs differ")]


def test_a_model_that_asks_the_layer_for_its_settings_keeps_it() -> None:
    class Asking(Pieces):
        def forward(self, x: Tensor) -> Tensor:
            return self.bn(self.conv(x)) * self.bn.eps  # type: ignore[no-any-return]

    with pytest.raises(ValueError, match=r"the folded model fails on the example: .*eps"):
        fold(lived_in(Asking()), torch.randn(2, 3, 6, 6))


def test_scales_that_hide_a_layer_do_not_hide_a_wrong_fold() -> None:
    """Residual blocks begin with a scale of 0: only other parameters show whether the fold is right."""
    norm = nn.BatchNorm1d(3)
    nn.init.zeros_(norm.weight)
    drawn = fold_check.randomized(nn.Sequential(norm))
    assert bool((drawn[0].weight != 0).all())  # type: ignore[index, union-attr]


def test_layer_that_the_example_does_not_reach_is_listed() -> None:
    class Unused(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.used = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
            self.unused = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))

        def forward(self, x: Tensor) -> Tensor:
            return self.used(x)  # type: ignore[no-any-return]

    found = report(fold(Unused(), torch.randn(5, 3)))
    assert [(entry.name, entry.reason) for entry in found.alone] == [("unused.1", "the example does not reach it")]


class Choice(nn.Module):
    """Gives whole numbers alone."""

    def __init__(self) -> None:
        super().__init__()
        self.scores = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

    def forward(self, x: Tensor) -> Tensor:
        return self.scores(x).argmax(1)  # type: ignore[no-any-return]


@pytest.mark.parametrize("tool", [fold, drop_redundant_bias])
@pytest.mark.parametrize("example", [torch.full((5, 3), float("nan")), torch.randn(0, 3)], ids=["nan", "no rows"])
def test_example_that_shows_nothing_is_refused(tool: Any, example: Tensor) -> None:
    """Outputs that are NaN or empty are alike whatever is done to a model, and a difference of 0 was reported."""
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    with pytest.raises(ValueError, match=rf"^{tool.__name__} expected an example on which the model gives tens"):
        tool(model, example)
    assert model[0].bias is not None


def test_model_without_numbers_to_compare_is_refused() -> None:
    with pytest.raises(ValueError, match="or hand over the part of the model that gives scores"):
        fold(Choice(), torch.randn(5, 3))


@pytest.mark.parametrize("tool", [fold, insert, drop_redundant_bias])
def test_model_without_sizes_or_numbers_is_refused(tool: Any) -> None:
    lazy = nn.Sequential(nn.Linear(3, 4), nn.LazyBatchNorm1d(), nn.ReLU())
    with pytest.raises(ValueError, match=rf"^{tool.__name__} expected layers that have a size, got '1': run a batch"):
        tool(lazy, torch.randn(5, 3))
    meta = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU()).to("meta")
    with pytest.raises(ValueError, match=rf"^{tool.__name__} expected a model with numbers in it, got '0.weight' on"):
        tool(meta, torch.randn(5, 3))


def test_tuple_that_is_no_list_of_arguments_is_explained() -> None:
    with pytest.raises(ValueError, match=r"runs on \(a tuple is taken for the model's arguments, one by one\), got"):
        fold(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), (torch.randn(5, 3), torch.zeros(5)))


def test_what_is_no_model_or_does_not_run_is_refused() -> None:
    with pytest.raises(TypeError, match=r"^fold expected a torch.nn.Module, got str"):
        fold("model", torch.randn(5, 3))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^fold expected a model with batch norm layers, got one without any"):
        fold(nn.Linear(3, 3), torch.randn(5, 3))
    with pytest.raises(ValueError, match=r"^fold expected an example that the model itself runs on, got: .*shapes"):
        fold(nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)), torch.randn(5, 4))


class Places(nn.Module):
    """Hands torch's functions in C a number that is a stand-in in a trace, under two names."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.norm = nn.Linear(3, 4), nn.BatchNorm1d(4)

    def forward(self, x: Tensor, width: int) -> Tensor:
        places = torch.arange(1, width + 1, dtype=torch.float32) + arange(width)
        return self.norm(self.linear(x + places))  # type: ignore[no-any-return]


class OfPlaces(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.places, self.linear = Places(), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.linear(self.places(x, x.shape[1])))


def test_number_in_a_function_of_torchs_in_c_does_not_end_the_interpreter() -> None:
    """It reads the memory of whatever says that it is a tensor."""
    model, x = lived_in(OfPlaces()), torch.randn(5, 3)
    assert [entry.name for entry in report(fold(model, x)).folded] == ["places.norm"]
    assert [entry.name for entry in insert(model, x).inserted] == ["linear"]
