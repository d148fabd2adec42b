"""Column and Target: what is known of one column of a table, as records."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal, TypeAlias

Label: TypeAlias = str | int | float | bool
"""One class of a target."""

_UNIT = re.compile(r"\S\s*(?:\(([^()\[\]]{1,24})\)|\[([^()\[\]]{1,24})\])$")


def unit_of(name: str) -> str | None:
    """The unit that a column's name ends in, in brackets; None where it names none.

    >>> unit_of("petal length (cm)"), unit_of("price [EUR]"), unit_of("age")
    ('cm', 'EUR', None)
    """
    found = _UNIT.search(name.strip())
    return None if found is None else (found[1] or found[2]).strip() or None


@dataclass(frozen=True)
class Column:
    """One feature column of a table and the features that it becomes.

    A number or a boolean becomes one feature, a category one feature per category (1 where the cell is that category).

    Attributes:
        name: the column's name; its number as text where the table has no header.
        kind: what its cells are.
        categories: of a category column, sorted.
        other: whether one more feature stands for the categories that were too rare to have their own, and for those
            never seen. Without it a category never seen has 0 in every feature of the column.
        fill: the mean over the training rows, used where a number is missing; None for a category.
        indicator: whether one more feature is 1 where the cell is missing.
    """

    name: str
    kind: Literal["number", "boolean", "category"]
    categories: tuple[str, ...] = ()
    other: bool = False
    fill: float | None = None
    indicator: bool = False

    @property
    def feature_names(self) -> tuple[str, ...]:
        """One name per feature.

        >>> Column("ocean", "category", ("BAY", "INLAND"), other=True, indicator=True).feature_names
        ('ocean=BAY', 'ocean=INLAND', 'ocean=other', 'ocean is missing')
        """
        if self.kind == "category":
            names = [f"{self.name}={category}" for category in self.categories]
            if self.other:
                names.append(f"{self.name}=other (rare)" if "other" in self.categories else f"{self.name}=other")
        else:
            names = [self.name]
        return (*names, f"{self.name} is missing") if self.indicator else tuple(names)

    @property
    def unit(self) -> str | None:
        """What its numbers are counted in, as its name says."""
        return unit_of(self.name)

    @property
    def width(self) -> int:
        """How many features it becomes."""
        values = len(self.categories) + self.other if self.kind == "category" else 1
        return values + self.indicator


@dataclass(frozen=True)
class Target:
    """What is predicted: one of `classes` (sorted, at least two, all of one type), or a number."""

    name: str
    kind: Literal["class", "number"]
    classes: tuple[Label, ...] = ()

    @property
    def unit(self) -> str | None:
        """What its numbers, and so the predictions, are counted in, as its name says."""
        return unit_of(self.name) if self.kind == "number" else None
