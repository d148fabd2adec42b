"""A run's folder: what it must never lose, and who may use it."""

from __future__ import annotations

from pathlib import Path

import pytest

from batchnorm.cli.folder import RunFolder
from batchnorm.errors import SettingsError


@pytest.mark.parametrize("name", ["report.html", "checkpoints/mine.pt"])
def test_begin_refuses_to_replace_what_no_run_has_written(tmp_path: Path, name: str) -> None:
    """A folder of the user's own with a report.html or checkpoints/ was once emptied without a word."""
    own = tmp_path / name
    own.parent.mkdir(exist_ok=True)
    own.write_text("precious")
    with pytest.raises(SettingsError, match="which a run would replace"):
        RunFolder(tmp_path).begin({}, overwrite=False)
    assert own.read_text() == "precious"


def test_begin_overwrite_leaves_foreign_checkpoints_alone(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.begin({}, overwrite=False)
    (folder.checkpoints / "mine.pt").write_text("precious")
    (folder.checkpoints / "network-1.safetensors").write_text("ours")
    folder.begin({}, overwrite=True)
    assert [path.name for path in folder.checkpoints.iterdir()] == ["mine.pt"]


def test_overwrite_keeps_the_finished_run_until_the_new_one_is_finished(tmp_path: Path) -> None:
    """A diverging run was once all that was left of a good one."""
    folder = RunFolder(tmp_path)
    folder.begin({}, overwrite=False)
    folder.model.write_text("good model")
    folder.report.write_text("good report")
    folder.finish({"good": True})
    folder.begin({}, overwrite=True)
    assert not folder.is_finished
    folder.begin({}, overwrite=True)  # a second try after a failed one
    assert (folder.previous / "model.safetensors").read_text() == "good model"
    assert {path.name for path in folder.previous.iterdir()} == {"model.safetensors", "report.html", "record.json"}
    folder.model.write_text("new model")
    folder.finish({})
    assert not folder.previous.exists()


def test_folder_held_by_one_process_is_refused_to_another(tmp_path: Path) -> None:
    """Two runs in one folder once left neither to be resumed."""
    pytest.importorskip("fcntl")
    folder = RunFolder(tmp_path / "run")
    with folder.held(), pytest.raises(SettingsError, match="by another process"), RunFolder(tmp_path / "run").held():
        pass
    with folder.held():
        pass
    assert not list(folder.path.iterdir())
