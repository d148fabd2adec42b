"""The models that the conversion benchmark converts: one for each family, small where there is a small one."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from tests.surgery.libraries import loaded
from torch import nn

from batchnorm.surgery.record import Entry

Inputs = dict[str, Any] | torch.Tensor

SIZES = (64, 128, 224, 256, 331)  # of images, the first that a model runs on


@dataclass(frozen=True)
class Case:
    """One model.

    Attributes:
        library: where it comes from.
        family: the file in that library.
        name: the model there.
        build: makes it, without weights.
        inputs: an input for an image size; None where the model is only built, on the meta device, and counted.
    """

    library: str
    family: str
    name: str
    build: Callable[[], nn.Module]
    inputs: Callable[[int], Inputs] | None = None


def cases() -> list[Case]:
    """All of them."""
    return [*_torchvision(), *_timm(), *_transformers()]


def images(size: int) -> torch.Tensor:
    """(2, 3, size, size)."""
    return torch.randn(2, 3, size, size)


def clips(size: int) -> torch.Tensor:
    """(2, 3, 16, size, size)."""
    return torch.randn(2, 3, 16, size, size)


_TORCHVISION = {
    "resnet": ("resnet18", "resnet50"),
    "densenet": ("densenet121",),
    "googlenet": ("googlenet",),
    "inception": ("inception_v3",),
    "mnasnet": ("mnasnet0_5",),
    "mobilenetv2": ("mobilenet_v2",),
    "mobilenetv3": ("mobilenet_v3_small",),
    "efficientnet": ("efficientnet_b0", "efficientnet_v2_s"),
    "regnet": ("regnet_x_400mf", "regnet_y_400mf"),
    "shufflenetv2": ("shufflenet_v2_x0_5",),
    "vgg": ("vgg11_bn",),
    "maxvit": ("maxvit_t",),
    "segmentation.fcn": ("fcn_resnet50",),
    "segmentation.deeplabv3": ("deeplabv3_mobilenet_v3_large",),
    "segmentation.lraspp": ("lraspp_mobilenet_v3_large",),
    "video.resnet": ("r3d_18", "r2plus1d_18"),
    "video.s3d": ("s3d",),
    "detection": ("ssdlite320_mobilenet_v3_large", "fasterrcnn_resnet50_fpn_v2"),
    "optical_flow.raft": ("raft_large",),
}


def _torchvision() -> list[Case]:
    models = loaded("torchvision").models
    more: dict[str, dict[str, Any]] = {
        "googlenet": {"init_weights": False},
        "inception_v3": {"init_weights": False},
        "vgg11_bn": {"init_weights": False},
    }
    found = []
    for family, names in _TORCHVISION.items():
        inputs: Callable[[int], Inputs] | None = clips if family.startswith("video") else images
        if family in ("detection", "optical_flow.raft"):
            inputs = None
        for name in names:
            settings = more.get(name, {})
            if family.startswith(("segmentation", "detection")):
                settings = {"weights_backbone": None}

            def build(name: str = name, settings: dict[str, Any] = settings) -> nn.Module:
                return models.get_model(name, weights=None, **settings)

            found.append(Case("torchvision", family, name, build, inputs))
    return found


_TIMM = """
    byoanet halonet_h1, byobnet mobileone_s1, byobnet gernet_s, convmixer convmixer_768_32, cpubone cpubone_nano,
    cspnet cs3darknet_focus_s, cspnext cspnext_tiny, densenet densenet121, dla dla46x_c, dla dla34, dpn dpn48b,
    efficientformer efficientformer_l1, efficientformer_v2 efficientformerv2_s0, efficientnet efficientnet_lite0,
    efficientnet efficientnet_b0, efficientvim efficientvim_m1, efficientvit_mit efficientvit_b0,
    efficientvit_msra efficientvit_m0, fasternet fasternet_t0, fastvit fastvit_t8, ghostnet ghostnet_050,
    hardcorenas hardcorenas_b, hgnet hgnetv2_b0, hrnet hrnet_w18_small, iformer iformer_t,
    inception_next inception_next_atto, inception_resnet_v2 inception_resnet_v2, inception_v3 inception_v3,
    inception_v4 inception_v4, lcnetv2 lcnetv2_small, levit levit_128s, lowformer lowformer_b0,
    maxxvit maxvit_pico_rw_256, mobilenetv3 mobilenetv3_small_050, mobilevit mobilevit_xxs, nasnet nasnetalarge,
    nextvit nextvit_small, pnasnet pnasnet5large, regnet regnetx_002, repghost repghostnet_050, repvit repvit_m1,
    res2net res2next50, resnest resnest14d, resnet resnet10t, resnet resnet26, resnet seresnet50, resnetv2 resnetv2_18,
    rexnet rexnet_100, selecsls selecsls42, senet legacy_seresnet18, shvit shvit_s1, sknet skresnet18,
    starnet starnet_s050, swiftformer swiftformer_xs, tiny_vit tiny_vit_5m_224, tresnet tresnet_m, vgg vgg11_bn,
    visformer visformer_tiny, vision_transformer_hybrid vit_small_resnet50d_s16_224, volo volo_d1_224,
    vovnet ese_vovnet19b_slim_dw, xception legacy_xception, xception_aligned xception41p, xcit xcit_nano_12_p8_224
