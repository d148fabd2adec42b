"""Whatever a file holds, a message about it stays short and cannot write to the terminal."""

from __future__ import annotations

from collections.abc import Callable
from csv import writer
from pathlib import Path

import pytest

from batchnorm.data import Schema, prepare, read_features
from batchnorm.data.naming import flag, suggestion
from batchnorm.errors import DataError, clipped, legible, quoted

LONG = "y" * 100_000
RED = "\x1b[31mred\x07\n"
HOSTILE = {"very long": LONG, "control characters": RED, "both": RED + LONG}
SHORT = 2_000  # characters: several clipped names and a sentence


def csv(folder: Path, *rows: tuple[str, ...], name: str = "t.csv") -> Path:
    with (folder / name).open("w", encoding="utf-8", newline="") as file:
        writer(file).writerows(rows)
    return folder / name


def rows(header: tuple[str, ...], cell: Callable[[int], tuple[str, ...]], number: int = 40) -> list[tuple[str, ...]]:
    return [header, *map(cell, range(number))]


CASES: dict[str, Callable[[Path, str], object]] = {
    "a header twice": lambda f, h: prepare(csv(f, *rows((h, h, "y"), lambda i: ("1", "2", "ab"[i % 2]))), target="y"),
    "no such column": lambda f, h: prepare(csv(f, *rows((h, "y"), lambda i: ("1", "ab"[i % 2]))), target="z"),
    "a column without a cell": lambda f, h: prepare(
        csv(f, *rows((h, "x", "y"), lambda i: ("", str(i), "ab"[i % 2]))), target="y"
    ),
    "identifiers": lambda f, h: prepare(csv(f, *rows((h, "y"), lambda i: (f"{i:02}{h}", "ab"[i % 2]))), target="y"),
    "dates": lambda f, h: prepare(
        csv(f, *rows((h, "y"), lambda i: (f"2024-01-{i % 28 + 1:02}", "ab"[i % 2]))), target="y"
    ),
    "numbers and a text": lambda f, h: prepare(
        csv(f, *rows((h, "y"), lambda i: (str(i) if i else f"x{h}", "ab"[i % 2]))), target="y"
    ),
    "an infinite number": lambda f, h: prepare(csv(f, *rows((h, "y"), lambda i: ("1e999", "ab"[i % 2]))), target="y"),
    "one class": lambda f, h: prepare(csv(f, *rows(("x", h), lambda i: (str(i), f"c{h}"))), target="last"),
    "as many classes as rows": lambda f, h: prepare(
        csv(f, *rows(("x", h), lambda i: (str(i), f"c{i}"))), target="last"
    ),
    "a target without a cell": lambda f, h: prepare(
        csv(f, *rows(("x", h), lambda i: (str(i), "ab"[i % 2] if i else ""))), target="last"
    ),
    "a class never seen": lambda f, h: prepare(
        csv(f, *rows(("x", "y"), lambda i: (str(i), f"{i % 2}{h}"))),
        target="y",
        test=csv(f, *rows(("x", "y"), lambda i: (str(i), f"z{h}")), name="u.csv"),
    ),
    "test rows without a column": lambda f, h: prepare(
        csv(f, *rows((h, "y"), lambda i: (str(i), "ab"[i % 2]))),
        target="y",
        test=csv(f, *rows(("x", "y"), lambda i: (str(i), "ab"[i % 2])), name="u.csv"),
    ),
    "a cell that is no number": lambda f, h: read_features(
        csv(f, *rows((h, "y"), lambda i: (f"x{h}", "a"))), schema(f, h)
    ),
    "a record's cell": lambda f, h: schema(f, h).encode_record({h.strip(): f"x{h}"}),
    "a record without its column": lambda f, h: schema(f, h).encode_record({"x": 1}),
    "a header line alone": lambda f, h: prepare(csv(f, (h, "y")), target="y"),
    "data as header": lambda f, h: prepare(csv(f, (h, "1.5"), ("1", "2")), target="z"),
    "a header as data": lambda f, h: prepare(
        csv(f, *rows((h, "y"), lambda i: (str(i), "ab"[i % 2]))), target="1", header=False
    ),
    "a stored name": lambda f, h: Schema.from_dict(
        {"columns": [{"name": h, "kind": h}], "target": {}, "header": True, "na": [], "beside": []}
    ),
}


def schema(folder: Path, name: str) -> Schema:
    return prepare(csv(folder, *rows((name, "y"), lambda i: (str(i), "ab"[i % 2])), name="s.csv"), target="y").schema


@pytest.mark.parametrize("hostile", HOSTILE)
@pytest.mark.parametrize("case", CASES)
def test_message_is_short_and_holds_no_control_character(case: str, hostile: str, tmp_path: Path) -> None:
    """A header of a megabyte once came back whole, twice; a coloured one coloured the terminal."""
    with pytest.raises(DataError) as caught:
        CASES[case](tmp_path, HOSTILE[hostile])
    assert len(str(caught.value)) < SHORT
    assert str(caught.value).isprintable()


def test_what_fits_is_shown_whole() -> None:
    name = "x" * 40
    assert (quoted(name), legible(name), clipped(name)) == (f"'{name}'", name, name)
    assert quoted(f"{name}y") == f"'{name}…'"


def test_flag_of_a_name_of_two_lines_can_be_typed() -> None:
    """Spreadsheets write such headers; the column could not be named from what the message said."""
    assert flag("--drop", "signup\ndate 'A'") == r"--drop $'signup\u000adate \'A\''"


def test_suggestion_leaves_very_long_names_alone() -> None:
    assert suggestion(LONG, [f"{LONG}x"]) == suggestion("age", [LONG]) == ""
