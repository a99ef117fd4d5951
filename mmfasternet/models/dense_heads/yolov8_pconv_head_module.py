# SPDX-License-Identifier: GPL-3.0-only
# GPL because it extends a class of mmyolo, which is GPL-3.0.
"""YOLOv8's head with a partial convolution in the classification branch."""
from mmcv.cnn import ConvModule
from torch import nn

from mmfasternet.models.backbones.fasternet_layers import PartialConv
from mmfasternet.registry import MODELS

from .yolov8_head_module import YOLOv8HeadModule


@MODELS.register_module()
class YOLOv8PConvHeadModule(YOLOv8HeadModule):
    """YOLOv8's head whose classification branch costs less.

    The head is a third of the multiply-accumulates of the small models, and
    more than half of that is classification, the easier of its two tasks.
    Here the second of its two 3x3 convolutions per level is what FasterNet
    makes of one: a PConv and a 1x1 convolution, ``n_div**-2 + 1/9`` of the
    multiply-accumulates (0.17 at ``n_div=4``). The other branch is YOLOv8's.
    docs/en/comparison.md has what it costs in accuracy.

    Args:
        num_classes (int): Number of classes.
        in_channels (Sequence[int]): Channels of the three inputs before
            scaling by ``widen_factor``.
        n_div (int): Inverse of the partial ratio. Defaults to 4, as in the
            backbone.
        **kwargs: See :class:`.YOLOv8HeadModule`.
    """

    def __init__(self, *args, n_div: int = 4, **kwargs) -> None:
        self.n_div = n_div
        super().__init__(*args, **kwargs)

    def _init_layers(self) -> None:
        super()._init_layers()
        for layers in self.cls_preds:
            channels = layers[1].out_channels
            layers[1] = nn.Sequential(
                PartialConv(channels, self.n_div),
                ConvModule(
                    channels,
                    channels,
                    1,
                    norm_cfg=self.norm_cfg,
                    act_cfg=self.act_cfg))
