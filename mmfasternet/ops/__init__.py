# SPDX-License-Identifier: Apache-2.0
"""The operators of mmcv that detectors need, without a compiler.

mmcv's own operators are compiled C++ and CUDA. Where they are there, they are
used and nothing of this package is. Where they are not,
:mod:`mmfasternet.compat.mmcv_ops` puts :mod:`mmfasternet.ops.extension` in
their place, and ``mmcv.ops`` computes with the functions of this package: by
torchvision where it is installed, else with PyTorch alone, on the CPU and on
any other device that PyTorch has.
"""
from .deform_conv import deform_conv2d
from .focal_loss import sigmoid_focal_loss
from .nms import nms, soft_nms
from .roi_align import roi_align

__all__ = [
    'deform_conv2d', 'nms', 'roi_align', 'sigmoid_focal_loss', 'soft_nms'
]
