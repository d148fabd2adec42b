from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
import polars as pl
import pytest
from tests.data.files import two_classes, write_rows

from batchnorm.data import BUILTIN, read
from batchnorm.errors import DataError


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "colours.csv", two_classes(), header="size,colour,sold")


def test_read_sets_the_target_apart_and_leaves_out_the_dropped(colours: Path) -> None:
    table = read(colours, target="sold", drop=["size"])
    assert table.columns == ("colour",)
    assert table.target_name == "sold"
    assert list(table.target[:2]) == ["yes", "no"]
    assert table.beside == ((0, "size"), (2, "sold"))
    assert len(table) == 40


@pytest.mark.parametrize(("target", "expected"), [("last", "2"), ("0", "0"), (1, "1"), ("-1", "2"), (-3, "0")])
def test_target_without_header_is_a_number_or_last(tmp_path: Path, target: str | int, expected: str) -> None:
    path = write_rows(tmp_path / "t.csv", [(1, 2, 3), (4, 5, 6)])
    assert read(path, target=target, header=False).target_name == expected


def test_target_last_of_a_table_with_header_is_its_last_column(colours: Path) -> None:
    assert read(colours, target="last").target_name == "sold"


@pytest.mark.parametrize("option", ["target", "drop", "categorical"])
def test_column_that_is_not_there_is_refused_with_close_names(colours: Path, option: str) -> None:
    with pytest.raises(DataError, match=rf"has no column 'Color' for --{option} Color\. Did you mean 'colour'\?"):
        read(colours, **{option: "Color"})  # type: ignore[arg-type]


@pytest.mark.parametrize("wanted", ["3", "-4", "sold"])
def test_column_number_out_of_range_is_refused_with_the_range(tmp_path: Path, wanted: str) -> None:
    path = write_rows(tmp_path / "t.csv", [(1, 2, 3)])
    with pytest.raises(DataError, match=rf"has no column '{wanted}' .* known by number, 0 to 2"):
        read(path, target=wanted, header=False)


@pytest.mark.parametrize("option", ["drop", "categorical"])
def test_target_in_another_option_is_refused(colours: Path, option: str) -> None:
    with pytest.raises(DataError, match=rf"'sold' is the target and cannot be in --{option}"):
        read(colours, target="sold", **{option: ["sold"]})  # type: ignore[arg-type]


def test_table_without_features_is_refused(colours: Path) -> None:
    with pytest.raises(DataError, match="at least one feature column beside the target"):
        read(colours, target="sold", drop=["size", "colour"])


def test_file_that_is_not_there_is_refused_with_close_names(colours: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(colours.parent)
    with pytest.raises(DataError, match=r"there is no file colors\.csv\. Did you mean 'colours\.csv'\?"):
        read("colors.csv")
    with pytest.raises(DataError, match="Did you mean 'digits'"):
        read("digit")
    with pytest.raises(DataError, match="there is no directory nowhere either"):
        read("nowhere/t.csv")
    with pytest.raises(DataError, match="is a directory"):
        read(".")
    with pytest.raises(DataError, match="cannot be read: File name too long"):
        read(f"{'x' * 300}.csv")


def test_file_of_unknown_format_is_refused_with_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match=r"expected one of the formats \.csv, \.tsv, .* got '\.xlsx'"):
        read(tmp_path / "t.xlsx")


@pytest.mark.parametrize("source", [5, None, [1, 2]])
def test_source_of_no_known_kind_is_refused(source: object) -> None:
    with pytest.raises(DataError, match="expected a path, a built-in set, a frame or an array, got"):
        read(source)


def test_labels_beside_a_table_are_refused(colours: Path) -> None:
    with pytest.raises(DataError, match="is a table: expected its target among its columns, got the labels file"):
        read(colours, labels="labels.npy")
    with pytest.raises(DataError, match="expected labels= only beside a file"):
        read(np.zeros((2, 2)), labels="labels.npy")


@pytest.mark.parametrize("name", BUILTIN)
def test_builtin_set_comes_with_names_and_target(name: str) -> None:
    table = read(name)
    assert table.target is not None
    assert len(table.target) == len(table) == {"digits": 1797, "wine": 178, "breast_cancer": 569, "diabetes": 442}[name]
    assert not table.columns[0].isdigit()


def test_builtin_set_refuses_another_target() -> None:
    with pytest.raises(DataError, match="wine brings its own target 'cultivar': expected no other, got 'hue'"):
        read("wine", target="hue")
    assert read("wine", target="cultivar").target_name == "cultivar"


def test_frames_and_files_of_the_same_rows_are_the_same_table(colours: Path, tmp_path: Path) -> None:
    polars = pl.read_csv(colours)
    polars.write_parquet(tmp_path / "t.parquet")
    sources = [polars, polars.lazy(), pd.read_csv(colours), tmp_path / "t.parquet"]
    for source in sources:
        table = read(source, target="sold")
        assert table.columns == ("size", "colour")
        assert table.record(3) == {"size": 1.5, "colour": "red"}
        assert table.target[3] == "no"


def test_pandas_missing_cells_of_every_kind_are_missing() -> None:
    source = pd.DataFrame(
        {
            "a": [1.0, np.nan],
            "b": ["x", None],
            "c": pd.array([1, None], dtype="Int64"),
            "d": pd.Categorical(["u", None]),
            "e": [True, None],
            "y": [1, 2],
        }
    )
    table = read(source, target="y")
    assert table.record(0) == {"a": 1.0, "b": "x", "c": 1, "d": "u", "e": True}
    assert set(table.record(1).values()) == {None}


def test_pandas_frame_with_a_repeated_name_is_refused() -> None:
    with pytest.raises(DataError, match="got 'a' twice"):
        read(pd.DataFrame([[1, 2]], columns=["a", "a"]))


def test_frame_without_rows_is_refused(tmp_path: Path) -> None:
    empty = pl.DataFrame({"a": [], "y": []})
    empty.write_parquet(tmp_path / "t.parquet")
    with pytest.raises(DataError, match="no rows"):
        read(empty)
    with pytest.raises(DataError, match="no rows"):
        read(tmp_path / "t.parquet")


def test_parquet_that_is_damaged_is_refused(tmp_path: Path) -> None:
    pl.DataFrame({"a": [1]}).write_parquet(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes((tmp_path / "t.parquet").read_bytes()[:-7])
    with pytest.raises(DataError, match=r"t\.parquet cannot be read as Parquet"):
        read(tmp_path / "t.parquet")


def test_rows_taken_keep_their_numbers(colours: Path) -> None:
    table = read(colours).take(np.array([3, 5])).take(np.array([1]))
    assert table.row_number(0) == 6
    assert table.record(0)["size"] == "2.5"


def test_importing_data_imports_nothing_heavy() -> None:
    import subprocess
    import sys

    heavy = ("torch", "polars", "sklearn", "pandas", "plotly")
    code = f"import sys, batchnorm.data; print([m for m in {heavy} if m in sys.modules])"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"
