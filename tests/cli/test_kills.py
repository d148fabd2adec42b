"""kill -9 at any moment, some of them inside the writing of a checkpoint: resumed, the run ends with the same bits."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path

import pytest
from tests.cli.interruptions import TRAINING, under_way
from tests.cli.program import assert_same_tensors, batchnorm, started


def killed_and_resumed(out: Path, *, kills: int, within: float, seed: int) -> int:
    """Kill TRAINING so many times, each at a random moment; returns how often a checkpoint was being written."""
    moments, writing = random.Random(seed), 0
    arguments: tuple[str, ...] = TRAINING
    for _ in range(kills):
        with under_way(*arguments, "--checkpoint-every", "0", out=out) as running:
            time.sleep(moments.uniform(0, within))
            running.send_signal(signal.SIGKILL)
            assert running.wait(30) == -signal.SIGKILL, "it had ended before it could be killed"
        writing += len(list((out / "checkpoints").glob(".*.part")))
        arguments = ("train", "--resume")
    assert not (out / "record.json").exists()
    assert batchnorm("train", "--resume", "--out", out).code == 0
    return writing


def test_a_run_killed_three_times_ends_the_same(tmp_path: Path, whole: Path) -> None:
    killed_and_resumed(tmp_path / "killed", kills=3, within=0.15, seed=1)
    assert_same_tensors(tmp_path / "killed", whole)


@pytest.mark.long
def test_a_run_killed_twenty_times_ends_the_same(tmp_path: Path, whole: Path) -> None:
    writing = killed_and_resumed(tmp_path / "killed", kills=20, within=0.05, seed=2)
    assert writing > 0
    assert_same_tensors(tmp_path / "killed", whole)


@pytest.mark.long
def test_a_run_killed_before_its_first_checkpoint_ends_the_same(tmp_path: Path, whole: Path) -> None:
    """While it reads the data, makes its folder, draws its weights: the same command with --resume goes on."""
    out, moments = tmp_path / "killed", random.Random(3)
    for _ in range(6):
        with started(*TRAINING, "--resume", "--out", out) as running:
            time.sleep(moments.uniform(0.5, 3.0))
            running.kill()
    assert batchnorm(*TRAINING, "--resume", "--out", out).code == 0
    assert_same_tensors(out, whole)
