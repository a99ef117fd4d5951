# SPDX-License-Identifier: Apache-2.0
"""A neck behind 1x1 convolutions, for backbones of other widths."""
from functools import partial
from typing import Sequence, Tuple

from mmcv.cnn import ConvModule
from mmdet.utils import ConfigType, OptMultiConfig
from mmengine.model import BaseModule, ModuleList
from torch import Tensor, nn

from mmfasternet.registry import MODELS


@MODELS.register_module()
class ProjectedNeck(BaseModule):
    """Any neck, with a 1x1 convolution before each input that has its width
    from another backbone.

    Args:
        neck (dict): Config of the neck.
        in_channels (Sequence[int]): Channels of the inputs.
        out_channels (Sequence[int]): Channels that the neck takes. Where they
            are those of the input there is no convolution. More of them than
            inputs are maps of half the size each, by strided 3x3
            convolutions, as P6 detectors need them.
        init_cfg (dict | list[dict], optional): Initialisation. Defaults to
            None.
    """

    def __init__(self,
                 neck: ConfigType,
                 in_channels: Sequence[int],
                 out_channels: Sequence[int],
                 init_cfg: OptMultiConfig = None) -> None:
        super().__init__(init_cfg)
        layer = partial(
            ConvModule,
            norm_cfg=neck.get('norm_cfg', dict(type='BN')),
            act_cfg=neck.get('act_cfg', dict(type='ReLU')))
        count = len(in_channels)
        self.projections = ModuleList(
            nn.Identity() if a == b else layer(a, b, 1)
            for a, b in zip(in_channels, out_channels))
        self.extra = ModuleList(
            layer(a, b, 3, stride=2, padding=1)
            for a, b in zip(out_channels[count - 1:], out_channels[count:]))
        self.neck = MODELS.build(neck)

    def forward(self, inputs: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """Maps ``(N, in_channels[i], H_i, W_i)`` to those of the neck."""
        maps = [layer(x) for layer, x in zip(self.projections, inputs)]
        for layer in self.extra:
            maps.append(layer(maps[-1]))
        return self.neck(maps)
