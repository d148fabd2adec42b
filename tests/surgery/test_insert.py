"""insert: outputs stay, optimizers go on, what is not certain is left alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from tests.surgery.libraries import library
from tests.surgery.small import fields
from torch import Tensor, nn

import batchnorm
from batchnorm.surgery import drop_redundant_bias, insert


def perceptron() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 6), nn.Tanh(), nn.Dropout(), nn.Linear(6, 2))


def norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def test_inserted_layers_keep_the_outputs_in_both_modes_and_for_other_inputs() -> None:
    model = perceptron().double()
    model[4] = nn.Identity()
    x, other = torch.randn(64, 3).double(), torch.randn(5, 3).double()
    before, elsewhere = model(x), model(other)
    record = insert(model, x)
    assert [entry.name for entry in record.inserted] == ["0", "2"]
    torch.testing.assert_close(model.train()(x), before, rtol=1e-9, atol=1e-9)
    model = perceptron().double()
    model[4] = nn.Identity()
    insert(model, x)
    torch.testing.assert_close(model.eval()(other), elsewhere, rtol=1e-9, atol=1e-9)
    assert record.measured.fits
    assert str(record).startswith("inserted 2 batch norm layers, relative differences in float64")


@pytest.mark.parametrize("placement", ["before", "after"])
def test_placement_says_on_which_side_of_the_activation(placement: str) -> None:
    model = perceptron()
    x = torch.randn(64, 3)
    before = model.eval()(x)
    insert(model, x, placement=placement)
    assert len(norms(model)) == 2
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-6)
    keys = set(model.state_dict())
    assert ("0.norm.weight" in keys) == (placement == "before")
    assert ("1.norm.weight" in keys) == (placement == "after")
    assert ("0.linear.bias" in keys or "0.bias" in keys) == (placement == "after")


@pytest.mark.parametrize("placement", ["before", "after"])
def test_activation_in_place_does_not_reach_what_statistics_are_taken_of(placement: str) -> None:
    """Gamma and beta once were those of what ReLU(inplace=True) had left: outputs in training were others at once."""
    model = nn.Sequential(
        nn.Linear(3, 8), nn.ReLU(inplace=True), nn.Linear(8, 6), nn.SiLU(inplace=True), nn.Linear(6, 2)
    )
    x = torch.randn(64, 3).double()
    before = model.double()(x)
    assert len(insert(model, x, placement=placement).inserted) == 2
    torch.testing.assert_close(model.train()(x), before, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dimensions", [1, 2, 3])
@pytest.mark.parametrize("is_transposed", [False, True])
def test_convolutions_get_the_layer_of_their_dimensions(dimensions: int, is_transposed: bool) -> None:
    kinds: Any = (
        (nn.ConvTranspose1d, nn.ConvTranspose2d, nn.ConvTranspose3d)
        if is_transposed
        else (nn.Conv1d, nn.Conv2d, nn.Conv3d)
    )
    model = nn.Sequential(kinds[dimensions - 1](2, 4, 3), nn.SiLU())
    x = torch.randn(4, 2, *[5] * dimensions)
    before = model(x)
    insert(model, x)
    wanted = (batchnorm.BatchNorm1d, batchnorm.BatchNorm2d, batchnorm.BatchNorm3d)[dimensions - 1]
    assert [type(m) for m in norms(model)] == [wanted]
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-6)


class Functional(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(3, 8), nn.Linear(8, 8), nn.Linear(8, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.first(x))
        return self.last(y + self.second(y).sigmoid())  # type: ignore[no-any-return]


def test_activations_that_are_functions() -> None:
    model, x = Functional(), torch.randn(64, 3)
    before = model(x)
    with pytest.raises(ValueError, match="its activation is a function and no module: placement='before' can"):
        insert(model, x, placement="after")
    insert(model, x)
    assert [name for name, m in model.named_modules() if m in norms(model)] == ["first.norm", "second.norm"]
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-6)


def test_layers_are_inserted_where_it_is_certain_and_sizes_fit() -> None:
    class Branching(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear, self.act, self.plain = nn.Linear(3, 3), nn.ReLU(), nn.Sequential(nn.Linear(3, 3), nn.ReLU())

        def forward(self, x: Tensor) -> Tensor:
            y = self.linear(x)
            return self.plain(self.act(y) + y)  # type: ignore[no-any-return]

    record = insert(Branching(), torch.randn(8, 3))
    assert [entry.name for entry in record.inserted] == ["plain.0"]
    assert [entry.name for entry in record.left_alone] == ["linear"]
    assert "is also used by" in record.left_alone[0].reason
    with pytest.raises(ValueError, match=r"gives \(8, 5, 4\), where batch norm would take dimension 1 for its 4"):
        insert(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.randn(8, 5, 3))
    with pytest.raises(ValueError, match="one value per channel on the batch"):
        insert(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.randn(1, 3))
    with pytest.raises(ValueError, match="no value per channel on the batch"):
        insert(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), torch.randn(0, 3))
    with pytest.raises(ValueError, match="insert found no linear map whose output goes to one activation alone"):
        insert(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU()), torch.randn(8, 3))


def test_what_is_no_model_placement_or_optimizer_is_refused_and_changes_nothing() -> None:
    model, x = perceptron(), torch.randn(8, 3)
    before = fields(model)
    foreign = torch.optim.SGD([nn.Parameter(torch.zeros(1))], 0.1)
    for arguments, error, said in (
        ({"placement": "between"}, ValueError, "placement='before' or 'after', got 'between'"),
        ({"optimizer": "adam"}, TypeError, "expected a torch.optim.Optimizer, got str"),
        ({"optimizer": foreign}, ValueError, "got one that holds none of its parameters"),
        ({"optimizer": torch.optim.LBFGS(model.parameters())}, ValueError, "cannot repair LBFGS"),
    ):
        with pytest.raises(error, match=said):
            insert(model, x, **arguments)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match=r"insert expected a torch.nn.Module, got int"):
        insert(3, x)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"^insert expected an example that the model itself runs on, got: .*shapes"):
        insert(model, torch.randn(8, 4))
    assert fields(model) == before


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor) -> None:
    for _ in range(3):
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


@pytest.mark.parametrize("named", [False, True], ids=["parameters", "named parameters"])
@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.Adam, torch.optim.RMSprop])
def test_insert_repairs_the_optimizer(kind: Any, named: bool) -> None:
    """Its groups hold exactly the model's parameters afterwards; the state of those that stay is what it was."""
    model, x = perceptron(), torch.randn(32, 3)
    parts: Any = [m.named_parameters() if named else m.parameters() for m in (model[0], model[2], model[5])]
    optimizer = kind([{"params": list(part), "lr": 10.0**-n} for n, part in enumerate(parts, start=2)])
    trained(model, optimizer, x)
    weight: Any = model[2].weight
    state = copy.deepcopy(optimizer.state[weight])
    settings = [{k: v for k, v in g.items() if k not in ("params", "param_names")} for g in optimizer.param_groups]
    insert(model, x, optimizer=optimizer)
    held = [p for g in optimizer.param_groups for p in g["params"]]
    assert {id(p) for p in held} == {id(p) for p in model.parameters()}
    assert len(held) == len(set(map(id, held)))
    assert set(map(id, optimizer.state)) <= set(map(id, held))
    assert str(optimizer.state[weight]) == str(state)
    after = [{k: v for k, v in g.items() if k not in ("params", "param_names")} for g in optimizer.param_groups]
    assert after == settings
    first: Any = model[0]
    assert any(p is first.norm.weight for p in optimizer.param_groups[0]["params"])
    if named:
        assert optimizer.param_groups[0]["param_names"][-1] == "0.norm.bias"
        assert all(len(g["params"]) == len(g["param_names"]) for g in optimizer.param_groups)
    gamma = first.norm.weight.detach().clone()
    trained(model, optimizer, x)
    assert not torch.equal(first.norm.weight, gamma)
    optimizer.load_state_dict(optimizer.state_dict())


