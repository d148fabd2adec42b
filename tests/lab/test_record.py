"""Effects and verdicts: what counts as holding, as failing, and as not decided."""

from __future__ import annotations

import json
import math
import statistics

import pytest

from batchnorm.lab.record import Effect, verdict_of

TIGHT = (9.0, 10.0, 11.0)


@pytest.mark.parametrize(
    ("values", "asked", "direction", "verdict"),
    [
        (TIGHT, 5.0, "at least", "holds"),
        (TIGHT, 15.0, "at least", "does not hold here"),
        (TIGHT, 9.5, "at least", "undecided"),  # within a standard deviation of the threshold, on either side
        (TIGHT, 10.5, "at least", "undecided"),
        (TIGHT, 9.0, "at least", "holds"),  # exactly one standard deviation away
        (TIGHT, 15.0, "at most", "holds"),
        (TIGHT, 5.0, "at most", "does not hold here"),
        (TIGHT[:2], 1.0, "at least", "undecided"),  # too few seeds
        ((0.0, 0.0, 0.0), 0.0, "at most", "holds"),
        ((0.0, 0.0, 0.0), 0.0, "more than", "does not hold here"),
        ((1.0, 1.0, 1.0), 1.0, "less than", "does not hold here"),
        ((1.0, math.nan, 1.0), 0.0, "at least", "undecided"),
        ((1.0, math.inf, 1.0), 0.0, "at least", "undecided"),  # no spread can be told
        ((math.inf,) * 3, 5.0, "at least", "holds"),
    ],
)
def test_verdict_of_an_effect(values, asked, direction, verdict):
    assert Effect("x", values, asked=asked, direction=direction).verdict == verdict


def test_effect_that_nothing_is_asked_of_has_no_verdict():
    assert Effect("x", TIGHT).verdict is None


def test_spread_is_the_standard_deviation_with_n_less_1():
    effect = Effect("x", (1.0, 2.0, 6.0))
    assert effect.mean == 3.0
    assert effect.spread == statistics.stdev((1.0, 2.0, 6.0))
    assert Effect("x", (4.0,)).spread == 0.0


def test_one_failing_effect_fails_the_claim_and_an_undecided_one_leaves_it_open():
    holds, fails = Effect("a", TIGHT, asked=1.0), Effect("b", TIGHT, asked=100.0)
    unsure, silent = Effect("c", TIGHT, asked=10.0), Effect("d", TIGHT)
    assert verdict_of([holds, silent]) == "holds"
    assert verdict_of([holds, unsure]) == "undecided"
    assert verdict_of([holds, unsure, fails]) == "does not hold here"


def test_record_as_a_dictionary_is_plain_json_with_its_charts(carried_out):
    record = carried_out("bias", quick=True)
    plain = json.loads(json.dumps(record.to_dict()))
    assert plain["verdict"] == "holds"
    assert plain["effects"][0]["mean"] == record.effects[0].mean
    assert plain["charts"][0]["panels"][0]["kind"] == "Lines"
    assert plain["numbers"]["steps"] == list(record.numbers.steps)
    assert plain["rows"] == {"train": 1438, "test": 359}
    assert plain["seeds"] == [0, 1, 2]


def test_record_is_frozen(carried_out):
    with pytest.raises(AttributeError):
        carried_out("bias", quick=True).verdict = "undecided"


def test_record_prints_as_what_was_found_and_shows_itself_in_a_few_lines(carried_out):
    record = carried_out("bias", quick=True)
    assert str(record) == f"bias, on digits: holds\nThe bias before batch normalization is redundant.\n{record.finding}"
    assert repr(record).startswith("Record(name='bias', claim=")
    assert len(repr(record)) < 1000
