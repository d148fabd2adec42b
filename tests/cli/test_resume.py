"""`--resume`: on with the run that is there, with nothing else, and never by mistake."""

from __future__ import annotations

import json
import re
import shlex
import shutil
from pathlib import Path

import pytest
from tests.cli.interruptions import TRAINING, stopping_after
from tests.cli.program import Answer, assert_same_tensors, batchnorm, strict_json

SMALL = ("train", "wine", "--hidden", "6", "--epochs", "4", "--batch-size", "32", "--device", "cpu")


@pytest.fixture
def stopped(tmp_path: Path) -> Path:
    """A small run that Ctrl-C stopped after five steps of sixteen."""
    with stopping_after(5):
        assert batchnorm(*SMALL, "--out", tmp_path / "run").code == 130
    return tmp_path / "run"


def refused(answer: Answer, said: str) -> None:
    assert (answer.code, answer.out) == (2, "")
    assert re.fullmatch(r"batchnorm: .+\n", answer.err), answer.err
    assert re.search(said, answer.err), answer.err


@pytest.mark.parametrize("optimizer", ["gd", "momentum", "rmsprop", "adam"])
def test_a_run_stopped_again_and_again_ends_the_same(optimizer: str, tmp_path: Path) -> None:
    options = (*TRAINING[:2], "--optimizer", optimizer, *TRAINING[2:])
    assert batchnorm(*options, "--steps", "40", "--out", "whole").code == 0
    arguments, codes = (*options, "--steps", "40", "--out", "parts"), []
    while not codes or codes[-1] == 130:
        with stopping_after(11):  # in the middle of an epoch, between the twins, in the middle again
            codes.append(batchnorm(*arguments).code)
        arguments = ("train", "--resume", "--out", "parts")
    assert codes == [130] * 7 + [0]
    assert_same_tensors(tmp_path / "whole", tmp_path / "parts")
    first, second = (strict_json((tmp_path / name / "record.json").read_text()) for name in ("whole", "parts"))
    assert [run["test_metric"] for run in first["runs"]] == [run["test_metric"] for run in second["runs"]]
    assert [run["curve"]["valid_loss"] for run in first["runs"]] == [
        run["curve"]["valid_loss"] for run in second["runs"]
    ]


def test_what_a_stopped_run_says_goes_on_when_it_is_typed(tmp_path: Path) -> None:
    out = tmp_path / "a folder; with 'quotes'"
    with stopping_after(3):
        answer = batchnorm(*SMALL, "--out", out)
    assert (answer.code, answer.out) == (130, "")
    command = answer.err.removeprefix("stopped and kept; go on with: ").strip()
    program, *arguments = shlex.split(command)
    assert program == "batchnorm"
    assert batchnorm(*arguments).code == 0
    assert not (out / "checkpoints").exists()


def test_a_finished_run_says_so(stopped: Path) -> None:
    assert batchnorm("train", "--resume", "--out", stopped).code == 0
    model = (stopped / "model.safetensors").read_bytes()
    answer = batchnorm("train", "--resume", "--out", stopped)
    assert (answer.code, answer.err) == (0, "")
    assert answer.out.startswith(f"{stopped} is finished: nothing is left to resume\n")
    said = batchnorm("train", "--resume", "--out", stopped, "--json").json
    assert said["finished"] is True
    assert Path(said["model"]).read_bytes() == model
    assert {p.name for p in stopped.iterdir()} == {"model.safetensors", "report.html", "record.json", "options.json"}


def test_nothing_there_is_one_message_and_leaves_nothing(tmp_path: Path) -> None:
    refused(batchnorm("train", "--resume", "--out", "none"), "none holds no run to resume: start it without --resume")
    assert not (tmp_path / "none").exists()


def test_nothing_there_but_the_data_named_begins(tmp_path: Path) -> None:
    """So that one command line, repeated until it ends well, survives a kill at any moment."""
    answer = batchnorm(*SMALL, "--resume", "--out", "new")
    assert answer.code == 0
    assert answer.err == "note: new holds no run to go on with: this one begins\n"


def test_options_said_again_must_be_those_of_the_run(stopped: Path) -> None:
    for conflict, said in (
        (("--hidden", "7"), r"--hidden expected what the run in .*run was started with, 6; got 7: leave it out"),
        (("--epochs", "5"), "--epochs expected .* 4; got 5"),
        (("--compare",), "--compare expected .* False; got True"),
        (("--seed", "1"), "--seed expected"),
        (("--no-input-norm",), "--input-norm expected"),
        (("--drop", "hue"), r"--drop expected .* \[\]; got \['hue'\]"),
    ):
        refused(batchnorm("train", "--resume", "--out", stopped, *conflict), said)
    refused(batchnorm("train", "digits", "--resume", "--out", stopped), "DATA expected .* wine; got digits")
    assert batchnorm(*SMALL, "--resume", "--out", stopped).code == 0


