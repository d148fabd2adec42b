"""What `batchnorm export` does once its arguments are known: make the file, and ask it for answers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from batchnorm.errors import ModelFileError
from batchnorm.predictor.folded_file import ALLOWED, answers, largest_difference, typical_rows

if TYPE_CHECKING:
    from batchnorm.model_file import ModelFile
    from batchnorm.predictor import Predictor

Program = Callable[[NDArray[np.float64]], NDArray[Any]]


@dataclass(frozen=True)
class Checked:
    """On how many rows an exported network was compared, and how far it was; None where nothing could run it."""

    rows: int
    difference: float | None


def written_as(ending: str, model_file: ModelFile) -> bytes:
    """The content of a file of that ending: .onnx or .pt2."""
    if ending == ".onnx":
        from batchnorm.predictor.onnx_model import onnx_model

        return onnx_model(model_file)
    from batchnorm.predictor.folded_file import folded_file
    from batchnorm.training.reopened import exported_program

    has_layers = model_file.network.norm == "batch" and model_file.network.hidden
    return exported_program(folded_file(model_file) if has_layers else model_file)


def check(ending: str, data: bytes, predictor: Predictor) -> Checked:
    """Compare what the file answers with the predictor, each row alone and all at once.

    Raises:
        ModelFileError: they differ.
    """
    program = _onnx_program(data) if ending == ".onnx" else _torch_program(data)
    if program is None:
        return Checked(0, None)
    rows = typical_rows(predictor.model_file)
    expected = answers(predictor, rows)
    alone = np.concatenate([program(rows[number : number + 1]) for number in range(len(rows))])
    difference = max(largest_difference(expected, found) for found in (alone, program(rows)))
    if not difference <= ALLOWED:
        raise ModelFileError(f"the export differs by {difference:.1e} of the largest answer: nothing is written")
    return Checked(len(rows), difference)


def _onnx_program(data: bytes) -> Program | None:
    try:
        import onnxruntime  # type: ignore[import-untyped]
    except ImportError:
        return None
    session = onnxruntime.InferenceSession(data, providers=["CPUExecutionProvider"])

    def run(rows: NDArray[np.float64]) -> NDArray[Any]:
        (answer,) = session.run(None, {"features": rows})
        return np.asarray(answer)

    return run


def _torch_program(data: bytes) -> Program:
    import io

    import torch

    module = torch.export.load(io.BytesIO(data)).module()

    def run(rows: NDArray[np.float64]) -> NDArray[Any]:
        with torch.no_grad():
            answer: NDArray[Any] = module(torch.from_numpy(rows)).numpy()
        return answer

    return run
