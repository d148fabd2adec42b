"""Real processes that share a batch, and a real terminal that shows a bar."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

_RANK = """
import sys, torch
from torch import nn, distributed as dist
import batchnorm
from torch.nn.parallel import DistributedDataParallel
rank, file = int(sys.argv[1]), sys.argv[2]
dist.init_process_group("gloo", init_method=f"file://{file}", rank=rank, world_size=2)
torch.manual_seed(0)
model = nn.Sequential(nn.Linear(3, 4), batchnorm.SyncBatchNorm1d(4), nn.ReLU(), nn.Linear(4, 2))
alone = nn.Sequential(model[0], batchnorm.BatchNorm1d(4))
x = torch.randn(60, 3, generator=torch.Generator().manual_seed(1))
parts = [(20, 25), (25, 26), (30, 37)] if rank == 0 else [(25, 25), (26, 30), (37, 60)]
whole = torch.cat([x[20:25], x[25:30], x[30:]])
given = DistributedDataParallel(model) if sys.argv[3] == "ddp" else model
record = batchnorm.recalibrate(given, [x[a:b] for a, b in parts])
batchnorm.recalibrate(alone, [whole])
torch.testing.assert_close(model[1].running_mean, alone[1].running_mean, rtol=1e-6, atol=1e-6)
torch.testing.assert_close(model[1].running_var, alone[1].running_var, rtol=1e-5, atol=1e-6)
assert record.layers[0].values == 40, record.layers[0].values
dist.destroy_process_group()
print("well")
"""

_BAR = """
import sys, time, torch
from batchnorm import recalibrate
import batchnorm.progress_bar as progress
progress._PATIENCE = 0.2
def batches():
    for k in range(8):
        time.sleep(0.1)
        yield torch.randn(4, 3)
class Loader:
    def __iter__(self): return batches()
    def __len__(self): return 8
recalibrate(torch.nn.BatchNorm1d(3), Loader(), progress=sys.argv[1] == "shown")
"""


_SURGERY = """
import sys, torch
from torch import nn
from batchnorm import drop_redundant_bias, fold, insert
import batchnorm.progress_bar as progress
progress._PATIENCE = progress._PERIOD = 0
shown = sys.argv[1] == "shown"
pairs = nn.Sequential(*(m for _ in range(5) for m in (nn.Linear(4, 4), nn.BatchNorm1d(4))))
maps = nn.Sequential(*(m for _ in range(5) for m in (nn.Linear(4, 4), nn.ReLU())))
fold(pairs, torch.randn(8, 4), progress=shown)
drop_redundant_bias(pairs, progress=shown)
insert(maps, torch.randn(8, 4), progress=shown)
"""


@pytest.mark.parametrize("wrapped", ["plain", "ddp"])
def test_processes_that_share_batches_find_the_statistics_of_all_rows(tmp_path: Path, wrapped: str) -> None:
    """Shares are unequal, one is empty, one has one row."""
    ranks = [
        subprocess.Popen(
            [sys.executable, "-c", _RANK, str(rank), str(tmp_path / "meet"), wrapped],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    for rank in ranks:
        out, error = rank.communicate(timeout=120)
        assert (rank.returncode, out.strip()) == (0, b"well"), error.decode()


def _on_a_terminal(shown: str, work: str = _BAR) -> bytes:
    """What the work writes to a terminal on its standard error."""
    ours, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", work, shown],
        stdout=subprocess.DEVNULL,
        stderr=theirs,
        env=os.environ | {"TERM": "xterm"},
    )
    os.close(theirs)
    written = b""
    try:
        while chunk := os.read(ours, 4096):
            written += chunk
    except OSError:  # the other end is closed
        pass
    os.close(ours)
    assert process.wait(timeout=60) == 0, written.decode()
    return written


def test_long_work_shows_a_bar_on_a_terminal() -> None:
    written = _on_a_terminal("shown").decode()
    assert "recalibrating" in written
    assert "/8" in written


def test_long_surgery_shows_a_bar_on_a_terminal() -> None:
    written = _on_a_terminal("shown", _SURGERY).decode()
    assert [what in written for what in ("folding", "/5", "looking for biases", "inserting", "/11")] == [True] * 5


@pytest.mark.parametrize("work", [_BAR, _SURGERY])
def test_bar_can_be_left_out(work: str) -> None:
    assert _on_a_terminal("hidden", work) == b""


def test_piped_work_writes_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", _BAR, "shown"], capture_output=True, timeout=60)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")
