from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.data.files import two_classes, write_idx, write_rows

from batchnorm.data import Schema, prepare, read_features
from batchnorm.errors import DataError, SettingsError

HEADER = "size,colour,sold"


@pytest.fixture
def colours(tmp_path: Path) -> Path:
    return write_rows(tmp_path / "colours.csv", two_classes(100), header=HEADER)


def test_prepare_splits_encodes_and_learns_from_training_rows(colours: Path) -> None:
    data = prepare(colours, target="sold", test_fraction=0.2, validation_fraction=0.1, seed=3)
    assert [len(x) for x in (data.x_train, data.x_valid, data.x_test)] == [72, 8, 20]
    assert [len(y) for y in (data.y_train, data.y_valid, data.y_test)] == [72, 8, 20]
    assert data.schema.feature_names == ("size", "colour=blue", "colour=green", "colour=red")
    assert data.schema.columns[0].fill == pytest.approx(data.x_train[:, 0].mean())
    assert data.schema.classes == ("no", "yes")
    assert data.name == "colours.csv"
    assert np.bincount(data.y_test).tolist() == [10, 10]


def test_prepare_keeps_the_test_rows_to_be_shown(colours: Path) -> None:
    data = prepare(colours, target="sold")
    for row in range(3):
        record = data.test_table.record(row)
        np.testing.assert_array_equal(data.schema.encode_record(record)[0], data.x_test[row])
        assert record["size"] == str(0.5 * (data.test_table.row_number(row) - 1))


def test_prepare_with_the_same_seed_gives_the_same_rows(colours: Path) -> None:
    first, second, other = (prepare(colours, target="sold", seed=seed) for seed in (1, 1, 2))
    np.testing.assert_array_equal(first.x_train, second.x_train)
    assert not np.array_equal(first.x_train, other.x_train)


def test_prepare_of_a_number_does_not_stratify(colours: Path) -> None:
    data = prepare(colours, target="size")
    assert data.schema.target.kind == "number"
    assert data.y_train.dtype == np.float64


def test_prepare_takes_the_task_that_is_given(tmp_path: Path) -> None:
    path = write_rows(tmp_path / "t.csv", [(row, row % 3) for row in range(60)], header="a,y")
    assert prepare(path, target="y").schema.target.kind == "class"
    assert prepare(path, target="y", task="regression").y_train.dtype == np.float64
    with pytest.raises(SettingsError, match="task expected auto, classification or regression, got 'guess'"):
        prepare(path, target="y", task="guess")  # type: ignore[arg-type]


def test_prepare_with_a_test_file_uses_all_rows_for_training(colours: Path, tmp_path: Path) -> None:
    rows = [(sold, "?", colour, size) for size, colour, sold in two_classes(10)]
    test = write_rows(tmp_path / "test.csv", rows, header="sold;shop;colour;size", separator=";")
    data = prepare(colours, target="sold", test=test, validation_fraction=0.0)
    assert [len(x) for x in (data.x_train, data.x_valid, data.x_test)] == [100, 0, 10]
    np.testing.assert_array_equal(data.x_test, data.x_train[:10])
    np.testing.assert_array_equal(data.y_test, data.y_train[:10])
    assert data.notes == ("test.csv: ignored 1 column that the model does not know: 'shop'.",)


def test_prepare_with_a_test_file_without_target_is_refused(colours: Path, tmp_path: Path) -> None:
    test = write_rows(tmp_path / "test.csv", [(1, "red")], header="size,colour")
    with pytest.raises(DataError, match=r"test\.csv has no target: expected test rows with 'sold'"):
        prepare(colours, target="sold", test=test)


def test_prepare_with_a_class_that_only_the_test_file_has_is_refused(colours: Path, tmp_path: Path) -> None:
    test = write_rows(tmp_path / "test.csv", [(1, "red", "yes"), (1, "red", "maybe")], header=HEADER)
    with pytest.raises(DataError, match=r"test\.csv: target 'sold' is 'maybe' in row 2, a class that no training row"):
        prepare(colours, target="sold", test=test)


def test_prepare_of_images_finds_labels_and_keeps_pixels_in_float32(tmp_path: Path) -> None:
    generator = np.random.default_rng(0)
    for name, rows in (("train", 60), ("t10k", 20)):
        write_idx(tmp_path / f"{name}-images-idx3-ubyte.gz", generator.integers(0, 256, (rows, 4, 4)).astype(np.uint8))
        write_idx(tmp_path / f"{name}-labels-idx1-ubyte.gz", (np.arange(rows) % 10).astype(np.uint8))
    images = [tmp_path / f"{name}-images-idx3-ubyte.gz" for name in ("train", "t10k")]
    data = prepare(images[0], test=images[1])
    assert data.x_train.dtype == np.float32
    assert data.x_test.shape == (20, 16)
    assert data.schema.classes == tuple(range(10))
    (tmp_path / "t10k-labels-idx1-ubyte.gz").rename(tmp_path / "elsewhere-idx1-ubyte.gz")
    with pytest.raises(DataError, match="a labels file: --test-labels"):
        prepare(images[0], test=images[1])
    again = prepare(images[0], test=images[1], test_labels=tmp_path / "elsewhere-idx1-ubyte.gz")
    np.testing.assert_array_equal(again.y_test, data.y_test)


