"""The laboratory's page: a table of verdicts, then each experiment with its numbers, its charts and how it was done."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

from batchnorm.lab.record import Effect, Record, Verdict
from batchnorm.report import wording
from batchnorm.report.charts import grid_html
from batchnorm.report.lab_charts import figures
from batchnorm.report.lab_wording import asked, measured
from batchnorm.report.page import Section, page, write_page
from batchnorm.report.provenance import setting
from batchnorm.report.tables import facts_html, paragraph_html, table_html

SHOWN = 6  # effects of one claim in the table of verdicts
_KIND: dict[Verdict, str] = {"holds": "holds", "does not hold here": "fails", "undecided": "undecided"}


def render_lab(records: Sequence[Record], *, missing: Mapping[str, str] | None = None) -> str:
    """The page as one self-contained HTML document.

    Args:
        records: of the experiments that were carried out, at least one, in the order they are shown.
        missing: of the others that were asked for, by name: why they are not there.
    """
    first = records[0]
    one = len(records) == 1 and not missing
    chapters = [_section(record, alone=one) for record in records]
    sections = chapters if one else [_verdicts(records, missing or {}), *chapters]
    data_name = wording.shorten(first.data_name, 60)
    return page(
        f"{_title(first.name)}, on {data_name}" if one else f"Why batch normalization works, on {data_name}",
        eyebrow="The laboratory",
        header=_header(records, missing or {}),
        sections=[*sections, _setup(records)],
        footer=f"Made by batchnorm {first.versions.get('batchnorm', '')}".rstrip()
        + ". This file is complete in itself: it asks nothing of any network.",
    )


def write_lab(records: Sequence[Record], path: Path | str, *, missing: Mapping[str, str] | None = None) -> None:
    """`render_lab` into the file `path`; raises OutputError where it cannot be written."""
    write_page(render_lab(records, missing=missing), path)


def badge_html(verdict: Verdict) -> str:
    """The verdict as a small label, told apart by its words, its frame and its colour."""
    return f'<span class="badge {_KIND[verdict]}">{escape(verdict)}</span>'


def _header(records: Sequence[Record], missing: Mapping[str, str]) -> str:
    first = records[0]
    seeds = sorted({len(record.seeds) for record in records})
    facts = {
        "Data": wording.shorten(first.data_name, 80),
        "Training rows": wording.count(first.rows["train"]),
        "Test rows": wording.count(first.rows["test"]),
        "Features": wording.count(first.features),
        "Seeds": " or ".join(map(str, seeds)),
        "Time": wording.duration(sum(record.seconds for record in records)),
    }
    claim = _claim_html(first) if len(records) == 1 and not missing else ""
    return claim + paragraph_html(_sum_up(records, missing), kind="verdict") + facts_html(facts)


def _sum_up(records: Sequence[Record], missing: Mapping[str, str]) -> str:
    quick = " This was the quick form: its numbers are a first look." if any(r.quick for r in records) else ""
    if len(records) == 1 and not missing:
        return f"{records[0].finding}{quick}"
    counts = Counter(record.verdict for record in records)
    words: dict[Verdict, str] = {"holds": "hold", "does not hold here": "do not hold here", "undecided": "undecided"}
    parts = [f"{counts[v]} {words[v] if counts[v] != 1 else v}" for v in words if counts[v]]
    lacking = f" {wording.plural(len(missing), 'experiment')} asked for could not be shown." if missing else ""
    return f"Of {wording.plural(len(records), 'claim')} put to the test, {', '.join(parts)}.{lacking}{quick}"


def _verdicts(records: Sequence[Record], missing: Mapping[str, str]) -> Section:
    """A line per claim: the verdict, what was measured and what was asked."""
    rows = "".join(
        f'<tr><th scope="row"><a href="#{escape(r.name)}">{escape(_title(r.name))}</a></th>'
        f"<td>{badge_html(r.verdict)}</td><td><strong>{escape(r.claim)}</strong>{_decisive(r)}</td></tr>"
        for r in records
    )
    rows += "".join(
        f'<tr><th scope="row">{escape(_title(name))}</th><td>not there</td><td>{escape(why)}</td></tr>'
        for name, why in missing.items()
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in ("experiment", "verdict", "claim, and what was measured"))
    caption = "Every claim and what was found on these data: the mean over the seeds ± its standard deviation"
    body = (
        '<div class="scroll" tabindex="0" role="region" aria-label="Verdicts">'
        f'<table class="verdicts"><caption>{caption}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table></div>"
    )
    return Section("verdicts", "Verdicts", "", body)


def _decisive(record: Record) -> str:
    """The effects that are asked something, each on a line."""
    lines = [
        f"<br>{escape(e.what)}: {escape(measured(e))} <small>({escape(asked(e))})</small>"
        for e in record.effects
        if e.verdict
    ]
    more = f"<br><small>and {len(lines) - SHOWN} more</small>" if len(lines) > SHOWN else ""
    return "".join(lines[:SHOWN]) + more


def _section(record: Record, *, alone: bool) -> Section:
    """alone: claim and finding stand above already."""
    stated = "" if alone else _claim_html(record) + paragraph_html(record.finding, kind="finding")
    body = f"{stated}{_effects(record)}{grid_html(figures(record.name, record.charts))}{_method(record)}"
    return Section(record.name, "What was measured" if alone else _title(record.name), "", body)


def _claim_html(record: Record) -> str:
    return f'<p class="claim">{badge_html(record.verdict)}<strong>{escape(record.claim)}</strong></p>'


def _effects(record: Record) -> str:
    rows = [[_what(e), measured(e), asked(e) or "reported", e.verdict or ""] for e in record.effects]
    caption = f"Measured over {wording.plural(len(record.seeds), 'seed')}"
    return table_html(caption, ["quantity", "mean ± spread", "asked", "verdict"], rows)


def _what(effect: Effect) -> str:
    return f"{effect.what} ({effect.note})" if effect.note else effect.what


def _method(record: Record) -> str:
    took = f"{wording.plural(len(record.seeds), 'seed')}: {', '.join(map(str, record.seeds))}; "
    took += f"{wording.duration(record.seconds)}{'; quick form' if record.quick else ''}"
    parts = {
        "Source": record.source,
        "How it is measured": record.measured,
        "When it is unfair": record.unfair,
        "Settings": "; ".join(f"{name.replace('_', ' ')} {setting(value)}" for name, value in record.settings.items()),
        "Seeds and time": took,
    }
    pairs = "".join(f"<dt>{escape(name)}</dt><dd>{escape(said)}</dd>" for name, said in parts.items() if said)
    return f'<details><summary>How this was measured</summary><dl class="method">{pairs}</dl></details>'


def _setup(records: Sequence[Record]) -> Section:
    versions = [[name, version] for name, version in records[0].versions.items()]
    return Section("setup", "Versions", "", table_html("Versions", ["package", "version"], versions))


def _title(name: str) -> str:
    """An experiment's name as a heading.

    >>> _title("linear_middle")
    'Linear middle'
    """
    return name.replace("_", " ").capitalize()
