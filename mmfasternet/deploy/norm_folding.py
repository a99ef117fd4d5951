# SPDX-License-Identifier: Apache-2.0
"""Norms as part of the convolutions before or after them, exactly."""
from collections import OrderedDict
from typing import Dict, Optional, Tuple

import torch
from mmcv.cnn import ConvModule, fuse_conv_bn
from torch import Tensor, nn


class ScaleBias(nn.Module):
    """A factor ``scale (C, )`` and a summand ``bias (C, )`` per channel."""

    def __init__(self, scale: Tensor, bias: Tensor) -> None:
        super().__init__()
        self.scale = nn.Parameter(scale.view(-1, 1, 1))
        self.bias = nn.Parameter(bias.view(-1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, C, H, W)`` to the same shape."""
        return x * self.scale + self.bias


def is_foldable(norm: nn.Module) -> bool:
    """Whether it is a norm of the same factors and summands for all images."""
    return isinstance(norm, (nn.BatchNorm2d, nn.SyncBatchNorm)) and \
        norm.track_running_stats and norm.affine


def scale_bias(norm: nn.Module) -> Tuple[Tensor, Tensor]:
    """Factors and summands of a foldable norm, ``(C, )`` each."""
    scale = (norm.running_var + norm.eps).rsqrt() * norm.weight
    return scale, norm.bias - norm.running_mean * scale


def fold_before(conv: Optional[nn.Module],
                scale: Tensor,
                bias: Tensor,
                first: int = 0) -> bool:
    """Make a convolution do what precedes it, if that is exact.

    It is not where the convolution pads: the zeros around its input are not
    zeros before a summand.

    Args:
        conv (nn.Module, optional): What takes the result, None if unknown.
        scale, bias (Tensor): Factors and summands ``(C, )`` of its input
            channels from ``first`` on.

    Returns:
        bool: Whether it was done.
    """
    if type(conv) is not nn.Conv2d or conv.groups != 1 or \
            conv.padding not in ((0, 0), 'valid'):
        return False
    weight = conv.weight.clone()
    part = weight[:, first:first + len(scale)]
    summand = torch.einsum('oihw,i->o', part, bias)
    part *= scale.view(1, -1, 1, 1)
    conv.weight = nn.Parameter(weight)
    conv.bias = nn.Parameter(
        summand if conv.bias is None else conv.bias + summand)
    return True


def fold_pair(conv: nn.Module, norm: nn.Module) -> nn.Sequential:
    """A convolution and its norm, of which the first remains if it can."""
    pair = nn.Sequential(conv, norm)
    if is_foldable(norm):
        fuse_conv_bn(pair)
    return nn.Sequential(
        *(part for part in pair if not isinstance(part, nn.Identity)))


def fold_modules(module: nn.Module, done: Dict[nn.Module,
                                               nn.Module]) -> nn.Module:
    """The module without batch norms; ``done`` holds what two may share.

    mmcv's ``fuse_conv_bn`` folds each norm into the convolution before it in
    the order of registration, which need not be that of the forward pass
    (mmyolo's QARepVGGBlock); that of a ConvModule is known.
    """
    if module in done:
        return done[module]
    done[module] = module
    if is_foldable(module):
        done[module] = ScaleBias(*scale_bias(module))
    elif isinstance(module, ConvModule):
        done[module] = _fold_conv_module(module)
    else:
        for name, child in list(module._modules.items()):
            if child is not None:
                setattr(module, name, fold_modules(child, done))
    return done[module]


def _fold_conv_module(module: ConvModule) -> nn.Module:
    """Convolution and activation, under the names that they had."""
    is_plain = type(module.conv) is nn.Conv2d and \
        module.order == ('conv', 'norm', 'act') and \
        not module.with_explicit_padding and not module.with_spectral_norm \
        and (module.norm is None or is_foldable(module.norm))
    if not is_plain:
        return module
    return nn.Sequential(
        OrderedDict((name, child)
                    for name, child in fuse_conv_bn(module).named_children()
                    if not isinstance(child, nn.Identity)))
