"""average(): parameters as torch averages them, running statistics as statistics are merged."""

from __future__ import annotations

import copy
import math
import re
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from torch.testing import assert_close

import batchnorm
from batchnorm.nn import BatchNorm1d
from batchnorm.statistics.average import average


def network(seed: int) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 3), BatchNorm1d(3), nn.ReLU(), nn.Linear(3, 2), nn.BatchNorm1d(2))


def trained(seed: int, batches: int = 5) -> nn.Sequential:
    """With statistics of inputs around `seed`."""
    model = network(seed)
    for _ in range(batches):
        model(torch.randn(16, 4) + seed)
    return model


def as_found(model: nn.Module) -> dict[str, Tensor]:
    return {name: t.clone() for name, t in model.state_dict().items()}


def test_parameters_are_those_of_torchs_averaged_model() -> None:
    models = [trained(seed) for seed in range(3)]
    theirs = AveragedModel(models[0])
    for model in models:
        theirs.update_parameters(model)
    for ours, expected in zip(average(models).parameters(), theirs.module.parameters(), strict=True):
        assert_close(ours, expected)


def test_variance_is_of_all_models_values_where_torch_averages_variances() -> None:
    """Batches of one variance around -10 and around 10: their mean variance says nothing of the 20 between them."""
    rows = torch.randn(1000, 1, generator=torch.Generator().manual_seed(0))
    models = [nn.Sequential(nn.BatchNorm1d(1, momentum=1.0)) for _ in range(2)]
    for model, offset in zip(models, (-10.0, 10.0), strict=True):
        model(rows + offset)
    true = torch.cat([rows - 10, rows + 10]).var(0, correction=0)
    assert_close(average(models)[0].running_var, true, rtol=2e-3, atol=0)
    theirs = AveragedModel(models[0], use_buffers=True)
    for model in models:
        theirs.update_parameters(model)
    assert theirs.module[0].running_var.item() < 1.1


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, BatchNorm1d])
def test_plain_averages_merge_by_their_numbers_of_batches(kind: Any) -> None:
    """Chunking does not matter: two layers that saw 2 and 6 batches merge into the mean of one that saw all 8."""
    batches = [torch.randn(32, 3, generator=torch.Generator().manual_seed(i)) + i for i in range(8)]
    parts, whole = [kind(3, momentum=None) for _ in range(2)], kind(3, momentum=None)
    for i, x in enumerate(batches):
        parts[i >= 2](x), whole(x)
    merged = average(parts)
    assert_close(merged.running_mean, whole.running_mean)
    of_means = torch.stack([p.running_mean for p in parts])
    shares = torch.tensor([[0.25], [0.75]])
    between = (shares * (of_means - merged.running_mean) ** 2).sum(0)
    assert_close(merged.running_var, whole.running_var + between)
    assert merged.num_batches_tracked == 6


def test_exponential_averages_weigh_alike_however_long_they_ran() -> None:
    models = [trained(1, batches=100), trained(2, batches=300)]
    means = [m[1].running_mean for m in models]
    assert_close(average(models)[1].running_mean, (means[0] + means[1]) / 2)


def test_given_weights_hold_for_parameters_and_statistics() -> None:
    models = [trained(seed) for seed in (1, 2, 3)]
    found = average(models, weights=(6, 0, 2))
    for name in ("0.weight", "1.running_mean", "4.running_mean"):
        first, _, last = (m.state_dict()[name] for m in models)
        assert_close(found.state_dict()[name], 0.75 * first + 0.25 * last)
    mean = found[1].running_mean
    expected = sum(
        w * (m[1].running_var + (m[1].running_mean - mean) ** 2) for w, m in zip((0.75, 0.25), models[::2], strict=True)
    )
    assert_close(found[1].running_var, expected)


@pytest.mark.parametrize("weights", [None, (1.0, 3.0)])
def test_layer_that_has_seen_no_batch_has_no_share_in_the_statistics(weights: Any) -> None:
    found = average([trained(5), network(6)], weights=weights)
    assert_close(found[1].running_var, trained(5)[1].running_var)
    assert_close(found[4].running_mean, trained(5)[4].running_mean)
    untouched = average([network(1), network(2)])
    assert_close(untouched[1].running_var, torch.ones(3))


