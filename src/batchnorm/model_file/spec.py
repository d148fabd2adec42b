"""The shape of a network, and the tensors that such a network has: what a model file must hold, no more and no less."""

from __future__ import annotations

import math
import operator
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, Literal

from batchnorm.errors import ModelFileError, SettingsError

ACTIVATIONS = ("relu", "leaky_relu", "sigmoid", "tanh", "gelu", "silu")
MAX_LAYERS = 1000
MAX_VALUES = 2**30  # 4 GiB in float32: a file that claims more is refused before anything of that size is read

WEIGHTS = ("float32", "float64")


@dataclass(frozen=True)
class NetworkSpec:
    """InputNorm -> [Linear -> BatchNorm -> activation -> dropout] x len(hidden) -> Linear, in numbers and words.

    Attributes:
        inputs: encoded features F.
        hidden: neurons of each hidden layer; empty for logistic or linear regression.
        outputs: classes, or 1 for a number.
        activation: one of `ACTIVATIONS` (leaky_relu has slope 0.01; gelu is the exact one).
        placement: batch norm "before" or "after" the activation.
        norm: "batch", or None for the same network without (its layers then have biases).
        eps: added to the running variance inside the root.
        input_norm: whether inputs are centred and scaled first.
        dropout: share of activations dropped in training, 0 <= dropout < 1; nothing at test time.

    Raises:
        SettingsError: a value outside these bounds.

    Example:
        >>> spec = NetworkSpec(inputs=8, hidden=(16,), outputs=3, activation="relu", placement="before",
        ...                    norm="batch", eps=1e-5, input_norm=True)
        >>> NetworkSpec.from_dict(spec.to_dict()) == spec
        True
    """

    inputs: int
    hidden: tuple[int, ...]
    outputs: int
    activation: str
    placement: Literal["before", "after"]
    norm: Literal["batch"] | None
    eps: float
    input_norm: bool
    dropout: float = 0.0

    def __post_init__(self) -> None:
        object.__setattr__(self, "inputs", _size(self.inputs, "inputs"))
        object.__setattr__(self, "outputs", _size(self.outputs, "outputs"))
        if not isinstance(self.hidden, tuple | list) or len(self.hidden) > MAX_LAYERS:
            raise SettingsError(
                f"hidden expected up to {MAX_LAYERS} sizes, such as (100, 100), got {_short(self.hidden)}"
            )
        object.__setattr__(self, "hidden", tuple(_size(size, "each hidden size") for size in self.hidden))
        _choice(self.activation, ACTIVATIONS, "activation")
        _choice(self.placement, ("before", "after"), "placement")
        _choice(self.norm, ("batch", None), "norm")
        _choice(self.input_norm, (True, False), "input_norm")
        object.__setattr__(self, "eps", _number(self.eps, "eps", "a number above 0"))
        object.__setattr__(self, "dropout", _number(self.dropout, "dropout", "a number from 0 to below 1"))
        if not 0 < self.eps < math.inf:
            raise SettingsError(f"eps expected a number above 0, got {self.eps}")
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"dropout expected a number from 0 to below 1, got {self.dropout}")
        widths = (self.inputs, *self.hidden, self.outputs)
        values = sum(before * after for before, after in pairwise(widths))
        if values > MAX_VALUES:
            raise SettingsError(f"sizes {_short(widths)} expected at most {MAX_VALUES:,} weights, got {values:,}")

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return {**asdict(self), "hidden": list(self.hidden)}

    @staticmethod
    def from_dict(values: object) -> NetworkSpec:
        """The reverse of `to_dict`; raises SettingsError on missing, unknown or impossible values."""
        wanted = {field.name for field in fields(NetworkSpec)}
        if not isinstance(values, Mapping) or set(values) != wanted:
            raise SettingsError(f"a network expected exactly {', '.join(sorted(wanted))}, got {_short(values)}")
        return NetworkSpec(**values)


