"""Rows in files: labels and probabilities, or numbers, in CSV or JSON lines."""

from __future__ import annotations

import csv
import io
import subprocess
import sys
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from tests.cli.program import Answer, batchnorm, process, strict_json

from batchnorm.predictor import load


def lines_of(answer: Answer) -> list[dict[str, object]]:
    assert answer.code == 0
    return [strict_json(line) for line in answer.out.splitlines()]


def rows_of(answer: Answer) -> list[list[str]]:
    assert answer.code == 0
    return list(csv.reader(io.StringIO(answer.out)))


@pytest.fixture
def wines(tmp_path: Path) -> Path:
    from sklearn.datasets import load_wine

    bunch = load_wine()
    frame = pl.DataFrame(bunch.data, schema=list(bunch.feature_names), orient="row")
    frame.write_csv(tmp_path / "wines.csv")
    return tmp_path / "wines.csv"


def test_classes_and_their_probabilities_in_csv(wine_model: Path, wines: Path) -> None:
    header, *rows = rows_of(batchnorm("predict", wine_model, wines))
    assert header == ["prediction", "p(class_0)", "p(class_1)", "p(class_2)"]
    assert len(rows) == 178
    for label, *probabilities in rows:
        shares = [float(p) for p in probabilities]
        assert sum(shares) == pytest.approx(1, abs=1e-5)
        assert label == f"class_{int(np.argmax(shares))}"


def test_json_lines_say_the_same_with_all_digits(wine_model: Path, wines: Path) -> None:
    _, *rows = rows_of(batchnorm("predict", wine_model, wines))
    records = lines_of(batchnorm("predict", wine_model, wines, "--json"))
    assert [r["row"] for r in records] == list(range(1, 179))
    assert [r["prediction"] for r in records] == [row[0] for row in rows]
    for record, row in zip(records, rows, strict=True):
        assert record["probabilities"] == pytest.approx(
            {f"class_{i}": float(p) for i, p in enumerate(row[1:])}, rel=1e-5, abs=1e-12
        )


def test_numbers_are_in_the_units_of_the_target(house_model: Path, houses: Path) -> None:
    header, *rows = rows_of(batchnorm("predict", house_model, houses))
    assert header == ["prediction"]
    found = np.array([float(row[0]) for row in rows])
    prices = pl.read_csv(houses)["price"].to_numpy()
    assert np.corrcoef(found, prices)[0, 1] > 0.9
    assert 0.5 < found.mean() / prices.mean() < 1.5
    records = lines_of(batchnorm("predict", house_model, houses, "--json"))
    assert [r["prediction"] for r in records] == found.tolist()
    assert all(r.keys() == {"row", "prediction"} for r in records)


def test_columns_are_found_by_name_in_any_order(house_model: Path, houses: Path) -> None:
    frame = pl.read_csv(houses)
    frame.select(reversed(frame.columns)).write_csv("other.csv")
    first, second = (batchnorm("predict", house_model, path) for path in (houses, "other.csv"))
    assert first.out == second.out
    assert second.err == ""


@pytest.mark.parametrize("ending", ["parquet", "tsv"])
def test_the_same_rows_in_another_format_get_the_same(house_model: Path, houses: Path, ending: str) -> None:
    frame = pl.read_csv(houses)
    frame.write_parquet("h.parquet") if ending == "parquet" else frame.write_csv("h.tsv", separator="\t")
    assert batchnorm("predict", house_model, f"h.{ending}").out == batchnorm("predict", house_model, houses).out


def test_extra_columns_are_ignored_with_one_note(house_model: Path, houses: Path) -> None:
    pl.read_csv(houses).with_columns(pool=pl.lit(1), view=pl.lit("sea")).write_csv("more.csv")
    answer = batchnorm("predict", house_model, "more.csv")
    assert answer.out == batchnorm("predict", house_model, houses).out
    assert answer.err == "note: more.csv: ignored 2 columns that the model does not know: 'pool', 'view'.\n"


def test_missing_columns_are_all_named(house_model: Path, houses: Path) -> None:
    pl.read_csv(houses).drop("rooms", "town").write_csv("less.csv")
    answer = batchnorm("predict", house_model, "less.csv")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == "batchnorm: less.csv lacks 2 columns: 'rooms', 'town'.\n"


@pytest.mark.parametrize("width", [1, 12, 15])
def test_an_array_of_another_width_is_one_message(wine_model: Path, width: int) -> None:
    np.save("x.npy", np.zeros((4, width)))
    answer = batchnorm("predict", wine_model, "x.npy")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("batchnorm: x.npy: expected 13 feature columns")
    assert f"got {width} column" in answer.err


def test_a_category_never_seen_is_answered_like_any_rare_one(house_model: Path, houses: Path) -> None:
    pl.read_csv(houses).with_columns(town=pl.lit("Atlantis")).write_csv("far.csv")
    assert batchnorm("predict", house_model, "far.csv").code == 0


