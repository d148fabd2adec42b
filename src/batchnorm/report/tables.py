"""Tables, facts and notes as HTML: every text is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape

LONGEST_WORD = 24


def table_html(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, kind: str = "") -> str:
    """A table whose first column names its rows.

    caption: what the table holds, read out first by a screen reader.
    header: one text per column; all empty: none is shown. rows: one text per cell, the first a row header.
    kind: a CSS class of style.css.

    >>> html = table_html("Pets", ["name", "legs"], [["<cat>", "4"]])
    >>> html[html.index("<tbody><tr>") + 7 :]
    '<tr><th scope="row">&lt;cat&gt;</th><td>4</td></tr></tbody></table></div>'
    """
    head = "".join(f'<th scope="col"{_breakable(text)}>{escape(text)}</th>' for text in header)
    head = f"<thead><tr>{head}</tr></thead>" if any(header) else ""
    body = "".join(
        f'<tr><th scope="row"{_breakable(row[0])}>{escape(row[0])}</th>'
        + "".join(f"<td{_breakable(cell)}>{escape(cell)}</td>" for cell in row[1:])
        + "</tr>"
        for row in rows
    )
    # A table wider than a phone scrolls inside this box, reachable by keyboard, and never widens the page.
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table class="{escape(kind)}"><caption>{escape(caption)}</caption>'
        f"{head}<tbody>{body}</tbody></table></div>"
    )


def facts_html(facts: Mapping[str, str]) -> str:
    """A row of small labelled values."""
    pairs = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    return f'<dl class="facts">{pairs}</dl>'


def paragraph_html(text: str, *, kind: str = "") -> str:
    """One paragraph; nothing at all for an empty text."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>' if text else ""


def _breakable(text: str) -> str:
    """A word wider than a phone may break anywhere; all others only between words."""
    return ' class="long"' if max(map(len, text.split()), default=0) > LONGEST_WORD else ""
