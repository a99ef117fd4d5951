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
from mmcv.cnn import ConvModule
from mmengine.model import BaseDataPreprocessor, ImgDataPreprocessor
from torch import Tensor, nn

from mmfasternet.models import (
    FasterNet,
    PartialConv,
    YOLOv8HeadModule,
    YOLOv8PConvHeadModule,
    YOLOv8SPPFPAFPN,
)
from mmfasternet.models.backbones import BasicStage, FasterNetBlock

# after mmfasternet.models, which makes mmyolo importable
from mmyolo.models import YOLODetector, YOLOv8Head  # isort: skip
from mmyolo.models import (  # isort: skip
    YOLOv8HeadModule as MMYOLOHeadModule)
from mmyolo.models.task_modules.coders import (  # isort: skip
    DistancePointBBoxCoder)


# ------------------------------------------------------------ the modules
class ScaleBias(nn.Module):
    """A factor and a summand per channel, ``(N, C, H, W)`` to the same.

    Args:
        scale (Tensor): The factors, ``(C, )``.
        bias (Tensor): The summands, ``(C, )``.
    """

    def __init__(self, scale: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale.view(-1, 1, 1))
        self.bias = nn.Parameter(bias.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape."""
        return x * self.scale + self.bias


class SwapChannels(nn.Module):
    """BGR to RGB and back, ``(N, 3, H, W)`` to the same."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, 3, H, W)`` to the same shape."""
        return torch.cat(x.split(1, 1)[::-1], 1)


class DeployedBlock(nn.Module):
    """A FasterNet block: PConv and two 1x1, added to the block's input.

    Args:
        spatial_mixing (PartialConv): The PConv.
        mlp (nn.Sequential): 1x1 - act - 1x1.
    """

    def __init__(self, spatial_mixing: PartialConv,
                 mlp: nn.Sequential) -> None:
        super().__init__()
        self.spatial_mixing = spatial_mixing
        self.mlp = mlp

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, dim, H, W)`` to the same shape."""
        return x + self.mlp(self.spatial_mixing(x))


class DeployedBackbone(nn.Module):
    """FasterNet with its norms folded.

    Args:
        patch_embed (nn.Module): The stem, one strided convolution.
        stages (Sequence[nn.Module]): Stages and merging convolutions in turn.
        out_indices (Sequence[int]): Stages to return.
        output_norms (dict[str, nn.Module]): By stage, what the neck did not
            take over of the norm of that stage's output.
    """

    def __init__(self, patch_embed: nn.Module, stages: Sequence[nn.Module],
                 out_indices: Sequence[int],
                 output_norms: Dict[str, nn.Module]) -> None:
        super().__init__()
        self.patch_embed = patch_embed
        self.stages = nn.ModuleList(stages)
        self.output_norms = nn.ModuleDict(output_norms)
        self.out_indices = tuple(out_indices)

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Map ``(N, 3, H, W)`` to one map per entry of ``out_indices``."""
        outs = []
        x = self.patch_embed(x)
        for position, stage in enumerate(self.stages):
            x = stage(x)
            index = position // 2
            if position % 2 == 0 and index in self.out_indices:
                key = str(index)
                outs.append(self.output_norms[key](x) if key in
                            self.output_norms else x)
        return tuple(outs)


