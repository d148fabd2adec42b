"""fold(model, example): what is folded gives the same numbers, the original stays, the rest is listed."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.surgery.small import fields
from torch import Tensor, nn

import batchnorm
from batchnorm.surgery import Folding, fold

_NORMS = {1: nn.BatchNorm1d, 2: nn.BatchNorm2d, 3: nn.BatchNorm3d}
_CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
_TRANSPOSED = {1: nn.ConvTranspose1d, 2: nn.ConvTranspose2d, 3: nn.ConvTranspose3d}


def lived_in(model: nn.Module) -> nn.Module:
    """The model with statistics and parameters that a trained one could have."""
    random = torch.Generator().manual_seed(3)
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            if module.running_mean is not None and module.running_var is not None:
                module.running_mean.copy_(torch.randn(module.num_features, generator=random))
                module.running_var.copy_(torch.rand(module.num_features, generator=random) + 0.5)
            for parameter in module.parameters():
                parameter.data.copy_(torch.randn(parameter.shape, generator=random))
    return model.eval()


def report(model: nn.Module) -> Folding:
    found = model.fold_report
    assert isinstance(found, Folding)
    return found


def assert_folds(model: nn.Module, example: Any, count: int = 1, dtype: torch.dtype = torch.float64) -> nn.Module:
    """Everything is folded: no batch norm is left, and the numbers are the same; returns the folded model."""
    model = lived_in(model).to(dtype)
    example = example.to(dtype)
    before, state = fields(model), copy.deepcopy(model.state_dict())
    folded = fold(model, example)
    assert fields(model) == before
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    found = report(folded)
    assert (len(found.folded), found.refused, found.alone) == (count, (), ())
    assert not any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in folded.modules())
    assert not folded.training
    for x in (example, example * 3 + 1):
        expected, got = model(x), folded(x)
        rtol = 1e-10 if dtype is torch.float64 else 1e-5
        torch.testing.assert_close(got, expected, rtol=rtol, atol=rtol * float(expected.detach().abs().max()))
    return folded


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "not affine"])
def test_linear_before_and_after(affine: bool, bias: bool, dtype: torch.dtype) -> None:
    after = nn.Sequential(nn.Linear(3, 4, bias=bias), nn.BatchNorm1d(4, affine=affine), nn.ReLU())
    assert_folds(after, torch.randn(5, 3), dtype=dtype)
    before = nn.Sequential(nn.BatchNorm1d(3, affine=affine), nn.Linear(3, 4, bias=bias))
    assert_folds(before, torch.randn(5, 3), dtype=dtype)


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("affine", [True, False], ids=["affine", "not affine"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("kinds", [_CONVOLUTIONS, _TRANSPOSED], ids=["Conv", "ConvTranspose"])
def test_convolutions_before(kinds: Any, dimensions: int, groups: int, affine: bool, bias: bool) -> None:
    linear = kinds[dimensions](4, 6, 3, stride=2, padding=1, dilation=2, groups=groups, bias=bias)
    model = nn.Sequential(linear, _NORMS[dimensions](6, affine=affine))
    assert_folds(model, torch.randn(2, 4, *[7] * dimensions))


@pytest.mark.parametrize("bias", [True, False], ids=["bias", "no bias"])
@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("dimensions", [1, 2, 3])
def test_convolutions_after_without_padding(dimensions: int, groups: int, bias: bool) -> None:
    linear = _CONVOLUTIONS[dimensions](4, 6, 3, stride=2, groups=groups, bias=bias)
    assert_folds(nn.Sequential(_NORMS[dimensions](4), linear), torch.randn(2, 4, *[7] * dimensions))
    pointwise = _TRANSPOSED[dimensions](4, 6, 1, groups=groups, bias=bias)
    assert_folds(nn.Sequential(_NORMS[dimensions](4), pointwise), torch.randn(2, 4, *[7] * dimensions))


@pytest.mark.parametrize("mode", ["reflect", "replicate", "circular"])
def test_padding_with_the_layers_own_values_shifts_alike(mode: str) -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3, padding=1, padding_mode=mode))
    assert_folds(model, torch.randn(2, 3, 6, 6))


@pytest.mark.parametrize(
    "linear",
    [
        nn.Conv2d(3, 4, 3, padding=1),
        nn.Conv2d(3, 4, 3, padding="same"),
        nn.ConvTranspose2d(3, 4, 3),
        nn.ConvTranspose2d(3, 4, 2, stride=2),
        nn.ConvTranspose2d(3, 4, 1, padding=1),
    ],
    ids=str,
)
def test_what_padding_or_spreading_makes_uneven_is_refused(linear: nn.Module) -> None:
    """Zeros come beside values that the layer would have shifted: folding it would shift them, too."""
    model = nn.Sequential(nn.BatchNorm2d(3), linear)
    with pytest.raises(ValueError, match=r"pads with zeros|spreads the layer's shift unevenly"):
        fold(lived_in(model), torch.randn(2, 3, 6, 6))
    norm: Any = model[0]
    norm.running_mean.zero_()
    norm.bias.data.zero_()  # nothing is shifted: a scale alone can be folded whatever the padding
    folded = fold(model, torch.randn(2, 3, 6, 6))
    x = torch.randn(2, 3, 6, 6)
    torch.testing.assert_close(folded(x), model(x))


def test_layers_on_both_sides_of_one_convolution() -> None:
    model = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Conv2d(4, 2, 1))
    assert_folds(model, torch.randn(2, 3, 6, 6), count=2)


def test_a_layer_between_two_linear_maps_goes_into_the_first() -> None:
    folded = assert_folds(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2)), torch.randn(5, 3))
    assert report(folded).folded[0].reason == "into the layer before it"


@pytest.mark.parametrize("activation", [None, "relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu"])
def test_our_layers_leave_their_activation_behind(activation: str | None) -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3, bias=False), batchnorm.BatchNorm2d(4, activation=activation))
    folded = assert_folds(model, torch.randn(2, 3, 6, 6))
    assert len(list(folded[1].parameters())) == 0  # type: ignore[index]
    assert (type(folded[1]) is nn.Identity) == (activation is None)  # type: ignore[index]


@pytest.mark.parametrize("kind", [batchnorm.GhostBatchNorm1d, batchnorm.BatchRenorm1d, batchnorm.SyncBatchNorm1d])
def test_our_other_layers(kind: Callable[..., nn.Module]) -> None:
    settings = {"virtual_batch_size": 2} if kind is batchnorm.GhostBatchNorm1d else {}
    assert_folds(nn.Sequential(nn.Linear(3, 4), kind(4, **settings)), torch.randn(6, 3))


def test_frozen_layers() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))
    batchnorm.freeze(model)
    assert_folds(model, torch.randn(5, 3))


class Residual(nn.Module):
    """A block whose second layer adds the residual."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(3, 3, 3, padding=1, bias=False), batchnorm.BatchNorm2d(3, activation="relu")
        self.conv2, self.bn2 = nn.Conv2d(3, 3, 3, padding=1, bias=False), batchnorm.BatchNorm2d(3, activation="relu")

    def forward(self, x: Tensor) -> Tensor:
        return self.bn2(self.conv2(self.bn1(self.conv1(x))), residual=x)  # type: ignore[no-any-return]


