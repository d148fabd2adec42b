"""Blocks of torchvision, timm and transformers, as their libraries make them: fused, verified, and back again."""

from __future__ import annotations

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from tests.surgery.libraries import library
from tests.surgery.small import assert_same_step, fields, images
from torch import nn

from batchnorm import BatchNorm2d, convert, revert
from batchnorm.surgery import families, layers


def _resnet18() -> nn.Module:
    return library("torchvision").models.resnet18(num_classes=5)


def _bottlenecks() -> nn.Module:
    resnet = library("torchvision").models.resnet
    return resnet.ResNet(resnet.Bottleneck, [1, 1, 1, 1], num_classes=5)


def _densenet() -> nn.Module:
    return library("torchvision").models.DenseNet(4, (2, 2), 8, num_classes=5)


def _mobilenet_v2() -> nn.Module:
    return library("torchvision").models.mobilenet_v2(width_mult=0.25, num_classes=5)


def _timm(name: str, **settings: Any) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        timm = library("timm")
        return timm.create_model(name, num_classes=5, **settings)

    return build


def _timm_bottlenecks() -> nn.Module:
    library("timm")
    from timm.models import resnet

    return resnet.ResNet(resnet.Bottleneck, (1, 1, 1, 1), num_classes=5)


def _transformers_resnet() -> nn.Module:
    transformers = library("transformers")
    config = transformers.ResNetConfig(embedding_size=8, hidden_sizes=[8, 16], depths=[1, 1], layer_type="basic")
    return transformers.ResNetModel(config)


# Converted, fused with a residual add, fused without, batch norm layers left alone.
FAMILIES = {
    "torchvision BasicBlock": (_resnet18, (20, 8, 9, 0), False),
    "torchvision Bottleneck": (_bottlenecks, (17, 4, 9, 0), False),
    "torchvision DenseNet": (_densenet, (11, 0, 10, 0), False),
    "torchvision MobileNetV2": (_mobilenet_v2, (52, 0, 0, 0), False),
    "timm BasicBlock": (_timm("resnet10t"), (14, 4, 7, 0), False),
    "timm Bottleneck": (_timm_bottlenecks, (17, 4, 9, 0), False),
    "timm BasicBlock with squeeze-and-excitation": (_timm("seresnet18"), (20, 0, 9, 0), False),
    "timm EfficientNet": (_timm("efficientnet_b0"), (49, 0, 33, 0), False),
    "timm MobileNetV3": (_timm("mobilenetv3_small_050"), (34, 0, 5, 0), False),
    "transformers ResNet": (_transformers_resnet, (6, 0, 3, 0), True),
}


@pytest.mark.parametrize(("build", "expected", "trace"), FAMILIES.values(), ids=FAMILIES)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_family_is_converted_verified_and_reverted(
    build: Callable[[], nn.Module], expected: tuple[int, ...], trace: bool
) -> None:
    torch.manual_seed(0)
    model = build()
    before, keys = fields(model), list(model.state_dict())
    record = convert(model, images(2, 3, 64, 64), trace=trace)
    residual = sum(entry.what.startswith("residual") for entry in record.fused)
    counts = record.counts
    assert (counts["converted"], residual, counts["fused"] - residual, counts["left_alone"]) == expected
    assert record.verified is not None
    assert list(model.state_dict()) == keys
    assert not any(type(m) in (nn.BatchNorm1d, nn.BatchNorm2d) for m in model.modules())
    revert(model)
    assert fields(model) == before


def _blocks() -> list[nn.Module]:
    vision = library("torchvision").models.resnet
    library("timm")
    from timm.models import resnet

    down = nn.Conv2d(3, 4, 1)
    return [
        vision.BasicBlock(3, 3),
        vision.BasicBlock(3, 4, downsample=down),
        vision.Bottleneck(4, 1, downsample=nn.Conv2d(4, 4, 1)),
        resnet.BasicBlock(3, 3),
        resnet.BasicBlock(3, 4, downsample=copy.deepcopy(down)),
        resnet.Bottleneck(4, 1, act_layer=nn.SiLU),
    ]


@pytest.mark.parametrize("number", range(6))
def test_block_computes_the_same_and_stays_an_instance_of_its_class(number: int) -> None:
    block = _blocks()[number]
    kind, reference = type(block), copy.deepcopy(block)
    for m in (block, reference):
        for p in m.parameters():
            nn.init.normal_(p, generator=torch.Generator().manual_seed(p.numel()))
    convert(block)
    assert type(block) is not kind
    assert isinstance(block, kind)
    x = images(4, block.conv1.in_channels, 6, 6)
    for converted in (block, copy.deepcopy(block), pickle.loads(pickle.dumps(block))):
        assert_same_step(converted, reference, x)
    compiled = torch.compile(block.eval(), backend="eager", fullgraph=True)
    torch.testing.assert_close(compiled(x), reference.eval()(x), rtol=1e-4, atol=1e-4)
    traced = torch.fx.symbolic_trace(block)
    torch.testing.assert_close(traced(x), reference(x), rtol=1e-4, atol=1e-4)
    torch._dynamo.reset()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda block: block.bn1.register_forward_hook(lambda *args: None),
            "0.bn1 has hooks, which would see other values",
        ),
        (
            lambda block: block.relu.register_forward_hook(lambda *args: None),
            "ReLU has hooks, which would see other values",
        ),
        (lambda block: setattr(block, "bn2", nn.GroupNorm(1, 3)), "bn2 is GroupNorm, no layer that can end"),
        (lambda block: setattr(block, "relu", nn.Hardswish()), "Hardswish() is none of the activations"),
    ],
)
def test_part_of_a_block_that_cannot_be_fused_keeps_the_block_as_it_was(
    change: Callable[[Any], object], reason: str
) -> None:
    block = library("torchvision").models.resnet.BasicBlock(3, 3)
    change(block)
    model = nn.ModuleList([block])
    record = convert(model)
    assert record.fused == ()
    assert [entry.reason.startswith(reason) for entry in record.not_fused] == [True]
    assert type(block) is library("torchvision").models.resnet.BasicBlock
    assert type(block.bn1) is BatchNorm2d


