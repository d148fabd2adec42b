"""Every bad input of `train` ends in one readable message and exit code 2, and leaves nothing behind."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tests.cli.program import Answer, batchnorm, process

Arguments = list[str | Path]


def table(folder: Path, *lines: str, name: str = "t.csv") -> Path:
    path = folder / name
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def saved(folder: Path, array: np.ndarray) -> Path:
    np.save(folder / "x.npy", array)
    return folder / "x.npy"


def pipe(folder: Path) -> Path:
    os.mkfifo(folder / "pipe.csv")
    return folder / "pipe.csv"


ROWS = [f"{i},{i * i % 7},{'ab'[i % 2]}" for i in range(20)]

WEIGHTED = ("--target", "y", "--weight", "w")

CASES: dict[str, tuple[Callable[[Path], Arguments], str]] = {
    "no such file": (lambda f: [f / "none.csv", "--target", "y"], "there is no file .*none.csv"),
    "a name too long": (lambda f: ["x" * 300 + ".csv", "--target", "y"], "x+.csv"),
    "a folder": (lambda f: [f, "--target", "y"], "is a directory: expected a file"),
    "standard input": (lambda f: ["-", "--target", "y"], "- is standard input: expected a regular file .* write what"),
    "a device": (lambda f: ["/dev/null", "--target", "y"], "/dev/null is a device: expected a regular file"),
    "a pipe": (lambda f: [pipe(f), "--target", "y"], "pipe.csv is a pipe: expected a regular file .* write what comes"),
    "labels from a pipe": (
        lambda f: [saved(f, np.ones((9, 2))), "--labels", pipe(f)],
        "the labels file .*pipe.csv is a pipe: expected an .npy or IDX file",
    ),
    "labels of a name too long": (
        lambda f: [saved(f, np.ones((9, 2))), "--labels", "x" * 300],
        "x{300} cannot be read: File name too long",
    ),
    "labels of test rows that are not named": (
        lambda f: ["wine", "--test-labels", f / "none.npy"],
        "--test-labels expected --test, the file whose labels they are; got no --test: add it",
    ),
    "labels of a built-in set": (
        lambda f: ["wine", "--labels", f / "none.npy"],
        r"wine brings its own target: expected no labels file, got none\.npy: leave --labels out",
    ),
    "no such column": (lambda f: [table(f, "a,b,c", *ROWS), "--target", "d"], "no column 'd'"),
    "no target": (lambda f: [table(f, "a,b,c", *ROWS)], "--target"),
    "one class": (
        lambda f: [table(f, "a,b", *(f"{i},yes" for i in range(9))), "--target", "b"],
        "one class|only.*class|2 classes|at least two",
    ),
    "fewer rows than classes": (
        lambda f: [table(f, "a,b", "1,x", "2,y", "3,z"), "--target", "b"],
        "class",
    ),
    "a non-numeric array": (lambda f: [saved(f, np.array([["a", "b"]])), "--target", "last"], r"x\.npy.*number"),
    "an all-NaN column": (lambda f: [saved(f, nan_column()), "--target", "last"], "column '1'|column 1|'1'"),
    "an empty column": (
        lambda f: [table(f, "a,b,c", *(f"{i},,{'xy'[i % 2]}" for i in range(9))), "--target", "c"],
        "'b'",
    ),
    "an empty file": (lambda f: [table(f), "--target", "a"], "empty"),
    "a header alone": (lambda f: [table(f, "a,b,c"), "--target", "c"], "row"),
    "a wrong feature count": (
        lambda f: [table(f, "a,b,c", *ROWS), "--target", "c", "--test", table(f, "a,c", "1,a", name="u.csv")],
        "lacks 1 column: 'b'",
    ),
    "dates": (
        lambda f: [table(f, "d,y", *(f"2024-01-{i + 1:02},{i % 2}" for i in range(9))), "--target", "y"],
        "date",
    ),
    "a negative size": (lambda f: ["wine", "--hidden", "10,-5"], "--hidden expected sizes >= 1"),
    "a size that is no number": (lambda f: ["wine", "--hidden", "10,x"], "--hidden expected sizes .* got '10,x'"),
    "a size beyond all memory": (lambda f: ["wine", "--hidden", "99999999999"], "each hidden size expected"),
    "a negative batch": (lambda f: ["wine", "--batch-size", "-60"], "--batch-size expected at least 2"),
    "a batch of one": (lambda f: ["wine", "--batch-size", "1"], "a batch of one row has no variance"),
    "no epochs": (lambda f: ["wine", "--epochs", "0"], "--epochs expected a whole number >= 1"),
    "negative steps": (lambda f: ["wine", "--steps", "-1"], "--steps expected a whole number >= 1"),
    "negative patience": (
        lambda f: ["wine", "--patience", "-1"],
        r"--patience expected 0 \(never stop early\)",
    ),
    "a negative seed": (lambda f: ["wine", "--seed", "-1"], "--seed expected"),
    "a share over 1": (lambda f: ["wine", "--test-fraction", "1.5"], "--test-fraction expected a share from 0"),
    "a share that is no number": (
        lambda f: ["wine", "--validation-fraction", "nan"],
        "--validation-fraction exp",
    ),
    "an unknown activation": (lambda f: ["wine", "--activation", "swish"], "--activation expected one of relu"),
    "an unknown norm": (lambda f: ["wine", "--norm", "layer"], "--norm expected batch or none"),
    "an unknown task": (lambda f: ["wine", "--task", "ranking"], "--task expected auto, classification or"),
    "an unknown optimizer": (lambda f: ["wine", "--optimizer", "lion"], "--optimizer expected one of gd"),
    "an unknown class weight": (lambda f: ["wine", "--class-weight", "x"], "--class-weight expected balanced or none"),
    "class weights of a number": (lambda f: ["diabetes", "--class-weight", "balanced"], "--class-weight expected a "),
    "an unknown device": (lambda f: ["wine", "--device", "abacus"], "--device expected auto, cpu"),
    "divided and normalized": (lambda f: ["wine", "--divide-by", "16"], "--divide-by expected input_norm off"),
    "a goal that is no number": (lambda f: ["wine", "--goal", "nan"], "--goal expected a finite number"),
    "compared with itself": (lambda f: ["wine", "--norm", "none", "--compare"], "--compare expected"),
    "a negative interval": (lambda f: ["wine", "--checkpoint-every", "-1"], "--checkpoint-every expected seconds >= 0"),
    "an interval that is no number": (lambda f: ["wine", "--checkpoint-every", "nan"], "--checkpoint-every expected"),
    "a separator of two": (
        lambda f: [table(f, "a,b,c", *ROWS), "--target", "c", "--separator", "ab"],
        "--separator: expected one character",
    ),
    "a huge divisor": (
        lambda f: ["wine", "--divide-by", "1e300", "--no-input-norm"],
        r"--divide-by expected a number from 1e-150 to 1e150, .*, got 1e\+300",
    ),
    "a huge weight": (
        lambda f: [table(f, "a,w,y", *(f"{i},{10 ** (i * 20)},{'ab'[i % 2]}" for i in range(9))), *WEIGHTED],
        r"t\.csv: --weight expected numbers >= 0 and below 2\*\*53 in column 'w', got 1e\+20 in row 2",
    ),
    "weights of zero": (
        lambda f: [table(f, "a,w,y", *(f"{i},0,{'ab'[i % 2]}" for i in range(9))), *WEIGHTED],
        "--weight expected at least one row that counts",
    ),
    "a huge number": (
        lambda f: [table(f, "a,y", *(f"{'1e300' if i == 5 else i},{i % 4}.5" for i in range(40))), "--target", "y"],
        r"t\.csv: column 'a' expected numbers up to 1e\+150, .*, got 1e\+300 in row 6: repair it",
    ),
    "resumed without a folder": (lambda f: ["wine", "--resume"], "--resume expected .* --out runs/NAME; got no --out"),
}


def nan_column() -> np.ndarray:
    array = np.arange(60.0).reshape(20, 3) % 7
    array[:, 1] = np.nan
    return array


def assert_one_message(answer: Answer, said: str) -> None:
    assert answer.code == 2
    assert answer.out == ""
    assert re.fullmatch(r"batchnorm: .+\n", answer.err), answer.err
    assert re.search(said, answer.err), answer.err


@pytest.mark.parametrize("case", CASES)
def test_bad_input_is_one_message_and_exit_code_2(case: str, tmp_path: Path) -> None:
    arguments, said = CASES[case]
    out = [] if "without a folder" in case else ["--out", tmp_path / "run"]
    assert_one_message(batchnorm("train", *arguments(tmp_path), *out), said)
    assert not (tmp_path / "run").exists()
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("out", ["below/a/file", "x" * 300, "file"])
def test_an_out_that_cannot_be_is_one_message(out: str, tmp_path: Path) -> None:
    for name in ("below", "file"):
        (tmp_path / name).write_text("I am a file")
    assert_one_message(
        batchnorm("train", "wine", "--epochs", "1", "--out", out), r"--out .* cannot be used: .*: choose"
    )


def test_an_out_that_may_not_be_written_is_one_message(read_only: Path) -> None:
    assert_one_message(
        batchnorm("train", "wine", "--epochs", "1", "--out", read_only / "run"), "Read-only file system: choose another"
    )


def test_an_out_that_holds_a_run_is_left_alone_unless_told(tmp_path: Path) -> None:
    arguments = ("train", "wine", "--epochs", "1", "--hidden", "4", "--out", "run")
    assert batchnorm(*arguments).code == 0
    model = (tmp_path / "run" / "model.safetensors").read_bytes()
    assert_one_message(
        batchnorm(*arguments), "run holds a finished run: go on with --resume, replace it with --overwrite, or"
    )
    (tmp_path / "run" / "record.json").unlink()
    assert_one_message(batchnorm(*arguments), "run holds an unfinished run")
    assert (tmp_path / "run" / "model.safetensors").read_bytes() == model
    assert batchnorm(*arguments, "--seed", "1", "--overwrite").code == 0
    assert (tmp_path / "run" / "model.safetensors").read_bytes() != model
    assert (tmp_path / "run" / "record.json").exists()


def test_a_run_that_diverges_before_anything_is_kept_says_what_to_do() -> None:
    answer = batchnorm(
        *("train", "wine", "--norm", "none", "--hidden", "5", "--optimizer", "gd", "--learning-rate", "1e30"),
        *("--out", "run"),
    )
    assert_one_message(answer, r"training diverged within .* expected a smaller learning rate than 1e\+30")


@pytest.mark.filterwarnings("default::batchnorm.errors.StatisticsWarning")
def test_warnings_are_notes_without_the_place_in_the_source() -> None:
    answer = batchnorm(
        *("train", "wine", "--hidden", "5", "--optimizer", "gd", "--learning-rate", "1e30", "--out", "run")
    )
    assert answer.code == 2
    first, second = answer.err.splitlines()
    assert first.startswith("note: BatchNorm1d(5): the batch mean or variance of 5 of 5 channels is not finite")
    assert second.startswith("batchnorm: training diverged")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("none.csv", "--target", "y"), "there is no file"),
        (("t.csv", "--target", "y"), "no column 'y'"),
        (("t.csv", "--target", "a"), "different texts"),
        (("t.csv", "--target", "c", "--learning-rate", "0"), "--learning-rate expected a number > 0"),
    ],
    ids=["file", "column", "cells", "setting"],
)
def test_what_is_wrong_with_a_table_is_said_before_torch_is_imported(
    arguments: tuple[str, ...], said: str, tmp_path: Path
) -> None:
    """Importing torch takes seconds: a misspelt name was answered after them."""
    table(tmp_path, "a,b,c", *(f"name {i},{i},{'xy'[i % 2]}" for i in range(60)))
    if "a" in arguments:
        table(tmp_path, "a,b,c", *(f"{i},name {i},{'xy'[i % 2]}" for i in range(60)))
    code = (
        "import sys\n"
        "from batchnorm.cli import main\n"
        f"sys.argv = ['batchnorm', 'train', *{arguments!r}]\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 2\n"
        "assert 'torch' not in sys.modules\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
    assert said in done.stderr


@pytest.mark.skipif(sys.platform != "linux", reason="limits the memory as Linux does")
def test_a_network_larger_than_the_memory_is_one_message() -> None:
    """torch's words for it came with a traceback."""
    limit = 3 << 30
    answer = process(
        *("train", "wine", "--hidden", "30000,30000", "--device", "cpu", "--out", "run"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_AS, (limit, limit)),
    )
    assert_one_message(
        answer, r"expected more memory than there is \(3\.6 GB in one piece\): lower --hidden or --batch-size, or give"
    )


def test_memory_that_numpy_or_python_lacks_is_the_same_message(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object, **__: object) -> None:
        raise MemoryError

    monkeypatch.setattr("batchnorm.data.prepare", read)
    assert_one_message(batchnorm("train", "wine"), "expected more memory than there is: lower")


def test_an_error_of_torch_that_is_none_of_memory_stays_what_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object, **__: object) -> None:
        raise RuntimeError("something else")

    monkeypatch.setattr("batchnorm.data.prepare", read)
    with pytest.raises(RuntimeError, match="something else"):
        batchnorm("train", "wine")


def test_bad_input_of_a_real_process_has_no_traceback() -> None:
    answer = process("train", "nothing.csv", "--target", "y")
    assert_one_message(answer, "there is no file nothing.csv")
