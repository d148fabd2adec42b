from __future__ import annotations

import csv
import gzip
import io
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from batchnorm.data.formats.text import Dialect, read_text, sniff
from batchnorm.errors import DataError, SettingsError


def cells(path: Path, **options: object) -> list[tuple[object, ...]]:
    return read_text(path, **{"header": False, **options}).cells.rows()  # type: ignore[arg-type, union-attr]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.csv"


@pytest.mark.parametrize("separator", [",", ";", "\t", "|"])
def test_separator_of_four_kinds_is_found(path: Path, separator: str) -> None:
    path.write_text(f"a{separator}b\n1{separator}x\n2{separator}y\n")
    assert cells(path, header=True) == [("1", "x"), ("2", "y")]


def test_separator_where_commas_write_decimals_is_the_semicolon(path: Path) -> None:
    path.write_text("1,5;2,5\n3,5;4,5\n")
    assert cells(path) == [("1,5", "2,5"), ("3,5", "4,5")]


def test_separator_within_quotes_is_no_separator(path: Path) -> None:
    path.write_text('name;x\n"a,b";1\n"c;d";2\n')
    assert cells(path, header=True) == [("a,b", "1"), ("c;d", "2")]


def test_single_quotes_around_separators_are_quotes() -> None:
    assert sniff("'a,b',1\n'c',2\n") == Dialect(",", "'")


def test_single_quotes_around_cells_are_no_part_of_them(path: Path) -> None:
    path.write_text("'40-49','it''s'\n'50-59',nan\n")
    assert cells(path) == [("40-49", "it''s"), ("50-59", None)]


@pytest.mark.parametrize(("said", "used"), [("tab", "\t"), ("\\t", "\t"), ("semicolon", ";"), ("^", "^")])
def test_separator_named_or_given_is_used(path: Path, said: str, used: str) -> None:
    path.write_text(f"1{used}2\n")
    assert cells(path, separator=said) == [("1", "2")]


@pytest.mark.parametrize("separator", [";;", "", '"', "é"])
def test_separator_of_no_single_character_is_refused(path: Path, separator: str) -> None:
    path.write_text("1,2\n")
    with pytest.raises(SettingsError, match="expected one character such as ';'"):
        cells(path, separator=separator)


def test_tsv_file_keeps_its_commas(tmp_path: Path) -> None:
    (tmp_path / "t.tsv").write_text("a,b\n1,2\n")
    assert cells(tmp_path / "t.tsv") == [("a,b",), ("1,2",)]


def test_single_column_file_is_one_column(path: Path) -> None:
    path.write_text("7\n1\n\n2\n")
    assert cells(path) == [("7",), ("1",), ("2",)]


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_text_in_utf8_with_and_without_mark_and_utf16_is_read(path: Path, encoding: str) -> None:
    path.write_text("größe,y\n1,ä\n", encoding=encoding)
    table = read_text(path, header=True)
    assert table.columns == ("größe", "y")
    assert table.cells.rows() == [("1", "ä")]  # type: ignore[union-attr]


