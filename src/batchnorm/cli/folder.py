"""A run's folder: which files it holds, what it was started with, and whether it may be used."""

from __future__ import annotations

import json
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from batchnorm.atomic import atomic_write
from batchnorm.errors import CheckpointError, OutputError, SettingsError


@dataclass(frozen=True)
class RunFolder:
    """`path` and what is in it."""

    path: Path

    @property
    def model(self) -> Path:
        """The trained network."""
        return self.path / "model.safetensors"

    @property
    def report(self) -> Path:
        """The page to look at."""
        return self.path / "report.html"

    @property
    def record(self) -> Path:
        """The numbers of the report as JSON; written last, so that it says that the run is finished."""
        return self.path / "record.json"

    @property
    def options(self) -> Path:
        """What the run was started with, for --resume."""
        return self.path / "options.json"

    @property
    def checkpoints(self) -> Path:
        """A folder, gone once the run is finished."""
        return self.path / "checkpoints"

    @property
    def is_begun(self) -> bool:
        """Whether a run was begun here, finished or not."""
        return self._is_there(self.options)

    @property
    def is_finished(self) -> bool:
        """Whether a run was finished here."""
        return self._is_there(self.record)

    def begin(self, options: dict[str, Any], *, overwrite: bool) -> None:
        """Make the folder ready for a new run.

        Raises:
            SettingsError: another run is here, and it is not to be overwritten.
            OutputError: the folder cannot be made.
        """
        if not overwrite and any(self._is_there(path) for path in (self.model, self.record, self.options)):
            state = "a finished run" if self.is_finished else "an unfinished run"
            raise SettingsError(
                f"{self.path} holds {state}: go on with --resume, replace it with --overwrite, or name another --out"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            # The finish mark goes first: a run that is killed from here on is an unfinished one.
            for old in (self.record, self.options, self.model, self.report):
                old.unlink(missing_ok=True)
            if self.checkpoints.exists():
                shutil.rmtree(self.checkpoints)
            self.checkpoints.mkdir()
        except OSError as error:
            raise self._unusable(error) from error
        atomic_write(self.options, json.dumps(options, indent=1).encode())

    def read_options(self) -> dict[str, Any]:
        """What the run here was started with.

        Raises:
            CheckpointError: nothing was started here, or its options are damaged.
        """
        try:
            found = json.loads(self.options.read_bytes())
        except FileNotFoundError:
            raise CheckpointError(f"{self.path} holds no run to resume: start it without --resume") from None
        except (OSError, ValueError) as error:
            raise CheckpointError(f"{self.options} cannot be read ({error}): start again with --overwrite") from error
        if not isinstance(found, dict):
            raise CheckpointError(
                f"{self.options} expected an object, got {type(found).__name__}: start again with --overwrite"
            )
        return found

    def go_on(self) -> None:
        """Make the folder ready for the run that was begun here; raises OutputError where it cannot be."""
        try:
            self.checkpoints.mkdir(exist_ok=True)
        except OSError as error:
            raise self._unusable(error) from error

    def finish(self, record: dict[str, Any]) -> None:
        """Mark the run finished and drop what only an unfinished one needs."""
        atomic_write(self.record, json.dumps(record).encode())
        shutil.rmtree(self.checkpoints, ignore_errors=True)

    def _is_there(self, path: Path) -> bool:
        try:
            return path.exists()
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> OutputError:
        return OutputError(f"--out {self.path} cannot be used: {error.strerror or error}: choose another folder")


def fresh(data_name: str) -> Path:
    """A folder under runs/ that no run has used: runs/NAME, runs/NAME-2, ..."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(data_name).name.split(".")[0]).strip("-.") or "run"
    number = 1
    while True:
        path = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if not path.exists():
            return path
        number += 1
