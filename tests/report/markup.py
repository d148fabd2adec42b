"""Reads a page back with Python's own parser: what a browser would see, as far as tests need it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any

VOID = {"meta", "link", "br", "img", "input", "hr"}


@dataclass
class Element:
    """One element with its attributes and all text inside it."""

    tag: str
    attributes: dict[str, str]
    text: str = ""
    ancestors: tuple[str, ...] = field(default=())


class Page(HTMLParser):
    """`Page(html).elements`: every element in document order."""

    def __init__(self, html: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[Element] = []
        self._open: list[Element] = []
        self.feed(html)
        self.close()
        assert not self._open, f"never closed: {[e.tag for e in self._open]}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        element = Element(tag, {name: value or "" for name, value in attrs}, "", tuple(e.tag for e in self._open))
        self.elements.append(element)
        if tag not in VOID and "/" not in element.attributes:
            self._open.append(element)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append(Element(tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open, f"</{tag}> closes nothing"
        assert self._open[-1].tag == tag, f"</{tag}> inside <{self._open[-1].tag}>"
        self._open.pop()

    def handle_data(self, data: str) -> None:
        for element in self._open:
            element.text += data

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Every `tag` whose attributes have these values (class_ for class)."""
        wanted = {name.rstrip("_"): value for name, value in attributes.items()}
        return [e for e in self.elements if e.tag == tag and wanted.items() <= e.attributes.items()]

    def text(self) -> str:
        """All text outside scripts and styles, without runs of white space."""
        body = self.all("body")[0].text
        for script in self.all("script"):
            body = body.replace(script.text, " ")
        return " ".join(body.split())

    def section(self, identifier: str) -> Element | None:
        """The section with this id."""
        return next(iter(self.all("section", id=identifier)), None)

    def figures(self) -> dict[str, Any]:
        """Every chart's figure by its id, read as strictly as a browser reads JSON."""
        return {
            e.attributes["id"].removesuffix("-data"): json.loads(e.text, parse_constant=_refuse)
            for e in self.all("script", type="application/json")
        }


def _refuse(constant: str) -> None:
    raise AssertionError(f"{constant} is no JSON")
