# SPDX-License-Identifier: GPL-3.0-only
# GPL because it takes mmyolo's modules apart, and mmyolo is GPL-3.0.
"""Detectors as they are deployed: images in, boxes and scores out.

In evaluation mode every batch norm is one factor and one summand per channel,
and so is the normalisation of the pixels. Here they become part of the
convolution before or after them. Nothing is approximated: what cannot be
folded exactly stays as a multiplication and an addition.
"""
import copy
from typing import Dict, Optional, Sequence, Tuple

import torch
from mmengine.model import BaseDataPreprocessor, ImgDataPreprocessor
from torch import nn

from mmfasternet.models import (
    FasterNet,
    FasterNetBlock,
    YOLOv8HeadModule,
    YOLOv8PConvHeadModule,
    YOLOv8SPPFPAFPN,
)

from .deployed_detector import (
    DeployedBackbone,
    DeployedBlock,
    DeployedDetector,
    DeployedHead,
    DeployedNeck,
    SwapChannels,
)
from .norm_folding import (
    ScaleBias,
    fold_before,
    fold_modules,
    is_foldable,
    scale_bias,
)

# after mmfasternet.models, which makes mmyolo importable
from mmyolo.models import YOLODetector, YOLOv8Head  # isort: skip
from mmyolo.models import (  # isort: skip
    YOLOv8HeadModule as MMYOLOHeadModule)
from mmyolo.models.task_modules.coders import (  # isort: skip
    DistancePointBBoxCoder)


def _deploy_pixels(preprocessor: BaseDataPreprocessor,
                   stem: Optional[nn.Conv2d]) -> nn.Sequential:
    """Move the preparation of the pixels into the convolution that takes
    them, None if it is not known; what is left of it."""
    left = nn.Sequential()
    if type(preprocessor) is BaseDataPreprocessor:
        return left
    swap = preprocessor._channel_conversion
    if swap and stem is None:
        left.append(SwapChannels())
    elif swap:
        stem.weight = nn.Parameter(stem.weight[:, [2, 1, 0]])
    if preprocessor._enable_normalize:
        channels = 3 if stem is None else stem.in_channels
        mean, std = (
            value.detach().to('cpu', torch.float64).flatten().expand(channels)
            for value in (preprocessor.mean, preprocessor.std))
        if swap and stem is not None:
            mean, std = mean.flip(0), std.flip(0)
        if not fold_before(stem, 1 / std, -mean / std):
            left.append(ScaleBias(1 / std, -mean / std))
    return left


def _consumers(neck: nn.Module) -> Sequence[Tuple[nn.Module, int]]:
    """Of each input of the neck the one convolution that takes it and the
    first channel there; nothing for a neck not known."""
    if type(neck) is not YOLOv8SPPFPAFPN:
        return []
    top_down = [(layer.main_conv.conv, layer.main_conv.conv.in_channels -
                 width) for layer, width in zip(neck.top_down_layers[::-1],
                                                neck.in_channels[:-1])]
    return [*top_down, (neck.reduce_layers[-1].conv1.conv, 0)]


def _deploy_output_norms(backbone: FasterNet,
                         neck: nn.Module) -> Dict[str, nn.Module]:
    """Move the output norms into the neck; those that cannot, by stage."""
    kept = {}
    consumers = _consumers(neck) or [(None, 0)] * len(backbone.out_indices)
    for index, (conv, first) in zip(backbone.out_indices, consumers):
        norm = getattr(backbone, f'norm{2 * index}')
        if isinstance(norm, nn.Identity):
            continue
        if not is_foldable(norm):
            kept[str(index)] = norm
        elif not fold_before(conv, *scale_bias(norm), first):
            kept[str(index)] = ScaleBias(*scale_bias(norm))
    return kept


