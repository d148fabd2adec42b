"""Experiments by name: found without being imported, carried out the same every time, refused with a reason."""

from __future__ import annotations

import subprocess
import sys

import pytest

import batchnorm
from batchnorm.errors import DataError, SettingsError
from batchnorm.lab import Experiment, Material, names
from batchnorm.lab.experiment import seeds_of
from batchnorm.lab.watch import Watch


def test_reading_every_claim_imports_no_torch():
    code = (
        "import sys, batchnorm\n"
        "lab = batchnorm.lab\n"
        "said = [(e.claim, e.source, e.measured, e.unfair) for e in map(lab.Experiment, lab.names())]\n"
        "assert all(all(parts) for parts in said)\n"
        "assert not {'torch', 'polars', 'sklearn'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize("name", names())
def test_every_experiment_states_its_claim_in_one_sentence(name):
    experiment = Experiment(name)
    assert experiment.claim.endswith(".")
    assert experiment.claim.count(". ") == 0
    assert min(map(len, (experiment.source, experiment.measured, experiment.unfair))) > 30


def test_lab_has_the_experiments_as_functions_and_nothing_else():
    assert batchnorm.lab.bias == Experiment("bias")
    assert set(names()) <= set(dir(batchnorm.lab))
    with pytest.raises(AttributeError, match="no attribute 'byas': the experiments are"):
        _ = batchnorm.lab.byas


def test_same_seeds_give_the_same_numbers(digits):
    first, second = (Experiment("bias")(digits, seeds=(4,), quick=True) for _ in range(2))
    assert first.numbers == second.numbers
    assert first.effects == second.effects
    assert first.seeds == (4,)


def test_two_seeds_leave_a_law_undecided(digits):
    record = Experiment("bias")(digits, seeds=2, quick=True)
    assert record.verdict == "undecided"
    assert record.finding.endswith("(2 seeds).")


def test_watch_is_told_of_every_case(digits):
    told = []

    class Told(Watch):
        def began(self, name):
            told.append(name)

        def expected(self, cases):
            told.append(cases)

        def advanced(self):
            told.append(1)

        def ended(self, verdict):
            told.append(verdict)

    Experiment("bias")(digits, seeds=1, quick=True, watch=Told())
    assert told == ["bias", 3, 1, 1, 1, "undecided"]


def test_threads_and_randomness_are_left_as_they_were(digits):
    import torch

    before, threads = torch.get_rng_state(), torch.get_num_threads()
    Experiment("bias")(digits, seeds=1, quick=True)
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads


@pytest.mark.parametrize("seeds", [0, 101, (), (1, 1), (-1,), "3", 2.5, True, (1.5,), ("1",)])
def test_impossible_seeds_are_refused(seeds):
    with pytest.raises(SettingsError, match=r"^seeds expected"):
        seeds_of(seeds)


def test_number_to_predict_is_refused_where_classes_are_needed():
    with pytest.raises(DataError, match="diabetes: this experiment expected classes to predict, got the number"):
        batchnorm.lab.speed("diabetes", quick=True)


def test_law_holds_of_a_number_to_predict_too():
    record = batchnorm.lab.bias("diabetes", quick=True)
    assert record.verdict == "holds"
    assert "test R2" in record.finding


def test_too_few_rows_are_refused():
    x, y = [[float(i), i % 3] for i in range(70)], [i % 2 for i in range(70)]
    with pytest.raises(DataError, match=r"expected at least 80 rows \(64 to train on\), got 70"):
        batchnorm.lab.bias((x, y))


def test_arrays_with_words_as_classes_are_taken():
    import numpy as np

    random = np.random.default_rng(0)
    y = np.array(["left", "right"])[random.integers(2, size=200)]
    x = random.normal(size=(200, 2, 2)) + (y == "left")[:, None, None]
    record = batchnorm.lab.bias((x, y), quick=True, seeds=1)
    assert record.rows == {"train": 160, "test": 40}
    assert record.features == 4


@pytest.mark.parametrize("pair", [([[1.0]], [1, 2]), ([1.0, 2.0], [1, 2]), ([["a"]], [1]), ([[1.0]], [1], [2])])
def test_pairs_that_are_no_data_are_refused(pair):
    with pytest.raises(DataError, match=r"^data expected a pair \(X, y\)"):
        Material(pair)


def test_inputs_of_which_none_varies_are_refused():
    x, y = [[1.0, 2.0]] * 100, [i % 2 for i in range(100)]
    with pytest.raises(DataError, match="expected an input that varies, got inputs that are the same in all training"):
        batchnorm.lab.drift((x, y), quick=True)