class DeployedNeck(nn.Module):
    """:class:`YOLOv8SPPFPAFPN` without what does nothing.

    Args:
        neck (YOLOv8SPPFPAFPN): The neck whose layers to take, norms folded.
    """

    def __init__(self, neck: YOLOv8SPPFPAFPN) -> None:
        super().__init__()
        self.sppf = neck.reduce_layers[-1]
        self.upsample_layers = neck.upsample_layers
        self.top_down_layers = neck.top_down_layers
        self.downsample_layers = neck.downsample_layers
        self.bottom_up_layers = neck.bottom_up_layers

    def forward(self, inputs: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """Fuse ``(P3, P4, P5)`` into three maps of the same sizes.

        Raises:
            ValueError: If the maps do not halve, because the image size is no
                multiple of 32.
        """
        if not torch.jit.is_tracing():
            sizes = [tuple(x.shape[-2:]) for x in inputs]
            for low, high in zip(sizes, sizes[1:]):
                if low != (2 * high[0], 2 * high[1]):
                    raise ValueError(
                        'the images must be padded to a multiple of 32, e.g. '
                        'by LetterResize: the feature maps (height, width) '
                        f'do not halve from level to level: {sizes}')
        top_down = [self.sppf(inputs[-1])]
        for low, upsample, layer in zip(inputs[-2::-1], self.upsample_layers,
                                        self.top_down_layers):
            high = upsample(top_down[-1])
            top_down.append(layer(torch.cat((high, low), 1)))
        outs = [top_down.pop()]
        for downsample, layer in zip(self.downsample_layers,
                                     self.bottom_up_layers):
            low = downsample(outs[-1])
            outs.append(layer(torch.cat((low, top_down.pop()), 1)))
        return tuple(outs)


class DeployedHead(nn.Module):
    """YOLOv8's head with the decoding of its boxes.

    Args:
        head_module (MMYOLOHeadModule): Whose layers to take, norms folded.
        offset (float): Position of a prior within its cell.
    """

    def __init__(self, head_module: MMYOLOHeadModule, offset: float) -> None:
        super().__init__()
        self.cls_preds = head_module.cls_preds
        self.reg_preds = head_module.reg_preds
        self.strides = tuple(head_module.featmap_strides)
        self.reg_max = head_module.reg_max
        self.offset = offset
        # a matrix: ONNX Runtime multiplies by a vector 30 times more slowly
        bins = torch.arange(self.reg_max, dtype=torch.float64)[:, None]
        self.register_buffer('bins', bins, persistent=False)

    def forward(self, inputs: Sequence[Tensor]) -> Tuple[Tensor, Tensor]:
        """Boxes and scores of ``(P3, P4, P5)``.

        Returns:
            tuple[Tensor, Tensor]: See :class:`DeployedDetector`.
        """
        return self.decode(*self.convolve(inputs))

    def convolve(
            self, inputs: Sequence[Tensor]
    ) -> Tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Class logits and box distances per level, as maps."""
        return ([layer(x) for layer, x in zip(self.cls_preds, inputs)],
                [layer(x) for layer, x in zip(self.reg_preds, inputs)])

    def decode(self, logits: Sequence[Tensor],
               distances: Sequence[Tensor]) -> Tuple[Tensor, Tensor]:
        """Boxes and scores of what :meth:`convolve` gives."""
        points, strides = self._priors(logits)
        logits = self._per_prior(logits)
        distances = self._per_prior(distances)
        if self.reg_max > 1:
            # the expectation of a distribution over the distances (DFL)
            distances = distances.reshape(distances.shape[0], -1, 4,
                                          self.reg_max)
            distances = distances.softmax(3).matmul(self.bins).squeeze(3)
        distances = distances * strides
        boxes = torch.cat(
            (points - distances[..., :2], points + distances[..., 2:]), 2)
        return boxes, logits.sigmoid()

    @staticmethod
    def _per_prior(maps: Sequence[Tensor]) -> Tensor:
        """Maps ``(N, C, H_i, W_i)`` as one ``(N, A, C)``."""
        return torch.cat([x.flatten(2) for x in maps], 2).transpose(1, 2)

    def _priors(self, maps: Sequence[Tensor]) -> Tuple[Tensor, Tensor]:
        """Points ``(A, 2)`` as x, y in pixels and their strides ``(A, 1)``."""
        points, strides = [], []
        for x, stride in zip(maps, self.strides):
            height, width = x.shape[-2:]
            like = dict(dtype=x.dtype, device=x.device)
            xs = (torch.arange(width, **like) + self.offset) * stride
            ys = (torch.arange(height, **like) + self.offset) * stride
            grid = torch.stack((xs[None].expand(height, width),
                                ys[:, None].expand(height, width)), 2)
            points.append(grid.reshape(-1, 2))
            strides.append(torch.full_like(points[-1][:, :1], stride))
        return torch.cat(points), torch.cat(strides)


class DeployedDetector(nn.Module):
    """Everything of a detector up to, but not including, NMS.

    Made by :func:`deploy_form`; it is the same in training mode.

    Args:
        pixels (nn.Module): What is left of the preparation of the pixels,
            nothing if the stem does it.
        backbone (nn.Module): Images to feature maps.
        neck (nn.Module): Feature maps to feature maps.
        head (nn.Module): Feature maps to boxes and scores.
    """

    def __init__(self, pixels: nn.Module, backbone: nn.Module,
                 neck: nn.Module, head: nn.Module) -> None:
        super().__init__()
        self.pixels = pixels
        self.backbone = backbone
        self.neck = neck
        self.head = head

    def forward(self, images: Tensor) -> Tuple[Tensor, Tensor]:
        """Boxes and scores of a batch of images.

        Args:
            images (Tensor): ``(N, 3, H, W)``, uint8 or the same values in
                another type, channels as the image loader gives them (BGR);
                resized and padded, H and W multiples of 32.

        Returns:
            tuple[Tensor, Tensor]: For ``A = sum(H * W / stride**2)`` priors,
            level after level, row after row, the boxes ``(N, A, 4)`` as x1,
            y1, x2, y2 in pixels of ``images``, not clipped to them, and the
            scores ``(N, A, num_classes)`` between 0 and 1.

        Raises:
            ValueError: If H or W is no multiple of 32.
        """
        return self.head.decode(*self.maps(images))

    def maps(self,
             images: Tensor) -> Tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Everything but the decoding, which needs more than 8 bits.

        Args:
            images (Tensor): As for :meth:`forward`.

        Returns:
            tuple[list[Tensor], list[Tensor]]: Per level, class logits
            ``(N, num_classes, H_i, W_i)`` and the distances of the sides of
            the boxes, ``(N, 4 * reg_max, H_i, W_i)``.
        """
        x = self.pixels(images.to(self.head.bins.dtype))
        return self.head.convolve(self.neck(self.backbone(x)))


# ------------------------------------------------------------ folding
def _is_foldable(norm: nn.Module) -> bool:
    """Whether a norm is the same factors and summands for all images."""
    return isinstance(norm, (nn.BatchNorm2d, nn.SyncBatchNorm)) and \
        norm.running_var is not None


def _scale_bias(norm: nn.Module) -> Tuple[Tensor, Tensor]:
    """Factors and summands of a foldable norm, ``(C, )`` each."""
    scale = (norm.running_var + norm.eps).rsqrt()
    if norm.weight is not None:
        scale = scale * norm.weight
    bias = -norm.running_mean * scale
    return scale, bias if norm.bias is None else bias + norm.bias


def _fold_after(conv: nn.Conv2d, scale: Tensor, bias: Tensor) -> None:
    """Make the convolution do what follows it."""
    conv.weight = nn.Parameter(conv.weight * scale.view(-1, 1, 1, 1))
    if conv.bias is not None:
        bias = bias + scale * conv.bias
    conv.bias = nn.Parameter(bias)


def _takes_before(conv: nn.Module) -> bool:
    """Whether :func:`_fold_before` is exact: zeros around the input of the
    convolution would be no zeros before a summand."""
    return type(conv) is nn.Conv2d and conv.groups == 1 and \
        conv.padding in ((0, 0), 'valid')


def _fold_before(conv: nn.Conv2d,
                 scale: Tensor,
                 bias: Tensor,
                 first: int = 0) -> None:
    """Make the convolution do what precedes it.

    Args:
        conv (nn.Conv2d): One that :func:`_takes_before`.
        scale (Tensor): Factors, ``(C, )``.
        bias (Tensor): Summands, ``(C, )``.
        first (int): The input channel of ``conv`` that the first of them
            belongs to. Defaults to 0.
    """
    weight = conv.weight.clone()
    part = weight[:, first:first + len(scale)]
    summand = torch.einsum('oihw,i->o', part, bias)
    part *= scale.view(1, -1, 1, 1)
    conv.weight = nn.Parameter(weight)
    conv.bias = nn.Parameter(
        summand if conv.bias is None else conv.bias + summand)


def _conv_norm(conv: nn.Conv2d, norm: nn.Module) -> Sequence[nn.Module]:
    """A convolution and its norm, folded if it can be."""
    if isinstance(norm, nn.Identity):
        return [conv]
    if not _is_foldable(norm):
        return [conv, norm]
    _fold_after(conv, *_scale_bias(norm))
    return [conv]


def _one_module(modules: Sequence[nn.Module]) -> nn.Module:
    return modules[0] if len(modules) == 1 else nn.Sequential(*modules)


def _fold_modules(module: nn.Module, done: Dict[nn.Module,
                                                nn.Module]) -> nn.Module:
    """The module without batch norms; ``done`` holds what two may share."""
    if module not in done:
        if _is_foldable(module):
            done[module] = ScaleBias(*_scale_bias(module))
        elif isinstance(module, ConvModule) and _is_plain(module):
            done[module] = _fold_conv_module(module)
        else:
            done[module] = module
            for name, child in list(module._modules.items()):
                if child is not None:
                    setattr(module, name, _fold_modules(child, done))
    return done[module]


def _is_plain(module: ConvModule) -> bool:
    return type(module.conv) is nn.Conv2d and \
        module.order == ('conv', 'norm', 'act') and \
        not module.with_explicit_padding and not module.with_spectral_norm


def _fold_conv_module(module: ConvModule) -> nn.Module:
    """Convolution and activation, under the names that they had."""
    parts = OrderedDict(conv=module.conv)
    if module.with_norm:
        *_, norm = _conv_norm(module.conv, module.norm)
        if norm is not module.conv:
            parts[module.norm_name] = norm
    if module.with_activation:
        parts['activate'] = module.activate
    return nn.Sequential(parts)


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
    """Move the preparation of the pixels into the stem; what is left of it.

    Args:
        preprocessor (BaseDataPreprocessor): What says how.
        stem (nn.Conv2d, optional): The convolution that takes the pixels,
            None if it is not known.
    """
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


@torch.no_grad()
def deploy_form(detector: nn.Module) -> DeployedDetector:
    """The form of a detector that is exported and deployed.

    It gives what the detector gives in evaluation mode before NMS, without
    batch norms: they are folded into the convolutions, and so are the
    normalisation of the pixels and the swap of their channels. Folding is
    computed in float64; device and type of the result are the detector's.

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
        DeployedDetector: uint8 images to boxes and scores; its parameters
        need no gradient.

    Raises:
        TypeError: If it is no detector of mmyolo.
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
    backbone, neck, head_module = (
        copy.deepcopy(part).to('cpu', torch.float64)
        for part in (detector.backbone, detector.neck,
                     detector.bbox_head.head_module))
    for part in (backbone, neck, head_module):
        part.eval()  # which returns None for mmyolo's
    done = {}
    head_module = _fold_modules(head_module, done)
    neck = _fold_modules(neck, done)
    stem = None
    # the very class: another one may have another forward method
    if type(backbone) is FasterNet:
        output_norms = _deploy_output_norms(backbone, neck)
        stem, *norm = _conv_norm(backbone.patch_embed.proj,
                                 backbone.patch_embed.norm)
        backbone = DeployedBackbone(
            _one_module([stem, *norm]),
            [_deploy_stage(stage) for stage in backbone.stages],
            backbone.out_indices, output_norms)
    else:
        backbone = _fold_modules(backbone, done)
    if type(neck) is YOLOv8SPPFPAFPN and neck.upsample_feats_cat_first:
        neck = DeployedNeck(neck)
    deployed = DeployedDetector(
        _deploy_pixels(detector.data_preprocessor, stem), backbone, neck,
        DeployedHead(head_module, detector.bbox_head.prior_generator.offset))
    parameter = next(detector.parameters())
    return deployed.to(parameter.device,
                       parameter.dtype).eval().requires_grad_(False)
