"""The guard: its chance of a false alarm is what it says, and it hears what is to be heard."""

from __future__ import annotations

import math

import pytest
import torch
from scipy import stats
from torch import Tensor

from batchnorm.statistics.guard import Guard, Verdict, _upper_tail

CALL = ("layer", 0)


def correlated(rows: int, channels: int, generator: torch.Generator) -> Tensor:
    """Features of few directions, as those of networks are, in which the first weigh most."""
    mixing = torch.randn(channels, channels, generator=torch.Generator().manual_seed(9)) / torch.arange(1, channels + 1)
    return torch.randn(rows, channels, generator=generator) @ mixing.T


def states(batches: list[Tensor]) -> list[str]:
    """The verdict after every batch."""
    guard, found = Guard(), []
    for batch in batches:
        guard.watch(CALL, batch)
        guard.end_batch()
        found.append(guard.verdict.state)
    return found


@pytest.mark.parametrize("rows", [2, 16, 64])
@pytest.mark.parametrize("channels", [1, 8, 100])
def test_independent_batches_are_hardly_ever_suspected(rows: int, channels: int) -> None:
    for seed in range(20):
        generator = torch.Generator().manual_seed(seed)
        found = states([correlated(rows, channels, generator) * 0.3 + 7 for _ in range(20)])
        assert "dependent" not in found


def test_at_the_border_of_what_is_harmless_one_in_a_thousand_is_suspected() -> None:
    """Batch means that differ by as much as sampling alone would make them differ."""
    suspected = 0
    for seed in range(300):
        generator = torch.Generator().manual_seed(seed)
        batches = [correlated(32, 20, generator) + correlated(1, 20, generator) / math.sqrt(32) for _ in range(6)]
        suspected += states(batches)[-1] == "dependent"
    assert suspected <= 3


@pytest.mark.parametrize("seed", range(5))
def test_groups_in_turn_are_heard_with_the_third_batch(seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    centres = correlated(3, 20, generator)
    found = states([correlated(64, 20, generator) + centre for centre in centres])
    assert found[0] == "unknown"
    assert found[2] == "dependent"


def test_long_run_of_one_group_is_heard_when_it_ends() -> None:
    generator = torch.Generator().manual_seed(0)
    groups = [0, 0, 0, 0, 0, 3]
    found = states([correlated(64, 20, generator) + group for group in groups])
    assert found == ["unknown", "unknown", "independent", "independent", "independent", "dependent"]


def test_states_begin_with_the_third_batch() -> None:
    generator = torch.Generator().manual_seed(0)
    assert states([correlated(16, 8, generator) for _ in range(4)]) == [
        "unknown",
        "unknown",
        "independent",
        "independent",
    ]


def test_batches_of_one_row_say_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    assert set(states([correlated(1, 8, generator) for _ in range(9)])) == {"unknown"}


def test_empty_batches_say_nothing() -> None:
    assert states([torch.empty(0, 3)] * 4) == ["unknown"] * 4


def test_constant_features_do_not_differ_and_constant_groups_do() -> None:
    assert states([torch.ones(8, 3)] * 3)[-1] == "independent"
    assert states([torch.full((8, 3), float(k)) for k in range(3)])[-1] == "dependent"


def test_one_layer_of_many_is_enough_and_named() -> None:
    generator = torch.Generator().manual_seed(0)
    guard = Guard()
    for k in range(3):
        for layer in range(50):
            guard.watch((f"quiet.{layer}", 0), correlated(32, 8, generator))
        guard.watch(("loud", 0), correlated(32, 8, generator) + 5 * k)
        guard.end_batch()
    assert (guard.verdict.state, guard.verdict.layer) == ("dependent", "loud")
    assert guard.verdict.spread > 100


def test_spread_of_independent_batches_is_about_1() -> None:
    generator = torch.Generator().manual_seed(0)
    guard = Guard()
    for _ in range(200):
        guard.watch(CALL, torch.randn(32, 50, generator=generator))
        guard.end_batch()
    assert guard.verdict.spread == pytest.approx(1, abs=0.05)


@pytest.mark.parametrize("above", [2, 10, 300])
@pytest.mark.parametrize("below", [20, 500, 10_000])
@pytest.mark.parametrize("chance", [0.1, 1e-3, 1e-5])
def test_tail_is_that_of_the_f_distribution(above: float, below: float, chance: float) -> None:
    quantile = stats.f.isf(chance, above, below)
    assert 0.9 <= _upper_tail(quantile, above, below) / chance <= 2.1  # where it is off it suspects less


def test_verdict_says_what_was_seen() -> None:
    assert str(Verdict("unknown", 2, 1.0, "")) == "2 batches are too few to know whether they are independent"
    text = "dependent: the means of 3 batches spread 48.3 times as sampling explains at '1'"
    assert str(Verdict("dependent", 3, 48.31, "1")) == text
