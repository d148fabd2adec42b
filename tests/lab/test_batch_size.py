"""Batches of two rows ruin a normalized network and no other; two repairs bring back a part."""

from __future__ import annotations

import torch

from batchnorm.lab.bench import Bench
from batchnorm.lab.questions.batch_size import GHOST, PLAIN, POPULATION, RUNNING, _span, by_ghosts, stays_from
from batchnorm.lab.trial import PAPER
from batchnorm.lab.watch import Watch


def test_batch_size_on_digits_two_rows_are_too_few_and_repairs_gain(carried_out):
    record = carried_out("batch_size", quick=True)
    lost, population, ghosts, *_ = record.effects
    assert lost.verdict == "holds"
    assert min(lost.values) > 0.2
    assert population.mean > 0.02
    assert ghosts.mean > 0.02


def test_batch_size_on_digits_hurts_by_normalization_not_by_itself(carried_out):
    accuracy = carried_out("batch_size", quick=True).numbers.accuracy
    assert min(accuracy[PLAIN][0]) > 0.9
    assert max(accuracy[RUNNING][0]) < 0.75
    assert max(accuracy[POPULATION][0]) < 0.85  # what is left to lose
    assert max(accuracy[GHOST][0]) < 0.85


def test_ghosts_normalize_groups_of_rows(digits):
    trial = by_ghosts(Bench(digits, (0,), True, Watch()), PAPER, 0, 5, 0)
    x = trial.train.x[:60]
    with torch.no_grad():
        together = trial.network.layers[0](x)
        alone = torch.cat([trial.network.layers[0](group) for group in x.split(5)])
    torch.testing.assert_close(together, alone)


def test_stays_from_is_the_last_size_before_two_points_are_lost():
    assert stays_from((2, 4, 8, 16), (0.5, 0.96, 0.97, 0.93)) == 4
    assert stays_from((2, 4, 8), (0.97, 0.5, 0.97)) == 2
    assert stays_from((2, 4, 8), (0.9, 0.94, 0.97)) == 8


def test_limit_is_said_of_every_seed():
    """The finding had the limit of the mean accuracies, 4 rows, beside a table that had the seeds' mean, 6.67."""
    assert _span((4, 8, 8)) == "4 to 8"
    assert _span((2, 2, 2)) == "2"
