"""The demonstration, with fewer steps than a user gets."""

from __future__ import annotations

from pathlib import Path

from tests.cli.program import batchnorm


def test_demo_shows_a_table_three_rows_and_where_the_reports_are(tmp_path: Path) -> None:
    answer = batchnorm("demo", "--steps", "60", "--out", "demo")
    assert (answer.code, answer.err) == (0, "")
    for title in ("raw pixels", "normalized inputs"):
        for label in ("with batch normalization", "without normalization"):
            assert f"{title}, {label}" in answer.out
    for said in ("test accuracy", "steps to 95%", "seconds", "On raw pixels the same network reaches"):
        assert said in answer.out
    assert answer.out.count("alone: digit ") == 3
    for name in ("raw", "normalized"):
        assert f"report  demo/{name}/report.html\n" in answer.out
        assert (tmp_path / "demo" / name / "report.html").stat().st_size > 1_000_000
    shown = answer.out.splitlines()[-1].removeprefix("try     batchnorm ").split()
    assert batchnorm(*shown).code == 0


def test_demo_again_replaces_what_it_left_and_says_the_same_as_json() -> None:
    first = batchnorm("demo", "--steps", "20", "--seed", "3", "--json")
    again = batchnorm("demo", "--steps", "20", "--seed", "3", "--json")
    assert (first.code, first.err) == (again.code, again.err) == (0, "")
    said = first.json
    assert list(said) == ["raw pixels", "normalized inputs"]
    for title, outcome in said.items():
        assert [run["test_accuracy"] for run in outcome["runs"]] == [
            run["test_accuracy"] for run in again.json[title]["runs"]
        ]


def test_demo_with_nonsense_is_one_message(tmp_path: Path) -> None:
    answer = batchnorm("demo", "--steps", "0")
    assert (answer.code, answer.out) == (2, "")
    assert answer.err == "batchnorm: --steps expected a whole number >= 1, got 0\n"
    assert not (tmp_path / "runs").exists()
