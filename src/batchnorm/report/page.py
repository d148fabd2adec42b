"""The page: one self-contained HTML file with its style, its scripts and a policy that lets nothing else run.

The policy names each script by its hash and forbids every request, so that the page is the same offline and a text
that slipped through unescaped could still not run.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

from batchnorm.atomic import atomic_write
from batchnorm.report.tables import paragraph_html


@dataclass(frozen=True)
class Section:
    """One chapter of a page: a heading (text), what was found in words (text), and its body (HTML)."""

    id: str
    heading: str
    finding: str
    body: str
    short: str = ""  # the heading's name in the navigation, where it is long


def page(title: str, *, eyebrow: str, header: str, sections: Sequence[Section], footer: str) -> str:
    """The whole document.

    title, eyebrow, footer: text. header: HTML under the title. sections: in reading order, listed in the navigation.
    """
    plotly, charts = _script(_plotly()), _script(_asset("charts.js"))
    return Template(_asset("page.html")).substitute(
        policy=_policy((plotly, charts)),
        style=_asset("style.css"),
        title=escape(title),
        eyebrow=escape(eyebrow),
        header=header,
        contents="".join(f'<li><a href="#{escape(s.id)}">{escape(s.short or s.heading)}</a></li>' for s in sections),
        sections="\n".join(map(_section_html, sections)),
        footer=escape(footer),
        plotly=plotly,
        charts=charts,
    )


def write_page(html: str, path: Path | str) -> None:
    """Write `html` to `path` aside and rename, so that an older page stays whole until the new one is.

    Raises OutputError where the disk refuses.
    """
    # "replace": a lone surrogate from a wrongly decoded column name must not cost the user the report.
    atomic_write(Path(path), html.encode("utf-8", errors="replace"))


def _section_html(section: Section) -> str:
    identifier = escape(section.id)
    return (
        f'<section id="{identifier}" aria-labelledby="{identifier}-heading"><h2 id="{identifier}-heading">'
        f"{escape(section.heading)}</h2>{paragraph_html(section.finding, kind='finding')}{section.body}</section>"
    )


def _policy(scripts: Sequence[str]) -> str:
    hashes = " ".join(
        f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'" for script in scripts
    )
    return (
        f"default-src 'none'; script-src {hashes}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _script(source: str) -> str:
    # The parser ends a script at "</script" even inside a string, and turns CR LF into LF before the hash is checked.
    return source.replace("\r\n", "\n").replace("</script", "<\\/script")


@cache
def _asset(name: str) -> str:
    return (files("batchnorm.report") / name).read_text(encoding="utf-8")


@cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs  # type: ignore[import-untyped]

    return str(get_plotlyjs())
