"""Memory: any strides in, torch's strides out; views, expanded and lazily copied inputs; sizes of 0."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.testing import assert_close

import batchnorm

LAST, LAST_3D = torch.channels_last, torch.channels_last_3d


def _random(*shape: int) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


# Layer, and an input of three channels in some layout.
LAYOUTS: dict[str, tuple[str, Callable[[], Tensor]]] = {
    "rows": ("BatchNorm1d", lambda: _random(6, 3)),
    "rows-transposed": ("BatchNorm1d", lambda: _random(3, 6).t()),
    "rows-every-second": ("BatchNorm1d", lambda: _random(12, 6)[::2, ::2]),
    "rows-offset": ("BatchNorm1d", lambda: _random(8, 3)[2:]),
    "rows-expanded-over-channels": ("BatchNorm1d", lambda: _random(6, 1).expand(6, 3)),
    "rows-expanded-over-rows": ("BatchNorm1d", lambda: _random(1, 3).expand(6, 3)),
    "sequence": ("BatchNorm1d", lambda: _random(4, 3, 5)),
    "sequence-channels-last": ("BatchNorm1d", lambda: _random(4, 5, 3).transpose(1, 2)),
    "sequence-transposed": ("BatchNorm1d", lambda: _random(5, 3, 4).permute(2, 1, 0)),
    "sequence-expanded": ("BatchNorm1d", lambda: _random(4, 3, 1).expand(4, 3, 5)),
    "sequence-of-one": ("BatchNorm1d", lambda: _random(4, 3, 1)),
    "images": ("BatchNorm2d", lambda: _random(4, 3, 2, 5)),
    "images-channels-last": ("BatchNorm2d", lambda: _random(4, 3, 2, 5).contiguous(memory_format=LAST)),
    "images-transposed": ("BatchNorm2d", lambda: _random(4, 3, 5, 2).transpose(2, 3)),
    "images-cropped": ("BatchNorm2d", lambda: _random(4, 3, 6, 7)[:, :, 1:4, 2:5]),
    "images-cropped-channels-last": (
        "BatchNorm2d",
        lambda: _random(4, 3, 6, 7).contiguous(memory_format=LAST)[:, :, 1:4, 2:5],
    ),
    "images-every-second-channel": ("BatchNorm2d", lambda: _random(4, 6, 2, 5)[:, ::2]),
    "images-expanded": ("BatchNorm2d", lambda: _random(4, 3, 1, 1).expand(4, 3, 2, 5)),
    "images-channels-first-in-memory": ("BatchNorm2d", lambda: _random(3, 4, 2, 5).transpose(0, 1)),
    "images-of-one-pixel": ("BatchNorm2d", lambda: _random(4, 3, 1, 1)),
    "images-of-one-pixel-channels-last": (
        "BatchNorm2d",
        lambda: _random(4, 3, 1, 1).contiguous(memory_format=LAST),
    ),
    "volumes": ("BatchNorm3d", lambda: _random(2, 3, 2, 3, 2)),
    "volumes-channels-last": ("BatchNorm3d", lambda: _random(2, 3, 2, 3, 2).contiguous(memory_format=LAST_3D)),
    "volumes-permuted": ("BatchNorm3d", lambda: _random(2, 2, 3, 3, 2).permute(0, 3, 1, 2, 4)),
    "one-image-alone": ("BatchNorm2d", lambda: _random(1, 3, 2, 5)),
}

each_layout = pytest.mark.parametrize("layout", list(LAYOUTS))
each_mode = pytest.mark.parametrize("training", [True, False], ids=["train", "eval"])


def run(layer: nn.Module, x: Tensor, upstream: Tensor) -> tuple[Tensor, Tensor]:
    """Output and input gradient."""
    leaf = x.detach().requires_grad_()
    y = layer(leaf)
    (dx,) = torch.autograd.grad(y, leaf, upstream)
    return y.detach(), dx


@each_mode
@each_layout
def test_values_and_strides_equal_torch(layout: str, training: bool) -> None:
    name, make = LAYOUTS[layout]
    ours, torchs = (getattr(home, name)(3).double().train(training) for home in (batchnorm, nn))
    x = make()
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    found, expected = run(ours, x, upstream), run(torchs, x, upstream)
    assert_close(found[0], expected[0], rtol=1e-12, atol=1e-12)
    # torch itself divides by a variance of 0 where all rows are one: its gradient there is rounding times 316.
    assert_close(found[1], expected[1], rtol=1e-11, atol=1e-11)
    assert found[0].stride() == expected[0].stride()
    assert found[1].stride() == expected[1].stride()
    assert_close(ours.state_dict(), torchs.state_dict(), rtol=1e-12, atol=1e-13)


@each_mode
@each_layout
def test_activation_residual_and_mask_keep_the_layout(layout: str, training: bool) -> None:
    name, make = LAYOUTS[layout]
    x = make()
    plain = getattr(batchnorm, name)(3).double().train(training)
    full = getattr(batchnorm, name)(3, activation="relu").double().train(training)
    y = full(x, residual=torch.ones_like(x), mask=torch.ones(len(x), dtype=torch.bool))
    expected = plain(x)
    assert y.stride() == expected.stride()
    assert_close(y, (expected + 1).relu(), rtol=1e-12, atol=1e-12)


@each_layout
def test_upstream_gradient_of_another_layout_changes_no_value(layout: str) -> None:
    name, make = LAYOUTS[layout]
    x = make()
    layer = getattr(batchnorm, name)(3).double()
    upstream = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    strided = torch.randn((*x.shape, 2), dtype=torch.float64)[..., 0].copy_(upstream)
    expanded = torch.ones((), dtype=torch.float64).expand(x.shape)
    assert_close(run(layer, x, strided)[1], run(layer, x, upstream)[1], rtol=1e-12, atol=1e-13)
    assert_close(run(layer, x, expanded)[1], run(layer, x, torch.ones_like(x))[1], rtol=1e-12, atol=1e-13)


@each_layout
def test_input_is_left_as_it_was(layout: str) -> None:
    name, make = LAYOUTS[layout]
    x = make()
    before = x.clone()
    getattr(batchnorm, name)(3, activation="relu").double()(x)
    assert_close(x, before, rtol=0, atol=0)


@each_mode
@pytest.mark.parametrize("layout", ["rows", "sequence", "images", "images-channels-last", "volumes-channels-last"])
def test_lazily_copied_inputs_stay_lazy(layout: str, training: bool) -> None:
    """Reading data_ptr() from Python would copy them."""
    name, make = LAYOUTS[layout]
    layer = getattr(batchnorm, name)(3, activation="relu").double().train(training)
    x = make()
    lazy = torch._lazy_clone(x).requires_grad_()
    residual = torch._lazy_clone(x)
    y = layer(lazy, residual=residual)
    upstream = torch._lazy_clone(torch.ones_like(y))
    torch.autograd.grad(y, [lazy, *layer.parameters()], upstream)
    assert all(torch._C._is_cow_tensor(t) for t in (lazy, residual, upstream))


EMPTY = [
    ("BatchNorm1d", (0, 3)),
    ("BatchNorm1d", (0, 3, 5)),
    ("BatchNorm1d", (4, 3, 0)),
    ("BatchNorm1d", (0, 3, 0)),
    ("BatchNorm2d", (0, 3, 2, 2)),
    ("BatchNorm2d", (2, 3, 0, 2)),
    ("BatchNorm3d", (0, 3, 2, 2, 2)),
    ("BatchNorm3d", (2, 3, 2, 0, 2)),
]


@each_mode
@pytest.mark.parametrize("track", [True, False])
@pytest.mark.parametrize(("name", "shape"), EMPTY, ids=str)
def test_batch_of_size_0_gives_size_0_and_gradients_of_0(
    name: str, shape: tuple[int, ...], track: bool, training: bool
) -> None:
    ours, torchs = (getattr(home, name)(3, track_running_stats=track).train(training) for home in (batchnorm, nn))
    found = []
    for layer in (ours, torchs):
        x = torch.empty(shape, requires_grad=True)
        y = layer(x)
        gradients = torch.autograd.grad(y.sum(), [x, *layer.parameters()])
        found.append((y, *gradients))
    for mine, theirs in zip(*found, strict=True):
        assert mine.shape == theirs.shape
        assert mine.stride() == theirs.stride()
        assert mine.dtype == theirs.dtype
    assert not any(g.any() for g in found[0][1:])


@pytest.mark.parametrize("momentum", [0.1, None])
@pytest.mark.parametrize(("name", "shape"), EMPTY, ids=str)
def test_batch_of_size_0_is_not_counted(name: str, shape: tuple[int, ...], momentum: float | None) -> None:
    layer = getattr(batchnorm, name)(3, momentum=momentum)
    before = {key: value.clone() for key, value in layer.state_dict().items()}
    layer(torch.empty(shape))
    assert_close(layer.state_dict(), before, rtol=0, atol=0)


@pytest.mark.parametrize(("name", "shape"), EMPTY, ids=str)
def test_batch_of_size_0_takes_residual_and_mask(name: str, shape: tuple[int, ...]) -> None:
    layer = getattr(batchnorm, name)(3, activation="gelu")
    y = layer(torch.empty(shape), residual=torch.empty(shape), mask=torch.ones(shape[0], dtype=torch.bool))
    assert y.shape == shape


@each_mode
@pytest.mark.parametrize(("name", "shape"), [("BatchNorm1d", (4, 0)), ("BatchNorm2d", (4, 0, 2, 2))])
@pytest.mark.parametrize("affine", [True, False])
def test_layer_without_channels_gives_what_it_gets(
    name: str, shape: tuple[int, ...], affine: bool, training: bool
) -> None:
    """torch.nn does so without parameters; with them it raises IndexError in torch 2.13."""
    layers = [getattr(home, name)(0, affine=affine).train(training) for home in (batchnorm, nn)]
    for layer in layers if not affine else layers[:1]:
        x = torch.empty(shape, requires_grad=True)
        y = layer(x)
        y.sum().backward()
        assert y.shape == x.grad.shape == shape
        assert [tuple(p.grad.shape) for p in layer.parameters()] == [(0,)] * (2 * affine)
        assert int(layer.num_batches_tracked) == (layer is layers[1] and training)
