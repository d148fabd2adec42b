"""drop_redundant_bias: what batch norm subtracts again goes, what does something stays."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from tests.surgery.test_fold import lived_in
from tests.surgery.test_insert import trained
from torch import nn

import batchnorm
from batchnorm.surgery import drop_redundant_bias, insert


@pytest.mark.parametrize("with_example", [True, False])
def test_drop_redundant_bias_keeps_outputs_and_training(with_example: bool) -> None:
    model = lived_in(nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))).double()
    twin, x = copy.deepcopy(model), torch.randn(32, 3).double()
    record = drop_redundant_bias(model, x if with_example else None)
    assert [entry.name for entry in record.dropped] == ["0"]
    assert (record.measured is not None) == with_example
    assert model[0].bias is None  # type: ignore[index, union-attr]
    torch.testing.assert_close(model(x), twin(x), rtol=1e-10, atol=1e-10)
    for each in (model, twin):
        trained(each.train(), torch.optim.SGD(each.parameters(), 0.001), x)
    torch.testing.assert_close(model(x), twin(x), rtol=1e-6, atol=1e-8)
    assert drop_redundant_bias(model).dropped == ()


@pytest.mark.parametrize("linear", [nn.Conv1d(3, 4, 3), nn.ConvTranspose1d(3, 4, 3, groups=1)], ids=str)
def test_drop_redundant_bias_of_convolutions(linear: nn.Module) -> None:
    model = lived_in(nn.Sequential(linear, nn.BatchNorm1d(4, affine=False)))
    x = torch.randn(4, 3, 9)
    before = model(x)
    assert len(drop_redundant_bias(model, x).dropped) == 1
    torch.testing.assert_close(model(x), before, rtol=1e-5, atol=1e-5)


def test_biases_that_do_something_stay() -> None:
    over_positions = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    record = drop_redundant_bias(over_positions, torch.randn(2, 4, 4))
    assert record.dropped == ()
    assert "another dimension" in record.left_alone[0].reason
    frozen = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4))
    batchnorm.freeze(frozen)
    assert "is frozen" in drop_redundant_bias(frozen).left_alone[0].reason
    between = nn.Sequential(nn.Linear(4, 4), nn.ReLU(), nn.BatchNorm1d(4))
    assert drop_redundant_bias(between).dropped == ()
    assert between[0].bias is not None
    shared: Any = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4), nn.Linear(4, 4))
    shared[2].bias = shared[0].bias
    assert "shares its bias" in drop_redundant_bias(shared).left_alone[0].reason


def test_drop_redundant_bias_repairs_the_optimizer() -> None:
    model = nn.Sequential(nn.Linear(3, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))
    optimizer = torch.optim.Adam(model.parameters(), 0.01)
    trained(model, optimizer, torch.randn(32, 3))
    bias = model[0].bias
    drop_redundant_bias(model, optimizer=optimizer)
    held = [p for g in optimizer.param_groups for p in g["params"]]
    assert [id(p) for p in held] == [id(p) for p in model.parameters()]
    assert bias not in optimizer.state
    trained(model, optimizer, torch.randn(32, 3))


def test_bias_before_a_layer_in_eval_mode_stays_while_the_model_trains() -> None:
    model = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4).eval(), nn.Linear(4, 4), nn.BatchNorm1d(4))
    record = drop_redundant_bias(model)
    assert [entry.name for entry in record.dropped] == ["2"]
    assert "is in eval mode while the model trains" in record.left_alone[0].reason


class Outside(nn.Module):
    """Reads a bias that is further in."""

    def __init__(self, inside: nn.Module) -> None:
        super().__init__()
        self.inside = nn.Sequential(nn.Linear(3, 4), inside)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inside(x) + self.inside[0].bias  # type: ignore[no-any-return]


def test_bias_that_a_module_further_out_reads_stays() -> None:
    """It was dropped, and the model failed from then on."""
    model = Outside(nn.BatchNorm1d(4))
    record = drop_redundant_bias(model)
    assert record.dropped == ()
    assert record.left_alone[0].reason == "Outside reads the parameters of Linear itself"
    with pytest.raises(
        ValueError, match=r"insert found no linear map .*\n.*Outside reads the parameters of Linear itself"
    ):
        insert(Outside(nn.ReLU()), torch.randn(8, 3))


@pytest.mark.parametrize(("tool", "second"), [(drop_redundant_bias, nn.BatchNorm1d(4)), (insert, nn.ReLU())])
def test_model_that_would_fail_without_the_bias_is_left_as_it_is(tool: Any, second: nn.Module) -> None:
    inner = nn.Sequential(nn.Linear(3, 4), second, nn.Linear(4, 2))

    class Asking(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.others = inner, [inner]  # a list of Python's: nobody can know what is in it

        def forward(self, *x: torch.Tensor) -> Any:
            assert self.others[0][0].bias is not None
            return self.inner(*x)

    with pytest.raises(
        ValueError, match=rf"^{tool.__name__} would make the model fail on the example, so nothing was ch"
    ):
        tool(Asking(), torch.randn(8, 3))
    assert inner[0].bias is not None
