"""The course: its pages are what its records say, none lacks its picture, every picture is of today's chart."""

from __future__ import annotations

import re
from pathlib import Path
from xml.etree import ElementTree

import pytest
from docs.theory import filling, kept, make
from docs.theory.course import PAGES

from batchnorm.lab import Experiment, names
from batchnorm.lab.record import verdict_of
from docs import drawing

MOST_BYTES = 60_000
PICTURES = make.pictures()
SVG = "{http://www.w3.org/2000/svg}"


def _id(path: Path) -> str:
    return path.stem


def test_course_has_every_experiment_once() -> None:
    assert sorted(PAGES) == sorted(names())
    assert sorted(kept.there()) == sorted(names())


@pytest.mark.parametrize("path", make.pages(), ids=_id)
def test_page_is_what_its_record_makes(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == make.pages()[path], "run `python docs/theory/make.py`"


def test_no_page_and_no_picture_is_left_over() -> None:
    assert set(make.HERE.glob("*.md")) - set(make.pages()) == {make.HERE / "formulas.md"}
    assert set(make.PICTURES.iterdir()) == set(PICTURES)
    assert {path.stem for path in filling.TEMPLATES.iterdir()} == {*PAGES, "README"}


@pytest.mark.parametrize("name", PAGES)
def test_record_is_of_the_claim_as_stated_today(name: str) -> None:
    record, experiment = kept.read(name), Experiment(name)
    assert (record.claim, record.source) == (experiment.claim, experiment.source), f"measure {name} anew"


@pytest.mark.parametrize("name", PAGES)
def test_record_verdict_follows_from_its_kept_numbers(name: str) -> None:
    record = kept.read(name)
    assert record.verdict == verdict_of(record.effects)
    assert len(record.seeds) >= 3


@pytest.mark.parametrize("name", PAGES)
def test_page_has_the_parts_of_every_page(name: str) -> None:
    page = (make.HERE / f"{name}.md").read_text(encoding="utf-8")
    headings = re.findall(r"^## (.*)$", page, flags=re.M)
    assert headings == [
        *("The idea", "What is measured", "The picture", "The verdict"),
        *("When the comparison is unfair", "Try it", "Sources"),
    ]
    assert re.search(r"^!\[[^\]]+\]\(pictures/[\w-]+\.svg\)$", page, flags=re.M), "no picture"
    assert f"```sh\nbatchnorm lab {name}\n```" in page
    assert "$$" in page


@pytest.mark.parametrize("name", [*PAGES, "README"])
def test_page_mathematics_survives_markdown(name: str) -> None:
    # Markdown takes the backslash from before punctuation, so that \, or \{ would reach the reader as , or {.
    spans = re.findall(r"\$\$.*?\$\$|\$[^$\n]+\$", filling.template(name), flags=re.S)
    assert not [span for span in spans if re.search(r"\\[^A-Za-z\s]", span)]
    assert filling.template(name).count("$") % 2 == 0


@pytest.mark.parametrize("name", PAGES)
def test_template_states_no_measured_number(name: str) -> None:
    said = re.sub(r"\{\{.*?\}\}|\$\$.*?\$\$|\$[^$\n]+\$", "", filling.template(name), flags=re.S)
    assert "±" not in said
    assert not re.search(r"\d+\.\d+ ?(%|points|x\b|times)", said.replace("95.4 %", "")), "95.4 % is of the normal one"


@pytest.mark.parametrize("path", PICTURES, ids=_id)
def test_picture_is_small_whole_and_of_its_chart(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    root = ElementTree.fromstring(text)
    assert root.tag == f"{SVG}svg"
    assert len(text.encode()) <= MOST_BYTES
    assert drawing.digest(PICTURES[path]) in text, "run `python docs/theory/make.py`"
    assert drawing.CARD in text, "without a card of its own it cannot be read in the dark"
    assert not re.search(r"(?:href|src)=\"(?!#)", text), "a picture asks nothing of any network"


def test_picture_drawn_again_is_the_same() -> None:
    pytest.importorskip("matplotlib")
    chart = PICTURES[make.PICTURES / "bias-what-the-loss-says-about-the-bias.svg"]
    assert drawing.svg(chart) == drawing.svg(chart)
    assert chart.panels[0].series[0].name in drawing.svg(chart)
