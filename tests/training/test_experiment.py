"""Whole experiments: what goes together, being stopped and going on, what they leave behind."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from batchnorm.data import Prepared, prepare
from batchnorm.errors import CheckpointError, DataError, OutputError, SettingsError
from batchnorm.kernels import choice
from batchnorm.predictor import Predictor
from batchnorm.training.experiment import Finished, perform
from batchnorm.training.plan import Plan
from batchnorm.training.progress import Evaluation, Observer
from batchnorm.training.record import Record
from batchnorm.training.settings import Settings


def done(plan: Plan, **options: Any) -> Finished:
    finished = perform(plan, **options)
    assert finished is not None
    return finished


def after(calls: int) -> Callable[[], bool]:
    """Says stop at the so-manieth question."""
    left = iter(range(calls - 1))
    return lambda: next(left, None) is None


def without_clocks(record: Record) -> dict[str, Any]:
    values = record.to_dict()
    for run in values["runs"]:
        run.pop("seconds")
        run["curve"].pop("seconds")
    return values


def assert_same(first: Finished, second: Finished) -> None:
    for name, tensor in first.model_file.tensors.items():
        np.testing.assert_array_equal(tensor, second.model_file.tensors[name], err_msg=name)
    assert without_clocks(first.record) == without_clocks(second.record)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"class_weight": (1.0, 2.0)}, "class_weight expected 3 numbers, got 2"),
        ({"device": "nope"}, "device expected auto, cpu or a device of this machine, got 'nope'"),
        ({"device": "meta"}, "device expected"),
        ({"hidden": (99_999_999_999,)}, "each hidden size expected a whole number from 1 to 1,073,741,824"),
        ({"hidden": (40_000, 40_000)}, "expected at most 1,073,741,824 weights, got 1,600,"),
        ({"hidden": (1,) * 1001}, "hidden expected up to 1000 sizes"),
    ],
    ids=["class_weight", "device", "meta", "size", "sizes", "layers"],
)
def test_settings_that_do_not_go_with_the_data_are_refused_at_once(
    wine_rows: Prepared, changes: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        Plan(wine_rows, Settings(**changes))


def test_a_plan_compares_with_something_and_has_a_goal_that_is_a_number(wine: Plan, diabetes: Plan) -> None:
    with pytest.raises(SettingsError, match="--compare expected a network with batch normalization"):
        replace(wine, settings=replace(wine.settings, norm=None))
    with pytest.raises(SettingsError, match=r"--compare expected .* got --hidden none"):
        replace(wine, settings=replace(wine.settings, hidden=()))
    with pytest.raises(SettingsError, match="goal expected a finite number"):
        replace(wine, goal=float("nan"))
    with pytest.raises(SettingsError, match="class_weight expected a classification target"):
        replace(diabetes, settings=replace(diabetes.settings, class_weight="balanced"))


def test_numbers_whose_squares_overflow_are_refused_at_once(wine: Plan, diabetes: Plan) -> None:
    """A lone 1e200 among the training rows ended in a traceback after the run's folder was made."""
    huge = wine.data.x_train.copy()
    huge[3, 1] = -1e200
    assert wine.data.numbers_train is not None
    row = wine.data.numbers_train[3]
    said = rf"^wine: column 'malic_acid' expected numbers up to 1e\+150, .*, got -1e\+200 in row {row}: repair it"
    with pytest.raises(DataError, match=said):
        replace(wine, data=replace(wine.data, x_train=huge))
    with pytest.raises(DataError, match=r"^diabetes: target 'progression' expected numbers up to .* in row \d+: "):
        replace(diabetes, data=replace(diabetes.data, y_train=diabetes.data.y_train * 1e200))


def test_targets_whose_differences_vanish_when_squared_are_refused_at_once(diabetes: Plan) -> None:
    """Targets of 1e-300 were trained on as if they were all the same, and answered with numbers around 0.1."""
    said = "target 'progression' expected numbers that differ by 1e-150 or more, .*: change the unit"
    with pytest.raises(DataError, match=said):
        replace(diabetes, data=replace(diabetes.data, y_train=diabetes.data.y_train * 1e-300))
    replace(diabetes, data=replace(diabetes.data, y_train=diabetes.data.y_train * 1e-140))


