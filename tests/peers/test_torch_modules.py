"""torch's module suite over `module_db`: values, state, memory formats and errors of BatchNorm1d/2d/3d.

One test per check of torch's TestModule. Not applicable: in-place variants (the layers have no `inplace=`), transfer
between devices and CPU/GPU parity (several devices), lazy modules. Gradients: `test_torch_modules_gradients.py`.

Ours keep running statistics in float32 under `.half()` and `.bfloat16()` on purpose, where torch.nn rounds them to
the module's dtype (with momentum 0.01 and 8 bits they never arrive). Everything else below is held to torch's dtypes;
the running statistics to `subject.statistics_dtype`. And an empty batch is not counted in `num_batches_tracked`,
where torch.nn counts it and so gives the plain average of `momentum=None` a batch that had no values.
"""

from __future__ import annotations

import copy
import io
import pickle
import re

import pytest
import torch
from tests.peers import subject
from tests.peers.torch_cases import DTYPES, ERROR_CASES, LAYER_CASES, ErrorCase, LayerCase, noncontiguous_like
from torch import Tensor
from torch.testing import assert_close

each_case = pytest.mark.parametrize("case", LAYER_CASES, ids=str)
each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=lambda dtype: str(dtype).removeprefix("torch."))


def tolerance(dtype: torch.dtype) -> dict[str, float]:
    """Twice what torch's two roundings cost: an output near 0 is the difference of two numbers of size 1 to 10."""
    eps = torch.finfo(dtype).eps
    return {"rtol": 4 * eps, "atol": 32 * eps}


def assert_state_close(
    ours: torch.nn.Module, theirs: torch.nn.Module, dtype: torch.dtype, *, except_for: tuple[str, ...] = ()
) -> None:
    mine, other = ours.state_dict(), theirs.state_dict()
    assert list(mine) == list(other)
    for name in set(mine) - set(except_for):
        assert_close(
            mine[name], other[name], check_dtype=False, **tolerance(dtype), msg=lambda text, n=name: f"{n}: {text}"
        )


def test_module_db_covers_every_layer() -> None:
    """An empty list would pass everything below: torch 2.13 has 22 inputs and 6 errors for the three layers."""
    assert {case.layer for case in LAYER_CASES} == {"BatchNorm1d", "BatchNorm2d", "BatchNorm3d"}
    assert len(LAYER_CASES) >= 22
    assert len(ERROR_CASES) >= 6
    assert {"zero_batch", "affine_not_bias", "not_tracking_stats"} <= {case.name for case in LAYER_CASES}


@each_dtype
@each_mode
@each_case
def test_forward_of_module_db_input_equals_torch_twice_over(
    case: LayerCase, training: bool, dtype: torch.dtype
) -> None:
    ours, x = case.make(training=training, dtype=dtype)
    theirs, _ = case.make_torch(training=training, dtype=dtype)

    differing = ("num_batches_tracked",) if x.numel() == 0 else ()
    for step in range(2):
        batch = x + step
        got, expected = ours(batch), theirs(batch)
        assert_close(got, expected, **tolerance(dtype))
        assert got.stride() == expected.stride()
        assert_state_close(ours, theirs, dtype, except_for=differing)


@each_dtype
@each_mode
@each_case
def test_gradients_of_module_db_input_equal_torch(case: LayerCase, training: bool, dtype: torch.dtype) -> None:
    ours, x = case.make(training=training, dtype=dtype, requires_grad=True)
    theirs, x_theirs = case.make_torch(training=training, dtype=dtype, requires_grad=True)

    for layer, batch in ((ours, x), (theirs, x_theirs)):
        output = layer(batch)
        torch.manual_seed(5)
        output.backward(torch.randn_like(output))

    # torch.nn itself rounds half-precision gradients several times: both are compared at the gradient's own scale.
    for got, expected in ((x.grad, x_theirs.grad), *((p.grad, q.grad) for p, q in _parameter_pairs(ours, theirs))):
        scale = float(expected.abs().max()) if expected.numel() else 1.0
        assert_close(got, expected, rtol=0, atol=64 * torch.finfo(dtype).eps * max(scale, 1.0))


def _parameter_pairs(ours: torch.nn.Module, theirs: torch.nn.Module) -> list[tuple[Tensor, Tensor]]:
    mine, other = dict(ours.named_parameters()), dict(theirs.named_parameters())
    assert list(mine) == list(other)
    return [(mine[name], other[name]) for name in mine]


