"""Lines in, answers out: JSON objects, JSON arrays or CSV; lines already waiting together, a lone one at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import IO, TYPE_CHECKING

from batchnorm.cli.lines import Stream, waiting_lines
from batchnorm.cli.note import note
from batchnorm.cli.rows import Found, Line, Reader, Record, reader_for
from batchnorm.data.naming import listing
from batchnorm.errors import DataError

if TYPE_CHECKING:
    from batchnorm.predictor import Predictor

_FEW = 8  # records that are tried one by one where one among them cannot be answered


def answer_lines(
    predictor: Predictor,
    stream: Stream,
    out: IO[str],
    *,
    header: bool | None = None,
    separator: str | None = None,
    na: tuple[str, ...] = (),
) -> int:
    """Answer every record of `stream` with a JSON line, in order; returns how many got an error instead.

    The first line decides: it begins with { or [ in JSON lines; otherwise it is CSV, and its names unless the model
    was trained without or `header` says so.

    Args:
        separator: of CSV; by default whichever of , ; tab | the first line has.
        na: texts that mean missing in CSV.

    Raises:
        SettingsError: the separator is longer than one character.
    """
    if separator is not None:
        from batchnorm.data.formats.text import separator_of

        separator = separator_of(separator)
    has_names = predictor.schema.header if header is None else header
    source = _Source(has_names=has_names, separator=separator, na=na)
    answering = _Answering(predictor)
    failed = 0
    for lines in waiting_lines(stream):
        failed += answering.answer(source.read(lines), out)
    return failed + answering.answer(source.rest(), out)


class _Source:
    """Raw lines as what they hold."""

    def __init__(self, *, has_names: bool, separator: str | None, na: Sequence[str]) -> None:
        self._has_names, self._separator, self._na = has_names, separator, na
        self._reader: Reader | None = None
        self._number = 0  # of the last line

    def read(self, lines: list[bytes | DataError]) -> list[Found]:
        """What the lines hold whose records are whole."""
        found: list[Found] = []
        good: list[Line] = []
        for number, raw in enumerate(lines, start=self._number + 1):
            line = _text(raw, is_first=number == 1)
            if isinstance(line, DataError):
                found += self._records(good, is_end=True)
                found.append((number, line))
                good = []
            else:
                good.append((number, line))
        self._number += len(lines)
        return found + self._records(good, is_end=False)

    def rest(self) -> list[Found]:
        """What still waited for further lines when there were no more."""
        return self._records([], is_end=True)

    def _records(self, lines: list[Line], *, is_end: bool) -> list[Found]:
        if self._reader is None:
            first = next((line for _, line in lines if line.strip()), None)
            if first is None:
                return []
            self._reader = reader_for(first, has_names=self._has_names, separator=self._separator, na=self._na)
        return self._reader.read(lines, is_end=is_end)


def _text(raw: bytes | DataError, *, is_first: bool) -> str | DataError:
    if isinstance(raw, DataError):
        return raw
    try:
        return raw.decode("utf-8-sig" if is_first else "utf-8").rstrip("\r")
    except UnicodeDecodeError as error:
        return DataError(f"expected UTF-8 text, got a byte that is not: {error.reason}")


class _Answering:
    """Records as answers, many at once."""

    def __init__(self, predictor: Predictor) -> None:
        from batchnorm.cli.answers import Answers

        self._predictor = predictor
        self._answers = Answers(predictor.schema.classes)
        self._noted = False

    def answer(self, found: list[Found], out: IO[str]) -> int:
        """Write a line for each of `found`; returns how many were errors."""
        if not found:
            return 0
        records = [record for _, record in found if not isinstance(record, DataError)]
        self._note_extra(records)
        answers = iter(self._together(records))
        texts, failed = [], 0
        for number, record in found:
            answer = record if isinstance(record, DataError) else next(answers)
            if isinstance(answer, DataError):
                failed += 1
                answer = json.dumps({"line": number, "error": str(answer)})
            texts.append(answer)
        out.write("\n".join(texts) + "\n")
        out.flush()
        return failed

    def _together(self, records: list[Record]) -> Sequence[str | DataError]:
        if not records:
            return []
        try:
            return self._answers.texts(self._predictor.predict_records(records))
        except DataError:  # one of them cannot be answered: halves find out which, and leave the others together
            if len(records) <= _FEW:
                return [self._alone(record) for record in records]
            middle = len(records) // 2
            return [*self._together(records[:middle]), *self._together(records[middle:])]

    def _alone(self, record: Record) -> str | DataError:
        try:
            x = self._predictor.schema.encode_record(record)
            return self._answers.texts(self._predictor.predictions(x))[0]
        except DataError as error:
            return error

    def _note_extra(self, records: list[Record]) -> None:
        """Say which columns are ignored, once."""
        schema = self._predictor.schema
        if self._noted:
            return
        for record in records:
            if isinstance(record, Mapping) and len(record) != len(schema.columns) and (extra := schema.extra(record)):
                note(f"columns that the model does not know are ignored: {listing(extra)}")
                self._noted = True
                return