def test_text_in_latin1_is_refused_with_its_line(path: Path) -> None:
    path.write_bytes("a,b\n1,x\n2,ä\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"t\.csv is not UTF-8: .* got the byte 0xe4 in line 3\. .* save it as UTF-8"):
        cells(path)


def test_text_with_zero_bytes_is_refused(path: Path) -> None:
    path.write_bytes("a,b\n".encode("utf-16-le"))
    with pytest.raises(DataError, match="holds zero bytes"):
        cells(path)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_line_ends_of_every_system_are_read(path: Path, end: str) -> None:
    path.write_bytes(end.join(["a,b", "1,x", "", "2,y", ""]).encode())
    assert cells(path, header=True) == [("1", "x"), ("2", "y")]


def test_gzipped_text_is_unpacked(tmp_path: Path) -> None:
    path = tmp_path / "t.csv.gz"
    path.write_bytes(gzip.compress(b"1,2\n"))
    assert cells(path) == [("1", "2")]
    path.write_bytes(gzip.compress(b"1,2\n" * 100)[:-10])
    with pytest.raises(DataError, match=r"t\.csv\.gz is a damaged gzip file"):
        cells(path)


@pytest.mark.parametrize(("content", "said"), [("", "got 0 bytes"), ("\n \n\n", "got only blank lines")])
def test_empty_file_is_refused(path: Path, content: str, said: str) -> None:
    path.write_text(content)
    with pytest.raises(DataError, match=f"is empty: .*{said}"):
        cells(path)


def test_header_alone_is_refused(path: Path) -> None:
    path.write_text("a,b\n")
    with pytest.raises(DataError, match=r"has a header line and no rows: expected at least one row below 'a', 'b'\."):
        cells(path, header=True)


def test_repeated_column_name_is_refused_with_both_places(path: Path) -> None:
    path.write_text("a,b,a\n1,2,3\n")
    with pytest.raises(DataError, match=r"got 'a' twice, as columns 0 and 2 \(counted from 0\)"):
        cells(path, header=True)


def test_column_without_name_is_named_by_its_place(path: Path) -> None:
    path.write_text(",b\n1,2\n")
    assert read_text(path, header=True).columns == ("column 0", "b")


@pytest.mark.parametrize("first", ["5.1,3.5,x", "5,1,1"])
def test_first_line_of_data_is_refused_as_header(path: Path, first: str) -> None:
    path.write_text(f"{first}\n4,3,2\n")
    with pytest.raises(DataError, match=r"first line looks like data: .* say --no-header"):
        cells(path, header=True)


def test_header_line_read_as_data_is_refused(path: Path) -> None:
    path.write_text("size,colour\n1,red\n2,blue\n")
    with pytest.raises(DataError, match=r"got 'size', 'colour' in the first line .* leave --no-header out"):
        cells(path)
    path.write_text("big,red\nsmall,blue\n")
    assert len(cells(path)) == 2


def test_single_cell_that_is_endless_is_refused(path: Path) -> None:
    path.write_text("x" * 200_000 + '\n"y",\n')
    with pytest.raises(DataError, match="cannot be cut into cells in line 1: field larger than field limit"):
        cells(path)


def test_first_line_of_numbers_that_holds_the_target_is_a_header(path: Path) -> None:
    path.write_text("0.5,1.5,y\n1,2,3\n")
    assert read_text(path, header=True, named="y").columns == ("0.5", "1.5", "y")


@pytest.mark.parametrize(("row", "found"), [("1", 1), ("1,2,3", 3), ("1,,", 3)])
def test_ragged_line_is_refused_with_its_number(path: Path, row: str, found: int) -> None:
    path.write_text(f"a,b\n1,2\n\n{row}\n3,4\n")
    with pytest.raises(DataError, match=rf"expected 2 cells in every row, .* got {found} in line 4\."):
        cells(path, header=True)


@pytest.mark.parametrize("row", ['"1"', '"1",2,3'])
def test_ragged_record_among_quotes_is_refused_with_its_number(path: Path, row: str) -> None:
    path.write_text(f'a,b\n"x\ny",2\n{row}\n3,4\n')
    with pytest.raises(DataError, match=r"expected 2 cells in every row, .* in record 3\."):
        cells(path, header=True)


def test_missing_texts_and_given_ones_are_null(path: Path) -> None:
    path.write_text("1, NA ,?,x\n,null,n/a,NaN\n")
    assert cells(path, na=("?",)) == [("1", None, None, "x"), (None, None, None, None)]


def test_stray_quotes_do_not_stop_the_reader(path: Path) -> None:
    path.write_text('a,b\n"3" ,4\n5" pipe,6\n')
    assert cells(path, header=True) == [("3", "4"), ('5" pipe', "6")]


grid = st.integers(1, 4).flatmap(
    lambda width: st.lists(
        st.lists(st.text(alphabet="ab 1,;\"'\n\t|", max_size=5), min_size=width, max_size=width), min_size=1, max_size=8
    )
)


@settings(deadline=None)
@given(grid)
def test_any_grid_of_texts_is_cut_as_the_standard_library_cuts_it(rows: list[list[str]]) -> None:
    from batchnorm.data.formats.text import _cells

    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n", quoting=csv.QUOTE_ALL).writerows([["x"] * len(rows[0]), *rows])
    frame = _cells(stream.getvalue(), Dialect(","), width=len(rows[0]), name="t")
    found = [["" if cell is None else cell for cell in row] for row in frame.rows()[1:]]
    # A lone cell of blanks may be taken for a blank line.
    assert [row for row in found if row[0].strip() or row[1:]] == [row for row in rows if row[0].strip() or row[1:]]
