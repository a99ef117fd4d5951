# SPDX-License-Identifier: Apache-2.0
"""The modules that a deployed detector consists of."""
import copy
from typing import Dict, List, Sequence, Tuple

import numpy as np
import torch
from torch import Tensor, nn

from mmfasternet.models.backbones import (
    BasicStage,
    FasterNet,
    FasterNetBlock,
)

from .norm_folding import fold_pair

OFFSET = 0.5  # of the priors of MMYOLO's YOLOv8, in cells


class SwapChannels(nn.Module):
    """BGR to RGB and back, ``(N, 3, H, W)`` to the same."""

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, 3, H, W)`` to the same shape."""
        return torch.cat(x.split(1, 1)[::-1], 1)


class DeployedBlock(nn.Module):
    """A :class:`.FasterNetBlock`: PConv and 1x1 - act - 1x1, added to x."""

    def __init__(self, block: FasterNetBlock) -> None:
        super().__init__()
        expand, norm, act, project = block.mlp
        if block.layer_scale is not None:
            project.weight = nn.Parameter(
                project.weight * block.layer_scale.view(-1, 1, 1, 1))
        self.spatial_mixing = block.spatial_mixing
        self.mlp = nn.Sequential(*fold_pair(expand, norm), act, project)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, dim, H, W)`` to the same shape."""
        return x + self.mlp(self.spatial_mixing(x))


def _conv_norm(conv: nn.Module, norm: nn.Module) -> nn.Module:
    pair = fold_pair(conv, norm)
    return pair[0] if len(pair) == 1 else pair


def _stage(stage: nn.Module) -> nn.Module:
    if isinstance(stage, BasicStage):
        return nn.Sequential(*map(DeployedBlock, stage.blocks))
    return _conv_norm(stage.reduction, stage.norm)


class DeployedBackbone(nn.Module):
    """A FasterNet with its norms folded.

    Args:
        backbone (FasterNet): What it is made of.
        output_norms (dict[str, nn.Module]): By stage, what is left of the
            norm of its output.
    """

    def __init__(self, backbone: FasterNet,
                 output_norms: Dict[str, nn.Module]) -> None:
        super().__init__()
        embed = backbone.patch_embed
        self.patch_embed = _conv_norm(embed.proj, embed.norm)
        self.stages = nn.ModuleList(map(_stage, backbone.stages))
        self.output_norms = nn.ModuleDict(output_norms)
        self.out_indices = backbone.out_indices

    def forward(self, x: Tensor) -> Tuple[Tensor, ...]:
        """Map ``(N, 3, H, W)`` to one map per entry of ``out_indices``."""
        outs = []
        x = self.patch_embed(x)
        for position, stage in enumerate(self.stages):
            x = stage(x)
            index = position // 2
            if position % 2 == 0 and index in self.out_indices:
                has_norm = str(index) in self.output_norms
                outs.append(
                    self.output_norms[str(index)](x) if has_norm else x)
        return tuple(outs)


