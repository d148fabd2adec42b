"""What a figure was measured on: one line for people, one dictionary for CSV rows."""

from __future__ import annotations

import csv
import datetime
import os
import platform
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

RESULTS = Path(__file__).parent / "results"


def machine() -> dict[str, Any]:
    """Processor, cores, threads, versions."""
    return {
        "date": datetime.date.today().isoformat(),
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "batchnorm": metadata.version("batchnorm"),
        "malloc": os.environ.get("MALLOC_TRIM_THRESHOLD_", "") + os.environ.get("LD_PRELOAD", "") or "default",
    }


def line() -> str:
    """The same, to print above a table."""
    return ", ".join(f"{k} {v}" for k, v in machine().items())


def append_row(name: str, row: dict[str, Any]) -> Path:
    """Add one row, the machine included, to results/NAME.csv."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{name}.csv"
    full = row | machine()
    is_new = not path.exists()
    with path.open("a", newline="") as file:
        writer = csv.DictWriter(file, fieldnames=list(full), lineterminator="\n")
        if is_new:
            writer.writeheader()
        writer.writerow(full)
    return path


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
