"""The page around the sections: complete in itself, closed to everything else, and readable without seeing it."""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest
from tests.report import records
from tests.report.markup import Page

from batchnorm.errors import OutputError
from batchnorm.report import render, write

ALL = [
    records.classification_record,
    records.regression_record,
    records.diverged_record,
    records.broken_main_record,
    records.hostile_record,
    records.hostile_regression_record,
    records.one_evaluation_record,
    records.bare_record,
    records.untested_record,
    records.many_runs_record,
    records.deep_record,
]
every_record = pytest.mark.parametrize("make", ALL, ids=lambda make: make.__name__)


@every_record
def test_page_asks_nothing_of_any_network(make):
    page = Page(render(make()))
    for element in page.elements:
        for name in ("src", "href", "action", "data", "poster", "srcset"):
            address = element.attributes.get(name, "#")
            assert address.startswith(("#", "data:,")), (element.tag, address)
    style = page.all("style")[0].text
    assert "url(" not in style
    assert "@import" not in style


@every_record
def test_page_lets_only_its_own_two_scripts_run(make):
    page = Page(render(make()))
    policy = next(e for e in page.all("meta") if e.attributes.get("http-equiv") == "Content-Security-Policy")
    scripts = [e for e in page.all("script") if "type" not in e.attributes]
    hashes = {
        f"'sha256-{base64.b64encode(hashlib.sha256(script.text.encode()).digest()).decode()}'" for script in scripts
    }
    assert len(scripts) == 2
    assert set(re.findall(r"'sha256-[^']+'", policy.attributes["content"])) == hashes
    assert "default-src 'none'" in policy.attributes["content"]
    assert "unsafe-eval" not in policy.attributes["content"]
    assert "script-src 'unsafe-inline'" not in policy.attributes["content"]


@every_record
def test_charts_each_have_a_title_a_sentence_and_data(make):
    page = Page(render(make()))
    charts = [e for e in page.elements if "data-chart" in e.attributes]
    identifiers = {e.attributes["id"] for e in page.elements if "id" in e.attributes}
    figures = page.figures()
    assert {chart.attributes["id"] for chart in charts} == set(figures)
    for chart in charts:
        assert chart.attributes["role"] == "img"
        assert chart.attributes["aria-label"]
        assert chart.attributes["aria-describedby"] in identifiers
    assert all(caption.text.rstrip().endswith(".") for caption in page.all("figcaption"))
    assert len(page.all("figcaption")) == len(page.all("figure"))


@every_record
def test_page_identifiers_are_unique_and_links_lead_somewhere(make):
    page = Page(render(make()))
    identifiers = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(identifiers) == len(set(identifiers))
    assert {link.attributes["href"].removeprefix("#") for link in page.all("a")} <= set(identifiers)


@every_record
def test_page_headings_descend_one_level_at_a_time_and_tables_have_captions(make):
    page = Page(render(make()))
    levels = [int(e.tag[1]) for e in page.elements if re.fullmatch("h[1-6]", e.tag)]
    assert levels.count(1) == 1
    assert levels[0] == 1
    assert all(after <= before + 1 for before, after in pairwise(levels))
    assert len(page.all("caption")) == len(page.all("table")) > 0
    assert all(cell.attributes["scope"] in ("row", "col") for cell in page.all("th"))


def test_page_plotly_is_inlined_once():
    html = render(records.deep_record())
    assert html.count("plotly.js v") == 1


def test_page_of_thirty_layers_of_a_thousand_neurons_stays_a_file_one_can_mail():
    assert len(render(records.deep_record()).encode()) < 7_000_000


def test_render_of_equal_records_is_equal():
    assert render(records.classification_record()) == render(records.classification_record())


def test_write_leaves_the_page_as_utf_8(tmp_path):
    record = records.classification_record()
    write(record, tmp_path / "report.html")
    assert (tmp_path / "report.html").read_bytes().decode("utf-8") == render(record)


def test_write_into_a_missing_folder_raises_output_error(tmp_path):
    with pytest.raises(OutputError, match="missing"):
        write(records.bare_record(), tmp_path / "missing" / "report.html")


def test_write_of_a_name_that_is_no_unicode_still_writes(tmp_path):
    # A CSV in a wrong encoding gives lone surrogates, which UTF-8 refuses: the report must not be lost to them.
    write(replace(records.bare_record(), target_name="pr\udce4dikat"), tmp_path / "report.html")
    assert "pr?dikat" in (tmp_path / "report.html").read_text(encoding="utf-8")


def test_import_of_report_loads_neither_torch_nor_plotly():
    code = (
        "import sys, batchnorm.report; "
        "print(*sorted({'torch', 'plotly', 'polars', 'sklearn', 'pandas'} & set(sys.modules)))"
    )
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert loaded == []


def test_package_carries_the_files_of_the_page():
    folder = Path(sys.modules[render.__module__].__file__ or "").parent
    assert {"page.html", "style.css", "charts.js"} <= {path.name for path in folder.iterdir()}
