# SPDX-License-Identifier: Apache-2.0
"""What ``mmcv.ops`` calls in ``mmcv._ext``, by the same names.

Its functions write into tensors that they are given, and have their gradients
in functions of their own; those that :mod:`mmfasternet.ops` has are here. Any
other one fails when it is called, and says what to do.
"""
from typing import Callable, Optional, Sequence

import torch
from torch import Tensor

from mmfasternet.ops import (
    deform_conv2d,
    nms,
    roi_align,
    sigmoid_focal_loss,
    soft_nms,
    torchvision_ops,
)

__all__ = ['nms']


def get_compiler_version() -> str:
    """For MMEngine's list of the environment."""
    return 'none: mmfasternet.ops'


def get_compiling_cuda_version() -> str:
    """For MMEngine's list of the environment."""
    return 'none: ' + (
        'PyTorch' if torchvision_ops.OPS is None else 'torchvision')


def __getattr__(name: str) -> Callable:
    if name.startswith('__'):  # introspection
        raise AttributeError(name)

    def absent(*args, **kwargs):
        raise NotImplementedError(
            f"mmcv's operator {name} is not here: this mmcv was installed "
            'without compiled operators, and mmfasternet.ops has none of this '
            'name. Either compile mmcv (COMPILE=1 bash tools/setup_env.sh), '
            'or take what torchvision.ops has for it')

    return absent


def _gradients(function: Callable, inputs: Sequence[Tensor],
               grad_output: Tensor, targets: Sequence[Tensor]) -> None:
    """Write the gradients of a function's inputs into the targets."""
    inputs = [tensor.detach().requires_grad_() for tensor in inputs]
    with torch.enable_grad():
        output = function(*inputs)
    for target, grad in zip(
            targets, torch.autograd.grad(output, inputs, grad_output)):
        target.copy_(grad)


def softnms(boxes: Tensor, scores: Tensor, dets: Tensor, iou_threshold: float,
            sigma: float, min_score: float, method: int,
            offset: int) -> Tensor:
    """See :func:`mmfasternet.ops.soft_nms`."""
    found, indices = soft_nms(boxes, scores, iou_threshold, sigma, min_score,
                              method, offset)
    dets[:len(found)] = found
    return indices


def _roi_align(features: Tensor, rois: Tensor, aligned_height: int,
               aligned_width: int, spatial_scale: float, sampling_ratio: int,
               pool_mode: int, aligned: bool) -> Tensor:
    if pool_mode == 0:
        __getattr__("roi_align with pool_mode='max'")()
    return roi_align(features, rois, (aligned_height, aligned_width),
                     spatial_scale, sampling_ratio, aligned)


def roi_align_forward(input: Tensor, rois: Tensor, output: Tensor,
                      argmax_y: Tensor, argmax_x: Tensor, **kwargs) -> None:
    """See :func:`mmfasternet.ops.roi_align`."""
    output.copy_(_roi_align(input, rois, **kwargs))


def roi_align_backward(grad_output: Tensor, rois: Tensor, argmax_y: Tensor,
                       argmax_x: Tensor, grad_input: Tensor,
                       **kwargs) -> None:
    """The gradient of the features; it does not depend on them."""
    _gradients(lambda features: _roi_align(features, rois, **kwargs),
               [grad_input], grad_output, [grad_input])


def _deform_conv(input: Tensor, offset: Tensor, weight: Tensor, kW: int,
                 kH: int, dW: int, dH: int, padW: int, padH: int,
                 dilationW: int, dilationH: int, **kwargs) -> Tensor:
    return deform_conv2d(input, offset, weight, None, (dH, dW), (padH, padW),
                         (dilationH, dilationW))


def deform_conv_forward(input: Tensor, weight: Tensor, offset: Tensor,
                        output: Tensor, columns: Tensor, ones: Tensor,
                        **kwargs) -> None:
    """See :func:`mmfasternet.ops.deform_conv2d`."""
    output.copy_(_deform_conv(input, offset, weight, **kwargs))


def deform_conv_backward_input(input: Tensor, offset: Tensor,
                               grad_output: Tensor, grad_input: Tensor,
                               grad_offset: Tensor, weight: Tensor,
                               columns: Tensor, **kwargs) -> None:
    """The gradients of the features and of the offsets."""
    _gradients(lambda *inputs: _deform_conv(*inputs, weight, **kwargs),
               [input, offset], grad_output, [grad_input, grad_offset])


def deform_conv_backward_parameters(input: Tensor, offset: Tensor,
                                    grad_output: Tensor, grad_weight: Tensor,
                                    columns: Tensor, ones: Tensor,
                                    **kwargs) -> None:
    """The gradient of the weight; it does not depend on it."""
    _gradients(lambda weight: _deform_conv(input, offset, weight, **kwargs),
               [grad_weight], grad_output, [grad_weight])


def _modulated(input: Tensor, offset: Tensor, mask: Tensor, weight: Tensor,
               bias: Optional[Tensor] = None, *, stride_h: int, stride_w: int,
               pad_h: int, pad_w: int, dilation_h: int, dilation_w: int,
               **kwargs) -> Tensor:
    return deform_conv2d(input, offset, weight, bias, (stride_h, stride_w),
                         (pad_h, pad_w), (dilation_h, dilation_w), mask)


def modulated_deform_conv_forward(input: Tensor, weight: Tensor, bias: Tensor,
                                  ones: Tensor, offset: Tensor, mask: Tensor,
                                  output: Tensor, columns: Tensor,
                                  with_bias: bool, **kwargs) -> None:
    """See :func:`mmfasternet.ops.deform_conv2d`."""
    output.copy_(
        _modulated(input, offset, mask, weight, bias if with_bias else None,
                   **kwargs))


def modulated_deform_conv_backward(
        input: Tensor, weight: Tensor, bias: Tensor, ones: Tensor,
        offset: Tensor, mask: Tensor, columns: Tensor, grad_input: Tensor,
        grad_weight: Tensor, grad_bias: Tensor, grad_offset: Tensor,
        grad_mask: Tensor, grad_output: Tensor, with_bias: bool,
        **kwargs) -> None:
    """The gradients of everything."""
    inputs = [input, offset, mask, weight]
    targets = [grad_input, grad_offset, grad_mask, grad_weight]
    if with_bias:
        inputs.append(bias)
        targets.append(grad_bias)
    _gradients(lambda *inputs: _modulated(*inputs, **kwargs), inputs,
               grad_output, targets)


def _focal_loss(input: Tensor, target: Tensor, weight: Tensor, gamma: float,
                alpha: float) -> Tensor:
    return sigmoid_focal_loss(input, target, gamma, alpha,
                              weight if weight.numel() else None)


def sigmoid_focal_loss_forward(input: Tensor, target: Tensor, weight: Tensor,
                               output: Tensor, gamma: float,
                               alpha: float) -> None:
    """See :func:`mmfasternet.ops.sigmoid_focal_loss`."""
    output.copy_(_focal_loss(input, target, weight, gamma, alpha))


def sigmoid_focal_loss_backward(input: Tensor, target: Tensor, weight: Tensor,
                                grad_input: Tensor, gamma: float,
                                alpha: float) -> None:
    """The gradient of the sum of the losses."""
    _gradients(lambda x: _focal_loss(x, target, weight, gamma, alpha),
               [input], torch.ones_like(input), [grad_input])
