"""convert() on real architectures, family by family: layers converted, activations fused, what is left and why.

    python -m benchmarks.conversions [--only PART]

Needs torchvision, timm and transformers (`make .venv/installed-models`); models are built without weights. Each is
converted without and with trace=True, with it compared in float64 with the model as it was (outputs, gradients and
running statistics, at test time and in training), and reverted. A model that does not run on images here (speech;
detection, which needs compiled operators) is only counted. Exits with 1 where a conversion differs, fails, or is not
taken back.
"""

from __future__ import annotations

import argparse
import csv
import time
import traceback
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import torch
from benchmarks.conversion_cases import Case, Inputs, cases, reasons, smallest_example
from benchmarks.machine import line, machine
from torch import nn

from batchnorm.surgery import convert, revert

RESULTS = Path(__file__).parent / "results" / "conversions.csv"

Row = dict[str, Any]


def main() -> None:
    """Print a line for each model and the sums, and keep the rows."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="models whose library, family and name hold this text")
    only = parser.parse_args().only
    warnings.simplefilter("ignore")  # of the libraries
    print(line())
    rows = []
    for case in cases():
        if only in f"{case.library} {case.family} {case.name}":
            rows.append(measure(case))
            print(_line(rows[-1]), flush=True)
    print(_sums(rows))
    if not only:
        with RESULTS.open("w", newline="") as file:
            writer = csv.DictWriter(file, fieldnames=list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
    raise SystemExit(any(row["problem"] for row in rows))


def measure(case: Case) -> Row:
    """Convert one model without and with tracing, and revert it."""
    row: Row = {"library": case.library, "family": case.family, "model": case.name, "layers": 0}
    row |= dict.fromkeys(("converted", "left_alone"), 0)
    for way in ("", "_traced"):
        row |= dict.fromkeys((f"fused{way}", f"residual{way}", f"not_fused{way}"), 0)
    row |= {"outputs": "", "gradients": "", "statistics": "", "seconds": 0.0, "left": "", "problem": ""}
    began = time.perf_counter()
    try:
        with torch.device("cpu" if case.inputs else "meta"):
            torch.manual_seed(0)
            model = case.build()
        example = smallest_example(model, case, modes=(False, True)) if case.inputs else None
        _convert(model, None, row, "", trace=False)
        _convert(model, example, row, "_traced", trace=True)
    except Exception as error:  # whatever a library raises: the row says so, and the others go on
        traceback.print_exc()
        row["problem"] = f"{type(error).__name__}: {error}".splitlines()[0]
    row["seconds"] = round(time.perf_counter() - began, 1)
    return row | {"version": metadata.version(case.library)} | machine()


def _convert(model: nn.Module, example: Inputs | None, row: Row, way: str, *, trace: bool) -> None:
    kinds, keys = [type(m) for m in model.modules()], list(model.state_dict())
    record = convert(model, example, trace=trace)
    counts = record.counts
    row["layers"] = counts["converted"] + counts["left_alone"]
    row["converted"], row["left_alone"] = counts["converted"], counts["left_alone"]
    row[f"fused{way}"] = counts["fused"]
    row[f"residual{way}"] = sum(entry.what.startswith("residual") for entry in record.fused)
    row[f"not_fused{way}"] = counts["not_fused"]
    row["left"] = reasons((*record.left_alone, *record.not_fused))
    if record.verified is not None:
        for name in ("outputs", "gradients", "statistics"):
            row[name] = f"{max(getattr(record.verified, name), float(row[name] or 0)):.1e}"
    if list(model.state_dict()) != keys:
        raise AssertionError("state_dict has other keys")
    revert(model)
    if [type(m) for m in model.modules()] != kinds:
        raise AssertionError("revert left something behind")


def _line(row: Row) -> str:
    verified = f"gradients within {row['gradients']}" if row["gradients"] else "counted"
    return (
        f"{row['library']:12s} {row['family']:22s} {row['model']:30s} {row['layers']:4d} layers, "
        f"converted {row['converted']:4d}, fused {row['fused']:4d} ({row['residual']} residual), "
        f"traced {row['fused_traced']:4d} ({row['residual_traced']}), left alone {row['left_alone']:3d}, "
        f"{row['problem'] or verified}, {row['seconds']} s"
    )


def _sums(rows: list[Row]) -> str:
    lines = []
    for library in dict.fromkeys(row["library"] for row in rows):
        own = [row for row in rows if row["library"] == library]
        names = ("layers", "converted", "left_alone", "fused", "residual", "fused_traced", "residual_traced")
        total = {name: sum(row[name] for row in own) for name in names}
        families = len({row["family"] for row in own})
        verified = sum(bool(row["gradients"]) for row in own)
        lines.append(
            f"{library}: {families} families, {len(own)} models ({verified} verified, "
            f"{sum(bool(row['problem']) for row in own)} with a problem), {total['layers']} layers: "
            f"{total['converted']} converted, {total['left_alone']} left alone; fused {total['fused']} "
            f"({total['residual']} with a residual), with trace {total['fused_traced']} ({total['residual_traced']})"
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
