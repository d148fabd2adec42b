"""Over learning rates and initial scales at least twice as many settings work with normalization."""

from __future__ import annotations

from batchnorm.lab.questions.robustness import Robustness, _outcome, _width


def test_robustness_on_digits_twice_as_many_settings_work(carried_out):
    record = carried_out("robustness", quick=True)
    ratio, share, plain, width, plain_width = record.effects
    assert record.verdict == "holds"
    assert min(ratio.values) >= 2
    assert share.mean > plain.mean + 0.1
    assert width.mean > plain_width.mean


def test_width_is_the_longest_run_of_neighbours_of_any_scale():
    assert _width([[0.9, 0.1, 0.9, 0.9], [0.9, 0.9, 0.9, 0.1]], 0.5) == 3
    assert _width([[0.1, 0.2]], 0.5) == 0


def test_no_setting_that_works_without_makes_the_ratio_a_lower_bound():
    grid = (((0.9, 0.9), (0.9, 0.9)),)
    found = Robustness((0.1, 1.0), (0.1, 1.0), 500, grid, grid, (0.5,), (0.0,), (0.5,), (0.0,))
    assert "50% work with normalization and 0% without, at least 2.0 times as many" in _outcome(found).finding
