"""fold(model, example) on real architectures, family by family: layers folded, refused and why, and what it saves.

    python -m benchmarks.foldings [--only PART] [--no-clock]

Needs torchvision, timm and transformers (`make .venv/installed-models`); models are built without weights. A pair is a
linear map and the batch norm layer that takes its output; layers before a linear map are counted by themselves, and
those that stand beside none as alone. Each folded model was compared with the model by `fold` itself. Then folded and
unfolded inference of some models is timed, in turns. Exits with 1 where a model fails or more than 5 % of the pairs are
refused.
"""

from __future__ import annotations

import argparse
import copy
import csv
import statistics
import time
import traceback
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from benchmarks.conversion_cases import Case, Inputs, cases, reasons, smallest_example
from benchmarks.machine import append_row, line, machine
from torch import nn

from batchnorm.nn import BatchNorm1d
from batchnorm.surgery.fold import fold
from batchnorm.surgery.fold_check import outputs, randomized
from batchnorm.surgery.fold_plan import Plan, plan
from batchnorm.surgery.fold_report import Folding
from batchnorm.surgery.record import Entry

RESULTS = Path(__file__).parent / "results" / "foldings.csv"
_MOST_REFUSED = 0.05
_TIMED = (("torchvision", "resnet50"), ("timm", "efficientnet_lite0"))
_TURNS = 9
_COUNTS = ("layers", "folded", "refused", "refused_before", "alone")

Row = dict[str, Any]


def main() -> None:
    """Print a line for each model and the sums, keep the rows, and time some models."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="models whose library, family and name hold this text")
    parser.add_argument("--no-clock", action="store_true", help="count alone")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # of the libraries
    print(line())
    rows = []
    for case in cases():
        if case.inputs is not None and given.only in f"{case.library} {case.family} {case.name}":
            rows.append(measure(case))
            print(_line(rows[-1]), flush=True)
    if rows:
        print(_sums(rows))
        _keep(rows)
    if not given.no_clock:
        _time_all()
    pairs = sum(row["folded"] + row["refused"] for row in rows)
    refused = sum(row["refused"] for row in rows)
    raise SystemExit(any(row["problem"] for row in rows) or refused > _MOST_REFUSED * pairs)


def _keep(rows: list[Row]) -> None:
    """Write the rows, beside those of other models from before."""
    naming = ("library", "family", "model")
    known: dict[tuple[Any, ...], Row] = {}
    if RESULTS.exists():
        with RESULTS.open(newline="") as file:
            known = {tuple(row[name] for name in naming): row for row in csv.DictReader(file)}
    known |= {tuple(row[name] for name in naming): row for row in rows}
    with RESULTS.open("w", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(known[key] for key in sorted(known))


def measure(case: Case) -> Row:
    """Fold one model."""
    row: Row = {"library": case.library, "family": case.family, "model": case.name}
    row |= dict.fromkeys(_COUNTS, 0)
    row |= {"difference": "", "seconds": 0.0, "why": "", "problem": ""}
    began = time.perf_counter()
    try:
        torch.manual_seed(0)
        model = case.build().eval()
        example = smallest_example(model, case)
        began = time.perf_counter()
        report = _report(model, example)
        if isinstance(report, Folding):
            row["folded"] = len(report.folded)
            row["difference"] = f"{max(report.measured.example, report.measured.randomized):.1e}"
        row["refused"] = sum(_comes_last(entry) for entry in report.refused)
        row["refused_before"] = len(report.refused) - row["refused"]
        row["alone"] = len(report.alone)
        row["layers"] = row["folded"] + len(report.refused) + row["alone"]
        row["why"] = reasons(report.refused)
    except Exception as error:  # whatever a library raises: the row says so, and the others go on
        traceback.print_exc()
        row["problem"] = f"{type(error).__name__}: {error}".splitlines()[0]
    row["seconds"] = round(time.perf_counter() - began, 1)
    return row | {"version": metadata.version(case.library)} | machine()


def timed(name: str, model: nn.Module, example: Inputs, repeats: int) -> None:
    """Inference with and without, in turns; the answers are compared before."""
    randomized(model).eval()
    folded = fold(model, example)
    for expected, got in zip(outputs(model, example), outputs(folded, example), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-3 * float(expected.abs().max()))
    seconds: dict[str, list[float]] = {"unfolded": [], "folded": []}
    with torch.no_grad():
        for _ in range(_TURNS):
            for kind, which in (("unfolded", model), ("folded", folded)):
                began = time.perf_counter()
                for _ in range(repeats):
                    which(example)
                seconds[kind].append((time.perf_counter() - began) / repeats)
    before, after = (statistics.median(seconds[kind]) for kind in ("unfolded", "folded"))
    ratio = statistics.median(a / b for a, b in zip(seconds["unfolded"], seconds["folded"], strict=True))
    print(f"{name}: unfolded {before:.3g} s, folded {after:.3g} s, {ratio:.2f} times as fast")
    row = {"case": name, "unfolded_s": f"{before:.3g}", "folded_s": f"{after:.3g}", "ratio": f"{ratio:.3f}"}
    append_row("folded_inference", row)


def _time_all() -> None:
    torch.manual_seed(0)
    for case in cases():
        if (case.library, case.name) in _TIMED:
            assert case.inputs is not None
            timed(f"{case.library} {case.name}, 2 images", case.build(), case.inputs(224), 1)
    for norm in (nn.BatchNorm1d, BatchNorm1d):
        for rows in (1, 256):
            layers = [part for _ in range(6) for part in (nn.Linear(64, 64, bias=False), norm(64), nn.ReLU())]
            name = f"6 x 64 ReLU, {norm.__module__.split('.')[0]}, {rows} rows"
            timed(name, nn.Sequential(*layers, nn.Linear(64, 10)), torch.randn(rows, 64), 50)


def _report(model: nn.Module, example: Inputs) -> Folding | Plan:
    """What was folded; or, where nothing can be, what was found."""
    try:
        report: Folding = fold(model, example).fold_report
        return report
    except ValueError as error:
        if not str(error).startswith("fold found no batch norm layer that can be folded"):
            raise
        found = plan(copy.deepcopy(model).eval(), example)
        return Plan((), (*found.refused, *(pair.entry("outputs differ") for pair in found.pairs)), found.alone)


def _comes_last(entry: Entry) -> bool:
    """Whether the pair is a linear map and the layer after it: the ordinary one."""
    return "Norm" in entry.what.rpartition("-> ")[2]


def _line(row: Row) -> str:
    return (
        f"{row['library']:12s} {row['family']:22s} {row['model']:30s} {row['layers']:4d} layers, "
        f"folded {row['folded']:4d}, refused {row['refused']:3d} and {row['refused_before']:3d} before a linear map, "
        f"alone {row['alone']:3d}, "
        f"{row['problem'] or row['difference']}, {row['seconds']} s {row['why']}"
    )


def _sums(rows: list[Row]) -> str:
    lines = []
    for library in dict.fromkeys(row["library"] for row in rows):
        own = [row for row in rows if row["library"] == library]
        total = {
            name: sum(row[name] for row in own) for name in ("layers", "folded", "refused", "refused_before", "alone")
        }
        families = len({row["family"] for row in own})
        pairs = total["folded"] + total["refused"]
        lines.append(
            f"{library}: {families} families, {len(own)} models ({sum(bool(row['problem']) for row in own)} with a "
            f"problem), {total['layers']} layers: {total['folded']} folded, {total['refused']} refused "
            f"({total['refused'] / max(pairs, 1):.1%} of the pairs), {total['refused_before']} refused before a "
            f"linear map, {total['alone']} alone"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
