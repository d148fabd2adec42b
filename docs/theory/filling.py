"""Pages of the course: templates whose places are filled from kept records.

A place is `{{word}}` or `{{word "argument"}}`. An argument names an effect or a chart by its words, their start or a
part of them; one that fits none, or two, is an error, so that a page never shows another number than it says.
A template lies one folder deeper than its page: its links begin with `../`, which is taken away.
"""

from __future__ import annotations

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from docs.theory.course import COURSE, PAGES
from docs.theory.kept import Kept

from batchnorm.lab.charts import Chart
from batchnorm.lab.record import Effect
from batchnorm.report import wording
from batchnorm.report.lab_wording import asked
from batchnorm.report.lab_wording import measured as in_words

TEMPLATES = Path(__file__).parent / "pages"
_PLACE = re.compile(r'\{\{(\w+)(?: "([^"]*)")?\}\}')
T = TypeVar("T", Effect, Chart)


def page(name: str, record: Kept) -> str:
    """The page of an experiment.

    Raises:
        ValueError: the template has a place that nothing fits, or more than one.
    """
    body = _PLACE.sub(lambda place: _filled(place[1], place[2] or "", record), template(name))
    return _links(f"{_NOTE}\n{body.rstrip()}\n\n---\n\n{_neighbours(name)}\n")


def index(records: Sequence[Kept]) -> str:
    """The page that leads to the others."""
    body = template("README").replace("{{contents}}", _contents({record.name: record for record in records}))
    left = _PLACE.search(body)
    if left:
        raise ValueError(f"README: expected no place but {{{{contents}}}}, got {left[0]}")
    return _links(f"{_NOTE}\n{body.rstrip()}\n")


def pictured(name: str, record: Kept) -> dict[str, Chart]:
    """The charts that the page shows, by the names of their files."""
    titles = [place[2] or "" for place in _PLACE.finditer(template(name)) if place[1] == "picture"]
    charts = [_one(record.charts, title, name) for title in titles]
    return {_file(name, chart): chart for chart in charts}


def template(name: str) -> str:
    """The text of a page before it is filled."""
    return (TEMPLATES / f"{name}.md").read_text(encoding="utf-8")


_NOTE = "<!-- Made by docs/theory/make.py from pages/ and records/: edit those. -->\n"


def _filled(word: str, argument: str, record: Kept) -> str:
    if word == "effect":
        return measured(_one(record.effects, argument, record.name))
    if word == "mean":
        return measured(_certain(_one(record.effects, argument, record.name)))
    if word == "asked":
        return asked(_one(record.effects, argument, record.name))
    if word == "picture":
        chart = _one(record.charts, argument, record.name)
        return f"![{chart.title}](pictures/{_file(record.name, chart)})\n\n*{chart.title}. {chart.reading}*"
    if word == "verdict":
        return _verdict(record, argument)
    whole = {
        "table": _table(record),
        "yourself": _yourself(record),
    }
    if word not in whole or argument:
        known = ", ".join(("effect", "mean", "asked", "picture", "verdict", *whole))
        raise ValueError(f"{record.name}: expected one of {known} in a place, got {word!r} {argument!r}")
    return whole[word]


def measured(effect: Effect) -> str:
    """In words; a mean that is 0 but for rounding, far within its spread, is said as 0.

    >>> measured(Effect("apart", (-0.01, 0.0, 0.01 - 1e-9), unit="points")).replace("\N{NO-BREAK SPACE}", " ")
    '0 ± 1 points'
    """
    if abs(effect.mean) < 1e-4 * effect.spread:
        end = effect.spread * math.sqrt((len(effect.values) - 1) / 2)  # of values around 0 with the same spread
        effect = replace(effect, values=(end, -end, *(0.0 for _ in effect.values[2:])))
    return in_words(effect)


def _certain(effect: Effect) -> Effect:
    """The same mean without its spread."""
    return Effect(effect.what, (effect.mean,), effect.unit)


def _one(found: Sequence[T], argument: str, name: str) -> T:
    """The effect or chart that is called so; else the one whose words begin so; else the one that contains them."""
    called = [(one.what if isinstance(one, Effect) else one.title, one) for one in found]
    for fits in (str.__eq__, str.startswith, str.__contains__):
        chosen = [one for words, one in called if fits(words, argument)]
        if chosen:
            break
    if len(chosen) != 1:
        names = "; ".join(words for words, _ in called)
        raise ValueError(f"{name}: expected {argument!r} to fit one of: {names}; it fits {len(chosen)}")
    return chosen[0]


def _file(name: str, chart: Chart) -> str:
    slug = re.sub(r"[^a-z0-9]+", "-", chart.title.lower().replace("'", "")).strip("-")
    return f"{name}-{slug}.svg"


def _verdict(record: Kept, written: str) -> str:
    """The verdict and the finding; the argument is the verdict that the words around were written for."""
    if record.verdict != written:
        raise ValueError(
            f"{record.name}: its page was written for {written!r}, its record says {record.verdict!r}: read the page "
            'again, mend what is no longer so, and change its {{verdict "..."}}'
        )
    return f"**{record.verdict.capitalize()}.** {record.finding}"


def _table(record: Kept) -> str:
    lines = ["| measured | mean ± spread | asked | verdict |", "|---|---|---|---|"]
    for effect in record.effects:
        what = f"{effect.what} ({effect.note})" if effect.note else effect.what
        cells = (what, measured(effect), asked(effect) or "only reported", effect.verdict or "")
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return "\n".join(lines)


def _yourself(record: Kept) -> str:
    rows = record.rows
    return (
        f"```sh\nbatchnorm lab {record.name}\n```\n\n"
        f"This page: {record.data_name}, {wording.count(rows['train'])} training and {wording.count(rows['test'])} "
        f"test rows of {record.features} features, seeds {', '.join(map(str, record.seeds))}; "
        f"it took {wording.duration(record.seconds)} with torch {record.versions['torch']} on one thread. "
        f"`batchnorm lab {record.name} YOUR.csv --target COLUMN` asks your data; `--quick` takes a tenth of the time."
    )


def _neighbours(name: str) -> str:
    at = PAGES.index(name)
    before = [f"[before: {title(PAGES[at - 1])}]({PAGES[at - 1]}.md)"] if at else []
    after = [f"[next: {title(PAGES[at + 1])}]({PAGES[at + 1]}.md)"] if at + 1 < len(PAGES) else []
    return " · ".join([*before, "[the course](README.md)", *after])


def title(name: str) -> str:
    """The heading of an experiment's page."""
    return template(name).splitlines()[0].removeprefix("# ")


def _contents(records: dict[str, Kept]) -> str:
    lines = []
    for number, chapter in enumerate(COURSE, start=1):
        lines += [f"### {number}. {chapter.title}", "", "| page | claim | verdict on digits |", "|---|---|---|"]
        for name in chapter.pages:
            if name in records:
                record = records[name]
                lines.append(f"| [{title(name)}]({name}.md) | {record.claim} | {record.verdict} |")
            else:
                lines.append(f"| {name} | no page yet | |")
        lines += ["", chapter.note, ""] if chapter.note else [""]
    return "\n".join(lines).rstrip()


def _links(text: str) -> str:
    return text.replace("](../", "](")
