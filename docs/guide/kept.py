"""Records of the guide's runs: what was measured, kept beside the pages as plain JSON."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from docs.guide.shown import Found

FOLDER = Path(__file__).parent / "records"
DIGITS = 5
"""Significant digits of kept numbers: more than a page shows, few enough for small files."""


def keep(tool: str, found: Found, *, seconds: float, torch: str) -> None:
    """Write the record of a tool, a line for each entry."""
    FOLDER.mkdir(exist_ok=True)
    record = {"tool": tool, "torch": torch, "seconds": seconds, "found": found}
    (FOLDER / f"{tool}.json").write_text(_text(_rounded(record)) + "\n", encoding="utf-8")


def read(tool: str) -> Found:
    """What was measured of a tool; FileNotFoundError where nothing is kept."""
    found: Found = _record(tool)["found"]
    return found


def seconds(tool: str) -> float:
    """How long measuring took."""
    return float(_record(tool)["seconds"])


def _record(tool: str) -> dict[str, Any]:
    record: dict[str, Any] = json.loads((FOLDER / f"{tool}.json").read_text(encoding="utf-8"))
    return record


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_rounded(item) for item in value]
    return float(f"{value:.{DIGITS}g}") if isinstance(value, float) else value


def _text(value: Any, indent: str = "") -> str:
    if not isinstance(value, dict):
        return json.dumps(value, allow_nan=False)
    inner = indent + " "
    entries = (f"{inner}{json.dumps(key)}: {_text(item, inner)}" for key, item in value.items())
    return "{\n" + ",\n".join(entries) + f"\n{indent}}}"