def test_prepare_without_target_says_which_columns_there_are(colours: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"name it with --target\. The columns are 'size', 'colour', 'sold'"):
        prepare(colours)
    np.save(tmp_path / "a.npy", np.ones((4, 3)))
    with pytest.raises(DataError, match=r"has no target: expected a labels file \(--labels\), .* by number, 0 to 2"):
        prepare(tmp_path / "a.npy")


def test_prepare_with_missing_targets_is_refused_with_their_rows(tmp_path: Path) -> None:
    rows = [(row, "" if row in (3, 5) else row % 2) for row in range(20)]
    path = write_rows(tmp_path / "t.csv", rows, header="a,y")
    with pytest.raises(DataError, match=r"target 'y' is missing in 2 rows of 20, first in row 4"):
        prepare(path, target="y")


def test_prepare_names_the_row_of_a_bad_cell_in_the_file(tmp_path: Path) -> None:
    rows: list[tuple[object, ...]] = [(row, row % 2) for row in range(100)]
    held_out = prepare(write_rows(tmp_path / "t.csv", rows, header="a,y"), target="y").test_table.row_number(0)
    rows[held_out - 1] = ("oops", rows[held_out - 1][1])
    path = write_rows(tmp_path / "t.csv", rows, header="a,y")
    with pytest.raises(DataError, match=rf"expected a finite number in column 'a', .* got 'oops' in row {held_out}\."):
        prepare(path, target="y")


def test_prepare_keeps_a_class_of_one_row_in_training(tmp_path: Path) -> None:
    rows = [(row, "c" if row == 7 else "ab"[row % 2]) for row in range(30)]
    for seed in range(5):
        data = prepare(write_rows(tmp_path / "t.csv", rows, header="a,y"), target="y", seed=seed)
        assert set(data.y_train) == {0, 1, 2}


def test_features_of_a_file_with_and_without_target_are_the_same(colours: Path, tmp_path: Path) -> None:
    schema = prepare(colours, target="sold").schema
    whole = read_features(colours, schema)
    rows = [(colour, size) for size, colour, _ in two_classes(100)]
    bare = read_features(write_rows(tmp_path / "bare.tsv", rows, header="colour\tsize", separator="\t"), schema)
    np.testing.assert_array_equal(whole.x, bare.x)
    assert whole.y is not None
    assert whole.y[:2].tolist() == [1, 0]
    assert bare.y is None
    assert whole.notes == bare.notes == ()


def test_features_of_a_file_with_further_columns_come_with_a_note(colours: Path, tmp_path: Path) -> None:
    schema = prepare(colours, target="sold").schema
    path = write_rows(tmp_path / "p.csv", [(1, "red", 7, "x")], header="size,colour,weight,shop")
    inputs = read_features(path, schema)
    assert inputs.notes == ("p.csv: ignored 2 columns that the model does not know: 'weight', 'shop'.",)
    assert inputs.x.shape == (1, 4)


def test_features_of_a_file_that_lacks_columns_are_refused_with_all_of_them(colours: Path, tmp_path: Path) -> None:
    schema = prepare(colours, target="sold").schema
    path = write_rows(tmp_path / "p.csv", [(1,)], header="Size")
    with pytest.raises(DataError, match=r"p\.csv lacks 2 columns: 'size', 'colour'\. Did you mean 'Size'\?"):
        read_features(path, schema)


def test_features_with_an_unknown_class_come_without_targets_and_with_a_note(colours: Path, tmp_path: Path) -> None:
    schema = prepare(colours, target="sold").schema
    path = write_rows(tmp_path / "p.csv", [(1, "red", "maybe")], header=HEADER)
    inputs = read_features(path, schema)
    assert inputs.y is None
    assert "The target column is not used: p.csv: target 'sold' is 'maybe'" in inputs.notes[0]


@pytest.mark.parametrize("drop", [(), ("0",)])
def test_features_without_header_are_found_with_and_without_target(tmp_path: Path, drop: tuple[str, ...]) -> None:
    rows = [(row, row % 2, 2 * row, row % 5) for row in range(40)]
    path = write_rows(tmp_path / "t.csv", rows)
    data = prepare(path, target="1", header=False, drop=drop, test_fraction=0.0, validation_fraction=0.0)
    whole = read_features(path, data.schema)
    np.testing.assert_array_equal(whole.x, data.x_train)
    np.testing.assert_array_equal(whole.y, data.y_train)
    bare = write_rows(tmp_path / "bare.csv", [(first, *rest) for first, _, *rest in rows])
    np.testing.assert_array_equal(read_features(bare, data.schema).x, data.x_train)
    assert read_features(bare, data.schema).y is None
    narrow = write_rows(tmp_path / "narrow.csv", [row[:1] for row in rows])
    with pytest.raises(DataError, match=r"narrow\.csv: expected \d feature columns .* got 1 column\."):
        read_features(narrow, data.schema)


def test_features_remember_the_texts_that_mean_missing(tmp_path: Path) -> None:
    rows = [("?" if row == 3 else row, row % 2) for row in range(30)]
    path = write_rows(tmp_path / "t.csv", rows, header="a,y")
    data = prepare(path, target="y", na=["?"], test_fraction=0.0, validation_fraction=0.0)
    assert data.schema.feature_names == ("a", "a is missing")
    schema = Schema.from_dict(data.schema.to_dict())
    np.testing.assert_array_equal(read_features(path, schema).x, data.x_train)
    np.testing.assert_array_equal(schema.encode_record({"a": "?"})[0], data.x_train[3])
