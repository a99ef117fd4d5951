# SPDX-License-Identifier: Apache-2.0
"""RoIAlign: features of equal size from boxes of any size."""
from typing import Tuple

import torch
from torch import Tensor
from torch.nn import functional as F

from . import torchvision_ops


def roi_align(features: Tensor,
              rois: Tensor,
              output_size: Tuple[int, int],
              spatial_scale: float = 1.,
              sampling_ratio: int = 0,
              aligned: bool = True) -> Tensor:
    """Average features over a grid of bins in each box.

    Args:
        features (Tensor): Features of shape (N, C, H, W).
        rois (Tensor): Boxes ``(image, x1, y1, x2, y2)`` in pixels of the
            image, of shape (K, 5).
        output_size (tuple[int, int]): Bins ``(height, width)`` of each box.
        spatial_scale (float): Pixels of the features in one of the image.
            Defaults to 1.0.
        sampling_ratio (int): Samples in a bin and direction; 0 for as many
            as the bin is pixels of the features wide. Defaults to 0.
        aligned (bool): Whether pixel 0 has its centre at 0.5, and boxes may
            be smaller than a pixel. Defaults to True.

    Returns:
        Tensor: Of shape (K, C, height, width), differentiable with respect to
        the features.
    """
    if torchvision_ops.OPS is not None:
        return torchvision_ops.OPS.roi_align(
            features, rois, output_size, spatial_scale, sampling_ratio,
            aligned)
    number, channels, height, width = features.shape
    # a bin is a weighted sum of rows of this table
    table = features.permute(0, 2, 3, 1).reshape(-1, channels)
    start = rois[:, 1:3] * spatial_scale - 0.5 * aligned  # (K, 2), as (x, y)
    size = rois[:, 3:5] * spatial_scale - 0.5 * aligned - start
    if not aligned:
        size = size.clamp(min=1.)
    bins = size / size.new_tensor(output_size[::-1])
    counts = (
        torch.full_like(bins, sampling_ratio)
        if sampling_ratio > 0 else bins.ceil()).long()
    output = table.new_zeros(len(rois), output_size[0] * output_size[1],
                             channels)
    for count in counts.unique(dim=0):
        columns, rows = count.tolist()
        if columns < 1 or rows < 1:
            continue  # an empty box
        chosen = (counts == count).all(1).nonzero().flatten()
        x, y = (
            _samples(start[chosen, i], bins[chosen, i], bins_, samples, limit)
            for i, bins_, samples, limit in (
                (0, output_size[1], columns, width),
                (1, output_size[0], rows, height)))
        index, weight = _cross(y, x, width)
        index += rois[chosen, :1, None].long() * (height * width)
        weight = weight / (columns * rows)
        output = output.index_put(
            (chosen, ),
            F.embedding_bag(
                index.flatten(0, 1),
                table,
                mode='sum',
                per_sample_weights=weight.flatten(0, 1).to(table.dtype),
            ).unflatten(0, index.shape[:2]))
    return output.transpose(1, 2).unflatten(2, output_size)


def _samples(start: Tensor, size: Tensor, bins: int, samples: int,
             limit: int) -> Tuple[Tensor, Tensor]:
    """Pixels and weights of the linear interpolation along one direction.

    Args:
        start (Tensor): Where each box begins, of shape (K, ).
        size (Tensor): Size of its bins, of shape (K, ).
        bins (int): Their number.
        samples (int): Samples in each.
        limit (int): Pixels in this direction.

    Returns:
        tuple[Tensor, Tensor]: Each of shape (K, bins, 2 * samples).
    """
    steps = torch.arange(bins, device=start.device).float()
    within = torch.arange(samples, device=start.device).add(0.5) / samples
    place = (
        start[:, None, None] + size[:, None, None] *
        (steps[:, None] + within))
    inside = (place >= -1) & (place <= limit)
    place = place.clamp(0, limit - 1)
    low = place.long()
    part = place - low
    pixels = torch.cat([low, (low + 1).clamp(max=limit - 1)], -1)
    return pixels, torch.cat([(1 - part) * inside, part * inside], -1)


def _cross(y: Tuple[Tensor, Tensor], x: Tuple[Tensor, Tensor],
           width: int) -> Tuple[Tensor, Tensor]:
    """Index and weight of each pixel of each bin, of shape (K, bins, n)."""
    index = (y[0] * width)[:, :, None, :, None] + x[0][:, None, :, None, :]
    weight = y[1][:, :, None, :, None] * x[1][:, None, :, None, :]
    return index.flatten(3).flatten(1, 2), weight.flatten(3).flatten(1, 2)