"""


def _timm() -> list[Case]:
    timm = loaded("timm")
    found = []
    for pair in _TIMM.split(","):
        family, name = pair.split()

        def build(name: str = name) -> nn.Module:
            return timm.create_model(name)

        found.append(Case("timm", family, name, build, images))
    return found


_TRANSFORMERS_IMAGES = """
    cvt d_fine deimv2 detr efficientnet hgnet_v2 levit mobilenet_v1 mobilenet_v2 mobilevit mobilevitv2
    pp_ocrv5_server_rec regnet resnet rt_detr swiftformer table-transformer textnet
"""
# Other inputs, and settings that make the model small.
_SMALL = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
_SMALL_CONVOLUTIONS = {"num_conv_pos_embeddings": 16, "num_conv_pos_embedding_groups": 2}
_TRANSFORMERS_OTHERS: dict[str, tuple[dict[str, Any], Callable[[int], Inputs]]] = {
    "lasr_encoder": (_SMALL, lambda size: {"input_features": torch.randn(2, 128, 128)}),
    "parakeet_encoder": (_SMALL, lambda size: {"input_features": torch.randn(2, 128, 80)}),
    "patchtst": ({}, lambda size: {"past_values": torch.randn(4, 32, 1)}),
    "wav2vec2-conformer": (_SMALL | _SMALL_CONVOLUTIONS, lambda size: {"input_values": torch.randn(2, 8000)}),
}
# Counted on torch's meta device, without numbers: large, or hard to feed.
_TRANSFORMERS_COUNTED = """
    align clap efficientloftr fastspeech2_conformer granite_speech groupvit omdet-turbo pp_ocrv5_mobile_rec
    sam3_lite_text seamless_m4t uvdoc
"""


def _transformers() -> list[Case]:
    transformers = loaded("transformers")
    found = []
    inputs: dict[str, Callable[[int], Inputs] | None] = dict.fromkeys(_TRANSFORMERS_COUNTED.split())
    inputs |= dict.fromkeys(_TRANSFORMERS_IMAGES.split(), _pixels)
    inputs |= {name: given for name, (_, given) in _TRANSFORMERS_OTHERS.items()}
    for name in sorted(inputs):
        settings = _TRANSFORMERS_OTHERS[name][0] if name in _TRANSFORMERS_OTHERS else {}

        def build(name: str = name, settings: dict[str, Any] = settings) -> nn.Module:
            config = transformers.CONFIG_MAPPING[name](**settings)
            return transformers.AutoModel.from_config(config)

        found.append(Case("transformers", name, name, build, inputs[name]))
    return found


def _pixels(size: int) -> Inputs:
    return {"pixel_values": images(size)}


def smallest_example(model: nn.Module, case: Case, *, modes: tuple[bool, ...] = (False,)) -> Inputs:
    """The smallest input that the model takes at test time, or in each of these modes of training."""
    assert case.inputs is not None
    problem: Exception | None = None
    for size in SIZES:
        example = case.inputs(size)
        try:
            for training in modes:
                other = copy.deepcopy(model).train(training)
                with torch.no_grad():
                    other(**example) if isinstance(example, dict) else other(example)
            return example
        except Exception as error:  # another size, then
            problem = error
    raise RuntimeError(f"runs on no image size: {problem}")


def reasons(entries: Iterable[Entry]) -> str:
    """Why layers were left as they were, each reason once, with how many it holds for."""
    found: dict[str, int] = {}
    for entry in entries:
        text = f"{entry.what}: {entry.reason}"
        found[text] = found.get(text, 0) + 1
    return "; ".join(f"{number} x {text}" for text, number in found.items())
