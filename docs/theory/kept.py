"""Records as they are kept beside the course: what the laboratory found, in strict JSON, and back again.

Every dataclass is an object that says its own class in "kind"; a number that is not finite is its name, because strict
JSON has none. The experiment's own raw numbers are left out: pages and pictures need effects and charts alone.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

from batchnorm.lab import charts
from batchnorm.lab.record import Effect, Record, Verdict

FOLDER = Path(__file__).parent / "records"
DIGITS = 6
"""Significant digits of kept numbers: more than a page shows, few enough for small files."""

_ODD = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_KEPT = (charts.Axis, charts.Series, charts.Level, charts.Lines, charts.Points, charts.Bar, charts.Bars, charts.HeatMap)
_KINDS: dict[str, type] = {kind.__name__: kind for kind in (*_KEPT, charts.Contour, charts.Chart, Effect)}


@dataclass(frozen=True)
class Kept:
    """The part of a `Record` that a page is made of; every field is as there."""

    name: str
    claim: str
    source: str
    finding: str
    verdict: Verdict
    effects: tuple[Effect, ...]
    charts: tuple[charts.Chart, ...]
    data_name: str
    rows: dict[str, int]
    features: int
    seeds: tuple[int, ...]
    seconds: float
    versions: dict[str, str]


_KINDS[Kept.__name__] = Kept


def keep(record: Record, folder: Path = FOLDER) -> None:
    """Write its file, `NAME.json`.

    Raises:
        ValueError: of a quick run, whose numbers are a first look.
    """
    if record.quick:
        raise ValueError(f"{record.name}: expected a record of the full form, got a quick one: leave out quick=True")
    kept = Kept(**{field.name: getattr(record, field.name) for field in fields(Kept)})
    folder.mkdir(exist_ok=True)
    (folder / f"{record.name}.json").write_text(_text(_plain(kept)) + "\n", encoding="utf-8")


def read(name: str, folder: Path = FOLDER) -> Kept:
    """The kept record of an experiment; FileNotFoundError where none is kept."""
    kept = _alive(json.loads((folder / f"{name}.json").read_text(encoding="utf-8")))
    assert isinstance(kept, Kept)
    return kept


def there(folder: Path = FOLDER) -> tuple[str, ...]:
    """Names of the experiments whose records are kept."""
    return tuple(sorted(path.stem for path in folder.glob("*.json")))


def _plain(value: Any) -> Any:
    if is_dataclass(value):
        return {"kind": type(value).__name__} | {f.name: _plain(getattr(value, f.name)) for f in fields(value)}
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if not isinstance(value, float):
        return value
    if not math.isfinite(value):
        return next(name for name, odd in _ODD.items() if repr(odd) == repr(value))
    rounded = float(f"{value:.{DIGITS}g}")
    return int(rounded) if rounded.is_integer() and abs(rounded) < 1e15 else rounded


def _alive(value: Any) -> Any:
    if isinstance(value, dict):
        made = {key: _alive(item) for key, item in value.items() if key != "kind"}
        return _KINDS[value["kind"]](**made) if "kind" in value else made
    if isinstance(value, list):
        return tuple(_alive(item) for item in value)
    return _ODD.get(value, value) if isinstance(value, str) else value


def _text(value: Any, indent: str = "") -> str:
    """JSON with a line for each entry, lists of plain values on one, so that changes can be read."""
    inner = indent + " "
    if isinstance(value, dict) and value:
        entries = [f"{json.dumps(key)}: {_text(item, inner)}" for key, item in value.items()]
        return "{\n" + ",\n".join(inner + entry for entry in entries) + f"\n{indent}}}"
    if isinstance(value, list) and any(isinstance(item, dict) for item in value):
        return "[\n" + ",\n".join(inner + _text(item, inner) for item in value) + f"\n{indent}]"
    return json.dumps(value, ensure_ascii=False, allow_nan=False)
