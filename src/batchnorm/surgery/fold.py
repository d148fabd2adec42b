"""fold(model, example): batch norm layers disappear into the linear maps beside them, for inference."""

from __future__ import annotations

import copy
from contextlib import closing
from typing import Any

import torch
from torch import nn

from batchnorm.progress_bar import Bar
from batchnorm.surgery.fold_check import Measured, check_comparable, measure
from batchnorm.surgery.fold_layers import norms
from batchnorm.surgery.fold_plan import Pair, Plan, fold_pairs, plan
from batchnorm.surgery.fold_report import Folding
from batchnorm.surgery.record import Entry, grouped
from batchnorm.surgery.runnable import check_runnable


def fold(model: nn.Module, example: Any, *, progress: bool = True) -> nn.Module:
    """A copy of a model in which batch norm layers have become part of the linear maps beside them.

    At test time a layer is z -> s * z + t with s = gamma / sqrt(running_var + eps) and t = beta - s * running_mean: it
    can be part of the Linear, convolution or transposed convolution before it or after it. Pairs are found while the
    model runs on the example, and folded where the code says that it is always so: the forwards in between are traced.
    What is shared, called twice, branches, or may depend on the data stays and is listed with the reason. The folded
    model is then compared with the model, on the example and with randomized statistics. What no trace sees, a decision
    by a text made of a value, say, only this comparison can find: docs/guide/fold.md.

    Args:
        model: with layers of torch.nn or of this package; stays as it is. An activation inside a layer stays behind as
            a module of its own.
        example: an input of the model, a tuple of its arguments, or a dictionary of them by name.
        progress: show a bar on standard error, where that is a terminal, when this takes longer than two seconds.

    Returns:
        A folded copy in eval mode, of the same class, with `fold_report`: what was folded, what was not and why, and
        how far the outputs differ. It is for inference: training it would train a network without normalization. Where
        a BatchNorm1d was it refuses (N, C, L) if the example had (N, C) there, and the other way round.

    Raises:
        TypeError: no torch.nn.Module.
        ValueError: nothing can be folded, with the reasons; the model does not run on the example, gives no finite
            numbers on it, or cannot be copied.

    Source: Ioffe and Szegedy 2015, Algorithm 2, step 11.

    >>> import torch
    >>> model = torch.nn.Sequential(torch.nn.Linear(3, 4, bias=False), torch.nn.BatchNorm1d(4), torch.nn.ReLU())
    >>> folded = fold(model, torch.randn(2, 3))
    >>> folded
    Sequential(
      (0): Linear(in_features=3, out_features=4, bias=True)
      (1): Folded(dimensions=2)
      (2): ReLU()
    )
    >>> folded.fold_report.folded
    (Entry(name='1', what='Linear -> BatchNorm1d', reason='into the layer before it'),)
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"fold expected a torch.nn.Module, got {type(model).__name__}")
    check_runnable("fold", model)
    with closing(Bar("folding", sum(1 for _ in norms(model)), shown=progress)) as bar:
        found = plan(_copied(model), example, bar.over)
    if found.pairs:
        check_comparable("fold", model, example)
    refused = list(found.refused)
    pairs, measured = _equivalent(model, found.pairs, example, refused)
    if not pairs or measured is None:
        raise ValueError(_nothing(found, refused))
    folded = _copied(model)
    fold_pairs(folded, pairs)
    entries = tuple(pair.entry(f"into the layer {'before' if pair.is_after else 'after'} it") for pair in pairs)
    vars(folded)["fold_report"] = Folding(entries, tuple(refused), found.alone, measured)
    return folded


@torch.inference_mode(False)  # what is folded inside it can be used outside
def _copied(model: nn.Module) -> nn.Module:
    try:
        return copy.deepcopy(model).eval()
    except Exception as error:  # whatever a user's model raises
        raise ValueError(f"fold expected a model that can be copied (copy.deepcopy), got: {error}") from error


def _equivalent(
    model: nn.Module, pairs: tuple[Pair, ...], example: Any, refused: list[Entry]
) -> tuple[tuple[Pair, ...], Measured | None]:
    """The pairs with which the folded model computes what the model does; the others go to `refused`."""
    if not pairs:
        return (), None
    kept = {pair.norm for pair in pairs if pair.is_scale_alone}
    try:
        measured = measure(model, lambda other: fold_pairs(other.eval(), pairs), example, kept=kept)
        problem = f"outputs differ: {measured}"
    except Exception as error:  # whatever a user's model raises once a layer is gone
        measured, problem = None, f"the folded model fails on the example: {error}"
    if measured is not None and measured.fits:
        return pairs, measured
    if len(pairs) == 1:
        refused.append(pairs[0].entry(problem))
        return (), None
    half = len(pairs) // 2
    first, _ = _equivalent(model, pairs[:half], example, refused)
    second, _ = _equivalent(model, pairs[half:], example, refused)
    if len(first) + len(second) == len(pairs):  # each half is right, both together are not
        refused += [pair.entry(problem) for pair in second]
        return _equivalent(model, first, example, refused)
    return _equivalent(model, (*first, *second), example, refused)


def _nothing(found: Plan, refused: list[Entry]) -> str:
    entries = (*grouped("refused", tuple(refused)), *grouped("alone", found.alone))
    if not entries:
        return "fold expected a model with batch norm layers, got one without any: there is nothing to fold"
    return "\n".join(["fold found no batch norm layer that can be folded; the model is as it was:", *entries])