def test_repeated_options_are_compared_as_lists(tmp_path: Path) -> None:
    arguments = ("train", "wine", "--drop", "hue", "--drop", "ash", "--na", "?", "--hidden", "4", "--epochs", "3")
    with stopping_after(2):
        assert batchnorm(*arguments, "--out", "run").code == 130
    assert batchnorm(*arguments, "--resume", "--out", "run").code == 0


def test_overwrite_beside_resume_is_refused(stopped: Path) -> None:
    refused(batchnorm("train", "--resume", "--overwrite", "--out", stopped), "--overwrite beside it")
    assert batchnorm("train", "--resume", "--out", stopped).code == 0


def test_a_file_is_found_again_from_another_folder(
    houses: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(houses, tmp_path / "h.csv")
    with stopping_after(3):
        assert batchnorm("train", "h.csv", "--target", "price", "--epochs", "2", "--out", "run").code == 130
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert batchnorm("train", "--resume", "--out", tmp_path / "run").code == 0


def test_a_file_that_has_changed_or_gone_is_one_message(houses: Path, tmp_path: Path) -> None:
    shutil.copy(houses, tmp_path / "h.csv")
    with stopping_after(3):
        assert batchnorm("train", "h.csv", "--target", "price", "--epochs", "2", "--out", "run").code == 130
    lines = (tmp_path / "h.csv").read_text(encoding="utf-8").splitlines()
    (tmp_path / "h.csv").write_text("\n".join([lines[0], *reversed(lines[1:])]) + "\n", encoding="utf-8")
    refused(batchnorm("train", "--resume", "--out", "run"), "belongs to a run with other data or settings")
    (tmp_path / "h.csv").unlink()
    refused(batchnorm("train", "--resume", "--out", "run"), "there is no file .*h.csv")


@pytest.mark.parametrize("damage", ["cut", "flipped", "empty", "foreign"])
def test_a_damaged_checkpoint_is_one_message(stopped: Path, damage: str) -> None:
    path = stopped / "checkpoints" / "network-1.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes({"cut": content[:-9], "flipped": content, "empty": b"", "foreign": b"\x80\x04K\x01."}[damage])
    refused(batchnorm("train", "--resume", "--out", stopped), "network-1.safetensors .*: start again with --overwrite")
    assert batchnorm(*SMALL, "--out", stopped, "--overwrite").code == 0


@pytest.mark.parametrize("damage", ["", "[1, 2]", "{", '{"data": "wine"}', "\x00\x01"])
def test_damaged_options_are_one_message(stopped: Path, damage: str) -> None:
    (stopped / "options.json").write_text(damage)
    refused(batchnorm("train", "--resume", "--out", stopped), "options.json .*: start again with --overwrite")


def test_options_of_a_value_that_cannot_be_are_one_message(stopped: Path) -> None:
    options = json.loads((stopped / "options.json").read_text())
    (stopped / "options.json").write_text(json.dumps(options | {"epochs": -4}))
    refused(batchnorm("train", "--resume", "--out", stopped), "epochs expected a whole number >= 1")


def test_a_checkpoint_that_is_gone_begins_again_and_ends_the_same(stopped: Path, tmp_path: Path) -> None:
    shutil.rmtree(stopped / "checkpoints")
    assert batchnorm("train", "--resume", "--out", stopped).code == 0
    assert batchnorm(*SMALL, "--out", "whole").code == 0
    assert_same_tensors(stopped, tmp_path / "whole")


def test_a_demonstration_can_be_resumed_like_any_run(tmp_path: Path) -> None:
    with stopping_after(9):
        assert batchnorm("demo", "--steps", "12", "--out", "demo").code == 130
    assert batchnorm("train", "--resume", "--out", "demo/raw").code == 0


def test_a_run_stopped_and_resumed_is_the_same_as_one_never_stopped(tmp_path: Path, whole: Path) -> None:
    with stopping_after(100):
        assert batchnorm(*TRAINING, "--out", "part").code == 130
    assert batchnorm("train", "--resume", "--out", "part").code == 0
    assert_same_tensors(whole, tmp_path / "part")
