"""How far from exact normalization is, in units of the rounding floor: this package, torch, Keras, flax.

    python -m benchmarks.accuracy [--quick]

For each channel the error is max|y - exact| / max|exact|; the floor is that of the exact result rounded to the dtype,
which nobody can beat. A table entry is their ratio, the worst over channels and layouts. 1 is perfect; inf is an error
where there need be none. `exact` comes from NumPy's long double and shares no code with what is measured.

Keras and flax are measured where jax is installed (pip install jax flax keras); elsewhere their figures are those that
results/accuracy.csv keeps from such a machine, marked "recorded". Keras computes float64 in float32, whatever its
policy says. --quick leaves out the 2^24 rows.
"""

from __future__ import annotations

import argparse
import csv
from collections.abc import Iterable, Iterator
from pathlib import Path

from benchmarks.accuracy_cases import FLOAT, INPUTS, Inputs, Question, questions, ratios
from benchmarks.accuracy_rivals import Answer, rivals
from benchmarks.machine import line

RESULTS = Path(__file__).parent / "results" / "accuracy.csv"
MOST = 4.0  # what batchnorm may be away, in units of the floor

ROWS, CHANNELS = 4096, 8
MANY_ROWS = 2**24
MANY = {
    name: Inputs(INPUTS[name].draw, INPUTS[name].affine, (FLOAT,)) for name in ("mean 0, std 1", "mean 10000, std 1")
}

Row = dict[str, str]


def main() -> None:
    """Print the table, keep the rows; exit 1 if batchnorm is further away than it may be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="without the 2^24 rows")
    quick = parser.parse_args().quick
    print(line())
    answers = rivals()
    measured = list(measure(questions(rows=ROWS, channels=CHANNELS), answers))
    if not quick:
        measured += measure(questions(rows=MANY_ROWS, channels=2, inputs=MANY), answers)
    kept = recorded(measured)
    keep(measured + kept)
    print(table(measured, kept))
    worst = max(float(row["ratio"]) for row in measured if row["implementation"].startswith("batchnorm"))
    print(f"\nbatchnorm is at most {worst:.2f} times the rounding floor away; it may be {MOST:g} times.")
    raise SystemExit(worst > MOST)


def measure(asked: Iterable[Question], answers: dict[str, Answer]) -> Iterator[Row]:
    """One row per question and implementation."""
    for question in asked:
        floor = question.floor()
        for name, answer in answers.items():
            errors = question.errors(answer(question))
            yield {
                "implementation": name,
                "dtype": question.dtype,
                "inputs": question.inputs,
                "rows": str(len(question.exact)),
                "mode": question.mode,
                "layout": question.layout,
                "error": f"{float(errors.max()):.3g}",
                "floor": f"{float(floor.max()):.3g}",
                "ratio": f"{float(ratios(errors, floor).max()):.4g}",
            }


def recorded(measured: list[Row]) -> list[Row]:
    """The rows of earlier runs, of implementations that cannot be measured here."""
    if not RESULTS.exists():
        return []
    here = {_name(row) for row in measured}
    with RESULTS.open(newline="") as file:
        return [row for row in csv.DictReader(file) if _name(row) not in here]


def keep(rows: list[Row]) -> None:
    """Write all rows to results/accuracy.csv."""
    RESULTS.parent.mkdir(exist_ok=True)
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def table(measured: list[Row], kept: list[Row]) -> str:
    """Inputs down, implementations across: ratios in training | in evaluation."""
    names = list(dict.fromkeys(row["implementation"] for row in measured + kept))
    marks = {row["implementation"]: " (recorded)" for row in kept}
    heads = [name + marks.get(name, "") for name in names]
    widths = [max(len(head), 19) for head in heads]
    first = max(len(row["inputs"]) for row in measured) + 22
    lines = [" " * first + "  ".join(f"{head:>{width}}" for head, width in zip(heads, widths, strict=True))]
    worst: dict[tuple[str, ...], float] = {}
    for row in measured + kept:
        key = (_case(row), row["implementation"], row["mode"])
        worst[key] = max(worst.get(key, 0.0), float(row["ratio"]))
    for case in dict.fromkeys(_case(row) for row in measured):
        cells = []
        for name, width in zip(names, widths, strict=True):
            pair = [worst.get((case, name, mode)) for mode in ("training", "evaluation")]
            cells.append(f"{' | '.join('-' if v is None else f'{v:.3g}' for v in pair):>{width}}")
        lines.append(f"{case:{first}}" + "  ".join(cells))
    return "\n".join(lines)


def _name(row: Row) -> str:
    return row["implementation"].split()[0]


def _case(row: Row) -> str:
    many = ", 2^24 rows" if row["rows"] == str(MANY_ROWS) else ""
    return f"{row['dtype']:9} {row['inputs'].strip()}{many}"


if __name__ == "__main__":
    main()
