"""Whole numbers beyond 2**53 lose digits as float64: that is said, once, and only where it is so."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import polars as pl
import pytest

from batchnorm.data import prepare

EXACT = 2**53
ROWS = 40


def notes(cells: object, **options: object) -> tuple[str, ...]:
    frame = pl.DataFrame({"id": cells, "x": range(ROWS), "y": [0.5 * row for row in range(ROWS)]}, strict=False)
    return prepare(frame, target="y", **options).notes  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "cells",
    [
        [EXACT + row for row in range(ROWS)],
        [str(-EXACT - row) for row in range(ROWS)],
        [None if row == 3 else EXACT + row for row in range(ROWS)],
        ["", *("7" * 30 for _ in range(ROWS - 1))],
        pl.Series([2**63 + row for row in range(ROWS)], dtype=pl.UInt64),
        pl.Series([2**100 + row for row in range(ROWS)], dtype=pl.Int128),
    ],
    ids=["integers", "texts", "with a gap", "beyond int64", "unsigned", "128 bits"],
)
def test_column_that_loses_digits_is_noted_once(cells: object) -> None:
    (note,) = notes(cells)
    assert note.startswith("the frame: whole numbers beyond 2**53 lose their last digits in 'id': leave identifiers")


@pytest.mark.parametrize(
    "cells",
    [
        [EXACT - row for row in range(ROWS)],
        [EXACT * 2 + 4 * row for row in range(ROWS)],
        [0.1 + row * EXACT for row in range(ROWS)],
        [f"0.{row:020}1" for row in range(ROWS)],
        pl.Series(range(ROWS), dtype=pl.UInt8),
    ],
    ids=["below", "held exactly", "floats", "decimals", "small"],
)
def test_column_that_loses_none_is_not_noted(cells: object) -> None:
    assert notes(cells) == ()


def test_categories_keep_their_digits() -> None:
    cells = [EXACT + row % 3 for row in range(ROWS)]
    assert notes(cells, categorical=["id"]) == ()


def test_target_and_matrices_count_too(tmp_path: Path) -> None:
    x = np.arange(3 * ROWS).reshape(ROWS, 3) + EXACT
    assert "in '0', '1', '2':" in prepare(x, target=2, task="regression").notes[0]
    np.save(tmp_path / "x.npy", x.astype(np.float64))
    assert prepare(tmp_path / "x.npy", target="last", task="regression").notes == ()


def test_several_columns_share_one_note() -> None:
    frame = pl.DataFrame({f"c{i}": [EXACT + row for row in range(ROWS)] for i in range(20)})
    (note,) = prepare(frame, target="c0").notes
    assert "'c8' and 12 more: leave" in note
