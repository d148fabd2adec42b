"""benchmarks/RESULTS.md from results/*.csv: of every case the row measured last, and the machine it was measured on.

python -m benchmarks.render
"""

from __future__ import annotations

import csv
from pathlib import Path

from benchmarks.machine import RESULTS, machine

TITLES = {
    "layers": "Layers: BatchNorm + ReLU, a training step beside torch eager and a copy (`python -m benchmarks.layers`)",
    "layers_others": "Layers: torch.compile and JAX jit over ours (`python -m benchmarks.layers --compiled --jax`)",
    "compiled": "Whole networks under torch.compile (`python -m benchmarks.compiled`)",
    "layers_evaluation": "Layers: evaluation forward beside torch eager (`python -m benchmarks.layers`)",
    "accuracy": "Accuracy: error over the rounding floor (`python -m benchmarks.accuracy`)",
    "train": "The trainer's step (`python -m benchmarks.train`)",
    "prediction": "Prediction (`python -m benchmarks.prediction`)",
    "input_norm": "InputNorm.fit (`python -m benchmarks.input_norm`)",
    "conversions": "convert(model) on real architectures (`python -m benchmarks.conversions`)",
    "recalibrate": "recalibrate beside torch's update_bn (`python -m benchmarks.recalibrate`)",
    "tools": "Statistics and surgery on real architectures, layers done / refused (`python -m benchmarks.tools`)",
    "foldings": "fold(model, example) on real architectures (`python -m benchmarks.foldings`)",
    "folded_inference": "Inference, folded and not (`python -m benchmarks.foldings`)",
    "lab_mnist": "The laboratory on MNIST, the paper's network (`python -m benchmarks.lab_mnist`)",
    "resnet": "A ResNet-18-like step, converted and untouched (`python -m benchmarks.resnet`)",
}
_NAMES = ("mode", "case", "claim", "family", "architecture", "what", "rival", "inputs", "layout", "dtype")


def main() -> None:
    """Write the page."""
    parts = ["# What was measured", "", "Rendered by `make bench`; each number is the latest of its case.", ""]
    known = [name for name in TITLES if (RESULTS / f"{name}.csv").exists()]
    others = sorted(p.stem for p in RESULTS.glob("*.csv") if p.stem not in TITLES)
    for name in (*known, *others):
        parts += [f"## {TITLES.get(name, name)}", "", *_table(RESULTS / f"{name}.csv"), ""]
    page = RESULTS.parent / "RESULTS.md"
    page.write_text("\n".join(parts))
    print(page)


def _table(path: Path) -> list[str]:
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    about = [name for name in machine() if rows and name in rows[0]]
    shown = [name for name in (rows[0] if rows else ()) if name not in about]
    naming = [name for name in shown if name in _NAMES] or shown[:1]
    latest = {tuple(row[name] for name in naming): row for row in rows}
    lines = ["| " + " | ".join(shown) + " |", "|" + "---|" * len(shown)]
    lines += ["| " + " | ".join(str(row[name]).replace("|", "\\|") for name in shown) + " |" for row in latest.values()]
    measured = sorted({", ".join(f"{name} {row[name]}" for name in about) for row in latest.values()})
    return [*lines, "", *(f"Measured on: {line}" for line in measured)]


if __name__ == "__main__":
    main()