def test_block_with_another_forward_is_left_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    kind = library("torchvision").models.resnet.BasicBlock

    def forward(self: Any, x: torch.Tensor) -> torch.Tensor:
        return self.bn1(self.conv1(x))

    monkeypatch.setattr(kind, "forward", forward)
    families._is_as_known.cache_clear()
    record = convert(nn.ModuleList([kind(3, 3)]))
    families._is_as_known.cache_clear()
    (entry,) = record.not_fused
    assert (entry.name, entry.what) == ("0", "BasicBlock")
    assert entry.reason == "its forward is not the one of torchvision that is known; trace=True looks at any"
    assert record.counts["converted"] == 2


def test_subclass_of_a_block_is_not_taken_for_it() -> None:
    class Mine(library("torchvision").models.resnet.BasicBlock):  # type: ignore[misc]
        pass

    block = Mine(3, 3)
    assert convert(block).fused == ()
    assert type(block) is Mine


def test_dropout_between_prevents_a_fusion() -> None:
    library("timm")
    from timm.models import resnet

    block = resnet.BasicBlock(3, 3, drop_block=nn.Dropout)
    record = convert(block)
    assert [entry.what for entry in record.fused] == ["residual add and relu"]
    assert [entry.reason for entry in record.not_fused] == ["drop_block stands between bn1 and act1: Dropout"]


def _timm_layer(**settings: Any) -> nn.Module:
    library("timm")
    from timm.layers import BatchNormAct2d

    return BatchNormAct2d(3, **settings)


@pytest.mark.parametrize("name", ["relu", "silu", "gelu", "sigmoid", "tanh"])
def test_timm_layer_becomes_the_fused_layer(name: str) -> None:
    layer = _timm_layer(act_layer=name)
    reference = copy.deepcopy(layer)
    record = convert(layer)
    assert (type(layer), layer.activation) == (BatchNorm2d, name)
    assert [(entry.what, entry.reason) for entry in record.fused] == [(name, "inside timm's BatchNormAct2d")]
    assert_same_step(layer, reference, images())


def test_timm_layer_without_activation_becomes_a_plain_layer() -> None:
    layer = _timm_layer(apply_act=False)
    assert convert(layer).counts == {"converted": 1, "fused": 0, "not_fused": 0, "left_alone": 0}
    assert (type(layer), layer.activation) == (BatchNorm2d, None)


@pytest.mark.parametrize("settings", [{"act_layer": "hard_swish"}, {"act_layer": "relu6"}, {"drop_layer": nn.Dropout}])
def test_timm_layer_with_another_activation_keeps_it_as_a_module(settings: dict[str, Any]) -> None:
    layer = _timm_layer(**settings)
    reference, before = copy.deepcopy(layer), fields(layer)
    record = convert(layer, images())
    assert isinstance(layer, BatchNorm2d)
    assert (record.fused, record.left_alone) == ((), ())
    assert record.converted[0].reason.endswith("as before")
    copied = pickle.loads(pickle.dumps(layer))
    torch.testing.assert_close(copied.eval()(images()), reference.eval()(images()), rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match=r"^convert_sync_batchnorm would drop the .*: call batchnorm\.revert\(model\)"):
        nn.SyncBatchNorm.convert_sync_batchnorm(layer)
    revert(layer)
    assert fields(layer) == before


def test_timm_layer_without_fuse_keeps_its_activation() -> None:
    layer = _timm_layer()
    record = convert(layer, fuse=False)
    assert record.fused == ()
    assert type(layer.act) is nn.ReLU
    assert convert(layer).counts["converted"] == 0


def test_timm_layer_whose_activation_is_watched_keeps_it() -> None:
    layer = _timm_layer()
    seen: list[int] = []
    layer.act.register_forward_hook(lambda *args: seen.append(1))
    convert(layer)
    layer(images())
    assert seen == [1]


def test_timm_layer_of_an_unknown_version_is_left_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    layer = _timm_layer()
    monkeypatch.setattr(layers, "_TIMM_FORWARD", "another")
    assert [entry.reason for entry in convert(layer).left_alone] == ["is of a version of timm that is not known"]


def test_no_library_is_imported() -> None:
    code = (
        "import sys, torch, batchnorm\n"
        "model = torch.nn.Sequential(torch.nn.BatchNorm1d(3), torch.nn.ReLU())\n"
        "batchnorm.convert(model, torch.randn(4, 3), trace=True)\n"
        "assert not {'torchvision', 'timm', 'transformers'} & sys.modules.keys()\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
