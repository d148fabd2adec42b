"""A run that is stopped, kept and taken up again ends bit by bit where it would have ended anyway."""

from __future__ import annotations

import json
import pickle
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from tests.training.small import Examples, assembled, changed, clouds, differing, plane, state, turned

from batchnorm.errors import CheckpointError
from batchnorm.kernels import choice
from batchnorm.training import checkpoint
from batchnorm.training.arithmetic import Arithmetic
from batchnorm.training.assemble import Assembly
from batchnorm.training.objective import Task
from batchnorm.training.run import Run
from batchnorm.training.settings import Settings

STEPS = 12  # of three batches each: epochs end at 3, 6, 9


def ready(settings: Settings, task: Task = "classification", *, weighted: bool = False) -> Assembly:
    make = clouds if task == "classification" else plane
    train, valid = make(45), make(20, seed=1)
    if weighted:
        train = Examples(train.x, train.y, np.resize([0.5, 2.0, 1.0], 45))
    return assembled(settings, task=task, train=train, valid=valid)


class File:
    """A checkpoint at a path, and how a run is kept in it and taken up from it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "network-1.safetensors"

    def keep(self, run: Run) -> None:
        self.path.write_bytes(checkpoint.pack(run, identity="this"))

    def restore(self, run: Run) -> None:
        checkpoint.restore(run, self.path, identity="this")


def seen(assembly: Assembly) -> dict[str, Any]:
    """The progress but for what a clock says."""
    values = asdict(assembly.run.progress)
    assert values.pop("seconds") > 0
    for point in values["curve"]:
        point.pop("seconds")
    return values


def assert_same(first: Assembly, second: Assembly) -> None:
    assert not differing(state(first), state(second))
    assert not differing(first.run.best, second.run.best)
    assert seen(first) == seen(second)


@pytest.mark.parametrize("task", ["classification", "regression"])
@pytest.mark.parametrize("norm", ["batch", None])
@pytest.mark.parametrize("optimizer", ["gd", "momentum", "rmsprop", "adam"])
def test_a_run_stopped_after_any_step_ends_the_same(optimizer: Any, norm: Any, task: Task, tmp_path: Path) -> None:
    settings = changed(
        optimizer=optimizer, norm=norm, steps=STEPS, dropout=0.3, weight_decay=0.01, evaluate_every=2, batch_size=15
    )
    whole, file = turned(ready(settings, task)), File(tmp_path)
    for stop in range(1, STEPS):
        part = turned(ready(settings, task), after=stop, keep=file.keep)
        assert part.run.progress.step == stop
        assert_same(turned(ready(settings, task), restore=file.restore), whole)


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"placement": "after"},
        {"class_weight": "balanced"},
        {"warm_statistics": True},
        {"hidden": ()},
        {"hidden": (4,)},
        {"input_norm": False},
        {"patience": 2, "evaluate_every": 1},
        {"evaluate_every": 5},
    ],
    ids=str,
)
@pytest.mark.parametrize("weighted", [False, True])
def test_a_run_stopped_after_every_step_ends_the_same(changes: dict[str, Any], weighted: bool, tmp_path: Path) -> None:
    settings = changed(**{"steps": STEPS, "dropout": 0.3, "batch_size": 15} | changes)
    whole, file = turned(ready(settings, weighted=weighted)), File(tmp_path)
    part = turned(ready(settings, weighted=weighted), after=1, keep=file.keep)
    while part.run.progress.ended is None:
        step = part.run.progress.step + 1
        part = turned(ready(settings, weighted=weighted), after=step, restore=file.restore, keep=file.keep)
        assert part.run.progress.step == step or part.run.progress.ended
    assert_same(part, whole)


def test_a_finished_run_stays_finished(tmp_path: Path) -> None:
    settings = changed(steps=STEPS)
    file = File(tmp_path)
    whole = turned(ready(settings), keep=file.keep)
    assert_same(turned(ready(settings), restore=file.restore), whole)


@pytest.mark.filterwarnings("ignore::batchnorm.errors.StatisticsWarning")
def test_a_diverged_run_stays_diverged(tmp_path: Path) -> None:
    """Its progress holds NaN, which JSON has no word for."""
    settings = changed(norm=None, activation="relu", optimizer="gd", learning_rate=1e30)
    file = File(tmp_path)
    turned(ready(settings), keep=file.keep)
    again = turned(ready(settings), restore=file.restore)
    assert again.run.progress.ended == "diverged"
    assert not again.run.best


def test_a_restored_run_lets_go_of_the_file(tmp_path: Path) -> None:
    """Its tensors were the file's own pages: a disk could not be unmounted, a replaced file not be freed."""
    if not Path("/proc/self/maps").exists():
        pytest.skip("needs Linux to see what a process has mapped")
    file = File(tmp_path)
    turned(ready(changed()), after=4, keep=file.keep)
    again = turned(ready(changed()), after=6, restore=file.restore)
    assert again.run.best
    assert str(tmp_path) not in Path("/proc/self/maps").read_text()


