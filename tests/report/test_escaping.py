"""Whatever a user's file calls its columns and classes is shown as it is and does nothing."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.report import records
from tests.report.markup import Page

from batchnorm.report import render
from batchnorm.report.chart_json import json_for_script, text
from batchnorm.report.tables import facts_html, paragraph_html, table_html

pages = pytest.mark.parametrize("make", [records.hostile_record, records.hostile_regression_record])


@pages
def test_hostile_names_add_no_element_and_no_attribute(make):
    page = Page(render(make()))
    assert not page.all("img")
    assert not page.all("b")
    assert not [e for e in page.elements if any(name.startswith("on") for name in e.attributes)]
    assert all("type" in e.attributes for e in page.all("script")[:-2])


@pages
def test_hostile_names_are_shown_letter_by_letter(make):
    page = Page(render(make()))
    assert " ".join(records.HOSTILE.split()) in page.text()


def test_hostile_title_is_shown_letter_by_letter():
    page = Page(render(records.hostile_record()))
    assert page.all("title")[0].text == records.HOSTILE
    assert page.all("h1")[0].text == records.HOSTILE


@given(st.text())
def test_json_for_script_of_any_text_holds_no_markup_and_reads_back(value):
    encoded = json_for_script({value: [value]})
    assert not set("<>&\u2028\u2029") & set(encoded)
    assert json.loads(encoded) == {value: [value]}


@given(st.text())
def test_text_for_plotly_holds_nothing_that_plotly_reads(value):
    assert not set("<>%$") & set(text(value))


@given(st.text(st.characters(exclude_characters="\r\x00", exclude_categories=["Cs"]), min_size=1))
def test_table_of_any_text_reads_back(value):
    page = Page(table_html(value, ["", value], [[value, value]]) + facts_html({value: value}) + paragraph_html(value))
    cells = [cell for tag in ("th", "td", "caption", "dt", "dd", "p") for cell in page.all(tag)]
    assert [cell.text for cell in cells] == ["", *[value] * 7]
    assert page.all("div")[0].attributes["aria-label"] == value


def test_json_for_script_of_nan_is_refused():
    with pytest.raises(ValueError, match="JSON"):
        json_for_script(float("nan"))
