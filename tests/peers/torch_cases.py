"""torch's own test data for batch normalization: `module_db` for the layers, `op_db` for the function.

Both lists are installed with torch (`torch.testing._internal`, which needs the package `expecttest`); the tests that
torch runs over them are not, so the files beside this one say each of their checks anew. What they need of
`torch.testing._internal` they get from here.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from tests.peers import subject
from torch import Tensor

# The import would forbid setting torch.backends flags in the whole process, other tests included.
with mock.patch.object(torch.backends, "disable_global_flags"):
    from torch.testing._internal import composite_compliance
    from torch.testing._internal.common_methods_invocations import op_db
    from torch.testing._internal.common_modules import ModuleErrorEnum, module_db
    from torch.testing._internal.common_utils import gradcheck, gradgradcheck, noncontiguous_like

__all__ = [
    "DTYPES",
    "ERROR_CASES",
    "LAYER_CASES",
    "LAYER_INFOS",
    "OP",
    "OP_CASES",
    "OP_SEED",
    "Call",
    "ErrorCase",
    "LayerCase",
    "OpCase",
    "composite_compliance",
    "gradcheck",
    "gradgradcheck",
    "noncontiguous_like",
]

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
LAYER_INFOS = {info.module_cls.__name__: info for info in module_db if info.module_cls.__name__ in subject.LAYERS}
OP = next(info for info in op_db if info.name == "nn.functional.batch_norm" and not info.variant_test_name)
OP_SEED = 3301


@dataclass(frozen=True)
class LayerCase:
    """One entry of `module_db`: constructor arguments and an input, made anew (with the same random values) at
    each call."""

    layer: str
    index: int
    name: str

    def __str__(self) -> str:
        return f"{self.layer}-{self.name}"

    def make(
        self, *, training: bool, dtype: torch.dtype, requires_grad: bool = False
    ) -> tuple[torch.nn.Module, Tensor]:
        """The layer under test, its parameters and running statistics moved off 1 and 0, and the input."""
        return self._make(subject.LAYERS[self.layer], training, dtype, requires_grad)

    def make_torch(
        self, *, training: bool, dtype: torch.dtype, requires_grad: bool = False
    ) -> tuple[torch.nn.Module, Tensor]:
        """The same from torch.nn: equal arguments, parameters, running statistics and input."""
        return self._make(LAYER_INFOS[self.layer].module_cls, training, dtype, requires_grad)

    def construct(self, **factory: Any) -> torch.nn.Module:
        """The layer under test as its constructor leaves it."""
        arguments = self._inputs(True, torch.float32, False).constructor_input
        return subject.LAYERS[self.layer](*arguments.args, **arguments.kwargs, **factory)

    def _inputs(self, training: bool, dtype: torch.dtype, requires_grad: bool) -> Any:
        info = LAYER_INFOS[self.layer]
        torch.manual_seed(20260 + self.index)
        return info.module_inputs_func(info, "cpu", dtype, requires_grad, training)[self.index]

    def _make(
        self, build: Callable[..., torch.nn.Module], training: bool, dtype: torch.dtype, requires_grad: bool
    ) -> tuple[torch.nn.Module, Tensor]:
        entry = self._inputs(training, dtype, requires_grad)
        layer = build(*entry.constructor_input.args, **entry.constructor_input.kwargs).to(dtype).train(training)
        with torch.no_grad():
            for name, value in layer.state_dict().items():
                if value.is_floating_point():
                    # Multiples of 1/8 are exact in every dtype, however wide a layer stores them.
                    spread = torch.arange(value.numel(), dtype=value.dtype) % 5 / 8
                    value.copy_(spread + (0.5 if name in ("weight", "running_var") else -0.25))
        return layer, entry.forward_input.args[0]


@dataclass(frozen=True)
class OpCase:
    """One sample of `op_db`, copied at each call."""

    index: int
    name: str

    def __str__(self) -> str:
        return f"{self.index}-{self.name}"

    @property
    def training(self) -> bool:
        return _samples(torch.float32)[self.index].kwargs.get("training", False)

    def make(self, dtype: torch.dtype, *, requires_grad: bool = False) -> Call:
        sample = _samples(dtype)[self.index]
        call = Call((sample.input, *sample.args), dict(sample.kwargs))
        return call.clone() if requires_grad else call.map(lambda tensor: tensor.detach().clone())


@dataclass(frozen=True)
class Call:
    """The arguments of one call: (input, running_mean, running_var, weight, bias), the last four may be None, and
    keywords."""

    tensors: tuple[Tensor | None, ...]
    keywords: dict[str, Any]

    def map(self, change: Callable[[Tensor], Tensor]) -> Call:
        """The same call with each tensor changed."""
        return Call(tuple(None if tensor is None else change(tensor) for tensor in self.tensors), self.keywords)

    def clone(self) -> Call:
        """The same call on copies: the running statistics are updated in place, each run needs its own."""
        return self.map(lambda tensor: tensor.detach().clone().requires_grad_(tensor.requires_grad))

    @property
    def differentiable(self) -> tuple[Tensor, ...]:
        """Input, weight and bias: those among them that want a gradient."""
        return tuple(tensor for tensor in self.tensors if tensor is not None and tensor.requires_grad)

    def pure(self, function: Callable[..., Tensor]) -> Callable[..., Tensor]:
        """`function` of the differentiable tensors alone; every call gets its own copy of the running statistics."""
        places = [i for i, tensor in enumerate(self.tensors) if tensor is not None and tensor.requires_grad]

        def of_differentiable(*values: Tensor) -> Tensor:
            tensors = [None if tensor is None else tensor.clone() for tensor in self.tensors]
            for place, value in zip(places, values, strict=True):
                tensors[place] = value
            return function(*tensors, **self.keywords)

        return of_differentiable


@dataclass(frozen=True)
class ErrorCase:
    """One error entry of `module_db`: what to build, what to give it, and what must be raised."""

    layer: str
    index: int

    def __str__(self) -> str:
        return f"{self.layer}-{self.index}"

    @property
    def entry(self) -> Any:
        info = LAYER_INFOS[self.layer]
        return info.module_error_inputs_func(info, "cpu", torch.float64, False, True)[self.index]

    @property
    def raised_by_forward(self) -> bool:
        return self.entry.error_on is ModuleErrorEnum.FORWARD_ERROR


def _layer_cases() -> list[LayerCase]:
    cases = []
    for layer, info in LAYER_INFOS.items():
        entries = info.module_inputs_func(info, "cpu", torch.float32, False, True)
        cases += [LayerCase(layer, index, entry.desc or "default") for index, entry in enumerate(entries)]
    return cases


def _error_cases() -> list[ErrorCase]:
    return [
        ErrorCase(layer, index)
        for layer, info in LAYER_INFOS.items()
        for index in range(len(info.module_error_inputs_func(info, "cpu", torch.float64, False, True)))
    ]


@functools.cache
def _samples(dtype: torch.dtype) -> tuple[Any, ...]:
    torch.manual_seed(OP_SEED)
    return tuple(OP.reference_inputs("cpu", dtype, requires_grad=True))


def _op_cases() -> list[OpCase]:
    samples = _samples(torch.float32)
    return [
        OpCase(
            index, f"{'x'.join(map(str, sample.input.shape))}-{'train' if sample.kwargs.get('training') else 'eval'}"
        )
        for index, sample in enumerate(samples)
    ]


LAYER_CASES = _layer_cases()
ERROR_CASES = _error_cases()
OP_CASES = _op_cases()
