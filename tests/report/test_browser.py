"""The page in a real Chromium with the network cut off: every chart draws, nothing complains, nothing overflows."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.report import records
from tests.report.browser import Browser, Page

from batchnorm.report import write
from batchnorm.training.record import Record

DONE = "['drawn', 'failed'].includes(document.documentElement.dataset.charts)"
WIDTHS = {"light": 1280, "dark": 1280, "phone": 375}
OTHERS = [
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

Make = Callable[[], Record]


def opened(browser: Browser, make: Make, folder: Path, *, look: str = "light") -> Page:
    """The record's report, all its charts tried."""
    write(make(), folder / "report.html")
    page = browser.open(folder / "report.html", width=WIDTHS[look], dark=look == "dark", phone=look == "phone")
    page.wait_for(DONE)
    return page


def assert_sound(page: Page, path: Path) -> None:
    """Every chart drew, the console is clean, nothing was asked for, and the page is no wider than the window."""
    states = page.evaluate(
        "Array.from(document.querySelectorAll('[data-chart]'))"
        ".filter((chart) => !chart.closest('details:not([open])'))"
        ".map((chart) => [chart.dataset.drawn, chart.querySelectorAll('.subplot').length])"
    )
    assert all(state == ["true", 1] for state in states), states
    assert page.evaluate("document.documentElement.dataset.charts") == "drawn"
    assert page.complaints() == []
    # What a page carries inside itself (data:, blob:) is no request to anyone.
    assert [r for r in page.requests() if not r.startswith(("data:", "blob:"))] == [path.as_uri()]
    assert page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth") <= 0


@pytest.mark.parametrize("look", ["light", "dark", "phone"])
@pytest.mark.parametrize("make", [records.classification_record, records.regression_record])
def test_report_draws_every_chart(browser, tmp_path, screenshots, make, look):
    page = opened(browser, make, tmp_path, look=look)
    page.screenshot(screenshots / f"{make.__name__.removesuffix('_record')}-{look}.png")
    assert_sound(page, tmp_path / "report.html")
    empty = "filter((chart) => !chart.querySelector('.trace path, .hm image')).map((chart) => chart.id)"
    assert page.evaluate(f"Array.from(document.querySelectorAll('[data-chart]')).{empty}") == []
    assert page.evaluate("document.querySelectorAll('[data-drawn]').length") > 10
    page.close()


@pytest.mark.parametrize("make", OTHERS)
def test_report_of_an_unusual_record_draws_every_chart_on_a_phone(browser, tmp_path, screenshots, make):
    page = opened(browser, make, tmp_path, look="phone")
    page.screenshot(screenshots / f"{make.__name__.removesuffix('_record')}-phone.png")
    assert_sound(page, tmp_path / "report.html")
    page.close()


def test_report_on_a_narrow_phone_does_not_overflow(browser, tmp_path):
    page = opened(browser, records.classification_record, tmp_path, look="phone")
    page.resize(320, 640, phone=True)
    page.wait_for("document.documentElement.clientWidth === 320")
    assert page.evaluate("document.documentElement.scrollWidth") <= 320
    page.close()


def test_report_when_the_system_turns_dark_redraws_its_charts(browser, tmp_path):
    page = opened(browser, records.one_evaluation_record, tmp_path)
    grid = "getComputedStyle(document.querySelector('#loss-steps .gridlayer path')).stroke"
    card = "getComputedStyle(document.querySelector('.figure')).backgroundColor"
    light = page.evaluate(grid), page.evaluate(card)
    page.use_dark(True)
    page.wait_for(f"{grid} !== '{light[0]}'")
    assert page.evaluate(card) != light[1]
    page.use_dark(False)
    page.wait_for(f"{grid} === '{light[0]}'")
    assert page.complaints() == []
    page.close()


def test_report_draws_folded_layers_when_they_are_opened(browser, tmp_path):
    page = opened(browser, records.deep_record, tmp_path)
    folded = "document.querySelectorAll('details [data-chart]')"
    assert page.evaluate(f"Array.from({folded}).filter((chart) => chart.dataset.drawn).length") == 0
    page.evaluate("document.querySelector('details').open = true")
    page.wait_for(f"Array.from({folded}).every((chart) => chart.dataset.drawn === 'true')")
    page.wait_for(DONE)
    assert_sound(page, tmp_path / "report.html")
    page.close()


def test_report_on_paper_has_its_folded_layers_too(browser, tmp_path):
    page = opened(browser, records.deep_record, tmp_path)
    page.call("Page.printToPDF")
    page.wait_for("Array.from(document.querySelectorAll('[data-chart]')).every((c) => c.dataset.drawn === 'true')")
    page.close()


def test_report_with_hostile_names_shows_them_in_its_charts_letter_by_letter(browser, tmp_path):
    page = opened(browser, records.hostile_record, tmp_path)
    ticks = page.evaluate(
        "Array.from(document.querySelectorAll('#confusion-1 .ytick text')).map((tick) => tick.textContent)"
    )
    assert sorted(ticks) == sorted(["</script><img…", "</script><img…", "$x^2$", "2024-01-01", "1e3"])
    assert page.evaluate("document.title") == " ".join(records.HOSTILE.split())
    assert page.evaluate("document.querySelectorAll('img, b').length") == 0
    page.close()


def test_report_refuses_scripts_and_requests_that_are_not_its_own(browser, tmp_path):
    page = opened(browser, records.bare_record, tmp_path)
    page.evaluate(
        "(() => { const script = document.createElement('script'); script.textContent = 'window.owned = true';"
        "document.body.append(script);"
        "document.body.insertAdjacentHTML('beforeend', '<p onclick=\"window.owned = true\">x</p>');"
        "document.body.lastElementChild.click(); })()"
    )
    assert page.evaluate("window.owned === undefined")
    refused = page.evaluate("fetch('https://example.org/').then(() => 'answered', () => 'refused')")
    assert refused == "refused"
    assert any("Content Security Policy" in complaint for complaint in page.complaints())
    page.close()


def test_report_charts_are_named_and_described_to_a_screen_reader(browser, tmp_path):
    page = opened(browser, records.classification_record, tmp_path)
    nodes = page.call("Accessibility.getFullAXTree")["nodes"]
    images = [node for node in nodes if node.get("role", {}).get("value") == "image" and not node["ignored"]]
    assert len(images) == page.evaluate("document.querySelectorAll('[data-chart]').length")
    assert all(node["name"]["value"] and node["description"]["value"] for node in images)
    page.close()


def test_report_with_a_broken_chart_says_so(browser, tmp_path):
    # The watchman is watched: were charts to fail in silence, every test above would pass.
    path = tmp_path / "report.html"
    write(records.one_evaluation_record(), path)
    path.write_text(path.read_text(encoding="utf-8").replace('"data":[', '"data":[,', 1), encoding="utf-8")
    page = browser.open(path)
    page.wait_for(DONE)
    assert page.evaluate("document.documentElement.dataset.charts") == "failed"
    assert page.evaluate("document.querySelectorAll('[data-drawn=failed]').length") == 1
    assert any("chart loss-steps" in complaint for complaint in page.complaints())
    page.close()
