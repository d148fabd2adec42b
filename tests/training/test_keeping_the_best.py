"""Early stopping and the best epoch: which weights a run ends with, and when it ends."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from tests.training.small import (
    QUICK,
    Examples,
    assembled,
    changed,
    clouds,
    differing,
    plane,
    state,
    trained,
    turned,
)

from batchnorm.training.assemble import Assembly
from batchnorm.training.progress import Evaluation
from batchnorm.training.run import Run


def overfitting(**changes: Any) -> Assembly:
    """Few noisy rows, a high rate and many epochs: the best epoch is not the last."""
    settings = changed(**{"hidden": (40, 40), "epochs": 40, "batch_size": 8, "learning_rate": 0.05} | changes)
    return assembled(settings, train=clouds(40, spread=6.0), valid=clouds(60, spread=6.0, seed=1))


def scripted(run: Run, judged: list[tuple[float, float]]) -> None:
    """Let the run's evaluations see these (loss, metric) one after the other."""
    answers = iter(judged)
    run.judge = lambda rows: next(answers)  # type: ignore[method-assign]


def test_the_best_evaluation_is_the_highest_metric_and_among_equals_the_lowest_loss() -> None:
    assembly = assembled(changed(epochs=6), valid=clouds(20, seed=1))
    scripted(assembly.run, [(0.9, 0.5), (0.8, 0.7), (0.7, 0.7), (0.75, 0.7), (0.1, 0.6), (0.9, 0.7)])
    progress = turned(assembly).run.progress
    assert progress.best_step == 15
    assert (progress.best_metric, progress.best_loss) == (0.7, 0.7)


def test_take_best_brings_back_exactly_the_weights_of_the_best_evaluation() -> None:
    assembly = overfitting()
    seen: dict[int, dict[str, torch.Tensor]] = {}
    evaluate = assembly.run.evaluate

    def remember() -> Evaluation:
        point = evaluate()
        seen[point.step] = state(assembly)
        return point

    assembly.run.evaluate = remember  # type: ignore[method-assign]
    progress = turned(assembly).run.progress
    assert 0 < progress.best_step < progress.step
    assert differing(state(assembly), seen[progress.best_step])
    assembly.run.take_best()
    assert not differing(state(assembly), seen[progress.best_step])
    assert assembly.run.valid is not None
    assert assembly.run.judge(assembly.run.valid) == (progress.best_loss, progress.best_metric)


def test_patience_stops_after_so_many_evaluations_without_improvement() -> None:
    progress = turned(overfitting(patience=3)).run.progress
    assert progress.ended == "no improvement"
    assert progress.step == progress.best_step + 3 * 5


def test_without_patience_all_steps_are_done() -> None:
    progress = turned(overfitting(patience=None)).run.progress
    assert progress.ended == "all steps"
    assert progress.step == 200


def test_an_improvement_starts_the_patience_anew() -> None:
    assembly = assembled(changed(epochs=9, patience=2), valid=clouds(20, seed=1))
    scripted(assembly.run, [(1.0, m) for m in (0.5, 0.4, 0.6, 0.5, 0.7, 0.7, 0.7, 0.9)])
    progress = turned(assembly).run.progress
    assert (progress.ended, progress.step, progress.best_step) == ("no improvement", 35, 25)


@pytest.mark.parametrize("valid", [None, Examples(clouds(0).x, clouds(0).y)])
def test_without_validation_rows_the_last_weights_count_and_patience_has_nothing_to_go_by(
    valid: Examples | None,
) -> None:
    assembly = trained(changed(patience=1, epochs=5), valid=valid)
    progress = assembly.run.progress
    assert (progress.ended, progress.best_step) == ("all steps", 25)
    assert all(e.valid_loss is None and e.valid_metric is None for e in progress.curve)
    before = state(assembly)
    assembly.run.take_best()
    assert not differing(before, state(assembly))


@pytest.mark.parametrize("rows", [1, 2])
def test_very_few_validation_rows_are_enough(rows: int) -> None:
    run = trained(QUICK, valid=clouds(rows)).run
    assert run.progress.best_step > 0
    assert len(run.progress.traces) == len(run.progress.curve)


def test_rows_are_judged_in_blocks_that_do_not_show(monkeypatch: pytest.MonkeyPatch) -> None:
    run = trained(QUICK).run
    whole = run.scores(run.train.x)
    monkeypatch.setattr("batchnorm.training.run._BLOCK", 20)
    torch.testing.assert_close(run.scores(run.train.x), whole)
    assert run.scores(run.train.x[:0]).shape == (0, 3)
    assert run.network.training


def test_evaluations_change_nothing_but_the_progress() -> None:
    assembly = assembled(QUICK, valid=clouds(20))
    before = state(assembly)
    random = torch.get_rng_state()
    assembly.run.evaluate()
    assert not differing(before, state(assembly))
    assert torch.equal(random, torch.get_rng_state())
    assert assembly.network.training


def test_validation_metric_of_a_number_is_r2() -> None:
    rows, valid = plane(100), plane(50, seed=1)
    progress = trained(changed(hidden=(), epochs=60, learning_rate=0.05), task="regression", train=rows, valid=valid)
    assert progress.run.progress.best_metric == pytest.approx(1.0, abs=1e-3)
