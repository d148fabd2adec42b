"""The laboratory's page: what it says of each experiment, complete in itself, escaped, and drawn by a real browser."""

from __future__ import annotations

import json

import pytest
from tests.report.lab_records import HOSTILE, lab_record, many
from tests.report.markup import Page

from batchnorm.report.lab_page import render_lab, write_lab
from batchnorm.report.lab_wording import asked, measured

DONE = "['drawn', 'failed'].includes(document.documentElement.dataset.charts)"


def text_of(html: str) -> str:
    """What a reader sees of the tables and paragraphs."""
    return " ".join(html[html.index("<body>") : html.index("<script>")].split())


def test_page_of_several_counts_the_verdicts_and_lists_each():
    html = text_of(render_lab(many()))
    assert "Of 3 claims put to the test, 1 holds, 1 does not hold here, 1 undecided." in html
    assert html.count('class="badge holds"') == html.count('class="badge fails"') == 2  # in the table and above
    assert html.count('class="badge undecided"') == 2
    assert '<a href="#linear_middle">Linear middle</a>' in html
    assert "10 ± 1x <small>(at least 5x)</small>" in html


def test_page_says_what_is_missing_and_why():
    html = text_of(render_lab(many(), missing={"depth": "interrupted before it was finished"}))
    assert "1 experiment asked for could not be shown." in html
    assert "interrupted before it was finished" in html


def test_page_of_one_says_its_claim_and_its_finding_once():
    html = text_of(render_lab([lab_record()]))
    assert html.count("It is so by 10 (3 seeds).") == 1
    assert html.count('class="badge holds"') == 1
    assert "Speed, on digits" in html
    for said in ("Someone 2015.", "With a ruler.", "Never.", "a lower bound", "50 ± 25"):
        assert said in html


def test_page_of_the_quick_form_says_so():
    assert "This was the quick form" in text_of(render_lab([lab_record(quick=True)]))
    assert "quick form" not in text_of(render_lab([lab_record()]))


def test_hostile_texts_are_texts():
    page = Page(render_lab([lab_record(said=HOSTILE), lab_record("depth", said=HOSTILE)], missing={"bias": HOSTILE}))
    assert not page.all("b")
    charts = [e for e in page.all("script") if e.attributes.get("type") == "application/json"]
    assert len(charts) == 12
    for chart in charts:
        json.loads(chart.text)


def test_every_chart_has_an_id_of_its_own():
    page = Page(render_lab(many()))
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
def test_every_chart_is_drawn(browser, tmp_path, screenshots, look):
    path = tmp_path / "lab.html"
    write_lab([*many(), lab_record("bias", said=HOSTILE)], path, missing={"shift": "interrupted"})
    page = browser.open(path, width=390 if look == "phone" else 1280, dark=look == "dark", phone=look == "phone")
    page.wait_for(DONE)
    page.screenshot(screenshots / f"lab-{look}.png")
    states = page.evaluate("Array.from(document.querySelectorAll('[data-chart]')).map((c) => c.dataset.drawn)")
    assert states == ["true"] * 24
    assert page.complaints() == []
    assert [r for r in page.requests() if not r.startswith(("data:", "blob:"))] == [path.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0
    empty = (
        "Array.from(document.querySelectorAll('[data-chart]'))"
        ".filter((c) => !c.querySelector('.trace path, .hm image, .contour path, .point path')).map((c) => c.id)"
    )
    assert page.evaluate(empty) == []
    page.close()


def test_lines_on_a_logarithmic_axis_stand_at_their_values(browser, tmp_path):
    """A level of 0.1 is drawn where the axis says 0.1, not at its logarithm."""
    path = tmp_path / "lab.html"
    write_lab([lab_record()], path)
    page = browser.open(path)
    page.wait_for(DONE)
    heights = page.evaluate(
        "(() => { const c = document.getElementById('speed-1-1');"
        "const tick = Array.from(c.querySelectorAll('.ytick text')).find((t) => t.textContent === '0.1');"
        "const middle = (e) => { const r = e.getBoundingClientRect(); return (r.top + r.bottom) / 2; };"
        "return [middle(tick), ...Array.from(c.querySelectorAll('.shapelayer path')).map(middle)]; })()"
    )
    assert min(abs(heights[0] - h) for h in heights[1:]) < 3
    page.close()


def test_effects_are_said_in_their_units():
    effect = lab_record().effects[1]
    assert measured(effect).replace("\N{NO-BREAK SPACE}", " ") == "50 ± 25 %"
    assert asked(effect) == ""
