"""Pages of the guide: between a place's two marks stands what its tool's record says.

A place is `<!-- TOOL: WORD -->...<!-- / -->`, in a line or over several: a page is written by hand, and what was
measured is filled in where it stands. No line of a paragraph begins with a mark: Markdown would take it for HTML.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

Said = Mapping[str, Mapping[str, str]]
"""What can be filled in: by tool, then by word."""

PLACE = re.compile(r"<!-- (\w+): ([^>]*?) -->(.*?)<!-- / -->", flags=re.S)


def filled(page: str, said: Said) -> str:
    """The page with today's numbers.

    Raises:
        ValueError: a place that no tool fills.
    """

    def fill(place: re.Match[str]) -> str:
        tool, word = place[1], place[2]
        if word not in said.get(tool, {}):
            known = ", ".join(said.get(tool, {})) or "nothing: no such tool"
            raise ValueError(f"expected a place of {tool} to be one of {known}; got {word!r}")
        between = "\n\n" if "\n" in said[tool][word] else ""
        return f"<!-- {tool}: {word} -->{between}{said[tool][word]}{between}<!-- / -->"

    return PLACE.sub(fill, page)


def places(page: str) -> set[tuple[str, str]]:
    """Tool and word of every place."""
    return {(place[1], place[2]) for place in PLACE.finditer(page)}
