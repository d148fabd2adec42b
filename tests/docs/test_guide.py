"""The guide: every tool has a page that says symptom, tool, before and after; numbers and pictures are its records'."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from statistics import fmean, median
from xml.etree import ElementTree

import pytest
from docs.guide import filling, kept, make
from docs.guide.make import PICTURES, TOOLS
from docs.guide.shown import Found

from docs import drawing, labels

MOST_BYTES = 60_000
DRAWN = make.pictures()
PAGES = {path.stem: path.read_text(encoding="utf-8") for path in make.pages()}
NAMED = {
    "recalibrate": ("recalibrate(",),
    "adapt": ("adapt(", "guard"),
    "freeze": ("freeze(", "thaw("),
    "fold": ("fold(",),
    "insert": ("insert(", "drop_redundant_bias("),
    "small_batches": ("GhostBatchNorm", "BatchRenorm", "SyncBatchNorm"),
    "running_averages": ("debias=", "half_life(", "average("),
}


def _id(path: Path) -> str:
    return path.stem


def test_every_tool_of_statistics_and_surgery_has_a_page() -> None:
    assert set(NAMED) == set(PAGES) == {path.stem for path in make.HERE.glob("*.md")}
    for page, words in NAMED.items():
        assert all(word in PAGES[page] for word in words), page


@pytest.mark.parametrize("name", TOOLS)
def test_tool_shows_symptom_tool_and_a_picture_on_its_page(name: str) -> None:
    page = PAGES[make.tool(name).PAGE]
    before = page[: page.index(f"<!-- {name}: ")]
    section = before[before.rindex("**Symptom.**") :]
    assert "**Tool.**" in section
    assert re.search(rf"^!\[[^\]]{{30,}}\]\(pictures/{name}-[\w-]+\.svg\)$", page, flags=re.M), "no picture, or unsaid"
    assert re.search(rf"docs/guide/make\.py measure [\w ]*\b{name}\b", page), "how was it measured?"


@pytest.mark.parametrize("path", make.pages(), ids=_id)
def test_page_says_what_its_records_say(path: Path) -> None:
    assert path.read_text(encoding="utf-8") == make.pages()[path], "run `python docs/guide/make.py`"


def test_everything_that_was_measured_to_be_said_is_said() -> None:
    said = {(name, word) for name, words in make.said().items() for word in words}
    assert said == set().union(*(filling.places(page) for page in PAGES.values()))


@pytest.mark.parametrize("name", PAGES)
def test_page_states_no_accuracy_but_from_a_record(name: str) -> None:
    said = re.sub(r"<!-- \w+: .*?<!-- / -->|^```.*?^```|^    .*?$", "", PAGES[name], flags=re.S | re.M)
    assert not re.search(r"\b\d\d\.\d\b(?! ms)", said)


@pytest.mark.parametrize("name", PAGES)
def test_no_line_of_a_paragraph_begins_as_html(name: str) -> None:
    # Markdown would end the paragraph there, and show the rest of the line as it is written.
    lines = PAGES[name].splitlines()
    for i, line in enumerate(lines):
        if line.startswith("<!--"):
            assert line.count("<!--") == 1, line
            assert not line.split("-->")[1].strip(), line
            assert not lines[i - 1].strip(), line
            assert not lines[i + 1].strip(), line


def test_nothing_is_left_over() -> None:
    assert {path.name for path in PICTURES.iterdir()} == set(DRAWN)
    assert {path.stem for path in kept.FOLDER.iterdir()} == set(TOOLS)
    assert {path.stem for path in (make.HERE / "tools").glob("*.py")} == set(TOOLS)


@pytest.mark.parametrize("name", DRAWN)
def test_picture_is_small_whole_and_of_its_record(name: str) -> None:
    text = (PICTURES / name).read_text(encoding="utf-8")
    assert ElementTree.fromstring(text).tag == "{http://www.w3.org/2000/svg}svg"
    assert len(text.encode()) <= MOST_BYTES
    assert drawing.digest(DRAWN[name], direct=True) in text, "run `python docs/guide/make.py`"
    assert drawing.CARD in text, "without a card of its own it cannot be read in the dark"
    assert not re.search(r"(?:href|src)=\"(?!#)", text), "a picture asks nothing of any network"


@pytest.mark.parametrize("name", TOOLS)
def test_record_is_of_five_seeds(name: str) -> None:
    def lists(value: object) -> list[list[object]]:
        if isinstance(value, dict):
            return [one for item in value.values() for one in lists(item)]
        return [value] if isinstance(value, list) else []

    assert any(len(one) == 5 for one in lists(kept.read(name)))
    assert kept.seconds(name) > 0


def _last(curves: list[list[float]]) -> float:
    return fmean(curve[-1] for curve in curves)


def _right(found: Found, stream: str, way: str, batches: slice = slice(None)) -> float:
    """Share of a stream's rows, in the ReLU network."""
    rows = [sum(one[batches]) / sum(found["sizes"][batches]) for one in found["relu"][stream][way]]
    return fmean(rows)


def _recalibrate(found: Found) -> bool:
    gain = {size: fmean(end["by_4"]) - fmean(end["running"]) for size, end in found["end"].items()}
    return gain["4"] > 0.08 and max(abs(gain[size]) for size in ("8", "16", "32")) < 0.01


