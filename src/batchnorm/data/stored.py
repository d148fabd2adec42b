"""A schema as JSON values, and back: what comes back is checked to the last value, for a model file may be anyone's."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any, cast

from batchnorm.data.column import Column, Label, Target
from batchnorm.errors import DataError, quoted


def schema_values(
    columns: tuple[Column, ...], target: Target, header: bool, na: tuple[str, ...], beside: tuple[tuple[int, str], ...]
) -> dict[str, Any]:
    """The fields of a Schema as JSON values."""
    return {
        "columns": [_column_to_dict(column) for column in columns],
        "target": _target_to_dict(target),
        "header": header,
        "na": list(na),
        "beside": [list(entry) for entry in beside],
    }


def schema_fields(
    values: object,
) -> tuple[tuple[Column, ...], Target, bool, tuple[str, ...], tuple[tuple[int, str], ...]]:
    """The fields of a Schema from what `schema_values` gave.

    Raises:
        DataError: `values` cannot have come from `schema_values`.
    """
    found = _entries(values, "the schema", ("columns", "target", "header", "na", "beside"), ())
    columns = tuple(map(_column, _checked(found["columns"], list, "the columns")))
    if not columns:
        raise DataError("schema: expected at least one column, got none.")
    names = set(_texts([column.name for column in columns], "the names of the columns"))
    target = _target(found["target"])
    beside = tuple(map(_position, _checked(found["beside"], list, "the columns beside the features")))
    outside = [name for _, name in beside]
    if names.intersection([target.name, *outside]) or len(set(outside)) != len(outside):
        raise DataError("schema: a column is two things at once: a feature, the target or beside the features.")
    places = [position for position, _ in beside]
    if sorted(set(places)) != places or not set(places).issubset(range(len(columns) + len(beside))):
        raise DataError("schema: the positions of the columns beside the features do not fit in the table.")
    header = _checked(found["header"], bool, "'header'")
    return columns, target, header, _texts(found["na"], "the texts that mean missing"), beside


def _column_to_dict(column: Column) -> dict[str, Any]:
    """What stands at its default is left out."""
    result: dict[str, Any] = {"name": column.name, "kind": column.kind}
    if column.kind == "category":
        result["categories"] = list(column.categories)
    if column.other:
        result["other"] = True
    if column.fill is not None:
        result["fill"] = column.fill
    if column.indicator:
        result["indicator"] = True
    return result


def _target_to_dict(target: Target) -> dict[str, Any]:
    result: dict[str, Any] = {"name": target.name, "kind": target.kind}
    if target.kind == "class":
        result["classes"] = list(target.classes)
    return result


def _column(values: object) -> Column:
    found = _entries(values, "a column", ("name", "kind"), ("categories", "other", "fill", "indicator"))
    name = _checked(found["name"], str, "a column's name")
    kind = found["kind"]
    if kind not in ("number", "boolean", "category"):
        raise DataError(
            f"schema: expected column {quoted(name)} to be a number, boolean or category, got {quoted(kind)}."
        )
    column = Column(
        name,
        kind,
        _texts(found.get("categories", []), f"the categories of column {quoted(name)}"),
        _checked(found.get("other", False), bool, f"'other' of column {quoted(name)}"),
        _finite(found["fill"], f"the fill of column {quoted(name)}") if "fill" in found else None,
        _checked(found.get("indicator", False), bool, f"'indicator' of column {quoted(name)}"),
    )
    if kind == "category" and column.fill is not None:
        raise DataError(f"schema: category column {quoted(name)} has a fill; only numbers and booleans have one.")
    if kind != "category" and (column.fill is None or column.categories or column.other):
        raise DataError(f"schema: {kind} column {quoted(name)} must have a fill and no categories.")
    if kind == "category" and column.width == 0:
        raise DataError(f"schema: category column {quoted(name)} has no category.")
    return column


def _target(values: object) -> Target:
    found = _entries(values, "the target", ("name", "kind"), ("classes",))
    name, kind = _checked(found["name"], str, "the target's name"), found["kind"]
    if kind == "number":
        if "classes" in found:
            raise DataError(f"schema: target {quoted(name)} is a number and must have no classes.")
        return Target(name, "number")
    if kind != "class":
        raise DataError(f"schema: expected target {quoted(name)} to be a class or a number, got {quoted(kind)}.")
    classes = tuple(_checked(found.get("classes"), list, f"the classes of target {quoted(name)}"))
    for label in classes:
        if type(label) not in (str, int, float, bool) or (isinstance(label, float) and not math.isfinite(label)):
            raise DataError(f"schema: {quoted(label)} cannot be a class of target {quoted(name)}.")
    kinds = {"number" if type(label) in (int, float) else type(label).__name__ for label in classes}
    if len(classes) < 2 or len(kinds) != 1 or len(set(classes)) != len(classes):
        raise DataError(f"schema: target {quoted(name)} needs at least two different classes, all of one type.")
    return Target(name, "class", cast(tuple[Label, ...], classes))


def _position(entry: object) -> tuple[int, str]:
    if len(_checked(entry, list, "a column beside the features")) != 2:
        raise DataError("schema: expected a position and a name of a column beside the features.")
    position, name = cast(list[object], entry)
    return _checked(position, int, "a position"), _checked(name, str, "a column's name")


def _checked(value: object, kind: type, what: str) -> Any:
    """`value`, which must be exactly a `kind`: a bool is no int here."""
    if type(value) is not kind:
        raise DataError(f"schema: expected {what} to be a {kind.__name__}, got {quoted(value)}.")
    return value


def _entries(values: object, what: str, needed: tuple[str, ...], optional: tuple[str, ...]) -> Mapping[str, Any]:
    """`values`, which must be a dict with the keys `needed` and perhaps `optional` ones."""
    found = _checked(values, dict, what)
    missing = [key for key in needed if key not in found]
    unknown = [key for key in found if key not in needed and key not in optional]
    if missing or unknown:
        said = f"lacks {', '.join(missing)}" if missing else f"has the unknown entry {quoted(unknown[0])}"
        raise DataError(f"schema: {what} {said}.")
    return cast(Mapping[str, Any], found)


def _texts(values: object, what: str) -> tuple[str, ...]:
    """`values`, which must be a list of different texts."""
    found = tuple(_checked(values, list, what))
    for value in found:
        _checked(value, str, f"each of {what}")
    if len(set(found)) != len(found):
        raise DataError(f"schema: {what} repeat themselves.")
    return found


def _finite(value: object, what: str) -> float:
    try:
        result = float(value) if type(value) in (int, float) else math.nan  # type: ignore[arg-type]
    except OverflowError:
        result = math.inf
    if not math.isfinite(result):
        raise DataError(f"schema: expected {what} to be a finite number, got {quoted(value)}.")
    return result
