# SPDX-License-Identifier: GPL-3.0-only
# GPL because it extends a class of mmyolo, which is GPL-3.0.
"""YOLOv8's head whose boxes begin at a size that every level can match."""
from typing import Optional

import torch
from mmyolo.models.dense_heads import YOLOv8HeadModule as _YOLOv8HeadModule
from torch import Tensor

from mmfasternet.registry import MODELS


@MODELS.register_module()
class YOLOv8HeadModule(_YOLOv8HeadModule):
    """mmyolo's ``YOLOv8HeadModule`` with a choice of the initial distances.

    The box branch predicts, for each side, a distribution over the distances
    0 to ``reg_max - 1`` strides. mmyolo, as Ultralytics, starts it uniform:
    boxes of 15 strides, 480 px at stride 32. The task-aligned assigner
    weighs a candidate by the sixth power of its overlap, so that a level
    whose first boxes are larger than all objects gets none, has no gradient,
    and never learns. At 320 px that is the fate of stride 32.

    Here it starts as the distribution of largest entropy with a given mean,
    which is geometric: bin ``k`` has the bias ``1 - rate * k``. Layers, state
    dict and what a trained head computes are mmyolo's.

    Args:
        *args: See mmyolo's ``YOLOv8HeadModule``.
        initial_distance (float, optional): Mean distance from a prior to the
            sides of its box, in strides, before training. Defaults to 2.5, a
            box of 5 strides: 40, 80 and 160 px on the three levels, the
            middle of what each of them has to find.
            docs/en/comparison.md has others, measured. None, or
            ``(reg_max - 1) / 2``, is mmyolo's own.
        **kwargs: See mmyolo's ``YOLOv8HeadModule``.

    Raises:
        ValueError: If the distance is not between 0 and ``reg_max - 1``.
    """

    def __init__(self,
                 *args,
                 initial_distance: Optional[float] = 2.5,
                 **kwargs) -> None:
        super().__init__(*args, **kwargs)
        if initial_distance is not None and self.reg_max > 1 and not (
                0 < initial_distance < self.reg_max - 1):
            raise ValueError(
                'bbox_head.head_module.initial_distance must be between 0 '
                f'and reg_max - 1 = {self.reg_max - 1} strides, or None for '
                f"YOLOv8's own, got {initial_distance}")
        self.initial_distance = initial_distance

    def init_weights(self, prior_prob: float = 0.01) -> None:
        """Initialise as mmyolo does, then the biases of the distances.

        Args:
            prior_prob (float): As mmyolo's, which does not use it.
        """
        super().init_weights(prior_prob)
        if self.initial_distance is None or self.reg_max == 1:
            return
        logits = geometric_logits(self.reg_max, self.initial_distance)
        for layers in self.reg_preds:
            layers[-1].bias.data.view(4, self.reg_max).copy_(1 + logits)


def geometric_logits(size: int, mean: float) -> Tensor:
    """Logits ``-rate * k`` whose softmax over ``k < size`` has a given mean.

    Args:
        size (int): Number of bins.
        mean (float): Between 0 and ``size - 1``, both excluded.

    Returns:
        Tensor: float64, ``(size, )``; the first is 0.

    Example:
        >>> logits = geometric_logits(16, 2.5)
        >>> round(-logits[1].item(), 3)
        0.327
    """
    bins = torch.arange(size, dtype=torch.float64)
    # the mean falls as the rate grows: bisect; beyond 50 it is an end
    low, high = -50., 50.
    for _ in range(100):
        rate = (low + high) / 2
        if (-rate * bins).softmax(0) @ bins > mean:
            low = rate
        else:
            high = rate
    return -rate * bins
