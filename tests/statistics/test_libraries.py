"""freeze, recalibrate and adapt on other people's models: every layer that runs is done, and all can be undone."""

from __future__ import annotations

import copy
import warnings
from typing import Any

import pytest
import torch
from benchmarks.conversion_cases import SIZES, Case, cases
from tests.surgery.libraries import library
from torch import Tensor, nn

from batchnorm import adapt, freeze, recalibrate, thaw

LIBRARIES = ("torchvision", "timm", "transformers")
QUICK = ("resnet18", "shufflenet_v2_x0_5", "googlenet")
# Heads that a model runs in training alone, and so nobody's statistics at test time.
IDLE = {("torchvision", "googlenet"): 2, ("torchvision", "inception_v3"): 2}


def run(model: nn.Module, batch: Any) -> Any:
    return model(**batch) if isinstance(batch, dict) else model(batch)


def state(model: nn.Module) -> tuple[dict[str, Tensor], list[bool], list[bool]]:
    modes = [module.training for module in model.modules()]
    return copy.deepcopy(model.state_dict()), modes, [p.requires_grad for p in model.parameters()]


def assert_as_before(model: nn.Module, before: tuple[dict[str, Tensor], list[bool], list[bool]]) -> None:
    tensors, *flags = state(model)
    assert flags == list(before[1:])
    assert tensors.keys() == before[0].keys()
    assert all(torch.equal(t, before[0][name]) for name, t in tensors.items())


def batches_for(case: Case, model: nn.Module) -> list[Any]:
    """Two batches of the smallest size that the model runs on."""
    assert case.inputs is not None
    for size in SIZES:
        try:
            with torch.no_grad():
                run(model, case.inputs(size))
        except Exception:  # too small for this model, which may raise anything
            continue
        return [case.inputs(size), case.inputs(size)]
    pytest.fail(f"{case.name} runs on none of the sizes")


def check(case: Case) -> None:
    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the libraries, when they build
        model = case.build().eval()
        layers = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
        if not layers:
            pytest.skip(f"{case.name} has no batch norm layer of torch's kind")
        batches = batches_for(case, model)
    before = state(model)

    assert len(freeze(model).changed) == len(layers)
    model.train()
    assert not any(layer.training for layer in layers)
    model.eval()
    thaw(model)
    assert_as_before(model, before)

    record = recalibrate(model, batches, call=run)
    idle = IDLE.get((case.library, case.name), 0)
    assert (len(record.layers), len(record.unreached)) == (len(layers) - idle, idle)
    assert all(torch.isfinite(layer.new.var).all() for layer in record.layers)
    record.undo()
    assert_as_before(model, before)

    with adapt(model, iter(batches), call=run, guard=False) as adaptation:
        assert len(adaptation.layers) == len(record.layers)
    assert_as_before(model, before)


@pytest.mark.parametrize("name", QUICK)
def test_all_layers_of_a_model_are_done_and_undone(name: str) -> None:
    library("torchvision")
    check(next(case for case in cases() if case.name == name))


@pytest.mark.long
@pytest.mark.parametrize("name", LIBRARIES)
def test_all_layers_of_all_models_of_a_library_are_done_and_undone(name: str) -> None:
    library(name)
    done, wrong = 0, []
    for case in cases():
        if case.library == name and case.inputs is not None:
            try:
                check(case)
            except pytest.skip.Exception:
                continue
            except Exception as error:  # all of them are to be seen, not the first
                wrong.append(f"{case.family} {case.name}: {type(error).__name__}: {error}")
            done += 1
    assert (wrong, done > 0) == ([], True)
