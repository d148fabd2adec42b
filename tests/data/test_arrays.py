from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tests.data.files import write_idx

from batchnorm.data import read
from batchnorm.errors import DataError

images = np.arange(4 * 3 * 2, dtype=np.uint8).reshape(4, 3, 2)
digits = np.array([1, 0, 1, 0], dtype=np.uint8)


@pytest.mark.parametrize("dtype", ["uint8", "int8", "int16", "int32", "float32", "float64"])
@pytest.mark.parametrize("ending", ["", ".gz"])
def test_idx_of_every_type_gives_its_array_back(tmp_path: Path, dtype: str, ending: str) -> None:
    path = write_idx(tmp_path / f"some-images-idx3-ubyte{ending}", images.astype(dtype))
    table = read(path)
    assert table.cells.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(table.cells, images.reshape(4, 6))
    assert table.columns == ("0", "1", "2", "3", "4", "5")
    assert table.target is None


def test_idx_images_find_the_labels_beside_them(tmp_path: Path) -> None:
    path = write_idx(tmp_path / "train-images-idx3-ubyte.gz", images)
    write_idx(tmp_path / "train-labels-idx1-ubyte", digits)
    table = read(path)
    np.testing.assert_array_equal(table.target, digits)
    assert table.target_name == "label"


@pytest.mark.parametrize("ending", [".npy", "-idx1-ubyte"])
def test_labels_file_given_is_used(tmp_path: Path, ending: str) -> None:
    path = write_idx(tmp_path / "a.idx", images)
    labels = tmp_path / f"labels{ending}"
    if ending == ".npy":
        np.save(labels, digits[:, None])
    else:
        write_idx(labels, digits)
    np.testing.assert_array_equal(read(path, labels=labels).target, digits)


def test_labels_of_another_file_are_refused_with_both_counts(tmp_path: Path) -> None:
    path = write_idx(tmp_path / "a.idx", images)
    labels = write_idx(tmp_path / "b-idx1-ubyte", digits[:3])
    with pytest.raises(DataError, match="as many labels as rows, got 3 labels for 4 rows"):
        read(path, labels=labels)
    with pytest.raises(DataError, match="there is no labels file"):
        read(path, labels=tmp_path / "none.npy")


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda data: data[:-1], "is cut short: a 4 x 3 x 2 array of uint8 takes 40 bytes, got 39"),
        (lambda data: data + b"\0", "has bytes after its end"),
        (lambda data: data[:9], "is cut short: expected 3 sizes"),
        (lambda data: b"PNG" + data[3:], "is no IDX file"),
        (lambda data: data[:2] + b"\x07" + data[3:], "is no IDX file"),
        (lambda data: data[:3], "is no IDX file"),
        (lambda data: data[:4] + b"\xff" * 12 + data[16:], "is cut short"),
    ],
)
def test_idx_that_is_damaged_is_refused(tmp_path: Path, change, said: str) -> None:  # type: ignore[no-untyped-def]
    path = write_idx(tmp_path / "a.idx", images)
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=said):
        read(path)


@pytest.mark.parametrize("dtype", ["bool", "uint8", ">i4", "uint64", "float16", "<f4", ">f8", "longdouble"])
def test_npy_of_every_numeric_type_is_read(tmp_path: Path, dtype: str) -> None:
    array = np.array([[0, 1], [1, 0], [1, 1]]).astype(dtype)
    np.save(tmp_path / "a.npy", array)
    table = read(tmp_path / "a.npy", target="last")
    np.testing.assert_array_equal(table.cells, array[:, :1])
    np.testing.assert_array_equal(table.target, array[:, 1])
    assert isinstance(table.cells, np.ndarray)
    assert table.cells.dtype.isnative


@pytest.mark.parametrize(
    ("array", "said"),
    [
        (np.array([["a", "b"]]), "expected an array of numbers, got dtype <U1"),
        (np.array([[1 + 2j]]), "got dtype complex128"),
        (np.array(["2024-01-31"], dtype="M8[D]"), "got dtype datetime64"),
        (np.zeros(3), r"expected an array \(N, C\)"),
        (np.zeros((0, 3)), "expected at least one row and one column"),
        (np.zeros((3, 0)), "expected at least one row and one column"),
        (np.zeros(3, dtype=[("a", "f8")]), "got dtype"),
    ],
)
def test_array_that_is_no_numeric_matrix_is_refused(tmp_path: Path, array: np.ndarray, said: str) -> None:
    np.save(tmp_path / "a.npy", array)
    with pytest.raises(DataError, match=said):
        read(tmp_path / "a.npy")


def test_array_of_objects_is_refused_and_never_unpickled(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[object, ...]:
            return (Path.touch, (tmp_path / "exploded",))

    np.save(tmp_path / "a.npy", np.array([[Bomb()]], dtype=object), allow_pickle=True)
    np.savez(tmp_path / "a.npz", X=np.array([[Bomb()]], dtype=object), allow_pickle=True)
    for name in ("a.npy", "a.npz"):
        with pytest.raises(DataError, match="it holds Python objects"):
            read(tmp_path / name)
    assert not (tmp_path / "exploded").exists()


@pytest.mark.parametrize("name", ["a.npy", "a.npz"])
@pytest.mark.parametrize("keep", [3, 30, -5])
def test_array_file_cut_short_is_refused(tmp_path: Path, name: str, keep: int) -> None:
    if name == "a.npy":
        np.save(tmp_path / name, np.ones((4, 4)))
    else:
        np.savez(tmp_path / name, X=np.ones((4, 4)))
    (tmp_path / name).write_bytes((tmp_path / name).read_bytes()[:keep])
    with pytest.raises(DataError, match=r"cannot be read as a NumPy array|is a damaged \.npz file"):
        read(tmp_path / name)


@pytest.mark.parametrize("names", ["Xy", "xY"])
def test_npz_gives_its_arrays_x_and_y(tmp_path: Path, names: str) -> None:
    np.savez(tmp_path / "a.npz", **{names[0]: images, names[1]: np.array(["b", "a", "b", "a"])})
    table = read(tmp_path / "a.npz")
    assert list(table.target) == ["b", "a", "b", "a"]
    assert table.cells.shape == (4, 6)
    assert table.target_name == "y"


def test_npz_without_y_takes_its_target_from_x(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=np.array([[1.5, 0.0], [2.5, 1.0]]))
    assert read(tmp_path / "a.npz", target=1).columns == ("0",)


def test_npz_without_x_is_refused_with_the_names_it_has(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", data=images, labels=digits)
    with pytest.raises(DataError, match=r"expected an array X with the features .* got 'data', 'labels'"):
        read(tmp_path / "a.npz")


def test_npz_with_y_and_a_labels_file_is_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=images, y=digits)
    np.save(tmp_path / "b.npy", digits)
    with pytest.raises(DataError, match="has its own labels y"):
        read(tmp_path / "a.npz", labels=tmp_path / "b.npy")


def test_labels_of_two_columns_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", X=images, y=np.zeros((4, 2)))
    with pytest.raises(DataError, match=r"expected labels \(N,\), one per row, got shape \(4, 2\)"):
        read(tmp_path / "a.npz")
