# SPDX-License-Identifier: GPL-3.0-only
# GPL because it extends a class of mmyolo, which is GPL-3.0.
"""The YOLOv8 neck for backbones that are not CSPDarknet."""
from typing import Sequence

from mmcv.cnn import ConvModule
from mmdet.utils import ConfigType, OptMultiConfig
from mmengine.model import ModuleList
from mmyolo.models.layers import CSPLayerWithTwoConv, SPPFBottleneck
from mmyolo.models.necks import YOLOv8PAFPN
from mmyolo.models.utils import make_divisible, make_round
from torch import Tensor, nn

from mmfasternet.models.backbones.fasternet_layers import FasterNetBlock
from mmfasternet.registry import MODELS


@MODELS.register_module()
class YOLOv8SPPFPAFPN(YOLOv8PAFPN):
    """YOLOv8's path aggregation network with SPPF and free input widths.

    mmyolo's ``YOLOv8PAFPN`` needs inputs as wide as its outputs, and leaves
    SPPF to CSPDarknet. Here P3 and P4 enter as the backbone gives them and P5
    through SPPF, which brings it to ``out_channels[-1] * widen_factor``
    channels; everything after is YOLOv8's.

    Args:
        in_channels (Sequence[int]): Channels of the backbone's outputs as
            they are, P3 to P5; ``widen_factor`` does not scale them.
        out_channels (Sequence[int]): Channels of the three outputs before
            scaling by ``widen_factor``, as in YOLOv8. Defaults to
            ``(256, 512, 1024)``.
        deepen_factor (float): Depth multiplier. Defaults to 1.0.
        widen_factor (float): Width multiplier. Defaults to 1.0.
        num_csp_blocks (int): Bottlenecks per C2f layer before scaling.
            Defaults to 3.
        sppf_kernel_size (int): Pooling size of SPPF. Defaults to 5.
        fasternet_blocks (bool): Whether the C2f layers have FasterNet's
            blocks where YOLOv8 has bottlenecks of two 3x3 convolutions, 0.25
            of their multiply-accumulates. Defaults to False.
        freeze_all (bool): Freeze the whole neck. Defaults to False.
        norm_cfg (dict): Config of the normalisation. Defaults to YOLOv8's.
        act_cfg (dict): Config of the activation. Defaults to YOLOv8's.
        init_cfg (dict | list[dict], optional): Initialisation. Defaults to
            None, PyTorch's own, as in YOLOv8.

    Raises:
        ValueError: If there are not three inputs and three outputs.
    """

    takes_any_channels = True  # as those of mmyolo do not

    def __init__(self,
                 in_channels: Sequence[int],
                 out_channels: Sequence[int] = (256, 512, 1024),
                 deepen_factor: float = 1.0,
                 widen_factor: float = 1.0,
                 num_csp_blocks: int = 3,
                 sppf_kernel_size: int = 5,
                 fasternet_blocks: bool = False,
                 freeze_all: bool = False,
                 norm_cfg: ConfigType = dict(
                     type='BN', momentum=0.03, eps=0.001),
                 act_cfg: ConfigType = dict(type='SiLU', inplace=True),
                 init_cfg: OptMultiConfig = None) -> None:
        for name, widths in (('in_channels', in_channels), ('out_channels',
                                                            out_channels)):
            if len(widths) != 3:
                raise ValueError(
                    f'model.neck.{name} must have three entries, for P3, P4 '
                    f'and P5 (strides 8, 16, 32), got {tuple(widths)}')
        self.sppf_kernel_size = sppf_kernel_size
        self.fasternet_blocks = fasternet_blocks
        super().__init__(
            in_channels=list(in_channels),
            out_channels=list(out_channels),
            deepen_factor=deepen_factor,
            widen_factor=widen_factor,
            num_csp_blocks=num_csp_blocks,
            freeze_all=freeze_all,
            norm_cfg=norm_cfg,
            act_cfg=act_cfg,
            init_cfg=init_cfg)

    def _width(self, idx: int) -> int:
        return make_divisible(self.out_channels[idx], self.widen_factor)

    def _c2f(self, in_channels: int, out_channels: int) -> nn.Module:
        layer = CSPLayerWithTwoConv(
            in_channels,
            out_channels,
            num_blocks=make_round(self.num_csp_blocks, self.deepen_factor),
            add_identity=False,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg)
        if self.fasternet_blocks:
            # the paper's partial ratio and expansion
            layer.blocks = ModuleList(
                FasterNetBlock(
                    layer.mid_channels,
                    n_div=4,
                    mlp_ratio=2.,
                    drop_path=0.,
                    layer_scale_init_value=0.,
                    norm_cfg=self.norm_cfg,
                    act_cfg=self.act_cfg) for _ in layer.blocks)
        return layer

    def build_reduce_layer(self, idx: int) -> nn.Module:
        """SPPF for P5; P3 and P4 pass unchanged."""
        if idx < len(self.in_channels) - 1:
            return nn.Identity()
        return SPPFBottleneck(
            self.in_channels[idx],
            self._width(idx),
            kernel_sizes=self.sppf_kernel_size,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg)

    def build_top_down_layer(self, idx: int) -> nn.Module:
        """C2f over the upsampled level ``idx`` and the input below it."""
        return self._c2f(
            self._width(idx) + self.in_channels[idx - 1],
            self._width(idx - 1))

    def build_downsample_layer(self, idx: int) -> nn.Module:
        """Strided 3x3 convolution of level ``idx``."""
        return ConvModule(
            self._width(idx),
            self._width(idx),
            kernel_size=3,
            stride=2,
            padding=1,
            norm_cfg=self.norm_cfg,
            act_cfg=self.act_cfg)

    def build_bottom_up_layer(self, idx: int) -> nn.Module:
        """C2f over the downsampled level ``idx`` and the one above it."""
        return self._c2f(
            self._width(idx) + self._width(idx + 1), self._width(idx + 1))

    def train(self, mode: bool = True) -> 'YOLOv8SPPFPAFPN':
        """Set the mode; unlike mmyolo's, returns self."""
        super().train(mode)
        return self

    def forward(self, inputs: Sequence[Tensor]) -> tuple:
        """Fuse ``(P3, P4, P5)``.

        Args:
            inputs (Sequence[Tensor]): ``(N, in_channels[i], H_i, W_i)``;
                each map exactly half as high and wide as the one before.

        Returns:
            tuple[Tensor]: Three maps of the same heights and widths with
            ``out_channels[i] * widen_factor`` channels.

        Raises:
            ValueError: If the maps do not halve, because the image size is no
                multiple of 32.
        """
        sizes = [tuple(x.shape[-2:]) for x in inputs]
        for low, high in zip(sizes, sizes[1:]):
            if low != (2 * high[0], 2 * high[1]):
                raise ValueError(
                    'the neck needs feature maps that halve from level to '
                    f'level, got {sizes} (height, width): pad the images to a '
                    'multiple of 32, e.g. LetterResize to such a size or '
                    'model.data_preprocessor.pad_size_divisor=32')
        return super().forward(inputs)
