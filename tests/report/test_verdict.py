"""The verdict says in words what the numbers say, neither more nor less."""

from __future__ import annotations

from dataclasses import replace

import pytest
from tests.report import records

from batchnorm.report.verdict import broke_down_at, seconds_to_goal, verdict
from batchnorm.report.wording import NO_BREAK
from batchnorm.training.record import Curve, Record, Residuals

NAN, INFINITE = float("nan"), float("inf")


def said(record: Record) -> str:
    return " ".join(verdict(record)).replace(NO_BREAK, " ")


def with_metrics(record: Record, *metrics: float, **changes: object) -> Record:
    runs = tuple(replace(run, test_metric=metric, **changes) for run, metric in zip(record.runs, metrics, strict=True))
    return replace(record, runs=runs)


def test_verdict_where_normalization_helps_says_by_how_much_and_how_soon():
    text = said(records.classification_record())
    assert "pays here: 97.2 % of 360 test rows are called correctly with it, 41.4 % without it." in text
    assert "95 % on the validation rows came after 180 steps (0.2 s); without it, not within 500 steps." in text
    assert "A step takes 1.6 times as long with normalization (1.1 ms against 0.7 ms)." in text


def test_verdict_where_the_twin_is_better_says_so():
    text = said(with_metrics(records.classification_record(), 0.8, 0.95))
    assert "does not pay here: 80.0 % of 360 test rows are called correctly with it, 95.0 % without it." in text


def test_verdict_of_accuracies_within_chance_claims_no_difference():
    text = said(with_metrics(records.classification_record(), 0.97, 0.96))
    assert "makes no difference here" in text
    assert "closer than 360 test rows can tell apart" in text


def test_verdict_of_the_same_accuracies_on_many_rows_claims_a_difference():
    record = replace(with_metrics(records.classification_record(), 0.97, 0.96), rows_test=36000)
    assert "pays here" in said(record)


def test_verdict_of_r2_within_chance_claims_no_difference():
    record = records.regression_record()
    true = (1.0, 2.0, 3.0, 4.0)
    one, other = Residuals(true, (1.5, 2.0, 3.0, 4.0)), Residuals(true, (1.0, 2.0, 3.0, 4.6))
    runs = tuple(
        replace(run, residuals=residuals, test_metric=metric)
        for run, residuals, metric in zip(record.runs, (one, other), (0.95, 0.928), strict=True)
    )
    assert "makes no difference here" in said(replace(record, runs=runs, rows_test=4))


def test_verdict_of_regression_without_goal_says_nothing_of_a_goal():
    text = said(records.regression_record())
    assert "R2 on 4,128 test rows is 0.793 with it, 0.741 without it." in text
    assert "validation" not in text


@pytest.mark.parametrize(
    ("fast", "slow", "expected"),
    [
        (100, 400, "came after 100 steps (0.11 s) with it and 400 steps (0.28 s) without it: 4 times fewer."),
        (400, 100, "came after 400 steps (0.44 s) with it and 100 steps (70 ms) without it: 4 times as many."),
        (100, 100, "came after 100 steps (0.11 s) with it and 100 steps (70 ms) without it."),
        (
            None,
            100,
            "Without it, 95 % on the validation rows came after 100 steps (70 ms); with it, not within",
        ),
        (None, None, "Neither reached 95 % on the validation rows within 500 steps."),
    ],
)
def test_verdict_of_steps_to_the_goal_compares_them(fast, slow, expected):
    record = records.classification_record()
    main, twin = record.runs
    runs = (replace(main, steps_to_goal=fast), replace(twin, steps_to_goal=slow))
    assert expected in said(replace(record, runs=runs))


def test_verdict_reads_the_same_whichever_run_stands_first():
    record = records.classification_record()
    assert said(record) == said(replace(record, runs=record.runs[::-1]))


def test_verdict_of_a_diverged_twin_names_the_step():
    assert "Training without batch normalization broke down: by step 130" in said(records.diverged_record())


def test_verdict_of_a_lost_network_names_no_accuracy():
    text = said(records.broken_main_record())
    assert "has no accuracy: its predictions are not numbers." in text
    assert "%" not in text.replace("95 %", "")


def test_verdict_without_test_rows_says_that_there_were_none():
    text = said(records.untested_record())
    assert "No rows were set aside for testing" in text
    assert "not number" not in text


def test_verdict_of_one_run_compares_with_nothing():
    text = said(records.classification_record(twin=False))
    assert "The network with batch normalization calls 97.2 % of 360 test rows correctly." in text
    assert "without" not in text


def test_verdict_of_one_run_without_normalization_names_it():
    record = records.classification_record()
    text = said(replace(record, runs=record.runs[1:]))
    assert "The network without batch normalization calls 41.4 %" in text
    assert "did not reach 95 %" in text


def test_verdict_of_a_negative_r2_says_worse_than_the_mean():
    record = records.regression_record()
    alone = replace(record, runs=(replace(record.runs[0], test_metric=-0.4),))
    assert "reaches R2 −0.400 on 4,128 test rows, worse than always answering the mean." in said(alone)


def test_verdict_without_any_run_says_so():
    assert said(replace(records.bare_record(), runs=())) == "No run was recorded."


@pytest.mark.parametrize(
    ("losses", "expected"),
    [
        ((NAN, 2.0, 1.0), None),  # nothing was trained before step 0
        ((2.0, NAN, 1.0), None),  # recovered
        ((2.0, 1.0, NAN), 20),
        ((2.0, INFINITE, NAN), 10),
        ((), None),
    ],
)
def test_broke_down_at_finds_where_the_loss_stays_no_number(losses, expected):
    assert broke_down_at(Curve(steps=(0, 10, 20), train_loss=losses)) == expected


def test_seconds_to_goal_without_a_clock_is_unknown():
    run = records.classification_record().runs[0]
    assert seconds_to_goal(replace(run, curve=replace(run.curve, seconds=()))) is None
