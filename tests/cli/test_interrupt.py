"""Ctrl-C: the batch is finished, everything kept, how to go on is said; a second time it ends at once."""

from __future__ import annotations

import os
import shlex
import signal
from pathlib import Path

import pytest
from tests.cli.interruptions import TRAINING, under_way
from tests.cli.program import assert_same_tensors, batchnorm, started

from batchnorm.cli.train import _until_interrupted

SAID = "finishing this batch ... (Ctrl-C again to stop at once)\n"


def test_a_real_interrupt_keeps_the_run_says_how_to_go_on_and_exits_130(tmp_path: Path, whole: Path) -> None:
    out = tmp_path / "run"
    with under_way(*TRAINING, "--checkpoint-every", "0", out=out) as running:
        running.send_signal(signal.SIGINT)
        shown, said = running.communicate(timeout=30)
        assert running.returncode == 130
    assert shown == ""
    first, second = said.splitlines(keepends=True)
    assert first == SAID
    assert second.startswith("stopped and kept; go on with: batchnorm train --resume --out ")
    assert not list((out / "checkpoints").glob(".*"))
    _, *arguments = shlex.split(second.partition(": ")[2])
    assert batchnorm(*arguments).code == 0
    assert_same_tensors(out, whole)


def test_two_real_interrupts_end_at_once_and_the_run_can_go_on(tmp_path: Path) -> None:
    """A batch of all rows through wide layers takes long enough for the second to come in its middle."""
    wide = ("train", "digits", "--hidden", "1000,1000", "--batch-size", "2000", "--optimizer", "gd", "--steps", "8")
    out = tmp_path / "run"
    with under_way(*wide, "--checkpoint-every", "0", out=out) as running:
        assert running.stderr is not None
        running.send_signal(signal.SIGINT)
        assert running.stderr.readline() == SAID
        running.send_signal(signal.SIGINT)
        assert running.wait(30) == 130
        rest = running.stderr.read()
    assert rest == "batchnorm: interrupted\n" or rest.startswith("stopped and kept")
    assert not (out / "record.json").exists()
    assert batchnorm("train", "--resume", "--out", out).code == 0


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="needs Linux to see what a process has loaded")
def test_an_interrupt_before_training_begins_exits_130(tmp_path: Path) -> None:
    with started("train", "digits", "--out", tmp_path / "run") as running:
        while not Path(f"/proc/{running.pid}/maps").read_text().count("libtorch"):
            assert running.poll() is None  # torch is being loaded: far from the first step
        running.send_signal(signal.SIGINT)
        _, said = running.communicate(timeout=30)
    assert running.returncode == 130
    assert "Traceback" not in said


def test_the_first_interrupt_is_remembered_the_second_raises(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGINT)
    with _until_interrupted() as seen:
        assert not seen
        os.kill(os.getpid(), signal.SIGINT)
        assert seen
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before
    assert capsys.readouterr().err == SAID


def test_the_handler_is_put_back_when_training_raises() -> None:
    before = signal.getsignal(signal.SIGINT)
    with pytest.raises(OSError, match="no space"), _until_interrupted():
        raise OSError("no space")
    assert signal.getsignal(signal.SIGINT) is before
