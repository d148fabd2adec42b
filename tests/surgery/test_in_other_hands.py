"""Converted models in the hands of what else acts on models."""

from __future__ import annotations

import copy
import io

import pytest
import torch
from tests.surgery.small import assert_same_step, perceptron, rows
from torch import nn

from batchnorm import average, convert, drop_redundant_bias, fold, insert, revert


@pytest.fixture(autouse=True)
def _fresh_compiler() -> None:
    torch._dynamo.reset()


def test_compiled_model_that_is_converted_afterwards_computes_with_the_new_layers() -> None:
    """What was compiled before knows the old classes; it must notice."""
    model = perceptron()
    compiled = torch.compile(model, backend="eager")
    compiled(rows())
    convert(model)
    model[1].activation = "tanh"  # to tell it apart
    reference = copy.deepcopy(model)
    torch.testing.assert_close(compiled(rows()), reference(rows()))
    revert(model)
    compiled(rows())


def test_converted_model_compiles_to_one_graph() -> None:
    model = perceptron()
    convert(model)
    reference = copy.deepcopy(model)
    compiled = torch.compile(model, backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(rows()), reference(rows()))


def test_saved_model_comes_back_whole() -> None:
    model, file = perceptron(), io.BytesIO()
    convert(model)
    torch.save(model, file)
    file.seek(0)
    other = torch.load(file, weights_only=False)
    assert_same_step(other, model, rows())
    revert(other)
    assert type(other[2]) is nn.ReLU


def test_graph_module_has_its_layers_converted() -> None:
    model = torch.fx.symbolic_trace(perceptron())
    reference = copy.deepcopy(model)
    record = convert(model, rows(), trace=True)
    assert record.counts["converted"] == 2
    assert_same_step(model, reference, rows())


def test_averaged_model_is_converted_inside() -> None:
    model = torch.optim.swa_utils.AveragedModel(perceptron())
    assert convert(model).counts == {"converted": 2, "fused": 2, "not_fused": 0, "left_alone": 0}
    assert_same_step(model.module, perceptron(), rows())


def test_sync_conversion_refuses_before_and_works_after_revert() -> None:
    model = perceptron()
    convert(model)
    with pytest.raises(ValueError, match="would drop activation='relu'"):
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
    revert(model)
    assert type(nn.SyncBatchNorm.convert_sync_batchnorm(model)[1]) is nn.SyncBatchNorm


def test_forward_pass_on_meta_tensors_works() -> None:
    model = perceptron().to("meta")
    convert(model)
    assert model(rows().to("meta")).shape == (8, 2)


def test_what_is_made_in_inference_mode_can_be_used_and_trained_outside() -> None:
    """Tensors that are made in inference mode are refused by autograd for good."""
    norm = nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.ReLU())
    plain = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    with torch.inference_mode():
        x = torch.randn(8, 3)
        folded = fold(norm, x)
        insert(plain, x)
        drop_redundant_bias(norm, x)
        mean = average([norm, norm])
    for model in (folded, plain, norm, mean):
        model(torch.randn(8, 3)).sum().backward()


def test_example_of_inference_mode_is_taken() -> None:
    with torch.inference_mode():
        x = torch.randn(8, 3)
    assert "folded 1 batch norm layer" in str(fold(nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4)), x).fold_report)
