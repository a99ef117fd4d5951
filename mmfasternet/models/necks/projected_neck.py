# SPDX-License-Identifier: Apache-2.0
"""A neck behind 1x1 convolutions, for backbones of other widths."""
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
            are those of the input there is no convolution.
        init_cfg (dict | list[dict], optional): Initialisation. Defaults to
            None.
    """

    def __init__(self,
                 neck: ConfigType,
                 in_channels: Sequence[int],
                 out_channels: Sequence[int],
                 init_cfg: OptMultiConfig = None) -> None:
        super().__init__(init_cfg)
        self.projections = ModuleList(
            nn.Identity() if a == b else ConvModule(
                a,
                b,
                1,
                norm_cfg=neck.get('norm_cfg', dict(type='BN')),
                act_cfg=neck.get('act_cfg', dict(type='ReLU')))
            for a, b in zip(in_channels, out_channels))
        self.neck = MODELS.build(neck)

    def forward(self, inputs: Sequence[Tensor]) -> Tuple[Tensor, ...]:
        """Maps ``(N, in_channels[i], H_i, W_i)`` to those of the neck."""
        return self.neck([
            project(x) for project, x in zip(self.projections, inputs)
        ])
