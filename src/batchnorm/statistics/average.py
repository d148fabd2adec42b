"""average(): several models of one architecture as one, with running statistics that are averaged as statistics are."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from batchnorm.kernels.running import merged_along
from batchnorm.moments import Moments, wide_dtype

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


def average(models: Iterable[nn.Module], *, weights: Sequence[float] | None = None) -> nn.Module:
    """The weighted mean of models' parameters, with running statistics merged.

        parameter    = sum w_i * parameter_i                                    as torch's AveragedModel has it
        running_mean = sum w_i * mean_i
        running_var  = sum w_i * (var_i + (mean_i - running_mean)^2)            sum w_i = 1

    The mean of the variances alone, which is what averaging buffers gives, leaves out how far apart the means are.
    For snapshots of one training (SWA), a model and its moving average (weights=(0.99, 0.01)), clients (weights = their
    numbers of rows). The statistics are those of the models' own activations; the averaged model's are somewhat others,
    which only a pass over data finds: `recalibrate`.

    Args:
        models: one or more, of the same parameters and buffers. Not changed.
        weights: one number for each, not negative, for parameters and statistics. None: parameters weigh alike, and so
            do exponential averages; a plain average (momentum=None) weighs as many batches as num_batches_tracked has.
            Either way a layer that has seen no batch has no statistics to give, unless none has.

    Returns:
        A new model, in the first one's mode, on its devices, without gradients. num_batches_tracked is the largest;
        other buffers, and what is not floating, are the last model's.

    Raises:
        TypeError: something else than modules; weights that are no numbers.
        ValueError: no models; names or shapes that differ; weights that are none.

    >>> import torch
    >>> from batchnorm.nn import BatchNorm1d
    >>> low, high = (BatchNorm1d(1, momentum=1.0) for _ in range(2))
    >>> _ = low(torch.tensor([[0.0], [2.0]])), high(torch.tensor([[100.0], [102.0]]))
    >>> both = average([low, high])
    >>> both.running_mean, both.running_var
    (tensor([51.]), tensor([2502.]))
    """
    if isinstance(models, nn.Module) and not isinstance(models, nn.ModuleList):
        raise TypeError(f"average expected several models, got one {type(models).__name__}: hand over [first, second]")
    if not isinstance(models, Iterable):
        raise TypeError(f"average expected an iterable of models, got {type(models).__name__}")
    given = list(models)
    shares = _shares(given, weights)
    with torch.inference_mode(False), torch.no_grad():  # what is averaged inside inference mode can be used outside
        result = copy.deepcopy(given[0])
        result.zero_grad(set_to_none=True)
        _average_parameters(result, given, shares)
        parts = [dict(model.named_modules(remove_duplicate=False)) for model in given]
        for name, module in result.named_modules():
            layers = [part[name] for part in parts]
            merges = _tracks(module)
            for kind, buffer in module.named_buffers(recurse=False):
                if not (merges and kind in _STATISTICS):
                    buffer.copy_(layers[-1].get_buffer(kind))
            if merges:
                _merge_statistics(module, layers, shares if weights is not None else _counted(layers))
    return result


def _average_parameters(result: nn.Module, models: list[nn.Module], shares: list[float]) -> None:
    found = [dict(model.named_parameters(remove_duplicate=False)) for model in models]
    for name, parameter in result.named_parameters():
        if not (parameter.is_floating_point() or parameter.is_complex()):
            parameter.copy_(found[-1][name])
            continue
        wide = torch.promote_types(parameter.dtype, wide_dtype(parameter.device))
        total = torch.zeros_like(parameter, dtype=wide)
        for share, theirs in zip(shares, found, strict=True):
            total += theirs[name].to(device=parameter.device, dtype=wide) * share
        parameter.copy_(total)


def _merge_statistics(module: Any, layers: list[nn.Module], shares: list[float]) -> None:
    """running_mean, running_var and num_batches_tracked of `module` from those of `layers`."""
    mean, var = module.get_buffer("running_mean"), module.get_buffer("running_var")
    wide = wide_dtype(mean.device)
    seen = [_batches(layer) != 0 for layer in layers]
    if any(seen):
        shares = [share if has else 0.0 for share, has in zip(shares, seen, strict=True)]
    if not sum(shares) > 0:  # those that have seen batches were given no weight
        shares = [1.0] * len(layers)
    means, variances = (
        torch.stack([layer.get_buffer(name).to(device=mean.device, dtype=wide) for layer in layers])
        for name in ("running_mean", "running_var")
    )
    # Counts of merely relative size: a variance is m2 / count whatever the unit.
    counts = torch.tensor(shares, dtype=wide, device=mean.device) * (len(shares) / sum(shares))
    merged = merged_along(Moments(counts, means, variances * counts.unsqueeze(1)))
    mean.copy_(merged.mean)
    var.copy_(merged.variance())
    counter = module._buffers.get("num_batches_tracked")
    if counter is not None:
        counter.fill_(max(_batches(layer) or 0 for layer in layers))
    if hasattr(module, "_refusals"):
        module._refusals = None  # of one model's batches, which this counter is not of


def _tracks(module: nn.Module) -> bool:
    return all(isinstance(module._buffers.get(name), Tensor) for name in ("running_mean", "running_var"))


def _counted(layers: list[nn.Module]) -> list[float]:
    """What each layer's statistics weigh where nobody says: an exponential average stands for about 1/momentum batches,
    however many there were; a plain one for all of them."""
    counts = [_batches(layer) for layer in layers]
    if all(getattr(layer, "momentum", 0.0) is None and count for layer, count in zip(layers, counts, strict=True)):
        return [float(count or 0) for count in counts]
    return [1.0] * len(layers)


def _batches(layer: nn.Module) -> int | None:
    counter = layer._buffers.get("num_batches_tracked")
    return None if counter is None else int(counter)


def _shares(models: list[nn.Module], weights: Sequence[float] | None) -> list[float]:
    """Each model's share of the parameters, in all 1, once it is certain that there is something to share."""
    if not models:
        raise ValueError("average expected one model or more, got none")
    for model in models:
        if not isinstance(model, nn.Module):
            raise TypeError(f"average expected models of type torch.nn.Module, got {type(model).__name__}")
    _refuse_differences(models)
    if weights is None:
        return [1 / len(models)] * len(models)
    try:
        given = [float(weight) for weight in weights]
    except (TypeError, ValueError) as error:
        raise TypeError(f"average expected a sequence of numbers as weights, got {weights!r}") from error
    if len(given) != len(models):
        raise ValueError(f"average expected a weight for each of {len(models)} models, got {len(given)}")
    if not all(math.isfinite(weight) and weight >= 0 for weight in given) or sum(given) <= 0:
        raise ValueError(f"average expected weights that are not negative and not all 0, got {given}")
    return [weight / sum(given) for weight in given]


def _refuse_differences(models: list[nn.Module]) -> None:
    first, *others = (_shapes(model) for model in models)
    for number, shapes in enumerate(others, start=2):
        for name in (*first, *shapes):
            ours, theirs = (known.get(name, "nothing of that name") for known in (first, shapes))
            if ours != theirs:
                raise ValueError(
                    f"average expected models with the same parameters and buffers; {name!r} is {ours} in the first "
                    f"and {theirs} in model {number}: build them alike"
                )


def _shapes(model: nn.Module) -> dict[str, str]:
    shapes = {}
    for name, tensor in (
        *model.named_parameters(remove_duplicate=False),
        *model.named_buffers(remove_duplicate=False),
    ):
        if nn.parameter.is_lazy(tensor):
            raise ValueError(f"average expected layers that have a size, {name!r} has none: run a batch through first")
        shapes[name] = f"of shape {tuple(tensor.shape)}"
    return shapes