def _check(detector: nn.Module) -> None:
    if not isinstance(detector, YOLODetector):
        raise TypeError('detector must be a built YOLODetector, '
                        f'got {type(detector).__name__}')
    head = detector.bbox_head
    known = [
        ('bbox_head', head, YOLOv8Head),
        ('bbox_head.head_module', getattr(head, 'head_module', None),
         MMYOLOHeadModule, YOLOv8HeadModule, YOLOv8PConvHeadModule),
        ('bbox_head.bbox_coder', getattr(head, 'bbox_coder', None),
         DistancePointBBoxCoder),
    ]
    for name, part, *kinds in known:
        # the very class: another one may have another forward method
        if type(part) not in kinds:
            raise ValueError(
                f'model.{name} is a {type(part).__name__}, but only detectors '
                f'with a {kinds[0].__name__} there have a deploy form')
    preprocessor = detector.data_preprocessor
    if not isinstance(preprocessor, ImgDataPreprocessor) and \
            type(preprocessor) is not BaseDataPreprocessor:
        raise ValueError(
            'model.data_preprocessor must extend ImgDataPreprocessor, got '
            f'{type(preprocessor).__name__}')
    steps = [(stride, stride) for stride in head.featmap_strides]
    if head.prior_generator.strides != steps:
        raise ValueError(
            'model.bbox_head.prior_generator.strides and '
            'head_module.featmap_strides differ: '
            f'{head.prior_generator.strides}, {tuple(head.featmap_strides)}')


@torch.no_grad()
def deploy_form(detector: nn.Module) -> DeployedDetector:
    """The form of a detector that is exported and deployed.

    It gives what the detector gives in evaluation mode before NMS: batch
    norms, the normalisation of the pixels and the swap of their channels are
    part of the convolutions. Folding is computed in float64; device and type
    of the result are the detector's.

    The state dict of a deploy form fits the deploy form of any detector built
    from the same config, whatever its weights and mean and std::

        save_checkpoint(deploy_form(trained).state_dict(), 'deployed.pth')
        deployed = deploy_form(MODELS.build(cfg.model))
        deployed.load_state_dict(read_checkpoint('deployed.pth'))

    Args:
        detector (YOLODetector): With YOLOv8's head, stock YOLOv8 included.
            It is copied and stays as it is. Before a neck other than
            ``YOLOv8SPPFPAFPN`` FasterNet's output norms, and before a
            backbone other than FasterNet the preparation of the pixels,
            remain operations of their own.

    Returns:
        DeployedDetector: Its parameters need no gradient.

    Raises:
        TypeError: If it is not a detector of mmyolo.
        ValueError: If its head is not YOLOv8's.

    Example:
        >>> from mmengine.registry import MODELS, init_default_scope
        >>> from mmfasternet.config import load_config
        >>> init_default_scope('mmyolo')
        >>> cfg = load_config('configs/yolov8_fasternet_n.py')
        >>> deployed = deploy_form(MODELS.build(cfg.model))
        >>> images = torch.zeros(2, 3, 64, 96, dtype=torch.uint8)
        >>> [tuple(out.shape) for out in deployed(images)]
        [(2, 126, 4), (2, 126, 80)]
    """
    _check(detector)
    head = detector.bbox_head
    parts = [copy.deepcopy(part).to('cpu', torch.float64) for part in (
        detector.backbone, detector.neck, head.head_module)]
    for part in parts:
        part.eval()  # which returns None for mmyolo's
    backbone, neck, head_module = parts
    # what two may share, and the blocks whose inside is known
    done = {block: DeployedBlock(block) for block in neck.modules()
            if type(block) is FasterNetBlock}
    head_module = fold_modules(head_module, done)
    neck = fold_modules(neck, done)
    stem = None
    # the very class: another one may have another forward method
    if type(backbone) is FasterNet:
        stem = backbone.patch_embed.proj
        backbone = DeployedBackbone(backbone,
                                    _deploy_output_norms(backbone, neck))
    else:
        backbone = fold_modules(backbone, done)
    deployed = DeployedDetector(
        _deploy_pixels(detector.data_preprocessor, stem), backbone,
        DeployedNeck(neck) if type(neck) is YOLOv8SPPFPAFPN else neck,
        DeployedHead(head_module, head.prior_generator.offset))
    parameter = next(detector.parameters())
    return deployed.to(parameter.device,
                       parameter.dtype).eval().requires_grad_(False)
