"""Where a command that makes a file of a model file writes it: beside the model file, over nothing that is there."""

from __future__ import annotations

from pathlib import Path

from batchnorm.errors import SettingsError


def place(model: Path, out: Path | None, *, ending: str, overwrite: bool) -> Path:
    """`out`, or the model file's name with another ending.

    Raises:
        SettingsError: something is there already, and is not to be overwritten; it is the model file itself.

    >>> place(Path("run/model.safetensors"), None, ending=".onnx", overwrite=False)
    PosixPath('run/model.onnx')
    """
    path = model.with_suffix(ending) if out is None else out
    if path.exists() and model.exists() and path.samefile(model):
        raise SettingsError(f"--out expected another file than the model file, got {str(path)!r}")
    if path.exists() and not overwrite:
        raise SettingsError(f"--out expected a file that is not there yet, got {str(path)!r}: add --overwrite")
    return path