class DeployedNeck(nn.Module):
    """The layers of a :class:`.YOLOv8SPPFPAFPN`, without the identities."""

    def __init__(self, neck: nn.Module) -> None:
        super().__init__()
        self.sppf = neck.reduce_layers[-1]
        self.upsample_layers = neck.upsample_layers
        self.top_down_layers = neck.top_down_layers
        self.downsample_layers = neck.downsample_layers
        self.bottom_up_layers = neck.bottom_up_layers

    def forward(self, inputs: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """Fuse ``(P3, P4, P5)`` into three maps of the same sizes.

        Raises:
            ValueError: If the maps do not halve, because the image size is
                not a multiple of 32.
        """
        # tracing would take the sizes for constants, and warn
        sizes = [] if torch.jit.is_tracing() else \
            [tuple(x.shape[-2:]) for x in inputs]
        for low, high in zip(sizes, sizes[1:]):
            if low != (2 * high[0], 2 * high[1]):
                raise ValueError(
                    'the images must be padded to a multiple of 32, e.g. by '
                    'LetterResize: the feature maps (height, width) do not '
                    f'halve from level to level: {sizes}')
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
    """The layers of a ``YOLOv8HeadModule`` and the decoding of its boxes.

    ``offset`` is the position of a prior within its cell.
    """

    def __init__(self, head_module: nn.Module, offset: float) -> None:
        super().__init__()
        self.cls_preds = head_module.cls_preds
        self.reg_preds = head_module.reg_preds
        self.strides = tuple(head_module.featmap_strides)
        self.reg_max = head_module.reg_max
        self.offset = offset
        # a matrix: ONNX Runtime multiplies by a vector 30 times more slowly
        bins = torch.arange(self.reg_max, dtype=torch.float64)[:, None]
        self.register_buffer('bins', bins, persistent=False)

    def forward(
            self, inputs: Sequence[Tensor]
    ) -> Tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Class logits and box distances per level, as maps."""
        return ([layer(x) for layer, x in zip(self.cls_preds, inputs)],
                [layer(x) for layer, x in zip(self.reg_preds, inputs)])


def decode(logits: Sequence[Tensor], distances: Sequence[Tensor],
           strides: Sequence[int], bins: Tensor,
           offset: float) -> Tuple[Tensor, Tensor]:
    """Boxes and scores of the maps of a head.

    Args:
        logits, distances (Sequence[Tensor]): See
            :meth:`DeployedDetector.maps`.
        strides (Sequence[int]): Of the maps, in pixels.
        bins (Tensor): Distances that the probabilities are of, in strides,
            ``(reg_max, 1)``.
        offset (float): The position of a prior within its cell.

    Returns:
        tuple[Tensor, Tensor]: See :meth:`DeployedDetector.forward`.
    """
    points, steps = _priors(logits, strides, offset)
    distance = _per_prior(distances)
    if len(bins) > 1:
        # the expectation of a distribution over the distances (DFL)
        distance = distance.reshape(distance.shape[0], -1, 4, len(bins))
        distance = distance.softmax(3).matmul(bins).squeeze(3)
    distance = distance * steps
    boxes = torch.cat(
        (points - distance[..., :2], points + distance[..., 2:]), 2)
    return boxes, _per_prior(logits).sigmoid()


def _per_prior(maps: Sequence[Tensor]) -> Tensor:
    """Maps ``(N, C, H_i, W_i)`` as one ``(N, A, C)``."""
    return torch.cat([x.flatten(2) for x in maps], 2).transpose(1, 2)


def _priors(maps: Sequence[Tensor], strides: Sequence[int],
            offset: float) -> Tuple[Tensor, Tensor]:
    """Points ``(A, 2)`` as x, y in pixels and their strides ``(A, 1)``."""
    points, steps = [], []
    for x, stride in zip(maps, strides):
        height, width = x.shape[-2:]
        like = dict(dtype=x.dtype, device=x.device)
        xs = (torch.arange(width, **like) + offset) * stride
        ys = (torch.arange(height, **like) + offset) * stride
        grid = torch.stack((xs[None].expand(height, width),
                            ys[:, None].expand(height, width)), 2)
        points.append(grid.reshape(-1, 2))
        steps.append(torch.full_like(points[-1][:, :1], stride))
    return torch.cat(points), torch.cat(steps)


@torch.no_grad()
def decode_maps(maps: Sequence[np.ndarray], height: int) -> List[np.ndarray]:
    """Boxes and scores of what :class:`DeployedMaps` gives.

    Args:
        maps (Sequence[np.ndarray]): As many of logits as of distances.
        height (int): Of the images, in pixels.

    Returns:
        list[np.ndarray]: See :meth:`DeployedDetector.forward`.
    """
    tensors = [torch.from_numpy(x) for x in maps]
    logits = tensors[:len(maps) // 2]
    bins = torch.arange(tensors[-1].shape[1] / 4)[:, None]
    return [x.numpy() for x in decode(
        logits, tensors[len(logits):],
        [height // x.shape[2] for x in logits], bins, OFFSET)]


class DeployedDetector(nn.Module):
    """Everything of a detector up to, but not including, NMS.

    Made by :func:`deploy_form`; it is the same in training mode. ``pixels``
    is what is left of their preparation, nothing if the stem does it.
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
            ValueError: If H or W is not a multiple of 32.
        """
        return self.decode(*self.maps(images))

    def maps(self,
             images: Tensor) -> Tuple[Sequence[Tensor], Sequence[Tensor]]:
        """Everything but the decoding, which needs more than 8 bits.

        Returns:
            tuple[list[Tensor], list[Tensor]]: Per level, class logits
            ``(N, num_classes, H_i, W_i)`` and the distances of the sides of
            the boxes, ``(N, 4 * reg_max, H_i, W_i)``.
        """
        x = self.pixels(images.to(self.head.bins.dtype))
        return self.head(self.neck(self.backbone(x)))

    def decode(self, logits: Sequence[Tensor],
               distances: Sequence[Tensor]) -> Tuple[Tensor, Tensor]:
        """Boxes and scores of what :meth:`maps` gives."""
        head = self.head
        return decode(logits, distances, head.strides, head.bins, head.offset)


def with_fp16_weights(detector: DeployedDetector) -> DeployedDetector:
    """A copy whose convolutions have weights that fp16 has: the nearest, or 0
    for those below its least normal number, as pnnx writes them.

    Raises:
        ValueError: If one is larger than the largest number of fp16.
    """
    detector = copy.deepcopy(detector)
    limits = torch.finfo(torch.float16)
    for name, layer in detector.named_modules():
        if isinstance(layer, nn.Conv2d):
            weight = layer.weight.data
            if weight.abs().max() > limits.max:
                raise ValueError(f'{name} has a weight of '
                                 f'{weight.abs().max():.3g}, and fp16 ends at '
                                 f'{limits.max:.0f}: take fp32')
            weight[weight.abs() < limits.tiny] = 0
            weight.copy_(weight.half())
    return detector


class DeployedMaps(nn.Module):
    """A detector up to its maps, for an engine that may compute in 16 bits:
    the next number to 640 is half a pixel away there."""

    def __init__(self, detector: DeployedDetector) -> None:
        super().__init__()
        self.detector = detector

    def forward(self, images: Tensor) -> Tuple[Tensor, ...]:
        """Those of :meth:`DeployedDetector.maps`, one after another."""
        logits, distances = self.detector.maps(images)
        return (*logits, *distances)