def test_a_layer_that_adds_a_residual_leaves_the_add_behind() -> None:
    assert_folds(nn.Sequential(Residual(), Residual()), torch.randn(2, 3, 6, 6), count=4)


class Nested(nn.Module):
    """The convolution is inside one child, the layer inside another, with Identities on the way."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Identity())
        self.between = nn.Identity()
        self.rest = nn.ModuleList([nn.Sequential(nn.Identity(), nn.BatchNorm2d(4), nn.ReLU())])

    def forward(self, x: Tensor) -> Tensor:
        y = self.between(self.stem(x))
        z = self.rest[0](y)
        return z.view(y.shape)  # type: ignore[no-any-return]


def test_pairs_across_modules() -> None:
    assert_folds(nn.Sequential(Nested()), torch.randn(2, 3, 6, 6))


class Rows(nn.Module):
    """Linear on (N, L, C), normalized as rows of C features: what vision transformers with batch norm do."""

    def __init__(self) -> None:
        super().__init__()
        self.linear, self.bn = nn.Linear(3, 4, bias=False), nn.BatchNorm1d(4)

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x)
        return self.bn(y.flatten(0, 1)).reshape_as(y)  # type: ignore[no-any-return]


def test_linear_on_three_dimensions_whose_rows_are_normalized() -> None:
    assert_folds(Rows(), torch.randn(2, 5, 3))


class Padding(nn.Module):
    """Decides by sizes what happens before and after the pair, and checks its input."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x: Tensor) -> Tensor:
        if x.dim() != 4:
            raise ValueError("images expected")
        if x.shape[-1] % 2 == 0:
            x = nn.functional.pad(x, (1, 1, 1, 1))
        if isinstance(x, list):
            x = x[0]
        y = self.bn(self.conv(x))
        return y if x.mean() > 0 else -y  # type: ignore[no-any-return]


def test_decisions_beside_a_pair_do_not_hinder() -> None:
    assert_folds(Padding(), torch.randn(2, 3, 6, 6))


def test_report_says_what_stayed_and_why() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.BatchNorm1d(4), nn.ReLU())
    found = report(fold(lived_in(model), torch.randn(5, 3)))
    assert [entry.name for entry in found.folded] == ["1"]
    assert [entry.name for entry in found.alone] == ["3"]
    said = str(found)
    assert said.startswith("folded 1 batch norm layer, relative differences in float64: ")
    assert "folded   1 x Linear -> BatchNorm1d: into the layer before it [1]" in said
    assert "alone    1 x BatchNorm1d: no Linear or convolution stands directly before or after it [3]" in said
    assert max(found.measured.example, found.measured.randomized, found.measured.own) <= 1e-5


