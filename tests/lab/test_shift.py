"""New statistics mend what a factor and an offset did, not a changed sign; a sorted stream they ruin unless guarded."""

from __future__ import annotations

import numpy as np
import pytest

from batchnorm.lab import Material
from batchnorm.lab.questions.shift import CLEAN, GUARDED, LOOKS, NEW, SORTED, SOURCE, TINTS
from batchnorm.lab.shifted import Shifts


@pytest.fixture
def record(carried_out):
    return carried_out("shift", quick=True)


def test_shift_on_digits_tints_cost_and_new_statistics_mend_them(record):
    for found, case in ((record.numbers.usual, "contrast"), (record.numbers.dark, "grey paper")):
        assert max(found[SOURCE][case]) < 0.8
        assert min(found[NEW][case]) > 0.9


def test_shift_on_digits_new_statistics_do_not_mend_an_inverted_polarity(record):
    for found, case in ((record.numbers.usual, "inverted"), (record.numbers.dark, "inverted polarity")):
        assert max(found[SOURCE][case]) < 0.2
        assert max(found[NEW][case]) < 0.2


def test_shift_on_digits_sorted_stream_is_ruined_unless_guarded(record):
    usual = record.numbers.usual
    assert usual[SOURCE][SORTED] == usual[SOURCE][CLEAN]
    assert max(usual[NEW][SORTED]) < 0.8
    assert min(usual[GUARDED][SORTED]) > min(usual[SOURCE][CLEAN]) - 0.02


def test_shift_every_case_is_in_the_table(record):
    said = " ".join(effect.what for effect in record.effects)
    assert all(f"{case}: accuracy lost" in said for case in (*LOOKS, *TINTS))
    assert all(len(effect.values) == 3 for effect in record.effects)


def test_shifts_of_pixels_are_those_of_a_picture(digits):
    data = digits.of(0)
    shifts, x = Shifts.of(data), data.x_test.astype(float)
    assert shifts.are_pixels
    np.testing.assert_allclose(shifts.brighter(x, 0.3), np.minimum(x + 4.8, 16))
    np.testing.assert_allclose(shifts.paler(x, 0.7), 8 + 0.3 * (x - 8))
    np.testing.assert_allclose(shifts.inverted(x), 16 - x)
    np.testing.assert_allclose(shifts.tinted(16 - x, 1.0, 0.0), 16 - x)
    np.testing.assert_allclose(shifts.tinted(16 - x, 0.0, 1.0), x)
    noisy = shifts.noisy(x, 0.3, 0)
    assert noisy.min() == 0
    assert noisy.max() == 16


def test_shifts_of_a_table_are_made_feature_by_feature():
    data = Material("wine").of(0)
    shifts, x = Shifts.of(data), data.x_train.astype(float)
    assert not shifts.are_pixels
    np.testing.assert_allclose(shifts.brighter(x, 0.3).mean(0), x.mean(0) + 0.3 * x.std(0))
    np.testing.assert_allclose(shifts.paler(x, 0.7).std(0), 0.3 * x.std(0))
    np.testing.assert_allclose(shifts.inverted(x) + x, 2 * np.broadcast_to(x.mean(0), x.shape))
    np.testing.assert_allclose(shifts.tinted(x, 1.0, 0.0), x)
    np.testing.assert_allclose(shifts.tinted(x, 0.0, 1.0), shifts.inverted(x))
