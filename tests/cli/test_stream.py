"""Lines from standard input: JSON objects, JSON arrays or CSV, each answered in its place and as it comes."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.cli.program import COMMAND, batchnorm, started, strict_json

HOUSE = {"area": 100.0, "rooms": 4, "garden": True, "town": "Ulm"}


def answers(model: Path, text: str | bytes, *options: str) -> tuple[list[dict[str, Any]], str]:
    """One answer per line, and what went to standard error; the exit code tells whether there was an error."""
    stdin = text.encode() if isinstance(text, str) else text
    answer = batchnorm("predict", model, "-", *options, stdin=stdin)
    found = [strict_json(line) for line in answer.out.splitlines()]
    assert answer.code == (1 if any("error" in line for line in found) else 0)
    return found, answer.err


def only(model: Path, text: str | bytes, *options: str) -> dict[str, Any]:
    (answer,), err = answers(model, text, *options)
    assert err == ""
    return answer


@pytest.fixture(scope="module")
def expected(house_model: Path) -> dict[str, Any]:
    """The answer to HOUSE."""
    return only(house_model, json.dumps(HOUSE))


def test_a_json_object_is_answered(expected: dict[str, Any]) -> None:
    assert expected.keys() == {"prediction"}
    assert isinstance(expected["prediction"], float)


@pytest.mark.parametrize(
    "line",
    [
        '{"town": "Ulm", "rooms": 4, "garden": true, "area": 100}',
        '{"town": "Ulm", "rooms": "4", "garden": "yes", "area": "100.0"}',
        '[100, 4, true, "Ulm"]',
        '  {"area": 1e2, "rooms": 4.0, "garden": "Yes", "town": " Ulm "}  ',
    ],
)
def test_the_same_row_said_otherwise_gets_the_same(house_model: Path, expected: dict[str, Any], line: str) -> None:
    assert only(house_model, line) == expected


@pytest.mark.parametrize(
    ("text", "options"),
    [
        ("area,rooms,garden,town\n100,4,yes,Ulm\n", ()),
        ("town,garden,rooms,area\nUlm,yes,4,100", ()),
        ("area;rooms;garden;town\n100;4;yes;Ulm\n", ()),
        ("area\trooms\tgarden\ttown\r\n100\t4\tyes\tUlm\r\n", ()),
        ('"area","rooms","garden","town"\n"100","4","yes","Ulm"\n', ()),
        ("\ufeffarea,rooms,garden,town\n100,4,yes,Ulm\n", ()),
        ("\n\narea,rooms,garden,town\n\n100,4,yes,Ulm\n\n", ()),
        ("100,4,yes,Ulm\n", ("--no-header",)),
        ("area#rooms#garden#town\n100#4#yes#Ulm\n", ("--separator", "#")),
        ("area\trooms\tgarden\ttown\n100\t4\tyes\tUlm\n", ("--separator", "tab")),
    ],
    ids=["csv", "order", "semicolon", "tab", "quoted", "bom", "blank lines", "no header", "separator", "named"],
)
def test_csv_is_answered_like_json(
    house_model: Path, expected: dict[str, Any], text: str, options: tuple[str, ...]
) -> None:
    assert only(house_model, text, *options) == expected


def test_a_model_trained_without_header_takes_csv_without(headless_model: Path) -> None:
    found, _ = answers(headless_model, "0.1,0.2,0.3\n1,1,1\n")
    assert all(answer.keys() == {"prediction", "probabilities"} for answer in found)
    assert found == answers(headless_model, "[0.1, 0.2, 0.3]\n[1, 1, 1]\n")[0]


def test_missing_cells_are_filled_in_as_in_training(house_model: Path) -> None:
    found, _ = answers(house_model, "area,rooms,garden,town\n100,,yes,Ulm\n100,NA,yes,Ulm\n")
    assert found[0] == found[1] == only(house_model, json.dumps(HOUSE | {"rooms": None}))
    assert only(house_model, "area,rooms,garden,town\n100,?,yes,Ulm\n", "--na", "?") == found[0]


BAD = {
    "not json": ('{"area": 1', "expected one JSON object"),
    "a number": ("17", "expected a JSON object or array, got int"),
    "a column missing": ('{"area": 1, "garden": true}', "the record lacks 2 columns: 'rooms', 'town'"),
    "a text for a number": (json.dumps(HOUSE | {"area": "big"}), "number in column 'area', got 'big'"),
    "a list for a number": (json.dumps(HOUSE | {"area": [1]}), "number in column 'area', got [1]"),
    "too few cells": ("[1, 2]", "the row: expected 4 feature columns"),
    "too deep": ("[" * 100_000, "expected one JSON object"),
    "too large": (json.dumps(HOUSE | {"area": 1e308}), "too large to compute with"),
    "infinite": ('{"area": Infinity, "rooms": 1, "garden": true, "town": "Ulm"}', "number in column 'area', got inf"),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_line_is_answered_in_its_place_and_the_stream_goes_on(
    house_model: Path, expected: dict[str, Any], case: str
) -> None:
    bad, said = BAD[case]
    good = json.dumps(HOUSE)
    found, err = answers(house_model, f"{good}\n{bad}\n{good}\n")
    assert found[0] == found[2] == expected
    assert found[1].keys() == {"line", "error"}
    assert found[1]["line"] == 2
    assert said in found[1]["error"]
    assert err == ("note: 1 line could not be answered: an error is in the place of each answer; the exit code is 1\n")


def test_bad_csv_lines_are_answered_in_their_place(house_model: Path, expected: dict[str, Any]) -> None:
    text = "area,rooms,garden,town\n100,4,yes\n100,4,perhaps,Ulm\n100,4,yes,Ulm\n" + "x" * 200_000 + "\n100,4,yes,Ulm\n"
    found, _ = answers(house_model, text)
    assert ["error" in answer for answer in found] == [True, True, False, True, False]
    assert found[0] == {"line": 2, "error": "expected 4 cells, got 3"}
    assert "garden" in found[1]["error"]
    assert found[2] == found[4] == expected


def test_many_bad_lines_among_many_are_each_answered_in_their_place(
    house_model: Path, expected: dict[str, Any]
) -> None:
    good = json.dumps(HOUSE)
    lines = [good] * 300
    for place in (0, 1, 17, 150, 298, 299):
        lines[place] = json.dumps(HOUSE | {"area": f"big {place}"})
    lines[200] = json.dumps(HOUSE | {"area": 1e308})
    found, err = answers(house_model, "\n".join(lines))
    assert [answer["line"] for answer in found if "error" in answer] == [1, 2, 18, 151, 201, 299, 300]
    assert [answer for answer in found if "error" not in answer] == [expected] * 293
    assert "'big 150'" in found[150]["error"]
    assert err.startswith("note: 7 lines could not be answered")


def test_quoted_cells_may_hold_line_ends(house_model: Path, expected: dict[str, Any]) -> None:
    text = 'area,"rooms","gar\nden",garden,town\n100,"4\n","a ""b""\r\n\nc",yes,"Ulm"\r\n100,4,,yes,Ulm\n'
    found, err = answers(house_model, text)
    assert found == [expected, expected]
    assert "gar\\nden" in err


def test_a_quote_that_is_never_closed_is_an_error_of_its_line_alone(
    house_model: Path, expected: dict[str, Any]
) -> None:
    good = "100,4,yes,Ulm\n"
    found, _ = answers(house_model, f'area,rooms,garden,town\n{good}100,4,yes,"Ulm\n{good * 3}')
    assert [answer.get("line") for answer in found] == [None, 3, None, None, None]
    assert "expected the quote that opens a cell to be closed" in found[1]["error"]
    assert [answer for answer in found if "error" not in answer] == [expected] * 4


def test_bytes_that_are_no_text_are_answered_in_their_place(house_model: Path, expected: dict[str, Any]) -> None:
    good = json.dumps(HOUSE).encode()
    found, _ = answers(house_model, good + b'\n{"town": "K\xf6ln"}\n' + good)
    assert found[0] == found[2] == expected
    assert "expected UTF-8 text" in found[1]["error"]


def test_a_line_without_end_is_answered_once(house_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("batchnorm.cli.lines._LONGEST", 1000)
    monkeypatch.setattr("batchnorm.cli.lines._CHUNK", 700)
    found, _ = answers(house_model, f"{json.dumps(HOUSE)}\n{'x' * 5000}\n{json.dumps(HOUSE)}\n")
    assert [set(answer) for answer in found] == [{"prediction"}, {"line", "error"}, {"prediction"}]
    assert found[1] == {"line": 2, "error": "expected lines of up to 1000 bytes"}


def test_extra_columns_are_noted_once(house_model: Path, expected: dict[str, Any]) -> None:
    line = json.dumps(HOUSE | {"pool": 1, "price": 5})
    found, err = answers(house_model, f"{line}\n{line}\n")
    assert found == [expected, expected]
    assert err.count("\n") == 1
    assert err.startswith("note: ")
    assert "pool" in err
    assert "price" not in err  # the target: it is known


def test_nothing_is_answered_with_nothing(house_model: Path) -> None:
    assert answers(house_model, "") == ([], "")
    assert answers(house_model, "\n \n") == ([], "")


def test_a_separator_that_cannot_be_is_one_message(house_model: Path) -> None:
    answer = batchnorm("predict", house_model, "-", "--separator", "ab", stdin=b"a,b\n1,2\n")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("batchnorm: separator: expected one character")


def test_many_lines_are_answered_as_each_alone_and_as_a_file(wine_model: Path) -> None:
    """To the last character: a row's answer depends on the row alone."""
    from sklearn.datasets import load_wine

    bunch = load_wine()
    lines = "".join(json.dumps(dict(zip(bunch.feature_names, row, strict=True))) + "\n" for row in bunch.data.tolist())
    together = batchnorm("predict", wine_model, "-", stdin=lines.encode()).out.splitlines()
    for number in (0, 77, 177):
        alone = batchnorm("predict", wine_model, "-", stdin=lines.splitlines()[number].encode()).out
        assert alone == together[number] + "\n"
    whole = batchnorm("predict", wine_model, "wine", "--json").out.splitlines()
    assert [json.loads(line) for line in together] == [
        {name: value for name, value in json.loads(line).items() if name != "row"} for line in whole
    ]


