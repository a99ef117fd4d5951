# SPDX-License-Identifier: GPL-3.0-only
# GPL because it extends a class of mmyolo, which is GPL-3.0.
"""YOLOv8's head with partial convolutions in its branches."""
from typing import Sequence

from mmcv.cnn import ConvModule
from torch import nn

from mmfasternet.models.backbones.fasternet_layers import PartialConv
from mmfasternet.registry import MODELS

from .yolov8_head_module import YOLOv8HeadModule


@MODELS.register_module()
class YOLOv8PConvHeadModule(YOLOv8HeadModule):
    """YOLOv8's head with partial convolutions where it has 3x3 ones.

    The head is a third of the multiply-accumulates of the small models, and
    the larger part of it is the classification branch, of two 3x3
    convolutions per level, as the branch of the boxes. Those named here become
    what FasterNet makes of one: a PConv and a 1x1 convolution, ``n_div**-2 +
    1/9`` of the multiply-accumulates (0.17 at ``n_div=4``) where the channels
    stay. docs/en/lite.md has what each branch costs in accuracy.

    Args:
        num_classes (int): Number of classes.
        in_channels (Sequence[int]): Channels of the three inputs before
            scaling by ``widen_factor``.
        n_div (int): Inverse of the partial ratio. Defaults to 4, as in the
            backbone.
        cls_convs (Sequence[int]): Which of the convolutions 0 and 1 of the
            classification branch are partial. Defaults to ``(1, )``; the
            configs ``yolov8_fasternet_lite_*`` have both.
        reg_convs (Sequence[int]): Likewise of the branch of the boxes.
            Defaults to none; the configs have both, for a detector with a
            teacher.
        **kwargs: See :class:`.YOLOv8HeadModule`.

    Raises:
        ValueError: If a convolution other than 0 and 1 is named.
    """

    def __init__(self,
                 *args,
                 n_div: int = 4,
                 cls_convs: Sequence[int] = (1, ),
                 reg_convs: Sequence[int] = (),
                 **kwargs) -> None:
        for name, convs in dict(
                cls_convs=cls_convs, reg_convs=reg_convs).items():
            if not {0, 1}.issuperset(convs):
                raise ValueError(
                    f'bbox_head.head_module.{name} names convolutions of a '
                    f'branch, 0 and 1, got {tuple(convs)}')
        self.n_div = n_div
        self.cls_convs, self.reg_convs = tuple(cls_convs), tuple(reg_convs)
        super().__init__(*args, **kwargs)

    def _init_layers(self) -> None:
        super()._init_layers()
        for branches, convs in ((self.cls_preds, self.cls_convs),
                                (self.reg_preds, self.reg_convs)):
            for layers in branches:
                for i in convs:
                    layers[i] = self._partial(layers[i].in_channels,
                                              layers[i].out_channels)

    def _partial(self, in_channels: int, out_channels: int) -> nn.Sequential:
        return nn.Sequential(
            PartialConv(in_channels, self.n_div),
            ConvModule(
                in_channels,
                out_channels,
                1,
                norm_cfg=self.norm_cfg,
                act_cfg=self.act_cfg))
