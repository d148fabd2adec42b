"""Which of a column's categories a cell is, however the cell is typed."""

from __future__ import annotations

from collections.abc import Iterable

from batchnorm.data.cells import is_number, text
from batchnorm.data.column import Column


class CategoryIndex:
    """Finds the position of a cell's feature among its column's features.

    The exact text counts first; failing that, a number that equals one category's ("1.0" and 1 find "1"); failing that,
    "other" where the column has it.
    """

    def __init__(self, column: Column) -> None:
        self._texts = {category: position for position, category in enumerate(column.categories)}
        self._rest = len(column.categories) if column.other else -1
        numeric = [float(category) for category in column.categories if is_number(category)]
        self._numbers = {
            float(category): position
            for category, position in self._texts.items()
            if is_number(category) and numeric.count(float(category)) == 1
        }

    def of(self, value: object) -> int:
        """The position of the feature that is 1 for a cell that is there (a text has been through `cells.plain`).

        Returns -1 where no feature is: a category never seen, in a column without "other".
        """
        said = value if type(value) is str else text(value)
        found = self._texts.get(said)
        if found is None:
            found = self._numbers.get(float(said), self._rest) if self._numbers and is_number(said) else self._rest
        return found

    def of_all(self, values: Iterable[object]) -> list[int]:
        """`of` for each value."""
        return [self.of(value) for value in values]
