"""What the record says: old, new, distances in standard errors, and the way back."""

from __future__ import annotations

import copy
import dataclasses
import math
import pickle

import pytest
import torch
from tests.statistics.small import LAYERS, everything, input_of
from torch import Tensor, nn

from batchnorm import recalibrate
from batchnorm.statistics import Recalibration


def values(count: int, channels: int = 200, seed: int = 0) -> Tensor:
    return torch.randn(count, channels, generator=torch.Generator().manual_seed(seed)) * 3 + 5


def true_layer(channels: int = 200) -> nn.BatchNorm1d:
    layer = nn.BatchNorm1d(channels)
    layer.running_mean.fill_(5)
    layer.running_var.fill_(9)
    return layer


def test_true_statistics_are_one_standard_error_away() -> None:
    layer = recalibrate(true_layer(), values(2000).split(20)).layers[0]
    assert layer.distance == pytest.approx(1, abs=0.15)
    for distances in (layer.mean_distance, layer.variance_distance):
        assert float(distances.square().mean().sqrt()) == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize("alike", [2, 10])
def test_values_of_a_batch_that_are_alike_count_as_fewer(alike: int) -> None:
    """A repeated row, or the positions of an image: without the design effect it would be sqrt(alike) errors."""
    batches = [x.repeat(alike, 1) for x in values(2000).split(20)]
    layer = recalibrate(true_layer(), batches).layers[0]
    assert float(layer.mean_distance.square().mean().sqrt()) == pytest.approx(1, abs=0.2)


def test_shift_is_measured_in_standard_errors() -> None:
    model = true_layer()
    model.running_mean += 1
    layer = recalibrate(model, values(2000).split(20)).layers[0]
    assert float(layer.mean_distance.mean()) == pytest.approx(1 / (3 / math.sqrt(2000)), rel=0.1)


def test_one_batch_alone_has_the_error_of_independent_values() -> None:
    layer = recalibrate(true_layer(), [values(2000)]).layers[0]
    assert layer.distance == pytest.approx(1, abs=0.15)


def test_constant_channel_is_infinitely_far_or_not_at_all() -> None:
    model = nn.BatchNorm1d(2)
    x = torch.tensor([[0.0, 3.0]] * 8)
    first = recalibrate(model, x.split(4)).layers[0]
    assert first.mean_distance.tolist() == [0, -math.inf]
    assert first.variance_distance.tolist() == [math.inf, math.inf]
    assert recalibrate(model, x.split(4)).layers[0].distance == 0


def test_old_and_new_are_kept_by_value() -> None:
    model = true_layer(2)
    layer = recalibrate(model, [values(30, 2)]).layers[0]
    model.running_mean.zero_()
    assert layer.old.mean.tolist() == [5, 5]
    torch.testing.assert_close(layer.new.mean, values(30, 2).mean(0))
    torch.testing.assert_close(layer.new.var, values(30, 2).var(0, correction=0))


@pytest.mark.parametrize("name", LAYERS)
def test_undo_gives_back_all_of_it(name: str) -> None:
    layer = LAYERS[name]()
    layer(input_of(layer, 8))
    before = everything(layer)
    record = recalibrate(layer, input_of(layer, 32).split(8))
    assert everything(layer) != before
    record.undo()
    record.undo()
    assert everything(layer) == before


def test_undo_finds_a_layer_that_was_cast() -> None:
    layer = nn.BatchNorm1d(3)
    record = recalibrate(layer, [input_of(layer, 8)])
    layer.double()
    record.undo()
    assert layer.running_var.tolist() == [1, 1, 1]
    assert layer.running_var.dtype == torch.float64


def test_undo_of_a_copied_or_pickled_record_concerns_the_copy() -> None:
    layer = nn.BatchNorm1d(3)
    record = recalibrate(layer, [input_of(layer, 8)])
    mean = layer.running_mean.clone()
    copy.deepcopy(record).undo()
    pickle.loads(pickle.dumps(record)).undo()
    assert torch.equal(layer.running_mean, mean)


def test_text_names_layers_and_what_was_left_alone() -> None:
    model = nn.Sequential(true_layer(1), nn.BatchNorm1d(1), nn.BatchNorm1d(1, track_running_stats=False))
    model[1].eval()
    lines = str(recalibrate(model, values(200, 1).split(20))).splitlines()
    assert lines[0] == "recalibrated 1 layer on 10 batches (population); old to new, in standard errors:"
    assert lines[1].startswith("  0: ")
    assert lines[2:] == ["left alone, frozen: 1", "left alone, without running statistics: 2"]


def test_long_text_is_cut() -> None:
    model = nn.Sequential(*(nn.BatchNorm1d(1) for _ in range(20)))
    lines = str(recalibrate(model, [values(20, 1)])).splitlines()
    assert (len(lines), lines[-1]) == (14, "  and 8 more")


def test_record_is_frozen() -> None:
    record = Recalibration((), "population", 0)
    with pytest.raises(dataclasses.FrozenInstanceError):
        record.batches = 1  # type: ignore[misc]


def test_batches_that_do_not_differ_show_no_design_effect() -> None:
    """Once the standard error was 0, and so every distance infinite, for batches of one row and for equal ones."""
    x = values(40, channels=3)
    model = nn.BatchNorm1d(3)
    for batches in (x.split(1), [x, x]):
        layer = recalibrate(model, batches).layers[0]
        assert bool(torch.isfinite(layer.mean_distance).all() and torch.isfinite(layer.variance_distance).all())


def test_one_batch_is_said_to_be_one() -> None:
    assert str(recalibrate(nn.BatchNorm1d(3), [values(8, 3)])).startswith(
        "recalibrated 1 layer on 1 batch (population)"
    )
