"""What `train` prints and leaves behind."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest
from tests.cli.program import assert_same_tensors, batchnorm, process, strict_json

QUICK = ("--hidden", "8,6", "--epochs", "4", "--device", "cpu")
DIVERGING = pytest.mark.filterwarnings("default::batchnorm.errors.StatisticsWarning")
ESCAPE = re.compile(r"[\x00-\x08\x0b-\x1f\x7f]")  # terminals' control characters; line ends and tabs are text


def test_train_leaves_model_report_record_and_options_and_nothing_else(tmp_path: Path) -> None:
    answer = batchnorm("train", "wine", *QUICK, "--compare", "--out", "runs/first")
    assert answer.code == 0
    assert answer.err == ""
    folder = tmp_path / "runs" / "first"
    assert {p.name for p in folder.iterdir()} == {"model.safetensors", "report.html", "record.json", "options.json"}
    for name in ("record.json", "options.json"):
        strict_json((folder / name).read_text())
    for said in ("cultivar from wine", "with batch normalization", "without normalization", "test row 3 alone"):
        assert said in answer.out
    assert answer.out.endswith("model   runs/first/model.safetensors\nreport  runs/first/report.html\n")


def test_train_without_a_name_takes_the_next_free_one_of_the_data(houses: Path, tmp_path: Path) -> None:
    for expected in ("houses", "houses-2", "houses-3"):
        answer = batchnorm("train", houses, "--target", "price", *QUICK)
        assert answer.code == 0
        assert (tmp_path / "runs" / expected / "model.safetensors").exists()


def test_train_alone_is_digits(tmp_path: Path) -> None:
    answer = batchnorm("train", "--steps", "3", "--hidden", "none", "--json")
    assert answer.code == 0
    assert answer.json["data"] == "digits"
    assert (tmp_path / "runs" / "digits" / "report.html").exists()


@pytest.mark.parametrize("arguments", [("wine", "--compare"), ("diabetes", "--norm", "none")], ids=" ".join)
def test_json_is_one_strict_value_with_the_numbers_of_the_record(arguments: tuple[str, ...], tmp_path: Path) -> None:
    answer = batchnorm("train", *arguments, *QUICK, "--out", "run", "--json")
    assert (answer.code, answer.err) == (0, "")
    said, record = answer.json, strict_json((tmp_path / "run" / "record.json").read_text())
    assert said["task"] == record["task"]
    assert [run["label"] for run in said["runs"]] == [run["label"] for run in record["runs"]]
    for mine, theirs in zip(said["runs"], record["runs"], strict=True):
        assert mine[f"test_{record['metric_name']}"] == theirs["test_metric"]
        assert mine["ended"] == theirs["ended"] == "all steps"
    assert [single["row"] for single in said["singles"]] == [1, 2, 3]
    assert [single["row"] for single in record["singles"]] == [1, 2, 3]
    assert "test row, counted from 1" in (tmp_path / "run" / "report.html").read_text()
    assert all(Path(said[name]).exists() for name in ("model", "report", "record"))


@DIVERGING
def test_a_twin_that_diverges_is_a_note_and_null_in_json() -> None:
    arguments = ("train", "wine", "--hidden", "8,6", "--epochs", "8", "--batch-size", "32", "--optimizer", "gd")
    # Weights as large as these overflow in the next layer, where nothing normalizes in between.
    answer = batchnorm(*arguments, "--weight-scale", "1e5", "--compare", "--out", "run", "--json")
    assert answer.code == 0
    main, twin = answer.json["runs"]
    assert (main["ended"], twin["ended"], twin["test_loss"]) == ("all steps", "diverged", None)
    assert strict_json(Path("run/record.json").read_text())["runs"][1]["test_loss"] is None
    assert Path("run/report.html").exists()
    assert answer.err.endswith(
        f"note: without normalization: training diverged by step {twin['steps']}; nothing is kept of it; a smaller "
        "--learning-rate may do better\n"
    )


@DIVERGING
def test_a_main_run_that_diverges_keeps_its_best_and_says_so() -> None:
    arguments = ("train", "diabetes", "--hidden", "8,6", "--epochs", "8", "--batch-size", "32", "--optimizer", "gd")
    answer = batchnorm(*arguments, "--activation", "tanh", "--learning-rate", "3", "--out", "run", "--json")
    assert answer.code == 0
    assert re.search(r"diverged by step \d+; the best evaluation before, at step \d+, is kept; a smaller", answer.err)


def test_nothing_but_text_is_written_where_nobody_watches() -> None:
    answer = process("train", "wine", *QUICK, "--compare", "--out", "run")
    assert (answer.code, answer.err) == (0, "")
    assert not ESCAPE.search(answer.out)


@pytest.mark.parametrize("name", ["[red]", "[/b]", ":smile:", "\\[x]"])
def test_names_are_shown_as_they_are_and_never_as_markup(name: str, tmp_path: Path) -> None:
    """A target called [/b] ended a finished training in rich's MarkupError, with a traceback and no summary."""
    lines = [f"a,{name}", *(f"{i},{name}{i % 2}" for i in range(40))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    answer = batchnorm("train", "t.csv", "--target", name, "--hidden", "3", "--epochs", "1", "--out", "run")
    assert answer.code == 0
    assert f"{name} from t.csv" in answer.out
    assert f"alone: {name} {name}" in answer.out
    assert batchnorm("inspect", "run/model.safetensors").code == 0


def test_names_of_a_file_cannot_write_to_the_terminal(tmp_path: Path) -> None:
    """A header that held the terminal's control characters coloured it, and one of a megabyte filled it."""
    red, long = "\x1b[31mred (\x1b[0m)", "x" * 100_000
    lines = [f"{red},{long},y{red}", *(f"{i},{'pq'[i % 2]}{red}{long},{red}{i % 2}{long}" for i in range(60))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    arguments = ("train", "t.csv", "--target", "last", "--hidden", "3", "--epochs", "1", "--out", "run")
    answers = [batchnorm(*arguments), batchnorm("inspect", "run/model.safetensors")]
    (tmp_path / "u.csv").write_text(f"{red},{long},w{red}\n1,p,2\n")
    answers.append(batchnorm("predict", "run/model.safetensors", "u.csv", "--json"))
    for answer in answers:
        assert answer.code == 0
        assert not ESCAPE.search(answer.out + answer.err)
    assert "test row 1 alone: y\\x1b[31mred (\\x1b[0m) " in answers[0].out
    assert len(answers[0].out) < 3_000
    assert len(answers[1].out) < 20_000
    assert answers[2].err.startswith("note: u.csv: ignored 1 column that the model does not know: 'w\\x1b[31mred")


def test_single_rows_are_told_with_digits_that_tell_them_apart(tmp_path: Path) -> None:
    """Targets that differ by hundredths were all 1e+06; an answer that is no number ended in a traceback."""
    lines = ["a,y", *(f"{i / 1000},{1e6 + 0.01 * i:.2f}" for i in range(60))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    (tmp_path / "u.csv").write_text("a,y\n1e308,1000000.25\n0.02,1000000.2\n")
    answer = batchnorm("train", "t.csv", "--target", "y", "--test", "u.csv", *QUICK, "--out", "run")
    assert answer.code == 0
    assert "test row 1 alone: y too large to compute with, true 1000000.25" in answer.out
    assert re.search(r"test row 2 alone: y \d+\.\d+, true 1000000\.2\d*\n", answer.out)


def test_a_folder_called_like_a_built_in_set_is_not_taken_for_it(tmp_path: Path) -> None:
    """`train wine --out wine` made the folder that the next `train wine` then tried to read."""
    for seed in ("0", "1"):
        answer = batchnorm("train", "wine", *QUICK, "--seed", seed, "--out", "wine", "--overwrite")
        assert answer.code == 0
    assert batchnorm("train", "wine", "--resume", "--out", "wine").code == 0


def test_a_link_to_a_file_of_any_name_is_read_by_its_own(houses: Path, tmp_path: Path) -> None:
    """Stores that keep contents under their digests link to them; the link was followed and its ending lost."""
    (tmp_path / "3f9a").write_bytes(houses.read_bytes())
    (tmp_path / "h.csv").symlink_to("3f9a")
    answer = batchnorm("train", "h.csv", "--target", "price", *QUICK, "--out", "run")
    assert answer.code == 0


def test_the_same_command_gives_the_same_model_and_another_seed_another(tmp_path: Path) -> None:
    for out, seed in (("a", "5"), ("b", "5"), ("c", "6")):
        assert batchnorm("train", "wine", *QUICK, "--dropout", "0.2", "--seed", seed, "--out", out).code == 0
    assert_same_tensors(tmp_path / "a", tmp_path / "b")
    with pytest.raises(AssertionError):
        assert_same_tensors(tmp_path / "a", tmp_path / "c")


def test_options_reach_the_network(tmp_path: Path) -> None:
    answer = batchnorm(
        *("train", "wine", "--hidden", "7", "--activation", "gelu", "--placement", "after", "--eps", "0.01"),
        *("--momentum", "0.3", "--weight-scale", "0.2", "--dropout", "0.1", "--optimizer", "momentum"),
        *("--learning-rate", "0.01", "--batch-size", "20", "--steps", "9", "--evaluate-every", "3", "--patience", "0"),
        *("--weight-decay", "0.1", "--class-weight", "balanced", "--seed", "3", "--device", "cpu", "--no-input-norm"),
        *("--divide-by", "10", "--test-fraction", "0.3", "--validation-fraction", "0.2", "--out", "run"),
    )
    assert answer.code == 0
    settings = strict_json((tmp_path / "run" / "record.json").read_text())["settings"]
    expected = {
        "hidden": [7],
        "activation": "gelu",
        "placement": "after",
        "norm": "batch",
        "input_norm": False,
        "divide_by": 10.0,
        "eps": 0.01,
        "momentum": 0.3,
        "weight_scale": 0.2,
        "dropout": 0.1,
        "weight_decay": 0.1,
        "optimizer": "momentum",
        "learning_rate": 0.01,
        "batch_size": 20,
        "epochs": 100,
        "steps": 9,
        "patience": None,
        "evaluate_every": 3,
        "class_weight": "balanced",
        "seed": 3,
        "device": "cpu",
    }
    assert {name: settings[name] for name in expected} == expected
    described = batchnorm("inspect", "run/model.safetensors", "--json").json
    assert described["trained"]["rows"] == {"train": 100, "validation": 25, "test": 53}
    assert described["network"] == {
        "inputs": 13,
        "hidden": [7],
        "outputs": 3,
        "activation": "gelu",
        "placement": "after",
        "norm": "batch",
        "eps": 0.01,
        "input_norm": True,
        "dropout": 0.1,
    }


@pytest.mark.parametrize("hidden", ["none", "0", "", "NONE"])
def test_no_hidden_layer_has_several_names(hidden: str) -> None:
    answer = batchnorm("train", "wine", "--hidden", hidden, "--epochs", "1", "--out", "run")
    assert answer.code == 0
    assert batchnorm("inspect", "run/model.safetensors", "--json").json["network"]["hidden"] == []


def test_a_column_of_weights_counts_rows_and_is_no_feature(tmp_path: Path) -> None:
    lines = ["a,b,n,y", *(f"{i * 7 % 11},{i * 5 % 13},{i % 3},{'pq'[i % 2]}" for i in range(60))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n")
    answer = batchnorm("train", "t.csv", "--target", "y", "--weight", "n", *QUICK, "--out", "run")
    assert answer.code == 0
    columns = batchnorm("inspect", "run/model.safetensors", "--json").json["schema"]["columns"]
    assert [column["name"] for column in columns] == ["a", "b"]


@pytest.mark.parametrize(
    ("options", "notes"),
    [
        (
            ("--hidden", "none", "--dropout", "0.2", "--norm", "batch"),
            ["--norm has no effect: there is no hidden layer", "--dropout has no effect: there is no hidden layer"],
        ),
        (("--norm", "none", "--eps", "0.1"), ["--eps has no effect: there is no normalization"]),
        (
            ("--hidden", "none", "--norm", "none", "--eps", "1"),
            ["--norm has no effect: there is no hidden layer", "--eps has no effect: there is no hidden layer"],
        ),
        (("--steps", "3", "--epochs", "9"), ["--epochs has no effect: there is a number of steps instead (--steps)"]),
        (
            ("--validation-fraction", "0", "--patience", "5"),
            ["--patience has no effect: there is no validation row to go by"],
        ),
        (("--hidden", "5", "--separator", ";"), ["--separator has no effect: there is no text file to read"]),
        (("--hidden", "5", "--dropout", "0.2", "--momentum", "0.2", "--patience", "5"), []),
    ],
    ids=lambda value: " ".join(value),
)
def test_an_option_that_is_given_and_has_no_effect_is_noted(options: tuple[str, ...], notes: list[str]) -> None:
    answer = batchnorm("train", "wine", *options, "--learning-rate", "0.01", "--out", "run")
    assert answer.code == 0
    assert [line.removeprefix("note: ") for line in answer.err.splitlines()] == notes


@pytest.mark.parametrize(("data", "label"), [("wine", "logistic regression"), ("diabetes", "linear regression")])
def test_a_network_without_hidden_layers_is_called_what_it_is(data: str, label: str) -> None:
    answer = batchnorm("train", data, "--hidden", "none", "--epochs", "2", "--out", "run", "--json")
    (run,) = answer.json["runs"]
    assert (run["label"], run["norm"]) == (label, None)


def test_names_that_the_terminal_cannot_show_end_nothing(tmp_path: Path) -> None:
    """A class called Köln ended a finished training in UnicodeEncodeError where the output was to be ASCII."""
    lines = ["a,y", *(f"{i},{('Köln', '京都')[i % 2]}" for i in range(40))]
    (tmp_path / "t.csv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    arguments = ("train", "t.csv", "--target", "y", "--hidden", "3", "--epochs", "1", "--out", "run")
    environment = os.environ | {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    answer = process(*arguments, env=environment)
    assert (answer.code, answer.err) == (0, "")
    assert "K\\xf6ln" in answer.out
    answer = process("predict", "run/model.safetensors", "t.csv", env=environment)
    assert answer.code == 0
    assert "K\\xf6ln" in answer.out
