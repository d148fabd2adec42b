"""`batchnorm lab`: which claims there are, one of them, all of them, and what is typed wrongly."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import typer
from tests.cli.program import COMMAND, batchnorm, process

from batchnorm.cli.app import app
from batchnorm.errors import OutputError
from batchnorm.lab import names


def test_list_shows_every_claim_without_importing_torch():
    code = (
        "import sys\n"
        "from batchnorm.cli import main\n"
        "sys.argv = ['batchnorm', 'lab', 'list']\n"
        "try:\n    main()\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'polars', 'sklearn', 'plotly'} & set(sys.modules)\n"
        "print('HEAVY', sorted(heavy), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == "HEAVY []\n"
    for name in names():
        assert f"\n{name} " in f"\n{done.stdout}"


def test_no_name_lists_them():
    assert batchnorm("lab").out == batchnorm("lab", "list").out != ""


def test_list_as_json_has_every_part_of_each_claim():
    answer = batchnorm("lab", "list", "--json")
    assert [entry["name"] for entry in answer.json] == list(names())
    assert set(answer.json[0]) == {"name", "claim", "source", "measured", "unfair"}


def test_every_option_has_a_help_text():
    found = typer.main.get_command(app).commands["lab"]  # type: ignore[attr-defined]
    assert all((getattr(p, "help", None) or "").strip() for p in found.params)


def test_one_experiment_writes_its_page_and_says_what_it_found(tmp_path: Path):
    answer = batchnorm("lab", "bias", "wine", "--quick", "--seeds", "3")
    assert answer.code == 0
    assert "bias: The gradient in b never exceeds" in answer.out
    assert "(3 seeds)" in " ".join(answer.out.split())
    assert answer.out.endswith("page    lab-bias.html\n")
    assert (tmp_path / "lab-bias.html").read_text().startswith("<!doctype html>")
    assert answer.err == ""


def test_json_is_the_record_and_out_the_page(tmp_path: Path):
    answer = batchnorm("lab", "bias", "wine", "--quick", "--seeds", "1", "--json", "--out", "found.html")
    record = answer.json["records"][0]
    assert (record["name"], record["verdict"], record["seeds"]) == ("bias", "undecided", [0])
    assert answer.json["page"] == "found.html"
    assert (tmp_path / "found.html").exists()
    assert answer.err == ""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("bais",), "batchnorm: there is no experiment 'bais'. Did you mean 'bias'? Expected all, list or one of "),
        (("bias", "nowhere.csv"), "batchnorm: there is no file nowhere.csv."),
        (("speed", "diabetes"), "batchnorm: diabetes: this experiment expected classes to predict, got the number"),
        (("bias", "--seeds", "0"), "batchnorm: --seeds expected a number from 1 to 100, got 0"),
        (("bias", "--task", "clustering"), "batchnorm: --task expected auto, classification or regression"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, tuple) else "",
)
def test_what_cannot_be_done_is_one_message_and_exit_code_2(arguments: tuple[str, ...], said: str, tmp_path: Path):
    answer = batchnorm("lab", *arguments)
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith(said)
    assert len(answer.err.splitlines()) == 1
    assert not list(tmp_path.glob("*.html"))


@pytest.mark.parametrize(
    ("page", "said"),
    [
        ("nowhere/x.html", "cannot write 'nowhere/x.html': there is no folder nowhere; create it or choose another"),
        (".", "cannot write '.': that is a folder or a device, not a file; choose another name"),
    ],
)
def test_page_that_cannot_be_written_is_refused_before_the_work(page: str, said: str, monkeypatch: pytest.MonkeyPatch):
    """It was refused after it: minutes for nothing."""
    from batchnorm.cli import lab as command

    monkeypatch.setattr(command, "_carried_out", lambda *_, **__: pytest.fail("it began"))
    answer = batchnorm("lab", "bias", "--out", page)
    assert (answer.code, answer.out, answer.err) == (2, "", f"batchnorm: {said}\n")


def test_finding_is_said_where_the_disk_refuses_the_page(monkeypatch: pytest.MonkeyPatch):
    def refuse(*_: object, **__: object) -> None:
        raise OutputError("cannot write 'lab-bias.html': No space left on device")

    monkeypatch.setattr("batchnorm.report.lab_page.write_lab", refuse)
    answer = batchnorm("lab", "bias", "wine", "--quick", "--seeds", "1", "--json")
    assert answer.code == 2
    assert answer.json["page"] is None
    assert answer.json["records"][0]["name"] == "bias"
    assert "No space left" in answer.err


def test_table_with_too_few_rows_is_refused(tmp_path: Path):
    (tmp_path / "few.csv").write_text("a,b\n" + "".join(f"{i},{'xy'[i % 2]}\n" for i in range(30)))
    answer = batchnorm("lab", "bias", "few.csv", "--target", "b")
    assert answer.code == 2
    assert "expected at least 80 rows" in answer.err


def test_real_interrupt_keeps_what_is_finished(tmp_path: Path):
    """In a terminal: the bars show that one experiment is over; then Ctrl-C."""
    if not hasattr(os, "openpty"):
        pytest.skip("needs a terminal of its own")
    ours, theirs = os.openpty()
    command = [*COMMAND, "lab", "all", "digits", "--quick"]
    environment = os.environ | {"COLUMNS": "160", "TERM": "xterm"}
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=theirs, cwd=tmp_path, env=environment) as running:
        os.close(theirs)
        shown = _shown_until(ours, b"holds")
        running.send_signal(signal.SIGINT)
        shown += _rest(ours)
        assert running.stdout is not None
        out = running.stdout.read().decode()
        assert running.wait(60) == 130
    os.close(ours)
    assert b"Traceback" not in shown
    assert f"of {len(names())} experiments are in lab.html" in shown.decode()
    assert any(f"\n{name}: " in out for name in names())
    page = (tmp_path / "lab.html").read_text()
    assert "interrupted before it was finished" in page


def test_interrupt_before_anything_is_finished_leaves_no_page(tmp_path: Path):
    ours, theirs = os.openpty()
    with subprocess.Popen([*COMMAND, "lab", "depth"], stdout=theirs, stderr=theirs, cwd=tmp_path) as running:
        os.close(theirs)
        shown = _shown_until(ours, b"depth")
        running.send_signal(signal.SIGINT)
        shown += _rest(ours)
        assert running.wait(60) == 130
    os.close(ours)
    assert b"batchnorm: interrupted" in shown
    assert b"Traceback" not in shown
    assert not list(tmp_path.glob("*.html"))


def test_experiment_that_does_not_suit_the_data_is_left_out_of_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    from batchnorm.cli import lab as command

    monkeypatch.setattr(command, "names", lambda: ("speed", "bias"))
    answer = batchnorm("lab", "all", "diabetes", "--quick", "--seeds", "1", "--json")
    assert answer.code == 0
    assert [record["name"] for record in answer.json["records"]] == ["bias"]
    assert answer.json["missing"]["speed"].startswith("diabetes: this experiment expected classes")
    assert "this experiment expected classes" in (tmp_path / "lab.html").read_text()


def test_piped_output_has_no_bars():
    answer = process("lab", "bias", "wine", "--quick", "--seeds", "1", "--json")
    assert answer.code == 0
    assert answer.err == ""
    json.loads(answer.out)


def test_reader_who_goes_is_no_error():
    command = [*COMMAND, "lab", "bias", "wine", "--quick", "--seeds", "1"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        assert running.stdout is not None
        assert running.stderr is not None
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(60) == 0


def _shown_until(terminal: int, wanted: bytes, patience: float = 90) -> bytes:
    shown, deadline = b"", time.monotonic() + patience
    while wanted not in shown:
        assert time.monotonic() < deadline, shown
        shown += os.read(terminal, 4096)
    return shown


def _rest(terminal: int) -> bytes:
    shown = b""
    while True:
        try:
            part = os.read(terminal, 4096)
        except OSError:  # the other end is closed
            return shown
        if not part:
            return shown
        shown += part
