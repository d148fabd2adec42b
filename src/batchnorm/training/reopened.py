"""A model file as torch modules again: for what needs torch and is no training from rows."""

from __future__ import annotations

import io
from collections import OrderedDict
from functools import partial
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from batchnorm.kernels.activations import ACTIVATIONS
from batchnorm.model_file import ModelFile
from batchnorm.nn import BatchNorm1d


class Reopened(nn.Module):
    """Encoded rows (N, F) in float64 -> scores (N, outputs); its state_dict has the model file's tensor names.

    Args:
        model_file: of which parameters and statistics are copies.
    """

    centre: Tensor
    divisor: Tensor

    def __init__(self, model_file: ModelFile) -> None:
        super().__init__()
        network, tensors = model_file.network, model_file.tensors
        dtype = torch.from_numpy(np.zeros(0, tensors["head.weight"].dtype)).dtype
        features = network.inputs
        centre, divisor = np.zeros(features), np.ones(features)
        if network.input_norm:
            centre, std = tensors["input_norm.mean"], tensors["input_norm.std"]
            divisor = np.where(std > 0, std, np.inf)  # of a constant feature: everything finite becomes 0
        for name, constant in (("centre", centre), ("divisor", divisor)):
            self.register_buffer(name, torch.from_numpy(constant.copy()), persistent=False)
        self.activation, self.is_before = network.activation, network.placement == "before"
        self.layers = nn.ModuleList()
        for before, after in pairwise((features, *network.hidden)):
            parts: OrderedDict[str, nn.Module] = OrderedDict()
            parts["linear"] = nn.Linear(before, after, bias=network.norm is None, dtype=dtype)
            if network.norm == "batch":
                parts["norm"] = BatchNorm1d(after, network.eps, dtype=dtype)
            self.layers.append(nn.ModuleDict(parts))
        self.head = nn.Linear((features, *network.hidden)[-1], network.outputs, dtype=dtype)
        own = {k: v for k, v in tensors.items() if not k.startswith(("input_norm.", "target."))}
        self.load_state_dict({name: torch.from_numpy(np.array(array)) for name, array in own.items()})
        self.eval()

    def forward(self, x: Tensor, weights: Tensor | None = None) -> Tensor:
        """The head's outputs, in the weights' dtype. weights: (N, 1), how often each row counts in a measurement."""
        a = ((x.double() - self.centre) / self.divisor).to(self.head.weight.dtype)
        activate = ACTIVATIONS[self.activation].value
        for layer in self.layers:
            assert isinstance(layer, nn.ModuleDict)
            parts = dict(layer.items())
            a, norm = parts["linear"](a), parts.get("norm")
            if not isinstance(norm, BatchNorm1d):
                a = activate(a)
                continue
            normalize = norm if weights is None else partial(norm.forward_weighted, weights=weights)
            a = activate(normalize(a)) if self.is_before else normalize(activate(a))
        scores: Tensor = self.head(a)
        return scores


class Answering(nn.Module):
    """Encoded rows (N, F) in float64 -> probabilities (N, classes), or numbers (N,) in the target's units, float64."""

    def __init__(self, model_file: ModelFile) -> None:
        super().__init__()
        self.scores = Reopened(model_file)
        self.is_classifier = model_file.schema.target.kind == "class"
        if not self.is_classifier:
            self.unit, self.zero = (float(model_file.tensors[f"target.{name}"]) for name in ("std", "mean"))

    def forward(self, x: Tensor) -> Tensor:
        """Answer rows."""
        scores = self.scores(x).double()
        answer: Tensor = scores.softmax(1) if self.is_classifier else scores[:, 0] * self.unit + self.zero
        return answer


def exported_program(model_file: ModelFile) -> bytes:
    """What torch.export makes of the network, for any number of rows; `torch.export.load` reads it."""
    module = Answering(model_file).eval()
    rows = torch.zeros(3, model_file.network.inputs, dtype=torch.float64)
    count = torch.export.Dim("rows", min=1)
    with torch.no_grad():
        program = torch.export.export(module, (rows,), dynamic_shapes=({0: count},))
    file = io.BytesIO()
    torch.export.save(program, file)
    return file.getvalue()
