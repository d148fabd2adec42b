"""A run's folder: which files it holds, what it was started with, and whether it may be used."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from contextlib import contextmanager, suppress
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
    def previous(self) -> Path:
        """Where --overwrite keeps the run that was here, until the new one is finished."""
        return self.path / "previous"

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
        taken = [path for path in (*self._results, self.options, self.checkpoints) if self._is_there(path)]
        if taken and not overwrite:
            state = "a finished run" if self.is_finished else "an unfinished run"
            if not self.is_begun:
                state = f"{taken[0].name}, which a run would replace"
            raise SettingsError(
                f"{self.path} holds {state}: go on with --resume, replace it with --overwrite, or name another --out"
            )
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            if any(path.exists() for path in self._results):
                self.previous.mkdir(exist_ok=True)
                # The finish mark goes first: a run that is killed from here on is an unfinished one.
                for old in self._results:
                    if old.exists():
                        old.replace(self.previous / old.name)
            self.options.unlink(missing_ok=True)
            self._drop_checkpoints()
            self.checkpoints.mkdir(exist_ok=True)
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
        self._drop_checkpoints()
        for old in self._results:
            (self.previous / old.name).unlink(missing_ok=True)
        _remove_if_empty(self.previous)

    def how_to_go_on(self) -> str:
        """What a run that could not write is left with, and how it is finished; empty where nothing is kept."""
        command = f"batchnorm train --resume --out {shlex.quote(str(self.path))}"
        if self._is_there(self.model):
            return f"; the model is saved in {self.model}, and {command} writes what is missing"
        if any(self.checkpoints.glob("network-*.safetensors")):
            return f"; training is kept up to its last checkpoint, and {command} goes on from there"
        return ""

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other processes from training here meanwhile; where the system knows no such locks, do nothing.

        Raises:
            SettingsError: another process is training here.
            OutputError: the folder cannot be made.
        """
        try:
            import fcntl
        except ImportError:
            yield
            return
        lock = self.path / ".lock"
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            file = lock.open("w")
        except OSError as error:
            raise self._unusable(error) from error
        with file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise SettingsError(
                    f"{self.path} is being trained in by another process: wait for it, or name another --out"
                ) from None
            try:
                yield
            finally:
                lock.unlink(missing_ok=True)

    @property
    def _results(self) -> tuple[Path, ...]:
        """What a finished run leaves, its finish mark first."""
        return (self.record, self.model, self.report)

    def _drop_checkpoints(self) -> None:
        """Remove our checkpoints, and the folder unless someone else keeps something there."""
        for ours in [*self.checkpoints.glob("network-*.safetensors"), *self.checkpoints.glob(".network-*.part")]:
            ours.unlink(missing_ok=True)
        _remove_if_empty(self.checkpoints)

    def _is_there(self, path: Path) -> bool:
        try:
            return path.exists()
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> OutputError:
        return OutputError(f"--out {self.path} cannot be used: {error.strerror or error}: choose another folder")


def _remove_if_empty(folder: Path) -> None:
    with suppress(OSError):
        folder.rmdir()


def fresh(data_name: str) -> Path:
    """A folder under runs/ that no run has used: runs/NAME, runs/NAME-2, ..."""
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", Path(data_name).name.split(".")[0]).strip("-.") or "run"
    number = 1
    while True:
        path = Path("runs") / (name if number == 1 else f"{name}-{number}")
        if not path.exists():
            return path
        number += 1
