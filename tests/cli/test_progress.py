"""Progress for who watches a terminal: bars with loss, metric, speed and time left; silence for everyone else."""

from __future__ import annotations

import os
import pty
import re
import threading
from contextlib import redirect_stderr

import pytest
from tests.cli.program import batchnorm

QUICK = ("train", "digits", "--hidden", "30", "--steps", "300", "--evaluate-every", "10", "--compare", "--out", "run")


def seen_on_a_terminal(*arguments: str) -> str:
    """What a command writes to standard error where that is a terminal."""
    master, slave = pty.openpty()
    seen: list[bytes] = []

    def watch() -> None:
        try:
            while chunk := os.read(master, 65536):
                seen.append(chunk)
        except OSError:  # the other end is closed
            pass

    watcher = threading.Thread(target=watch)
    watcher.start()
    with os.fdopen(slave, "w") as terminal, pytest.MonkeyPatch.context() as environment:
        environment.setenv("TERM", "xterm-256color")
        environment.setenv("COLUMNS", "160")
        environment.setattr("tests.cli.program.redirect_stderr", lambda _: redirect_stderr(terminal))
        assert batchnorm(*arguments).code == 0
    watcher.join()
    os.close(master)
    return b"".join(seen).decode()


def test_bars_show_steps_loss_metric_speed_and_time_left() -> None:
    seen = seen_on_a_terminal(*QUICK)
    for label in ("with batch normalization", "without normalization"):
        assert f"{label} (all steps)" in seen
    assert "300/300" in seen
    assert re.search(r"loss \d\.\d{4}  accuracy \d\.\d{3}", seen)
    assert re.search(r"[\d,]+ rows/s", seen)
    assert re.search(r"\d:\d\d:\d\d", seen)


def test_quiet_and_json_show_no_bars() -> None:
    assert seen_on_a_terminal(*QUICK, "--quiet") == ""
    assert seen_on_a_terminal(*QUICK, "--json", "--overwrite") == ""


def test_without_a_terminal_there_are_no_bars() -> None:
    assert batchnorm(*QUICK).err == ""