def test_examples_are_one_input_a_tuple_or_a_dictionary() -> None:
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4))

        def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
            return {"sum": self.body(x) + y, "count": torch.ones(3, dtype=torch.int64)}

    model, x, y = lived_in(Two()), torch.randn(5, 3), torch.randn(5, 4)
    for example in ((x, y), {"x": x, "y": y}):
        torch.testing.assert_close(fold(model, example)(x, y), model(x, y))


def test_the_model_is_left_in_training_and_random_numbers_as_they_were() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.Dropout(), nn.Linear(4, 4), nn.BatchNorm1d(4)).train()
    state = torch.get_rng_state()
    fold(model, torch.zeros(5, 3))
    assert torch.equal(torch.get_rng_state(), state)
    assert all(module.training for module in model.modules())
    assert not hasattr(model, "fold_report")


def test_folded_models_can_be_copied_pickled_and_loaded() -> None:
    model = lived_in(nn.Sequential(nn.Linear(3, 4), batchnorm.BatchNorm1d(4, activation="silu")))
    folded, x = fold(model, torch.randn(5, 3)), torch.randn(5, 3)
    for other in (copy.deepcopy(folded), pickle.loads(pickle.dumps(folded))):
        assert torch.equal(other(x), folded(x))
        assert report(other) == report(folded)
    assert set(folded.state_dict()) == {"0.weight", "0.bias"}


def test_half_precision_is_folded_as_well_as_it_computes() -> None:
    model = lived_in(nn.Sequential(nn.Linear(64, 32), nn.BatchNorm1d(32))).bfloat16()
    x = torch.randn(8, 64, dtype=torch.bfloat16)
    folded = fold(model, x)
    assert folded[0].weight.dtype == torch.bfloat16  # type: ignore[index, union-attr]
    torch.testing.assert_close(folded(x), model(x), rtol=0.05, atol=0.05)


def test_requires_grad_stays_what_it_was() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)).requires_grad_(False)
    assert not any(p.requires_grad for p in fold(model, torch.randn(5, 3)).parameters())


def graph_module(model: nn.Module) -> nn.Module:
    return torch.fx.symbolic_trace(model)


def compiled(model: nn.Module) -> Any:
    return torch.compile(model, backend="eager")


def compiled_in_place(model: nn.Module) -> nn.Module:
    model.compile(backend="eager")
    return model


@pytest.mark.parametrize("made", [graph_module, compiled, compiled_in_place])
def test_models_that_torch_has_rewritten_fold_too(made: Callable[[nn.Module], nn.Module]) -> None:
    """Hooks once made compiling fail, and a GraphModule was refused because it has a __call__ of its own."""
    model = made(lived_in(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))))
    x = torch.randn(5, 3)
    expected = model(x)
    folded = fold(model, x)
    assert len(report(folded).folded) == 1
    torch.testing.assert_close(folded(x), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(model(x), expected, rtol=0, atol=0)


def test_graph_module_with_a_call_of_its_own_is_refused() -> None:
    class Called(torch.fx.GraphModule):
        def __call__(self, x: Tensor) -> Tensor:
            return -super().__call__(x)  # type: ignore[no-any-return]

    plain = lived_in(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    with pytest.raises(ValueError, match="it is called in a way of its own"):
        fold(Called(plain, torch.fx.Tracer().trace(plain)), torch.randn(5, 3))


def test_complex_outputs_are_compared() -> None:
    class Spectrum(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            return torch.fft.fft(super().forward(x))

    model = lived_in(Spectrum(nn.Linear(3, 4), nn.BatchNorm1d(4)))
    x = torch.randn(5, 3)
    assert len(report(fold(model, x)).folded) == 1
    torch.testing.assert_close(fold(model, x)(x), model(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4)),
        nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 4)),
        nn.Sequential(nn.Linear(4, 4), batchnorm.BatchNorm1d(4, activation="relu")),
        nn.Sequential(nn.Linear(4, 4), nn.SyncBatchNorm(4)),
    ],
    ids=["after", "before", "with its activation", "Sync"],
)
def test_folded_for_rows_refuses_sequences(model: nn.Sequential) -> None:
    """(3, 4, 4) has channels in the middle; folded into the linear map they are last, and nothing would show it."""
    folded = fold(lived_in(model), torch.randn(7, 4))
    folded(torch.randn(2, 4))
    with pytest.raises(ValueError, match=r"folded for 2 dimensions here, got input of shape \(3, 4, 4\)"):
        folded(torch.randn(3, 4, 4))
