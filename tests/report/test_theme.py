"""The colours can be told from each other and read, in light and in dark; with and without always look the same."""

from __future__ import annotations

import re
from importlib.resources import files
from itertools import combinations

import pytest
from tests.report import records

from batchnorm.report.theme import run_styles

STYLE = (files("batchnorm.report") / "style.css").read_text(encoding="utf-8")
LIGHT, DARK = (dict(re.findall(r"--([a-z0-9-]+): (#[0-9a-f]{6})", block)) for block in STYLE.split(":root {")[1:3])
themes = pytest.mark.parametrize("theme", [LIGHT, DARK], ids=["light", "dark"])


def luminance(color: str) -> float:
    """Relative luminance of WCAG 2.2."""
    channels = [int(color[i : i + 2], 16) / 255 for i in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    low, high = sorted((luminance(one), luminance(other)))
    return (high + 0.05) / (low + 0.05)


@themes
@pytest.mark.parametrize("name", ["ink", "muted", "link"])
def test_text_on_page_and_card_has_the_contrast_that_wcag_aa_asks_for(theme, name):
    assert contrast(theme[name], theme["page"]) >= 4.5
    assert contrast(theme[name], theme["card"]) >= 4.5


@themes
def test_series_on_the_card_can_be_read_as_text_and_seen_as_lines(theme):
    assert all(contrast(theme[f"series-{i}"], theme["card"]) >= 4.5 for i in range(1, 7))


@themes
def test_counts_in_a_matrix_can_be_read_on_pale_and_on_strong_cells(theme):
    assert contrast(theme["ink"], theme["heat-2"]) >= 4.5
    assert contrast(theme["heat-text"], theme["heat-3"]) >= 4.5
    assert contrast(theme["heat-text"], theme["heat-4"]) >= 4.5


@themes
def test_heat_grows_steadily_away_from_the_card(theme):
    steps = [contrast(theme[f"heat-{i}"], theme["card"]) for i in range(5)]
    assert steps == sorted(steps)


def test_both_themes_define_the_same_colours():
    assert LIGHT.keys() == DARK.keys()


def test_runs_with_and_without_look_the_same_whichever_stands_first():
    main, twin = records.classification_record().runs
    assert run_styles((main, twin)) == run_styles((twin, main))[::-1]


def test_runs_on_the_same_axes_differ_in_more_than_hue():
    styles = run_styles(records.many_runs_record().runs)
    assert len({style.color for style in styles}) == 4
    for one, other in combinations(styles, 2):
        assert (one.dash, one.symbol) != (other.dash, other.symbol)
