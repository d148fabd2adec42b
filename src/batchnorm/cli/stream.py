"""Lines in, answers out: JSON objects, JSON arrays or CSV, each answered before the next is read."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from typing import IO, TYPE_CHECKING, Any

from batchnorm.cli.progress import note
from batchnorm.errors import DataError

if TYPE_CHECKING:
    from batchnorm.predictor import Predictor

_LONGEST = 1 << 24  # bytes of one line; a longer one is answered with an error

Record = Mapping[str, Any] | Sequence[Any]


def answer_lines(
    predictor: Predictor,
    lines: IO[bytes],
    out: IO[str],
    *,
    header: bool | None = None,
    separator: str | None = None,
    na: tuple[str, ...] = (),
) -> int:
    """Answer every line of `lines` with a JSON line; returns how many got an error instead.

    The first line decides: it begins with { or [ in JSON lines; otherwise it is CSV, and its names unless the model
    was trained without or `header` says so.

    Args:
        separator: of CSV; by default whichever of , ; tab | the first line has.
        na: texts that mean missing in CSV.

    Raises:
        SettingsError: the separator is longer than one character.
    """
    from batchnorm.cli.predict import answer

    if separator is not None:
        from batchnorm.data.formats.text import separator_of

        separator = separator_of(separator)
    parse: Callable[[str], Record] | None = None
    failed = number = 0
    noted = False
    while True:
        raw = lines.readline(_LONGEST)
        if not raw:
            return failed
        number += 1
        try:
            if len(raw) == _LONGEST and not raw.endswith(b"\n"):
                _skip_rest(lines)
                raise DataError(f"expected lines under {_LONGEST} bytes")
            text = _decoded(raw, first=number == 1)
            if not text.strip():
                continue
            if parse is None:
                has_names = predictor.schema.header if header is None else header
                parse, is_row = _parser(text, has_names=has_names, separator=separator, na=na)
                if not is_row:
                    continue
            record = parse(text)
            if not noted and isinstance(record, Mapping):
                noted = note_extra(predictor.schema.extra(record))
            found = answer(predictor, predictor.predictions(predictor.schema.encode_record(record)), 0)
        except DataError as error:
            failed += 1
            found = {"line": number, "error": str(error)}
        out.write(json.dumps(found) + "\n")
        out.flush()


def note_extra(names: tuple[str, ...]) -> bool:
    """Say which columns are ignored; whether there was anything to say."""
    if names:
        note(f"columns that the model does not know are ignored: {', '.join(names)}")
    return bool(names)


def _parser(
    first: str, *, has_names: bool, separator: str | None, na: tuple[str, ...]
) -> tuple[Callable[[str], Record], bool]:
    """How to read further lines like this one, and whether this one is a row itself."""
    if first.lstrip()[0] in "{[":
        return _json_record, True
    mark = separator or max(",;\t|", key=first.count)
    missing = set(na)

    def cells(line: str) -> list[str | None]:
        try:
            row = next(csv.reader([line], delimiter=mark))
        except csv.Error as error:
            raise DataError(f"expected cells separated by {mark!r}, got a line that cannot be cut: {error}") from None
        return [None if cell in missing else cell for cell in row]

    if not has_names:
        return cells, True
    names = [str(name).strip() for name in cells(first)]

    def named(line: str) -> dict[str, Any]:
        row = cells(line)
        if len(row) != len(names):
            raise DataError(f"expected {len(names)} cells, got {len(row)}")
        return dict(zip(names, row, strict=True))

    return named, False


def _json_record(line: str) -> Record:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"expected one JSON object, got text that is not JSON: {error}") from None
    if not isinstance(record, (dict, list)):
        raise DataError(f"expected a JSON object or array, got {type(record).__name__}")
    return record


def _decoded(raw: bytes, *, first: bool) -> str:
    try:
        text = raw.decode("utf-8-sig" if first else "utf-8")
    except UnicodeDecodeError as error:
        raise DataError(f"expected UTF-8 text, got a byte that is not: {error.reason}") from None
    return text.rstrip("\r\n")


def _skip_rest(lines: IO[bytes]) -> None:
    while True:
        raw = lines.readline(_LONGEST)
        if not raw or raw.endswith(b"\n"):
            return
