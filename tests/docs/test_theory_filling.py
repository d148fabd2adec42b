"""Filling a template: a place shows the number it names, or nothing is made."""

from __future__ import annotations

import math
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from docs.theory import filling, kept

from batchnorm.lab import Record
from batchnorm.lab.charts import Axis, Chart, Contour, HeatMap, Lines, Series
from batchnorm.lab.record import Effect
from batchnorm.report.wording import NO_BREAK

LINES = Lines(Axis("step", bounds=(0.0, 2.0)), Axis("loss", log=True), (Series("a", (0.0, 1.0), (math.nan, 2.5)),))
HEAT = HeatMap(("a",), ("b",), "x", "y", ((math.inf,),), 0.0, 1.0, "share")
BOWL = Contour(Axis("v"), Axis("w"), (0.0,), (1.0,), ((1 / 3,),), "loss")


@pytest.fixture
def record() -> Record:
    effects = (
        Effect("steps saved", (9.0, 10.0, 11.0), unit="times", asked=5.0),
        Effect("steps saved by another", (1.0, 2.0, 3.0)),
        Effect("loss with it", (1.0, -math.inf, 1.0)),
        Effect("loss with it and more", (1.0, 1.0, 1.0)),
    )
    charts = (Chart("The loss", "Read it.", (LINES,)), Chart("A map", "See.", (HEAT, BOWL)))
    values: dict[str, Any] = {field.name: field.name for field in fields(Record)} | {
        "name": "speed",
        "verdict": "holds",
        "effects": effects,
        "charts": charts,
        "numbers": None,
        "settings": {},
        "rows": {"train": 1438, "test": 359},
        "features": 64,
        "seeds": (0, 1, 2),
        "quick": False,
        "seconds": 1.5,
        "versions": {"torch": "2.13.0"},
    }
    return Record(**values)


@pytest.fixture
def filled(record: Record, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Fills a text as the page of the record."""
    kept.keep(record, tmp_path / "records")
    monkeypatch.setattr(filling, "TEMPLATES", tmp_path)

    def fill(text: str) -> str:
        for name in filling.PAGES:
            (tmp_path / f"{name}.md").write_text(f"# About {name}\n\n")
        (tmp_path / "speed.md").write_text(f"# Speed\n\n{text}\n")
        return filling.page("speed", kept.read("speed", tmp_path / "records")).replace(NO_BREAK, " ")

    return fill


def test_kept_record_read_back_is_the_same_in_every_kept_part(record: Record, tmp_path: Path) -> None:
    kept.keep(record, tmp_path)
    back = kept.read("speed", tmp_path)
    for field in fields(kept.Kept):
        if field.name != "charts":
            assert getattr(back, field.name) == getattr(record, field.name), field.name
    lines, (heat, bowl) = back.charts[0].panels[0], back.charts[1].panels
    assert isinstance(lines, Lines)
    assert math.isnan(lines.series[0].y[0])
    assert replace(lines, series=()) == replace(LINES, series=())
    assert heat == HEAT
    assert bowl == replace(BOWL, heights=((0.333333,),))


def test_kept_record_of_quick_run_is_refused(record: Record, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="leave out quick=True"):
        kept.keep(replace(record, quick=True), tmp_path)


def test_place_shows_the_effect_it_names(filled: Any) -> None:
    page = filled('{{effect "steps saved"}}, {{mean "saved by"}}, asked {{asked "steps saved"}}')
    assert "10 ± 1x, 2, asked at least 5x" in page


def test_place_shows_the_picture_with_its_reading(filled: Any) -> None:
    assert "![The loss](pictures/speed-the-loss.svg)\n\n*The loss. Read it.*" in filled('{{picture "The l"}}')


@pytest.mark.parametrize("place", ['effect "loss"', 'effect "nowhere"', 'picture "Nothing"', "effect"])
def test_place_that_fits_not_exactly_one_is_refused(filled: Any, place: str) -> None:
    with pytest.raises(ValueError, match="to fit one of"):
        filled(f"{{{{{place}}}}}")


def test_place_with_an_unknown_word_is_refused(filled: Any) -> None:
    with pytest.raises(ValueError, match=r"expected one of effect, mean, .* got 'number'"):
        filled("{{number}}")


def test_page_written_for_another_verdict_is_refused(filled: Any) -> None:
    assert "**Holds.** finding" in filled('{{verdict "holds"}}')
    with pytest.raises(ValueError, match="written for 'undecided', its record says 'holds'"):
        filled('{{verdict "undecided"}}')


def test_links_of_a_template_lead_from_the_page_one_folder_up(filled: Any) -> None:
    assert "[a](bias.md) [b](../guide/adapt.md)" in filled("[a](../bias.md) [b](../../guide/adapt.md)")


def test_table_says_bars_in_words_of_a_cell(filled: Any, record: Record) -> None:
    assert "| steps saved | 10 ± 1x | at least 5x | holds |" in filled("{{table}}")


def test_mean_that_is_rounding_within_its_spread_is_said_as_nothing() -> None:
    effect = Effect("apart", (-0.01, 0.0, 0.01 - 1e-9), unit="points")
    assert filling.measured(effect).replace(NO_BREAK, " ") == "0 ± 1 points"
    assert filling.measured(Effect("apart", (0.1, 0.2, 0.3))) == "0.2 ± 0.1"