def test_a_file_without_header_is_read_as_in_training(headless_model: Path, iris_like: Path) -> None:
    rows = rows_of(batchnorm("predict", headless_model, iris_like))
    assert rows[0] == ["prediction", "p(left)", "p(right)"]
    assert len(rows) == 61
    text = "".join(",".join(line.split(",")[:3]) + "\n" for line in iris_like.read_text().splitlines())
    Path("features.csv").write_text(text)
    assert rows_of(batchnorm("predict", headless_model, "features.csv")) == rows


def test_a_built_in_set_can_be_predicted_by_name(wine_model: Path, wines: Path) -> None:
    assert batchnorm("predict", wine_model, "wine").out == batchnorm("predict", wine_model, wines).out


def test_one_row_alone_gets_what_it_gets_in_a_file_and_in_python(wine_model: Path, wines: Path) -> None:
    frame, records = pl.read_csv(wines), lines_of(batchnorm("predict", wine_model, wines, "--json"))
    for row in (0, 77, 177):
        frame[row : row + 1].write_csv("one.csv")
        (alone,) = lines_of(batchnorm("predict", wine_model, "one.csv", "--json"))
        assert alone["prediction"] == records[row]["prediction"]
        assert alone["probabilities"] == pytest.approx(records[row]["probabilities"], abs=1e-6)
    python = load(wine_model).predict_proba(frame.to_numpy())
    assert python == pytest.approx(np.array([list(r["probabilities"].values()) for r in records]))  # type: ignore[attr-defined]


def test_na_adds_a_text_that_means_missing(house_model: Path, houses: Path) -> None:
    text = houses.read_text(encoding="utf-8")
    Path("marked.csv").write_text(text.replace(",,", ",?,"), encoding="utf-8")
    assert batchnorm("predict", house_model, "marked.csv").code == 2
    answer = batchnorm("predict", house_model, "marked.csv", "--na", "?")
    assert answer.out == batchnorm("predict", house_model, houses).out


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "there is no file x.csv"),
        ("", "empty"),
        ("area,rooms,garden,town\n1,2,yes\n", "x.csv"),
        ("area,rooms,garden,town\nbig,2,yes,Ulm\n", "expected a number in column 'area'|column 'area'"),
        ("area,rooms,garden,town\n1e400,2,yes,Ulm\n", "area"),
    ],
    ids=["missing", "empty", "short", "text", "huge"],
)
def test_rows_that_cannot_be_predicted_are_one_message(house_model: Path, content: str | None, said: str) -> None:
    if content is not None:
        Path("x.csv").write_text(content)
    answer = batchnorm("predict", house_model, "x.csv")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("batchnorm: ")
    assert answer.err.count("\n") == 1
    assert any(part in answer.err for part in said.split("|"))


@pytest.mark.parametrize("command", ["predict", "inspect"])
@pytest.mark.parametrize("damage", ["missing", "cut", "flipped", "foreign", "folder"])
def test_a_model_that_cannot_be_used_is_one_message(wine_model: Path, command: str, damage: str) -> None:
    content = bytearray(wine_model.read_bytes())
    path = Path("model.safetensors")
    match damage:
        case "cut":
            path.write_bytes(content[:-10])
        case "flipped":
            content[-10] ^= 4
            path.write_bytes(content)
        case "foreign":
            path.write_bytes(b"PK\x03\x04 something else entirely")
        case "folder":
            path.mkdir()
    answer = batchnorm(command, path, *(["wine"] if command == "predict" else []))
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("batchnorm: cannot use the model file 'model.safetensors': ")
    assert answer.err.count("\n") == 1


def test_two_plain_arguments_need_no_parser_and_get_what_the_parser_gives(wine_model: Path, wines: Path) -> None:
    """The quick way in, as a process; the other runs through the parser."""
    rows = wines.read_bytes()
    for data, stdin in ((str(wines), b""), ("-", rows), ("-", b"[1]\n"), ("none.csv", b"")):
        quick = process("predict", wine_model, data, stdin=stdin)
        assert quick == batchnorm("predict", wine_model, data, stdin=stdin)
        assert quick == process("predict", "--header", wine_model, data, stdin=stdin)
    assert process("predict", "none", "-") == batchnorm("predict", "none", "-")


def test_standard_input_is_answered_without_anything_heavy(wine_model: Path, wines: Path) -> None:
    code = (
        "import sys\n"
        "from batchnorm.cli import main\n"
        f"sys.argv = ['batchnorm', 'predict', {str(wine_model)!r}, '-']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert end.code == 0\n"
        "heavy = {'torch', 'polars', 'sklearn', 'scipy', 'pandas', 'plotly', 'rich', 'typer', 'click', 'pydantic'}\n"
        "print('HEAVY', sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], input=wines.read_bytes(), capture_output=True, check=True)
    assert done.stdout.count(b"\n") == 178
    assert done.stderr == b"HEAVY []\n"


@pytest.mark.parametrize("arguments", [("predict", "-h", "x"), ("predict", "--help", "-"), ("predict", "m", "--json")])
def test_options_in_the_place_of_arguments_are_left_to_the_parser(arguments: tuple[str, ...]) -> None:
    quick = process(*arguments, env={"COLUMNS": "100", "PATH": "", "TERM": "dumb"})
    assert "Usage: batchnorm predict" in quick.out + quick.err
