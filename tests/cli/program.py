"""The command line as a user has it: in this process for the many cases, as a real process where that matters."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, NamedTuple

import pytest

COMMAND = (sys.executable, "-m", "batchnorm")


class Answer(NamedTuple):
    """What a command left: its exit code, and what it wrote."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Standard output as one strict JSON value."""
        return strict_json(self.out)


def batchnorm(*arguments: str | Path, stdin: bytes = b"") -> Answer:
    """Run a command in this process, its streams no terminal."""
    from batchnorm.cli.app import app

    out, err, before = io.StringIO(), io.StringIO(), sys.stdin
    sys.stdin = io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8")
    try:
        with redirect_stdout(out), redirect_stderr(err), pytest.raises(SystemExit) as ended:
            app([str(a) for a in arguments], prog_name="batchnorm")
    finally:
        sys.stdin = before
    code = ended.value.code
    return Answer(code if isinstance(code, int) else 0, out.getvalue(), err.getvalue())


def process(*arguments: str | Path, stdin: bytes = b"", timeout: float = 120, **options: Any) -> Answer:
    """Run a command as a process of its own, its streams pipes."""
    command = [*COMMAND, *(str(a) for a in arguments)]
    done = subprocess.run(command, input=stdin, capture_output=True, timeout=timeout, check=False, **options)
    return Answer(done.returncode, done.stdout.decode(), done.stderr.decode())


def started(*arguments: str | Path, **options: Any) -> subprocess.Popen[str]:
    """Start a command as a process of its own, its streams pipes of text."""
    command = [*COMMAND, *(str(a) for a in arguments)]
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    return subprocess.Popen(command, text=True, env=os.environ | {"PYTHONUNBUFFERED": "1"}, **pipes | options)


def strict_json(text: str) -> Any:
    """One JSON value and no more; NaN and Infinity are none."""

    def refuse(constant: str) -> None:
        raise AssertionError(f"{constant} is not JSON")

    return json.loads(text, parse_constant=refuse)


def tensors_of(folder: Path) -> dict[str, Any]:
    """The tensors of the model file in a run's folder."""
    from batchnorm.model_file import read_model_file

    return dict(read_model_file(folder / "model.safetensors").tensors)


def assert_same_tensors(first: Path, second: Path) -> None:
    """Bit by bit, by name."""
    mine, theirs = tensors_of(first), tensors_of(second)
    assert mine.keys() == theirs.keys()
    differing = [name for name in mine if mine[name].tobytes() != theirs[name].tobytes()]
    assert not differing
