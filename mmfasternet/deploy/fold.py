# SPDX-License-Identifier: GPL-3.0-only
# GPL because it takes mmyolo's modules apart, and mmyolo is GPL-3.0.
"""Detectors as they are deployed: images in, boxes and scores out.

In evaluation mode every batch norm is one factor and one summand per channel,
and so is the normalisation of the pixels. Here they become part of the
convolution before or after them. Nothing is approximated: what cannot be
folded exactly stays as a multiplication and an addition.
"""
import copy
from collections import OrderedDict
from typing import Dict, Optional, Sequence, Tuple

import torch
from mmcv.cnn import ConvModule, fuse_conv_bn
from mmengine.model import BaseDataPreprocessor, ImgDataPreprocessor
from torch import Tensor, nn

from mmfasternet.models import (
    FasterNet,
    YOLOv8HeadModule,
    YOLOv8PConvHeadModule,
    YOLOv8SPPFPAFPN,
)
from mmfasternet.models.backbones import BasicStage, FasterNetBlock

from .modules import (
    DeployedBackbone,
    DeployedBlock,
    DeployedDetector,
    DeployedHead,
    DeployedNeck,
    ScaleBias,
    SwapChannels,
)

# after mmfasternet.models, which makes mmyolo importable
from mmyolo.models import YOLODetector, YOLOv8Head  # isort: skip
from mmyolo.models import (  # isort: skip
    YOLOv8HeadModule as MMYOLOHeadModule)
from mmyolo.models.task_modules.coders import (  # isort: skip
    DistancePointBBoxCoder)


# ------------------------------------------------------------ folding
def _is_foldable(norm: nn.Module) -> bool:
    """Whether a norm is the same factors and summands for all images."""
    return isinstance(norm, (nn.BatchNorm2d, nn.SyncBatchNorm)) and \
        norm.track_running_stats and norm.affine


def _scale_bias(norm: nn.Module) -> Tuple[Tensor, Tensor]:
    """Factors and summands of a foldable norm, ``(C, )`` each."""
    scale = (norm.running_var + norm.eps).rsqrt() * norm.weight
    return scale, norm.bias - norm.running_mean * scale


def _takes_before(conv: nn.Module) -> bool:
    """Whether :func:`_fold_before` is exact: zeros around the input of the
    convolution would be no zeros before a summand."""
    return type(conv) is nn.Conv2d and conv.groups == 1 and \
        conv.padding in ((0, 0), 'valid')


def _fold_before(conv: nn.Conv2d,
                 scale: Tensor,
                 bias: Tensor,
                 first: int = 0) -> None:
    """Make the convolution do what precedes it, with the factors and
    summands ``(C, )`` of its input channels from ``first`` on."""
    weight = conv.weight.clone()
    part = weight[:, first:first + len(scale)]
    summand = torch.einsum('oihw,i->o', part, bias)
    part *= scale.view(1, -1, 1, 1)
    conv.weight = nn.Parameter(weight)
    conv.bias = nn.Parameter(
        summand if conv.bias is None else conv.bias + summand)


def _conv_norm(conv: nn.Module, norm: nn.Module) -> Sequence[nn.Module]:
    """A convolution and its norm, folded if it can be."""
    pair = nn.Sequential(conv, norm)
    if _is_foldable(norm):
        fuse_conv_bn(pair)
    return [part for part in pair if not isinstance(part, nn.Identity)]


def _one_module(modules: Sequence[nn.Module]) -> nn.Module:
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def _fold_modules(module: nn.Module, done: Dict[nn.Module,
                                                nn.Module]) -> nn.Module:
    """The module without batch norms; ``done`` holds what two may share.

    mmcv's ``fuse_conv_bn`` folds each norm into the convolution before it in
    the order of registration, which need not be that of the forward pass
    (mmyolo's QARepVGGBlock); that of a ConvModule is known.
    """
    if module in done:
        return done[module]
    done[module] = module
    if _is_foldable(module):
        done[module] = ScaleBias(*_scale_bias(module))
    elif isinstance(module, ConvModule):
        if _is_plain(module):
            done[module] = _fold_conv_module(module)
    else:
        for name, child in list(module._modules.items()):
            if child is not None:
                setattr(module, name, _fold_modules(child, done))
    return done[module]