@each_dtype
@each_case
def test_factory_keywords_device_and_dtype_reach_parameters_and_buffers(case: LayerCase, dtype: torch.dtype) -> None:
    for device in ("cpu", "meta"):
        layer = case.construct(device=device, dtype=dtype)
        assert all(p.device.type == device and p.dtype == dtype for p in layer.parameters())
        for name, buffer in layer.named_buffers():
            expected = torch.int64 if name == "num_batches_tracked" else subject.statistics_dtype(dtype)
            assert (buffer.device.type, buffer.dtype) == (device, expected), name


@each_case
def test_constructed_layer_holds_torchs_initial_values(case: LayerCase) -> None:
    ours, theirs = case.construct(), case.make_torch(training=True, dtype=torch.float32)[0]
    theirs.reset_parameters()
    assert_state_close(ours, theirs, torch.float32)


@each_case
def test_repr_names_the_class_and_everything_torch_shows(case: LayerCase) -> None:
    ours, _ = case.make(training=True, dtype=torch.float32)
    theirs, _ = case.make_torch(training=True, dtype=torch.float32)
    assert repr(ours).startswith(f"{case.layer}({theirs.extra_repr()}")
    assert str(ours) == repr(ours)


def _pickled(layer: torch.nn.Module) -> torch.nn.Module:
    return pickle.loads(pickle.dumps(layer))


def _saved(layer: torch.nn.Module) -> torch.nn.Module:
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    return torch.load(file, weights_only=False)


@pytest.mark.parametrize("duplicate", [copy.copy, copy.deepcopy, _pickled, _saved], ids=lambda f: f.__name__.strip("_"))
@each_mode
@each_case
def test_copy_of_layer_gives_the_same_output_and_goes_its_own_way(case: LayerCase, training: bool, duplicate) -> None:
    layer, x = case.make(training=training, dtype=torch.float64)
    twin = duplicate(layer)

    assert type(twin) is type(layer)
    assert twin.training == training
    assert repr(twin) == repr(layer)
    assert_close(twin(x), layer(x), rtol=0, atol=0)
    if duplicate is not copy.copy:  # the one that shares its tensors with the original, as torch.nn's does
        assert_close(twin.state_dict(), layer.state_dict(), rtol=0, atol=0)
        mine, other = list(layer.state_dict().values()), list(twin.state_dict().values())
        assert not any(a.numel() and a.data_ptr() == b.data_ptr() for a, b in zip(mine, other, strict=True))


@each_mode
@each_case
def test_state_dict_loads_strictly_each_way(case: LayerCase, training: bool) -> None:
    ours, x = case.make(training=training, dtype=torch.float64)
    theirs, _ = case.make_torch(training=training, dtype=torch.float64)
    ours(x + 1)

    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert ours.state_dict()._metadata == theirs.state_dict()._metadata

    theirs.load_state_dict(ours.state_dict(), strict=True)
    assert_close(theirs(x), ours(x))
    fresh = case.construct().double().train(training)
    fresh.load_state_dict(theirs.state_dict(), strict=True)
    assert_close(fresh.state_dict(), theirs.state_dict(), rtol=0, atol=0)
    assert_close(fresh(x), theirs(x))


@each_case
def test_state_dict_of_another_layer_is_refused_when_strict(case: LayerCase) -> None:
    ours, _ = case.make(training=True, dtype=torch.float32)
    with pytest.raises(RuntimeError, match="Unexpected key"):
        ours.load_state_dict(ours.state_dict() | {"foreign": torch.zeros(1)}, strict=True)


def _noncontiguous(tensor: Tensor) -> Tensor:
    return noncontiguous_like(tensor.detach().clone()).requires_grad_(tensor.requires_grad)


@each_mode
@each_case
def test_noncontiguous_input_parameters_and_gradient_change_nothing(case: LayerCase, training: bool) -> None:
    """torch.nn.BatchNorm1d of torch 2.13 fails here: its backward reads a non-contiguous weight or variance of (N,
    C) wrongly."""
    reference, x = case.make(training=training, dtype=torch.float64, requires_grad=True)
    expected = reference(x)
    upstream = torch.randn_like(expected)
    expected.backward(upstream)

    for where in ("input", "parameters", "upstream", "everywhere"):
        layer, batch = case.make(training=training, dtype=torch.float64, requires_grad=True)
        gradient = upstream
        if where in ("input", "everywhere"):
            batch = _noncontiguous(batch)
        if where in ("parameters", "everywhere"):
            for name, parameter in list(layer.named_parameters()):
                setattr(layer, name, torch.nn.Parameter(_noncontiguous(parameter)))
            for name, buffer in list(layer.named_buffers()):
                setattr(layer, name, _noncontiguous(buffer))
        if where in ("upstream", "everywhere"):
            gradient = _noncontiguous(upstream)
        got = layer(batch)
        got.backward(gradient)

        assert_close(got, expected)
        assert_close(batch.grad, x.grad)
        assert_close(layer.state_dict(), reference.state_dict())
        for parameter, other in _parameter_pairs(layer, reference):
            assert_close(parameter.grad, other.grad)


