"""Runs that do not come to their end by themselves: what is trained, how to stop it, and what it should have become."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.cli.program import started

# Dropout, moments of an optimizer, a twin, evaluations in the middle of epochs: all that there is to keep.
TRAINING = (
    *("train", "digits", "--hidden", "48,32", "--steps", "400", "--evaluate-every", "7", "--dropout", "0.2"),
    *("--batch-size", "50", "--weight-decay", "0.001", "--class-weight", "balanced", "--compare", "--device", "cpu"),
)


@contextmanager
def under_way(*arguments: str | Path, out: Path, **options: object) -> Iterator[subprocess.Popen[str]]:
    """A process that trains into `out` and has written a checkpoint of its own; none is left behind."""
    before = newest(out)
    with started(*arguments, "--out", out, **options) as running:
        try:
            deadline = time.monotonic() + 60
            while running.poll() is None and newest(out) <= before:
                assert time.monotonic() < deadline, "no checkpoint within a minute"
                time.sleep(0.001)
            yield running
        finally:
            running.kill()


def newest(out: Path) -> int:
    """When a checkpoint was last written there, in nanoseconds; 0 where there is none."""
    return max((path.stat().st_mtime_ns for path in (out / "checkpoints").glob("*.safetensors")), default=0)


@contextmanager
def stopping_after(questions: int) -> Iterator[None]:
    """Ctrl-C, in this process, once the loop has asked so many times whether to stop."""

    class Impatient(list[int]):
        left = questions

        def __bool__(self) -> bool:
            self.left -= 1
            return self.left <= 0

    @contextmanager
    def pressed() -> Iterator[list[int]]:
        yield Impatient()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("batchnorm.cli.train._until_interrupted", pressed)
        yield