def _is_plain(module: ConvModule) -> bool:
    return type(module.conv) is nn.Conv2d and \
        module.order == ('conv', 'norm', 'act') and \
        not module.with_explicit_padding and not module.with_spectral_norm \
        and (module.norm is None or _is_foldable(module.norm))


def _fold_conv_module(module: ConvModule) -> nn.Module:
    """Convolution and activation, under the names that they had."""
    children = fuse_conv_bn(module).named_children()
    return nn.Sequential(
        OrderedDict((name, child) for name, child in children
                    if not isinstance(child, nn.Identity)))


# ------------------------------------------------------------ the parts
def _deploy_block(block: FasterNetBlock) -> DeployedBlock:
    expand, norm, act, project = block.mlp
    if block.layer_scale is not None:
        project.weight = nn.Parameter(project.weight *
                                      block.layer_scale.view(-1, 1, 1, 1))
    return DeployedBlock(
        block.spatial_mixing,
        nn.Sequential(*_conv_norm(expand, norm), act, project))


def _deploy_stage(stage: nn.Module) -> nn.Module:
    if isinstance(stage, BasicStage):
        return nn.Sequential(*map(_deploy_block, stage.blocks))
    return _one_module(_conv_norm(stage.reduction, stage.norm))


def _deploy_pixels(preprocessor: BaseDataPreprocessor,
                   stem: Optional[nn.Conv2d]) -> nn.Module:
    """Move the preparation of the pixels into the convolution that takes
    them, None if it is not known; what is left of it."""
    if type(preprocessor) is BaseDataPreprocessor:
        return nn.Sequential()
    left = []
    swap = preprocessor._channel_conversion
    if stem is None and swap:
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
        if _takes_before(stem):
            _fold_before(stem, 1 / std, -mean / std)
        else:
            left.append(ScaleBias(1 / std, -mean / std))
    return nn.Sequential(*left)


def _consumers(neck: nn.Module) -> Sequence[Tuple[nn.Module, int]]:
    """Of each input of the neck the one convolution that takes it and the
    first channel there; nothing for a neck not known."""
    # the very class: another one may have another forward method
    if type(neck) is not YOLOv8SPPFPAFPN or not neck.upsample_feats_cat_first:
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
        if not _is_foldable(norm):
            kept[str(index)] = norm
        elif _takes_before(conv):
            _fold_before(conv, *_scale_bias(norm), first)
        else:
            kept[str(index)] = ScaleBias(*_scale_bias(norm))
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


def _deploy_fasternet(backbone: FasterNet,
                      neck: nn.Module) -> DeployedBackbone:
    return DeployedBackbone(
        _one_module(
            _conv_norm(backbone.patch_embed.proj, backbone.patch_embed.norm)),
        [_deploy_stage(stage) for stage in backbone.stages],
        backbone.out_indices, _deploy_output_norms(backbone, neck))


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
    done = {}  # what two may share
    head_module = _fold_modules(head_module, done)
    neck = _fold_modules(neck, done)
    # the very class: another one may have another forward method
    stem = backbone.patch_embed.proj if type(backbone) is FasterNet else None
    backbone = _fold_modules(backbone, done) if stem is None else \
        _deploy_fasternet(backbone, neck)
    if type(neck) is YOLOv8SPPFPAFPN and neck.upsample_feats_cat_first:
        neck = DeployedNeck(neck)
    deployed = DeployedDetector(
        _deploy_pixels(detector.data_preprocessor, stem), backbone, neck,
        DeployedHead(head_module, head.prior_generator.offset))
    parameter = next(detector.parameters())
    return deployed.to(parameter.device,
                       parameter.dtype).eval().requires_grad_(False)
