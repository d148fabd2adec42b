"""Schema: all that must be remembered of a table to turn later rows into what the network was trained on."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np

from batchnorm.data.classes import encode_classes, encode_numbers
from batchnorm.data.column import Column, Label, Target
from batchnorm.data.encode import encode_frame, encode_matrix
from batchnorm.data.naming import count, listing, suggestion
from batchnorm.data.record import RecordEncoder
from batchnorm.data.stored import schema_fields, schema_values
from batchnorm.data.table import Array, Table
from batchnorm.data.target import as_target
from batchnorm.errors import DataError, quoted


@dataclass(frozen=True)
class Schema:
    """The columns and the target of a table, as learnt from its training rows.

    Attributes:
        columns: the C feature columns, in the order of the training table.
        target: what is predicted.
        header: whether columns are known by name; if not, by number from 0.
        na: texts that mean "missing" besides the usual ones.
        beside: (position, name) of the training table's columns that are no features: the target and the dropped ones.

    >>> schema = Schema((Column("age", "number", fill=40.0),), Target("sick", "class", (False, True)))
    >>> schema.encode_record({"age": "52", "name": "ignored"})
    array([[52.]])
    >>> Schema.from_dict(schema.to_dict()) == schema
    True
    """

    columns: tuple[Column, ...]
    target: Target
    header: bool = True
    na: tuple[str, ...] = ()
    beside: tuple[tuple[int, str], ...] = ()

    @cached_property
    def feature_names(self) -> tuple[str, ...]:
        """F names: "age", "age is missing", "ocean=INLAND", "ocean=other"."""
        return tuple(name for column in self.columns for name in column.feature_names)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The names of the C feature columns."""
        return tuple(column.name for column in self.columns)

    @property
    def classes(self) -> tuple[Label, ...]:
        """The classes of the target; empty where it is a number."""
        return self.target.classes

    def encode(self, features: Any) -> Array:
        """Rows as features: columns by name in any order, further ones ignored.

        Args:
            features: a Table; a polars or pandas frame; an array (N, C) in the order of the columns (or as wide as the
                training table, see `positions`); or a sequence of records or of rows.

        Returns:
            (N, F) float64, or float32 where every source value is exact in it. It may share memory with `features`.

        Raises:
            DataError: columns are missing, the width is wrong, or a cell does not fit its column.
        """
        if isinstance(features, Table):
            names = features.columns if features.header else None
            return self._encode_cells(features.cells, names, features.name, features.row_number)
        if isinstance(features, np.ndarray):
            if features.ndim != 2 or features.dtype.kind not in "biuf":
                raise DataError(
                    f"expected a numeric array (N, {len(self.columns)}), got shape {features.shape} of "
                    f"{features.dtype}: one row alone is array.reshape(1, -1), texts go in a frame."
                )
            return self._encode_cells(features, None, "the array", _from_one)
        if hasattr(type(features), "columns"):
            from batchnorm.data import frame

            cells = frame.clean(frame.from_object(features, name="the frame"), self.na)
            return self._encode_cells(cells, tuple(cells.columns), "the frame", _from_one)
        if isinstance(features, (str, bytes, Mapping)) or not isinstance(features, Iterable):
            raise DataError(
                f"expected a Table, a frame, an array (N, C) or a list of records, got {type(features).__name__}: one "
                "record alone goes to encode_record."
            )
        return self.encode_records(features)

    def _encode_cells(
        self, cells: Any, names: tuple[str, ...] | None, table: str, row_number: Callable[[int], int]
    ) -> Array:
        positions = self.find(names, cells.shape[1], table=table)
        if isinstance(cells, np.ndarray):
            whole = positions == tuple(range(cells.shape[1]))
            chosen = cells if whole else cells[:, positions]
            return encode_matrix(self.columns, chosen, table=table, row_number=row_number)
        frame = cells[:, list(positions)]
        frame.columns = list(self.names)
        return encode_frame(self.columns, frame, table=table, row_number=row_number)

    def find(self, names: Sequence[str] | None, width: int, *, table: str) -> tuple[int, ...]:
        """Where the feature columns stand among `width` columns: by their `names` where both sides have any.

        Raises:
            DataError: columns are missing (all are named), or the width is wrong.
        """
        if names is None or not self.header:
            return self.positions(width, table=table)
        by_name = {name: position for position, name in enumerate(names)}
        lacking = [name for name in self.names if name not in by_name]
        if lacking:
            hint = suggestion(lacking[0], [name for name in names if name not in self.names])
            raise DataError(f"{table} lacks {count(len(lacking), 'column')}: {listing(lacking)}.{hint}")
        return tuple(by_name[name] for name in self.names)

    def positions(self, width: int, *, table: str = "the row") -> tuple[int, ...]:
        """Where the feature columns stand in a row of `width` cells without names.

        Three widths make sense: the features alone, the training table's, and the training table's without its target.

        Raises:
            DataError: it is another width.
        """
        features, whole = len(self.columns), len(self.columns) + len(self.beside)
        if width == features:
            return tuple(range(features))
        outside = {position for position, _ in self.beside}
        if width == whole:
            return tuple(position for position in range(whole) if position not in outside)
        target = [position for position, name in self.beside if name == self.target.name]
        if target and width == whole - 1:
            left = [position for position in range(whole) if position != target[0]]
            return tuple(place for place, position in enumerate(left) if position not in outside)
        also = f" (or {whole} with what stood beside them in training)" if self.beside else ""
        raise DataError(f"{table}: expected {count(features, 'feature column')}{also}, got {count(width, 'column')}.")

    @cached_property
    def _record_encoder(self) -> RecordEncoder:
        return RecordEncoder(self.columns, self.na)

    def encode_record(self, record: Mapping[str, Any] | Sequence[Any]) -> Array:
        """One record as features; texts are parsed, None is missing.

        Args:
            record: cells by column name, or in order (see `positions` for the lengths that make sense).

        Returns:
            (1, F) float64.

        Raises:
            DataError: columns are missing (all are named), the length is wrong, or a cell does not fit its column.
        """
        return np.array([self._features_of(record)])

    def encode_records(self, records: Iterable[Mapping[str, Any] | Sequence[Any]]) -> Array:
        """`encode_record` for many: (N, F) float64. An error names the record, counted from 1."""
        rows = []
        for number, record in enumerate(records, start=1):
            try:
                rows.append(self._features_of(record))
            except DataError as problem:
                raise DataError(f"record {number}: {problem}") from None
        return np.array(rows) if rows else np.zeros((0, len(self.feature_names)))

    def _features_of(self, record: Any) -> list[float]:
        encoder = self._record_encoder
        if isinstance(record, Mapping):
            return encoder.encode(record)
        if isinstance(record, np.ndarray):
            record = record.tolist()
        if isinstance(record, (list, tuple)):
            if len(record) == len(self.columns):
                return encoder.encode_sequence(record)
            return encoder.encode_sequence([record[position] for position in self.positions(len(record))])
        raise DataError(
            f"expected a record with cells by column name, or a list of cells, got {type(record).__name__}."
        )

    def extra(self, names: Iterable[str]) -> tuple[str, ...]:
        """Those of `names` that the schema has never heard of: they are ignored, which a user will want to know."""
        return tuple(name for name in names if name not in self._known)

    @cached_property
    def _known(self) -> frozenset[str]:
        return frozenset([*self.names, *(name for _, name in self.beside), self.target.name])

    def encode_target(self, values: Any) -> Array:
        """Targets as what a loss takes.

        Args:
            values: (N,) an array, a series or a sequence; or a Table with a target.

        Returns:
            (N,) int64 class numbers, or float64.

        Raises:
            DataError: a target is missing, no number, or a class that no training row had.
        """
        name, row_number = "the target", _from_one
        if isinstance(values, Table):
            if values.target is None:
                raise DataError(f"{values.name} has no target column {quoted(self.target.name)}.")
            name, row_number, values = values.name, values.row_number, values.target
        else:
            values = as_target(values, self.na)
        encode = encode_classes if self.target.kind == "class" else encode_numbers
        return encode(values, self.target, table=name, row_number=row_number)

    def decode(self, indices: Iterable[int]) -> list[Label]:
        """The class of each class number.

        >>> Schema((), Target("y", "class", ("no", "yes"))).decode(np.array([1, 0]))
        ['yes', 'no']
        """
        return [self.target.classes[int(index)] for index in indices]

    def to_dict(self) -> dict[str, Any]:
        """JSON values; `from_dict` gives an equal schema back."""
        return schema_values(self.columns, self.target, self.header, self.na, self.beside)

    @classmethod
    def from_dict(cls, values: object) -> Schema:
        """The schema that `to_dict` wrote.

        Raises:
            DataError: `values` cannot have come from `to_dict`.
        """
        return cls(*schema_fields(values))

    def __getstate__(self) -> dict[str, Any]:
        # What is cached beside the fields holds compiled functions, which cannot be pickled.
        return {field.name: getattr(self, field.name) for field in fields(self)}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)


def _from_one(position: int) -> int:
    return position + 1
