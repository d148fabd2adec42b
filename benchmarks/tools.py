"""Statistics and surgery on real architectures, family by family: how many layers each tool did, refused, and why.

    python -m benchmarks.tools [--only PART]

freeze and thaw, recalibrate, adapt and average count batch norm layers; drop_redundant_bias counts linear maps with a
bias before one; insert counts the linear maps that it gave a layer and those that it passed by. `fold` and `convert`
have counts of their own (benchmarks.foldings, benchmarks.conversions). Needs torchvision, timm and transformers (`make
.venv/installed-models`); models are built without weights. Each tool gets a copy of the model; after freeze and thaw,
recalibrate and undo, and adapt, the model must be what it was, to the bit. Exits with 1 where a tool fails.
"""

from __future__ import annotations

import argparse
import copy
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from importlib import metadata
from typing import Any

import torch
from benchmarks.conversion_cases import Case, Inputs, cases, reasons, smallest_example
from benchmarks.machine import append_row, line
from torch import nn

from batchnorm import adapt, average, drop_redundant_bias, freeze, insert, recalibrate, thaw

Count = tuple[int, int, str]  # done, refused or passed by, why


def main() -> None:
    """A line and a CSV row for each model, and the sums of each library."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="", help="models whose library, family and name hold this text")
    given = parser.parse_args()
    warnings.simplefilter("ignore")  # of the libraries
    print(line())
    sums: dict[str, dict[str, list[int]]] = {}
    failed = False
    for case in cases():
        if case.inputs is None or given.only not in f"{case.library} {case.family} {case.name}":
            continue
        row, counts = measure(case)
        print(f"{case.library} {case.family} {case.name}: {row['done / refused']}  {row['problem']}", flush=True)
        append_row("tools", row)
        failed |= bool(row["problem"])
        for tool, (done, refused, _) in counts.items():
            of_tool = sums.setdefault(case.library, {}).setdefault(tool, [0, 0])
            of_tool[0] += done
            of_tool[1] += refused
    for library, tools in sums.items():
        said = ", ".join(f"{tool} {done} / {refused}" for tool, (done, refused) in tools.items())
        print(f"{library}, done / refused: {said}")
    raise SystemExit(failed)


def measure(case: Case) -> tuple[dict[str, Any], dict[str, Count]]:
    """Every tool on one model."""
    began = time.perf_counter()
    counts: dict[str, Count] = {}
    problems = []
    torch.manual_seed(0)
    try:
        model = case.build().eval()
        example = smallest_example(model, case)
    except Exception as error:  # whatever a library raises
        model, example = None, None
        problems.append(f"{type(error).__name__}: {error}".splitlines()[0])
    for name, tool in TOOLS.items():
        if model is None or example is None:
            break
        try:
            counts[name] = tool(copy.deepcopy(model), example)
        except Exception as error:  # the row says so, and the others go on
            problems.append(f"{name}: {type(error).__name__}: {error}".splitlines()[0])
    row = {
        "library": case.library,
        "family": case.family,
        "architecture": case.name,
        "done / refused": ", ".join(f"{tool} {done} / {refused}" for tool, (done, refused, _) in counts.items()),
        "why": "; ".join(f"{tool}: {why}" for tool, (_, refused, why) in counts.items() if refused),
        "problem": "; ".join(problems),
        "seconds": round(time.perf_counter() - began, 1),
        "version": metadata.version(case.library),
    }
    return row, counts


def _norms(model: nn.Module) -> list[nn.Module]:
    return [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]


def _call(model: nn.Module, batch: Any) -> Any:
    return model(**batch) if isinstance(batch, dict) else model(batch)


def _as_before(model: nn.Module, before: dict[str, torch.Tensor]) -> None:
    if not all(torch.equal(t, before[name]) for name, t in model.state_dict().items()):
        raise AssertionError("the model is not what it was")


def _freeze(model: nn.Module, example: Inputs) -> Count:
    before = copy.deepcopy(model.state_dict())
    record = freeze(model) if _norms(model) else None
    if record is None:
        return 0, 0, ""
    with suppress(RuntimeError, ValueError):  # heads that a model has in training alone may want a larger image
        _call(model.train(), example)
    _as_before(model.eval(), before | {k: t for k, t in model.state_dict().items() if k not in _names(model)})
    thaw(model)
    return len(record.changed), len(record.left_alone), reasons(record.left_alone)


def _names(model: nn.Module) -> set[str]:
    """Of what freeze promises to keep: the batch norm layers' own tensors."""
    norms = {name for name, m in model.named_modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)}
    return {key for key in model.state_dict() if key.rpartition(".")[0] in norms}


def _recalibrate(model: nn.Module, example: Inputs) -> Count:
    if not _norms(model):
        return 0, 0, ""
    before = copy.deepcopy(model.state_dict())
    record = recalibrate(model, [example, example], call=_call)
    record.undo()
    _as_before(model, before)
    alone = {"untracked": record.untracked, "unreached": record.unreached, "frozen": record.frozen}
    why = "; ".join(f"{len(names)} {kind}" for kind, names in alone.items() if names)
    return len(record.layers), sum(map(len, alone.values())), why


def _adapt(model: nn.Module, example: Inputs) -> Count:
    if not _norms(model):
        return 0, 0, ""
    before = copy.deepcopy(model.state_dict())
    with adapt(model, iter([example, example]), call=_call, guard=False) as adaptation:
        done = len(adaptation.layers)
    _as_before(model, before)
    return done, len(_norms(model)) - done, "no value reaches them"


def _average(model: nn.Module, example: Inputs) -> Count:
    averaged = average([model, copy.deepcopy(model)])
    _call(averaged, example)
    return len(_norms(averaged)), 0, ""


def _drop(model: nn.Module, example: Inputs) -> Count:
    record = drop_redundant_bias(model, example)
    return len(record.dropped), len(record.left_alone), reasons(record.left_alone)


def _insert(model: nn.Module, example: Inputs) -> Count:
    try:
        record = insert(model, example)
    except ValueError as error:  # no place for one
        if "found no linear map" not in str(error):
            raise
        return 0, str(error).count("\n"), str(error).partition("\n")[2].replace("\n", "; ")
    return len(record.inserted), len(record.left_alone), reasons(record.left_alone)


TOOLS: dict[str, Callable[[nn.Module, Inputs], Count]] = {
    "freeze": _freeze,
    "recalibrate": _recalibrate,
    "adapt": _adapt,
    "average": _average,
    "drop_redundant_bias": _drop,
    "insert": _insert,
}


if __name__ == "__main__":
    main()
