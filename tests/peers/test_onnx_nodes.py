"""onnx's own backend cases of the operator BatchNormalization through batchnorm.functional.batch_norm.

The `test_batchnorm_*` node cases are made by a module in onnx's wheel, the five cases converted from PyTorch lie
there as files. onnx means other things than torch by two words, so each case is converted, here and nowhere else:

- momentum is the share of the old statistics that is kept: 1 - onnx's momentum is the weight of the new batch;
- the running variance is updated with the biased variance of the batch, m / (m - 1) times less than torch's.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import onnx.backend.test.case.node as node_cases
import onnx.backend.test.loader as loader
import pytest
import torch
from onnx import numpy_helper
from tests.peers import subject
from torch import Tensor


@dataclass(frozen=True)
class Case:
    """One BatchNormalization node, its five inputs (x, scale, bias, mean, variance) and one or three expected
    outputs."""

    name: str
    node: onnx.NodeProto
    inputs: tuple[np.ndarray, ...]
    outputs: tuple[np.ndarray, ...]
    rtol: float
    atol: float

    def __str__(self) -> str:
        return self.name

    def attribute(self, name: str, default: float) -> float:
        found = {a.name: onnx.helper.get_attribute_value(a) for a in self.node.attribute}
        return found.get(name, default)


def _node_cases() -> list[Case]:
    state = np.random.get_state()
    for module in pkgutil.iter_modules(node_cases.__path__):
        if module.name in ("batchnorm", "batch_normalization"):  # its name up to onnx 1.18, and since
            importlib.import_module(f"{node_cases.__name__}.{module.name}")
    np.random.set_state(state)  # making the cases seeds NumPy
    return [
        Case(case.name, case.model.graph.node[0], tuple(inputs), tuple(outputs), case.rtol, case.atol)
        for case in node_cases._NodeTestCases
        if case.name.startswith("test_batchnorm_")
        for inputs, outputs in case.data_sets
    ]


def _converted_cases() -> list[Case]:
    cases = []
    for case in loader.load_model_tests(kind="pytorch-converted"):
        if not case.name.startswith("test_BatchNorm"):
            continue
        graph = onnx.load(str(Path(case.model_dir) / "model.onnx")).graph
        (node,) = graph.node
        known = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
        folder = Path(case.model_dir) / "test_data_set_0"
        x, y = (_array(folder / name) for name in ("input_0.pb", "output_0.pb"))
        inputs = tuple(known.get(name, x) for name in node.input)
        cases.append(Case(case.name, node, inputs, (y,), case.rtol, case.atol))
    return sorted(cases, key=str)


def _array(path: Path) -> np.ndarray:
    tensor = onnx.TensorProto()
    tensor.ParseFromString(path.read_bytes())
    return numpy_helper.to_array(tensor)


NODE_CASES = _node_cases()
CONVERTED_CASES = _converted_cases()


def run(case: Case) -> list[Tensor]:
    """The node's outputs: y, and in training the updated mean and (biased) variance."""
    x, scale, bias, mean, variance = (torch.from_numpy(array.copy()) for array in case.inputs)
    training = bool(case.attribute("training_mode", 0))
    kept = case.attribute("momentum", 0.9)
    before = variance.clone()
    y = subject.batch_norm(
        x, mean, variance, scale, bias, training=training, momentum=1 - kept, eps=case.attribute("epsilon", 1e-5)
    )
    if not training:
        return [y]
    m = x.numel() // x.shape[1]
    biased = kept * before + (variance - kept * before) * (m - 1) / m
    return [y, mean, biased]


def test_onnx_has_node_cases_of_every_kind() -> None:
    """An empty list would pass everything below."""
    assert {case.name for case in NODE_CASES} >= {
        "test_batchnorm_example",
        "test_batchnorm_epsilon",
        "test_batchnorm_example_training_mode",
        "test_batchnorm_epsilon_training_mode",
    }
    assert len(CONVERTED_CASES) >= 5


@pytest.mark.parametrize("case", NODE_CASES + CONVERTED_CASES, ids=str)
def test_node_case_gives_the_stored_outputs(case: Case) -> None:
    outputs = run(case)
    assert len(outputs) == len(case.outputs)
    for got, expected in zip(outputs, case.outputs, strict=True):
        assert got.numpy().dtype == expected.dtype
        np.testing.assert_allclose(got.numpy(), expected, rtol=case.rtol, atol=case.atol)


@pytest.mark.parametrize("case", [case for case in NODE_CASES if len(case.outputs) == 3], ids=str)
def test_training_case_without_the_conversion_is_told_apart(case: Case) -> None:
    """The unbiased variance differs from the stored one by more than the case's own tolerance: the conversion is
    needed."""
    x, scale, bias, mean, variance = (torch.from_numpy(array.copy()) for array in case.inputs)
    subject.batch_norm(x, mean, variance, scale, bias, training=True, momentum=0.1, eps=case.attribute("epsilon", 1e-5))
    assert not np.allclose(variance.numpy(), case.outputs[2], rtol=case.rtol, atol=case.atol)
