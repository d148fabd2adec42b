"""What adaptation is worth on digits of another contrast, what it costs on a sorted stream, and what the guard makes of
both: five seeds, test batches of 64."""

from __future__ import annotations

import functools

import pytest
import torch
from tests.statistics.networks import SEEDS, accuracy, digits, usual
from torch import Tensor

from batchnorm.statistics import adapting

NETWORKS = ("relu", "sigmoid")
BATCH, CONTRAST = 64, 0.3


def _in_random_order(seed: int) -> tuple[Tensor, Tensor]:
    data = digits(seed)
    order = torch.randperm(len(data.test_x), generator=torch.Generator().manual_seed(seed))
    return data.test_x[order], data.test_y[order]


def _sorted(seed: int) -> tuple[Tensor, Tensor]:
    data = digits(seed)
    order = torch.argsort(data.test_y, stable=True)
    return data.test_x[order], data.test_y[order]


def _stream(name: str, seed: int) -> tuple[Tensor, Tensor]:
    if name == "sorted":
        return _sorted(seed)
    x, y = _in_random_order(seed)
    return (CONTRAST * x if name == "contrast" else x), y


@functools.cache
def _right(network: str, name: str, seed: int, prior: float, guard: bool) -> Tensor:
    """Which examples of a stream are predicted right, in its order: (N,) bool."""
    x, y = _stream(name, seed)
    adapted = adapting(usual(seed, network), prior=prior, guard=guard)
    scores = torch.cat([adapted(batch) for batch in x.split(BATCH)])
    return scores.argmax(1) == y


def _percent(network: str, name: str, prior: float, guard: bool, *, batches: slice = slice(None)) -> float:
    """Mean accuracy over the seeds, on some of the batches."""
    rights = [torch.cat(_right(network, name, seed, prior, guard).split(BATCH)[batches]) for seed in SEEDS]
    return sum(100 * float(right.double().mean()) for right in rights) / len(rights)


def _source(network: str, name: str) -> float:
    return sum(accuracy(usual(seed, network), *_stream(name, seed)) for seed in SEEDS) / len(SEEDS)


@pytest.mark.parametrize("network", NETWORKS)
def test_without_adaptation_contrast_costs_a_third_and_order_nothing(network: str) -> None:
    assert _source(network, "clean") >= 96.5
    assert _source(network, "contrast") <= 65
    assert _source(network, "sorted") == pytest.approx(_source(network, "clean"))


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("prior", "least"), [(16, 95), (0, 96)])
def test_contrast_is_adapted_to(network: str, prior: float, least: float) -> None:
    assert _percent(network, "contrast", prior, guard=False) >= least


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize(("prior", "most"), [(16, 42), (0, 38)])
def test_sorted_stream_is_ruined_without_a_guard(network: str, prior: float, most: float) -> None:
    assert 20 <= _percent(network, "sorted", prior, guard=False) <= most


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("prior", [16, 0])
def test_guard_keeps_a_sorted_stream(network: str, prior: float) -> None:
    for batches in (slice(None), slice(2), slice(2, None)):  # all; the first two apart; from the third on
        assert _percent(network, "sorted", prior, guard=True, batches=batches) >= 95


@pytest.mark.parametrize("network", NETWORKS)
@pytest.mark.parametrize("prior", [16, 0])
def test_guard_lets_contrast_pass_from_the_third_batch_on(network: str, prior: float) -> None:
    later, first = slice(2, None), slice(2)
    guarded = _percent(network, "contrast", prior, guard=True, batches=later)
    assert abs(guarded - _percent(network, "contrast", prior, guard=False, batches=later)) <= 2
    # The first two, when nobody can know, are predicted by the source statistics.
    assert _percent(network, "contrast", prior, guard=True, batches=first) <= 70


@pytest.mark.parametrize("network", NETWORKS)
def test_guard_costs_an_unshifted_stream_no_more_than_adapting_does(network: str) -> None:
    assert _percent(network, "clean", 16, guard=True) >= _source(network, "clean") - 2