def test_models_stay_as_they_were_and_share_nothing_with_the_result() -> None:
    models = [trained(seed) for seed in range(2)]
    models[0].eval()
    models[0](torch.randn(3, 4)).sum().backward()
    before = [as_found(model) for model in models]
    found = average(models)
    assert not found.training
    assert all(parameter.grad is None for parameter in found.parameters())
    with torch.no_grad():
        for tensor in found.state_dict().values():
            tensor.fill_(7)
    for model, state in zip(models, before, strict=True):
        assert_close(model.state_dict(), state, rtol=0, atol=0)
    assert models[0][0].weight.grad is not None


def test_one_model_averages_to_itself() -> None:
    model = trained(4)
    assert_close(average([model]).state_dict(), model.state_dict(), rtol=0, atol=1e-7)
    assert_close(average(iter([model, copy.deepcopy(model)])).state_dict(), model.state_dict())


def test_other_buffers_are_the_last_models_and_ties_stay() -> None:
    models = []
    for value in (1.0, 3.0):
        model = nn.Sequential(nn.Linear(2, 2, bias=False), nn.Linear(2, 2, bias=False))
        model[1].weight = model[0].weight
        nn.init.constant_(model[0].weight, value)
        model.register_buffer("table", torch.full((2,), value))
        models.append(model)
    found = average(models)
    assert found[0].weight is found[1].weight
    assert_close(found[0].weight, torch.full((2, 2), 2.0))
    assert_close(found.table, torch.tensor([3.0, 3.0]))


def test_16_bit_parameters_are_rounded_once() -> None:
    models = [nn.Linear(64, 64).to(torch.bfloat16) for _ in range(7)]
    exact = torch.stack([m.weight.double() for m in models]).mean(0)
    assert_close(average(models).weight, exact.to(torch.bfloat16), rtol=0, atol=1e-12)


def test_clients_merged_statistics_are_those_of_all_their_rows_where_torchs_are_not() -> None:
    """One start, three clients whose inputs are apart, a step each: the averaged network on everybody's rows judges."""
    models = []
    for offset in (0, 2, 4):
        model = network(0)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
        for _ in range(60):
            optimizer.zero_grad()
            (model(torch.randn(16, 4) + offset) ** 2).mean().backward()
            optimizer.step()
        models.append(model)
    found = average(models)
    own = found[0](torch.cat([torch.randn(4000, 4) + offset for offset in (0, 2, 4)])).var(0).detach()
    theirs = AveragedModel(models[0], use_buffers=True)
    for model in models:
        theirs.update_parameters(model)
    assert ((found[1].running_var / own).log().abs() < 0.15).all()
    assert ((theirs.module[1].running_var / own).log().abs() > 0.25).any()


@pytest.mark.parametrize(
    ("weights", "said"),
    [
        ((1.0,), "average expected a weight for each of 2 models, got 1"),
        ((1.0, -1.0), "average expected weights that are not negative and not all 0, got [1.0, -1.0]"),
        ((0.0, 0.0), "average expected weights that are not negative and not all 0, got [0.0, 0.0]"),
        ((1.0, math.nan), "average expected weights that are not negative and not all 0, got [1.0, nan]"),
    ],
)
def test_weights_that_are_none_are_refused(weights: tuple[float, ...], said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        average([network(0), network(1)], weights=weights)


def test_what_are_no_models_or_not_alike_is_refused() -> None:
    with pytest.raises(ValueError, match="average expected one model or more, got none"):
        average([])
    with pytest.raises(TypeError, match=r"average expected models of type torch.nn.Module, got OrderedDict"):
        average([network(0).state_dict()])
    with pytest.raises(TypeError, match=r"average expected several models, got one Sequential: hand over \[first, sec"):
        average(network(0))
    with pytest.raises(TypeError, match="average expected an iterable of models, got int"):
        average(3)  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="average expected a sequence of numbers as weights, got 'ab'"):
        average([network(0), network(1)], weights="ab")  # type: ignore[arg-type]
    assert isinstance(average(nn.ModuleList([network(0), network(1)])), nn.Sequential)
    with pytest.raises(ValueError, match=re.escape("'weight' is of shape (3, 2) in the first and of shape (3, 4) in")):
        average([nn.Linear(2, 3), nn.Linear(4, 3)])
    with pytest.raises(ValueError, match=re.escape("'bias' is nothing of that name in the first and of shape (3,) in")):
        average([nn.Linear(2, 3, bias=False), nn.Linear(2, 3)])
    with pytest.raises(ValueError, match="average expected layers that have a size, 'weight' has none"):
        average([nn.LazyLinear(3), nn.LazyLinear(3)])


def test_name_is_public() -> None:
    assert batchnorm.average is average
