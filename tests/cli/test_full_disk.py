"""A disk that is full: one clear message, the last good checkpoint stays, and with space again the run goes on."""

from __future__ import annotations

import resource
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.cli.conftest import mounted
from tests.cli.interruptions import TRAINING, stopping_after
from tests.cli.program import Answer, assert_same_tensors, batchnorm, process


@pytest.fixture
def sizes(tmp_path: Path) -> tuple[int, int]:
    """Of a checkpoint before the first evaluation has kept a best epoch, and after."""
    found = []
    for name, questions in (("early", 1), ("late", 8)):
        with stopping_after(questions):
            assert batchnorm(*TRAINING, "--out", name).code == 130
        found.append((tmp_path / name / "checkpoints" / "network-1.safetensors").stat().st_size)
    return found[0], found[1]


def assert_full(answer: Answer, reason: str, name: str) -> None:
    assert (answer.code, answer.out) == (2, "")
    assert answer.err.startswith("batchnorm: cannot write ")
    assert name in answer.err
    assert f": {reason}; " in answer.err
    assert "free some space or choose another folder" in answer.err
    assert answer.err.count("\n") == 1


def test_a_full_disk_while_keeping_a_checkpoint(tmp_path: Path, sizes: tuple[int, int], whole: Path) -> None:
    with mounted(tmp_path / "disk", f"size={max(sizes[0] * 2 + 40_000, sizes[1] + 40_000)}") as disk:
        answer = batchnorm(*TRAINING, "--checkpoint-every", "0", "--out", disk / "run")
        assert_full(answer, "No space left on device", "network-1.safetensors")
        assert "the last good file is still there, unchanged" in answer.err
        command = f"batchnorm train --resume --out {disk / 'run'}"
        assert answer.err.endswith(f"; training is kept up to its last checkpoint, and {command} goes on from there\n")
        (kept,) = (disk / "run" / "checkpoints").iterdir()
        assert kept.name == "network-1.safetensors"
        assert_full(
            batchnorm("train", "--resume", "--checkpoint-every", "0", "--out", disk / "run"),
            "No space left on device",
            "network-1.safetensors",
        )
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert batchnorm("train", "--resume", "--out", disk / "run").code == 0
        assert_same_tensors(disk / "run", whole)


def test_a_full_disk_while_writing_the_report(tmp_path: Path, whole: Path) -> None:
    with mounted(tmp_path / "disk", "size=2m") as disk:
        answer = batchnorm(*TRAINING, "--out", disk / "run")
        assert_full(answer, "No space left on device", "report.html")
        assert "no part of it was written" in answer.err
        command = f"batchnorm train --resume --out {disk / 'run'}"
        assert answer.err.endswith(
            f"; the model is saved in {disk / 'run'}/model.safetensors, and {command} writes what is missing\n"
        )
        assert not (disk / "run" / "record.json").exists()
        subprocess.run(["mount", "-o", "remount,size=64m", str(disk)], check=True)
        assert batchnorm("train", "--resume", "--out", disk / "run").code == 0
        assert_same_tensors(disk / "run", whole)


def test_a_file_size_limit_while_keeping_a_checkpoint(tmp_path: Path, sizes: tuple[int, int], whole: Path) -> None:
    """Where no file system can be mounted, this is as good as a full disk; and some machines have such limits."""
    limit = (sizes[0] + sizes[1]) // 2
    out = tmp_path / "run"
    answer = process(*TRAINING, "--checkpoint-every", "0", "--out", out, preexec_fn=limiting(limit))
    assert_full(answer, "File too large", "network-1.safetensors")
    assert "the last good file is still there, unchanged" in answer.err
    assert (out / "checkpoints" / "network-1.safetensors").stat().st_size < limit
    assert batchnorm("train", "--resume", "--out", out).code == 0
    assert_same_tensors(out, whole)


def test_a_file_size_limit_before_anything_is_kept_promises_nothing(tmp_path: Path, sizes: tuple[int, int]) -> None:
    out = tmp_path / "run"
    answer = process(*TRAINING, "--checkpoint-every", "0", "--out", out, preexec_fn=limiting(sizes[0] // 2))
    assert_full(answer, "File too large", "network-1.safetensors")
    assert "--resume" not in answer.err


def limiting(size: int) -> Callable[[], None]:
    return lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
