# SPDX-License-Identifier: Apache-2.0
"""The networks of the FasterNet paper's comparisons, and its figures.

https://arxiv.org/abs/2303.03667, version 3: Table 1 (operators) and Table 3
(ImageNet classifiers). The paper counts a multiply-accumulate as one FLOP.
"""
# The models are imported where they are built: most processes build none.
from typing import Dict, List, NamedTuple, Optional, Tuple

from torch import nn

# Table 1 stacks ten layers, on maps of these channels and sides.
LAYERS = 10
MAPS = ((96, 56), (192, 28), (384, 14), (768, 7))


def _conv(channels: int, groups: int = 1) -> nn.Module:
    return nn.Conv2d(
        channels, channels, 3, padding=1, groups=groups, bias=False)


def _pconv(channels: int) -> nn.Module:
    from mmfasternet.models import PartialConv
    return PartialConv(channels)


OPERATORS = dict(
    conv=_conv,
    gconv16=lambda c: _conv(c, 16),
    dwconv=lambda c: _conv(c, c),
    pconv=_pconv)
# Table 1: ms of ten layers, batch 1, one thread of an Intel i9-9900X
OPERATOR_MS: Dict[str, Tuple[float, ...]] = dict(
    conv=(35.67, 28.41, 31.85, 62.71),
    gconv16=(21.90, 7.58, 4.40, 4.28),
    dwconv=(3.59, 1.97, 1.06, 0.68),
    pconv=(5.46, 3.09, 3.58, 5.02))


class Backbone(NamedTuple):
    """A row of Table 3.

    Args:
        name (str): As the paper writes it.
        build (str): FasterNet's ``arch``, or timm's name of the model.
        params (float): Published parameters, 1e6.
        gmacs (float): Published "FLOPs", 1e9 multiply-accumulates.
        ms (float): Published latency on an Intel i9-9900X, batch 1, one
            thread.
        top1 (float): Published top-1 accuracy on ImageNet-1k in %.
        side (int): Of the image that the count is for.
    """

    name: str
    build: str
    params: float
    gmacs: float
    ms: float
    top1: float
    side: int = 224


# Table 3, without what timm 1.0 does not have: ShuffleNetV2, PVT, CycleMLP.
# A blank line of the table ends a group of networks to compare.
BACKBONES: Tuple[Tuple[Backbone, ...], ...] = (
    (
        Backbone('MobileNetV2', 'mobilenetv2_100', 3.5, .31, 12.2, 72.0),
        Backbone('MobileViT-XXS', 'mobilevit_xxs', 1.3, .42, 30.8, 69.0, 256),
        Backbone('EdgeNeXt-XXS', 'edgenext_xx_small', 1.3, .26, 15.7, 71.2,
                 256),
        Backbone('FasterNet-T0', 't0', 3.9, .34, 9.2, 71.9),
    ),
    (
        Backbone('GhostNet-x1.3', 'ghostnet_130', 7.4, .24, 17.9, 75.7),
        Backbone('MobileNetV2-x1.4', 'mobilenetv2_140', 6.1, .60, 22.6, 74.7),
        Backbone('MobileViT-XS', 'mobilevit_xs', 2.3, 1.05, 40.8, 74.8, 256),
        Backbone('EdgeNeXt-XS', 'edgenext_x_small', 2.3, .54, 24.4, 75.0, 256),
        Backbone('FasterNet-T1', 't1', 7.6, .85, 17.7, 76.2),
    ),
    (
        Backbone('PoolFormer-S12', 'poolformer_s12', 11.9, 1.82, 49.0, 77.2),
        Backbone('MobileViT-S', 'mobilevit_s', 5.6, 2.03, 56.7, 78.4, 256),
        Backbone('EdgeNeXt-S', 'edgenext_small', 5.6, 1.26, 39.2, 79.4, 256),
        Backbone('ResNet50', 'resnet50', 25.6, 4.11, 73.0, 78.8),
        Backbone('FasterNet-T2', 't2', 15.0, 1.91, 33.5, 78.9),
    ),
    (
        Backbone('PoolFormer-S24', 'poolformer_s24', 21.4, 3.41, 92.8, 80.3),
        Backbone('PoolFormer-S36', 'poolformer_s36', 30.9, 5.00, 138.0, 81.4),
        Backbone('ConvNeXt-T', 'convnext_tiny', 28.6, 4.47, 86.3, 82.1),
        Backbone('Swin-T', 'swin_tiny_patch4_window7_224', 28.3, 4.51, 122.2,
                 81.3),
        Backbone('FasterNet-S', 's', 31.1, 4.56, 71.2, 81.3),
    ),
    (
        Backbone('PoolFormer-M36', 'poolformer_m36', 56.2, 8.80, 215.0, 82.1),
        Backbone('ConvNeXt-S', 'convnext_small', 50.2, 8.71, 153.2, 83.1),
        Backbone('Swin-S', 'swin_small_patch4_window7_224', 49.6, 8.77, 224.2,
                 83.0),
        Backbone('FasterNet-M', 'm', 53.5, 8.74, 129.5, 83.0),
    ),
    (
        Backbone('PoolFormer-M48', 'poolformer_m48', 73.5, 11.59, 281.8, 82.5),
        Backbone('ConvNeXt-B', 'convnext_base', 88.6, 15.38, 257.1, 83.8),
        Backbone('Swin-B', 'swin_base_patch4_window7_224', 87.8, 15.47, 349.2,
                 83.5),
        Backbone('FasterNet-L', 'l', 93.5, 15.52, 219.5, 83.5),
    ),
)


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


def backbone_groups(names: Optional[List[str]] = None) -> List[List[Backbone]]:
    """Table 3 in its groups, or one group of the rows named.

    Raises:
        ValueError: If a name is none of the table.
    """
    if names:
        return [[find_backbone(name) for name in names]]
    return [list(group) for group in BACKBONES]


def operator_ms(target: str) -> float:
    """The published latency of ``operator:NAME:CHANNELSxSIDE``, CPU."""
    name, channels, side = _operator(target)
    return OPERATOR_MS[name][MAPS.index((channels, side))]


def _operator(target: str) -> Tuple[str, int, int]:
    _, name, size = (target.split(':') + ['', ''])[:3]
    for channels, side in MAPS:
        if name in OPERATORS and size == f'{channels}x{side}':
            return name, channels, side
    raise ValueError(f'{target}: expected operator:NAME:CHANNELSxSIDE, NAME '
                     f'of {", ".join(OPERATORS)}, the map of '
                     f'{", ".join(f"{c}x{s}" for c, s in MAPS)}')


def own_shape(target: str) -> Optional[Tuple[int, int, int]]:
    """Channels, height and width that a network of the paper is for."""
    kind, _, name = target.partition(':')
    if name.startswith(':'):  # package::path
        return None
    if kind == 'operator':
        _, channels, side = _operator(target)
        return channels, side, side
    if kind == 'backbone':
        side = find_backbone(name).side
        return 3, side, side
    return None


def build(target: str) -> nn.Module:
    """Build a network of the paper.

    Raises:
        ImportError: If it is timm's and timm is not installed.
    """
    kind, _, name = target.partition(':')
    if kind == 'operator':
        operator, channels, _ = _operator(target)
        return nn.Sequential(
            *(OPERATORS[operator](channels) for _ in range(LAYERS)))
    row = find_backbone(name)
    from mmfasternet.models import FasterNet
    if row.build in FasterNet.arch_settings:
        return FasterNet(row.build, num_classes=1000)
    from mmfasternet.compat import import_timm
    return import_timm().create_model(row.build)