def test_training_goes_on_better_conditioned_after_insert() -> None:
    """Deep sigmoid networks hardly move; with layers inserted the same optimizer gets ahead."""
    losses = []
    for inserts in (False, True):
        torch.manual_seed(0)
        model = nn.Sequential(*(part for _ in range(6) for part in (nn.Linear(8, 8), nn.Sigmoid())), nn.Linear(8, 1))
        x = torch.randn(256, 8)
        y = (x[:, :1] * x[:, 1:2]).sign()
        optimizer = torch.optim.Adam(model.parameters(), 0.01)
        if inserts:
            insert(model, x, optimizer=optimizer)
        for _ in range(150):
            optimizer.zero_grad()
            loss = F.mse_loss(model(x), y)
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
        losses.append(float(loss.detach()))
    assert losses[1] < 0.5 * losses[0]


def test_inserted_layers_can_be_recalibrated_and_folded_away_again() -> None:
    model, x = perceptron(), torch.randn(64, 3)
    before = model.eval()(x)
    insert(model, x)
    batchnorm.recalibrate(model, [x])
    folded = batchnorm.fold(model, x)
    assert not norms(folded)
    torch.testing.assert_close(folded(x), before, rtol=1e-4, atol=1e-5)


def test_parallel_models_are_refused_before_anything_changes() -> None:
    class Wrapped(nn.parallel.DistributedDataParallel):
        def __init__(self) -> None:
            nn.Module.__init__(self)

    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), Wrapped())
    for change in (lambda: insert(model, torch.randn(8, 3)), lambda: drop_redundant_bias(model)):
        with pytest.raises(ValueError, match="not wrapped in DistributedDataParallel"):
            change()


@pytest.mark.parametrize(("name", "size", "count"), [("alexnet", 128, 7), ("squeezenet1_1", 64, 26)])
def test_real_networks_without_batch_norm(name: str, size: int, count: int) -> None:
    model = library("torchvision").models.get_model(name, weights=None)
    record = insert(model, torch.randn(4, 3, size, size))
    assert (len(record.inserted), record.left_alone) == (count, ())
    assert record.measured.fits
