# SPDX-License-Identifier: Apache-2.0
"""The networks of the FasterNet paper's comparisons, and its figures.

https://arxiv.org/abs/2303.03667, version 3: Table 1 (operators) and Table 3
(ImageNet classifiers). The paper counts a multiply-accumulate as one FLOP.
"""
# The models are imported where they are built: most processes build none.
from functools import partial
from typing import Callable, Dict, NamedTuple, Optional, Tuple

from torch import nn

# Table 1 stacks ten layers, on maps of these channels and sides.
LAYERS = 10
MAPS = ((96, 56), (192, 28), (384, 14), (768, 7))
# Table 1: ms of ten layers, batch 1, one thread of an Intel i9-9900X
OPERATOR_MS: Dict[str, Tuple[float, ...]] = dict(
    conv=(35.67, 28.41, 31.85, 62.71),
    gconv16=(21.90, 7.58, 4.40, 4.28),
    dwconv=(3.59, 1.97, 1.06, 0.68),
    pconv=(5.46, 3.09, 3.58, 5.02))


class Backbone(NamedTuple):
    """A row of Table 3."""

    name: str  #: As the paper writes it.
    build: str  #: FasterNet's ``arch``, or timm's name of the model.
    params: float  #: Published parameters, 1e6.
    gmacs: float  #: Published "FLOPs", 1e9 multiply-accumulates.
    #: Published latency, batch 1, one thread of an Intel i9-9900X.
    ms: float
    side: int = 224  #: Of the image that the count is for.


# Table 3, without what timm 1.0 does not have: ShuffleNetV2, PVT, CycleMLP.
# A blank line of the table ends a group of networks to compare.
BACKBONES: Tuple[Tuple[Backbone, ...], ...] = (
    (
        Backbone('MobileNetV2', 'mobilenetv2_100', 3.5, .31, 12.2),
        Backbone('MobileViT-XXS', 'mobilevit_xxs', 1.3, .42, 30.8, 256),
        Backbone('EdgeNeXt-XXS', 'edgenext_xx_small', 1.3, .26, 15.7, 256),
        Backbone('FasterNet-T0', 't0', 3.9, .34, 9.2),
    ),
    (
        Backbone('GhostNet-x1.3', 'ghostnet_130', 7.4, .24, 17.9),
        Backbone('MobileNetV2-x1.4', 'mobilenetv2_140', 6.1, .60, 22.6),
        Backbone('MobileViT-XS', 'mobilevit_xs', 2.3, 1.05, 40.8, 256),
        Backbone('EdgeNeXt-XS', 'edgenext_x_small', 2.3, .54, 24.4, 256),
        Backbone('FasterNet-T1', 't1', 7.6, .85, 17.7),
    ),
    (
        Backbone('PoolFormer-S12', 'poolformer_s12', 11.9, 1.82, 49.0),
        Backbone('MobileViT-S', 'mobilevit_s', 5.6, 2.03, 56.7, 256),
        Backbone('EdgeNeXt-S', 'edgenext_small', 5.6, 1.26, 39.2, 256),
        Backbone('ResNet50', 'resnet50', 25.6, 4.11, 73.0),
        Backbone('FasterNet-T2', 't2', 15.0, 1.91, 33.5),
    ),
    (
        Backbone('PoolFormer-S24', 'poolformer_s24', 21.4, 3.41, 92.8),
        Backbone('PoolFormer-S36', 'poolformer_s36', 30.9, 5.00, 138.0),
        Backbone('ConvNeXt-T', 'convnext_tiny', 28.6, 4.47, 86.3),
        Backbone('Swin-T', 'swin_tiny_patch4_window7_224', 28.3, 4.51, 122.2),
        Backbone('FasterNet-S', 's', 31.1, 4.56, 71.2),
    ),
    (
        Backbone('PoolFormer-M36', 'poolformer_m36', 56.2, 8.80, 215.0),
        Backbone('ConvNeXt-S', 'convnext_small', 50.2, 8.71, 153.2),
        Backbone('Swin-S', 'swin_small_patch4_window7_224', 49.6, 8.77, 224.2),
        Backbone('FasterNet-M', 'm', 53.5, 8.74, 129.5),
    ),
    (
        Backbone('PoolFormer-M48', 'poolformer_m48', 73.5, 11.59, 281.8),
        Backbone('ConvNeXt-B', 'convnext_base', 88.6, 15.38, 257.1),
        Backbone('Swin-B', 'swin_base_patch4_window7_224', 87.8, 15.47, 349.2),
        Backbone('FasterNet-L', 'l', 93.5, 15.52, 219.5),
    ),
)


class PaperNetwork(NamedTuple):
    """What can be built of the paper's networks."""

    build: Callable[[], nn.Module]  #: Raises ImportError if it needs timm.
    shape: Tuple[int, int, int]  #: Channels, height and width it is for.
    ms: float  #: The published latency on a CPU.


def find(target: str) -> Optional[PaperNetwork]:
    """The network that ``operator:NAME:CHANNELSxSIDE`` or ``backbone:NAME``
    stands for, None for anything else.

    Raises:
        ValueError: If there is none of this name; it says which there are.
    """
    kind, _, name = target.partition(':')
    if name.startswith(':'):  # package::path
        return None
    if kind == 'operator':
        return _find_operator(target, *name.partition(':')[::2])
    if kind == 'backbone':
        row = find_backbone(name)
        return PaperNetwork(partial(_build_backbone, row.build),
                            (3, row.side, row.side), row.ms)
    return None


def _find_operator(target: str, name: str, size: str) -> PaperNetwork:
    for (channels, side), ms in zip(MAPS, OPERATOR_MS.get(name, ())):
        if size == f'{channels}x{side}':
            return PaperNetwork(partial(_build_operator, name, channels),
                                (channels, side, side), ms)
    raise ValueError(f'{target}: expected operator:NAME:CHANNELSxSIDE, NAME '
                     f'of {", ".join(OPERATOR_MS)}, the map of '
                     f'{", ".join(f"{c}x{s}" for c, s in MAPS)}')


def find_backbone(name: str) -> Backbone:
    """A row of Table 3 by its name, in any case.

    Raises:
        ValueError: If there is none; it names those there are.
    """
    rows = {row.name.lower(): row for group in BACKBONES for row in group}
    if name.lower() not in rows:
        known = ', '.join(row.name for row in rows.values())
        raise ValueError(f'there is no backbone {name!r} in Table 3 and timm; '
                         f'there are {known}')
    return rows[name.lower()]


def _build_operator(name: str, channels: int) -> nn.Module:
    from mmfasternet.models import PartialConv
    if name == 'pconv':
        return nn.Sequential(*(PartialConv(channels) for _ in range(LAYERS)))
    groups = dict(conv=1, gconv16=16, dwconv=channels)[name]
    return nn.Sequential(*(
        nn.Conv2d(channels, channels, 3, padding=1, groups=groups, bias=False)
        for _ in range(LAYERS)))


def _build_backbone(name: str) -> nn.Module:
    from mmfasternet.models import FasterNet
    if name in FasterNet.arch_settings:
        return FasterNet(name, num_classes=1000)
    from mmfasternet.compat import import_timm
    return import_timm().create_model(name)