def _formats(x: Tensor) -> list[torch.memory_format]:
    of_dimensions = {4: [torch.channels_last], 5: [torch.channels_last_3d]}
    return [torch.contiguous_format, *of_dimensions.get(x.dim(), [])]


@each_dtype
@each_mode
@each_case
def test_memory_format_of_input_is_kept_by_output_and_gradient(
    case: LayerCase, training: bool, dtype: torch.dtype
) -> None:
    reference, plain = case.make(training=training, dtype=dtype, requires_grad=True)
    expected = reference(plain)
    upstream = torch.randn_like(expected)
    expected.backward(upstream)

    for module_format in _formats(plain):
        for input_format in _formats(plain):
            layer, x = case.make(training=training, dtype=dtype)
            layer = layer.to(memory_format=module_format)
            x = x.contiguous(memory_format=input_format).requires_grad_()
            output = layer(x)
            output.backward(upstream)

            assert_close(output, expected, **tolerance(dtype))
            assert_close(x.grad, plain.grad, **tolerance(dtype))
            assert output.is_contiguous(memory_format=input_format)
            assert output.stride() == x.stride()
            assert x.grad.is_contiguous(memory_format=input_format)
            assert_state_close(layer, reference, dtype)


@each_case
def test_training_and_evaluation_differ(case: LayerCase) -> None:
    layer, x = case.make(training=True, dtype=torch.float64)
    if x.numel() == 0:
        assert layer(x).shape == layer.eval()(x).shape == x.shape
        return
    trained = layer(x)
    evaluated = layer.eval()(x)
    same = torch.allclose(trained, evaluated)
    assert same is (not layer.track_running_stats)


@pytest.mark.parametrize("swap", [False, True], ids=["set-data", "swap-tensors"])
@each_dtype
@each_mode
@each_case
def test_to_dtype_converts_in_place_and_computes_in_it(
    case: LayerCase, training: bool, dtype: torch.dtype, swap: bool
) -> None:
    layer, x = case.make(training=training, dtype=torch.float64, requires_grad=True)
    layer(x).sum().backward()
    before = dict(layer.named_parameters())
    values = {name: value.clone() for name, value in layer.state_dict().items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch.__future__, "_swap_module_params_on_conversion", swap)
        assert layer.to(dtype) is layer

    for name, parameter in layer.named_parameters():
        assert parameter is before[name]
        assert parameter.dtype == dtype
        assert parameter.grad.dtype == dtype
        assert parameter.requires_grad
    for name, buffer in layer.named_buffers():
        assert buffer.dtype == (torch.int64 if name == "num_batches_tracked" else subject.statistics_dtype(dtype)), name
    for name, value in layer.state_dict().items():
        assert_close(value, values[name].to(value.dtype))
    assert layer(x.detach().to(dtype)).dtype == dtype


@each_case
def test_to_device_moves_everything(case: LayerCase) -> None:
    layer, x = case.make(training=True, dtype=torch.float32)
    shapes = {name: value.shape for name, value in layer.state_dict().items()}

    layer.to("meta")
    assert all(value.is_meta for value in layer.state_dict().values())
    if layer.momentum is not None:  # the plain average reads its counter, which has no value on meta
        assert layer(x.to("meta")).shape == x.shape

    layer.to_empty(device="cpu")
    assert {name: value.shape for name, value in layer.state_dict().items()} == shapes
    assert not any(value.is_meta for value in layer.state_dict().values())


@pytest.mark.parametrize("case", ERROR_CASES, ids=str)
def test_error_input_of_module_db_raises(case: ErrorCase) -> None:
    """Ours refuse such an eps when constructed already, torch.nn when called: the earlier error of the same kind
    will do."""
    expected = case.entry
    entry = expected.module_error_input

    def build_and_call() -> None:
        layer = subject.LAYERS[case.layer](*entry.constructor_input.args, **entry.constructor_input.kwargs)
        if case.raised_by_forward:
            layer.double()(*entry.forward_input.args)

    with pytest.raises(expected.error_type, match=re.escape(expected.error_regex)):
        build_and_call()