def test_packing_changes_nothing() -> None:
    part = turned(ready(changed(dropout=0.3)), after=4)
    before, random = state(part), torch.get_rng_state()
    checkpoint.pack(part.run, identity="a")
    assert not differing(before, state(part))
    assert torch.equal(random, torch.get_rng_state())


@pytest.fixture(scope="module")
def kept() -> bytes:
    return checkpoint.pack(turned(ready(changed()), after=4).run, identity="this")


def refused(content: bytes, folder: Path, message: str, *, identity: str = "this") -> None:
    path = folder / "network-1.safetensors"
    path.write_bytes(content)
    fresh = ready(changed())
    before = state(fresh)
    with pytest.raises(CheckpointError, match=message):
        checkpoint.restore(fresh.run, path, identity=identity)
    assert not differing(before, state(fresh))


def test_every_cut_is_refused(kept: bytes, tmp_path: Path) -> None:
    for length in (0, 1, 7, 8, 100, len(kept) // 2, len(kept) - 1):
        refused(kept[:length], tmp_path, r"network-1\.safetensors expected .*: start again")


@pytest.mark.parametrize("part", ["header", "tensors"])
def test_a_flipped_bit_anywhere_is_refused(kept: bytes, part: str, tmp_path: Path) -> None:
    random = np.random.default_rng(0)
    header = 8 + int.from_bytes(kept[:8], "little")
    for place in random.integers(*((0, header) if part == "header" else (header, len(kept))), 30):
        altered = bytearray(kept)
        altered[place] ^= 1 << int(random.integers(8))
        refused(bytes(altered), tmp_path, "--overwrite" if part == "header" else "is damaged, its digest")


@pytest.mark.parametrize(
    "content",
    [
        pickle.dumps({"network": [1, 2, 3]}),
        b"not a checkpoint at all",
        safetensors.numpy.save({"head.weight": np.zeros(3)}),
        safetensors.numpy.save({"head.weight": np.zeros(3)}, {"checkpoint": "[]", "digest": "0"}),
        safetensors.numpy.save({"head.weight": np.zeros(3)}, {"checkpoint": "not json", "digest": "0"}),
        safetensors.numpy.save({"head.weight": np.zeros(3)}, {"digest": "0"}),
    ],
    ids=["pickle", "text", "foreign", "empty", "no-json", "no-state"],
)
def test_what_is_no_checkpoint_is_refused(content: bytes, tmp_path: Path) -> None:
    refused(content, tmp_path, "start again with --overwrite")


def test_another_identity_is_refused(kept: bytes, tmp_path: Path) -> None:
    refused(kept, tmp_path, "belongs to a run with other data or settings", identity="that")


def test_another_format_is_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(checkpoint, "FORMAT", 2)
    later = checkpoint.pack(turned(ready(changed()), after=4).run, identity="this")
    monkeypatch.undo()
    refused(later, tmp_path, "expected checkpoint format 1, got 2")


def test_a_checkpoint_holds_no_more_than_tensors_and_json(kept: bytes, tmp_path: Path) -> None:
    (tmp_path / "c").write_bytes(kept)
    with safetensors.safe_open(tmp_path / "c", framework="np") as file:
        said = json.loads(file.metadata()["checkpoint"])
    assert said.keys() == {"format", "identity", "progress", "loss_steps", "arithmetic"}
    assert said["progress"]["step"] == 4


def test_a_run_that_goes_on_by_other_kernels_says_so(tmp_path: Path) -> None:
    file = File(tmp_path)
    with choice.using("spec"):
        turned(ready(changed()), after=4, keep=file.keep)
        again = ready(changed())
        file.restore(again.run)  # the same kernels: not a word
    if choice.native() is None:
        pytest.skip("needs the compiled kernels")
    with pytest.warns(UserWarning, match="computed by torch, here by .*: set BATCHNORM_KERNEL=spec to go on exactly"):
        file.restore(ready(changed()).run)


def test_a_run_goes_on_with_the_products_it_was_begun_with(tmp_path: Path) -> None:
    file, begun = File(tmp_path), turned(ready(changed()), after=4)
    begun.run.formulas._library = "torch"
    file.keep(begun.run)
    again = ready(changed())
    file.restore(again.run)
    assert again.run.formulas.arithmetic.products == "torch"


@pytest.mark.parametrize(("products", "said"), [("native", False), ("torch", True)])
def test_other_threads_are_a_loss_where_they_change_bits(products: Any, said: bool) -> None:
    before, now = (Arithmetic("x86-64-v3", products, threads) for threads in (1, 2))
    assert (now.loss_since(before) is not None) is said
    assert "OMP_NUM_THREADS=1" in (now.loss_since(before) or "OMP_NUM_THREADS=1")


def test_a_checkpoint_from_before_kernels_were_noted_is_taken(tmp_path: Path) -> None:
    file = File(tmp_path)
    turned(ready(changed()), after=4, keep=file.keep)
    tensors, said = checkpoint._read(file.path)
    del said["arithmetic"]
    text = json.dumps(said)
    digest = checkpoint._digest(tensors, text)
    file.path.write_bytes(safetensors.torch.save(tensors, {"checkpoint": text, "digest": digest}))
    again = ready(changed())
    file.restore(again.run)
    assert again.run.progress.step == 4