@dataclass(frozen=True)
class TensorSpec:
    """One tensor of a network: its shape and the dtypes it may have (NumPy names)."""

    shape: tuple[int, ...]
    dtypes: tuple[str, ...]


def expected_tensors(network: NetworkSpec, *, regression: bool) -> dict[str, TensorSpec]:
    """The names (as in torch's state_dict), shapes and dtypes of all the tensors of such a network, in order.

    Example:
        >>> spec = NetworkSpec(inputs=8, hidden=(), outputs=1, activation="relu", placement="before",
        ...                    norm="batch", eps=1e-5, input_norm=False)
        >>> {name: tensor.shape for name, tensor in expected_tensors(spec, regression=True).items()}
        {'head.weight': (1, 8), 'head.bias': (1,), 'target.mean': (), 'target.std': ()}
    """
    tensors = {}
    if network.input_norm:
        tensors["input_norm.mean"] = tensors["input_norm.std"] = TensorSpec((network.inputs,), ("float64",))
    for number, (before, after) in enumerate(pairwise((network.inputs, *network.hidden))):
        layer = f"layers.{number}"
        tensors[f"{layer}.linear.weight"] = TensorSpec((after, before), WEIGHTS)
        if network.norm is None:
            tensors[f"{layer}.linear.bias"] = TensorSpec((after,), WEIGHTS)
        else:
            for name in ("weight", "bias", "running_mean", "running_var"):
                tensors[f"{layer}.norm.{name}"] = TensorSpec((after,), WEIGHTS)
            tensors[f"{layer}.norm.num_batches_tracked"] = TensorSpec((), ("int64",))
    last = network.hidden[-1] if network.hidden else network.inputs
    tensors["head.weight"] = TensorSpec((network.outputs, last), WEIGHTS)
    tensors["head.bias"] = TensorSpec((network.outputs,), WEIGHTS)
    if regression:
        tensors["target.mean"] = tensors["target.std"] = TensorSpec((), ("float64",))
    return tensors


def check_tensors(
    found: Mapping[str, tuple[str, tuple[object, ...]]], network: NetworkSpec, *, regression: bool
) -> dict[str, TensorSpec]:
    """Compare names, dtypes (NumPy names) and shapes with `expected_tensors` and return the latter.

    Raises:
        ModelFileError: a tensor is missing, one too many, or one has another shape or dtype: it names the first.
    """
    expected = expected_tensors(network, regression=regression)
    for name in sorted(expected.keys() | found.keys()):
        if name not in found:
            raise ModelFileError(f"the tensor {name!r} is missing")
        if name not in expected:
            raise ModelFileError(f"the tensor {_short(name)} does not belong to such a network")
        dtype, shape = found[name]
        if shape != expected[name].shape or not all(type(size) is int for size in shape):
            raise ModelFileError(f"the tensor {name!r} expected shape {expected[name].shape}, got {_short(shape)}")
        if dtype not in expected[name].dtypes:
            wanted = " or ".join(expected[name].dtypes)
            raise ModelFileError(f"the tensor {name!r} expected dtype {wanted}, got {_short(dtype)}")
    return expected


def _size(value: object, name: str) -> int:
    try:
        size = -1 if isinstance(value, bool) else operator.index(value)  # type: ignore[arg-type]
    except TypeError:
        size = -1
    if not 1 <= size <= MAX_VALUES:
        raise SettingsError(f"{name} expected a whole number from 1 to {MAX_VALUES:,}, got {_short(value)}")
    return size


def _number(value: object, name: str, expected: str) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SettingsError(f"{name} expected {expected}, got {_short(value)}")
    try:
        return float(value)
    except OverflowError:
        raise SettingsError(f"{name} expected {expected}, got {_short(value)}") from None


def _choice(value: object, choices: tuple[object, ...], name: str) -> None:
    if not any(value is choice or (isinstance(choice, str) and value == choice) for choice in choices):
        raise SettingsError(f"{name} expected one of {', '.join(map(str, choices))}, got {_short(value)}")


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."
