"""Tables, facts and notes as HTML: every text is escaped here."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape


def table_html(caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], *, kind: str = "") -> str:
    """A table whose first column names its rows.

    caption: what the table holds, read out first by a screen reader.
    header: one text per column; rows: one text per cell, the first a row header. kind: a CSS class of style.css.

    >>> table_html("Pets", ["name", "legs"], [["<cat>", "4"]])[-63:]
    '<tr><th scope="row">&lt;cat&gt;</th><td>4</td></tr></tbody></table></div>'
    """
    head = "".join(f'<th scope="col">{escape(text)}</th>' for text in header)
    body = "".join(
        f'<tr><th scope="row">{escape(row[0])}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in row[1:]) + "</tr>"
        for row in rows
    )
    # A table wider than a phone scrolls inside this box, reachable by keyboard, and never widens the page.
    return (
        f'<div class="scroll" tabindex="0" role="region" aria-label="{escape(caption)}">'
        f'<table class="{escape(kind)}"><caption>{escape(caption)}</caption>'
        f"<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>"
    )


def facts_html(facts: Mapping[str, str]) -> str:
    """A row of small labelled values."""
    pairs = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in facts.items())
    return f'<dl class="facts">{pairs}</dl>'


def paragraph_html(text: str, *, kind: str = "") -> str:
    """One paragraph; nothing at all for an empty text."""
    return f'<p class="{escape(kind)}">{escape(text)}</p>' if text else ""
