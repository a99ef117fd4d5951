# SPDX-License-Identifier: Apache-2.0
"""Deformable convolution, with and without modulation (DCN v1 and v2)."""
from typing import Optional, Tuple

import torch
from torch import Tensor
from torch.nn import functional as F

from . import torchvision_ops


def deform_conv2d(input: Tensor,
                  offset: Tensor,
                  weight: Tensor,
                  bias: Optional[Tensor] = None,
                  stride: Tuple[int, int] = (1, 1),
                  padding: Tuple[int, int] = (0, 0),
                  dilation: Tuple[int, int] = (1, 1),
                  mask: Optional[Tensor] = None) -> Tensor:
    """Convolve samples taken beside the places of the kernel.

    Args:
        input (Tensor): Features of shape (N, C, H, W).
        offset (Tensor): How far beside, as ``(y, x)`` in pixels for each
            place of the kernel, of shape (N, G * kh * kw * 2, oh, ow) for G
            groups of channels with offsets of their own.
        weight (Tensor): Of shape (O, C / groups, kh, kw).
        bias (Tensor, optional): Of shape (O, ). Defaults to None.
        stride (tuple[int, int]): Defaults to (1, 1).
        padding (tuple[int, int]): Zeros on each side. Defaults to (0, 0).
        dilation (tuple[int, int]): Defaults to (1, 1).
        mask (Tensor, optional): Factors of the samples, of shape
            (N, G * kh * kw, oh, ow). Defaults to None.

    Returns:
        Tensor: Of shape (N, O, oh, ow), differentiable.
    """
    if torchvision_ops.OPS is not None:
        return torchvision_ops.OPS.deform_conv2d(
            input, offset, weight, bias, stride, padding, dilation, mask)
    number, channels, *size = input.shape
    outputs, _, *kernel = weight.shape
    out_size = offset.shape[-2:]
    # (N, G, kh, kw, 2, oh, ow)
    offset = offset.unflatten(1, (-1, *kernel, 2))
    grids = []
    for i in (1, 0):  # grid_sample takes (x, y)
        taps = torch.arange(kernel[i], device=input.device) * dilation[i]
        steps = torch.arange(out_size[i], device=input.device) * stride[i]
        shape = [1] * 4
        shape[i], shape[i + 2] = kernel[i], out_size[i]
        places = (taps[:, None] + steps - padding[i]).view(shape)
        # from the centre of a pixel to -1 ... 1 from edge to edge
        grids.append((2 * (offset[:, :, :, :, i] + places) + 1) / size[i] - 1)
    groups = offset.shape[1]
    columns = F.grid_sample(
        input.reshape(number * groups, channels // groups, *size),
        torch.stack(grids, -1).reshape(number * groups, -1, out_size[1], 2),
        padding_mode='zeros',
        align_corners=False)
    columns = columns.reshape(number, groups, channels // groups, *kernel,
                              *out_size)
    if mask is not None:
        columns = columns * mask.reshape(number, groups, 1, *kernel, *out_size)
    conv_groups = channels // weight.shape[1]
    product = weight.reshape(conv_groups, outputs // conv_groups,
                             -1) @ columns.reshape(
                                 number, conv_groups,
                                 weight[0].numel(), -1)
    product = product.reshape(number, outputs, *out_size)
    return product if bias is None else product + bias[:, None, None]
