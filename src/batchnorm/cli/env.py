"""`batchnorm env`: what this installation computes with, to look at or to put into a report of a fault."""

from __future__ import annotations

import json
import os
import platform
import re
from pathlib import Path
from typing import Annotated, Any

import typer

_TELLING = re.compile(r"(MALLOC_|OMP_|MKL_|KMP_|GOMP_|BATCHNORM_).*|LD_PRELOAD|GLIBC_TUNABLES")  # environment variables
_LISTED = ("/proc/self/maps", re.compile(r"\S*/lib[gi]?omp[^/\s]*\.so[^/\s]*$", re.MULTILINE))


def env(as_json: Annotated[bool, typer.Option("--json", help="The same as JSON.")] = False) -> None:
    """Show versions, the kernels that run and why, threads, and the environment variables that matter."""
    found = environment()
    if as_json:
        typer.echo(json.dumps(found))
        return
    for name, value in found.items():
        typer.echo(f"{name.replace('_', ' '):18s} {_said(value)}")


def environment() -> dict[str, Any]:
    """What `batchnorm env` shows, by name."""
    import numpy as np
    import torch

    from batchnorm import __version__
    from batchnorm.kernels import choice, kept_memory

    running = choice.current()
    with choice.using("auto"):
        module = choice.native()
        sets = [] if module is None else [name.replace("_", "-") for name in module.instruction_sets()]
    return {
        "batchnorm": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "numpy": np.__version__,
        "platform": platform.platform(),
        "processors": os.cpu_count(),
        "kernel_asked": running.asked,
        "kernel": running.kernel if running.instruction_set is None else f"{running.kernel} {running.instruction_set}",
        "why": running.why,
        "instruction_sets": sets,
        "layers_in_one_step": choice.layer_call is not None,
        "memory_kept": f"{kept_memory().limit >> 20} MiB of results at most",
        "threads": torch.get_num_threads(),
        "openmp": _openmp_libraries(),
        "variables": {name: value for name, value in sorted(os.environ.items()) if _TELLING.fullmatch(name)},
    }


def _openmp_libraries() -> list[str]:
    """The OpenMP libraries in this process; more than one is more threads than anyone asked for."""
    listing, library = _LISTED
    try:
        return sorted(set(library.findall(Path(listing).read_text())))
    except OSError:
        return []  # no Linux


def _said(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{k}={v}" for k, v in value.items()) or "none set"
    if isinstance(value, list):
        return ", ".join(map(str, value)) or "none"
    return {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