def _adapt(found: Found) -> bool:
    repaired = _right(found, "contrast", "off 16") > 0.95 > 0.7 > _right(found, "contrast", "source")
    ruined = _right(found, "sorted", "off 16") < 0.5
    later, first = slice(2, None), slice(2)
    told_apart = all(_right(found, stream, "on 16", later) > 0.95 for stream in ("contrast", "sorted"))
    return repaired and ruined and told_apart and _right(found, "contrast", "on 16", first) < 0.7


def _freeze(found: Found) -> bool:
    accuracy = found["accuracy"]
    same = accuracy["plain"] == accuracy["eval"]
    return same and 0.01 < _last(accuracy["frozen"]) - _last(accuracy["plain"]) < 0.02


def _fold(found: Found) -> bool:
    faster = all(
        median(a / b for a, b in zip(turns[layer], turns[f"{layer} folded"], strict=True)) > 1.05
        for turns in found["seconds"].values()
        for layer in ("torch", "batchnorm")
    )
    return faster and all(
        one["fold"] == one["model"] and one["fx"] != one["model"] for one in found["answers"].values()
    )


def _insert(found: Found) -> bool:
    relu, sigmoid = found["relu"], found["sigmoid"]
    unchanged = [one[0] for one in relu["inserted"]] == [one[-1] for one in relu["before"]]
    learnt = _last(relu["inserted"]) > 0.8 and _last(relu["without"]) < 0.2
    return unchanged and learnt and _last(sigmoid["inserted"]) < 0.2 and _last(sigmoid["reset"]) > 0.9


def _renorm(found: Found) -> bool:
    accuracy = {way: _last(curves) for way, curves in found["accuracy"].items()}
    return accuracy["large"] - accuracy["slow renorm"] < 0.05 < 0.15 < accuracy["slow renorm"] - accuracy["slow"]


def _average(found: Found) -> bool:
    last, buffers, merged, recalibrated = (
        fmean(found["clients"][way]) for way in ("last", "buffers", "merged", "recalibrated")
    )
    snapshots = [fmean(shares) for shares in found["snapshots"].values()]
    return last < buffers < merged < recalibrated and max(snapshots) - min(snapshots) < 0.02


CLAIMS: dict[str, Callable[[Found], bool]] = {
    "recalibrate": _recalibrate,
    "adapt": _adapt,
    "freeze": _freeze,
    "fold": _fold,
    "insert": _insert,
    "redundant_bias": lambda found: max(found["apart"]) < 1e-6 > max(map(max, found["biases"])),
    "renorm": _renorm,
    "sync": lambda found: _last(found["accuracy"]["own"]) < 0.3 < 0.9 < _last(found["accuracy"]["sync"]),
    "ghost": lambda found: (
        fmean(found["noisy"]["8"]) - fmean(found["noisy"]["whole batch"]) > 0.1
        and abs(fmean(found["clean"]["8"]) - fmean(found["clean"]["whole batch"])) < 0.02
    ),
    "debias": lambda found: all(
        fmean(one[4] for one in ways["debias"]) > 0.5 > 0.15 > fmean(one[4] for one in ways["plain"])
        for ways in found.values()  # after 10 batches
    ),
    "half_life": lambda found: (
        0 < fmean(found["4"]["1600"]) - fmean(found["4"]["26"]) < 0.1
        and fmean(found["32"]["1600"]) < fmean(found["32"]["26"])
    ),
    "average": _average,
}


@pytest.mark.parametrize("name", TOOLS)
def test_words_of_the_page_hold_in_the_record(name: str) -> None:
    assert CLAIMS[name](kept.read(name)), f"read the page of {name} and the titles of its pictures again"


def test_place_shows_what_it_names_in_a_line_and_over_several() -> None:
    said = {"fold": {"gain": "2.5", "table": "| a |\n|---|"}}
    assert (
        filling.filled("by <!-- fold: gain -->1<!-- / --> points", said) == "by <!-- fold: gain -->2.5<!-- / --> points"
    )
    once = filling.filled("<!-- fold: table --><!-- / -->", said)
    assert once == "<!-- fold: table -->\n\n| a |\n|---|\n\n<!-- / -->"
    assert filling.filled(once, said) == once


@pytest.mark.parametrize("place", ["fold: loss", "unfold: gain"])
def test_place_that_no_tool_fills_is_refused(place: str) -> None:
    with pytest.raises(ValueError, match="expected a place of"):
        filling.filled(f"<!-- {place} --><!-- / -->", {"fold": {"gain": "2.5"}})


@pytest.mark.parametrize(
    ("wanted", "heights", "expected"),
    [
        ((0.9, 0.1), (0.1, 0.1), (0.9, 0.1)),
        ((0.5, 0.5), (0.1, 0.1), (0.45, 0.55)),
        ((1.2, 0.9, 1.1), (0.1, 0.1, 0.2), (0.95, 0.65, 0.8)),
        ((0.0, 0.02, 0.3), (0.1, 0.1, 0.1), (0.05, 0.15, 0.3)),
    ],
    ids=["far", "same", "beyond the top", "at the bottom"],
)
def test_names_that_would_overlap_are_moved_apart(
    wanted: tuple[float, ...], heights: tuple[float, ...], expected: tuple[float, ...]
) -> None:
    assert labels.apart(wanted, heights) == pytest.approx(expected)


def test_names_beside_lines_and_numbers_on_bars_are_in_the_picture() -> None:
    pytest.importorskip("matplotlib")
    lines = drawing.svg(DRAWN["recalibrate-before-and-after.svg"], direct=True)
    assert "running average" in lines
    bars = DRAWN["average-statistics.svg"]
    assert f"{100 * bars.panels[0].bars[0].heights[0]:.1f}" in drawing.svg(bars, direct=True)
