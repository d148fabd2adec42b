"""Before or after the activation: a difference per activation over five seeds, whichever way it comes out."""

from __future__ import annotations

from batchnorm.lab.questions.placement import Placement, _outcome
from batchnorm.lab.record import verdict_of
from batchnorm.training.settings import ACTIVATIONS


def test_placement_on_digits_says_a_difference_per_activation_over_five_seeds(carried_out):
    record = carried_out("placement", quick=True)
    assert [effect.what.partition(":")[0] for effect in record.effects] == list(ACTIVATIONS)
    assert all(len(effect.values) == 5 for effect in record.effects)
    assert record.verdict == verdict_of(record.effects)
    for effect, before, after in zip(record.effects, record.numbers.before, record.numbers.after, strict=True):
        assert abs(effect.mean - (sum(before) - sum(after)) / 5) < 1e-12
        assert abs(effect.mean) < 0.03  # on digits the place hardly matters


def test_placement_not_better_before_is_not_reported_as_holding(carried_out):
    """On digits the differences lie within their spreads: that must not read as a confirmation."""
    record = carried_out("placement", quick=True)
    assert record.verdict in ("undecided", "does not hold here")


def test_placement_with_one_seed_claims_no_spread_that_a_difference_could_lie_in():
    finding = _outcome(Placement(("relu",), 100, ((0.9,),), ((0.8,),), (0.5,), (0.5,))).finding
    assert finding.startswith("With fewer than 3 seeds no difference can be told from what a seed does; the largest")
