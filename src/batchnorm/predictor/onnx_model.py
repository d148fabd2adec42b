"""A model file as an ONNX model: the folded network's maps and activations as operators, without torch.

    x (N, F) float64 -> Sub, Div -> [Gemm -> activation] x L -> Gemm -> Softmax, or Mul and Add in the target's units

Input normalization stays in float64 and apart from the weights, as in `folded`: a column of mean 1e9 and standard
deviation 1 has no digits left in float32.
"""

from __future__ import annotations

import json
import math
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from batchnorm.errors import SettingsError
from batchnorm.model_file import ModelFile
from batchnorm.predictor.folded import fold

_OPSET = 17
_IR_VERSION = 8  # of the same time: what reads the opset reads this
_PLAIN = {"relu": "Relu", "sigmoid": "Sigmoid", "tanh": "Tanh"}


def onnx_model(model_file: ModelFile) -> bytes:
    """The network in ONNX's format: input `features`, output `probabilities` (N, classes) or `prediction` (N,).

    Its metadata names the features in order, the classes, and the target.

    Raises:
        SettingsError: the package onnx is not installed.
    """
    onnx = _onnx()
    graph = _Graph(onnx, model_file)
    x = graph.normalized("features")
    folded = graph.folded
    for number, layer in enumerate(folded.layers):
        weight = graph.constant(f"weight_{number}", layer.weight.astype(folded.dtype))
        bias = graph.constant(f"bias_{number}", layer.bias.astype(folded.dtype))
        x = graph.node("Gemm", x, weight, bias, transB=1)
        if number < len(folded.layers) - 1:
            x = graph.activated(x, folded.activation)
    x = graph.node("Cast", x, to=onnx.TensorProto.DOUBLE)
    schema = model_file.schema
    if schema.target.kind == "class":
        name, shape = "probabilities", ["rows", len(schema.target.classes)]
        graph.node("Softmax", x, axis=1, out=name)
    else:
        name, shape = "prediction", ["rows"]
        unit, zero = (np.asarray(model_file.tensors[f"target.{part}"], np.float64) for part in ("std", "mean"))
        x = graph.node("Squeeze", x, graph.constant("axes", np.array([1])))
        x = graph.node("Mul", x, graph.constant("unit", unit))
        graph.node("Add", x, graph.constant("zero", zero), out=name)
    about = {
        "features": list(schema.feature_names),
        "target": schema.target.name,
        "classes": list(schema.target.classes),
    }
    return graph.model(name, shape, {key: json.dumps(value) for key, value in about.items()})


class _Graph:
    """Operators one after the other."""

    def __init__(self, onnx: Any, model_file: ModelFile) -> None:
        self._onnx, self._inputs = onnx, model_file.network.inputs
        self.folded = fold(model_file)
        self._nodes: list[Any] = []
        self._constants: list[Any] = []

    def constant(self, name: str, value: NDArray[Any]) -> str:
        self._constants.append(
            self._onnx.numpy_helper.from_array(np.ascontiguousarray(value).reshape(value.shape), name)
        )
        return name

    def node(self, kind: str, *inputs: str, out: str | None = None, **attributes: Any) -> str:
        out = out or f"{kind.lower()}_{len(self._nodes)}"
        self._nodes.append(self._onnx.helper.make_node(kind, inputs, [out], **attributes))
        return out

    def normalized(self, x: str) -> str:
        scale = self.folded.scale
        if scale is not None:
            x = self.node("Sub", x, self.constant("centre", scale.centre))
            x = self.node("Div", x, self.constant("divisor", scale.divisor))
        return self.node("Cast", x, to=self._onnx.helper.np_dtype_to_tensor_dtype(self.folded.dtype))

    def activated(self, x: str, name: str) -> str:
        if name in _PLAIN:
            return self.node(_PLAIN[name], x)
        if name == "leaky_relu":
            return self.node("Max", x, self.node("Mul", x, self._number("slope", 0.01)))
        if name == "silu":
            return self.node("Mul", x, self.node("Sigmoid", x))
        assert name == "gelu"
        erf = self.node("Erf", self.node("Mul", x, self._number("root_half", math.sqrt(0.5))))
        half = self.node("Mul", self.node("Add", erf, self._number("one", 1.0)), self._number("half", 0.5))
        return self.node("Mul", x, half)

    def model(self, output: str, shape: list[Any], about: dict[str, str]) -> bytes:
        onnx, double = self._onnx, self._onnx.TensorProto.DOUBLE
        given = onnx.helper.make_tensor_value_info("features", double, ["rows", self._inputs])
        answer = onnx.helper.make_tensor_value_info(output, double, shape)
        graph = onnx.helper.make_graph(self._nodes, "batchnorm", [given], [answer], self._constants)
        opsets = [onnx.helper.make_opsetid("", _OPSET)]
        model = onnx.helper.make_model(graph, opset_imports=opsets, producer_name="batchnorm", ir_version=_IR_VERSION)
        onnx.helper.set_model_props(model, about)
        onnx.checker.check_model(model, full_check=True)
        data: bytes = model.SerializeToString()
        return data

    def _number(self, name: str, value: float) -> str:
        if all(known.name != name for known in self._constants):
            self.constant(name, np.array(value, self.folded.dtype))
        return name


def _onnx() -> ModuleType:
    try:
        import onnx
    except ImportError as error:
        raise SettingsError(
            "export to ONNX expected the package onnx, which is not installed: pip install onnx onnxruntime, or write "
            "a torch.export program with --out NAME.pt2"
        ) from error
    return onnx