def test_each_line_is_answered_before_the_next_is_written(house_model: Path) -> None:
    """A real pipe: whoever waits for an answer before asking again must get one."""
    with started("predict", house_model, "-", bufsize=1) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        for town in ("Ulm", "Bonn", "Atlantis"):
            running.stdin.write(json.dumps(HOUSE | {"town": town}) + "\n")
            running.stdin.flush()
            assert strict_json(running.stdout.readline()).keys() == {"prediction"}
        running.stdin.write("nonsense\n")
        running.stdin.flush()
        assert strict_json(running.stdout.readline())["line"] == 4
        running.stdin.close()
        assert running.wait(30) == 1


def test_half_a_line_waits_for_its_other_half(house_model: Path, expected: dict[str, Any]) -> None:
    line = json.dumps(HOUSE)
    with started("predict", house_model, "-", bufsize=0) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(f"{line}\n{line[:20]}")
        running.stdin.flush()
        assert strict_json(running.stdout.readline()) == expected
        running.stdin.write(f"{line[20:]}\n{line}")
        running.stdin.flush()
        assert strict_json(running.stdout.readline()) == expected
        running.stdin.close()
        assert strict_json(running.stdout.readline()) == expected
        assert running.wait(30) == 0


def test_a_reader_that_goes_away_is_no_error(house_model: Path) -> None:
    """As with `| head`: no traceback, nothing on standard error."""
    code = f"import json, sys\nfor _ in range(100_000):\n    print({json.dumps(json.dumps(HOUSE))})\n"
    with (
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as writer,
        subprocess.Popen(
            [*COMMAND, "predict", str(house_model), "-"],
            stdin=writer.stdout,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        ) as running,
    ):
        assert writer.stdout is not None
        assert running.stdout is not None
        assert running.stderr is not None
        writer.stdout.close()
        running.stdout.readline()
        running.stdout.close()
        assert running.stderr.read() == b""
        assert running.wait(30) == 0


def test_an_interrupt_while_waiting_is_one_message(house_model: Path) -> None:
    with started("predict", house_model, "-", bufsize=1) as running:
        assert running.stdin is not None
        assert running.stdout is not None
        running.stdin.write(json.dumps(HOUSE) + "\n")
        running.stdin.flush()
        running.stdout.readline()
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130
        assert running.stderr is not None
        assert running.stderr.read() == "batchnorm: interrupted\n"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no /dev/full here")
def test_answers_that_cannot_be_written_end_in_one_message(house_model: Path) -> None:
    with Path("/dev/full").open("w") as full:
        command = [*COMMAND, "predict", str(house_model), "-"]
        ended = subprocess.run(command, input=json.dumps(HOUSE), stdout=full, stderr=subprocess.PIPE, text=True)
    assert ended.returncode == 2
    assert ended.stderr == "batchnorm: the output could not be written: No space left on device\n"
