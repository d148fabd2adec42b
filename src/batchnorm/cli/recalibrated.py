"""What `batchnorm recalibrate` does once its arguments are known."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from numpy.typing import NDArray

from batchnorm.errors import DataError, ModelFileError, SettingsError
from batchnorm.model_file import ModelFile

if TYPE_CHECKING:
    from batchnorm.statistics.record import Recalibration


@dataclass(frozen=True)
class Recalibrated:
    """The model file with new statistics, and how far the old ones were."""

    model_file: ModelFile
    record: Recalibration


def recalibrated(
    model_file: ModelFile,
    rows: NDArray[Any],
    counts: NDArray[Any] | None = None,
    *,
    batch_size: int,
    sequential: bool,
) -> Recalibrated:
    """Measure the statistics of a network over encoded rows (N, F). counts: (N,), how often each counts; None is once.

    Raises:
        ModelFileError: the network has no batch norm layers.
        SettingsError: batches of fewer than two rows.
        DataError: fewer than two rows, or rows that are not finite.
    """
    network = model_file.network
    if network.norm is None or not network.hidden:
        raise ModelFileError(
            "recalibrate expected a network with batch norm layers, got one without: it keeps no running statistics"
        )
    if batch_size < 2:
        raise SettingsError(f"--batch-size expected 2 or more, got {batch_size}: a batch of one row has no variance")
    if len(rows) < 2:
        raise DataError(f"recalibrate expected at least two rows, got {len(rows)}: statistics are taken over rows")
    import torch

    from batchnorm.statistics import recalibrate
    from batchnorm.training.reopened import Reopened

    module = Reopened(model_file)
    given = [rows] if counts is None else [rows, counts[:, None]]
    columns = (torch.split(torch.from_numpy(part.astype("float64")), batch_size) for part in given)
    batches = list(zip(*columns, strict=True))
    try:
        record = recalibrate(module, batches, sequential=sequential, call=lambda module, batch: module(*batch))
    except ValueError as error:
        raise DataError(str(error)) from error
    new = {name: tensor.numpy().copy() for name, tensor in module.state_dict().items() if ".norm.running" in name}
    trained = {**model_file.trained, "recalibrated": {"rows": len(rows), "batches": record.batches}}
    tensors = {name: new.get(name, array) for name, array in model_file.tensors.items()}
    tensors = {name: array.astype(model_file.tensors[name].dtype) for name, array in tensors.items()}
    return Recalibrated(replace(model_file, tensors=tensors, trained=trained), record)
