"""freeze and thaw on whole models: which layers, what of them, and in whose hands."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.surgery.small import fields, perceptron, rows
from torch import nn
from torch.nn.utils import prune

import batchnorm
from batchnorm import convert, freeze, revert, thaw


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 3) -> None:
    for seed in range(steps):
        x = torch.randn(8, 3, generator=torch.Generator().manual_seed(seed)) + seed
        optimizer.zero_grad()
        model(x).square().sum().backward()
        optimizer.step()


def two_blocks() -> nn.ModuleDict:
    return nn.ModuleDict({"encoder": perceptron(), "decoder": perceptron()})


def frozen_names(model: nn.Module) -> set[str]:
    return {name for name, m in model.named_modules() if batchnorm.nn.freezing.statistics_are_frozen(m)}


def test_frozen_layers_stay_as_they_are_while_the_rest_trains() -> None:
    """Momentum and weight decay go on moving a parameter whose gradient is merely zero."""
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
    trained(model, optimizer)
    freeze(model)
    before = copy.deepcopy(model.state_dict())
    model.train()
    trained(model, optimizer)
    after = model.state_dict()
    same = {key for key in before if torch.equal(before[key], after[key])}
    assert same == {key for key in before if key.split(".")[0] in ("1", "4")}


@pytest.mark.parametrize("steps", [0, 2])
def test_thaw_gives_back_exactly_the_model_before(steps: int) -> None:
    model = perceptron()
    model[4].weight.requires_grad_(False)
    model[1].eval()
    before, grads = fields(model), [p.requires_grad for p in model.parameters()]
    freeze(model)
    trained(model, torch.optim.SGD(model.parameters(), 0.1), steps)
    thaw(model)
    assert fields(model) == before
    assert [p.requires_grad for p in model.parameters()] == grads


@pytest.mark.parametrize("what", ["parameters", "statistics"])
def test_either_can_be_frozen_alone(what: str) -> None:
    model = perceptron()
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    freeze(model, parameters=what == "parameters", statistics=what == "statistics")
    before = copy.deepcopy(model[1].state_dict())
    model.train()
    trained(model, optimizer)
    moved = {key for key, value in model[1].state_dict().items() if not torch.equal(value, before[key])}
    statistics = {"running_mean", "running_var", "num_batches_tracked"}
    assert moved == ({"weight", "bias"} if what == "statistics" else statistics)


def test_half_of_a_freeze_can_be_taken_back() -> None:
    model = perceptron()
    freeze(model)
    assert str(thaw(model, parameters=False)) == "1: statistics, thawed\n4: statistics, thawed"
    assert model[1].training
    assert not model[1].weight.requires_grad
    assert str(thaw(model)) == "1: parameters, thawed\n4: parameters, thawed"
    assert str(thaw(model)) == "1: left alone, it was not frozen\n4: left alone, it was not frozen"


@pytest.mark.parametrize(
    ("where", "names"),
    [
        (None, {"encoder.1", "encoder.4", "decoder.1", "decoder.4"}),
        ("encoder", {"encoder.1", "encoder.4"}),
        ("*.1", {"encoder.1", "decoder.1"}),
        (["encoder.1", "decoder"], {"encoder.1", "decoder.1", "decoder.4"}),
        (lambda name, layer: layer.num_features == 4, {"encoder.4", "decoder.4"}),
    ],
)
def test_where_chooses_layers(where: Any, names: set[str]) -> None:
    model = two_blocks()
    freeze(model, where)
    assert frozen_names(model) == names
    thaw(model, where)
    assert frozen_names(model) == set()


def test_where_takes_modules() -> None:
    model = two_blocks()
    freeze(model, model["encoder"])
    freeze(model, [model["decoder"][1]])
    assert frozen_names(model) == {"encoder.1", "encoder.4", "decoder.1"}


def test_name_of_a_layer_in_two_places_is_either() -> None:
    shared = nn.BatchNorm1d(3)
    model = nn.ModuleDict({"a": nn.Sequential(shared), "b": nn.Sequential(shared)})
    freeze(model, "b")
    assert frozen_names(model) == {"a.0"}


def test_freezing_twice_changes_nothing_more() -> None:
    model = perceptron()
    model[1].eval()
    freeze(model)
    assert str(freeze(model)) == "1: left alone, it is frozen already\n4: left alone, it is frozen already"
    thaw(model)
    assert [model[1].training, model[4].training, model[1].weight.requires_grad] == [False, True, True]


def test_frozen_model_has_no_other_keys_and_loading_leaves_it_frozen() -> None:
    model, source = perceptron(), perceptron()
    for parameter in source.parameters():
        nn.init.normal_(parameter)
    keys = list(model.state_dict())
    freeze(model)
    assert list(model.state_dict()) == keys
    for assign in (False, True):
        model.load_state_dict(copy.deepcopy(source.state_dict()), assign=assign)
        model.train()
        model(rows())
        assert frozen_names(model) == {"1", "4"}
        assert not model[1].weight.requires_grad
        torch.testing.assert_close(model.state_dict(), source.state_dict(), rtol=0, atol=0)


def test_saved_model_comes_back_frozen(tmp_path: Path) -> None:
    model = perceptron()
    freeze(model)
    torch.save(model, tmp_path / "model.pt")
    loaded = torch.load(tmp_path / "model.pt", weights_only=False)
    loaded.train()
    assert frozen_names(loaded) == {"1", "4"}
    thaw(loaded)
    assert loaded[1].training
    assert loaded[1].weight.requires_grad


@pytest.mark.parametrize("cast", ["half", "double"])
def test_freeze_survives_a_cast(cast: str) -> None:
    model = perceptron()
    freeze(model)
    getattr(model, cast)().train()
    assert frozen_names(model) == {"1", "4"}
    assert not model[1].training
    assert not model[1].weight.requires_grad


def test_freeze_survives_convert_and_revert() -> None:
    model = perceptron()
    freeze(model)
    convert(model)
    model.train()
    assert [model[1].training, type(model[1]).__module__] == [False, "batchnorm.nn.batch_norm"]
    before = copy.deepcopy(model[1].state_dict())
    model(rows())
    torch.testing.assert_close(model[1].state_dict(), before, rtol=0, atol=0)
    revert(model)
    thaw(model)
    assert type(model[1]) is nn.BatchNorm1d
    assert model[1].training


def test_layer_without_running_statistics_freezes_its_parameters_and_says_so() -> None:
    model = nn.Sequential(nn.BatchNorm1d(3, track_running_stats=False))
    record = freeze(model)
    assert str(record) == "0: parameters, frozen\n0: left alone, it has no running statistics to normalize by"
    assert not model[0].weight.requires_grad


def test_waiting_gradient_is_dropped() -> None:
    """An optimizer would go on applying it, step after step."""
    model = perceptron()
    model(rows()).sum().backward()
    freeze(model)
    assert model[1].weight.grad is None
    assert model[0].weight.grad is not None


def test_pruned_layer_freezes_what_its_optimizer_holds() -> None:
    model = perceptron()
    prune.random_unstructured(model[1], "weight", 0.5)
    nn.utils.parametrize.register_parametrization(model[4], "weight", nn.Softplus())
    freeze(model)
    assert not any(p.requires_grad for p in (*model[1].parameters(), *model[4].parameters()))
    thaw(model)
    assert all(p.requires_grad for p in model.parameters())


@pytest.mark.parametrize("tool", [freeze, thaw])
@pytest.mark.parametrize(
    ("model", "options", "error", "text"),
    [
        (3, {}, TypeError, "expected a torch.nn.Module, got int"),
        (nn.Linear(2, 2), {}, ValueError, "expected a model with batch norm layers, got Linear without any"),
        (
            perceptron(),
            {"parameters": False, "statistics": False},
            ValueError,
            "expected parameters, statistics or both",
        ),
        (perceptron(), {"where": "encoder"}, ValueError, "found no batch norm layer at 'encoder': there are 1, 4"),
        (perceptron(), {"where": nn.ReLU()}, ValueError, "found no batch norm layer at this ReLU: there are 1, 4"),
        (perceptron(), {"where": lambda *_: False}, ValueError, "expected where to choose a layer"),
        (perceptron(), {"where": []}, ValueError, "expected at least one name or module for where, got none"),
        (perceptron(), {"where": 3}, TypeError, "expected names, modules or a function for where, got int"),
        (perceptron(), {"where": [3]}, TypeError, "expected a name or a module in where, got int"),
    ],
)
def test_what_makes_no_sense_is_refused(
    tool: Any, model: Any, options: dict[str, Any], error: type[Exception], text: str
) -> None:
    with pytest.raises(error, match=f"^{tool.__name__} {re.escape(text)}"):
        tool(model, **options)


def test_layer_without_a_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^freeze expected layers that have a size, got '0'"):
        freeze(nn.Sequential(nn.LazyBatchNorm1d()))


_RANK = """
import sys, copy, torch
from torch import nn, distributed as dist
from torch.nn.parallel import DistributedDataParallel
from batchnorm import BatchNorm1d, freeze, thaw
rank, file = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 4), BatchNorm1d(4), nn.Linear(4, 2))
model(torch.randn(16, 3))
freeze(model)
before = copy.deepcopy(model.state_dict())
ddp = DistributedDataParallel(model)
optimizer = torch.optim.SGD([p for p in ddp.parameters()], 0.1, momentum=0.9, weight_decay=0.1)
for step in range(4):
    ddp.train()
    optimizer.zero_grad()
    x = torch.randn(8, 3, generator=torch.Generator().manual_seed(10 * step + rank)) + 5 * rank
    ddp(x).square().sum().backward()
    optimizer.step()
after = model.state_dict()
same = {key.split(".")[0] for key in before if torch.equal(before[key], after[key])}
moved = {key.split(".")[0] for key in before if not torch.equal(before[key], after[key])}
assert (same, moved) == ({"1", "4"}, {"0", "3", "5"}), (same, moved)
gathered = [None, None]
dist.all_gather_object(gathered, [p.detach().tolist() for p in model.parameters()])
assert gathered[0] == gathered[1]
thaw(ddp, parameters=False)
freeze(ddp, parameters=False)
try:
    thaw(ddp)
    raise SystemExit("thawed parameters that the reducer does not wait for")
except ValueError as error:
    assert "DistributedDataParallel" in str(error)
dist.destroy_process_group()
print("well")
"""


def test_two_processes_train_around_frozen_layers(tmp_path: Path) -> None:
    command = [sys.executable, "-W", "error::batchnorm.errors.StatisticsWarning", "-c", _RANK]
    ranks = [
        subprocess.Popen([*command, str(rank), str(tmp_path / "meet")], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for rank in range(2)
    ]
    for rank in ranks:
        out, error = rank.communicate(timeout=120)
        assert (rank.returncode, out.strip()) == (0, b"well"), error.decode()