def test_numbers_train_are_the_rows_of_the_source_as_a_person_counts_them(tmp_path: Path) -> None:
    lines = ["a,y", *(f"{row},{row * 0.5}" for row in range(1, 41))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    data = prepare(tmp_path / "t.csv", target="y")
    assert data.numbers_train is not None
    np.testing.assert_array_equal(data.numbers_train, data.x_train[:, 0])


@pytest.mark.parametrize("value", [1e308, 1e40])
def test_a_test_row_far_beyond_the_training_rows_spoils_nothing_else(wine: Plan, value: float) -> None:
    """It ended a finished training in an error, with nothing written."""
    data = wine.data
    x, cells = data.x_test.copy(), np.asarray(data.test_table.cells).copy()
    x[0, 10] = cells[0, 10] = value  # hue, whose deviation is 0.2
    finished = done(replace(wine, data=replace(data, x_test=x, test_table=replace(data.test_table, cells=cells))))
    clean = done(wine)
    assert [s.predicted for s in finished.record.singles][1:] == [s.predicted for s in clean.record.singles][1:]
    if value == 1e308:
        assert finished.record.singles[0].predicted == "too large to compute with"
    difference = finished.record.runs[0].test_metric - clean.record.runs[0].test_metric
    assert abs(difference) <= 1 / len(data.x_test) + 1e-9


@pytest.mark.parametrize("calls", [1, 3, 15, 16, 17, 30])
def test_an_experiment_stopped_anywhere_ends_the_same(wine: Plan, calls: int, tmp_path: Path) -> None:
    """Sixteen steps each: in the first network, between the two, and in the second."""
    assert perform(wine, checkpoints=tmp_path, should_stop=after(calls)) is None
    assert_same(done(wine, checkpoints=tmp_path), done(wine))


def test_an_experiment_stopped_at_every_step_ends_the_same(wine: Plan, tmp_path: Path) -> None:
    finished = None
    for _ in range(100):
        finished = perform(wine, checkpoints=tmp_path, should_stop=lambda: True)
        if finished is not None:
            break
    assert finished is not None
    assert_same(finished, done(wine))


@pytest.mark.parametrize("kernel", ["auto", "spec"])
def test_a_model_file_says_who_computed_its_training_steps(wine: Plan, kernel: str) -> None:
    with choice.using(kernel) as running:
        arithmetic = done(wine).model_file.trained["arithmetic"]
    assert arithmetic["kernel"] == (running.instruction_set or "torch")
    assert set(arithmetic) == {"kernel", "products", "threads"}


def test_an_experiment_without_checkpoints_begins_anew(wine: Plan) -> None:
    assert perform(wine, should_stop=after(5)) is None
    assert_same(done(wine), done(wine))


def test_a_checkpoint_of_other_data_or_settings_is_refused(wine: Plan, tmp_path: Path) -> None:
    assert perform(wine, checkpoints=tmp_path, should_stop=after(5)) is None
    others = [
        replace(wine, settings=replace(wine.settings, learning_rate=0.1)),
        replace(wine, settings=replace(wine.settings, epochs=99)),
        replace(wine, data=prepare("wine", seed=1)),
        replace(wine, data=replace(wine.data, y_valid=wine.data.y_valid[::-1].copy())),
        replace(wine, data=replace(wine.data, w_train=np.ones(len(wine.data.x_train)))),
    ]
    for other in others:
        with pytest.raises(CheckpointError, match="other data or settings"):
            perform(other, checkpoints=tmp_path)


def test_a_damaged_checkpoint_is_refused_by_its_name(wine: Plan, tmp_path: Path) -> None:
    assert perform(wine, checkpoints=tmp_path, should_stop=after(20)) is None
    second = tmp_path / "network-2.safetensors"
    second.write_bytes(second.read_bytes()[:-1])
    with pytest.raises(CheckpointError, match=r"network-2\.safetensors"):
        perform(wine, checkpoints=tmp_path)


def test_a_checkpoint_that_cannot_be_written_ends_the_experiment(wine: Plan, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="cannot write"):
        perform(wine, checkpoints=tmp_path / "missing", keep_every=0)


def test_checkpoints_are_kept_as_often_as_asked(wine: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from batchnorm.training import experiment

    written: list[Path] = []
    monkeypatch.setattr(experiment, "atomic_write", lambda path, data: written.append(path))
    perform(wine, checkpoints=tmp_path, keep_every=0)
    assert [p.name for p in written] == ["network-1.safetensors"] * 16 + ["network-2.safetensors"] * 16
    written.clear()
    perform(wine, checkpoints=tmp_path, keep_every=1e9)
    assert [p.name for p in written] == ["network-1.safetensors", "network-2.safetensors"]


def test_observers_are_told_of_every_step_and_of_the_end(wine: Plan, tmp_path: Path) -> None:
    told: dict[str, list[Any]] = {}

    class Watching(Observer):
        def __init__(self, label: str) -> None:
            self.told = told.setdefault(label, [])

        def started(self, *, step: int, steps: int) -> None:
            self.told.append(("started", step, steps))

        def stepped(self, step: int, rows: int) -> None:
            self.told.append((step, rows))

        def evaluated(self, evaluation: Evaluation) -> None:
            self.told.append(("evaluated", evaluation.step))

        def ended(self, *, step: int, reason: str) -> None:
            self.told.append(("ended", step, reason))

    assert perform(wine, checkpoints=tmp_path, observe=Watching, should_stop=after(5)) is None
    assert list(told) == ["with batch normalization"]
    batches = [(step, 32) for step in range(1, 6)]
    expected = [("started", 0, 16), *batches[:4], ("evaluated", 4), batches[4], ("ended", 5, "interrupted")]
    assert told["with batch normalization"] == expected
    told.clear()
    done(wine, checkpoints=tmp_path, observe=Watching)
    assert told["with batch normalization"][0] == ("started", 5, 16)
    assert told["without normalization"][-1] == ("ended", 16, "all steps")


def test_what_is_left_behind_is_strict_json(wine: Plan, diabetes: Plan) -> None:
    for plan in (wine, diabetes):
        finished = done(plan)
        json.dumps(finished.model_file.trained, allow_nan=False)
        json.dumps(finished.record.to_dict(), allow_nan=False)


@pytest.mark.parametrize("test_rows", [0, 1])
def test_hardly_any_test_rows_leave_gaps_and_no_crash(wine: Plan, test_rows: int) -> None:
    data = wine.data
    few = replace(
        data,
        x_test=data.x_test[:test_rows],
        y_test=data.y_test[:test_rows],
        test_table=data.test_table.take(np.arange(test_rows)),
    )
    finished = done(replace(wine, data=few))
    assert len(finished.record.singles) == test_rows
    assert finished.record.runs[0].test_metric_batch_statistics is None
    json.dumps(finished.model_file.trained, allow_nan=False)


def test_the_predictor_scores_what_the_record_says(wine: Plan, diabetes: Plan) -> None:
    for plan in (wine, diabetes):
        finished = done(plan)
        predictor, data = Predictor(finished.model_file), plan.data
        found = predictor.predict(data.x_test)
        metric = finished.record.runs[0].test_metric
        if plan.task == "classification":
            assert np.mean(found == np.array(data.schema.decode(data.y_test))) == pytest.approx(metric, abs=1e-12)
        else:
            spread = ((data.y_test - data.y_test.mean()) ** 2).sum()
            assert 1 - ((data.y_test - found) ** 2).sum() / spread == pytest.approx(metric, abs=1e-5)
        for single in finished.record.singles:
            value = found[single.row - 1]
            assert single.predicted == (str(value) if plan.task == "classification" else f"{value:.15g}")
